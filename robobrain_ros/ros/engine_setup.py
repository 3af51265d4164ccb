"""Prepare the engine from the parameters: complete the options, and check them as far as possible without loading a model."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from robobrain_ros.bounds.files import home_expanded
from robobrain_ros.core.grids import GridMode
from robobrain_ros.core.profiles import AUTO, check_origin, possible_profiles
from robobrain_ros.core.query import Task
from robobrain_ros.engine.base import ModelOrigin
from robobrain_ros.engine.factory import make_engine, make_front
from robobrain_ros.engine.http.front import HttpFront
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.engine.presets import can_think
from robobrain_ros.errors import EngineConfigError
from robobrain_ros.ros.cameras.opening import check_histories
from robobrain_ros.ros.model import EngineFactory, ModelSettings
from robobrain_ros.ros.parameters.declared import Parameters
from robobrain_ros.ros.parameters.task_models import prefix_of

ReadFiles = Callable[[Callable[[], Any], str], Any]

NAME_A_MODEL = (
    "To load RoboBrain, set the model: ros2 launch robobrain_ros robobrain.launch.py model:=BAAI/RoboBrain2.0-7B (a name on the "
    "hub or a folder with a checkpoint). Without launch: --ros-args -p engine.model:=BAAI/RoboBrain2.0-7B."
)


@dataclass(frozen=True)
class EngineSetup:
    """Everything that is needed to load a model.

    :param factory: creates the engine.
    :param front: HTTP server of the engine, or None if disabled.
    :param name: name of a model for single tasks; empty for the main model.
    """

    factory: EngineFactory
    front: HttpFront | None
    settings: ModelSettings
    name: str = ""


def set_up_engines(
    parameters: Parameters,
    default_model: Path | None,
    read: ReadFiles,
    warn: Callable[[str], object],
    factory: EngineFactory | None = None,
) -> list[EngineSetup]:
    """Prepare the engine of the main model, and those of the models for single tasks.

    :param default_model: see `checked_options`.
    :param warn: see `checked_options`.
    :param read: calls a function that reads files. Its second argument describes the function in messages.
    :param factory: creates another engine for the main model, for tests. None means the engine that the parameters select.
    :raises EngineConfigError: a parameter is wrong, or no model is named and there is no default.
    """
    check_histories(parameters)
    options, front, settle = _with_video(parameters.engine_options(), parameters), None, factory is None
    elsewhere = frozenset(task for tasks in parameters.task_models().values() for task in tasks)
    if factory is None:
        check = partial(checked_options, options, default_model, warn, parameters["model_profile"])
        options = read(check, "Checking the files of the engine's parameters")
        make = partial(make_front, parameters.server_options(), options)
        front = read(make, "Checking the files of the HTTP server's parameters")
        factory = partial(make_engine, options, front, partial(check_origin, chosen=parameters["model_profile"]))
    settings = _settings(parameters, options, settle=settle, tasks=frozenset(Task) - elsewhere)
    return [EngineSetup(factory, front, settings), *_set_up_task_models(parameters, read)]


def _set_up_task_models(parameters: Parameters, read: ReadFiles) -> list[EngineSetup]:
    """Prepare the engines of the models for single tasks.

    :param read: see `set_up_engines`.
    :raises EngineConfigError: a parameter is wrong. The message contains the name of the model.
    """
    setups = []
    for name, tasks in parameters.task_models().items():
        prefix = prefix_of(name)
        try:
            options = _with_video(parameters.engine_options(prefix), parameters)
            if not options.model and options.kind != "remote":
                raise EngineConfigError("engine.model is empty. Set it to a checkpoint.")
            profile = parameters[f"{prefix}model_profile"]
            check = partial(_checked_task_model, options, profile, tasks)
            options = read(check, f"Checking the files of the parameters {prefix}*")
        except EngineConfigError as error:
            raise EngineConfigError(f"Parameters {prefix}*: {error.message}") from error
        settings = _settings(parameters, options, prefix, tasks=tasks)
        factory = partial(make_engine, options, None, partial(check_origin, chosen=profile))
        setups.append(EngineSetup(factory, None, settings, name))
    _check_memory_shares(parameters, list(parameters.task_models()))
    return setups


def _settings(
    parameters: Parameters, options: EngineOptions, prefix: str = "", *, tasks: frozenset[Task], settle: bool = False
) -> ModelSettings:
    thinks, profile = parameters[f"{prefix}model_can_think"], parameters[f"{prefix}model_profile"]
    known = can_think(options.model) if profile == AUTO else None  # With another profile, the name does not tell it.
    return ModelSettings(
        name=options.model,
        max_pixels=options.max_pixels,
        max_queued=parameters["max_queued"],
        max_running=options.max_num_seqs,
        warm_up=parameters["warm_up"],
        can_think=known if thinks == "auto" else thinks == "yes",
        profile=profile,
        grid_check=GridMode(parameters["grid_check"]) if any(task.spatial for task in tasks) else GridMode.OFF,
        settle=settle,
        tasks=tasks,
    )


def _check_memory_shares(parameters: Parameters, models: list[str]) -> None:
    """Check that the embedded engines do not need more than the memory of the GPU together.

    :raises EngineConfigError: the sum of their shares exceeds 1.
    """
    shares = {}
    for prefix in ("", *map(prefix_of, models)):
        options = parameters.engine_options(prefix)
        if options.kind == "embedded":
            shares[f"{prefix}engine.gpu_memory_utilization"] = options.embedded.gpu_memory_utilization
    total = sum(shares.values())
    if total > 1.0 + 1e-9 and len(shares) > 1:
        listed = ", ".join(f"{name} is {value:g}" for name, value in shares.items())
        raise EngineConfigError(
            f"The embedded engines share the memory of the GPU, but their shares add up to {total:g}: {listed}. Set them so that "
            "their sum is at most 1."
        )


def _checked_task_model(options: EngineOptions, profile: str, tasks: frozenset[Task]) -> EngineOptions:
    """Return the options of a model for single tasks, checked.

    :raises EngineConfigError: see `checked_options`, or the family of the model has no prompt for one of the tasks.
    """
    options = checked_options(options, None, _ignore, profile)
    known = possible_profiles(_origin(options), profile)
    missing = tasks - {task for each in known for task in each.tasks}
    if known and missing:
        raise EngineConfigError(
            f"tasks contains {_listed(missing)}, for which {known[0].family} has no prompt. "
            f"It supports {_listed(known[0].tasks)}."
        )
    return options


def _listed(tasks: frozenset[Task]) -> str:
    return ", ".join(sorted(task.value for task in tasks))


def _origin(options: EngineOptions) -> ModelOrigin:
    """Return the name of a model, and its folder if it is one. The model need not be loaded."""
    folder = home_expanded(options.model)
    # Unlike Path.is_file, os.path.isfile is false if the name cannot be read.
    in_folder = options.kind != "remote" and os.path.isfile(folder / "config.json")
    return ModelOrigin((options.model,), folder if in_folder else None)


def _ignore(warning: str) -> None:
    """Ignore a warning about the default model, which task models do not have."""


def _with_video(options: EngineOptions, parameters: Parameters) -> EngineOptions:
    """Return the options with the value of ``engine.video`` that ``auto`` stands for."""
    if options.embedded.video != "auto":
        return options
    has_history = any(parameters[f"{name}.history_frames"] for name in parameters["cameras"])
    return replace(options, embedded=replace(options.embedded, video="yes" if has_history else "no"))


def checked_options(
    options: EngineOptions, default_model: Path | None, warn: Callable[[str], object], profile: str = AUTO
) -> EngineOptions:
    """Return the options with a model, checked.

    :param default_model: checkpoint to load if ``engine.model`` is empty, or None if the option must be set.
    :param warn: called with a sentence when the default model is used.
    :param profile: name of the model profile, or `AUTO` to identify the model.
    :raises EngineConfigError: an option is wrong, no model is named and there is no default, or the family is contradictory.
    """
    if options.kind == "remote":
        options.validate()
        check_origin(_origin(options), profile)
        return options
    if not options.model:
        if default_model is None or not (default_model / "config.json").is_file():
            raise EngineConfigError(f"engine.model is empty. {NAME_A_MODEL}")
        warn(f"engine.model is empty: loading the tabletop demo model, which knows only the demo's objects. {NAME_A_MODEL}")
        options = replace(options, model=str(default_model))
    options.validate()
    check_origin(_origin(options), profile)
    return options
