"""Find the samples of a depth image that are no measurements: values out of range, and values that drivers write instead."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NO_SAMPLE = 65535
"""Value in millimetres that drivers and filters write for "not measured" in 16-bit images, in addition to 0."""

_SLACK = 1e-6
"""Relative rounding error of a depth that was converted to float32 and back."""
_MOST_SAMPLES = 150_000
"""Most samples of a depth image that a check of the whole image reads."""

_LOWEST_CLAMP = 4.0
"""Metres. Drivers do not clamp at smaller depths. In simulation, images of nearer walls have no noise and only seem clamped."""
_CLAMP_SHARE, _CLAMP_SAMPLES = 0.005, 16
"""Least share and number of samples with exactly the largest value in a clamped image."""

_FINE_UNITS = (1e-4, 2.5e-4)
"""Depth units in metres of cameras with a unit below 1 mm. 65535 units are 6.5535 m and 16.38375 m."""

_NO_METRES = 100.0
"""Metres. No depth camera measures beyond this depth. A 32FC1 image with nearly all samples beyond it is in millimetres."""
_MILLIMETRES_SHARE = 0.95
"""Share of the samples that counts as nearly all."""
_NEAREST = 0.02
"""Metres. No depth camera measures at smaller depths. A 16UC1 image with nearly all samples below it is not in millimetres."""


@dataclass(frozen=True)
class DepthRange:
    """The range of depths in metres that count as measured: at least ``minimum``, and less than ``maximum``.

    The maximum itself does not count, because a driver that clamps depths writes it where it measured nothing.
    """

    minimum: float = 0.0
    maximum: float = float("inf")

    def too_near(self, depths: Floats) -> npt.NDArray[np.bool_]:
        """Return which depths are below the range."""
        below: npt.NDArray[np.bool_] = depths < self.minimum * (1.0 - _SLACK)
        return below

    def too_far(self, depths: Floats) -> npt.NDArray[np.bool_]:
        """Return which depths are at or above the end of the range."""
        beyond: npt.NDArray[np.bool_] = depths >= self.maximum * (1.0 - _SLACK)
        return beyond


USUAL_DEPTH = DepthRange(0.0, 20.0)
"""The range in metres of common depth cameras."""


def some_of(samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return evenly spread samples of an image (height, width), few enough for fast checks."""
    step = max(int((samples.size / _MOST_SAMPLES) ** 0.5), 1)
    return samples[::step, ::step]


def in_millimetres(depths: Floats, limits: DepthRange) -> bool:
    """Return whether samples that should be in metres are in millimetres.

    This is so if nearly all valid samples exceed the range of every depth camera, and if their median is within 65.5 m when it is
    read as millimetres.

    :param depths: samples of a 32FC1 image, NaN where invalid.
    """
    valid = depths[np.isfinite(depths) & (depths != NO_SAMPLE)]
    if not len(valid):
        return False
    beyond = valid > max(_NO_METRES, limits.maximum if np.isfinite(limits.maximum) else 0.0)
    return bool(beyond.mean() >= _MILLIMETRES_SHARE and np.median(valid) <= NO_SAMPLE)


def in_metres(depths: Floats) -> bool:
    """Return whether samples that should be in millimetres are in metres.

    :param depths: samples of a 16UC1 image, already converted from millimetres to metres, NaN where invalid.
    """
    valid = depths[np.isfinite(depths)]
    return bool(len(valid) and (valid <= _NEAREST).mean() >= _MILLIMETRES_SHARE)


def clamp_of(depths: Floats) -> float:
    """Return the depth in metres at which the driver clamps depths; infinity: it does not clamp.

    A driver clamps if many samples have exactly the largest depth of the image, and if this depth is a limit that a programmer
    would choose: whole metres from 4 m on, a number of millimetres that is all ones in binary (4095, 8191, ...), or 65535 in a
    finer unit. Depths of a real surface have noise and disparity steps, so they do not meet both conditions.

    :param depths: depths of an image in metres, not finite where invalid.
    """
    valid = depths[np.isfinite(depths)]
    if not len(valid):
        return float("inf")
    largest = float(valid.max())
    if largest < _LOWEST_CLAMP or not _is_chosen(largest):
        return float("inf")
    many = max(_CLAMP_SAMPLES, _CLAMP_SHARE * depths.size)
    return largest if (valid == largest).sum() >= many else float("inf")


def _is_chosen(metres: float) -> bool:
    """Return whether a depth is a limit that a programmer would choose (see `clamp_of`)."""
    slack = metres * _SLACK
    if any(abs(metres - NO_SAMPLE * unit) <= slack for unit in _FINE_UNITS):
        return True
    millimetres = round(metres * 1e3)
    is_round = millimetres % 1000 == 0 or (millimetres & (millimetres + 1)) == 0
    return is_round and abs(metres * 1e3 - millimetres) <= 1e3 * slack
