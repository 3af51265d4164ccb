"""Decide whether a gripper that closes at a pose holds an object of the simulated table.

The gripper has two fingers, and the objects are the solids that the camera sees. Frames are those of the table: z up, metres. The
simulation is geometric: nothing moves while the gripper closes.
"""

from dataclasses import dataclass

import numpy as np

from robobrain_ros.core.geometry import Floats
from robobrain_ros.core.gripper import Gripper
from robobrain_ros.core.poses import StampedPose
from robobrain_ros.demo.layout import Layout, Thing
from robobrain_ros.demo.rearrange import GRIP, RIM, find
from robobrain_ros.demo.render import Camera

GRIPPER = Gripper()
"""The size of the gripper. The node has the same values as defaults of its parameters gripper_*."""
_TOUCH = 0.001
"""Depth in metres to which the open gripper may touch an object."""
_PAD = 0.015
"""Length of the part of a finger that holds the object, in metres from its tip."""
_CLOSING, _PRESSED = 0.0005, 2
"""Step of a closing finger in metres, and the number of steps after the first touch."""
_FRICTION = np.cos(np.radians(35.0))
"""Cosine of the largest angle between the closing direction and the normal at a contact, for rubber (coefficient 0.7)."""
_STEP = 1e-5


@dataclass(frozen=True)
class Grasp:
    """A grasp: where the fingertips close, and in which orientation.

    :param tip: the point between the fingertips, in metres.
    :param axes: x, y and z of the gripper as the columns of a rotation matrix: (3, 3). It closes along y, and z points ahead.
    :param opening: distance of the fingers before they close, in metres.
    """

    tip: Floats
    axes: Floats
    opening: float


def at_pose(pose: StampedPose, opening: float, depth: float, camera: Camera) -> Grasp:
    """Return the grasp at an approach pose.

    :param pose: an approach pose in the optical frame of the camera.
    :param opening: distance of the fingers before they close, in metres.
    :param depth: distance in metres from the pose to the fingertips along z.
    """
    turn = _axes_of(camera)
    axes, surface = turn @ pose.axes(), turn @ np.array(pose.position) + np.array([0.0, 0.0, camera.height])
    return Grasp(surface + depth * axes[:, 2], axes, opening)


def own_grasp(layout: Layout, name: str) -> Grasp:
    """Return the simulator's own grasp of an object: from above, from its true pose."""
    thing = find(layout, name)
    c, s = thing.yaw
    across, depth, width = np.array([-s, c, 0.0]), GRIP, 2.0 * thing.radius
    place = np.array([thing.x, thing.y, thing.z + thing.height])
    if thing.kind == "ball":
        depth = thing.radius
    if thing.kind == "bowl":
        across, width = np.array([1.0, 0.0, 0.0]), 0.12 * thing.radius
        place = place + RIM * thing.radius * across
    ahead = np.array([0.0, 0.0, -1.0])
    axes = np.column_stack((np.cross(across, ahead), across, ahead))
    return Grasp(place + depth * ahead, axes, GRIPPER.opening_for(width))


def fault_of(layout: Layout, name: str, grasp: Grasp) -> str:
    """Return why a grasp does not hold an object, or an empty string if it does."""
    points = _gripper(grasp)
    if points[:, 2].min() < 0.0:
        return "the gripper hits the table"
    for thing in layout.things:
        if (thing.z == 0.0 or thing.name == name) and _distances(thing, points).min() < -_TOUCH:
            return f"the gripper hits the {thing.name}"
    return _fault_of_closing(find(layout, name), grasp)


def _axes_of(camera: Camera) -> Floats:
    """Return the axes of the optical frame as the columns of a matrix: (3, 3)."""
    right = (1.0, 0.0, 0.0)
    down, ahead = (0.0, -camera.sin_pitch, -camera.cos_pitch), (0.0, camera.cos_pitch, -camera.sin_pitch)
    return np.column_stack((right, down, ahead))


def _gripper(grasp: Grasp) -> Floats:
    """Return points (n, 3) on the open fingers and the palm."""
    half, deep, root = 0.5 * grasp.opening, 0.5 * GRIPPER.breadth, -GRIPPER.length
    outer = half + GRIPPER.thickness
    parts = [_grid((-deep, deep), (side * half, side * outer), (root, 0.0), (5, 3, 12)) for side in (-1.0, 1.0)]
    parts.append(_grid((-deep, deep), (-outer, outer), (root - GRIPPER.palm, root), (5, 25, 5)))
    points: Floats = grasp.tip + np.concatenate(parts) @ grasp.axes.T
    return points


def _grid(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], counts: tuple[int, int, int]) -> Floats:
    sides = [np.linspace(low, high, count) for (low, high), count in zip((x, y, z), counts, strict=True)]
    return np.stack([part.ravel() for part in np.meshgrid(*sides, indexing="ij")], axis=1)


def _fault_of_closing(thing: Thing, grasp: Grasp) -> str:
    pad = _grid((-0.5 * GRIPPER.breadth, 0.5 * GRIPPER.breadth), (0.0, 0.0), (-_PAD, 0.0), (7, 1, 13))
    for side in (-1.0, 1.0):
        places = np.arange(0.5 * grasp.opening, -0.5 * grasp.opening, -_CLOSING)
        moved = pad[None] + np.stack((np.zeros_like(places), side * places, np.zeros_like(places)), axis=1)[:, None]
        points = grasp.tip + moved.reshape(-1, 3) @ grasp.axes.T
        inside = (_distances(thing, points) < 0.0).reshape(len(places), len(pad))
        hits = np.flatnonzero(inside.any(axis=1))
        if not len(hits) or hits[0] == 0:
            return f"the fingers do not close on the {thing.name}"
        # The first point that touches can be on an edge, which has no normal. The finger is therefore closed by 1 mm more.
        pressed = min(hits[0] + _PRESSED, len(places) - 1)
        touching = points.reshape(len(places), len(pad), 3)[pressed][inside[pressed]]
        if not len(touching):
            return f"the {thing.name} slips from the fingers"
        if side * float((_normals(thing, touching) @ grasp.axes[:, 1]).mean()) < _FRICTION:
            return f"the {thing.name} slips from the fingers"
    return ""


def _normals(thing: Thing, points: Floats) -> Floats:
    """Return the outward normals (n, 3) at points near a surface. On an edge, they are the mean of the normals of both sides."""
    steps = _STEP * np.eye(3)
    slopes = [_distances(thing, points + step) - _distances(thing, points - step) for step in steps]
    return np.asarray(np.stack(slopes, axis=1) / (2.0 * _STEP), np.float64)


def _distances(thing: Thing, points: Floats) -> Floats:
    """Return the signed distances (n) in metres of points (n, 3) from an object. They are negative inside of it."""
    c, s = thing.yaw
    x, y, z = (points - (thing.x, thing.y, thing.z)).T
    x, y = c * x + s * y, c * y - s * x
    radius, height = thing.radius, thing.height
    if thing.kind == "block":
        return _box(x, y, z, (-radius, -radius, 0.0), (radius, radius, height))
    if thing.kind == "ball":
        return np.asarray(np.sqrt(x * x + y * y + (z - radius) ** 2) - radius, np.float64)
    if thing.kind == "bowl":
        return _cup(x, y, z, 0.55 * radius, radius, height, 0.12 * radius)
    inner, outer, half = 0.97 * radius, radius + thing.handle, 0.15 * radius
    low, high, bar = 0.18 * height, 0.86 * height, 0.36 * thing.handle
    bars = (
        _box(x, y, z, (outer - bar, -half, low), (outer, half, high)),
        _box(x, y, z, (inner, -half, low), (outer, half, low + bar)),
        _box(x, y, z, (inner, -half, high - bar), (outer, half, high)),
    )
    return np.minimum.reduce((_cup(x, y, z, radius, radius, height, 0.14 * radius), *bars))


def _box(x: Floats, y: Floats, z: Floats, low: tuple[float, float, float], high: tuple[float, float, float]) -> Floats:
    away = [np.maximum(a - value, value - b) for value, a, b in zip((x, y, z), low, high, strict=True)]
    inside = np.maximum.reduce(away)
    outside = np.sqrt(sum(np.maximum(part, 0.0) ** 2 for part in away))
    return np.asarray(np.where(inside > 0.0, outside, inside), np.float64)


def _cup(x: Floats, y: Floats, z: Floats, base: float, top: float, height: float, wall: float) -> Floats:
    """Return the signed distances from a hollow truncated cone. Near its edges, they are too small."""
    slope = (top - base) / height
    tilt = 1.0 / np.sqrt(1.0 + slope * slope)
    side = (np.hypot(x, y) - base - slope * z) * tilt
    solid = np.maximum.reduce((side, -z, z - height))
    cavity = np.maximum(side + wall * tilt, wall - z)
    return np.asarray(np.maximum(solid, -cavity), np.float64)
