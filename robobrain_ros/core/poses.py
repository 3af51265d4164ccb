"""Poses with a frame, a stamp, a source, and either an uncertainty or the reason why they are unavailable.

Frames are right-handed. Positions are in metres, angles in radians, quaternions are (x, y, z, w) as in geometry_msgs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from robobrain_ros.core.geometry import Floats
from robobrain_ros.core.transforms import Quaternion, Transform, Vector

Stamp = tuple[int, int]
"""Seconds and nanoseconds, as in builtin_interfaces/Time."""

_NAN3: Vector = (math.nan, math.nan, math.nan)
_NAN4: Quaternion = (math.nan, math.nan, math.nan, math.nan)

_UNIT = 1e-2
"""Largest deviation of the length of a normal or quaternion from 1."""

_SHORTEST = 1e-3
"""Metres. Two points on the floor that are closer have no direction."""


class Unavailable(str, Enum):
    """Why a pose is unavailable. The value is the end of a sentence."""

    NOT_FINITE = "the request contains NaN or infinity"
    EMPTY_BOX = "the bounding box is empty"
    OUTSIDE = "the request is outside of the image"
    NO_DEPTH = "there is no depth image with valid depth"
    HOLE = "there is too little valid depth at the point, as on reflective, transparent or black surfaces"
    TOO_NEAR = "the surface is nearer than min_depth or than the depth camera can measure"
    TOO_FAR = "the surface is farther than max_depth or than the depth camera can measure"
    BACKGROUND = "the point is on a large flat surface, such as the table or a wall, and not on an object"
    NOT_FILLED = "the object fills too little of the bounding box"
    SEVERAL_OBJECTS = "the bounding box contains several objects"
    EDGE = "the point is on an edge between two surfaces, so its normal is ambiguous"
    UNCERTAIN = "the surface is too small, thin or noisy for a normal"
    NO_RAY = "the camera's lens model does not cover the point"
    BAD_DISTANCE = "the distance is negative, not finite, or 0 where a base needs room"
    BAD_PLANE = "the floor plane is not finite, or its normal does not have the length 1"
    BAD_TRANSFORM = "the transform is not finite, or its quaternion does not have the length 1"
    NO_TRANSFORM = "there is no transform to target_frame at the image's time"
    NO_CAMERA = "there is no camera_info that describes the image"
    NO_SUPPORT = "no plane was found on which the object stands, so the direction from above is unknown"
    NO_FLOOR = "target_frame is empty, so the plane of the floor is unknown"
    BELOW_FLOOR = "the point is below the floor plane"
    NO_DIRECTION = "the point is directly above or below the robot, so no direction on the floor leads to it"


class Source(str, Enum):
    """What a pose was computed from."""

    POINT = "the depth at a point"
    BOX = "the depth in a bounding box"
    FLOOR = "a position and the floor plane"


@dataclass(frozen=True)
class Uncertainty:
    """Standard deviations of a pose.

    :param position: metres, along the line of sight. For a stand-off pose: also sideways.
    :param angle: radians, of the direction of the z axis (approach poses) or of the heading (poses on the floor).
    """

    position: float
    angle: float


@dataclass(frozen=True)
class StampedPose:
    """A pose in a frame. Position and orientation are NaN if it is unavailable.

    :param frame: the frame's name, such as ``camera_optical``.
    :param stamp: the stamp of the image.
    :param position: x, y and z in metres.
    :param orientation: quaternion (x, y, z, w) that rotates vectors from the pose's axes to the frame.
    :param uncertainty: of a computed pose. None: the pose is unavailable.
    :param reason: why it is unavailable, otherwise None.
    """

    frame: str
    stamp: Stamp
    source: Source
    position: Vector = _NAN3
    orientation: Quaternion = _NAN4
    uncertainty: Uncertainty | None = None
    reason: Unavailable | None = None

    @property
    def available(self) -> bool:
        """Whether the pose can be used."""
        return self.reason is None

    def axes(self) -> Floats:
        """Return the axes x, y and z as the columns of a rotation matrix: (3, 3)."""
        axes: Floats = to_matrices(np.array([self.orientation]))[0]
        return axes

    def without(self, reason: Unavailable) -> "StampedPose":
        """Return this pose as unavailable for a reason."""
        return replace(self, position=_NAN3, orientation=_NAN4, uncertainty=None, reason=reason)

    def moved(self, transform: Transform, frame: str) -> "StampedPose":
        """Return the pose in another frame.

        :param transform: from this pose's frame to ``frame``. An invalid transform makes the pose unavailable (BAD_TRANSFORM).
        """
        if not transform.valid:
            return replace(self, frame=frame).without(self.reason or Unavailable.BAD_TRANSFORM)
        if not self.available:
            return replace(self, frame=frame)
        turn = to_matrices(np.array([transform.quaternion]))[0]
        shifted = turn @ np.array(self.position) + np.array(transform.translation)
        orientation = to_quaternions((turn @ self.axes())[None])[0]
        return replace(self, frame=frame, position=_vector(shifted), orientation=_quaternion(orientation))


@dataclass(frozen=True)
class FloorPlane:
    """The plane on which a robot drives: all points p with ``normal`` · p = ``offset``.

    :param normal: unit vector upwards, in the frame of the poses. In REP 105 frames such as map or odom, it is (0, 0, 1).
    :param offset: metres.
    """

    normal: Vector = (0.0, 0.0, 1.0)
    offset: float = 0.0

    @property
    def valid(self) -> bool:
        """Whether all numbers are finite and the normal's length is about 1."""
        numbers = (*self.normal, self.offset)
        return all(map(math.isfinite, numbers)) and abs(math.hypot(*self.normal) - 1.0) <= _UNIT


def stand_off(pose: StampedPose, distances: Sequence[float]) -> tuple[StampedPose, ...]:
    """Return poses in front of an approach pose: moved by each distance along its negative z axis, with the same orientation.

    :param distances: metres, at least 0. Other values, NaN and infinity make a pose unavailable (BAD_DISTANCE).
    """
    if not pose.available:
        return tuple(pose for _ in distances)
    position, ahead = np.array(pose.position), pose.axes()[:, 2]
    assert pose.uncertainty is not None
    found = []
    for distance in distances:
        if not (math.isfinite(distance) and distance >= 0.0):
            found.append(pose.without(Unavailable.BAD_DISTANCE))
            continue
        # The error of the direction moves the pose sideways.
        spread = math.hypot(pose.uncertainty.position, distance * pose.uncertainty.angle)
        found.append(
            replace(pose, position=_vector(position - distance * ahead), uncertainty=Uncertainty(spread, pose.uncertainty.angle))
        )
    return tuple(found)


def floor_pose(pose: StampedPose, floor: FloorPlane, distance: float, robot: Vector = (0.0, 0.0, 0.0)) -> StampedPose:
    """Return the pose on the floor from which a robot faces the position of another pose.

    The foot is the perpendicular projection of the position onto the floor. The pose is ``distance`` from it, towards the
    robot. Its x axis points to the foot, and its z axis is the floor's normal, as in REP 103 for mobile bases. The function does
    not check whether the place is free.

    :param pose: an approach pose, in the frame of ``floor`` and ``robot``.
    :param distance: metres on the floor between the pose and the position's foot.
    :param robot: position of the robot or of its camera in metres. The default is the camera's own position in its optical frame.
    :returns: an unavailable pose with the reason of ``pose``, or BAD_DISTANCE, BAD_PLANE, NOT_FINITE, BELOW_FLOOR, NO_DIRECTION.
    """
    result = replace(pose, source=Source.FLOOR)
    if pose.uncertainty is None:
        return result
    if not (math.isfinite(distance) and distance > 0.0):
        return result.without(Unavailable.BAD_DISTANCE)
    if not floor.valid:
        return result.without(Unavailable.BAD_PLANE)
    if not all(map(math.isfinite, robot)):
        return result.without(Unavailable.NOT_FINITE)
    up = np.array(floor.normal) / math.hypot(*floor.normal)
    target, viewer = np.array(pose.position), np.array(robot)
    height = float(up @ target) - floor.offset
    if height < -3.0 * pose.uncertainty.position - _SHORTEST:
        return result.without(Unavailable.BELOW_FLOOR)
    foot = target - height * up
    away = viewer - (float(up @ viewer) - floor.offset) * up - foot
    length = float(np.linalg.norm(away))
    if length < _SHORTEST + 3.0 * pose.uncertainty.position:
        return result.without(Unavailable.NO_DIRECTION)
    ahead = -away / length
    axes = np.column_stack((ahead, np.cross(up, ahead), up))
    orientation = to_quaternions(axes[None])[0]
    uncertainty = Uncertainty(pose.uncertainty.position, math.atan2(pose.uncertainty.position, min(distance, length)))
    return replace(
        result, position=_vector(foot - distance * ahead), orientation=_quaternion(orientation), uncertainty=uncertainty
    )


def frames_of(normals: Floats, wishes: Floats) -> Floats:
    """Return right-handed frames (n, 3, 3) whose columns are the axes x, y and z.

    z is the normal. x is the part of the wish that is perpendicular to z (Gram-Schmidt), and y = z × x.

    :param normals: unit vectors (n, 3) into the surface.
    :param wishes: wanted directions of x: (n, 3). If a wish is parallel to its normal, the axis of the frame that is most
        perpendicular to the normal replaces it.
    """
    along = np.abs((normals * wishes).sum(axis=1)) > 0.999 * np.linalg.norm(wishes, axis=1)
    if along.any():
        wishes = np.where(along[:, None], np.eye(3)[np.abs(normals).argmin(axis=1)], wishes)
    x = wishes - (wishes * normals).sum(axis=1, keepdims=True) * normals
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.stack((x, np.cross(normals, x), normals), axis=2)


def to_quaternions(matrices: Floats) -> Floats:
    """Return the unit quaternions (n, 4) as (x, y, z, w), w >= 0, of rotation matrices (n, 3, 3).

    The method of Shepperd (1978) computes the largest component first, so it is stable for each rotation.
    """
    m = matrices
    trace = m[:, 0, 0] + m[:, 1, 1] + m[:, 2, 2]
    # Four times the outer product of the quaternion with itself. The row with the largest diagonal is the most exact one.
    k = np.empty((len(m), 4, 4))
    for axis in range(3):
        k[:, axis, axis] = 1.0 + 2.0 * m[:, axis, axis] - trace
    k[:, 3, 3] = 1.0 + trace
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        k[:, a, b] = k[:, b, a] = m[:, b, a] + m[:, a, b]
        k[:, c, 3] = k[:, 3, c] = m[:, b, a] - m[:, a, b]
    best = np.diagonal(k, axis1=1, axis2=2).argmax(axis=1)
    rows = k[np.arange(len(m)), best]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found: Floats = np.where(rows[:, 3:] < 0.0, -rows, rows)
    return found


def to_matrices(quaternions: Floats) -> Floats:
    """Return the rotation matrices (n, 3, 3) of quaternions (n, 4) as (x, y, z, w). Quaternions are normalized first."""
    q = quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)
    x, y, z, w = q.T
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=1)


def _vector(values: Floats) -> Vector:
    x, y, z = values.tolist()
    return x, y, z


def _quaternion(values: Floats) -> Quaternion:
    x, y, z, w = values.tolist()
    return x, y, z, w
