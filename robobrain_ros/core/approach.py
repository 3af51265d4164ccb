"""Compute approach poses: from where, and in which orientation, a gripper reaches the surface at a point or in a bounding box.

The frame of an approach pose is right-handed. Its origin is on the surface. z points into the surface (approach direction), x is
along the longer axis of the object, and y = z × x is the direction in which a gripper closes. docs/explanation/approach_poses.md
describes the method. Bad input results in a pose that is unavailable for a reason, never in a plausible pose.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np

from robobrain_ros.core.boxed_objects import BoxedObjects, find_objects
from robobrain_ros.core.geometry import CameraModel, Floats, to_image_pixels
from robobrain_ros.core.normals import SurfaceFits, fit_surfaces, on_large_surface
from robobrain_ros.core.poses import (
    Source,
    Stamp,
    StampedPose,
    Unavailable,
    Uncertainty,
    frames_of,
    to_matrices,
    to_quaternions,
)
from robobrain_ros.core.query import Box, Point
from robobrain_ros.core.surfaces import Bools, DepthImage, Integers, beyond_range
from robobrain_ros.core.thin_objects import ANGLE, thin_object
from robobrain_ros.core.transforms import Transform

LEAST_VALID = 0.4
"""Smallest share of valid depth in the middle of a box, as in `core.surfaces`."""
_LEAST_COVERED = 0.4
"""Smallest share of a box's width and height that its object fills."""

_TARGETS = ((0.0, 0.0), *((u, v) for u in (-0.2, 0.0, 0.2) for v in (-0.2, 0.0, 0.2) if u or v))
"""Places of the pose in a box, relative to its centre and in units of its size. The first one is preferred."""

_TRIES = 3
"""Number of other places that are tried first: those with most samples of the object around them."""
_AROUND = (-4, -2, 0, 2, 4)
"""Offsets of these samples on the grid."""

_DOUBTFUL, _BETTER = 0.5, 0.7
"""Other places are tried if the uncertainty exceeds this share of its limit. They are used if they reduce it to this share."""

_TURN, _FINE_TURN = np.radians(5.0), np.radians(1.0)
"""Steps of the search for the longer axis."""
_ROUND = 0.93
"""Factor of the area of the rectangle along the image's horizontal axis, so that x does not turn randomly on round objects."""
ELONGATED = 1.15
"""Smallest ratio of length and width of an object with a longer axis."""


@dataclass(frozen=True)
class Limits:
    """When approach poses are unavailable.

    :param angle: largest standard deviation of the normal in radians.
    :param reach: metres. A flat surface that extends at least this far around the point is background, such as a table or a wall.
        Infinity turns this check off, for example to push a door or to place an object on a table.
    """

    angle: float = math.radians(7.5)
    reach: float = 0.15

    def __post_init__(self) -> None:
        """Raise ValueError for a limit that is NaN or not above 0."""
        if not (self.angle > 0.0 and self.reach > 0.0):
            raise ValueError("The limits of approach poses must be above 0.")


class Direction(str, Enum):
    """From where a gripper approaches an object."""

    AUTOMATIC = "automatic"
    SURFACE_NORMAL = "surface_normal"
    FROM_ABOVE = "from_above"


@dataclass(frozen=True)
class ApproachPose:
    """An approach pose with the size of the object.

    :param pose: the pose, or the reason why it is unavailable.
    :param pixel: (u, v) of its origin in the image. In a box: the centre, or the place with the smallest uncertainty if the
        normal at the centre is uncertain. NaN if the pose is unavailable.
    :param width: metres. Size of the visible object along y: a gripper opens wider than this. NaN: unknown, because the request
        is a point or the pose is unavailable.
    :param length: metres. Size of the visible object along x, otherwise as ``width``.
    :param direction: SURFACE_NORMAL or FROM_ABOVE.
    :param graspable: whether a gripper fits (only `core.grasps.grasp_poses`). ``opening`` is the distance between its fingers
        before they close, and ``finger_depth`` how far the fingertips are past the origin along z, in metres. NaN: not graspable.
    :param elongated: whether the object has a longer axis. Otherwise, as without a box, x points to the right in the image.
    """

    pose: StampedPose
    pixel: tuple[float, float] = (math.nan, math.nan)
    width: float = math.nan
    length: float = math.nan
    elongated: bool = False
    direction: Direction = Direction.SURFACE_NORMAL
    graspable: bool = False
    opening: float = math.nan
    finger_depth: float = math.nan


def approach_poses(
    camera: CameraModel,
    depth: DepthImage | None,
    requests: Sequence[Point | Box],
    *,
    frame: str,
    stamp: Stamp,
    transform: Transform | None = None,
    target_frame: str = "",
    limits: Limits = Limits(),
) -> tuple[ApproachPose, ...]:
    """Return the approach pose for each request. A request has the same result alone and together with others.

    :param camera: the model of the camera that took the image.
    :param depth: the depth image of the image's time. None makes each pose unavailable (NO_DEPTH).
    :param requests: points and boxes in pixels of the image.
    :param frame: optical frame of the image. ``stamp`` is its stamp.
    :param transform: from ``frame`` to ``target_frame``. None: the poses are in ``frame``.
    :raises GeometryError: the views of depth image and camera differ.
    """
    frame_of_poses = target_frame if transform is not None else frame
    blank = [
        StampedPose(frame_of_poses, stamp, Source.POINT if isinstance(request, Point) else Source.BOX) for request in requests
    ]
    reasons = [_fault(camera, depth, transform, request) for request in requests]
    sound = [index for index, reason in enumerate(reasons) if reason is None]
    found = [ApproachPose(pose.without(reason)) if reason else None for pose, reason in zip(blank, reasons, strict=True)]
    if depth is not None and sound:
        points = [index for index in sound if isinstance(requests[index], Point)]
        boxes = [index for index in sound if not isinstance(requests[index], Point)]
        parts = []
        if points:
            parts.append((points, _at_points(camera, depth, _point_pixels(camera, [requests[i] for i in points]), limits)))
        if boxes:
            parts.append((boxes, _in_boxes(camera, depth, _box_pixels(camera, [requests[i] for i in boxes]), limits)))
        for indices, result in parts:
            if transform is not None:
                result.move(transform)
            for index, pose in zip(indices, result.poses([blank[i] for i in indices]), strict=True):
                found[index] = pose
        holes = [index for index in sound if _reason(found[index]) is Unavailable.HOLE]
        if holes and not np.isfinite(depth.metres()).any():
            for index in holes:
                found[index] = ApproachPose(blank[index].without(Unavailable.NO_DEPTH))
    return tuple(pose for pose in found if pose is not None)


def _reason(pose: ApproachPose | None) -> Unavailable | None:
    return pose.pose.reason if pose else None


def _fault(
    camera: CameraModel, depth: DepthImage | None, transform: Transform | None, request: Point | Box
) -> Unavailable | None:
    """Return the reason why a request cannot be answered, whatever the depth image shows."""
    if isinstance(request, Point):
        low = high = (request.u, request.v)
    else:
        low, high = (request.u_min, request.v_min), (request.u_max, request.v_max)
    if not all(map(math.isfinite, (*low, *high))):
        return Unavailable.NOT_FINITE
    if isinstance(request, Box) and not (high[0] - low[0] >= 1.0 and high[1] - low[1] >= 1.0):
        return Unavailable.EMPTY_BOX
    if high[0] < -0.5 or high[1] < -0.5 or low[0] > camera.width - 0.5 or low[1] > camera.height - 0.5:
        return Unavailable.OUTSIDE
    if depth is None:
        return Unavailable.NO_DEPTH
    if transform is not None and not transform.valid:
        return Unavailable.BAD_TRANSFORM
    return None


def _point_pixels(camera: CameraModel, points: Sequence[Point | Box]) -> Floats:
    pixels = np.array([(point.u, point.v) for point in points if isinstance(point, Point)], np.float64)
    return np.clip(pixels, 0.0, (camera.width - 1.0, camera.height - 1.0))


def _box_pixels(camera: CameraModel, boxes: Sequence[Point | Box]) -> Floats:
    pixels = [(box.u_min, box.v_min, box.u_max, box.v_max) for box in boxes if isinstance(box, Box)]
    right, bottom = camera.width - 1.0, camera.height - 1.0
    return np.clip(np.array(pixels, np.float64), 0.0, (right, bottom, right, bottom))


@dataclass
class _Result:
    """The surfaces and frames of n requests. ``axes`` are (n, 3, 3) with x, y and z as columns."""

    positions: Floats
    axes: Floats
    angles: Floats
    spreads: Floats
    pixels: Floats
    sizes: Floats
    elongated: Bools
    reasons: list[Unavailable | None]

    def move(self, transform: Transform) -> None:
        """Transform all poses to another frame."""
        turn = to_matrices(np.array([transform.quaternion]))[0]
        self.positions = self.positions @ turn.T + np.array(transform.translation)
        self.axes = turn @ self.axes

    def poses(self, blank: Sequence[StampedPose]) -> list[ApproachPose]:
        """Return the poses in the frames of blank poses."""
        quaternions = to_quaternions(self.axes).tolist()
        positions, pixels, sizes = self.positions.tolist(), self.pixels.tolist(), self.sizes.tolist()
        spreads, angles, elongated = self.spreads.tolist(), self.angles.tolist(), self.elongated.tolist()
        found = []
        for index, (pose, reason) in enumerate(zip(blank, self.reasons, strict=True)):
            if reason is not None:
                found.append(ApproachPose(pose.without(reason)))
                continue
            uncertainty = Uncertainty(spreads[index], angles[index])
            stamped = StampedPose(
                pose.frame, pose.stamp, pose.source, tuple(positions[index]), tuple(quaternions[index]), uncertainty
            )
            length, width = sizes[index]
            found.append(ApproachPose(stamped, tuple(pixels[index]), width, length, elongated[index]))
        return found


def _at_points(camera: CameraModel, depth: DepthImage, pixels: Floats, limits: Limits) -> _Result:
    fits = fit_surfaces(camera, depth, pixels)
    reasons = _faults(fits, limits)
    _find_background(camera, depth, fits, reasons, np.ones(len(pixels), np.bool_), limits)
    to_the_right = np.broadcast_to(np.array([1.0, 0.0, 0.0]), fits.normals.shape)
    axes = frames_of(fits.normals, to_the_right)
    unknown = np.full((len(pixels), 2), np.nan)
    return _Result(fits.positions, axes, fits.angles, fits.spreads, pixels, unknown, np.zeros(len(pixels), np.bool_), reasons)


def _faults(fits: SurfaceFits, limits: Limits) -> list[Unavailable | None]:
    """Return the reason why each surface has no usable normal."""
    reasons: list[Unavailable | None] = [None] * len(fits.normals)
    uncertain = ~fits.enough | ~(fits.angles <= limits.angle)
    for fault, reason in (
        (uncertain, Unavailable.UNCERTAIN),
        (fits.folded, Unavailable.EDGE),
        (~fits.covered, Unavailable.NO_RAY),
        (~fits.measured, Unavailable.HOLE),
        (~fits.measured & fits.too_near, Unavailable.TOO_NEAR),
        (~fits.measured & fits.too_far, Unavailable.TOO_FAR),
    ):
        for index in np.flatnonzero(fault):
            reasons[index] = reason
    return reasons


def _find_background(
    camera: CameraModel,
    depth: DepthImage,
    fits: SurfaceFits,
    reasons: list[Unavailable | None],
    possible: Bools,
    limits: Limits,
) -> None:
    """Set the reason of the surfaces that are background. ``possible`` (n) selects the surfaces that can be."""
    if not math.isfinite(limits.reach):
        return
    # Near an edge of the background, the background is the better reason.
    tested = np.flatnonzero(possible & fits.measured & fits.enough & fits.covered)
    if not len(tested):
        return
    large = on_large_surface(camera, depth, fits.positions[tested], fits.normals[tested], limits.reach)
    for index in tested[large]:
        reasons[index] = Unavailable.BACKGROUND


def _in_boxes(camera: CameraModel, depth: DepthImage, boxes: Floats, limits: Limits) -> _Result:
    objects = find_objects(camera, depth, boxes)
    count = len(boxes)
    places = _places(objects.members, objects.margin, _TARGETS[:1])[:, 0]
    pixels = _pixels_of(camera, depth, objects, np.arange(count), places)
    fits = fit_surfaces(camera, depth, pixels)
    reasons = _faults(fits, limits)
    known: Bools = np.asarray(objects.members.any(axis=(1, 2)))
    doubtful = fits.angles > _DOUBTFUL * limits.angle
    retried = np.array([k for k in range(count) if known[k] and (reasons[k] is not None or doubtful[k])], np.intp)
    if len(retried):
        fits = _with_better_places(camera, depth, objects, fits, pixels, reasons, retried, limits)
    _find_background(camera, depth, fits, reasons, known, limits)
    for index in np.flatnonzero(objects.standing):
        if reasons[index] in (Unavailable.EDGE, Unavailable.UNCERTAIN, Unavailable.HOLE):
            thin = thin_object(objects, index)
            if thin is not None:
                fits.positions[index], fits.normals[index], fits.angles[index] = thin.position, thin.approach, ANGLE
                pixels[index], reasons[index] = camera.project(thin.position[None])[0], None
    for fault, reason in (
        (objects.covered < _LEAST_COVERED, Unavailable.NOT_FILLED),
        (objects.several, Unavailable.SEVERAL_OBJECTS),
    ):
        for index in np.flatnonzero(fault):
            if reasons[index] is not Unavailable.BACKGROUND:
                reasons[index] = reason
    for index in np.flatnonzero(~known | (objects.valid < LEAST_VALID)):
        reasons[index] = _no_depth_in(depth, objects, index)
    axes, sizes = _along_objects(objects, fits)
    return _Result(
        fits.positions, axes, fits.angles, fits.spreads, pixels, sizes, sizes[:, 0] >= ELONGATED * sizes[:, 1], reasons
    )


def _no_depth_in(depth: DepthImage, objects: BoxedObjects, index: int) -> Unavailable:
    """Return why a box has too little valid depth."""
    rows, columns = np.meshgrid(objects.rows[index], objects.columns[index], indexing="ij")
    side = int(beyond_range(depth.at(rows, columns).ravel()))
    return {-1: Unavailable.TOO_NEAR, 0: Unavailable.HOLE, 1: Unavailable.TOO_FAR}[side]


def _places(members: Bools, margin: int, targets: tuple[tuple[float, float], ...]) -> Integers:
    """Return row and column (n, t, 2), on the grids, of the object's sample that is nearest to each target (t, 2) in the box."""
    count, size = members.shape[:2]
    order = _nearest_first(size, margin, targets)
    members = members.reshape(count, -1)
    # The first member in the order of the distance. Without members, it is the first cell.
    first = np.stack([members[:, cells_of_target].argmax(axis=1) for cells_of_target in order], axis=1)
    known: Bools = np.asarray(members.any(axis=1))
    best = np.where(known[:, None], order[np.arange(len(targets)), first], 0)
    return np.stack((best // size, best % size), axis=-1)


@lru_cache(maxsize=4)
def _nearest_first(size: int, margin: int, targets: tuple[tuple[float, float], ...]) -> Integers:
    """Return the cells of a grid (t, size²) in the order of their distance to each target."""
    wanted = (size - 1) / 2.0 + np.array(targets) * (size - 2 * margin - 1)
    cells = np.arange(size)
    away = ((cells[None, :] - wanted[:, :1]) ** 2)[:, None, :] + ((cells[None, :] - wanted[:, 1:]) ** 2)[:, :, None]
    return np.argsort(away.reshape(len(targets), -1), axis=1, kind="stable")


def _best_surrounded(members: Bools, places: Integers) -> Integers:
    """Return the places (n, t, 2), those around which most samples belong to the object first."""
    offsets = np.stack(np.meshgrid(_AROUND, _AROUND, indexing="ij"), axis=-1).reshape(-1, 2)
    around = np.clip(places[:, :, None] + offsets, 0, members.shape[1] - 1)
    index = np.arange(len(places))[:, None]
    number = members[index[:, :, None], around[..., 0], around[..., 1]].sum(axis=2)
    found: Integers = places[index, np.argsort(-number, axis=1, kind="stable")]
    return found


def _pixels_of(camera: CameraModel, depth: DepthImage, objects: BoxedObjects, indices: Integers, places: Integers) -> Floats:
    """Return the pixels (n, 2) in the image of places (n, 2) on the grids of the objects at the indices (n)."""
    scale = depth.scale(camera)
    sampled = np.column_stack((objects.columns[indices, places[:, 1]], objects.rows[indices, places[:, 0]])).astype(np.float64)
    return np.clip(to_image_pixels(sampled, scale), 0.0, (camera.width - 1.0, camera.height - 1.0))


def _with_better_places(
    camera: CameraModel,
    depth: DepthImage,
    objects: BoxedObjects,
    fits: SurfaceFits,
    pixels: Floats,
    reasons: list[Unavailable | None],
    retried: Integers,
    limits: Limits,
) -> SurfaceFits:
    """Search other places in boxes whose central place has no certain normal, and update ``pixels`` and ``reasons``."""
    members = objects.members[retried]
    places = _best_surrounded(members, _places(members, objects.margin, _TARGETS[1:]))
    open_ones = np.arange(len(retried))
    for part in (slice(None, _TRIES), slice(_TRIES, None)):
        tried = places[open_ones, part]
        tries = tried.shape[1]
        others = _pixels_of(camera, depth, objects, np.repeat(retried[open_ones], tries), tried.reshape(-1, 2))
        more = fit_surfaces(camera, depth, others)
        usable = np.array([fault is None for fault in _faults(more, limits)]).reshape(-1, tries)
        angles = np.where(usable, more.angles.reshape(-1, tries), np.inf)
        best = angles.argmin(axis=1)
        indices, lowest = retried[open_ones], angles.min(axis=1)
        bad = np.array([reasons[index] is not None for index in indices])
        taken = np.isfinite(lowest) & (bad | (lowest < _BETTER * fits.angles[indices]))
        sources = np.arange(len(open_ones)) * tries + best
        fits = fits.replaced(indices[taken], more, sources[taken])
        pixels[indices[taken]] = others[sources[taken]]
        for index in indices[taken]:
            reasons[index] = None
        open_ones = open_ones[bad & ~taken]
        if not len(open_ones):
            break
    return fits


def _along_objects(objects: BoxedObjects, fits: SurfaceFits) -> tuple[Floats, Floats]:
    """Return frames (n, 3, 3) with x along the longer axis of each object, and the objects' lengths and widths (n, 2) in metres.

    The rectangle of the smallest area around the object, in the tangent plane, has the directions x and y (Freeman and Shapira
    1975).
    """
    to_the_right = np.broadcast_to(np.array([1.0, 0.0, 0.0]), fits.normals.shape)
    start = frames_of(fits.normals, to_the_right)
    border, known = objects.border()
    flat = (border - fits.positions[:, None, :]) @ start[:, :, :2]
    index = np.arange(len(flat))
    flat = np.where(known[:, :, None], flat, flat[index, known.argmax(axis=1)][:, None])
    half = round(0.5 * np.pi / _TURN)
    angles = np.broadcast_to(np.arange(2 * half) * _TURN, (len(flat), 2 * half))
    extents = _extents(flat, angles)
    areas = extents[:, :half] * extents[:, half:]
    areas[:, 0] *= _ROUND
    rough = areas.argmin(axis=1) * _TURN
    fine = np.arange(-2, 3) * _FINE_TURN
    fine_areas_of = np.concatenate((rough[:, None] + fine, rough[:, None] + fine + 0.5 * np.pi), axis=1)
    extents = _extents(flat, fine_areas_of)
    best = (extents[:, : len(fine)] * extents[:, len(fine) :]).argmin(axis=1)
    first, second = extents[index, best], extents[index, best + len(fine)]
    turn = fine_areas_of[index, best] + np.where(second > first, 0.5 * np.pi, 0.0)
    turn = np.where(np.cos(turn) < 0.0, turn + np.pi, turn)  # x points to the right in the image.
    wish = np.cos(turn)[:, None] * start[:, :, 0] + np.sin(turn)[:, None] * start[:, :, 1]
    sizes = np.column_stack((np.maximum(first, second), np.minimum(first, second))) + objects.steps[:, None]
    return frames_of(fits.normals, wish), sizes


def _extents(flat: Floats, angles: Floats) -> Floats:
    """Return the extents (n, a) of points (n, k, 2) along directions at angles (n, a)."""
    along = flat @ np.stack((np.cos(angles), np.sin(angles)), axis=1)
    return np.asarray(along.max(axis=1) - along.min(axis=1), np.float64)
