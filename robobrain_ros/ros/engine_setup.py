"""Prepare the engine from the parameters: complete the options, and check them as far as possible without loading a model."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from robobrain_ros.bounds.files import home_expanded
from robobrain_ros.core.grids import GridMode
from robobrain_ros.core.profiles import AUTO, check_origin
from robobrain_ros.engine.base import ModelOrigin
from robobrain_ros.engine.factory import make_engine, make_front
from robobrain_ros.engine.http.front import HttpFront
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.engine.presets import can_think
from robobrain_ros.errors import EngineConfigError
from robobrain_ros.ros.cameras.opening import check_histories
from robobrain_ros.ros.model import EngineFactory, ModelSettings
from robobrain_ros.ros.parameters.declared import Parameters

NAME_A_MODEL = (
    "To load RoboBrain, set the model: ros2 launch robobrain_ros robobrain.launch.py model:=BAAI/RoboBrain2.0-7B (a name on the "
    "hub or a folder with a checkpoint). Without launch: --ros-args -p engine.model:=BAAI/RoboBrain2.0-7B."
)


@dataclass(frozen=True)
class EngineSetup:
    """Everything that is needed to load the model.

    :param factory: creates the engine.
    :param front: HTTP server of the engine, or None if disabled.
    """

    factory: EngineFactory
    front: HttpFront | None
    settings: ModelSettings


def set_up_engine(
    parameters: Parameters,
    default_model: Path | None,
    read: Callable[[Callable[[], Any], str], Any],
    warn: Callable[[str], object],
    factory: EngineFactory | None = None,
) -> EngineSetup:
    """Prepare the engine that the parameters describe.

    :param default_model: see `checked_options`.
    :param warn: see `checked_options`.
    :param read: calls a function that reads files. Its second argument describes the function in messages.
    :param factory: creates another engine, for tests. None means the engine that the parameters select.
    :raises EngineConfigError: a parameter is wrong, or no model is named and there is no default.
    """
    check_histories(parameters)
    options, front, settle = _with_video(parameters.engine_options(), parameters), None, factory is None
    if factory is None:
        check = partial(checked_options, options, default_model, warn, parameters["model_profile"])
        options = read(check, "Checking the files of the engine's parameters")
        make = partial(make_front, parameters.server_options(), options)
        front = read(make, "Checking the files of the HTTP server's parameters")
        factory = partial(make_engine, options, front, partial(check_origin, chosen=parameters["model_profile"]))
    thinks, profile = parameters["model_can_think"], parameters["model_profile"]
    known = can_think(options.model) if profile == AUTO else None  # With another profile, the name does not tell it.
    settings = ModelSettings(
        name=options.model,
        max_pixels=options.max_pixels,
        max_queued=parameters["max_queued"],
        max_running=options.max_num_seqs,
        warm_up=parameters["warm_up"],
        can_think=known if thinks == "auto" else thinks == "yes",
        profile=profile,
        grid_check=GridMode(parameters["grid_check"]),
        settle=settle,
    )
    return EngineSetup(factory, front, settings)


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
        check_origin(ModelOrigin((options.model,)), profile)
        return options
    if not options.model:
        if default_model is None or not (default_model / "config.json").is_file():
            raise EngineConfigError(f"engine.model is empty. {NAME_A_MODEL}")
        warn(f"engine.model is empty: loading the tabletop demo model, which knows only the demo's objects. {NAME_A_MODEL}")
        options = replace(options, model=str(default_model))
    options.validate()
    folder = home_expanded(options.model)
    in_folder = os.path.isfile(folder / "config.json")  # Unlike Path.is_file, false if the name cannot be read.
    check_origin(ModelOrigin((options.model,), folder if in_folder else None), profile)
    return options
