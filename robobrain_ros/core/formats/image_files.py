"""Decode the JPEG, PNG and TIFF files in sensor_msgs/CompressedImage messages.

A file states its kind, size, channels and channel order. The module uses these values. The message's `format` decides only what
a file cannot state. According to its source code, image_transport's compressed plugin writes:

| source encoding | format | content of the file |
|---|---|---|
| rgb8, bgr8, rgba8, bgra8, yuv... | ``rgb8; jpeg compressed bgr8`` | the colours, unchanged |
| the same with 16 bits | ``rgb16; jpeg compressed bgr8`` | the upper 8 bits |
| the same with 16 bits | ``rgb16; png compressed bgr16`` | 16 bits |
| mono8, mono16 | ``mono16; jpeg compressed mono8`` | grey, the upper 8 bits |
| mono8, mono16, 8UC1, 16UC1 | ``mono16; png compressed`` and a blank | grey of 8 or 16 bits |
| bayer_* | ``bayer_rggb8; jpeg compressed mono8`` | grey, without the mosaic |
| bayer_* (older versions; PNG and TIFF) | ``bayer_rggb8; jpeg compressed`` and a blank | the mosaic, as grey |
| rgb8, rgba8, rgb16, rgba16 | ``rgb8; tiff compressed`` and a blank | red and blue exchanged |
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from robobrain_ros.bounds.image_files import without_metadata
from robobrain_ros.core.formats.bit_depth import SCALED_BY_ITSELF, Bytes, Words, colour_to_8_bits, gray_to_8_bits
from robobrain_ros.core.formats.encodings import ENCODINGS, canonical, check_size, debayer
from robobrain_ros.core.query import RgbImage
from robobrain_ros.errors import BadImageError

FILE_KINDS = ("JPEG", "PNG", "TIFF")

_MOSAIC = re.compile(r"\s*(bayer|rggb|bggr|gbrg|grbg)", re.IGNORECASE)
"""Beginnings of the names of Bayer encodings in ROS and in camera standards."""

_LARGE = 16 * 1024 * 1024
_PIXELS_PER_BYTE = 256
"""A file with more than `_LARGE` pixels must have at least one byte for each `_PIXELS_PER_BYTE` pixels. Otherwise, it is rejected
as a decompression bomb. Every real image of this size has noise, even a dark one, and so needs more bytes."""


def _ignore(note: str) -> None:
    """Ignore a note."""


@dataclass(frozen=True)
class ReadingOptions:
    """A user's settings for the images of a camera.

    :param swap_red_blue: the publisher exchanges red and blue.
    :param bits: bit depth of the sensor in 16-bit images; 0: unknown.
    :param note: called with a sentence about each assumption. ``<camera>`` in the sentence stands for the camera's name.
    """

    swap_red_blue: bool = False
    bits: int = 0
    note: Callable[[str], None] = _ignore


@dataclass(frozen=True)
class Label:
    """The parts of a `format` such as ``rgb8; jpeg compressed bgr8``. A part that the format omits is empty.

    :param text: the whole format, unchanged.
    :param source: encoding before the conversion for the file, as a name in `ENCODINGS`.
    :param kind: kind of the file, in lower case.
    :param target: encoding of the compressed samples, in lower case.
    """

    text: str
    source: str
    kind: str
    target: str

    @classmethod
    def parse(cls, text: str) -> "Label":
        """Parse a format, ignoring case and blanks."""
        source, _, rest = text.lower().partition(";")
        kind, _, target = rest.partition("compressed")
        return cls(text, canonical(source), kind.strip(), target.strip())

    @property
    def bayer(self) -> str:
        """The Bayer encoding of a grey file's mosaic, or an empty string if a grey file is a grey image."""
        return self.source if self.source.startswith("bayer_") and not self._plain_target else ""

    @property
    def names_unknown_mosaic(self) -> bool:
        """Whether a grey file has a mosaic with an unknown pattern, as with ``bayer_rg8`` and ``bayer_rggb12``."""
        return not self.source and not self._plain_target and _MOSAIC.match(self.text) is not None

    @property
    def narrowed(self) -> bool:
        """Whether an 8-bit file has the upper 8 of 16 bits."""
        return self._wide_source and self.target in ("mono8", "bgr8", "rgb8")

    @property
    def clipped(self) -> bool:
        """Whether older versions of image_transport have clipped all values above 255."""
        return self._wide_source and self.kind == "jpeg" and not self.narrowed

    @property
    def _plain_target(self) -> bool:
        return self.target in ("mono8", "mono16")

    @property
    def _wide_source(self) -> bool:
        return bool(self.source) and ENCODINGS[self.source].bits == 16


def decode_file(data: bytes, image_format: str, options: ReadingOptions | None = None) -> RgbImage:
    """Decode a JPEG, PNG or TIFF to a new RGB image, (height, width, 3), uint8.

    The orientation in the file's metadata is ignored, because coordinates refer to the camera's own pixels.

    :param image_format: `format` of the CompressedImage. It may be empty or wrong.
    :raises BadImageError: the file cannot be decoded. The message states the reason.
    """
    options = options or ReadingOptions()
    if "compresseddepth" in image_format.lower():
        raise BadImageError(f"Its format is {image_format[:60]!r}: it is depth, not an image. Publish it on <camera>/depth.")
    if not data:
        raise BadImageError(
            "It contains no bytes. image_transport publishes an empty message for an encoding that it cannot compress: "
            "set the publisher's format to png, or use the raw image."
        )
    label = Label.parse(image_format)
    kind, samples = _decode(data, image_format)
    rgb = _interpret(kind, samples, label, options)
    return rgb[:, :, ::-1].copy() if options.swap_red_blue else rgb


def decode_bits(data: bytes, image_format: str) -> npt.NDArray[np.generic]:
    """Decode a file without scaling its samples.

    :returns: (height, width), or (height, width, 3) in the order RGB; uint16 for 16-bit files, otherwise uint8.
    :raises BadImageError: the file cannot be decoded. The message states the reason.
    """
    return _decode(data, image_format)[1]


def _decode(data: bytes, image_format: str) -> tuple[str, npt.NDArray[np.generic]]:
    stated = f"its format is {image_format[:60]!r}"
    try:
        data = without_metadata(data)
        with PillowImage.open(io.BytesIO(data), formats=FILE_KINDS) as image:
            check_file_size(*image.size, len(data))  # The size is from the header. Nothing has been decoded yet.
            kind = str(image.format)
            if not _is_wide(image, data):
                gray = image.mode in ("1", "L", "LA")
                return kind, np.array(image.convert("L" if gray else "RGB"))
            if kind == "PNG":
                image.verify()  # OpenCV would accept truncated files.
    except UnidentifiedImageError:
        # Pillow's own message has nothing but a memory address.
        raise BadImageError(f"It is not a JPEG, PNG or TIFF, or its header is broken; {stated}.") from None
    except BadImageError:
        raise
    except Exception as error:  # The bytes are arbitrary, and decoders raise many types of exceptions for broken files.
        raise BadImageError(f"It cannot be read as a JPEG, PNG or TIFF ({stated}): {str(error)[:200]}.") from error
    return kind, _decode_wide(data, stated)


def check_file_size(width: int, height: int, size: int) -> None:
    """Raise BadImageError if a file of ``size`` bytes states a size in pixels that no real image has."""
    check_size(width, height)
    if width * height > _LARGE and width * height > size * _PIXELS_PER_BYTE:
        raise BadImageError(f"It states a size of {width}x{height} pixels in {size} bytes, as a decompression bomb does.")


def _is_wide(image: PillowImage.Image, data: bytes) -> bool:
    """Return whether a file has 16 bits per sample.

    :raises BadImageError: it has more than 16 bits per sample.
    """
    if image.format == "PNG":
        return data[24] == 16
    tags = getattr(image, "tag_v2", {})
    bits = max(tags.get(258, (8,)), default=8) if image.format == "TIFF" else 8
    if bits > 16 or image.mode == "F":
        raise BadImageError(f"It has {bits} bits per sample; 8 and 16 are supported. Publish depth on <camera>/depth.")
    return bits == 16


def _decode_wide(data: bytes, stated: str) -> Words:
    try:
        samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise BadImageError(f"It cannot be read as a PNG or TIFF ({stated}): {error}.") from error
    if samples is None or samples.dtype != np.uint16 or samples.ndim not in (2, 3):
        raise BadImageError(f"It cannot be read as a PNG or TIFF of 16 bits; {stated}.")
    if samples.ndim == 3:
        # From BGR or BGRA to RGB.
        return np.ascontiguousarray(samples[:, :, 2::-1])
    return samples  # type: ignore[return-value]


def _interpret(kind: str, samples: npt.NDArray[np.generic], label: Label, options: ReadingOptions) -> RgbImage:
    """Convert decoded samples to RGB. The label decides what the file cannot state."""
    if label.bayer and (mosaic := _single_channel(samples)) is not None:
        return debayer(_bytes_of(mosaic, label, options, colour=True), label.bayer)
    if label.names_unknown_mosaic and _single_channel(samples) is not None:
        raise BadImageError(
            f"Its format is {label.text[:60]!r}: the Bayer encoding is unknown, and the image would be a grey mosaic. Set the "
            "publisher's encoding to one of ROS, such as bayer_rggb8, or publish colours."
        )
    rgb = _bytes_of(samples, label, options, colour=samples.ndim == 3)
    if rgb.ndim == 2:
        return np.repeat(rgb[:, :, None], 3, axis=2)
    if kind == "TIFF" and label.kind == "tiff" and not label.target and label.source.startswith("rgb"):
        return rgb[:, :, ::-1].copy()
    if label.target.startswith("rgb") and not options.swap_red_blue:
        options.note(
            f"The format {label.text[:60]!r} may mean that the publisher exchanges red and blue in the file. The node reads the "
            "colours as the file states them. If red and blue are exchanged, set <camera>.swap_red_blue to true."
        )
    return rgb


def _single_channel(samples: npt.NDArray[np.generic]) -> npt.NDArray[np.generic] | None:
    """Return the channel of grey samples, or of three equal channels, or None if the channels differ."""
    if samples.ndim == 2:
        return samples
    first = samples[:, :, 0]
    equal = np.array_equal(first, samples[:, :, 1]) and np.array_equal(first, samples[:, :, 2])
    return np.ascontiguousarray(first) if equal else None


def _bytes_of(samples: npt.NDArray[np.generic], label: Label, options: ReadingOptions, *, colour: bool) -> Bytes:
    """Return 8-bit samples. 16-bit samples of the camera are scaled as `robobrain_ros.core.formats.bit_depth` describes."""
    wide = samples.astype(np.uint16, copy=False)
    if samples.dtype == np.uint8:
        if label.clipped:
            options.note(
                f"A JPEG of 16-bit samples (format {label.text[:60]!r}) contains 8 bits per sample, and older versions of "
                "image_transport cut off all values above 255. Set the publisher's format to png."
            )
        if not label.narrowed:
            return samples  # type: ignore[return-value]
        options.note(
            f"A JPEG of 16-bit samples (format {label.text[:60]!r}) keeps their upper 8 bits only: a 12-bit camera has 16 levels "
            "left. Set the publisher's format to png."
        )
        wide = wide * np.uint16(257)
    if not options.bits:
        options.note(SCALED_BY_ITSELF)
    return colour_to_8_bits(wide, options.bits) if colour else gray_to_8_bits(wide, options.bits)
