"""Decode compressed depth: messages of image_transport's compressedDepth plugin, and plain 16-bit PNGs.

The plugin's data begins with a header of 12 little-endian bytes: an int32, and the quantization parameters A and B as float32. A
16-bit PNG or RVL data follows. The samples of 16UC1 are in millimetres. A sample s of 32FC1 is a depth of A / (s - B) metres, and
0 is invalid.

RVL is described in A. D. Wilson, "Fast Lossless Depth Image Compression", Proc. ACM ISS 2017. The image is a sequence of runs. A
run consists of the number of zeros, the number of other samples, and these samples. Each sample is written as the difference to
the sample before. All numbers have a variable length. They are divided into groups of 3 bits, the lowest group first. Each group
is a nibble, and the nibble's highest bit is set if another group follows. Nibbles fill 32-bit words from the highest bit down.
The plugin writes the width and the height as two uint32 before the words.
"""

import struct

import numpy as np
import numpy.typing as npt

from robobrain_ros.core.formats.encodings import check_size
from robobrain_ros.core.formats.image_files import check_file_size, decode_bits
from robobrain_ros.core.geometry import GeometryError
from robobrain_ros.errors import BadImageError

Words = npt.NDArray[np.uint16]
Depth = Words | npt.NDArray[np.float32]

_PNG = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct("<iff")
_SIZE = struct.Struct("<II")
_NIBBLES = 11
"""Nibbles of the longest number, which has 32 bits."""


def decode_depth(data: bytes, image_format: str) -> Depth:
    """Decode the depth image of a sensor_msgs/CompressedImage.

    :param image_format: ``format`` of the message, such as ``16UC1; compressedDepth png``. Without an encoding, 16UC1 is assumed.
    :returns: the samples (height, width): uint16 in millimetres, or float32 in metres with NaN where invalid.
    :raises GeometryError: the data cannot be decoded. The message states the reason.
    """
    encoding = image_format.partition(";")[0].strip().lower()
    floats = encoding == "32fc1"
    if encoding not in ("", "16uc1", "mono16", "32fc1", "png"):
        raise GeometryError(f"The compressed depth has the format {image_format[:60]!r}. Supported are 16UC1 and 32FC1.")
    try:
        if data.startswith(_PNG):
            if floats:
                raise GeometryError("The compressed depth is in 32FC1, but its quantization parameters are missing.")
            return _png(data)
        if len(data) <= _HEADER.size:
            raise GeometryError(f"The compressed depth is broken: it contains {len(data)} bytes.")
        _, a, b = _HEADER.unpack_from(data)
        body = data[_HEADER.size :]
        if body.startswith(_PNG):
            samples = _png(body)
        elif "rvl" in image_format.lower():
            samples = decode_rvl(body)
        else:
            raise GeometryError(f"The compressed depth is neither a PNG nor RVL; its format is {image_format[:60]!r}.")
    except BadImageError as error:
        raise GeometryError(f"The compressed depth cannot be read: {error.message}") from error
    return _metres(samples, a, b) if floats else samples


def decode_rvl(data: bytes) -> Words:
    """Decode RVL data, which begins with the width and the height as two uint32.

    :returns: the samples (height, width), uint16.
    :raises GeometryError: the data is truncated or broken.
    :raises BadImageError: the size is 0, or too large for an image.
    """
    if len(data) < _SIZE.size:
        raise GeometryError("The RVL depth is broken: its size is missing.")
    width, height = _SIZE.unpack_from(data)
    check_size(width, height)
    # A sample needs at least one nibble, except for zeros. A depth image of nothing but zeros is rare.
    check_file_size(width, height, len(data))
    words = np.frombuffer(data, "<u4", offset=_SIZE.size, count=(len(data) - _SIZE.size) // 4)
    numbers = _numbers(words, 3 * width * height)
    lengths, headers = _runs(numbers, width * height)
    used = headers[-1] + 2 + int(lengths[-1]) if headers else 0
    is_sample = np.ones(used, np.bool_)
    places = np.array(headers, np.intp)
    is_sample[places] = is_sample[places + 1] = False
    folded = numbers[:used][is_sample]
    differences = (folded >> 1) ^ -(folded & 1)
    samples = np.zeros(width * height, np.uint16)
    filled = np.repeat(np.tile([False, True], len(headers)), lengths)
    samples[: len(filled)][filled] = np.cumsum(differences).astype(np.uint16)
    return samples.reshape(height, width)


def _numbers(words: npt.NDArray[np.uint32], most: int) -> npt.NDArray[np.int64]:
    """Decode the numbers of variable length in a stream of words, at most ``most``."""
    octets = words.astype(">u4").view(np.uint8)
    nibbles = np.empty(2 * len(octets), np.uint8)
    nibbles[0::2], nibbles[1::2] = octets >> 4, octets & 0xF
    ends = np.flatnonzero(nibbles < 8)[: most + 2]
    if not len(ends):
        return np.zeros(0, np.int64)
    groups = (nibbles[: ends[-1] + 1] & 7).astype(np.int64)
    starts = np.concatenate(([0], ends[:-1] + 1))
    numbers: npt.NDArray[np.int64] = groups[starts]
    # Most numbers are short, so each round handles fewer numbers.
    longer = np.flatnonzero(ends > starts)
    for place in range(1, _NIBBLES):
        at = starts[longer] + place
        numbers[longer] |= groups[at] << (3 * place)
        longer = longer[ends[longer] > at]
        if not len(longer):
            return numbers
    raise GeometryError("The RVL depth is broken: a number in it has more than 32 bits.")


def _runs(numbers: npt.NDArray[np.int64], count: int) -> tuple[npt.NDArray[np.int64], list[int]]:
    """Return the lengths of the runs, alternately of zeros and of samples, and the index of each pair of lengths."""
    headers: list[int] = []
    at = filled = 0
    view = numbers.data
    while filled < count:
        if at + 1 >= len(view):
            raise GeometryError(f"The RVL depth is cut off: it contains {min(filled, count)} of {count} samples.")
        zeros, samples = view[at], view[at + 1]
        if not zeros and not samples:
            raise GeometryError("The RVL depth is broken: a run in it is empty.")
        headers.append(at)
        filled += zeros + samples
        at += 2 + samples
    if filled > count:
        raise GeometryError(f"The RVL depth is broken: its runs contain more than {count} samples.")
    if at > len(view):
        raise GeometryError(f"The RVL depth is cut off in the last of {count} samples.")
    places = np.array(headers, np.intp)
    return np.column_stack((numbers[places], numbers[places + 1])).ravel(), headers


def _png(data: bytes) -> Words:
    samples = decode_bits(data, "png")
    if samples.dtype != np.uint16 or samples.ndim != 2:
        raise GeometryError("The compressed depth is a PNG of colours or of 8 bits; depth has one channel of 16 bits.")
    return samples.astype(np.uint16, copy=False)


def _metres(samples: Words, a: float, b: float) -> npt.NDArray[np.float32]:
    if not (np.isfinite([a, b]).all() and a > 0.0):
        raise GeometryError(f"The compressed depth is broken: its quantization parameters are {a:g} and {b:g}.")
    with np.errstate(divide="ignore", invalid="ignore"):
        metres = np.float32(a) / (samples.astype(np.float32) - np.float32(b))
    metres[(samples == 0) | ~(metres > 0.0)] = np.nan
    return metres
