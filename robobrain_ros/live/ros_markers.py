"""Markers of a node as shapes of the 3D scene."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import PoseStamped
from visualization_msgs.msg import Marker, MarkerArray

from robobrain_ros.core.geometry import Floats
from robobrain_ros.core.messages.frames import plain_frame
from robobrain_ros.core.messages.stamps import nanoseconds
from robobrain_ros.core.transforms import Transform, TransformError
from robobrain_ros.live.feed import Shape

_MOST_MARKERS = 500
_MOST_POINTS = 2000
_AXES = 0.06
"""Length of the axes of a pose in metres."""
_POSE_LIFETIME = 30.0
_LINES = (Marker.LINE_STRIP, Marker.LINE_LIST)
_SPHERES = (Marker.SPHERE, Marker.SPHERE_LIST)

Locate = Callable[[str, int], Transform | None]
"""Returns the transform to the scene's frame from a frame at a stamp (ns), or None if both are the same."""


class Markers:
    """Keeps the current markers of a topic, as RViz does.

    :param locate: raises TransformError if the transform is unknown.
    """

    def __init__(self, locate: Locate) -> None:
        self._locate = locate
        self._shapes: dict[str, tuple[float, Shape]] = {}
        """The end of its lifetime (``time.monotonic()``) of each marker, and its shape."""
        self.note = ""
        """Why the newest markers are not shown, or empty."""

    def update(self, message: MarkerArray) -> None:
        """Add, replace and delete markers."""
        self.note = ""
        for marker in message.markers[:_MOST_MARKERS]:
            key = f"{marker.ns}/{marker.id}"
            if marker.action == Marker.DELETEALL:
                self._shapes.clear()
            elif marker.action == Marker.DELETE:
                self._shapes.pop(key, None)
            else:
                self._add(key, marker)

    def show_pose(self, key: str, message: PoseStamped) -> None:
        """Show a pose as axes, for `_POSE_LIFETIME` seconds or until the next pose with this key."""
        self.note = ""
        frame, place = plain_frame(message.header.frame_id), message.pose.position
        pose = replace(_turn(message.pose.orientation), translation=(place.x, place.y, place.z))
        try:
            transform = self._locate(frame, nanoseconds(message.header.stamp))
            pose = (pose if transform is None else transform.after(pose)).normalized()
        except TransformError as error:
            self.note = f"The pose in the frame {frame!r} is not in the 3D scene: {error}."
            return
        x, y, z, w = pose.quaternion
        white = np.full((1, 3), 255, np.uint8)
        axes = Shape("axes", np.array([pose.translation]), white, _AXES, wxyz=(w, x, y, z))
        self._shapes[f"pose/{key}"] = time.monotonic() + _POSE_LIFETIME, axes

    def clear(self) -> None:
        """Delete all markers."""
        self._shapes.clear()
        self.note = ""

    def current(self) -> dict[str, Shape]:
        """Return the markers whose lifetime has not ended."""
        now = time.monotonic()
        self._shapes = {key: (end, shape) for key, (end, shape) in self._shapes.items() if now < end}
        return {key: shape for key, (_, shape) in self._shapes.items()}

    def _add(self, key: str, marker: Marker) -> None:
        frame = plain_frame(marker.header.frame_id)
        try:
            transform = self._locate(frame, nanoseconds(marker.header.stamp))
        except TransformError as error:
            self.note = f"The answers in the frame {frame!r} are not in the 3D scene: {error}."
            return
        shape = to_shape(marker, transform)
        if shape is None or len(self._shapes) >= _MOST_MARKERS:
            return
        lifetime = marker.lifetime.sec + marker.lifetime.nanosec * 1e-9
        self._shapes[key] = time.monotonic() + lifetime if lifetime else np.inf, shape


def to_shape(marker: Marker, transform: Transform | None) -> Shape | None:
    """Return a marker as a shape, or None if the page does not show its type, or its numbers are not finite.

    :param transform: from the marker's frame to the scene's frame. None: both are the same.
    """
    pose = marker.pose
    place = np.array([[pose.position.x, pose.position.y, pose.position.z]])
    points: Floats = np.array([(point.x, point.y, point.z) for point in marker.points[:_MOST_POINTS]]).reshape(-1, 3)
    turn = _turn(pose.orientation)
    if len(points):
        points = turn.apply(points) + place
    elif marker.type == Marker.ARROW:
        points = np.vstack((place, place + turn.apply(np.array([[marker.scale.x, 0.0, 0.0]]))))
    else:
        points = place
    if transform is not None:
        points = transform.apply(points)
    colours = _colours(marker, len(points))
    if not np.isfinite(points).all():
        return None
    if marker.type in _SPHERES:
        return Shape("spheres", points, colours, marker.scale.x)
    if marker.type == Marker.TEXT_VIEW_FACING:
        return Shape("text", points[:1], colours, marker.scale.z, marker.text.strip())
    if len(points) < 2:
        return None
    if marker.type == Marker.ARROW:
        return Shape("arrows", points[:2], colours[:1], marker.scale.y if len(marker.points) else marker.scale.x / 4)
    if marker.type in _LINES:
        strip = marker.type == Marker.LINE_STRIP
        pairs = np.stack((points[:-1], points[1:]), axis=1).reshape(-1, 3) if strip else points[: len(points) // 2 * 2]
        return Shape("lines", pairs, (colours[1:] if strip else colours[::2])[: len(pairs) // 2], marker.scale.x)
    return None


def _turn(orientation: object) -> Transform:
    x, y, z, w = (float(getattr(orientation, name)) for name in "xyzw")
    try:
        return Transform((x, y, z, w), (0.0, 0.0, 0.0)).normalized()
    except TransformError:  # RViz also accepts the zeros of an unset orientation.
        return Transform((0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0))


def _colours(marker: Marker, count: int) -> npt.NDArray[np.uint8]:
    given = marker.colors if len(marker.colors) == len(marker.points) and len(marker.colors) else [marker.color] * count
    values: Floats = np.array([(colour.r, colour.g, colour.b) for colour in given[:_MOST_POINTS]])
    return np.asarray(np.nan_to_num(values * 255.0).clip(0, 255).round(), np.uint8)
