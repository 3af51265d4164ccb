"""Convert answers to messages."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robobrain_ros.bounds.texts import clean, shortened
from robobrain_ros.core.messages.positions import Positions
from robobrain_ros.core.plans.behavior_tree import behavior_tree
from robobrain_ros.core.plans.request import PlanVerdict
from robobrain_ros.core.plans.roboos import roboos_json
from robobrain_ros.core.query import Answer, Box, PlanStep, Point, Report, Task
from robobrain_ros.core.surfaces import Lifted

_LONGEST_SENTENCE = 4000
"""Maximum characters of an outcome's message or of a note, because they can quote texts of a caller or publisher."""


@dataclass(frozen=True)
class Origin:
    """The request of an answer: its text, and the header (std_msgs/Header), camera and size (pixels) of its image.

    :param camera: name of the camera, or empty if the image came with the request.
    :param query: name of the standing query, or empty if a service or an action sent the request.
    """

    header: Any
    text: str
    camera: str = ""
    query: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class MessageTypes:
    """The classes of the messages. They take all fields as keyword arguments."""

    Affordances: Any
    AffordanceArea: Any
    AffordancePoint: Any
    InferenceReport: Any
    Plan: Any
    PlanStep: Any
    TextAnswer: Any
    Trajectory: Any
    Waypoint: Any
    Point: Any
    RegionOfInterest: Any
    Time: Any


class AnswerMessages:
    """Converts answers to messages of these types.

    ``origin`` is the request of an answer, ``report`` the message of its report, and ``positions`` its positions. A
    position that is not passed is NaN.
    """

    def __init__(self, types: MessageTypes) -> None:
        self._types = types

    def affordances(
        self, task: Task, origin: Origin, answer: Answer | None, report: Any, positions: Positions | None = None
    ) -> Any:
        """Return the message of point, affordance or ground. Without an answer, it has no points and bounding boxes."""
        points, boxes = (answer.points, answer.boxes) if answer else ((), ())
        return self._types.Affordances(
            header=positions.header if positions else origin.header,
            task=task.value,
            instruction=clean(origin.text),
            query=origin.query,
            camera=origin.camera,
            image_width=origin.width,
            image_height=origin.height,
            points=self.points(points, positions.points if positions else None),
            areas=self.areas(boxes, origin.width, origin.height, positions.boxes if positions else None),
            position_note=short_sentence(positions.note) if positions else "",
            report=report,
        )

    def trajectory(self, origin: Origin, answer: Answer | None, report: Any, positions: Positions | None = None) -> Any:
        """Return the message of trajectory, without poses and findings. Without an answer, it has no waypoints."""
        return self._types.Trajectory(
            header=positions.header if positions else origin.header,
            instruction=clean(origin.text),
            query=origin.query,
            camera=origin.camera,
            image_width=origin.width,
            image_height=origin.height,
            waypoints=self.waypoints(answer.waypoints, positions.waypoints if positions else None) if answer else [],
            poses=[],
            issues=[],
            unchecked=[],
            position_note=short_sentence(positions.note) if positions else "",
            report=report,
        )

    def text_answer(self, origin: Origin, answer: Answer | None, report: Any, positions: Positions | None = None) -> Any:
        """Return the message of ask. Without an answer, it has no text."""
        return self._types.TextAnswer(
            header=origin.header,
            question=clean(origin.text),
            query=origin.query,
            camera=origin.camera,
            text=clean(answer.text) if answer else "",
            report=report,
        )

    def plan(self, origin: Origin, answer: Answer | None, report: Any, positions: Positions | None = None) -> Any:
        """Return the message of plan. Without an answer, it has no steps."""
        verdict = PlanVerdict.PLAN if answer is None else answer.verdict
        steps = answer.steps if answer else ()
        reasoning = answer.reasoning if answer else ""
        return self._types.Plan(
            header=origin.header,
            task=clean(origin.text),
            query=origin.query,
            camera=origin.camera,
            verdict=verdicts(self._types.Plan)[verdict],
            steps=self.steps(steps),
            reasoning=clean(reasoning),
            behavior_tree=clean(behavior_tree(steps)),
            roboos_json=clean(roboos_json(steps, reasoning)) if answer else "",
            report=report,
        )

    def points(self, points: Sequence[Point], lifted: Lifted | None = None) -> list[Any]:
        """Return messages of points. Without ``lifted``, positions are unknown."""
        return [
            self._types.AffordancePoint(u=point.u, v=point.v, position=position, clamped=point.clamped, label=clean(point.label))
            for point, position in zip(points, self._positions(len(points), lifted), strict=True)
        ]

    def areas(self, boxes: Sequence[Box], width: int, height: int, lifted: Lifted | None = None) -> list[Any]:
        """Return messages of bounding boxes in an image of this size in pixels. Without ``lifted``, positions are unknown."""
        return [
            self._types.AffordanceArea(
                roi=self._region(box, width, height),
                u_min=box.u_min,
                v_min=box.v_min,
                u_max=box.u_max,
                v_max=box.v_max,
                position=position,
                clamped=box.clamped,
                label=clean(box.label),
            )
            for box, position in zip(boxes, self._positions(len(boxes), lifted), strict=True)
        ]

    def waypoints(self, points: Sequence[Point], lifted: Lifted | None = None) -> list[Any]:
        """Return messages of waypoints with the depth that the model estimated. Without ``lifted``, positions are unknown."""
        interpolated = [False] * len(points) if lifted is None else lifted.interpolated.tolist()
        return [
            self._types.Waypoint(
                u=point.u,
                v=point.v,
                depth=_float32(point.depth),
                position=position,
                interpolated=between,
                clamped=point.clamped,
            )
            for point, position, between in zip(points, self._positions(len(points), lifted), interpolated, strict=True)
        ]

    def steps(self, steps: Iterable[PlanStep]) -> list[Any]:
        """Return messages of plan steps in the same order."""
        return [
            self._types.PlanStep(
                order=min(max(step.order, 0), 2**32 - 1),
                robot=clean(step.robot),
                skill=clean(step.skill),
                arguments=clean(step.arguments),
                text=clean(step.text),
            )
            for step in steps
        ]

    def report(self, report: Report, thinking: str = "") -> Any:
        """Return the message of a report; ``thinking`` is the text of the thinking."""
        width, height = report.model_image_sizes[0] if report.model_image_sizes else (0, 0)
        return self._types.InferenceReport(
            model=clean(report.model),
            engine=clean(report.engine),
            flagos_active=report.flagos_active,
            flagos_operators=[clean(name) for name in report.flagos_operators],
            profile=clean(report.profile),
            think=report.think,
            image_age=report.image_age,
            queue_time=report.queue_time,
            first_token_time=report.first_token_time,
            first_part_time=report.first_part_time,
            total_time=report.total_time,
            prompt_tokens=report.prompt_tokens,
            thinking_tokens=report.thinking_tokens,
            answer_tokens=report.answer_tokens,
            finish_reason=clean(report.finish_reason),
            raw_text=clean(report.raw_text),
            thinking=clean(thinking),
            model_image_width=width,
            model_image_height=height,
            stamps=[self._types.Time(sec=seconds, nanosec=nanoseconds) for seconds, nanoseconds in report.stamps],
        )

    def _positions(self, count: int, lifted: Lifted | None) -> list[Any]:
        if lifted is None:
            return [self._unknown_position() for _ in range(count)]
        return [self._types.Point(x=x, y=y, z=z) for x, y, z in lifted.positions.tolist()]

    def _region(self, box: Box, width: int, height: int) -> Any:
        """Return the whole pixels that a bounding box covers. Pixel i extends from i - 0.5 to i + 0.5."""
        left, columns = covered(box.u_min, box.u_max, width)
        top, rows = covered(box.v_min, box.v_max, height)
        return self._types.RegionOfInterest(x_offset=left, y_offset=top, width=columns, height=rows, do_rectify=False)

    def _unknown_position(self) -> Any:
        return self._types.Point(x=math.nan, y=math.nan, z=math.nan)


def verdicts(plan_type: Any) -> dict[PlanVerdict, int]:
    """Return the constant of each verdict in robobrain_ros/Plan. For an impossible task, the outcome is NOTHING_FOUND."""
    return {
        PlanVerdict.PLAN: plan_type.VERDICT_PLAN,
        PlanVerdict.DONE: plan_type.VERDICT_DONE,
        PlanVerdict.NOT_DONE: plan_type.VERDICT_NOT_DONE,
    }


def short_sentence(text: str) -> str:
    """Return a sentence without control characters, shortened to the limit of a message."""
    return clean(shortened(text, _LONGEST_SENTENCE))


def covered(low: float, high: float, size: int) -> tuple[int, int]:
    """Return the first of the ``size`` pixels that an interval touches, and the number of these pixels."""
    first = min(max(math.floor(low + 0.5), 0), size - 1)
    last = min(max(math.ceil(high - 0.5), first), size - 1)
    return first, last - first + 1


def _float32(value: float | None) -> float:
    """Return the number if a float32 can represent it; otherwise, and for None, NaN."""
    return math.nan if value is None or not abs(value) <= np.finfo(np.float32).max else value
