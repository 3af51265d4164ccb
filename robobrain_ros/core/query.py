"""What is asked and what is answered: plain data, no ROS, no engine."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from robobrain_ros.core.plans.request import PlanRequest, Verdict

RgbImage = npt.NDArray[np.uint8]
"""An RGB image: shape (height, width, 3), uint8, rows from top to bottom."""


class Task(str, Enum):
    """What the model is asked to do."""

    ASK = "ask"
    POINT = "point"
    AFFORDANCE = "affordance"
    TRAJECTORY = "trajectory"
    GROUND = "ground"
    PLAN = "plan"

    @property
    def spatial(self) -> bool:
        """True when the answer is coordinates in one image."""
        return self in (Task.POINT, Task.AFFORDANCE, Task.TRAJECTORY, Task.GROUND)


@dataclass(frozen=True)
class Query:
    """One question about one or more images.

    ``images`` are RGB images as the camera gave them; spatial tasks take exactly one. ``image_ids`` optionally names each
    image uniquely (camera, stamp, size), so that an engine can reuse what it computed for the same image; an empty name
    leaves that to the engine. ``max_pixels`` optionally says for each image how many pixels it may have in the model's eyes,
    where those are fewer than the brain's own; 0: the brain's. ``None`` means the brain's default; ``timeout`` is in seconds,
    ``max_tokens`` bounds the answer (thinking has its own budget); a plan for robots must not be cut, so its own form bounds it
    instead. ``plan``: what a robot stack knows, for the task plan; None, or one without robots: a plan in words.
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


@dataclass(frozen=True)
class Point:
    """A point in an image.

    ``u`` to the right and ``v`` down, in pixels; (0, 0) is the centre of the top left pixel. ``depth`` in metres along the
    optical axis where the model itself gave one (RoboBrain 2.5), else None. ``clamped``: the model's point lay outside of the
    image and was moved to its border.
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
    """An axis-aligned rectangle in an image, in pixels as of `Point`; ``u_min <= u_max`` and ``v_min <= v_max``."""

    u_min: float
    v_min: float
    u_max: float
    v_max: float
    clamped: bool = False
    label: str = ""


@dataclass(frozen=True)
class PlanStep:
    """One step of a plan. Steps of equal ``order`` (from 1) may run in parallel; unknown parts are empty."""

    order: int
    text: str
    robot: str = ""
    skill: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class ParsedAnswer:
    """What an answer's text says, coordinates as the model wrote them (see the profile's coordinate rule).

    ``nothing_found``: the model says in form that what was asked for is not there (an empty list, "There is no ...").
    ``normalized``: the coordinates are fractions, 0..1, of the image's width and height, whatever the profile's rule.
    ``reasoning``: what a plan's text says beside its steps.
    """

    task: Task
    text: str = ""
    thinking: str = ""
    points: tuple[Point, ...] = ()
    boxes: tuple[Box, ...] = ()
    waypoints: tuple[Waypoint, ...] = ()
    steps: tuple[PlanStep, ...] = ()
    reasoning: str = ""
    verdict: Verdict = Verdict.PLAN
    nothing_found: bool = False
    normalized: bool = False


@dataclass
class Report:
    """How an answer came about. Times in seconds; token counts of the model's own tokenizer.

    ``raw_text`` is exactly what the model wrote; between its thinking and its answer stand the tags that made it answer. When
    an empty answer made the brain ask once more, it is the second answer's, but the tokens of both are counted.
    ``first_part_time``: until the first point, box, waypoint or step was complete; 0: none was before the answer's end.
    """

    model: str = ""
    engine: str = ""
    flagos_active: bool = False
    flagos_operators: tuple[str, ...] = ()
    """FlagGems operators that had run in the engine by the end of the request."""
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
    """(width, height) of each image as the model saw it."""


@dataclass(frozen=True)
class Answer:
    """The answer to a `Query`: as `ParsedAnswer`, but all coordinates in the pixels of the query's own image."""

    task: Task
    text: str
    thinking: str = ""
    points: tuple[Point, ...] = ()
    boxes: tuple[Box, ...] = ()
    waypoints: tuple[Waypoint, ...] = ()
    steps: tuple[PlanStep, ...] = ()
    reasoning: str = ""
    verdict: Verdict = Verdict.PLAN
    report: Report = field(default_factory=Report)


@dataclass(frozen=True)
class Progress:
    """What has become known of an answer that is still being written: new text, and parts completed by it."""

    text: str
    thinking: bool
    points: tuple[Point, ...] = ()
    boxes: tuple[Box, ...] = ()
    waypoints: tuple[Waypoint, ...] = ()
    steps: tuple[PlanStep, ...] = ()
