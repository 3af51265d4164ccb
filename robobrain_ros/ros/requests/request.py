"""A request as it arrives, and the checks that need neither camera nor model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from sensor_msgs.msg import Image

from robobrain_ros.core.approach import Direction
from robobrain_ros.core.query import CAMERA_TASKS, TIMED_TASKS, Task
from robobrain_ros.engine.base import MOST_IMAGES
from robobrain_ros.errors import BadRequestError
from robobrain_ros.msg import PlanContext, QueryOptions
from robobrain_ros.ros.cameras.history import KeptFrame
from robobrain_ros.ros.cameras.images import Frame
from robobrain_ros.ros.limits import (
    LEAST_HISTORY,
    LEAST_TIMEOUT,
    LONGEST_HISTORY,
    MOST_CAMERAS,
    MOST_NAME,
    MOST_TEXT,
    MOST_TIMEOUT,
)
from robobrain_ros.srv import EstimateProgress

THINK = {QueryOptions.THINK_DEFAULT: None, QueryOptions.THINK_OFF: False, QueryOptions.THINK_ON: True}
"""``Query.think`` for each constant of `QueryOptions.think`. None means the node's default."""


Source: TypeAlias = Frame | KeptFrame | Image
"""An image of a request: a frame of a camera, or an image in the request."""


@dataclass(frozen=True)
class Comparison:
    """The images of a request to compare two moments of a task; see `core.progress.comparison`.

    :param after: views of the later moment. Empty: the newest images of the request's cameras.
    :param publish: whether the answer appears on ~/progress.
    """

    reference_start: Source
    reference_end: Source
    before: Sequence[Source]
    after: Sequence[Source] = ()
    publish: bool = True

    @classmethod
    def of(cls, request: EstimateProgress.Request) -> "Comparison":
        """Return the images of a service request."""
        return cls(request.reference_start, request.reference_end, request.before, request.after)


@dataclass(frozen=True)
class TaskRequest:
    """A request of a service, a goal or a standing query, not checked.

    :param task: name of the task.
    :param text: the instruction or question.
    :param query: name of the standing query, or empty if a service or goal sent the request.
    :param context: context of a plan. It must be empty for other tasks.
    :param frame: image of the first camera. None means the newest image when the request is checked.
    :param condition: whether the text is a question that is answered with yes or no; see `core.query.Query`.
    :param comparison: images of the task progress. None means another task.
    :param background: whether requests of clients have priority over this one.
    :param direction: from where a gripper approaches the object. None: along the surface normal, without a check of the gripper.
    """

    task: str
    text: str
    options: QueryOptions
    query: str = ""
    context: PlanContext = field(default_factory=PlanContext)
    frame: Frame | None = None
    condition: bool = False
    comparison: Comparison | None = None
    background: bool = False
    direction: Direction | None = None

    @property
    def publishes(self) -> bool:
        """Whether the result appears on the result topics and the views."""
        return self.comparison is None or self.comparison.publish

    def parsed_task(self) -> Task:
        """Return the task.

        :raises BadRequestError: there is no such task.
        """
        return parse_task(self.task) if self.comparison is None else Task.PROGRESS


def parse_task(name: str) -> Task:
    """Return the task of this name about images of cameras.

    :raises BadRequestError: there is no such task.
    """
    tasks = {task.value: task for task in CAMERA_TASKS}
    if name not in tasks:
        raise BadRequestError(f"There is no task {name[:MOST_NAME]!r}. The tasks are: {', '.join(tasks)}.")
    return tasks[name]


def check_text(text: str, field: str) -> None:
    """Check an instruction or question.

    :param field: name of the text in the error's message.
    :raises BadRequestError: the text is empty or too long.
    """
    if not text.strip():
        raise BadRequestError(f"The {field} is empty. State what to look for or what to do.")
    if len(text) > MOST_TEXT:
        raise BadRequestError(f"The {field} has {len(text)} characters; at most {MOST_TEXT} are allowed. Shorten it.")


def check_options(options: QueryOptions) -> None:
    """Check the values of options, except the names of cameras.

    :raises BadRequestError: a value is outside of the bounds that the message's definition states.
    """
    if options.think not in THINK:
        raise BadRequestError(f"think is {options.think}; it must be THINK_DEFAULT (0), THINK_OFF (1) or THINK_ON (2).")
    if options.timeout and not LEAST_TIMEOUT <= options.timeout <= MOST_TIMEOUT:
        raise BadRequestError(
            f"timeout is {options.timeout:g} s; it must be 0 (the node's default) or {LEAST_TIMEOUT:g} to {MOST_TIMEOUT:g} s."
        )
    if len(options.cameras) > MOST_CAMERAS:
        raise BadRequestError(f"cameras contains {len(options.cameras)} names; at most {MOST_CAMERAS} are allowed.")
    for name in (options.camera, *options.cameras):
        if len(name) > MOST_NAME:
            raise BadRequestError(f"The name of a camera has {len(name)} characters; at most {MOST_NAME} are allowed.")


def wants_history(options: QueryOptions) -> bool:
    """Return whether a request asks for recent images of its camera."""
    return bool(options.history_seconds or options.history_frames)


def check_times(options: QueryOptions, task: Task) -> None:
    """Check the fields about images of different times: ``history_seconds``, ``history_frames`` and ``images_in_time``.

    :raises BadRequestError: a value is outside of its bounds, or the fields contradict each other or the task.
    """
    if not (wants_history(options) or options.images_in_time):
        return
    if task not in TIMED_TASKS:
        tasks = " and ".join(each.value for each in TIMED_TASKS)
        raise BadRequestError(
            f"The task {task.value} takes no images of different times. Only {tasks} do: leave history_seconds, history_frames "
            "and images_in_time unset."
        )
    if not wants_history(options):
        if len(options.images) < 2:
            raise BadRequestError(f"images_in_time needs at least 2 images, not {len(options.images)} (field images).")
        return
    seconds, frames = options.history_seconds, options.history_frames
    if options.images:
        raise BadRequestError(
            "history and images are both set. Leave images empty, or set images_in_time instead of history_seconds and "
            "history_frames."
        )
    if options.images_in_time:
        raise BadRequestError("images_in_time needs images. With history_seconds, leave it false.")
    if len(options.cameras) > 1:
        raise BadRequestError(f"The history of one camera is available, not of {len(options.cameras)} (field cameras).")
    if not seconds or not frames:
        raise BadRequestError(f"history_seconds is {seconds:g} and history_frames is {frames}. Set both, or none.")
    if not LEAST_HISTORY <= seconds <= LONGEST_HISTORY:
        raise BadRequestError(f"history_seconds is {seconds:g}; it must be 0, or {LEAST_HISTORY:g} to {LONGEST_HISTORY:g} s.")
    if not 2 <= frames <= MOST_IMAGES:
        raise BadRequestError(f"history_frames is {frames}; it must be 0, or 2 to {MOST_IMAGES}.")
