"""The parameters of the models that serve single tasks (``task_models``)."""

from dataclasses import replace

from robobrain_ros.core.query import Task
from robobrain_ros.errors import EngineConfigError
from robobrain_ros.ros.parameters.parameter import Parameter
from robobrain_ros.ros.parameters.table import NODE_PARAMETERS, engine_parameters

TASK_MODEL_PREFIX = "task_model."
_LIKE_THE_NODE = ("model_profile", "model_can_think")
"""Parameters of the node that each of these models has too."""


def prefix_of(model: str) -> str:
    """Return the prefix of the parameters of a model."""
    return f"{TASK_MODEL_PREFIX}{model}."


def own_parameters(model: str) -> tuple[Parameter, ...]:
    """The parameters of a model without those of its engine."""
    prefix = prefix_of(model)
    tasks = Parameter(
        f"{prefix}tasks",
        [],
        f"Tasks that this model serves: {', '.join(task.value for task in Task)}. Each task can have one such model. Required.",
    )
    return (tasks, *(replace(it, name=prefix + it.name) for it in NODE_PARAMETERS if it.name in _LIKE_THE_NODE))


def task_model_parameters(model: str) -> tuple[Parameter, ...]:
    """The parameters that each model of the parameter ``task_models`` has: its own, and those of its engine."""
    return (*own_parameters(model), *(replace(it, name=prefix_of(model) + it.name) for it in engine_parameters()))


def parsed_tasks(model: str, given: list[str]) -> frozenset[Task]:
    """Return the tasks of a model.

    :raises EngineConfigError: the list is empty or contains a wrong name.
    """
    name = f"{prefix_of(model)}tasks"
    known = [task.value for task in Task]
    if not given:
        raise EngineConfigError(f"{name} is empty. Set it to the tasks that this model serves: {', '.join(known)}.")
    for task in given:
        if task not in known:
            raise EngineConfigError(f"{name} contains {task[:40]!r}, which is no task. The tasks are {', '.join(known)}.")
    return frozenset(map(Task, given))
