"""Choose approach poses that a gripper with two parallel fingers can use: from above, or along the surface normal.

The fingers must fit around the object, and must touch neither the plane on which the object stands nor another surface of the
depth image. docs/explanation/approach_poses.md describes the method.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from robobrain_ros.core.approach import ELONGATED, LEAST_VALID, ApproachPose, Direction, Limits, approach_poses
from robobrain_ros.core.boxed_objects import FINE, BoxedObjects, find_objects
from robobrain_ros.core.geometry import CameraModel, Floats
from robobrain_ros.core.gripper import Gripper
from robobrain_ros.core.normals import NOISE
from robobrain_ros.core.poses import Stamp, StampedPose, Unavailable, Uncertainty, frames_of, to_quaternions
from robobrain_ros.core.query import Box, Point
from robobrain_ros.core.surfaces import DepthImage
from robobrain_ros.core.surroundings import Surroundings
from robobrain_ros.core.top_grasps import USUAL_UP, support_of, top_grasps
from robobrain_ros.core.transforms import Vector

_LIMITS, _GRIPPER = Limits(), Gripper()

_TILT = math.radians(2.0)
"""Standard deviation of the direction of a pose from above, from the fit of the plane on which the object stands."""
_SPREAD = 1.75 * NOISE
"""Standard deviation of the position of a pose from above, in metres at a distance of 1 m. It grows with the square."""
_AROUND_POINT = 0.06
"""Metres around a point in which the plane below it is searched."""


def grasp_poses(
    camera: CameraModel,
    depth: DepthImage | None,
    requests: Sequence[Point | Box],
    *,
    frame: str,
    stamp: Stamp,
    limits: Limits = _LIMITS,
    gripper: Gripper = _GRIPPER,
    direction: Direction = Direction.AUTOMATIC,
    up: Vector = USUAL_UP,
) -> tuple[ApproachPose, ...]:
    """Return the approach pose for each request in the optical frame, and whether the gripper can use it.

    A point has no size, so its pose is never graspable, and AUTOMATIC returns its surface normal.

    :param camera: the model of the camera that took the image. ``frame`` and ``stamp`` are those of the image.
    :param depth: the depth image of the image's time. None makes each pose unavailable (NO_DEPTH).
    :param direction: SURFACE_NORMAL: the poses of `approach_poses`. FROM_ABOVE: down to the plane on which the object stands
        (NO_SUPPORT if there is none). AUTOMATIC: from above if the gripper can grasp there, otherwise the surface normal.
    :param up: direction against gravity in the optical frame. It decides between a table and a wall that the object touches. The
        default is that of a camera that is upright and looks down on a table.
    :raises GeometryError: the views of depth image and camera differ.
    """
    found = list(approach_poses(camera, depth, requests, frame=frame, stamp=stamp, limits=limits))
    if direction is Direction.FROM_ABOVE:
        found = [replace(each, direction=direction) for each in found]
    if depth is None:
        return tuple(found)
    for index, request in enumerate(requests):
        pose = found[index].pose
        if isinstance(request, Box):
            if pose.reason in (None, Unavailable.EDGE, Unavailable.UNCERTAIN):
                objects = _objects_in(camera, depth, request)
                found[index] = _in_box(camera, depth, objects, found[index], gripper, direction, up)
        elif direction is Direction.FROM_ABOVE and pose.available:
            found[index] = _above_point(camera, depth, found[index], up)
    return tuple(found)


def _objects_in(camera: CameraModel, depth: DepthImage, box: Box) -> BoxedObjects:
    right, bottom = camera.width - 1.0, camera.height - 1.0
    sides = np.array([[box.u_min, box.v_min, box.u_max, box.v_max]], np.float64)
    return find_objects(camera, depth, np.clip(sides, 0.0, (right, bottom, right, bottom)), FINE)


def _in_box(
    camera: CameraModel,
    depth: DepthImage,
    objects: BoxedObjects,
    along_normal: ApproachPose,
    gripper: Gripper,
    direction: Direction,
    up: Vector,
) -> ApproachPose:
    around = Surroundings.of(camera, depth, objects, support_of(objects, up), gripper)
    if direction is not Direction.SURFACE_NORMAL:
        above = _from_above(camera, objects, along_normal.pose, around, gripper)
        if above.graspable or direction is Direction.FROM_ABOVE:
            return above
    if not along_normal.pose.available:
        return along_normal
    grasps = gripper.along(np.array(along_normal.pose.position), along_normal.pose.axes(), along_normal.width)
    best = around.best(grasps, gripper) if grasps is not None else None
    if grasps is None or best is None:
        return along_normal
    return replace(along_normal, graspable=True, opening=float(grasps.openings[best]), finger_depth=float(grasps.depths[best]))


def _from_above(
    camera: CameraModel, objects: BoxedObjects, known: StampedPose, around: Surroundings, gripper: Gripper
) -> ApproachPose:
    """Return the best pose from above. If the gripper fits nowhere, the pose is the first candidate, and it is not graspable."""
    if around.support is None or not objects.standing[0]:
        return ApproachPose(known.without(Unavailable.NO_SUPPORT), direction=Direction.FROM_ABOVE)
    if objects.valid[0] < LEAST_VALID:
        return ApproachPose(known.without(Unavailable.HOLE), direction=Direction.FROM_ABOVE)
    grasps = top_grasps(objects, around.support, gripper)
    best = around.best(grasps, gripper)
    chosen = 0 if best is None else best
    width, length = float(grasps.widths[chosen]), float(grasps.lengths[chosen])
    found = _pose_from_above(camera, known, grasps.surfaces[chosen], grasps.axes[chosen])
    found = replace(found, width=width, length=length, elongated=length >= ELONGATED * width)
    if best is None:
        return found
    return replace(found, graspable=True, opening=float(grasps.openings[best]), finger_depth=float(grasps.depths[best]))


def _above_point(camera: CameraModel, depth: DepthImage, known: ApproachPose, up: Vector) -> ApproachPose:
    """Return the pose from above at the position of a point."""
    u, v = known.pixel
    position = np.array(known.pose.position)
    reach = _AROUND_POINT * camera.fx / position[2]
    support = support_of(_objects_in(camera, depth, Box(u - reach, v - reach, u + reach, v + reach)), up)
    if support is None:
        return ApproachPose(known.pose.without(Unavailable.NO_SUPPORT), direction=Direction.FROM_ABOVE)
    axes = frames_of(-support.up[None], np.array([[1.0, 0.0, 0.0]]))[0]
    return replace(_pose_from_above(camera, known.pose, position, axes), pixel=known.pixel)


def _pose_from_above(camera: CameraModel, known: StampedPose, position: Floats, axes: Floats) -> ApproachPose:
    x, y, z = position.tolist()
    qx, qy, qz, qw = to_quaternions(axes[None])[0].tolist()
    uncertainty = Uncertainty(_SPREAD * z * z, _TILT)
    pose = replace(known, position=(x, y, z), orientation=(qx, qy, qz, qw), uncertainty=uncertainty, reason=None)
    u, v = camera.project(position[None])[0].tolist()
    return ApproachPose(pose, (u, v), direction=Direction.FROM_ABOVE)
