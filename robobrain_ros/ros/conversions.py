"""Image messages to pictures, and answers to messages."""

import io
import math
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import Point as PointMessage
from PIL import Image as PillowImage
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from robobrain_ros.core.query import Answer, Box, Picture, PlanStep, Point, Progress, Report
from robobrain_ros.errors import BadImageError, OutcomeCode, RoboBrainError
from robobrain_ros.msg import (
    AffordanceArea,
    AffordancePoint,
    Affordances,
    InferenceReport,
    Outcome,
    Plan,
    TextAnswer,
    Trajectory,
    Waypoint,
)
from robobrain_ros.msg import PlanStep as PlanStepMessage

MOST_PIXELS = 64 * 1024 * 1024
"""Pixels of the largest picture that is read; more is taken for a broken header."""

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


def image_size(message: Image) -> tuple[int, int]:
    """(width, height) as a raw message states them."""
    return message.width, message.height


def _read_raw(message: Image) -> Picture:
    encoding = _ENCODINGS.get(message.encoding)
    if encoding is None:
        raise BadImageError(f"The encoding {message.encoding!r} is not known; known are {', '.join(_ENCODINGS)}.")
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
