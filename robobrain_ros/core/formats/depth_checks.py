"""Which samples of a depth image are measurements: bounds, and the values that drivers write where nothing was measured."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NO_SAMPLE = 65535
"""Millimetres that drivers and filters write in 16 bits for "not measured", beside 0."""

_SLACK = 1e-6
"""Relative rounding of a depth on its way through float32."""
_MOST_SAMPLES = 150_000
"""Samples of a depth image that the checks of the whole image read."""

_LOWEST_CLAMP = 4.0
"""Metres. Drivers do not clamp below it, and noise-free images of near walls are common in simulation."""
_CLAMP_SHARE, _CLAMP_SAMPLES = 0.005, 16
"""Share and number of samples that hold exactly the largest value of a clamped image."""

_FINE_UNITS = (1e-4, 2.5e-4)
"""Metres for each step of cameras with a finer depth unit. 65535 steps become 6.5535 m and 16.38375 m as floats."""

_NO_METRES = 100.0
"""Metres beyond which a depth camera measures nothing: a 32FC1 image whose samples all lie beyond it is in millimetres."""
_MILLIMETRES_SHARE = 0.95
_NEAREST = 0.02
"""Metres within which no depth camera measures: a 16UC1 image whose samples nearly all lie within it is not in millimetres."""


@dataclass(frozen=True)
class DepthRange:
    """Depths that count as measured, metres: at least ``minimum`` and less than ``maximum``.

    The maximum itself is excluded: a driver that clamps writes it where it measured nothing.
    """

    minimum: float = 0.0
    maximum: float = float("inf")

    def too_near(self, depths: Floats) -> npt.NDArray[np.bool_]:
        """Which depths lie below the range."""
        below: npt.NDArray[np.bool_] = depths < self.minimum * (1.0 - _SLACK)
        return below

    def too_far(self, depths: Floats) -> npt.NDArray[np.bool_]:
        """Which depths lie at or beyond the end of the range."""
        beyond: npt.NDArray[np.bool_] = depths >= self.maximum * (1.0 - _SLACK)
        return beyond


USUAL_DEPTH = DepthRange(0.0, 20.0)
"""What depth cameras measure."""


def some_of(samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An evenly spread part of an image, small enough for checks of the whole image."""
    step = max(int((samples.size / _MOST_SAMPLES) ** 0.5), 1)
    return samples[::step, ::step]


def in_millimetres(depths: Floats, limits: DepthRange) -> bool:
    """Whether samples that should be metres are millimetres; ``depths``: of an image, NaN where it is invalid.

    The rule: nearly all valid samples lie beyond what any depth camera measures, and within 65.5 m if they are millimetres.
    """
    valid = depths[np.isfinite(depths) & (depths != NO_SAMPLE)]
    if not len(valid):
        return False
    beyond = valid > max(_NO_METRES, limits.maximum if np.isfinite(limits.maximum) else 0.0)
    return bool(beyond.mean() >= _MILLIMETRES_SHARE and np.median(valid) <= NO_SAMPLE)


def in_metres(depths: Floats) -> bool:
    """Whether samples that should be millimetres are metres; ``depths``: of an image in metres, NaN where it is invalid."""
    valid = depths[np.isfinite(depths)]
    return bool(len(valid) and (valid <= _NEAREST).mean() >= _MILLIMETRES_SHARE)


def clamp_of(depths: Floats) -> float:
    """The depth (metres) at which a driver clamps; infinite: it does not. ``depths``: of an image, not finite where invalid.

    The rule: the image's largest depth is held exactly by many samples, and it is a number that people choose: whole metres
    from 4 m on, all ones in binary millimetres (4095, 8191, ...), or 65535 in a finer unit. Noise and disparity steps of a real
    surface do not end so.
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
    """Whether a depth is a number that people choose, and not a measurement."""
    slack = metres * _SLACK
    if any(abs(metres - NO_SAMPLE * unit) <= slack for unit in _FINE_UNITS):
        return True
    millimetres = round(metres * 1e3)
    is_round = millimetres % 1000 == 0 or (millimetres & (millimetres + 1)) == 0
    return is_round and abs(metres * 1e3 - millimetres) <= 1e3 * slack
