"""Convert answers with positions to messages of ROS: markers for RViz, paths and poses."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, PoseArray, PoseStamped, Vector3
from nav_msgs.msg import Path
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from robobrain_ros.core.geometry import Floats
from robobrain_ros.core.messages import markers
from robobrain_ros.ros.messages.poses import along_path, to_point

_TYPES = markers.MarkerTypes(
    Marker=Marker, MarkerArray=MarkerArray, Header=Header, Point=Point, Vector3=Vector3, ColorRGBA=ColorRGBA, Duration=Duration
)
to_markers = partial(markers.to_markers, _TYPES)
text_scale = partial(markers.text_scale, _TYPES)


class CurrentMarkers(markers.CurrentMarkers):
    """The current markers of each query, as messages of ROS."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, frame: str = "") -> None:
        super().__init__(_TYPES, clock, frame)


def to_path(header: Header, positions: Floats) -> Path:
    """Return the waypoints with positions as a path. The x axis of each pose points to the next waypoint.

    The last pose has the orientation of the one before it. Without motion, the x axis is that of the frame.
    """
    places = positions[np.isfinite(positions).all(axis=1)]
    return Path(header=header, poses=[PoseStamped(header=header, pose=pose) for pose in along_path(places)])


def to_poses(header: Header, positions: Floats) -> PoseArray:
    """Return the points with positions as poses. A point has no orientation, so each pose has the identity."""
    places = positions[np.isfinite(positions).all(axis=1)]
    return PoseArray(header=header, poses=[Pose(position=to_point(place)) for place in places])
