"""From a request to its result: checked in the executor, worked on beside it, answered exactly once whatever happens."""

import asyncio
import math
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from robobrain_ros.bounds.deadlines import DEAD_LOOP
from robobrain_ros.core.brain import Brain
from robobrain_ros.core.plans.request import PlanMode, PlanRequest, Robot
from robobrain_ros.core.query import Answer, Progress, Query, Report, RgbImage, Task
from robobrain_ros.errors import (
    BadImageError,
    BadRequestError,
    EngineFailedError,
    NotReadyError,
    OutcomeCode,
    RequestTimeoutError,
    RoboBrainError,
    StaleImageError,
)
from robobrain_ros.msg import PlanContext, QueryOptions
from robobrain_ros.ros.cameras.cameras import Camera, Cameras, Frame
from robobrain_ros.ros.cameras.frames import plain_header
from robobrain_ros.ros.clock import Jump, nanoseconds, reported_age, stamp_age
from robobrain_ros.ros.limits import (
    LEAST_TIMEOUT,
    MOST_CAMERAS,
    MOST_NAME,
    MOST_TEXT,
    MOST_TIMEOUT,
    MOST_TOKENS,
)
from robobrain_ros.ros.messages.conversions import (
    Origin,
    Positions,
    read_image_message,
    shortened,
    to_report,
)
from robobrain_ros.ros.messages.plans import skill_count, to_plan_request
from robobrain_ros.ros.model import Model
from robobrain_ros.ros.parameters.declared import Parameters
from robobrain_ros.ros.positions import Locator, Moment
from robobrain_ros.ros.tasks import TASKS, ResultMessage
from robobrain_ros.ros.tickets import Ticket
from robobrain_ros.ros.transforms import Transforms

_THINK = {QueryOptions.THINK_DEFAULT: None, QueryOptions.THINK_OFF: False, QueryOptions.THINK_ON: True}

_REJECTED = {OutcomeCode.BAD_REQUEST, OutcomeCode.UNSUPPORTED_TASK, OutcomeCode.BUSY, OutcomeCode.NOT_READY}
"""Outcomes of requests that reached no camera and no model. They do not supersede the last answer."""

_LONGEST_ERROR = 500
"""Characters of an error in the log and in /diagnostics."""

_PIXELS_WORTH_A_THREAD = 1_000_000
"""Raw images up to this size are decoded on the engine's loop, in less than a millisecond."""
_SKILLS_WORTH_A_THREAD = 100
"""Contexts with up to this many skills are read on the engine's loop, in less than a millisecond."""


@dataclass(frozen=True)
class Asked:
    """What someone asks for: the request as it came."""

    task: str
    text: str
    options: QueryOptions
    query: str = ""
    """Name of the standing query."""
    context: PlanContext = field(default_factory=PlanContext)
    """For the task plan; for the others it must be empty."""


@dataclass
class Result:
    """How a request ended; ``error`` None: well. ``image`` is the first one, once it has been read."""

    task: Task | None
    origin: Origin
    report: Report
    answer: Answer | None = None
    error: RoboBrainError | None = None
    image: RgbImage | None = None
    positions: Positions | None = None
    """Of the answer's parts; None: its image came with the request, or it has no parts in an image."""

    @property
    def note(self) -> str:
        """What the positions lack; empty: nothing."""
        return self.positions.note if self.positions else ""

    @property
    def answered(self) -> bool:
        """Whether the model answered in form. NOTHING_FOUND is an answer, too."""
        return self.error is None or self.error.code is OutcomeCode.NOTHING_FOUND

    @cached_property
    def message(self) -> ResultMessage:
        """The message that the task answers with; without an answer, its report tells how far the request got."""
        assert self.task is not None, "a request of an unknown task has no message"
        report = to_report(self.report, self.answer.thinking if self.answer else "")
        return TASKS[self.task].to_message(self.origin, self.answer, report, self.positions)


@dataclass
class Statistics:
    """What has become of the requests since the node began; ``latencies`` in seconds, of those that ended well."""

    served: int = 0
    failed: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    last_error: str = ""


@dataclass
class _Job:
    """A request that may be worked on: everything checked that can be without decoding an image."""

    task: Task
    brain: Brain
    origin: Origin
    sources: Sequence[Frame | Image]
    image_ids: Sequence[str]
    image_name: str
    think: bool | None
    max_tokens: int
    age: float
    began: float
    deadline: float
    priority: int
    max_pixels: Sequence[int]
    context: PlanContext
    robots: Sequence[Robot]
    max_plan_steps: int
    moment: Moment | None = None
    image: RgbImage | None = None
    positions: Positions | None = None
    raw_text: str = ""
    brain_began: float = 0.0


Listener = Callable[[Progress, Origin], None]


class Requests:
    """Answers requests, many at once. All methods are called in the executor and return, or await, without blocking it.

    :param cameras: gives the node's cameras.
    :param on_result: called with each result but those of rejected requests.
    """

    def __init__(
        self,
        node: Node,
        parameters: Parameters,
        model: Model,
        cameras: Callable[[], Cameras],
        transforms: Transforms,
        on_result: Callable[[Result], None],
    ) -> None:
        self.statistics = Statistics()
        self.active = False
        self.robots: Sequence[Robot] = ()
        """Those that plans are made for where a request names none."""
        self._node = node
        self._parameters = parameters
        self._model = model
        self._cameras = cameras
        self._locator = Locator(parameters, transforms)
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

    def end_older(self, jump: Jump) -> None:
        """End the requests about images of the time before a jump: their answers would be about another time."""
        for ticket, job in list(self._open.items()):
            frames = [source for source in job.sources if isinstance(source, Frame)]
            if any(jump.concerns(frame.camera) and jump.is_old(nanoseconds(frame.header.stamp)) for frame in frames):
                ticket.give_up(StaleImageError(f"While the model answered, {jump}: the image is of the time before. Ask again."))

    def give_up_overdue(self) -> None:
        """Answer the requests that the engine's loop should have ended long ago; called once per second."""
        for ticket, job in list(self._open.items()):
            if time.monotonic() > job.deadline + DEAD_LOOP:
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
        if result.error is not None and result.error.code not in _REJECTED:
            self._on_result(result)
        self._count(result)
        return result

    async def _work_off(self, job: _Job, ticket: Ticket[Answer], listener: Listener | None) -> Result:
        self._open[ticket] = job
        try:
            # Without a listener nothing is pushed: each push wakes the executor, which takes time from the model.
            ticket.start(lambda push: _work(job, push if listener else None, self._locator))
            while (news := await ticket.progress()) is not None:
                for progress in news if listener else ():
                    listener(progress, _origin(job))  # type: ignore[misc]
            answer = await ticket.result()
        except BaseException:
            ticket.cancel("The request was given up.")  # Nobody reads its answer any more.
            raise
        finally:
            del self._open[ticket]
            if job.moment is not None:
                job.moment.close()
        result = Result(job.task, _origin(job), _report(job, answer.report), answer, image=job.image, positions=job.positions)
        _ = result.message  # Whatever a message cannot hold shows here, where it can still be answered.
        self._on_result(result)
        return result

    def _check(self, asked: Asked) -> _Job:
        """Check all that can be checked without decoding an image.

        :raises RoboBrainError: the reason for a refusal.
        """
        began = time.monotonic()
        if not self.active:
            raise NotReadyError(self._why_inactive())
        brain = self._brain()
        task = parse_task(asked.task)
        brain.profile.form(task)
        check_text(asked.text, "question")
        options = asked.options
        check_options(options)
        if not TASKS[task].takes_context and asked.context != PlanContext():
            raise BadRequestError(f"context is given, but the task {task.value} takes none; leave it empty.")
        origin = Origin(Header(), text=asked.text, query=asked.query)
        timeout = options.timeout or self._parameters["request_timeout"]
        sources, image_ids, origin, image_name = self._images(asked, task, origin)
        spatial = task.spatial and isinstance(sources[0], Frame)
        return _Job(
            task=task,
            brain=brain,
            origin=origin,
            sources=sources,
            image_ids=image_ids,
            image_name=image_name,
            think=_THINK[options.think],
            max_tokens=min(options.max_tokens, MOST_TOKENS) or self._parameters["max_tokens"],
            age=self._age(sources),
            began=began,
            deadline=began + timeout,
            # Standing queries stand behind requests.
            priority=1 if asked.query else 0,
            max_pixels=self._max_pixels(sources),
            context=asked.context,
            robots=self.robots,
            max_plan_steps=self._parameters["max_plan_steps"],
            # Claimed now: while the model answers, newer depth would push it out.
            moment=self._cameras()[origin.camera].moment(sources[0]) if spatial else None,
        )

    def _age(self, sources: Sequence[Frame | Image]) -> float:
        """Seconds since the oldest image's stamp; NaN: one has none."""
        ages = [stamp_age(self._node.get_clock(), source.header) for source in sources]
        return math.nan if any(map(math.isnan, ages)) else reported_age(max(ages))

    def _max_pixels(self, sources: Sequence[Frame | Image]) -> list[int]:
        """How many pixels the model may see of each image; 0: as many as of any."""
        return [self._parameters[f"{it.camera}.max_pixels"] if isinstance(it, Frame) else 0 for it in sources]

    def _images(self, asked: Asked, task: Task, origin: Origin) -> tuple[Sequence[Frame | Image], Sequence[str], Origin, str]:
        """The images to ask about, their names for the engine, where they come from, and how to call one in a sentence."""
        options = asked.options
        cameras = self._cameras()
        if options.images:
            if options.cameras:
                raise BadRequestError("images and cameras are both given; give one of them.")
            if options.camera:
                cameras.name(options.camera)
            self.check_count(task, len(options.images), "images")
            origin = replace(origin, header=plain_header(options.images[0].header))
            return options.images, [], origin, "Image {number} of the request"
        names = cameras.names_of(options)
        self.check_count(task, len(names), "cameras")
        frames = [self._frame(cameras[name], task) for name in names]
        return (
            frames,
            [frame.name for frame in frames],
            replace(origin, header=frames[0].header, camera=names[0]),
            "The image of camera {camera}",
        )

    def candidate(self, camera: Camera, task: Task) -> Frame | None:
        """The image to ask about, if it is not too old: the newest, for spatial tasks one that has depth. None: none yet."""
        if not task.spatial:
            return camera.newest
        return camera.newest_with_depth(self._parameters["sync_tolerance"], self._parameters["max_image_age"])

    def _frame(self, camera: Camera, task: Task) -> Frame:
        newest = camera.fresh(self._parameters["max_image_age"])
        return self.candidate(camera, task) or newest

    def check_count(self, task: Task, count: int, field: str) -> None:
        """Check how many images a request asks about, given in that field.

        :raises BadRequestError: they are too many.
        """
        if task.spatial and count != 1:
            raise BadRequestError(f"The task {task.value} takes exactly one image, not {count} (field {field}).")
        most = self._parameters["engine.max_images"]
        if count > most:
            raise BadRequestError(
                f"A request takes at most {most} images (parameter engine.max_images), not {count} (field {field})."
            )

    def _brain(self) -> Brain:
        """The brain with the present parameters as its defaults. A later change does not affect the request that gets it."""
        return self._model.brain().with_defaults(
            **{name: self._parameters[name] for name in ("think", "think_tokens", "constrain_coordinates")}
        )

    def _why_inactive(self) -> str:
        try:
            self._model.brain()
        except RoboBrainError as error:
            return f"The node is not active. {error.message}"
        return "The node is not active; activate it."

    def _failed(self, asked: Asked, job: _Job | None, error: RoboBrainError) -> Result:
        try:
            task: Task | None = parse_task(asked.task)
        except BadRequestError:
            task = None
        if job is None:
            info = self._model.info
            report = (
                Report(image_age=math.nan)
                if info is None
                else Report(info.model, info.engine, info.flagos_active, image_age=math.nan)
            )
            return Result(task, Origin(Header(), text=shortened(asked.text, MOST_TEXT), query=asked.query), report, error=error)
        info = job.brain.info
        report = error.report or Report(info.model, info.engine, info.flagos_active, raw_text=job.raw_text)
        report.raw_text = report.raw_text or error.raw_text
        return Result(job.task, _origin(job), _report(job, report), error=error, image=job.image)

    def _count(self, result: Result) -> None:
        if result.answered:
            self.statistics.served += 1
            self.statistics.latencies.append(result.report.total_time)
            return
        assert result.error is not None, "without an error it is answered"
        self.statistics.failed += 1
        self.statistics.last_error = shortened(f"{result.error.code.name}: {result.error.message}", _LONGEST_ERROR)
        self._node.get_logger().warning(
            f"{result.task.value if result.task else 'A request'} ended with {self.statistics.last_error}",
            throttle_duration_sec=1.0,
        )


def parse_task(name: str) -> Task:
    """The task of that name.

    :raises BadRequestError: there is none.
    """
    try:
        return Task(name)
    except ValueError:
        known = ", ".join(task.value for task in Task)
        raise BadRequestError(f"There is no task {name[:MOST_NAME]!r}; known are: {known}.") from None


def check_text(text: str, field: str) -> None:
    """Check what is asked in words, given in that field.

    :raises BadRequestError: it is empty or too long.
    """
    if not text.strip():
        raise BadRequestError(f"The {field} is empty; say what is asked for.")
    if len(text) > MOST_TEXT:
        raise BadRequestError(f"The {field} has {len(text)} characters; at most {MOST_TEXT} are allowed.")


def check_options(options: QueryOptions) -> None:
    """Check what does not depend on the node.

    :raises BadRequestError: what contradicts the message's description.
    """
    if options.think not in _THINK:
        raise BadRequestError(f"think is {options.think}; it must be THINK_DEFAULT (0), THINK_OFF (1) or THINK_ON (2).")
    if options.timeout and not LEAST_TIMEOUT <= options.timeout <= MOST_TIMEOUT:
        raise BadRequestError(
            f"timeout is {options.timeout:g} s; it must be 0 (the node's default) or {LEAST_TIMEOUT:g} to {MOST_TIMEOUT:g} s."
        )
    if len(options.cameras) > MOST_CAMERAS:
        raise BadRequestError(f"cameras holds {len(options.cameras)} names; at most {MOST_CAMERAS} are allowed.")
    for name in (options.camera, *options.cameras):
        if len(name) > MOST_NAME:
            raise BadRequestError(f"The name of a camera has {len(name)} characters; at most {MOST_NAME} are allowed.")


async def _work(job: _Job, push: Callable[[Progress], None] | None, locator: Locator) -> Answer:
    """The part of a request that runs on the engine's loop."""
    plan = await _plan_request(job) if TASKS[job.task].takes_context else None
    images = _decode(job) if _decodes_quickly(job) else await asyncio.to_thread(_decode, job)
    job.image = images[0]
    job.brain_began = time.monotonic()
    if job.brain_began >= job.deadline:
        raise RequestTimeoutError("The request's deadline passed while its images were read; allow more time.")

    def listen(progress: Progress) -> None:
        job.raw_text += progress.text
        if push is not None:
            push(progress)

    query = Query(
        task=job.task,
        text=job.origin.text,
        images=images,
        image_ids=job.image_ids,
        think=job.think,
        timeout=job.deadline - job.brain_began,
        max_tokens=job.max_tokens,
        priority=job.priority,
        max_pixels=job.max_pixels,
        plan=plan,
    )
    try:
        answer = await job.brain.run(query, listen)
    except BadRequestError as error:
        if not job.context.robots and error.message.startswith("context.robots"):
            error.message += " (These robots are those of parameter robots_file.)"
        raise
    if job.moment is not None:
        height, width = job.image.shape[:2]
        job.positions = await locator.locate(answer, (width, height), job.moment)
    return answer


async def _plan_request(job: _Job) -> PlanRequest:
    """What the request says of robots, scene and history, with the node's defaults where it says nothing.

    :raises BadRequestError: as of `to_plan_request`.
    """
    if skill_count(job.context) <= _SKILLS_WORTH_A_THREAD:
        request = to_plan_request(job.context)
    else:
        request = await asyncio.to_thread(to_plan_request, job.context)
    # The next step is one: that mode takes no number.
    most = 0 if request.mode is PlanMode.NEXT_STEP else job.max_plan_steps
    return replace(request, robots=request.robots or tuple(job.robots), max_steps=request.max_steps or most)


def _decodes_quickly(job: _Job) -> bool:
    """Whether to decode on the loop: a hand-over to another thread and back takes about as long."""
    messages = [source.message if isinstance(source, Frame) else source for source in job.sources]
    pixels = sum(message.width * message.height if isinstance(message, Image) else math.inf for message in messages)
    return pixels <= _PIXELS_WORTH_A_THREAD


def _decode(job: _Job) -> list[RgbImage]:
    images = []
    for number, source in enumerate(job.sources, start=1):
        try:
            images.append(source.image() if isinstance(source, Frame) else read_image_message(source))
        except BadImageError as error:
            camera = source.camera if isinstance(source, Frame) else ""
            name = job.image_name.format(number=number, camera=camera)
            raise BadImageError(f"{name} cannot be read: {error.message}") from error
    return images


def _origin(job: _Job) -> Origin:
    """Where the answer comes from, with the image's size once it is known."""
    if job.image is None:
        return job.origin
    height, width = job.image.shape[:2]
    return replace(job.origin, width=width, height=height)


def _report(job: _Job, report: Report) -> Report:
    """The brain's report, its times counted from the request's arrival."""
    before = max(job.brain_began - job.began, 0.0)
    return replace(
        report,
        image_age=job.age,
        first_token_time=report.first_token_time + before if report.first_token_time else 0.0,
        first_part_time=report.first_part_time + before if report.first_part_time else 0.0,
        total_time=time.monotonic() - job.began,
    )
