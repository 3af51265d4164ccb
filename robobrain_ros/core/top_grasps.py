"""Grasps of an object from above: at the rim of a hollow round object, or across the top."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from robobrain_ros.core.boxed_objects import BoxedObjects
from robobrain_ros.core.geometry import Floats
from robobrain_ros.core.gripper import LEAST_DEPTH, SHALLOW, Grasps, Gripper
from robobrain_ros.core.normals import NOISE
from robobrain_ros.core.poses import frames_of
from robobrain_ros.core.surroundings import Support
from robobrain_ros.core.transforms import Vector

USUAL_UP: Vector = (0.0, -0.82, -0.57)
"""Upwards in the optical frame of a camera that looks down on a table. The direction decides between a table and a wall."""
_STANDS = 0.02
"""Metres. The lowest samples of an object are at most this far above the plane on which it stands."""
_SPREAD = 3.0
"""Samples are left out if they are farther from the object's middle than this multiple of the median distance."""
_BALL, _MOST_BALL = 0.0005, 0.06
"""Largest deviation of a ball's samples in metres, in addition to noise, and largest radius of a ball in metres."""
_TOP, _LOW = 0.97, 0.03
"""Quantiles of the heights of an object's samples that count as its upper and lower end."""
_BAND = 0.004
"""Metres, in addition to noise. Samples below the upper end that belong to the top."""
_ANGLES = 32
"""Places on a rim that are tried."""
_TURNS = 18
"""Directions of closing across the top that are tried."""
_AS_NARROW = 1.08
"""Directions whose width is at most this multiple of the smallest width are equally good."""

_LEAST_RADIUS, _MOST_RADIUS = 0.015, 0.20
"""Bounds of the radius of a rim in metres."""
_ROUND = 0.005
"""Largest median distance in metres of the top's samples from a rim."""
_COVERED = 0.55
"""Smallest share of a rim with samples."""
_INSIDE = 0.6
"""Share of a rim's radius in which the camera must look into the object."""
_HOLLOW = 0.012
"""Metres. A hollow object is at least this deep."""
_SEEN, _LEAST_RAYS = 0.7, 6
"""Share of the rays inside of a rim that reach deeper than its upper end, and the fewest rays inside."""
_WALL_DEPTH = 0.035
"""Metres below the rim in which the slope of the wall is measured."""
_LEAST_TILT, _MOST_TILT = math.radians(6.0), math.radians(20.0)
"""A gripper at a rim follows the slope of the wall between these angles."""
_BELOW_RIM = 0.005
"""Metres between the rim and the part of the fingers that holds the wall."""
_WALL = 0.004
"""Metres. Smallest width of the wall at a rim."""


def support_of(objects: BoxedObjects, up: Vector = USUAL_UP) -> Support | None:
    """Return the plane on which the first of the objects stands, or None if no plane was found around it.

    :param up: decides between two planes that the object touches, in the optical frame.
    """
    members = objects.positions[0][objects.members[0]].astype(np.float64)
    choices = []
    for plane in objects.planes[0]:
        size = float(np.linalg.norm(plane))
        if size < 1e-6 or not len(members):
            continue
        support = Support(-plane / size, -1.0 / size)
        low = float(np.quantile(support.heights(members), _LOW))
        choices.append((low <= _STANDS, float(support.up @ np.array(up)), support))
    if not choices:
        return None
    return max(choices, key=lambda choice: choice[:2])[2]


@dataclass(frozen=True)
class _Rim:
    """A round rim, seen from above.

    :param centre: (2), metres. ``radius``: metres. ``wall``: width of the wall in metres.
    :param slope: tangent of the angle between the wall and the vertical. It is positive for a bowl, which is narrower below.
    :param angles: (a) radians of the places with samples.
    """

    centre: Floats
    radius: float
    wall: float
    slope: float
    angles: Floats


def top_grasps(objects: BoxedObjects, support: Support, gripper: Gripper) -> Grasps:
    """Return grasps from above, of the first of the objects. There is at least one.

    :param support: the plane on which the object stands.
    """
    frame = frames_of(-support.up[None], np.array([[1.0, 0.0, 0.0]]))[0]
    positions = objects.positions[0].astype(np.float64)
    members = _together(positions[objects.members[0]])
    heights, flat = support.heights(members), members @ frame[:, :2]
    top = float(np.quantile(heights, _TOP))
    noise = 3.0 * NOISE * float(np.median(members[:, 2])) ** 2
    band = flat[heights > top - _BAND - noise]
    rim = _rim(objects, support, frame, band, top)
    ball = _ball(members) if rim is None else None
    if ball is not None:
        middle, radius = ball
        top = float(support.heights(middle)) + radius
        parts = [_around(middle @ frame[:, :2], np.full(_TURNS, 2.0 * radius), gripper)]
    else:
        parts = [_across(flat, band, gripper)]
        if rim is not None:
            parts.append(_at_rim(rim, gripper))
    places, ways, tilts, widths, lengths, depths, costs = (np.concatenate(each) for each in zip(*parts, strict=True))
    outwards, down = ways @ frame[:, :2].T, -support.up
    # The gripper follows the wall inwards and down, so its fingers close perpendicular to the wall.
    z = np.cos(tilts)[:, None] * down - np.sin(tilts)[:, None] * outwards
    y = np.cos(tilts)[:, None] * outwards + np.sin(tilts)[:, None] * down
    axes = np.stack((np.cross(y, z), y, z), axis=2)
    axes[:, :, :2] *= np.where(axes[:, :1, :1] < 0.0, -1.0, 1.0)  # x points to the right in the image.
    surfaces = places @ frame[:, :2].T + (support.offset + top) * support.up
    depths = np.minimum(depths, max(top - 0.006, LEAST_DEPTH))
    deep = depths >= np.maximum(SHALLOW * widths if ball is not None else 0.0, LEAST_DEPTH)
    costs = np.where(deep & [gripper.fits(width) for width in widths], costs, np.inf)
    openings = np.array([gripper.opening_for(width) for width in widths])
    return Grasps(surfaces, axes, widths, lengths, openings, depths, costs)


def _rim(objects: BoxedObjects, support: Support, frame: Floats, band: Floats, top: float) -> _Rim | None:
    """Return the rim of a hollow round object, or None if it has none."""
    kept = band
    centre, radius = np.zeros(2), 0.0
    for _ in range(3):
        if len(kept) < 12:
            return None
        matrix = np.column_stack((2.0 * kept, np.ones(len(kept))))
        solution = np.linalg.lstsq(matrix, (kept * kept).sum(axis=1), rcond=None)[0]
        centre = solution[:2]
        square = float(solution[2] + centre @ centre)
        if not square > 0.0:
            return None
        radius = math.sqrt(square)
        off = np.abs(np.linalg.norm(band - centre, axis=1) - radius)
        kept = band[off < max(2.5 * float(np.median(off)), 0.003)]
    if not (_LEAST_RADIUS <= radius <= _MOST_RADIUS and float(np.median(off)) <= _ROUND):
        return None
    away = kept - centre
    turns = np.arctan2(away[:, 1], away[:, 0])
    filled = np.zeros(_ANGLES, np.bool_)
    filled[(np.rint(turns / (2.0 * np.pi / _ANGLES)).astype(np.intp)) % _ANGLES] = True
    if filled.mean() < _COVERED:
        return None
    valid = objects.measured[0]
    positions = objects.positions[0][valid].astype(np.float64)
    heights = support.heights(positions)
    eye = -support.offset  # Height of the camera above the plane.
    crossing = positions * ((eye - top) / np.maximum(eye - heights, 1e-6))[:, None]
    through = np.linalg.norm(crossing @ frame[:, :2] - centre, axis=1) < _INSIDE * radius
    deep = heights[through] < top - _HOLLOW
    if len(deep) < _LEAST_RAYS or deep.mean() < _SEEN:
        return None
    distances = np.linalg.norm(away, axis=1)
    wall = max(float(np.quantile(distances, 0.95) - np.quantile(distances, 0.05)), _WALL)
    near = filled | np.roll(filled, 1) | np.roll(filled, -1)
    angles = np.flatnonzero(near).astype(np.float64) * (2.0 * np.pi / _ANGLES)
    slope = _slope(positions[objects.members[0][valid]], support, frame, centre, radius, top)
    return _Rim(centre, radius, wall, slope, angles)


def _slope(members: Floats, support: Support, frame: Floats, centre: Floats, radius: float, top: float) -> float:
    """Return the tangent of the angle between the wall and the vertical: the median of the outside and the inside."""
    away = members @ frame[:, :2] - centre
    distances, below = np.linalg.norm(away, axis=1), top - support.heights(members)
    to_camera = -(centre / max(float(np.linalg.norm(centre)), 1e-9))
    outside = away @ to_camera > 0.0
    wall = (below > _BAND) & (below < _WALL_DEPTH) & (np.abs(distances - radius) < 0.7 * radius)
    slopes, weights = [], []
    for side in (outside, ~outside):
        d, b = distances[wall & side], below[wall & side]
        if len(d) < 12 or float(np.ptp(b)) < 0.01:
            continue
        slopes.append(-float(np.polyfit(b, d, 1)[0]))
        weights.append(len(d))
    return float(np.average(slopes, weights=weights)) if slopes else 0.0


_Part = tuple[Floats, Floats, Floats, Floats, Floats, Floats, Floats]
"""Places (k, 2) and directions of closing (k, 2) on the plane, tilts in radians, widths, lengths, depths and costs (k)."""


def _at_rim(rim: _Rim, gripper: Gripper) -> _Part:
    ways = np.stack((np.cos(rim.angles), np.sin(rim.angles)), axis=1)
    count = len(ways)
    tilt = min(max(math.atan(rim.slope), 0.0), _MOST_TILT)
    tilts = np.full(count, tilt if tilt > _LEAST_TILT else 0.0)
    widths, depths = np.full(count, rim.wall), np.full(count, gripper.grip + _BELOW_RIM)
    return rim.centre + rim.radius * ways, ways, tilts, widths, np.full(count, np.nan), depths, np.zeros(count)


def _across(flat: Floats, band: Floats, gripper: Gripper) -> _Part:
    """Return grasps across the top. The part that the camera does not see is assumed to be symmetric."""
    (u, v), _, degrees = cv2.minAreaRect(band.astype(np.float32))
    centre = np.array([u, v])
    ways = _ways(math.radians(degrees))
    return _around(centre, 2.0 * np.quantile(np.abs((flat - centre) @ ways.T), 0.98, axis=0), gripper, math.radians(degrees))


def _around(centre: Floats, extents: Floats, gripper: Gripper, first: float = 0.0) -> _Part:
    """Return grasps across a centre (2). The extents (t) are those of the object in each direction, from the angle ``first``."""
    lengths = np.roll(extents, -_TURNS // 2)
    excess = extents / max(float(extents.min()), 1e-3)
    costs = 1.0 + np.where(excess <= _AS_NARROW, 0.0, 3.0 * (excess - 1.0))
    depths = np.array([gripper.depth_for(width) for width in extents])
    return np.repeat(centre[None], _TURNS, 0), _ways(first), np.zeros(_TURNS), extents, lengths, depths, costs


def _ways(first: float) -> Floats:
    turns = first + np.arange(_TURNS) * (np.pi / _TURNS)
    return np.stack((np.cos(turns), np.sin(turns)), axis=1)


def _together(positions: Floats) -> Floats:
    """Return the positions without those that are far from the others, such as parts of a wall behind the object."""
    away = np.linalg.norm(positions - np.median(positions, axis=0), axis=1)
    kept: Floats = positions[away <= _SPREAD * float(np.median(away))]
    return kept


def _ball(members: Floats) -> tuple[Floats, float] | None:
    """Return the centre (3) and the radius of a ball in metres, or None if the object is not a ball."""
    middle = members.mean(axis=0)
    local = members - middle
    for turn in range(2):
        matrix = np.column_stack((2.0 * local, np.ones(len(local))))
        solution = np.linalg.lstsq(matrix, (local * local).sum(axis=1), rcond=None)[0]
        square = float(solution[3] + solution[:3] @ solution[:3])
        if not square > 0.0:
            return None
        radius = math.sqrt(square)
        off = np.abs(np.linalg.norm(local - solution[:3], axis=1) - radius)
        if turn == 0:
            local = local[off <= max(float(np.quantile(off, 0.95)), 1e-4)]
    centre = middle + solution[:3]
    if centre @ middle < middle @ middle:  # The inside of a bowl.
        return None
    if radius > _MOST_BALL or float(np.sqrt((off * off).mean())) > _BALL + 2.0 * NOISE * float(centre[2]) ** 2:
        return None
    return np.asarray(centre, np.float64), radius
