"""Resample and smooth trajectories."""

import numpy as np
import numpy.typing as npt

from robobrain_ros.core.geometry import Floats

MOST_POSES = 10_000
"""Most waypoints of a result."""


def resample(waypoints: npt.ArrayLike, *, count: int = 0, step: float = 0.0) -> Floats:
    """Return waypoints at equal distances along the trajectory. The first and the last one stay the same.

    :param waypoints: positions (n, 3) in metres.
    :param count: number of waypoints of the result, from 2.
    :param step: largest distance of two waypoints in metres, instead of ``count``.
    :raises ValueError: fewer than two different waypoints, a waypoint without a position, or no valid ``count`` or ``step``.
    """
    points = _finite(waypoints)
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    keep = np.concatenate(([True], lengths > 0.0))
    along = np.concatenate(([0.0], np.cumsum(lengths)))
    if not along[-1] > 0.0:
        raise ValueError("All waypoints are identical, so the trajectory cannot be resampled.")
    if (count > 0) == (step > 0.0):
        raise ValueError("Set either count or step.")
    number = count if count > 0 else int(min(np.ceil(along[-1] / step * (1.0 - 1e-12)), MOST_POSES)) + 1
    if not 2 <= number <= MOST_POSES:
        raise ValueError(f"The result would have {number} waypoints; 2 to {MOST_POSES} are allowed.")
    places = np.linspace(0.0, along[-1], number)
    result: Floats = np.column_stack([np.interp(places, along[keep], points[keep, axis]) for axis in range(3)])
    result[0], result[-1] = points[0], points[-1]
    return result


def smooth(waypoints: npt.ArrayLike, *, rounds: int = 10) -> Floats:
    """Return a smoother trajectory with the same number of waypoints. The first and the last one stay the same.

    Each round replaces each waypoint by the weighted mean of itself (0.5) and its neighbours (0.25 each). The result stays within
    the convex hull of the waypoints, but cuts corners: check it again.

    :param waypoints: positions (n, 3) in metres.
    :param rounds: number of rounds, 0 to 1000.
    :raises ValueError: fewer than two waypoints, a waypoint without a position, or no valid ``rounds``.
    """
    points = _finite(waypoints).copy()
    if not 0 <= rounds <= 1000:
        raise ValueError(f"rounds is {rounds}; it must be 0 to 1000.")
    for _ in range(rounds):
        points[1:-1] = 0.5 * points[1:-1] + 0.25 * (points[:-2] + points[2:])
    return points


def _finite(waypoints: npt.ArrayLike) -> Floats:
    points = np.asarray(waypoints, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) < 2:
        raise ValueError(f"The trajectory has the shape {points.shape}; at least two waypoints, (n, 3), are necessary.")
    if len(points) > MOST_POSES:
        raise ValueError(f"The trajectory has {len(points)} waypoints; at most {MOST_POSES} are allowed.")
    if not np.isfinite(points).all():
        raise ValueError("Some waypoints have no position. Remove them first.")
    return points
