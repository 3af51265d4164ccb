"""Approach directions for objects that are too thin for a normal, such as pens and cables."""

import math
from dataclasses import dataclass

import numpy as np

from robobrain_ros.core.boxed_objects import BoxedObjects
from robobrain_ros.core.geometry import Floats

ANGLE = math.radians(20.0)
"""Standard deviation of the approach direction. The cross-section of the object is unknown."""

_WIDEST = 0.02
"""Metres. A wider object has a normal, or none can be assumed."""
_LEAST_RATIO = 2.5
"""Smallest ratio of length and width."""
_SLICE = 0.015
"""Metres. Samples whose distance from the middle, along the object, is smaller determine the position."""
_LEAST_SAMPLES = 8


@dataclass(frozen=True)
class ThinObject:
    """A thin object in the optical frame: a position on it (3) in metres, the approach direction (3), and its direction (3)."""

    position: Floats
    approach: Floats
    direction: Floats


def thin_object(objects: BoxedObjects, index: int) -> ThinObject | None:
    """Return the thin object in a box, or None if the object is not thin.

    The direction of the object is the first principal axis of its samples. The approach direction is the line of sight, made
    perpendicular to the object. In the middle of a round object, this is the normal.
    """
    positions = objects.positions[index][objects.members[index]].astype(np.float64)
    if len(positions) < _LEAST_SAMPLES:
        return None
    middle = np.median(positions, axis=0)
    direction = np.linalg.svd(positions - positions.mean(axis=0), full_matrices=False)[2][0]
    sight = middle / np.linalg.norm(middle)
    approach = sight - (sight @ direction) * direction
    size = float(np.linalg.norm(approach))
    if size < 0.5:  # The object points to the camera.
        return None
    approach /= size
    along, across = (positions - middle) @ direction, (positions - middle) @ np.cross(approach, direction)
    width, length = float(np.ptp(across)), float(np.ptp(along))
    if width > _WIDEST or length < _LEAST_RATIO * max(width, float(objects.steps[index])):
        return None
    near = np.abs(along) < _SLICE
    if near.sum() < _LEAST_SAMPLES // 2:
        return None
    return ThinObject(positions[near].mean(axis=0), approach, direction)
