"""Messages without an answer: values that the message definitions document as NaN if unknown are NaN, not 0."""

import math
from collections.abc import Callable
from typing import Any

from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion

from robobrain_ros.action import WatchTask
from robobrain_ros.msg import (
    AffordanceArea,
    AffordancePoint,
    ApproachPose,
    Event,
    InferenceReport,
    Progress,
    TraceIssue,
    Waypoint,
)

_NAN = {
    AffordanceArea: ("position",),
    AffordancePoint: ("position",),
    ApproachPose: (
        *("pose", "pre_grasp", "floor_pose", "opening", "finger_depth", "width", "length"),
        *("position_deviation", "angle_deviation", "u", "v"),
    ),
    Event: ("confidence", "previous_duration"),
    InferenceReport: ("image_age",),
    Progress: ("progress", "change", "uncertainty", "incremental", "forward", "backward"),
    TraceIssue: ("measured",),
    Waypoint: ("depth", "position"),
    WatchTask.Result: ("peak", "final"),
}
"""Fields of each type that are NaN if unknown. The comments of the message definitions state the same."""


def unknown(message_type: Any) -> Any:
    """Return a message of this type without an answer. Messages inside it are also unknown; sequences are empty."""
    message = message_type()
    fields = _NAN.get(message_type, ())
    for name in message_type.get_fields_and_field_types():
        part_type = type(getattr(message, name))
        if name in fields:
            setattr(message, name, _UNKNOWN.get(part_type, lambda: math.nan)())
        elif hasattr(part_type, "get_fields_and_field_types"):
            setattr(message, name, unknown(part_type))
    return message


def unknown_position() -> Point:
    """Return a position of unknown value: NaN."""
    return Point(x=math.nan, y=math.nan, z=math.nan)


def unknown_pose() -> PoseStamped:
    """Return a pose of unknown value: NaN. The default pose of the message would be a valid one."""
    turn = Quaternion(x=math.nan, y=math.nan, z=math.nan, w=math.nan)
    return PoseStamped(pose=Pose(position=unknown_position(), orientation=turn))


_UNKNOWN: dict[Any, Callable[[], Any]] = {Point: unknown_position, PoseStamped: unknown_pose}
"""Functions that return an unknown value of a message type."""
