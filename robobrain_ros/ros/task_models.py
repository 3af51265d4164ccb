"""Read the parameter ``task_models``: other engines that serve some of the tasks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import yaml

from robobrain_ros.bounds.texts import shortened
from robobrain_ros.core.profiles import AUTO, check_origin
from robobrain_ros.core.query import Task
from robobrain_ros.engine.base import Engine
from robobrain_ros.engine.factory import make_engine
from robobrain_ros.engine.options import EngineOptions, option_fields
from robobrain_ros.engine.presets import can_think, resolve_options
from robobrain_ros.errors import EngineConfigError

MOST_MODELS = 4
"""Maximum number of entries."""
_LONGEST_ENTRY = 2000
_SHOWN = 80
_PROFILE = "model_profile"
_SHARE = "gpu_memory_utilization"


@dataclass(frozen=True)
class TaskModel:
    """A model that serves some tasks.

    :param tasks: the tasks, at least one.
    :param options: options of its engine, not validated.
    :param profile: see ``model_profile``.
    """

    tasks: tuple[Task, ...]
    options: EngineOptions
    profile: str = AUTO

    @property
    def name(self) -> str:
        """The tasks as text, such as "ask, plan"."""
        return ", ".join(task.value for task in self.tasks)

    @property
    def thinks(self) -> bool | None:
        """Whether the model was trained to think. None: its profile decides."""
        return can_think(self.options.model) if self.profile == AUTO else None

    def factory(self) -> Callable[[], Engine]:
        """Return a function that creates the engine."""
        return partial(make_engine, self.options, None, partial(check_origin, chosen=self.profile))


def read_task_models(entries: Sequence[str], main: EngineOptions) -> tuple[TaskModel, ...]:
    """Read the entries of ``task_models``.

    :param entries: YAML such as ``ask, plan: {kind: remote, urls: [http://gpu:9010/v1], model_profile: qwen3-vl}``. The options
        are those of ``engine.*`` and ``flagos.*``, with their defaults.
    :param main: options of the engine for the other tasks.
    :raises EngineConfigError: an entry is wrong, two entries have one task, or embedded engines use more than the GPU's memory.
    """
    if len(entries) > MOST_MODELS:
        raise EngineConfigError(f"task_models has {len(entries)} entries. At most {MOST_MODELS} are allowed.")
    models = tuple(map(_read, entries))
    tasks = [task for model in models for task in model.tasks]
    if twice := next((task for task in tasks if tasks.count(task) > 1), None):
        raise EngineConfigError(f"task_models has the task {twice.value} twice. Name each task once.")
    embedded = [model.options for model in models if model.options.kind == "embedded"]
    if embedded and main.kind == "embedded":
        embedded.append(main)
    shares = [options.embedded.gpu_memory_utilization for options in embedded]
    if len(shares) > 1 and sum(shares) > 1.0:
        raise EngineConfigError(
            f"The embedded engines of task_models and engine.{_SHARE} use {sum(shares):.2f} of the GPU's memory. Reduce "
            f"{_SHARE}, so that the sum is at most 1."
        )
    return models


def _read(entry: str) -> TaskModel:
    shown = shortened(repr(entry), _SHOWN)
    where = f"The entry {shown} of task_models"
    if len(entry) > _LONGEST_ENTRY:
        raise EngineConfigError(f"{where} is longer than {_LONGEST_ENTRY} characters.")
    try:
        content = yaml.safe_load(entry)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise EngineConfigError(f"{where} is not YAML. Write TASK, TASK: {{OPTION: VALUE}}.") from error
    if not isinstance(content, dict) or len(content) != 1 or not isinstance(next(iter(content.values())), dict):
        raise EngineConfigError(f"{where} does not have the form TASK, TASK: {{OPTION: VALUE}}.")
    names, values = next(iter(content.items()))
    tasks = tuple(dict.fromkeys(_task(name.strip(), where) for name in str(names).split(",")))
    return _model(tasks, {str(name): value for name, value in values.items()}, where)


def _task(name: str, where: str) -> Task:
    try:
        return Task(name)
    except ValueError:
        known = ", ".join(task.value for task in Task)
        raise EngineConfigError(f"{where} has the unknown task {name[:_SHOWN]!r}. Known tasks are {known}.") from None


def _model(tasks: tuple[Task, ...], values: dict[str, Any], where: str) -> TaskModel:
    profile = str(values.pop(_PROFILE, AUTO))
    unknown = [name for name in values if name not in option_fields()]
    if unknown:
        raise EngineConfigError(
            f"{where} has the unknown option {unknown[0][:_SHOWN]!r}. Options have the names of engine.* without engine., and "
            f"flagos_* for flagos.*, or {_PROFILE}."
        )
    remote = values.get("kind") == "remote"
    if not remote and not values.get("model"):
        raise EngineConfigError(f"{where} names no model. Add the option model, or kind: remote and urls.")
    if not remote and _SHARE not in values:
        raise EngineConfigError(f"{where} has no {_SHARE}. State the share of the GPU's memory for each embedded engine.")
    fitting = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    for name, value in fitting.items():
        default = option_fields()[name].default
        wrong = isinstance(value, bool) != isinstance(default, bool) and isinstance(default, bool | int | float | str)
        if isinstance(default, float) and type(value) is int:
            continue
        if wrong or (isinstance(default, str | int | float) and not isinstance(value, type(default))):
            raise EngineConfigError(f"{where}: {name} is {str(value)[:_SHOWN]!r}, which has a wrong type.")
    return TaskModel(tasks, resolve_options(fitting), profile)
