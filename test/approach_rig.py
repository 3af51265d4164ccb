"""Views of analytic shapes with their true surface normals, and the depth that a noisy depth camera measures of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from depth_camera import measure

from robobrain_ros.core.geometry import CameraModel
from robobrain_ros.core.query import Box, Point
from robobrain_ros.core.surfaces import DepthImage
from robobrain_ros.demo import world
from robobrain_ros.demo.layout import Layout
from robobrain_ros.demo.render import FAR, Camera, Floats, Hits, Rays, cast_box, cast_cup, cast_sphere
from robobrain_ros.demo.world import FIRST_OBJECT, Scene


@dataclass(frozen=True)
class View:
    """A rendered view with its ground truth.

    :param depth: true depth in metres: (height, width), float32.
    :param normals: outward normals in the optical frame: (height, width, 3), NaN on the table and the wall.
    :param mask: 0 on the table and the wall, otherwise the number of the shape.
    """

    camera: CameraModel
    depth: npt.NDArray[np.float32]
    normals: npt.NDArray[np.float64]
    mask: npt.NDArray[np.uint8]

    def measured(self, seed: int) -> DepthImage:
        """Return the depth image that the depth camera measures."""
        return DepthImage(measure(self.depth, self.camera.fx, seed))


def to_optical(camera: Camera, yaw: tuple[float, float], hits: Hits) -> npt.NDArray[np.float64]:
    """Return the normals of hits in the optical frame: (height, width, 3)."""
    c, s = yaw
    x, y, z = c * hits.nx - s * hits.ny, s * hits.nx + c * hits.ny, hits.nz
    down, ahead = -camera.sin_pitch * y - camera.cos_pitch * z, camera.cos_pitch * y - camera.sin_pitch * z
    return np.stack((x, down, ahead), axis=-1).astype(np.float64)


def view_of(scene: Scene) -> View:
    """Return the view of a scene of the demo, with the normals of the shapes that it renders."""
    layout: Layout = scene.layout
    normals = np.full((*scene.depth.shape, 3), np.nan)
    for index, thing in enumerate(layout.things):
        window = world._window(layout.camera, world._corners(thing))
        left, top, right, bottom = window
        hits = world._cast_thing(world._object_rays(layout.camera, thing, window), thing, (bottom - top, right - left))
        seen = scene.mask[top:bottom, left:right] == FIRST_OBJECT + index
        normals[top:bottom, left:right][seen] = to_optical(layout.camera, thing.yaw, hits)[seen]
    lens = scene.intrinsics
    camera = CameraModel(scene.width, scene.height, lens.fx, lens.fy, lens.cx, lens.cy)
    return View(camera, scene.depth, normals, scene.mask)


@dataclass(frozen=True)
class Shape:
    """A shape above the table: how it is cast in its own frame, where it is in metres, and its yaw in radians."""

    cast: Callable[[Rays, Hits], None]
    x: float = 0.0
    y: float = 0.6
    z: float = 0.0
    yaw: float = 0.0


def bar(length: float, width: float, height: float, **place: float) -> Shape:
    """Return a bar along its x axis, such as a pen or a box."""
    low, high = (-length / 2, -width / 2, 0.0), (length / 2, width / 2, height)
    return Shape(lambda rays, hits: cast_box(rays, hits, low, high, 1), **place)


def ball(radius: float, **place: float) -> Shape:
    return Shape(lambda rays, hits: cast_sphere(rays, hits, radius, 1), **place)


def cylinder(radius: float, height: float, **place: float) -> Shape:
    """Return a hollow upright cylinder."""
    return Shape(lambda rays, hits: cast_cup(rays, hits, radius, radius, height, 0.14 * radius, 1, 1), **place)


def camera_above(height: float = 0.55, half_tangent: float = 0.42) -> Camera:
    """Return a camera of 640x480 pixels, above the table and tilted down by twice the angle of a tangent."""
    length = math.hypot(1.0, half_tangent)
    c, s = 1.0 / length, half_tangent / length
    return Camera(640, 480, 570.0, 570.0, 319.5, 239.5, 2.0 * c * s, c * c - s * s, (c, s), height)


def render(*shapes: Shape, camera: Camera | None = None) -> View:
    """Return the view of shapes on a table without an end."""
    camera = camera or camera_above()
    x, y, z = camera.rays(0, 0, camera.width, camera.height_px)
    size = (camera.height_px, camera.width)
    with np.errstate(divide="ignore"):
        depth = np.broadcast_to(np.where(z < 0, np.float32(-camera.height) / z, FAR), size).astype(np.float32)
    normals, mask = np.full((*size, 3), np.nan), np.zeros(size, np.uint8)
    for number, shape in enumerate(shapes, 1):
        c, s = np.float32(math.cos(shape.yaw)), np.float32(math.sin(shape.yaw))
        px, py = np.float32(-shape.x), np.float32(-shape.y)
        origin = (c * px + s * py, c * py - s * px, np.float32(camera.height - shape.z))
        hits = Hits.nothing(size)
        full: list[Floats] = [np.broadcast_to(part, size) for part in (c * x + s * y, c * y - s * x, z)]
        shape.cast(Rays(*origin, *full), hits)
        nearer = hits.depth < depth
        depth[nearer], mask[nearer] = hits.depth[nearer], number
        normals[nearer] = to_optical(camera, (float(c), float(s)), hits)[nearer]
    model = CameraModel(camera.width, camera.height_px, camera.fx, camera.fy, camera.cx, camera.cy)
    return View(model, depth, normals, mask)


def box_of(view: View, number: int = 1) -> Box:
    """Return the bounding box of a shape's visible pixels."""
    rows, columns = np.nonzero(view.mask == number)
    return Box(float(columns.min()), float(rows.min()), float(columns.max()), float(rows.max()))


def middle_of(view: View, number: int = 1) -> Point:
    """Return the shape's visible pixel that is nearest to the mean of all of them."""
    rows, columns = np.nonzero(view.mask == number)
    best = ((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2).argmin()
    return Point(float(columns[best]), float(rows[best]))


def pen(length: float, radius: float, **place: float) -> Shape:
    """Return a lying cylinder along its x axis."""

    def cast(rays: Rays, hits: Hits) -> None:
        r = np.float32(radius)
        oz = rays.oz - r
        a = rays.dy * rays.dy + rays.dz * rays.dz
        b, c = rays.oy * rays.dy + oz * rays.dz, rays.oy * rays.oy + oz * oz - r * r
        root = b * b - a * c
        depth = (-b - np.sqrt(np.maximum(root, 0))) / a
        x = rays.ox + depth * rays.dx
        depth = np.where((root > 0) & (np.abs(x) <= length / 2), depth, FAR).astype(np.float32)
        hits.add(depth, (np.zeros_like(depth), (rays.oy + depth * rays.dy) / r, (oz + depth * rays.dz) / r), 1)

    return Shape(cast, **place)
