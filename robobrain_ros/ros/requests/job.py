"""The part of a request that runs on the engine's loop: read the images, ask the brain, find the positions."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sensor_msgs.msg import Image

from robobrain_ros.core.brain import Brain
from robobrain_ros.core.plans.request import PlanMode, PlanRequest, Robot
from robobrain_ros.core.query import Answer, Progress, Query, Report, RgbImage, Task
from robobrain_ros.errors import BadImageError, BadRequestError, RequestTimeoutError
from robobrain_ros.msg import PlanContext
from robobrain_ros.ros.cameras.cameras import Frame
from robobrain_ros.ros.messages.conversions import Origin, Positions, read_image_message
from robobrain_ros.ros.messages.plans import skill_count, to_plan_request
from robobrain_ros.ros.positions import Locator, Moment
from robobrain_ros.ros.requests.selection import SelectedImages, Source, source_name
from robobrain_ros.ros.tasks import TASKS

_MOST_PIXELS_ON_LOOP = 1_000_000
"""Pixels of a request's raw images up to which they are decoded on the engine's loop, in less than a millisecond."""
_MOST_SKILLS_ON_LOOP = 100
"""Skills of a context up to which it is read on the engine's loop, in less than a millisecond."""


@dataclass
class Job:
    """A request whose fields have been checked, and what becomes known of it while it runs.

    :param began: time of the request's arrival, as of ``time.monotonic()``; so is ``deadline``.
    :param robots: those of a plan whose context has none.
    :param moment: depth, camera_info and transform of the image; None: the answer gets no positions.
    :param image: the first image, once it was read.
    :param brain_began: when the brain got the query; 0: not yet.
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
    moment: Moment | None = None
    image: RgbImage | None = None
    positions: Positions | None = None
    raw_text: str = ""
    brain_began: float = 0.0

    def origin_with_size(self) -> Origin:
        """Where the answer comes from, with the image's size if the image was read."""
        if self.image is None:
            return self.origin
        height, width = self.image.shape[:2]
        return replace(self.origin, width=width, height=height)

    def report(self, report: Report) -> Report:
        """The brain's report, with its times counted from the request's arrival."""
        before = max(self.brain_began - self.began, 0.0)
        return replace(
            report,
            image_age=self.images.age,
            first_token_time=report.first_token_time + before if report.first_token_time else 0.0,
            first_part_time=report.first_part_time + before if report.first_part_time else 0.0,
            total_time=time.monotonic() - self.began,
        )


async def run_job(job: Job, push: Callable[[Progress], None] | None, locator: Locator) -> Answer:
    """Answer a checked request; runs on the engine's loop.

    :param push: called with the progress of the answer; None: nobody reads it.
    :raises RoboBrainError: the reason why there is no answer.
    """
    plan = await _plan_request(job) if TASKS[job.task].takes_context else None
    images = await _read_images(job.images.sources)
    job.image = images[0]
    job.brain_began = time.monotonic()
    if job.brain_began >= job.deadline:
        raise RequestTimeoutError("The deadline passed while the node read the images. Increase the timeout.")

    def on_progress(progress: Progress) -> None:
        job.raw_text += progress.text
        if push is not None:
            push(progress)

    query = Query(
        task=job.task,
        text=job.origin.text,
        images=images,
        image_ids=[frame.name for frame in job.images.frames],
        think=job.think,
        timeout=job.deadline - job.brain_began,
        max_tokens=job.max_tokens,
        priority=job.priority,
        max_pixels=job.images.max_pixels,
        plan=plan,
    )
    try:
        answer = await job.brain.run(query, on_progress)
    except BadRequestError as error:
        if not job.context.robots and error.message.startswith("context.robots"):
            error.message += " (The robots come from parameter robots_file.)"
        raise
    if job.moment is not None:
        height, width = job.image.shape[:2]
        job.positions = await locator.locate(answer, (width, height), job.moment, job.deadline)
    return answer


async def _plan_request(job: Job) -> PlanRequest:
    """The request's context, completed with the robots and the step limit of the parameters.

    :raises BadRequestError: as of `to_plan_request`.
    """
    if skill_count(job.context) <= _MOST_SKILLS_ON_LOOP:
        request = to_plan_request(job.context)
    else:
        request = await asyncio.to_thread(to_plan_request, job.context)
    # MODE_NEXT_STEP plans one step and takes no limit.
    most = 0 if request.mode is PlanMode.NEXT_STEP else job.max_plan_steps
    return replace(request, robots=request.robots or tuple(job.robots), max_steps=request.max_steps or most)


async def _read_images(sources: Sequence[Source]) -> list[RgbImage]:
    """Read the images, in a thread if that takes longer than a thread's start.

    :raises BadImageError: an image cannot be read; the message names the image.
    """
    messages = [source.message if isinstance(source, Frame) else source for source in sources]
    pixels = sum(message.width * message.height if isinstance(message, Image) else math.inf for message in messages)
    return _decoded(sources) if pixels <= _MOST_PIXELS_ON_LOOP else await asyncio.to_thread(_decoded, sources)


def _decoded(sources: Sequence[Source]) -> list[RgbImage]:
    images = []
    for number, source in enumerate(sources, start=1):
        try:
            images.append(source.image() if isinstance(source, Frame) else read_image_message(source))
        except BadImageError as error:
            raise BadImageError(f"{source_name(source, number)} cannot be read: {error.message}") from error
    return images
