"""Messages without an answer: values that the message definitions document as NaN if unknown are NaN, not 0."""

import math
from typing import Any

from geometry_msgs.msg import Point

from robobrain_ros.action import WatchTask
from robobrain_ros.msg import AffordanceArea, AffordancePoint, Event, InferenceReport, Progress, Waypoint

_NAN = {
    AffordanceArea: ("position",),
    AffordancePoint: ("position",),
    Event: ("confidence", "previous_duration"),
    InferenceReport: ("image_age",),
    Progress: ("progress", "change", "uncertainty", "incremental", "forward", "backward"),
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
            setattr(message, name, unknown_position() if part_type is Point else math.nan)
        elif hasattr(part_type, "get_fields_and_field_types"):
            setattr(message, name, unknown(part_type))
    return message


def unknown_position() -> Point:
    """Return a position of unknown value: NaN."""
    return Point(x=math.nan, y=math.nan, z=math.nan)
