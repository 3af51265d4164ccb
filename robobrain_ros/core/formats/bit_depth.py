"""Convert 16-bit samples to 8-bit samples.

A 16-bit image does not state how many bits its sensor uses. Cameras with 10 or 12 bits, infrared cameras and thermal cameras all
publish 16 bits. Dividing by 256 would make the image of a 12-bit camera nearly black. The result depends on nothing but the image
and the bit depth, if it is known:

- With a known bit depth ``bits``, 0 becomes black and ``2 ** bits - 1`` becomes white.
- Without one, colour images and Bayer mosaics get the smallest bit depth (8, 10, 12, 14 or 16) that can hold the largest sample.
  This keeps hue and exposure.
- Without one, grey images are stretched linearly. The 0.1 % darkest samples become black and the 0.1 % brightest become white.
  One step of the sensor becomes at most one grey level, so noise is not amplified. An image that covers at least half of the
  16-bit range is not stretched. It keeps its upper 8 bits.
"""

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint16]

BIT_DEPTHS = (8, 10, 12, 14, 16)
"""Bit depths that sensors have."""

SCALED_BY_ITSELF = (
    "16-bit images do not state the sensor's bit depth, so the node scales the brightness of each image by its own samples "
    "(docs/reference/interfaces.md). For a fixed scale, set <camera>.bit_depth."
)
"""Note for users whose images are scaled without a known bit depth."""

_CUT = 0.001
"""Share of the samples that become black, and of those that become white, when a grey image is stretched."""

_WIDE = 1 << 15
"""Smallest range of samples for which a grey image is assumed to use all 16 bits."""


def colour_to_8_bits(samples: Words, bits: int = 0) -> Bytes:
    """Scale the samples of a colour image or a Bayer mosaic, of any shape, from uint16 to uint8.

    :param bits: bit depth of the sensor; 0: estimated from the largest sample.
    """
    if not bits:
        largest = int(samples.max(initial=0))
        bits = next(depth for depth in BIT_DEPTHS if largest < 1 << depth)
    return _scaled(samples, 0, (1 << bits) - 1)


def gray_to_8_bits(samples: Words, bits: int = 0) -> Bytes:
    """Scale grey samples (height, width) from uint16 to uint8.

    :param bits: bit depth of the sensor; 0: stretch the image.
    """
    if bits:
        return _scaled(samples, 0, (1 << bits) - 1)
    low, high = _ends(samples)
    if high - low >= _WIDE:
        return _scaled(samples, 0, 0xFFFF)
    span = max(high - low, 0xFF)
    low = min(max((low + high - span) // 2, 0), 0xFFFF - span)
    return _scaled(samples, low, low + span)


def _ends(samples: Words) -> tuple[int, int]:
    """Return the samples at the lower and the upper end of the stretch. The share `_CUT` of the samples is beyond each end."""
    below = np.cumsum(np.bincount(samples.ravel(), minlength=1 << 16))
    cut = int(samples.size * _CUT)
    low = np.searchsorted(below, cut, side="right")
    high = np.searchsorted(below, samples.size - cut, side="left")
    return int(low), int(high)


def _scaled(samples: Words, black: int, white: int) -> Bytes:
    values = np.arange(1 << 16, dtype=np.int64)
    if (black, white) == (0, 0xFFFF):
        table = values >> 8
    else:
        table = np.clip(((values - black) * 0xFF + (white - black) // 2) // (white - black), 0, 0xFF)
    return table.astype(np.uint8)[samples]
