"""From a request to its result: checked in the executor, worked on beside it, answered exactly once whatever happens."""

import asyncio
import math
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from robobrain_ros.core.brain import MOST_PICTURES, Brain
from robobrain_ros.core.query import Answer, Picture, Progress, Query, Report, Task
from robobrain_ros.errors import (
    BadImageError,
    BadRequestError,
    EngineFailedError,
    NotReadyError,
    RequestTimeoutError,
    RoboBrainError,
)
from robobrain_ros.msg import Affordances, Plan, QueryOptions, TextAnswer, Trajectory
from robobrain_ros.ros.cameras import Cameras, Frame, stamp_age
from robobrain_ros.ros.conversions import (
    Origin,
    clean,
    read_image,
    to_affordances,
    to_plan,
    to_report,
    to_text_answer,
    to_trajectory,
)
from robobrain_ros.ros.model import Model
from robobrain_ros.ros.parameters import Parameters
from robobrain_ros.ros.tickets import Ticket

ResultMessage = Affordances | Trajectory | Plan | TextAnswer

RESULT_FIELDS = {
    Task.POINT: "affordances",
    Task.AFFORDANCE: "affordances",
    Task.GROUND: "affordances",
    Task.TRAJECTORY: "trajectory",
    Task.PLAN: "plan",
    Task.ASK: "answer",
}
"""Where the result of a task stands: the field of the service's response and of the action's result, and the topic under ~/."""

_THINK = {QueryOptions.THINK_DEFAULT: None, QueryOptions.THINK_OFF: False, QueryOptions.THINK_ON: True}
_OVERDUE = 5.0
"""Seconds beyond its deadline after which a request is answered even if the engine's loop does not respond."""


@dataclass(frozen=True)
class Asked:
    """What someone asks for: the request as it came."""

    task: str
    text: str
    options: QueryOptions
    query: str = ""
    """Name of the standing query."""
    frame: Frame | None = None
    """The camera picture to ask about; None: the newest."""


@dataclass
class Result:
    """How a request ended; ``error`` None: well. ``picture`` is the first one, once it has been read."""

    task: Task | None
    origin: Origin
    report: Report
    answer: Answer | None = None
    error: RoboBrainError | None = None
    picture: Picture | None = None

    def message(self) -> ResultMessage:
        """The message that the task answers with; without an answer, its report tells how far the request got."""
        report = to_report(self.report, self.answer.thinking if self.answer else "")
        if self.task is Task.TRAJECTORY:
            return to_trajectory(self.origin, self.answer, report)
        if self.task is Task.PLAN:
            return to_plan(self.origin, self.answer, report)
        if self.task is Task.ASK or self.task is None:
            return to_text_answer(self.origin, self.answer, report)
        return to_affordances(self.origin, self.task.value, self.answer, report)


@dataclass
class Statistics:
    """What has become of the requests since the node began; ``latencies`` in seconds, of those that ended well."""

    served: int = 0
    failed: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    last_error: str = ""


@dataclass
class _Job:
    """A request that may be worked on: everything checked that can be without decoding a picture."""

    task: Task
    brain: Brain
    origin: Origin
    messages: Sequence[Image | CompressedImage]
    image_ids: Sequence[str]
    picture_name: str
    think: bool | None
    max_tokens: int
    age: float
    began: float
    deadline: float
    priority: int
    picture: Picture | None = None
    raw_text: str = ""
    brain_began: float = 0.0


Listener = Callable[[Progress, Origin], None]


class Requests:
    """Answers requests, many at once. All methods are called in the executor and return, or await, without blocking it.

    :param cameras: gives the node's cameras.
    :param on_result: called with each result that ended well.
    """

    def __init__(
        self,
        node: Node,
        parameters: Parameters,
        model: Model,
        cameras: Callable[[], Cameras],
        on_result: Callable[[Result], None],
    ) -> None:
        self.statistics = Statistics()
        self.active = False
        self._node = node
        self._parameters = parameters
        self._model = model
        self._cameras = cameras
        self._on_result = on_result
        self._open: dict[Ticket[Answer], _Job] = {}

    @property
    def open_count(self) -> int:
        """Requests that are being worked on or wait in the engine."""
        return len(self._open)

    def wake(self) -> None:
        """Wake the executor; callable from any thread."""
        executor = self._node.executor
        if executor is not None:
            executor.wake()

    def ticket(self) -> Ticket[Answer]:
        """A ticket for `answer`, for those who want to cancel."""
        return Ticket(self._model, self.wake)

    def cancel_all(self, reason: str) -> None:
        """Cancel every open request."""
        for ticket in list(self._open):
            ticket.cancel(reason)

    def give_up_overdue(self) -> None:
        """Answer the requests that the engine's loop should have ended long ago; called once per second."""
        for ticket, job in list(self._open.items()):
            if time.monotonic() > job.deadline + _OVERDUE:
                ticket.give_up(RequestTimeoutError("The request's deadline has passed and the engine does not respond."))

    async def answer(self, asked: Asked, ticket: Ticket[Answer] | None = None, listener: Listener | None = None) -> Result:
        """Answer a request; never raises.

        :param listener: called in the executor with what becomes known of the answer.
        """
        job: _Job | None = None
        ticket = ticket or self.ticket()
        try:
            job = self._check(asked)
            result = await self._work_off(job, ticket, listener)
        except RoboBrainError as error:
            result = self._failed(asked, job, error)
        except Exception as error:
            self._node.get_logger().error(f"A request failed unexpectedly:\n{traceback.format_exc()}")
            result = self._failed(asked, job, EngineFailedError(f"Unexpected {type(error).__name__}: {error}"))
        self._count(result)
        return result

    async def _work_off(self, job: _Job, ticket: Ticket[Answer], listener: Listener | None) -> Result:
        self._open[ticket] = job
        try:
            ticket.start(lambda push: _work(job, push))
            while (news := await ticket.progress()) is not None:
                for progress in news if listener else ():
                    listener(progress, _origin(job))  # type: ignore[misc]
            answer = await ticket.result()
        finally:
            del self._open[ticket]
        result = Result(job.task, _origin(job), _report(job, answer.report), answer, picture=job.picture)
        result.message()  # Whatever a message cannot hold shows here, where it can still be answered.
        self._on_result(result)
        return result
