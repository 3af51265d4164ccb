"""16-bit samples to 8-bit samples, by one stated rule.

A 16-bit image does not state how many of its bits the sensor uses: 10-bit and 12-bit cameras, infrared and thermal cameras all
publish 16 bits. Dividing by 256 would make the image of a 12-bit camera nearly black. The rule depends on the image alone:

- With a known bit depth ``bits``, 0 is black and ``2 ** bits - 1`` is white.
- Otherwise, colour images and Bayer mosaics use the smallest of 8, 10, 12, 14 and 16 bits that holds the largest sample, so that
  hue and exposure are kept.
- Otherwise, grey images are stretched linearly: the 0.1 % darkest samples become black and the 0.1 % brightest become white. One
  step of the sensor becomes at most one grey level, so noise is not amplified. An image that covers at least half of the 16-bit
  range is not stretched: it keeps its upper 8 bits.
"""

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint16]

BIT_DEPTHS = (8, 10, 12, 14, 16)
"""Bit depths of sensors."""

SCALED_BY_ITSELF = (
    "16-bit images do not state the sensor's bit depth, so the node scales the brightness of each image by its own samples "
    "(docs/reference/interfaces.md). For a fixed scale, set <camera>.bit_depth."
)
"""What a user should know about images that are scaled without a known bit depth."""

_CUT = 0.001
"""Share of the samples that becomes black, and that becomes white, when a grey image is stretched."""

_WIDE = 1 << 15
"""Range of samples from which on a grey image is taken to use all 16 bits."""


def colour_to_8_bits(samples: Words, bits: int = 0) -> Bytes:
    """Scale colour samples, or those of a Bayer mosaic, of any shape.

    :param bits: bit depth of the sensor; 0: as the largest sample implies.
    """
    if not bits:
        largest = int(samples.max(initial=0))
        bits = next(depth for depth in BIT_DEPTHS if largest < 1 << depth)
    return _scaled(samples, 0, (1 << bits) - 1)


def gray_to_8_bits(samples: Words, bits: int = 0) -> Bytes:
    """Scale grey samples (height, width).

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
    """The samples between which all lie but the share `_CUT` at either end."""
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
