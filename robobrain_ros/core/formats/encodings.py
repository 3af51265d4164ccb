"""Convert the bytes of a sensor_msgs/Image to RGB. A table defines all supported encodings.

The names of the encodings are those of ROS's sensor_msgs/image_encodings.hpp. Upper and lower case do not matter. That file does
not define the order of colours for ``8UC3``, ``8UC4``, ``16UC3`` and ``16UC4``. As in OpenCV, it is blue, green, red. YUV is
BT.601 with limited range.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from robobrain_ros.core.formats.bit_depth import Bytes, Words, colour_to_8_bits, gray_to_8_bits
from robobrain_ros.core.query import RgbImage
from robobrain_ros.errors import BadImageError

MOST_PIXELS = 64 * 1024 * 1024
"""Most pixels of an image. A message that states more is assumed to be broken."""


@dataclass(frozen=True)
class Samples:
    """The memory layout of the samples of 16-bit encodings.

    :param bits: bit depth of the sensor, for `robobrain_ros.core.formats.bit_depth`; 0: unknown.
    """

    big_endian: bool = False
    bits: int = 0


@dataclass(frozen=True)
class Encoding:
    """The memory layout of an encoding.

    :param to_rgb: converts rows of data (rows, bytes per row), uint8, to RGB.
    :param pixel_bytes: bytes of each pixel in a row.
    :param width_unit: the image's width must be a multiple of it. ``height_unit``: likewise for the height.
    :param rows_per_line: rows of data for each line of the image.
    :param bits: bits of a sample.
    :param wide_chroma: two rows of data are one line of chroma, with padding at its end only.
    """

    to_rgb: Callable[[Bytes, Samples], Bytes]
    pixel_bytes: int
    width_unit: int = 1
    height_unit: int = 1
    rows_per_line: float = 1.0
    bits: int = 8
    wide_chroma: bool = False


def _words(rows: Bytes, samples: Samples) -> Words:
    return rows.view(">u2" if samples.big_endian else "<u2").astype(np.uint16, copy=False)


def _converted(code: int | None, channels: int, **layout: float) -> Encoding:
    """Return an encoding with ``channels`` bytes per pixel that OpenCV converts with ``code``; None if it is RGB already."""

    def to_rgb(rows: Bytes, samples: Samples) -> Bytes:
        shaped = rows if channels == 1 else rows.reshape(rows.shape[0], -1, channels)
        return shaped.copy() if code is None else cv2.cvtColor(shaped, code).astype(np.uint8, copy=False)

    return Encoding(to_rgb, channels, **layout)  # type: ignore[arg-type]


def _wide(narrow: Encoding) -> Encoding:
    """Return the same encoding with 16-bit instead of 8-bit samples."""
    to_8_bits = gray_to_8_bits if narrow is _GRAY else colour_to_8_bits

    def to_rgb(rows: Bytes, samples: Samples) -> Bytes:
        return narrow.to_rgb(to_8_bits(_words(rows, samples), samples.bits), samples)

    return Encoding(to_rgb, 2 * narrow.pixel_bytes, narrow.width_unit, narrow.height_unit, bits=16)


def _nv24_to_rgb(rows: Bytes, samples: Samples) -> Bytes:
    """Convert a plane of luma, followed by rows of chroma in full resolution that alternate between U and V."""
    height, width = rows.shape[0] // 3, rows.shape[1]
    chroma = rows[height:].reshape(height, width, 2)
    yuv = np.dstack((rows[:height], chroma)).astype(np.int32) - (16, 128, 128)
    rgb: Bytes = np.clip((yuv @ _YUV_TO_RGB + (1 << 9)) >> 10, 0, 255).astype(np.uint8)
    return rgb


_YUV_TO_RGB = np.rint(1024 * np.array([[1.164, 1.164, 1.164], [0.0, -0.392, 2.017], [1.596, -0.813, 0.0]])).astype(np.int32)
"""BT.601 with limited range, in 1/1024. The rows are Y, U and V, the columns are red, green and blue."""


def _bayer(code: int) -> Encoding:
    return _converted(code, 1, width_unit=2, height_unit=2)


def _yuv420(code: int) -> Encoding:
    return _converted(code, 1, width_unit=2, height_unit=2, rows_per_line=1.5)


_GRAY = _converted(cv2.COLOR_GRAY2RGB, 1)
_RGB, _BGR = _converted(None, 3), _converted(cv2.COLOR_BGR2RGB, 3)
_RGBA, _BGRA = _converted(cv2.COLOR_RGBA2RGB, 4), _converted(cv2.COLOR_BGRA2RGB, 4)
_UYVY = _converted(cv2.COLOR_YUV2RGB_UYVY, 2, width_unit=2)
_YUYV = _converted(cv2.COLOR_YUV2RGB_YUY2, 2, width_unit=2)

# OpenCV names a Bayer pattern by its second row and column, so OpenCV's BG is ROS's rggb.
_BAYER = {
    "bayer_rggb": _bayer(cv2.COLOR_BayerBG2RGB),
    "bayer_bggr": _bayer(cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg": _bayer(cv2.COLOR_BayerGR2RGB),
    "bayer_grbg": _bayer(cv2.COLOR_BayerGB2RGB),
}

ENCODINGS: dict[str, Encoding] = {
    "rgb8": _RGB,
    "bgr8": _BGR,
    "rgba8": _RGBA,
    "bgra8": _BGRA,
    "rgb16": _wide(_RGB),
    "bgr16": _wide(_BGR),
    "rgba16": _wide(_RGBA),
    "bgra16": _wide(_BGRA),
    "mono8": _GRAY,
    "mono16": _wide(_GRAY),
    "8UC1": _GRAY,
    "8UC3": _BGR,
    "8UC4": _BGRA,
    "16UC1": _wide(_GRAY),
    "16UC3": _wide(_BGR),
    "16UC4": _wide(_BGRA),
    **{f"{pattern}8": encoding for pattern, encoding in _BAYER.items()},
    **{f"{pattern}16": _wide(encoding) for pattern, encoding in _BAYER.items()},
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "nv12": _yuv420(cv2.COLOR_YUV2RGB_NV12),
    "nv21": _yuv420(cv2.COLOR_YUV2RGB_NV21),
    "nv24": Encoding(_nv24_to_rgb, 1, rows_per_line=3.0, wide_chroma=True),
}
"""All supported encodings, by their names."""

_BY_LOWER_NAME = {name.lower(): name for name in ENCODINGS}
_DEPTH = ("32fc1", "64fc1")


def canonical(name: str) -> str:
    """Return the name in `ENCODINGS` for a name in a message, ignoring case and blanks. Empty: the encoding is not supported."""
    return _BY_LOWER_NAME.get(name.strip().lower(), "")


def decode_raw(
    data: memoryview | bytes, *, width: int, height: int, step: int, encoding: str, big_endian: bool = False, bits: int = 0
) -> RgbImage:
    """Convert the fields of a sensor_msgs/Image to a new RGB image, (height, width, 3), uint8.

    :param bits: bit depth of the sensor, for 16-bit encodings; 0: unknown.
    :raises BadImageError: the encoding is not supported, or the sizes contradict each other.
    """
    name = canonical(encoding)
    if not name:
        hint = " It is depth: publish it on <camera>/depth." if encoding.strip().lower() in _DEPTH else ""
        raise BadImageError(f"The encoding {encoding[:40]!r} is not supported; supported are {', '.join(ENCODINGS)}.{hint}")
    layout = ENCODINGS[name]
    check_size(width, height)
    if width % layout.width_unit or height % layout.height_unit:
        raise BadImageError(f"An image in {name} cannot be {width}x{height}: its sides must be even.")
    row_bytes = width * layout.pixel_bytes
    if step < row_bytes:
        raise BadImageError(f"Its step is {step} bytes, but a row of {width} pixels in {name} has {row_bytes}.")
    row_count = round(height * layout.rows_per_line)
    if len(data) != step * row_count:
        raise BadImageError(
            f"It contains {len(data)} bytes, but {width}x{height} in {name} with a step of {step} bytes has {step * row_count}."
        )
    rows = np.frombuffer(data, np.uint8).reshape(row_count, step)
    return _to_rgb(name, _without_padding(rows, row_bytes, height, layout), Samples(big_endian, bits))


def debayer(mosaic: Bytes, pattern: str) -> RgbImage:
    """Convert a Bayer mosaic (height, width), uint8, to RGB.

    :param pattern: a name in `ENCODINGS` that begins with ``bayer_``. Its bit depth is ignored.
    :raises BadImageError: the width or the height is odd.
    """
    height, width = mosaic.shape
    if width % 2 or height % 2:
        raise BadImageError(f"An image in {pattern} cannot be {width}x{height}: its sides must be even.")
    return _to_rgb(pattern.removesuffix("16").removesuffix("8") + "8", np.ascontiguousarray(mosaic), Samples())


def check_size(width: int, height: int) -> None:
    """Raise BadImageError for a size of 0 pixels or of more than `MOST_PIXELS`."""
    if width < 1 or height < 1:
        raise BadImageError(f"It has no pixels: {width}x{height}.")
    if width * height > MOST_PIXELS:
        raise BadImageError(f"It states a size of {width}x{height} pixels; at most {MOST_PIXELS} pixels are allowed.")


def _without_padding(rows: Bytes, row_bytes: int, height: int, layout: Encoding) -> Bytes:
    if not layout.wide_chroma or rows.shape[1] == row_bytes:
        return np.ascontiguousarray(rows[:, :row_bytes])
    chroma = rows[height:].reshape(height, -1)[:, : 2 * row_bytes]
    return np.concatenate((rows[:height, :row_bytes], chroma.reshape(-1, row_bytes)))


def _to_rgb(name: str, rows: Bytes, samples: Samples) -> RgbImage:
    try:
        return ENCODINGS[name].to_rgb(rows, samples)
    except cv2.error as error:
        raise BadImageError(f"OpenCV cannot convert it from {name}: {error}.") from error
