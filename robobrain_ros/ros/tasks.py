"""The services by task: what the node offers and what its users call."""

from typing import Any

from robobrain_ros.core.query import Task
from robobrain_ros.srv import Ask, Locate, MakePlan, PredictTrajectory

SERVICES: dict[Task, tuple[Any, str]] = {
    Task.POINT: (Locate, "instruction"),
    Task.AFFORDANCE: (Locate, "instruction"),
    Task.GROUND: (Locate, "instruction"),
    Task.TRAJECTORY: (PredictTrajectory, "instruction"),
    Task.PLAN: (MakePlan, "task"),
    Task.ASK: (Ask, "question"),
}
"""The service of each task, ~/<task>: its type, and its field that says what is asked."""

RESULT_FIELDS: dict[Task, str] = {
    Task.POINT: "affordances",
    Task.AFFORDANCE: "affordances",
    Task.GROUND: "affordances",
    Task.TRAJECTORY: "trajectory",
    Task.PLAN: "plan",
    Task.ASK: "answer",
}
"""Where the result of a task stands: the field of the service's response and of the action's result, and the topic under ~/."""
