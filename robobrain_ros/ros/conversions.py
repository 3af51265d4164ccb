"""Image messages to pictures, and answers to messages."""

import io
import math
import struct
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import Point as PointMessage
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from robobrain_ros.core.geometry import CameraModel, Floats
from robobrain_ros.core.query import Answer, Box, Picture, PlanStep, Point, Report
from robobrain_ros.core.surfaces import Lifted
from robobrain_ros.errors import BadImageError, OutcomeCode, RoboBrainError
from robobrain_ros.msg import (
    AffordanceArea,
    AffordancePoint,
    Affordances,
    InferenceReport,
    Outcome,
    TextAnswer,
    Trajectory,
    Waypoint,
)
from robobrain_ros.msg import PlanStep as PlanStepMessage

MOST_PIXELS = 64 * 1024 * 1024
"""Pixels of the largest picture that is read; more is taken for a broken header."""

_LONGEST_SENTENCE = 4000
"""Characters of an outcome's message; it may quote what the caller sent."""

_Rows = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Encoding:
    """How an encoding lies in memory: ``rows`` of (height, row bytes), uint8, become RGB by ``to_rgb``.

    ``pixel_bytes`` of each pixel in a row; sides must be multiples of ``width_unit`` and ``height_unit``; ``rows_per_line`` is
    how many rows of the data there are for one line of the picture.
    """

    to_rgb: Callable[[_Rows, bool], _Rows]
    pixel_bytes: int
    width_unit: int = 1
    height_unit: int = 1
    rows_per_line: float = 1.0


def _converted(code: int | None, channels: int, **layout: float) -> _Encoding:
    """An encoding of ``channels`` bytes per pixel, converted by OpenCV; None: it is RGB already."""

    def to_rgb(rows: _Rows, big_endian: bool) -> _Rows:
        shaped = rows if channels == 1 else rows.reshape(rows.shape[0], -1, channels)
        return shaped.copy() if code is None else cv2.cvtColor(shaped, code).astype(np.uint8, copy=False)

    return _Encoding(to_rgb, channels, **layout)  # type: ignore[arg-type]


def _wide_gray(rows: _Rows, big_endian: bool) -> _Rows:
    samples = rows.view(">u2" if big_endian else "<u2")
    return cv2.cvtColor((samples >> 8).astype(np.uint8), cv2.COLOR_GRAY2RGB).astype(np.uint8, copy=False)


def _bayer(code: int) -> _Encoding:
    return _converted(code, 1, width_unit=2, height_unit=2)


_GRAY = _converted(cv2.COLOR_GRAY2RGB, 1)
_BGR = _converted(cv2.COLOR_BGR2RGB, 3)
_UYVY = _converted(cv2.COLOR_YUV2RGB_UYVY, 2, width_unit=2)
_YUYV = _converted(cv2.COLOR_YUV2RGB_YUY2, 2, width_unit=2)

# OpenCV names a Bayer pattern by its second row and column, so that its BG is what ROS calls rggb.
_ENCODINGS = {
    "rgb8": _converted(None, 3),
    "bgr8": _BGR,
    "8UC3": _BGR,
    "rgba8": _converted(cv2.COLOR_RGBA2RGB, 4),
    "bgra8": _converted(cv2.COLOR_BGRA2RGB, 4),
    "mono8": _GRAY,
    "8UC1": _GRAY,
    "mono16": _Encoding(_wide_gray, 2),
    "bayer_rggb8": _bayer(cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": _bayer(cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": _bayer(cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": _bayer(cv2.COLOR_BayerGB2RGB),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "nv12": _converted(cv2.COLOR_YUV2RGB_NV12, 1, width_unit=2, height_unit=2, rows_per_line=1.5),
}


def read_image(message: Image | CompressedImage) -> Picture:
    """The picture of a message: RGB, (height, width, 3), uint8, a copy; 16-bit grey keeps its upper byte.

    A picture is never turned by what a JPEG says of its orientation: coordinates are those of the camera's own pixels.

    :raises BadImageError: the reason why it cannot be read.
    """
    return _read_compressed(message) if isinstance(message, CompressedImage) else _read_raw(message)


def _read_raw(message: Image) -> Picture:
    encoding = _ENCODINGS.get(message.encoding)
    if encoding is None:
        raise BadImageError(f"The encoding {message.encoding[:40]!r} is not known; known are {', '.join(_ENCODINGS)}.")
    width, height, step, data = message.width, message.height, message.step, message.data
    _check_size(width, height)
    if width % encoding.width_unit or height % encoding.height_unit:
        raise BadImageError(f"A picture in {message.encoding} cannot be {width}x{height}: its sides must be even.")
    row_bytes = width * encoding.pixel_bytes
    if step < row_bytes:
        raise BadImageError(f"Its step is {step} bytes, but a row of {width} pixels in {message.encoding} has {row_bytes}.")
    row_count = round(height * encoding.rows_per_line)
    if len(data) != step * row_count:
        raise BadImageError(
            f"It holds {len(data)} bytes, but {width}x{height} in {message.encoding} with a step of {step} bytes "
            f"has {step * row_count}."
        )
    rows = np.frombuffer(data, np.uint8).reshape(row_count, step)[:, :row_bytes]
    try:
        return encoding.to_rgb(np.ascontiguousarray(rows), bool(message.is_bigendian))
    except cv2.error as error:
        raise BadImageError(f"OpenCV cannot convert it from {message.encoding}: {error}.") from error


def _read_compressed(message: CompressedImage) -> Picture:
    if "compressedDepth" in message.format:
        raise BadImageError(f"Its format is {message.format!r}: that is a depth image, not a picture.")
    if not len(message.data):
        raise BadImageError("It holds no bytes.")
    try:
        with PillowImage.open(io.BytesIO(message.data), formats=("JPEG", "PNG")) as image:
            _check_size(*image.size)  # Of the file's header: nothing has been decoded yet.
            wide = image.mode.startswith("I")
            samples = np.asarray(image if wide else image.convert("RGB"))
    except UnidentifiedImageError:
        # Its own message is an address in memory.
        raise BadImageError(f"It is not a JPEG or PNG, or its header is broken; its format says {message.format!r}.") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, PillowImage.DecompressionBombError) as error:
        raise BadImageError(f"It cannot be read as a JPEG or PNG (its format says {message.format!r}): {error}.") from error
    if wide:
        return np.repeat((samples >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    # image_transport says "compressed rgb8" where red and blue were not exchanged for the file, which has them in its order.
    return samples[:, :, ::-1].copy() if "compressed rgb" in message.format else samples.copy()


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise BadImageError(f"It has no pixels: {width}x{height}.")
    if width * height > MOST_PIXELS:
        raise BadImageError(f"It claims to be {width}x{height} pixels; at most {MOST_PIXELS} pixels are read.")


@dataclass(frozen=True)
class Origin:
    """What an answer answers: the header, camera and size (pixels) of its picture, and what was asked.

    ``camera`` is empty for a picture that came with the request, ``query`` for what is no standing query.
    """

    header: Header
    text: str
    camera: str = ""
    query: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Positions:
    """Where an answer's parts are; each in the order of the answer, None where there is none or none was looked for.

    :param header: the picture's stamp, and the frame that the positions are in.
    :param note: what is missing and what to do about it; empty: nothing.
    :param camera: maps the picture's pixels to rays in the picture's own frame; None: not known.
    :param move: takes positions (n, 3) from the picture's own frame to the header's; None: it is the same.
    """

    header: Header
    points: Lifted | None = None
    boxes: Lifted | None = None
    waypoints: Lifted | None = None
    note: str = ""
    camera: CameraModel | None = None
    move: Callable[[Floats], Floats] | None = None


def to_affordances(
    origin: Origin, task: str, answer: Answer | None, report: InferenceReport, positions: Positions | None = None
) -> Affordances:
    """The answer to point, affordance or ground; without points and areas where there is none."""
    message = Affordances(
        header=positions.header if positions else origin.header,
        task=task,
        instruction=clean(origin.text),
        query=origin.query,
        camera=origin.camera,
        image_width=origin.width,
        image_height=origin.height,
        position_note=clean(positions.note) if positions else "",
        report=report,
    )
    if answer is not None:
        message.points = to_points(answer.points, positions.points if positions else None)
        message.areas = to_areas(answer.boxes, origin.width, origin.height, positions.boxes if positions else None)
    return message


def to_trajectory(
    origin: Origin, answer: Answer | None, report: InferenceReport, positions: Positions | None = None
) -> Trajectory:
    """The answer to trajectory; without waypoints where there is none."""
    return Trajectory(
        header=positions.header if positions else origin.header,
        instruction=clean(origin.text),
        query=origin.query,
        camera=origin.camera,
        image_width=origin.width,
        image_height=origin.height,
        waypoints=to_waypoints(answer.waypoints, positions.waypoints if positions else None) if answer else [],
        position_note=clean(positions.note) if positions else "",
        report=report,
    )


def to_text_answer(origin: Origin, answer: Answer | None, report: InferenceReport) -> TextAnswer:
    """The answer to ask; without text where there is none."""
    return TextAnswer(
        header=origin.header,
        question=clean(origin.text),
        query=origin.query,
        camera=origin.camera,
        text=clean(answer.text) if answer else "",
        report=report,
    )


def to_points(points: Sequence[Point], lifted: Lifted | None = None) -> list[AffordancePoint]:
    """Points, their positions unknown where they were not lifted."""
    return [
        AffordancePoint(u=point.u, v=point.v, position=position, clamped=point.clamped, label=clean(point.label))
        for point, position in zip(points, _positions(len(points), lifted), strict=True)
    ]


def to_areas(boxes: Sequence[Box], width: int, height: int, lifted: Lifted | None = None) -> list[AffordanceArea]:
    """Rectangles in a picture of that size (pixels), their positions unknown where they were not lifted."""
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
    """Waypoints, their positions unknown where they were not lifted; depth is the model's own."""
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
    """Plan steps in their order."""
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
    """How an answer came about; ``thinking`` is the thinking alone."""
    width, height = report.model_image_sizes[0] if report.model_image_sizes else (0, 0)
    return InferenceReport(
        model=report.model,
        engine=report.engine,
        flagos_active=report.flagos_active,
        flagos_operators=list(report.flagos_operators),
        think=report.think,
        image_age=report.image_age,
        queue_time=report.queue_time,
        first_token_time=report.first_token_time,
        first_part_time=report.first_part_time,
        total_time=report.total_time,
        prompt_tokens=report.prompt_tokens,
        thinking_tokens=report.thinking_tokens,
        answer_tokens=report.answer_tokens,
        finish_reason=report.finish_reason,
        raw_text=clean(report.raw_text),
        thinking=clean(thinking),
        model_image_width=width,
        model_image_height=height,
    )


def to_outcome(error: RoboBrainError | None, note: str = "") -> Outcome:
    """How a request ended; None: well, with a note of what its positions lack."""
    if error is None:
        return Outcome(code=int(OutcomeCode.OK), message=clean(note))
    return Outcome(code=int(error.code), message=clean(shortened(error.message, _LONGEST_SENTENCE)))


def to_image(picture: Picture, header: Header) -> Image:
    """An RGB picture (height, width, 3), uint8, as a message in rgb8."""
    height, width = picture.shape[:2]
    message = Image(header=header, height=height, width=width, encoding="rgb8", is_bigendian=0, step=width * 3)
    # An array is taken over as it is; bytes would be checked one by one, which costs 20 ms for a full-HD picture.
    message.data = array("B", picture.tobytes())
    return message


def unknown_position() -> PointMessage:
    """The position of what has no valid depth."""
    return PointMessage(x=math.nan, y=math.nan, z=math.nan)


def clean(text: str) -> str:
    """Text that a message can hold: a zero byte would end it, and half a surrogate pair cannot be encoded."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


def shortened(text: str, longest: int) -> str:
    """Text of at most so many characters."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _region(box: Box, width: int, height: int) -> RegionOfInterest:
    """The whole pixels that a rectangle covers: pixel i reaches from i - 0.5 to i + 0.5."""
    left, columns = _covered(box.u_min, box.u_max, width)
    top, rows = _covered(box.v_min, box.v_max, height)
    return RegionOfInterest(x_offset=left, y_offset=top, width=columns, height=rows, do_rectify=False)


def _covered(low: float, high: float, size: int) -> tuple[int, int]:
    first = min(max(math.floor(low + 0.5), 0), size - 1)
    last = min(max(math.ceil(high - 0.5), first), size - 1)
    return first, last - first + 1


def _float32(value: float | None) -> float:
    """A number that a float32 can hold; NaN for those that it cannot, and for None."""
    return math.nan if value is None or not abs(value) <= np.finfo(np.float32).max else value
