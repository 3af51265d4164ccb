"""The answers without ROS as shapes of the 3D scene."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from robobrain_ros.core.geometry import CameraModel, Floats
from robobrain_ros.core.overlay import PALETTE, Colour
from robobrain_ros.core.query import Answer
from robobrain_ros.core.surfaces import DepthImage, lift_boxes, lift_points, lift_waypoints
from robobrain_ros.live.feed import Shape

_SIZE = 0.025
"""Size of a shape as a share of its distance from the camera."""


def answer_shapes(answer: Answer, text: str, depth: DepthImage, camera: CameraModel) -> dict[str, Shape]:
    """Return the answer in the 3D scene: spheres, boxes, a line with arrows, and labels. Unknown positions are left out.

    :raises GeometryError: the views of depth image and camera differ.
    """
    shapes: dict[str, Shape] = {}
    points = lift_points(camera, depth, answer.points).positions
    for number, (point, place) in enumerate(zip(answer.points, points, strict=True), 1):
        if np.isfinite(place).all():
            shapes[f"points/{number}"] = _spheres([place], [PALETTE.point])
            shapes[f"labels/point {number}"] = _label(_name(number, len(points), point.label, text), place)
    centres = lift_boxes(camera, depth, answer.boxes).positions
    for number, (box, place) in enumerate(zip(answer.boxes, centres, strict=True), 1):
        corners = [(box.u_min, box.v_min), (box.u_max, box.v_min), (box.u_max, box.v_max), (box.u_min, box.v_max)]
        places = camera.positions(corners, np.full(4, place[2]))
        if np.isfinite(places).all():
            lines = [end for pair in zip(places, np.roll(places, -1, axis=0), strict=True) for end in pair]
            shapes[f"areas/{number}"] = Shape("lines", np.array(lines), _colours([PALETTE.box] * 4), _size(place) / 4)
            shapes[f"labels/area {number}"] = _label(_name(number, len(centres), box.label, text), places[:2].mean(axis=0))
    way = lift_waypoints(camera, depth, answer.waypoints).positions
    way = way[np.isfinite(way).all(axis=1)]
    if len(way) > 1:
        colours = [PALETTE.along(part) for part in np.linspace(0, 1, len(way))]
        pairs = np.stack((way[:-1], way[1:]), axis=1).reshape(-1, 3)
        shapes["trajectory/line"] = Shape("arrows", pairs, _colours(colours[1:]), _size(way[0]))
        shapes["trajectory/waypoints"] = _spheres(list(way), colours)
        shapes["labels/trajectory"] = _label(_name(1, 1, "", text), way[-1])
    return shapes


def _spheres(places: Sequence[Floats], colours: Sequence[Colour]) -> Shape:
    return Shape("spheres", np.array(places), _colours(colours), _size(places[0]))


def _label(text: str, place: Floats) -> Shape:
    above = place * (1.0 - 2.0 * _SIZE) - (0.0, 1.5 * _size(place), 0.0)  # Otherwise, the label hides the point.
    return Shape("text", above.reshape(1, 3), _colours([PALETTE.text]), 1.5 * _size(place), text)


def _name(number: int, of: int, label: str, text: str) -> str:
    return " ".join([*([str(number)] if of > 1 else []), label]).strip() or text[:40]


def _size(place: Floats) -> float:
    return _SIZE * max(float(np.linalg.norm(place)), 0.1)


def _colours(colours: Sequence[Colour]) -> npt.NDArray[np.uint8]:
    return np.array(colours, np.uint8).reshape(-1, 3)
