"""Queries and answers as plain dataclasses, independent of ROS and engines."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from robobrain_ros.core.plans.request import PlanRequest, PlanVerdict

RgbImage = npt.NDArray[np.uint8]
"""An RGB image: shape (height, width, 3), uint8, rows from top to bottom."""


class Task(str, Enum):
    """The kind of a query. The value is the name of the task in messages, in parameters and on the command line."""

    ASK = "ask"
    POINT = "point"
    AFFORDANCE = "affordance"
    TRAJECTORY = "trajectory"
    GROUND = "ground"
    PLAN = "plan"
    PROGRESS = "progress"

    @property
    def spatial(self) -> bool:
        """Whether the answer consists of coordinates in one image."""
        return self in (Task.POINT, Task.AFFORDANCE, Task.TRAJECTORY, Task.GROUND)


CAMERA_TASKS = tuple(task for task in Task if task is not Task.PROGRESS)
"""Tasks about the images of one moment, which cameras provide. `Task.PROGRESS` compares two moments."""
TIMED_TASKS = (Task.ASK, Task.PLAN)
"""Tasks that take images of one view at different times."""


@dataclass(frozen=True)
class Defaults:
    """Settings of a `core.brain.Brain` that a query does not set.

    :param think: whether the model thinks before its answer, if it was trained to think.
    :param think_tokens: token limit of the thinking. At this limit, the thinking ends and the model answers.
    :param max_tokens: token limit of an answer, without its thinking.
    :param timeout: seconds from the request to its answer.
    :param constrain_coordinates: whether a grammar limits answers to spatial tasks to coordinates within the image, and answers
        to conditions to yes or no. Thinking is never constrained.
    """

    think: bool = False
    think_tokens: int = 768
    max_tokens: int = 512
    timeout: float = 60.0
    constrain_coordinates: bool = True


@dataclass(frozen=True)
class Query:
    """One question about one or more images.

    :param task: the task.
    :param text: the question or instruction.
    :param images: RGB images in the camera's size. Spatial tasks take exactly one image. `Task.PROGRESS` takes the images of
        `core.progress.comparison`.
    :param image_ids: a unique name for each image (camera, stamp, size), with which an engine reuses its results for the same
        image. Empty: the engine recognizes images itself.
    :param think: whether the model thinks first. None means the brain's default.
    :param timeout: seconds until the deadline. None means the brain's default.
    :param max_tokens: token limit of the answer, without its thinking. None means the brain's default. A plan for robots has its
        own limit instead, because a truncated plan is not valid.
    :param priority: lower values are served first.
    :param max_pixels: a pixel limit for each image. The brain's limit applies if it is lower, if the value is 0, or if the list
        is empty.
    :param plan: robots, scene and history for the task plan. None, or no robots: the plan is text.
    :param condition: whether the text is a question that is answered with yes or no. Only the task ask supports this. The prompt
        is the same, and the answer is constrained.
    :param image_times: seconds of each image relative to the newest one, which is the last: increasing, and 0 for the last. The
        images show one view at different times. Only for `TIMED_TASKS`. Empty: the images are of one time.
    """

    task: Task
    text: str
    images: Sequence[RgbImage]
    image_ids: Sequence[str] = ()
    think: bool | None = None
    timeout: float | None = None
    max_tokens: int | None = None
    priority: int = 0
    max_pixels: Sequence[int] = ()
    plan: PlanRequest | None = None
    condition: bool = False
    image_times: Sequence[float] = ()


@dataclass(frozen=True)
class Point:
    """A point in an image.

    :param u: pixels to the right; (0, 0) is the centre of the top left pixel.
    :param v: pixels down.
    :param depth: metres along the optical axis, if the model estimates depth (RoboBrain 2.5); otherwise None.
    :param clamped: whether the model's point was outside of the image. Then it was moved to the border of the image.
    :param label: the model's name for the object, or an empty string.
    """

    u: float
    v: float
    depth: float | None = None
    clamped: bool = False
    label: str = ""


Waypoint = Point
"""A trajectory is a sequence of points in the order of motion."""


@dataclass(frozen=True)
class Box:
    """A bounding box in an image, in the pixels of `Point`. ``u_min <= u_max`` and ``v_min <= v_max``."""

    u_min: float
    v_min: float
    u_max: float
    v_max: float
    clamped: bool = False
    label: str = ""


@dataclass(frozen=True)
class PlanStep:
    """One step of a plan. Steps with the same ``order`` (from 1) may run in parallel. Unknown fields are empty."""

    order: int
    text: str
    robot: str = ""
    skill: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class AnswerContent:
    """The content of a model's answer. Fields that the task does not use are empty.

    :param text: the answer without the thinking.
    :param reasoning: the text of a plan without its steps.
    :param score: the change between two moments in percent, -100 to 100, for `Task.PROGRESS`. `core.progress` describes it.
    :param holds: whether a condition holds (yes). None: the query was no condition.
    :param confidence: probability (0.5 to 1) of the answer to a condition, relative to both answers, yes and no. None: unknown,
        because the query was no condition or the engine does not report probabilities.
    """

    task: Task
    text: str = ""
    thinking: str = ""
    points: tuple[Point, ...] = ()
    boxes: tuple[Box, ...] = ()
    waypoints: tuple[Waypoint, ...] = ()
    steps: tuple[PlanStep, ...] = ()
    reasoning: str = ""
    verdict: PlanVerdict = PlanVerdict.PLAN
    score: int | None = None
    holds: bool | None = None
    confidence: float | None = None

    @property
    def targets(self) -> tuple[Point | Box, ...]:
        """The points, then the bounding boxes."""
        return (*self.points, *self.boxes)


@dataclass(frozen=True)
class ParsedAnswer(AnswerContent):
    """The content of an answer's text, with coordinates as the model wrote them (see `CoordinateRule`).

    :param nothing_found: whether the model reports that the object is missing (an empty list, "There is no ...").
    :param normalized: whether the coordinates are fractions (0 to 1) of the image's width and height. This overrides the
        profile's `CoordinateRule`.
    """

    nothing_found: bool = False
    normalized: bool = False


@dataclass
class Report:
    """Measurements of a request. Times are in seconds since its start. Tokens are tokens of the model's tokenizer.

    ``raw_text`` is the unchanged text of the model, with the tags that separate thinking and answer. If the brain asked again
    after an empty answer, ``raw_text`` is the second answer, and the token counts include both answers. ``first_part_time`` is
    the time until the first point, box, waypoint or step was complete. 0: none was complete before the end.
    """

    model: str = ""
    engine: str = ""
    flagos_active: bool = False
    flagos_operators: tuple[str, ...] = ()
    """FlagGems operators that ran in the engine until the end of the request."""
    profile: str = ""
    """Name of the model profile, and how it was identified."""
    think: bool = False
    image_age: float = 0.0
    queue_time: float = 0.0
    first_token_time: float = 0.0
    first_part_time: float = 0.0
    total_time: float = 0.0
    prompt_tokens: int = 0
    thinking_tokens: int = 0
    answer_tokens: int = 0
    finish_reason: str = ""
    raw_text: str = ""
    model_image_sizes: list[tuple[int, int]] = field(default_factory=list)
    """(width, height) of each image after resizing for the model."""
    stamps: list[tuple[int, int]] = field(default_factory=list)
    """Stamp of each image in a message, as seconds and nanoseconds. Without ROS, it is empty."""


@dataclass(frozen=True)
class Answer(AnswerContent):
    """The answer to a `Query`. All coordinates are in the pixels of the query's image."""

    report: Report = field(default_factory=Report)


@dataclass(frozen=True)
class PartialAnswer:
    """New text of an answer that the model is still writing, and the parts that this text completes."""

    text: str
    thinking: bool
    points: tuple[Point, ...] = ()
    boxes: tuple[Box, ...] = ()
    waypoints: tuple[Waypoint, ...] = ()
    steps: tuple[PlanStep, ...] = ()
