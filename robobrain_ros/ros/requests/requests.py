"""The requests of the node. They are checked in the executor, run on the engine's loop, and answered exactly once."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from std_msgs.msg import Header

from robobrain_ros.bounds.deadlines import NODE_GRACE
from robobrain_ros.bounds.texts import shortened
from robobrain_ros.core.approach import Direction
from robobrain_ros.core.brain import Brain
from robobrain_ros.core.messages.answers import Origin
from robobrain_ros.core.messages.positions import Positions
from robobrain_ros.core.plans.request import Robot
from robobrain_ros.core.query import Answer, PartialAnswer, Task
from robobrain_ros.errors import (
    BadRequestError,
    EngineFailedError,
    NotReadyError,
    OutcomeCode,
    RequestTimeoutError,
    RoboBrainError,
    StaleImageError,
)
from robobrain_ros.msg import PlanContext, QueryOptions
from robobrain_ros.ros.cameras.cameras import Cameras
from robobrain_ros.ros.cameras.images import Frame
from robobrain_ros.ros.cameras.position_topics import PositionInputs
from robobrain_ros.ros.clock import Jump, nanoseconds
from robobrain_ros.ros.delivery.boundary import GuardedNode
from robobrain_ros.ros.limits import MOST_TEXT, MOST_TOKENS
from robobrain_ros.ros.models import Models
from robobrain_ros.ros.parameters.declared import Parameters
from robobrain_ros.ros.positions import Locator
from robobrain_ros.ros.requests.job import Job, run_job, run_location
from robobrain_ros.ros.requests.request import THINK, TaskRequest, check_options, check_text
from robobrain_ros.ros.requests.result import Result
from robobrain_ros.ros.requests.selection import ImageSelection, SelectedImages
from robobrain_ros.ros.requests.statistics import RequestStatistics
from robobrain_ros.ros.requests.tickets import Ticket
from robobrain_ros.ros.tasks import TASKS
from robobrain_ros.ros.trajectories import Trajectories
from robobrain_ros.ros.transforms import Transforms

_REJECTED = {OutcomeCode.BAD_REQUEST, OutcomeCode.UNSUPPORTED_TASK, OutcomeCode.BUSY, OutcomeCode.NOT_READY}
"""Outcomes of rejected requests. They do not replace the last answer on the views."""

PartialAnswerListener = Callable[[PartialAnswer, Origin], None]


class Requests:
    """Answers any number of concurrent requests. All methods are called in the executor, and do not block it.

    :param cameras: returns the node's cameras.
    :param selection: chooses the images of a request.
    :param on_result: called with the result of each request that was not rejected.
    """

    def __init__(
        self,
        node: GuardedNode,
        parameters: Parameters,
        models: Models,
        cameras: Callable[[], Cameras],
        selection: ImageSelection,
        transforms: Transforms,
        on_result: Callable[[Result], None],
    ) -> None:
        self.statistics = RequestStatistics()
        self.active = False
        """Whether requests are accepted."""
        self.robots: Sequence[Robot] = ()
        """Robots for plan requests without robots."""
        self._node = node
        self._parameters = parameters
        self._models = models
        self._cameras = cameras
        self._selection = selection
        self.trajectories = Trajectories(parameters, transforms, lambda: self.robots)
        """The checks of trajectories."""
        self.locator = Locator(parameters, transforms, self.trajectories)
        """Computes the positions of the answers."""
        self._on_result = on_result
        self._open: dict[Ticket[Answer], Job] = {}

    @property
    def open_count(self) -> int:
        """Number of requests that run or wait in the engine."""
        return len(self._open)

    def wake(self) -> None:
        """Wake the executor. Callable from any thread."""
        executor = self._node.executor
        if executor is not None:
            executor.wake()

    def ticket(self) -> Ticket[Any]:
        """Return a ticket for `answer` or `locate`, with which the request can be canceled."""
        return Ticket(self._models.main, self.wake)  # All models share its loop.

    @property
    def default_timeout(self) -> float:
        """Timeout in seconds of a request without its own."""
        return float(self._parameters["request_timeout"])

    def check_accepts(self, task: Task) -> None:
        """Check that requests for a task can be answered now.

        :raises NotReadyError: the node is not active, or the model is not ready.
        :raises UnsupportedTaskError: the model was not trained for the task.
        """
        self._active_brain(task).profile.form(task)

    def cancel_all(self, reason: str) -> None:
        """Cancel every open request."""
        for ticket in list(self._open):
            ticket.cancel(reason)

    def end_older(self, jump: Jump) -> None:
        """End the requests about images from before a time jump."""
        for ticket, job in list(self._open.items()):
            frames = job.images.frames
            if any(jump.concerns(frame.camera) and jump.is_old(nanoseconds(frame.header.stamp)) for frame in frames):
                ticket.give_up(
                    StaleImageError(f"While the model answered, {jump}. The image is from before the jump. Retry the request.")
                )

    def give_up_overdue(self) -> None:
        """Answer the overdue requests that the engine's loop has not ended; called each second."""
        for ticket, job in list(self._open.items()):
            if time.monotonic() > job.deadline + NODE_GRACE:
                ticket.give_up(RequestTimeoutError("The deadline of the request has passed, and the engine does not respond."))

    async def answer(
        self, request: TaskRequest, ticket: Ticket[Answer] | None = None, listener: PartialAnswerListener | None = None
    ) -> Result:
        """Answer a request. Never raises.

        :param listener: called in the executor with each partial answer.
        """
        job: Job | None = None
        ticket = ticket or self.ticket()
        try:
            job = self._check(request)
            result = await self._finish(job, ticket, listener)
            # If the message does not support a value, this raises an exception now, and the request still ends with an error.
            _ = result.message
            if request.publishes:
                self._on_result(result)
        except RoboBrainError as error:
            result = self._failed(request, job, error)
        except Exception as error:
            self._node.log_traceback("A request failed unexpectedly")
            result = self._failed(request, job, EngineFailedError(f"Unexpected {type(error).__name__}: {error}"))
        if result.error is not None and result.error.code not in _REJECTED and request.publishes:
            self._on_result(result)
        self._record(result)
        return result

    async def locate(
        self,
        parts: Answer,
        options: QueryOptions,
        ticket: Ticket[tuple[Positions, tuple[int, int]]],
        direction: Direction | None = None,
    ) -> tuple[Origin, Positions]:
        """Compute the positions of points and bounding boxes in a camera's newest image, without the model.

        :param direction: see `TaskRequest`.
        :raises RoboBrainError: the request is rejected, or its ticket was canceled.
        """
        if not self.active:
            raise NotReadyError(self._why_inactive())
        deadline = time.monotonic() + (options.timeout or self._parameters["request_timeout"])
        images = self._selection.select(options, parts.task)
        inputs = self._position_inputs(images)
        frame = images.frames[0] if images.frames else None
        if inputs is None or not isinstance(frame, Frame):
            raise BadRequestError("images is not empty. Positions need the image of a camera.")
        try:
            ticket.start(lambda push: run_location(parts, frame, inputs, self.locator, deadline, direction))
            positions, (width, height) = await ticket.result()
        finally:
            inputs.close()
        return Origin(images.header, text="", camera=images.camera, width=width, height=height), positions

    async def _finish(self, job: Job, ticket: Ticket[Answer], listener: PartialAnswerListener | None) -> Result:
        """Run the job on the engine's loop, and pass its partial answers to the listener."""
        self._open[ticket] = job
        try:
            # Without a listener, no partial answers are sent, because each of them wakes the executor and slows the model down.
            ticket.start(lambda push: run_job(job, push if listener else None, self.locator, self.trajectories))
            while (news := await ticket.partial_answers()) is not None:
                for partial in news if listener else ():
                    listener(partial, job.origin_with_size())  # type: ignore[misc]
            answer = await ticket.result()
        except BaseException:
            ticket.cancel("The request was abandoned.")  # No caller needs the result any more.
            raise
        finally:
            del self._open[ticket]
            if job.position_inputs is not None:
                job.position_inputs.close()
        report = job.report(answer.report)
        return Result(
            job.task,
            job.origin_with_size(),
            report,
            answer,
            image=job.image,
            positions=job.positions,
            images_note=job.images.note,
        )

    def _check(self, request: TaskRequest) -> Job:
        """Check everything that can be checked without decoding an image.

        :raises RoboBrainError: the request is rejected.
        """
        began = time.monotonic()
        self._check_active()
        task = request.parsed_task()
        brain = self._active_brain(task)
        brain.profile.form(task)
        check_text(request.text, "question")
        options = request.options
        check_options(options)
        if not TASKS[task].takes_context and request.context != PlanContext():
            raise BadRequestError(f"context is set, but the task {task.value} does not use it. Leave it empty.")
        if request.comparison is None:
            images = self._selection.select(options, task, request.frame)
        else:
            images = self._selection.compare(options, request.comparison)
        return Job(
            task=task,
            brain=brain,
            origin=Origin(images.header, text=request.text, query=request.query, camera=images.camera),
            images=images,
            think=THINK[options.think],
            max_tokens=min(options.max_tokens, MOST_TOKENS) or self._parameters["max_tokens"],
            began=began,
            deadline=began + (options.timeout or self._parameters["request_timeout"]),
            priority=1 if request.query or request.background else 0,  # Requests of clients have priority.
            context=request.context,
            robots=self.robots,
            max_plan_steps=self._parameters["max_plan_steps"],
            position_inputs=self._position_inputs(images) if task.spatial else None,
            condition=request.condition,
            direction=request.direction,
        )

    def _position_inputs(self, images: SelectedImages) -> PositionInputs | None:
        """Start to collect depth and camera_info of a camera's image, before newer messages replace them."""
        frame = images.frames[0] if images.frames else None
        return self._cameras()[images.camera].position_inputs(frame) if isinstance(frame, Frame) else None

    def _check_active(self) -> None:
        """Check that the node accepts requests.

        :raises NotReadyError: the node is not active.
        """
        if not self.active:
            raise NotReadyError(self._why_inactive())

    def _active_brain(self, task: Task) -> Brain:
        """Return the brain for a task, with the current parameters as defaults. Later changes do not affect this request.

        :raises NotReadyError: the node is not active, or the model is not ready.
        """
        self._check_active()
        return (
            self._models.serving(task)
            .brain()
            .with_defaults(**{name: self._parameters[name] for name in ("think", "think_tokens", "constrain_coordinates")})
        )

    def _why_inactive(self) -> str:
        try:
            self._models.main.brain()
        except RoboBrainError as error:
            return f"The node is not active. {error.message}"
        return "The node is not active. Activate it."

    def _failed(self, request: TaskRequest, job: Job | None, error: RoboBrainError) -> Result:
        if job is None:
            return self._rejected(request, error)
        report = error.report or (job.rejected.report if job.rejected else replace(job.brain.new_report(), raw_text=job.raw_text))
        report.raw_text = report.raw_text or error.raw_text
        result = Result(job.task, job.origin_with_size(), job.report(report), error=error, image=job.image)
        # A rejected trajectory keeps its positions, so that the message contains the issues and the markers show them.
        return replace(result, positions=job.positions, rejected=job.rejected) if job.rejected else result

    def _rejected(self, request: TaskRequest, error: RoboBrainError) -> Result:
        try:
            task: Task | None = request.parsed_task()
        except BadRequestError:
            task = None
        report = (self._models.main if task is None else self._models.serving(task)).new_report()
        report.image_age = math.nan
        return Result(task, Origin(Header(), text=shortened(request.text, MOST_TEXT), query=request.query), report, error=error)

    def _record(self, result: Result) -> None:
        self.statistics.record(result)
        if not result.answered:
            task = result.task.value if result.task else "A request"
            self._node.get_logger().warning(f"{task} ended with {self.statistics.last_error}", throttle_duration_sec=1.0)
