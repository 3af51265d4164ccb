"""Convert poses, approach poses and findings about trajectories to messages."""

import math
from collections.abc import Iterable

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from std_msgs.msg import Header

from robobrain_ros.bounds.texts import clean
from robobrain_ros.core.approach import ApproachPose
from robobrain_ros.core.geometry import Floats
from robobrain_ros.core.poses import StampedPose
from robobrain_ros.core.traces.issues import TraceIssue
from robobrain_ros.msg import ApproachPose as ApproachPoseMessage
from robobrain_ros.msg import TraceIssue as TraceIssueMessage
from robobrain_ros.ros.messages.unknown import unknown

_SHORTEST = 1e-6
"""Metres. Two poses that are closer have no direction."""


def to_point(place: Floats) -> Point:
    """Return a position (3) as a message."""
    return Point(x=float(place[0]), y=float(place[1]), z=float(place[2]))


def along_path(places: Floats) -> list[Pose]:
    """Return poses at positions (n, 3) whose x axes point to the next position.

    The last pose has the orientation of the one before it. Without motion, the x axis is that of the frame.
    """
    direction = np.array([1.0, 0.0, 0.0])
    poses = []
    for number, place in enumerate(places):
        onward = places[number + 1] - place if number + 1 < len(places) else np.zeros(3)
        length = float(np.linalg.norm(onward))
        if length > _SHORTEST:
            direction = onward / length
        poses.append(Pose(position=to_point(place), orientation=_turn_x_to(direction)))
    return poses


def _turn_x_to(direction: Floats) -> Quaternion:
    """Return the smallest rotation of the x axis to a direction of length 1."""
    x, y, z = (float(value) for value in direction)
    if x < -1.0 + 1e-9:
        return Quaternion(x=0.0, y=0.0, z=1.0, w=0.0)
    quaternion = np.array([0.0, -z, y, 1.0 + x])
    quaternion /= np.linalg.norm(quaternion)
    return Quaternion(**dict(zip("xyzw", (float(value) for value in quaternion), strict=True)))


def to_pose_stamped(pose: StampedPose) -> PoseStamped:
    """Return a pose as a message. An unavailable pose is NaN."""
    seconds, nanoseconds = pose.stamp
    x, y, z, w = pose.orientation
    header = Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=pose.frame)
    return PoseStamped(
        header=header,
        pose=Pose(position=to_point(np.array(pose.position)), orientation=Quaternion(x=x, y=y, z=z, w=w)),
    )


def to_approach_pose(
    approach: ApproachPose, before: StampedPose, floor: StampedPose | None = None, label: str = ""
) -> ApproachPoseMessage:
    """Return an approach pose as a message.

    :param before: the pose in front of it.
    :param floor: the pose on the floor, or None if none was requested.
    """
    message = unknown(ApproachPoseMessage)
    message.pose, message.pre_grasp = to_pose_stamped(approach.pose), to_pose_stamped(before)
    if floor is not None:
        message.floor_pose = to_pose_stamped(floor)
        message.floor_reason = floor.reason.name if floor.reason else ""
    message.direction, message.graspable = approach.direction.value, approach.graspable
    message.opening, message.finger_depth = approach.opening, approach.finger_depth
    message.width, message.length, message.elongated = approach.width, approach.length, approach.elongated
    uncertainty = approach.pose.uncertainty
    message.position_deviation = uncertainty.position if uncertainty else math.nan
    message.angle_deviation = uncertainty.angle if uncertainty else math.nan
    message.u, message.v = approach.pixel
    message.label = clean(label)
    message.reason = approach.pose.reason.name if approach.pose.reason else ""
    return message


def to_trace_issues(issues: Iterable[TraceIssue]) -> list[TraceIssueMessage]:
    """Return findings about a trajectory as messages."""
    return [
        TraceIssueMessage(
            waypoint=issue.waypoint,
            kind=getattr(TraceIssueMessage, issue.kind.name),
            measured=_limited(issue.measured),
            allowed=_limited(issue.allowed),
            text=clean(issue.message),
        )
        for issue in issues
    ]


def _limited(value: float) -> float:
    """Return the number as a float, limited to what a float32 can represent. An int would end the process in a debug build."""
    largest = float(np.finfo(np.float32).max)
    return value if math.isnan(value) else float(min(max(value, -largest), largest))
