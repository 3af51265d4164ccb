"""Convert image messages to images, and answers to messages."""

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point as PointMessage
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from robobrain_ros.bounds.texts import clean, shortened
from robobrain_ros.core.geometry import CameraModel, Floats
from robobrain_ros.core.progress import FULL_SCORE, ProgressEstimate
from robobrain_ros.core.query import Answer, Box, PlanStep, Point, Report, RgbImage, Task
from robobrain_ros.core.surfaces import Lifted
from robobrain_ros.errors import OutcomeCode, RoboBrainError
from robobrain_ros.msg import (
    AffordanceArea,
    AffordancePoint,
    Affordances,
    InferenceReport,
    Outcome,
    Progress,
    TextAnswer,
    Trajectory,
    Waypoint,
)
from robobrain_ros.msg import PlanStep as PlanStepMessage
from robobrain_ros.ros.cameras.images import ImageReader
from robobrain_ros.ros.messages.unknown import unknown, unknown_position

_LONGEST_SENTENCE = 4000
"""Maximum characters of an outcome's message or of a note, because they can quote texts of a caller or publisher."""

_reader = ImageReader()


def read_image_message(message: Image | CompressedImage) -> RgbImage:
    """Return a copy of the image of a request: RGB, (height, width, 3), uint8.

    :raises BadImageError: the message cannot be read.
    """
    return _reader.read(message)


@dataclass(frozen=True)
class Origin:
    """The request of an answer: its text, and the header, camera and size (pixels) of its image.

    :param camera: name of the camera, or empty if the image came with the request.
    :param query: name of the standing query, or empty if a service or an action sent the request.
    """

    header: Header
    text: str
    camera: str = ""
    query: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Positions:
    """Positions of an answer's points, bounding boxes and waypoints, in the order of the answer, or None if there are none.

    :param header: the image's stamp, and the frame of the positions.
    :param note: which positions are missing, why, and what to do, or empty if no positions are missing.
    :param camera: maps pixels to rays in the image's frame, or None if unknown.
    :param move: transforms positions (n, 3) from the image's frame to the header's frame, or None if both are the same.
    """

    header: Header
    points: Lifted | None = None
    boxes: Lifted | None = None
    waypoints: Lifted | None = None
    note: str = ""
    camera: CameraModel | None = None
    move: Callable[[Floats], Floats] | None = None


def to_affordances(
    task: Task, origin: Origin, answer: Answer | None, report: InferenceReport, positions: Positions | None = None
) -> Affordances:
    """Return the message of point, affordance or ground. Without an answer, it has no points and bounding boxes."""
    message = Affordances(
        header=positions.header if positions else origin.header,
        task=task.value,
        instruction=clean(origin.text),
        query=origin.query,
        camera=origin.camera,
        image_width=origin.width,
        image_height=origin.height,
        position_note=_sentence(positions.note) if positions else "",
        report=report,
    )
    if answer is not None:
        message.points = to_points(answer.points, positions.points if positions else None)
        message.areas = to_areas(answer.boxes, origin.width, origin.height, positions.boxes if positions else None)
    return message


def to_trajectory(
    origin: Origin, answer: Answer | None, report: InferenceReport, positions: Positions | None = None
) -> Trajectory:
    """Return the message of trajectory. Without an answer, it has no waypoints."""
    return Trajectory(
        header=positions.header if positions else origin.header,
        instruction=clean(origin.text),
        query=origin.query,
        camera=origin.camera,
        image_width=origin.width,
        image_height=origin.height,
        waypoints=to_waypoints(answer.waypoints, positions.waypoints if positions else None) if answer else [],
        position_note=_sentence(positions.note) if positions else "",
        report=report,
    )


def to_text_answer(
    origin: Origin, answer: Answer | None, report: InferenceReport, positions: Positions | None = None
) -> TextAnswer:
    """Return the message of ask. Without an answer, it has no text."""
    return TextAnswer(
        header=origin.header,
        question=clean(origin.text),
        query=origin.query,
        camera=origin.camera,
        text=clean(answer.text) if answer else "",
        report=report,
    )


def to_progress(origin: Origin, answer: Answer | None, report: InferenceReport, positions: Positions | None = None) -> Progress:
    """Return the message of a single comparison. Without an answer, its change is unknown."""
    message = _progress_of(origin, report)
    if answer is not None and answer.score is not None:
        message.change = answer.score / FULL_SCORE
    return message


def to_estimate(origin: Origin, estimate: ProgressEstimate, report: InferenceReport) -> Progress:
    """Return the message of an estimate from several perspectives."""
    message = _progress_of(origin, report)
    message.progress, message.change, message.uncertainty = estimate.progress, estimate.change, estimate.uncertainty
    for perspective, progress in estimate.by_perspective.items():
        setattr(message, perspective.value, progress)
    return message


def _progress_of(origin: Origin, report: InferenceReport) -> Progress:
    message = unknown(Progress)
    message.header, message.task, message.camera, message.report = origin.header, clean(origin.text), origin.camera, report
    return message


def to_points(points: Sequence[Point], lifted: Lifted | None = None) -> list[AffordancePoint]:
    """Return messages of points. Without ``lifted``, positions are unknown."""
    return [
        AffordancePoint(u=point.u, v=point.v, position=position, clamped=point.clamped, label=clean(point.label))
        for point, position in zip(points, _positions(len(points), lifted), strict=True)
    ]


def to_areas(boxes: Sequence[Box], width: int, height: int, lifted: Lifted | None = None) -> list[AffordanceArea]:
    """Return messages of bounding boxes in an image of this size in pixels. Without ``lifted``, positions are unknown."""
    return [
        AffordanceArea(
            roi=_region(box, width, height),
            u_min=box.u_min,
            v_min=box.v_min,
            u_max=box.u_max,
            v_max=box.v_max,
            position=position,
            clamped=box.clamped,
            label=clean(box.label),
        )
        for box, position in zip(boxes, _positions(len(boxes), lifted), strict=True)
    ]


def to_waypoints(points: Sequence[Point], lifted: Lifted | None = None) -> list[Waypoint]:
    """Return messages of waypoints with the depth that the model estimated. Without ``lifted``, positions are unknown."""
    interpolated = [False] * len(points) if lifted is None else lifted.interpolated.tolist()
    return [
        Waypoint(
            u=point.u,
            v=point.v,
            depth=_float32(point.depth),
            position=position,
            interpolated=between,
            clamped=point.clamped,
        )
        for point, position, between in zip(points, _positions(len(points), lifted), interpolated, strict=True)
    ]


def _positions(count: int, lifted: Lifted | None) -> list[PointMessage]:
    if lifted is None:
        return [unknown_position() for _ in range(count)]
    return [PointMessage(x=x, y=y, z=z) for x, y, z in lifted.positions.tolist()]


def to_steps(steps: Iterable[PlanStep]) -> list[PlanStepMessage]:
    """Return messages of plan steps in the same order."""
    return [
        PlanStepMessage(
            order=min(max(step.order, 0), 2**32 - 1),
            robot=clean(step.robot),
            skill=clean(step.skill),
            arguments=clean(step.arguments),
            text=clean(step.text),
        )
        for step in steps
    ]


def to_report(report: Report, thinking: str = "") -> InferenceReport:
    """Return the message of a report; ``thinking`` is the text of the thinking."""
    width, height = report.model_image_sizes[0] if report.model_image_sizes else (0, 0)
    return InferenceReport(
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
        stamps=[Time(sec=seconds, nanosec=nanoseconds) for seconds, nanoseconds in report.stamps],
    )


def to_outcome(error: RoboBrainError | None, note: str = "") -> Outcome:
    """Return the outcome of a request.

    :param error: None: the request succeeded.
    :param note: states which positions or images of a successful request are missing.
    """
    if error is None:
        return Outcome(code=int(OutcomeCode.OK), message=_sentence(note))
    return Outcome(code=int(error.code), message=_sentence(error.message))


def to_image(image: RgbImage, header: Header) -> Image:
    """Return an RGB image (height, width, 3), uint8, as a message with encoding rgb8."""
    height, width = image.shape[:2]
    message = Image(header=header, height=height, width=width, encoding="rgb8", is_bigendian=0, step=width * 3)
    # The message does not check an array. It would check each byte of a bytes object, which takes 20 ms for a full-HD image.
    message.data = array("B", image.tobytes())
    return message


def _sentence(text: str) -> str:
    return clean(shortened(text, _LONGEST_SENTENCE))


def _region(box: Box, width: int, height: int) -> RegionOfInterest:
    """Return the whole pixels that a bounding box covers. Pixel i extends from i - 0.5 to i + 0.5."""
    left, columns = _covered(box.u_min, box.u_max, width)
    top, rows = _covered(box.v_min, box.v_max, height)
    return RegionOfInterest(x_offset=left, y_offset=top, width=columns, height=rows, do_rectify=False)


def _covered(low: float, high: float, size: int) -> tuple[int, int]:
    first = min(max(math.floor(low + 0.5), 0), size - 1)
    last = min(max(math.ceil(high - 0.5), first), size - 1)
    return first, last - first + 1


def _float32(value: float | None) -> float:
    """Return the number if a float32 can represent it; otherwise, and for None, NaN."""
    return math.nan if value is None or not abs(value) <= np.finfo(np.float32).max else value
