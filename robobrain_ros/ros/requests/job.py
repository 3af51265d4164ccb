"""The part of a request that runs on the engine's loop: decode the images, run the query, compute the positions."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sensor_msgs.msg import Image

from robobrain_ros.core.approach import Direction
from robobrain_ros.core.brain import Brain
from robobrain_ros.core.messages.answers import Origin
from robobrain_ros.core.messages.positions import Positions
from robobrain_ros.core.plans.request import PlanMode, PlanRequest, Robot
from robobrain_ros.core.query import Answer, PartialAnswer, Query, Report, RgbImage, Task
from robobrain_ros.errors import BadImageError, BadRequestError, RequestTimeoutError, UnsafeTrajectoryError
from robobrain_ros.msg import PlanContext
from robobrain_ros.ros.cameras.images import Frame
from robobrain_ros.ros.cameras.position_topics import PositionInputs
from robobrain_ros.ros.messages.conversions import read_image_message
from robobrain_ros.ros.messages.plans import skill_count, to_plan_request
from robobrain_ros.ros.positions import Locator
from robobrain_ros.ros.requests.request import Source
from robobrain_ros.ros.requests.selection import SelectedImages
from robobrain_ros.ros.tasks import TASKS
from robobrain_ros.ros.trajectories import Trajectories

_MOST_PIXELS_ON_LOOP = 1_000_000
"""Raw images with at most this number of pixels are decoded on the engine's loop, in less than a millisecond."""
_MOST_SKILLS_ON_LOOP = 100
"""A context with at most this number of skills is converted on the engine's loop, in less than a millisecond."""


@dataclass
class Job:
    """A request with checked fields, and its state while it runs.

    :param began: arrival of the request (``time.monotonic()``).
    :param deadline: deadline of the request (``time.monotonic()``).
    :param robots: robots for a plan whose context has none.
    :param position_inputs: collects depth and camera_info of the image, or None if the answer gets no positions.
    :param condition: see `core.query.Query`.
    :param direction: see `TaskRequest`.
    :param image: the main image of `SelectedImages`, or None if not decoded yet.
    :param brain_began: start of the query (``time.monotonic()``); 0: not started.
    :param rejected: a trajectory that ``strict_traces`` rejects.
    """

    task: Task
    brain: Brain
    origin: Origin
    images: SelectedImages
    think: bool | None
    max_tokens: int
    began: float
    deadline: float
    priority: int
    context: PlanContext
    robots: Sequence[Robot]
    max_plan_steps: int
    position_inputs: PositionInputs | None = None
    condition: bool = False
    direction: Direction | None = None
    image: RgbImage | None = None
    positions: Positions | None = None
    raw_text: str = ""
    brain_began: float = 0.0
    rejected: Answer | None = None

    def origin_with_size(self) -> Origin:
        """Return the origin of the answer, with the image's size if the image was decoded."""
        if self.image is None:
            return self.origin
        height, width = self.image.shape[:2]
        return replace(self.origin, width=width, height=height)

    def report(self, report: Report) -> Report:
        """Return the brain's report, with times since the request's arrival."""
        before = max(self.brain_began - self.began, 0.0)
        return replace(
            report,
            image_age=self.images.age,
            stamps=[(source.header.stamp.sec, source.header.stamp.nanosec) for source in self.images.sources],
            first_token_time=report.first_token_time + before if report.first_token_time else 0.0,
            first_part_time=report.first_part_time + before if report.first_part_time else 0.0,
            total_time=time.monotonic() - self.began,
        )


async def run_job(job: Job, push: Callable[[PartialAnswer], None] | None, locator: Locator, trajectories: Trajectories) -> Answer:
    """Answer a checked request. Runs on the engine's loop.

    :param push: called with each partial answer, or None if partial answers are not needed.
    :raises RoboBrainError: there is no answer.
    """
    plan = await _plan_request(job) if TASKS[job.task].takes_context else None
    if job.images.times and (sizes := job.images.sizes):
        job.brain.check_times_fit(_query(job, plan), sizes)
    images = await _read_images(job.images)
    job.image = images[job.images.main]
    job.brain_began = time.monotonic()
    if job.brain_began >= job.deadline:
        raise RequestTimeoutError("The deadline passed while the node read the images. Increase the timeout.")

    def on_partial(partial: PartialAnswer) -> None:
        job.raw_text += partial.text
        if push is not None:
            push(partial)

    query = replace(_query(job, plan), images=images, timeout=job.deadline - job.brain_began)
    try:
        answer = await job.brain.run(query, on_partial)
    except BadRequestError as error:
        if not job.context.robots and error.message.startswith("context.robots"):
            error.message += " (The robots come from parameter robots_file.)"
        raise
    if job.position_inputs is not None:
        height, width = job.image.shape[:2]
        job.positions = await locator.locate(
            answer, (width, height), job.position_inputs, job.deadline, text=job.origin.text, direction=job.direction
        )
    if job.task is Task.TRAJECTORY:
        try:
            trajectories.check_strictly(job.positions)
        except UnsafeTrajectoryError:
            job.rejected = answer
            raise
    return answer


async def run_location(
    parts: Answer, frame: Frame, inputs: PositionInputs, locator: Locator, deadline: float, direction: Direction | None
) -> tuple[Positions, tuple[int, int]]:
    """Compute the positions of parts of a camera's image, without the model. Runs on the engine's loop.

    :param parts: points and bounding boxes in pixels of the image.
    :param deadline: time of ``time.monotonic()``.
    :param direction: see `TaskRequest`.
    :returns: the positions, and width and height of the image in pixels.
    :raises BadImageError: the image cannot be decoded.
    """
    width, height = frame.size
    if not (width and height):  # A compressed image states its size inside.
        height, width = (await asyncio.to_thread(frame.image)).shape[:2]
    return await locator.locate(parts, (width, height), inputs, deadline, direction=direction), (width, height)


def _query(job: Job, plan: PlanRequest | None) -> Query:
    """Return the job's query without images."""
    return Query(
        task=job.task,
        text=job.origin.text,
        images=(),
        image_ids=job.images.names,
        image_times=job.images.times,
        think=job.think,
        max_tokens=job.max_tokens,
        priority=job.priority,
        max_pixels=job.images.max_pixels,
        plan=plan,
        condition=job.condition,
    )


async def _plan_request(job: Job) -> PlanRequest:
    """Return the request's context, completed with the robots and the step limit of the parameters.

    :raises BadRequestError: see `to_plan_request`.
    """
    if skill_count(job.context) <= _MOST_SKILLS_ON_LOOP:
        request = to_plan_request(job.context)
    else:
        request = await asyncio.to_thread(to_plan_request, job.context)
    # MODE_NEXT_STEP plans one step and takes no limit.
    most = 0 if request.mode is PlanMode.NEXT_STEP else job.max_plan_steps
    return replace(request, robots=request.robots or tuple(job.robots), max_steps=request.max_steps or most)


async def _read_images(images: SelectedImages) -> list[RgbImage]:
    """Decode the images. Large ones are decoded in a thread.

    :raises BadImageError: an image cannot be decoded. The message names the image.
    """
    pixels = sum(map(_pixels_to_convert, images.sources))
    return _decoded(images) if pixels <= _MOST_PIXELS_ON_LOOP else await asyncio.to_thread(_decoded, images)


def _pixels_to_convert(source: Source) -> float:
    """Return the number of pixels of a raw image. It is infinite for a compressed image."""
    if isinstance(source, Image):
        return source.width * source.height
    width, height = source.size if isinstance(source, Frame) else (0, 0)
    return width * height or math.inf


def _decoded(images: SelectedImages) -> list[RgbImage]:
    decoded: dict[int, RgbImage] = {}  # A comparison contains the same image several times.
    for label, source in zip(images.labels, images.sources, strict=True):
        if id(source) in decoded:
            continue
        try:
            decoded[id(source)] = read_image_message(source) if isinstance(source, Image) else source.image()
        except BadImageError as error:
            raise BadImageError(f"{label} cannot be read: {error.message}") from error
    return [decoded[id(source)] for source in images.sources]
