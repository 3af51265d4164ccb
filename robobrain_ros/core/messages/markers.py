"""Convert answers with positions to markers (visualization_msgs), which RViz and Foxglove show in 3D."""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from enum import IntEnum
from itertools import count
from typing import Any

import numpy as np

from robobrain_ros.bounds.texts import clean
from robobrain_ros.core.approach import ApproachPose
from robobrain_ros.core.geometry import CameraModel, Floats
from robobrain_ros.core.overlay import PALETTE, Colour
from robobrain_ros.core.query import Answer, Box, Point
from robobrain_ros.core.surfaces import Lifted

_SIZE = 0.02
"""Diameter in metres of a point's sphere at a distance of 1 m. It grows with the distance, so that far points stay visible."""
_UNKNOWN = 0.45
"""Opacity of markers of unknown distance."""
_LONGEST_LABEL = 40
_LINE_UP = "\n\n"
"""Moves a label up by one line at any viewpoint, because RViz centres a text with its empty lines."""


class Shape(IntEnum):
    """Values of the field type of a marker."""

    ARROW = 0
    SPHERE = 2
    LINE_STRIP = 4
    LINE_LIST = 5
    SPHERE_LIST = 7
    TEXT = 9


class Action(IntEnum):
    """Values of the field action of a marker."""

    ADD = 0
    DELETE = 2
    DELETE_ALL = 3


@dataclass(frozen=True)
class MarkerTypes:
    """The classes of the messages. They take fields as keyword arguments. The other fields are those of an empty message."""

    Marker: Any
    MarkerArray: Any
    Header: Any
    Point: Any
    Vector3: Any
    ColorRGBA: Any
    Duration: Any


@dataclass(frozen=True)
class PixelRays:
    """Rays through a camera's pixels, in the frame of the result.

    :param camera: maps pixels to rays in the image's frame.
    :param move: transforms positions from the image's frame to the result's frame, or None if both are the same.
    """

    camera: CameraModel
    move: Callable[[Floats], Floats] | None = None

    def at_depth(self, pixels: Sequence[tuple[float, float]], depth: float) -> Floats:
        """Return positions (n, 3) at this depth (metres along the optical axis); NaN if a ray does not reach it."""
        return self._moved(self.camera.rays(pixels) * depth)

    def at_distance(self, pixels: Sequence[tuple[float, float]], distance: float) -> Floats:
        """Return positions (n, 3) at this distance from the camera in metres."""
        rays = self.camera.rays(pixels)
        return self._moved(rays / np.linalg.norm(rays, axis=1, keepdims=True) * distance)

    def around(self, pixels: Sequence[tuple[float, float]], pixel: tuple[float, float], position: Floats) -> Floats:
        """Return positions (n, 3) of pixels on a plane perpendicular to the optical axis, through the position of ``pixel``."""
        rays, (ray,) = self.at_depth(pixels, 1.0) - self.origin, self.at_depth([pixel], 1.0) - self.origin
        return np.asarray(self.origin + rays * np.linalg.norm(position - self.origin) / np.linalg.norm(ray), np.float64)

    @property
    def origin(self) -> Floats:
        """Position of the camera."""
        return np.asarray(self._moved(np.zeros((1, 3)))[0], np.float64)

    def _moved(self, positions: Floats) -> Floats:
        return np.asarray(positions if self.move is None else self.move(positions), np.float64)


@dataclass(frozen=True)
class Style:
    """Settings of the markers.

    :param ray_length: length in metres of a ray through a pixel of unknown depth; 0: no rays.
    :param lifetime: seconds until RViz removes a marker; 0: no limit.
    :param approach_distance: length in metres of the arrow of an approach pose; 0: no arrow.
    :param finger_length: length in metres of the gripper's fingers.
    """

    ray_length: float = 0.5
    lifetime: float = 0.0
    approach_distance: float = 0.1
    finger_length: float = 0.055


def to_markers(
    types: MarkerTypes,
    answer: Answer,
    header: Any,
    namespace: str,
    style: Style,
    *,
    text: str = "",
    rays: PixelRays | None = None,
    points: Lifted | None = None,
    boxes: Lifted | None = None,
    waypoints: Lifted | None = None,
    faults: Collection[int] = (),
    approaches: Sequence[ApproachPose] = (),
) -> list[Any]:
    """Return the markers of an answer, in the namespaces <namespace>/points, /areas, /trajectory, /approach and /labels.

    A part with a position has a marker at this position. A part without a position has a ray as its marker if ``rays`` is given.
    Otherwise, it has no marker.

    :param header: header of the result. Positions and ``rays`` are in its frame.
    :param text: instruction of the request. It is the label if the answer has a single part without a name.
    :param points: positions of the answer's points, or None if unknown. ``boxes`` and ``waypoints``: likewise.
    :param faults: indices of waypoints with issues, which are red with the segments that end there. -1: the whole trajectory.
    :param approaches: approach poses in the frame of ``header``. A pose that is unavailable has no marker.
    """
    builder = _MarkerBuilder(types, header, namespace, style, rays)
    for number, (point, position) in enumerate(zip(answer.points, _places(points, answer.points), strict=True), 1):
        builder.point(point, position, _label(number, len(answer.points), point.label, text))
    for number, (box, position) in enumerate(zip(answer.boxes, _places(boxes, answer.boxes), strict=True), 1):
        builder.area(box, position, _label(number, len(answer.boxes), box.label, text))
    if answer.waypoints:
        builder.trajectory(answer.waypoints, _places(waypoints, answer.waypoints), _shortened(text), faults)
    for approach in approaches:
        builder.approach(approach)
    return builder.markers


def _places(lifted: Lifted | None, parts: Sequence[object]) -> Floats:
    return np.full((len(parts), 3), np.nan) if lifted is None else lifted.positions


def _label(number: int, of: int, label: str, text: str) -> str:
    parts = [str(number)] if of > 1 else []
    return _shortened(" ".join([*parts, *([label] if label else [])]) or text)


def _shortened(text: str) -> str:
    text = " ".join(clean(text).split())
    return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 3].rstrip()}..."


class _MarkerBuilder:
    def __init__(self, types: MarkerTypes, header: Any, namespace: str, style: Style, rays: PixelRays | None) -> None:
        self.markers: list[Any] = []
        self._types = types
        self._header = header
        self._namespace = namespace
        self._style = style
        self._rays = rays
        self._origin = np.zeros(3) if rays is None else rays.origin
        # Each namespace has its own count. With a common one, the id of a label would depend on the number of arrows, and a
        # viewer that misses the deletion of the previous label would show both.
        self._ids: defaultdict[str, Iterator[int]] = defaultdict(count)
        self._lifetime = _to_duration(types, max(style.lifetime, 0.0))

    def point(self, point: Point, position: Floats, label: str) -> None:
        if np.isfinite(position).all():
            size = self._size(position)
            self._add("points", Shape.SPHERE, PALETTE.point, size, [position])
            self._text(label, position, size, PALETTE.text)
            return
        ends = self._ray_ends([(point.u, point.v)])
        if ends is not None:
            self._add("points", Shape.LINE_LIST, PALETTE.point, self._size(ends[0]) / 4, [self._origin, ends[0]], _UNKNOWN)
            self._text(label, ends[0], self._size(ends[0]), PALETTE.text)

    def area(self, box: Box, position: Floats, label: str) -> None:
        corners = [(box.u_min, box.v_min), (box.u_max, box.v_min), (box.u_max, box.v_max), (box.u_min, box.v_max)]
        centre = (box.u_min + box.u_max) / 2, (box.v_min + box.v_max) / 2
        if self._rays is not None and np.isfinite(position).all():
            places = self._rays.around(corners, centre, position)
            if not np.isfinite(places).all():
                return
            size = self._size(position)
            self._add("areas", Shape.LINE_STRIP, PALETTE.box, size / 4, [*places, places[0]])
            self._text(label, places[:2].mean(axis=0), size, PALETTE.text)
            return
        ends = self._ray_ends(corners)
        if ends is not None:
            lines = [place for end, after in zip(ends, np.roll(ends, -1, axis=0), strict=True)
                     for place in (self._origin, end, end, after)]  # fmt: skip
            self._add("areas", Shape.LINE_LIST, PALETTE.box, self._size(ends[0]) / 4, lines, _UNKNOWN)
            self._text(label, ends[:2].mean(axis=0), self._size(ends[0]), PALETTE.text)

    def trajectory(self, waypoints: Sequence[Point], positions: Floats, label: str, faults: Collection[int] = ()) -> None:
        known = np.isfinite(positions).all(axis=1)
        opacity, places = 1.0, positions[known]
        if not known.any():
            # The depth is unknown, so the trajectory is drawn on a sphere around the camera. It looks correct from the camera.
            ends = self._ray_ends([(waypoint.u, waypoint.v) for waypoint in waypoints])
            if ends is None:
                return
            opacity, places = _UNKNOWN, ends
            rays = [place for end in (ends[0], ends[-1]) for place in (self._origin, end)]
            self._add("trajectory", Shape.LINE_LIST, PALETTE.start, self._size(ends[0]) / 6, rays, opacity)
        size = float(np.median([self._size(place) for place in places]))
        parts = _shares_of_length(places)
        numbers = np.flatnonzero(known) if known.any() else np.arange(len(places))
        wrong = [-1 in faults or int(number) in faults for number in numbers]
        colours = [PALETTE.fault if fault else PALETTE.along(part) for fault, part in zip(wrong, parts, strict=True)]
        if len(places) > 1:
            self._add("trajectory", Shape.LINE_STRIP, colours, size / 4, places, opacity)
        segments = [place for n in np.flatnonzero(wrong[1:]) for place in (places[n], places[n + 1])]
        if segments:
            # RViz blends the colours of a strip between its points. A wrong segment is red from its start to its end.
            self._add("trajectory", Shape.LINE_LIST, PALETTE.fault, size / 3, segments, opacity)
        self._add("trajectory", Shape.SPHERE_LIST, colours, size / 1.5, places, opacity)
        for start, end, colour in zip(places, places[1:], colours[1:], strict=False):
            length = float(np.linalg.norm(end - start))
            if length > size:
                tail = end - (end - start) / length * min(2.5 * size, length)
                self._add("trajectory", Shape.ARROW, colour, size, [tail, end], opacity)
        # The label is at the end, because many trajectories start at the gripper. It is moved far towards the camera, so that an
        # object at the end does not hide it.
        self._text(label, places[-1], size, PALETTE.text, nearer=8.0)

    def approach(self, approach: ApproachPose) -> None:
        """Add an arrow from pre_grasp to the pose and, if the gripper fits, the outline of its open fingers."""
        if not approach.pose.available:
            return
        place = np.asarray(approach.pose.position, np.float64)
        _, across, along = approach.pose.axes().T
        if self._style.approach_distance > 0.0:
            arrow = [place - along * self._style.approach_distance, place]
            self._add("approach", Shape.ARROW, PALETTE.approach, self._size(place), arrow)
        if approach.graspable:
            tips = [place + along * approach.finger_depth + across * side * approach.opening / 2 for side in (-1.0, 1.0)]
            roots = [tip - along * self._style.finger_length for tip in tips]
            outline = [tips[0], roots[0], roots[1], tips[1]]
            self._add("approach", Shape.LINE_STRIP, PALETTE.approach, self._size(place) / 3, outline)

    def _ray_ends(self, pixels: Sequence[tuple[float, float]]) -> Floats | None:
        """Return the ends of the rays through the pixels, or None if no rays are shown."""
        if self._rays is None or self._style.ray_length <= 0.0:
            return None
        ends = self._rays.at_distance(pixels, self._style.ray_length)
        return ends if np.isfinite(ends).all() else None

    def _size(self, position: Floats) -> float:
        """Return the size in metres of a marker at this position."""
        return _SIZE * max(float(np.linalg.norm(position - self._origin)), 0.1)

    def _add(
        self,
        kind: str,
        marker_type: int,
        colour: Colour | Sequence[Colour],
        size: float,
        places: Sequence[Floats] | Floats,
        opacity: float = 1.0,
    ) -> None:
        marker = self._marker(kind, marker_type)
        marker.scale.x = size
        if marker_type == Shape.ARROW:  # Diameter of the shaft, diameter of the head, length of the head.
            marker.scale.x, marker.scale.y, marker.scale.z = size / 4, size, 1.5 * size
        elif marker_type in (Shape.SPHERE, Shape.SPHERE_LIST):
            marker.scale.y = marker.scale.z = size
        if isinstance(colour[0], int):
            marker.color = self._colour(colour, opacity)  # type: ignore[arg-type]
        else:
            marker.color.a = opacity
            marker.colors = [self._colour(each, opacity) for each in colour]  # type: ignore[arg-type]
        if marker_type == Shape.SPHERE:
            marker.pose.position = self._point(places[0])
        else:
            marker.points = [self._point(place) for place in places]
        self.markers.append(marker)

    def _text(self, label: str, place: Floats, size: float, colour: Colour, nearer: float = 2.0) -> None:
        if not label:
            return
        marker = self._marker("labels", Shape.TEXT)
        marker.text = label
        marker.scale = text_scale(self._types, 1.5 * size)
        marker.color = self._colour(colour, 1.0)
        # The label is moved towards the camera by this number of sizes, so that it is not inside the object.
        towards = self._origin - place
        marker.pose.position = self._point(place + towards / max(float(np.linalg.norm(towards)), 1e-6) * nearer * size)
        self.markers.append(marker)

    def _marker(self, kind: str, marker_type: int) -> Any:
        marker = self._types.Marker(
            header=self._header, ns=f"{self._namespace}/{kind}", id=next(self._ids[kind]), type=marker_type
        )
        marker.action = Action.ADD
        marker.lifetime = self._lifetime
        return marker

    def _point(self, place: Floats) -> Any:
        return self._types.Point(x=float(place[0]), y=float(place[1]), z=float(place[2]))

    def _colour(self, colour: Colour, opacity: float) -> Any:
        red, green, blue = (value / 255.0 for value in colour)
        return self._types.ColorRGBA(r=red, g=green, b=blue, a=opacity)


class CurrentMarkers:
    """Keeps the current markers of each query, so that an answer can delete the markers of the previous one.

    :param types: classes of the messages.
    :param clock: returns seconds of the clock with which viewers measure the lifetime of markers.
    :param frame: frame of a deletion of all markers before there are any.
    """

    def __init__(self, types: MarkerTypes, clock: Callable[[], float] = time.monotonic, frame: str = "") -> None:
        self._types = types
        self._clock = clock
        self._frame = frame
        self._shown: dict[str, tuple[float, list[Any]]] = {}

    def show(self, query: str, markers: list[Any]) -> Any:
        """Return the message that replaces the current markers of a query by other markers."""
        _, before = self._shown.pop(query, (0.0, []))
        markers = self._stacked(markers)
        kept = {(marker.ns, marker.id) for marker in markers}
        gone = [marker for marker in before if (marker.ns, marker.id) not in kept]
        if markers:
            self._frame = markers[0].header.frame_id
            self._shown[query] = self._clock(), markers
        deletions = [
            self._types.Marker(header=marker.header, ns=marker.ns, id=marker.id, action=Action.DELETE) for marker in gone
        ]
        return self._types.MarkerArray(markers=[*deletions, *markers])

    def everything(self, stamp: Any = None) -> Any:
        """Return the message for a new subscriber: all current markers with their remaining lifetime.

        :param stamp: replaces the markers' stamps, for which the subscriber may have no transforms. None keeps the stamps.
        """
        return self._types.MarkerArray(markers=[self._deletion(), *self._alive(stamp)])

    def clear(self) -> Any:
        """Return the message that deletes all markers."""
        self._shown.clear()
        return self._types.MarkerArray(markers=[self._deletion()])

    def _deletion(self) -> Any:
        """Return the deletion of all markers. It has a frame, because Foxglove reports a missing transform without one."""
        return self._types.Marker(header=self._types.Header(frame_id=self._frame), action=Action.DELETE_ALL)

    def _alive(self, stamp: Any = None) -> list[Any]:
        """Return the markers whose lifetime has not ended, with their remaining lifetime."""
        now = self._clock()
        aged = [
            _aged(self._types, marker, max(now - since, 0.0), stamp)
            for since, markers in self._shown.values()
            for marker in markers
        ]
        return [marker for marker in aged if marker is not None]

    def _stacked(self, markers: list[Any]) -> list[Any]:
        """Return the markers with labels above the labels of other queries at the same place."""
        labels = [marker for marker in self._alive() if marker.type == Shape.TEXT]
        stacked = []
        for marker in markers:
            placed = _above(marker, labels) if marker.type == Shape.TEXT else marker
            if placed is not marker:
                labels.append(placed)
            stacked.append(placed)
        return stacked


def _above(label: Any, labels: Sequence[Any]) -> Any:
    """Return the label, one line or more above those of the labels that it would overlap."""
    near = [
        other
        for other in labels
        if other.header.frame_id == label.header.frame_id and _distance(label, other) < 2.0 * label.scale.z
    ]
    taken = {_lines_up(other): other for other in near}
    lines = next(number for number in count() if number not in taken)
    if lines == 0:
        return label
    moved = copy(label)
    moved.text += lines * _LINE_UP
    moved.pose = taken[0].pose
    return moved


def _lines_up(label: Any) -> int:
    return (len(label.text) - len(label.text.rstrip("\n"))) // len(_LINE_UP)


def _distance(label: Any, other: Any) -> float:
    at, to = label.pose.position, other.pose.position
    return float(np.linalg.norm([at.x - to.x, at.y - to.y, at.z - to.z]))


def _aged(types: MarkerTypes, marker: Any, age: float, stamp: Any) -> Any:
    """Return the marker with its remaining lifetime after ``age`` seconds, or None if its lifetime has ended."""
    lifetime: float = marker.lifetime.sec + marker.lifetime.nanosec * 1e-9
    if lifetime and age >= lifetime:
        return None
    aged = copy(marker)
    if stamp is not None:
        aged.header = types.Header(stamp=stamp, frame_id=marker.header.frame_id)
    if lifetime:
        aged.lifetime = _to_duration(types, lifetime - age)
        if aged.lifetime == types.Duration():  # Less than a nanosecond remains, and 0 would mean no limit.
            return None
    return aged


def text_scale(types: MarkerTypes, height: float) -> Any:
    """Return the scale of a text marker whose capital letters have this height in metres.

    RViz 2 uses x as the width of a blank. If x is 0, it uses the width for letters of 1 m.
    """
    return types.Vector3(x=0.3 * height, z=height)


def _to_duration(types: MarkerTypes, seconds: float) -> Any:
    return types.Duration(sec=int(seconds), nanosec=int(seconds % 1.0 * 1e9))


def _shares_of_length(places: Floats) -> list[float]:
    """Return the distance of each waypoint along the trajectory, from 0 to 1."""
    done = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=1))])
    return [float(part) for part in done / max(done[-1], 1e-9)]
