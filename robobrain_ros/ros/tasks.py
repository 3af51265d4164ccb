"""The task table: for each task, its service, its messages and its topic.

To add a task, add it to `core.query.Task`, add its prompt to `core.profiles`, define its service, and add a row here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from robobrain_ros.core.messages.answers import Origin
from robobrain_ros.core.messages.positions import Positions
from robobrain_ros.core.query import Answer, Task
from robobrain_ros.msg import Affordances, InferenceReport, Plan, Progress, TextAnswer, Trajectory
from robobrain_ros.ros.messages.conversions import to_affordances, to_plan, to_progress, to_text_answer, to_trajectory
from robobrain_ros.ros.messages.reading import read_affordances, read_plan, read_progress, read_text_answer, read_trajectory
from robobrain_ros.srv import Ask, EstimateProgress, Locate, MakePlan, PredictTrajectory

ResultMessage: TypeAlias = Affordances | Trajectory | Plan | TextAnswer | Progress
ToMessage: TypeAlias = Callable[[Origin, Answer | None, InferenceReport, Positions | None], ResultMessage]
ReadMessage: TypeAlias = Callable[[Answer, Any], Answer]


@dataclass(frozen=True)
class TaskInterface:
    """How the node offers a task: as a service, and for `CAMERA_TASKS` as a goal of ``~/run_task`` and as a standing query.

    :param service_type: type of the service.
    :param text_field: field of the service's request with the instruction.
    :param result_field: field of the service's response and of the action's result. The topic ``~/<result_field>`` has the same
        name.
    :param message_type: type of that field and of that topic.
    :param to_message: converts an answer to that type. Without an answer, the message contains only the report.
    :param read_message: adds the contents of a message of that type to an answer.
    :param takes_context: whether the service's request has a field ``context`` (PlanContext).
    :param compares: whether the service's request has the images of a comparison.
    :param service: name of the service. Empty: the name of the task.
    """

    task: Task
    service_type: Any
    text_field: str
    result_field: str
    message_type: Any
    to_message: ToMessage
    read_message: ReadMessage
    takes_context: bool = False
    compares: bool = False
    service: str = ""

    @property
    def name(self) -> str:
        """Name of the service, relative to the node's name."""
        return self.service or self.task.value

    def result_in(self, response: Any) -> Any:
        """Return the answer's message in a response of the service or in a result of the action."""
        return getattr(response, self.result_field)

    def put_result(self, response: Any, message: ResultMessage) -> None:
        """Set the answer's message in a response of the service or in a result of the action."""
        setattr(response, self.result_field, message)


def by_task(rows: Iterable[TaskInterface]) -> dict[Task, TaskInterface]:
    """Return the rows by their task, in the order of `Task`.

    :raises TypeError: a task has no row, or several.
    """
    rows = list(rows)
    wrong = [task.value for task in Task if sum(row.task is task for row in rows) != 1]
    if wrong:
        raise TypeError(f"Each task needs one row in the task table (robobrain_ros/ros/tasks.py); check: {', '.join(wrong)}.")
    return {task: next(row for row in rows if row.task is task) for task in Task}


def _location(task: Task) -> TaskInterface:
    return TaskInterface(
        task,
        Locate,
        text_field="instruction",
        result_field="affordances",
        message_type=Affordances,
        to_message=partial(to_affordances, task),
        read_message=read_affordances,
    )


TASKS = by_task(
    (
        _location(Task.POINT),
        _location(Task.AFFORDANCE),
        _location(Task.GROUND),
        TaskInterface(
            Task.TRAJECTORY,
            PredictTrajectory,
            text_field="instruction",
            result_field="trajectory",
            message_type=Trajectory,
            to_message=to_trajectory,
            read_message=read_trajectory,
        ),
        TaskInterface(
            Task.PLAN,
            MakePlan,
            text_field="task",
            result_field="plan",
            message_type=Plan,
            to_message=to_plan,
            read_message=read_plan,
            takes_context=True,
        ),
        TaskInterface(
            Task.ASK,
            Ask,
            text_field="question",
            result_field="answer",
            message_type=TextAnswer,
            to_message=to_text_answer,
            read_message=read_text_answer,
        ),
        TaskInterface(
            Task.PROGRESS,
            EstimateProgress,
            text_field="task",
            result_field="progress",
            message_type=Progress,
            to_message=to_progress,
            read_message=read_progress,
            compares=True,
            service="estimate_progress",
        ),
    )
)
"""Every task's interface."""
