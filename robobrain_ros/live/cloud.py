"""The depth image as coloured points, and the answers without ROS as shapes of the 3D scene."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from robobrain_ros.core.geometry import CameraModel, Floats
from robobrain_ros.core.overlay import PALETTE, Colour
from robobrain_ros.core.query import Answer, RgbImage
from robobrain_ros.core.surfaces import DepthImage, lift_boxes, lift_points, lift_waypoints
from robobrain_ros.live.feed import Cloud, Shape

_SIZE = 0.025
"""Size of a shape as a share of its distance from the camera."""


class CloudMaker:
    """Makes clouds of at most ``most_points`` points, on a regular grid of pixels. The rays are computed once for each camera."""

    def __init__(self, most_points: int) -> None:
        self._most = most_points
        self._made_for: tuple[object, ...] = ()
        self._rows: npt.NDArray[np.intp] = np.zeros(0, np.intp)
        self._columns: npt.NDArray[np.intp] = np.zeros(0, np.intp)
        self._rays: npt.NDArray[np.float32] = np.zeros((0, 3), np.float32)
        self._pixel = 0.0

    def make(self, number: int, image: RgbImage | None, depth: DepthImage, camera: CameraModel) -> Cloud:
        """Return the cloud of a depth image.

        :param image: the colours. None: grey.
        :raises GeometryError: the views of depth image and camera differ.
        """
        self._prepare(depth, camera)
        some = replace(depth, samples=depth.samples[np.ix_(self._rows, self._columns)])
        depths = some.metres().reshape(-1)
        known = np.isfinite(depths) & np.isfinite(self._rays[:, 0])
        points = self._rays[known] * depths[known, None]
        if image is None:
            colours = np.full((len(points), 3), 160, np.uint8)
        else:
            rows = self._rows * image.shape[0] // depth.height
            columns = self._columns * image.shape[1] // depth.width
            colours = image[rows[:, None], columns[None, :]].reshape(-1, 3)[known]
        spacing = float(np.median(depths[known])) * self._pixel if len(points) else 0.01
        return Cloud(number, points, colours, spacing)

    def _prepare(self, depth: DepthImage, camera: CameraModel) -> None:
        key = (depth.width, depth.height, camera)
        if key == self._made_for:
            return
        across, down = depth.scale(camera)
        share = min(1.0, (self._most / (depth.width * depth.height)) ** 0.5)
        self._rows = np.linspace(0, depth.height - 1, max(1, int(depth.height * share))).astype(np.intp)
        self._columns = np.linspace(0, depth.width - 1, max(1, int(depth.width * share))).astype(np.intp)
        u = (self._columns + 0.5) / across - 0.5
        v = (self._rows + 0.5) / down - 0.5
        pixels = np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)
        self._rays = camera.rays(pixels).astype(np.float32)
        self._pixel = 1.0 / (share * across * camera.fx)
        self._made_for = key


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
