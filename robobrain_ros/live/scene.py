"""The 3D scene of the page: draws clouds and shapes with viser."""

import numpy as np
import viser

from robobrain_ros.core.clouds import Cloud
from robobrain_ros.live.feed import Shape

MOST_SHAPES = 300
_MOST_SPHERES = 64
_CLOUD, _ANSWERS = "/cloud", "/answers"


class SceneView:
    """The scene. Its frame is the camera's optical frame: x to the right, y down, z forward."""

    def __init__(self, server: viser.ViserServer) -> None:
        self._server = server
        server.scene.set_up_direction("-y")
        server.initial_camera.position = (0.15, -0.4, -0.15)
        server.initial_camera.look_at = (0.0, 0.05, 0.75)
        server.scene.add_frame("/camera", axes_length=0.05, axes_radius=0.002)
        self._cloud: viser.PointCloudHandle | None = None
        self._drawn: dict[str, tuple[Shape, list[viser.SceneNodeHandle]]] = {}

    def show_cloud(self, cloud: Cloud | None) -> None:
        """Replace the cloud. None removes it."""
        if cloud is None or not len(cloud.points):
            if self._cloud is not None:
                self._cloud.remove()
                self._cloud = None
            return
        points = cloud.points.astype(np.float16)
        size = round(cloud.spacing, 3) or 0.001
        if self._cloud is None:
            self._cloud = self._server.scene.add_point_cloud(
                _CLOUD, points, cloud.colours, point_size=size, point_shape="square", point_shading="flat"
            )
            return
        with self._server.atomic():
            self._cloud.points = points
            self._cloud.colors = cloud.colours
            if abs(size - self._cloud.point_size) > 0.2 * size:
                self._cloud.point_size = size

    def show_shapes(self, shapes: dict[str, Shape]) -> None:
        """Replace the shapes. Shapes that have not changed stay."""
        shapes = dict(list(shapes.items())[:MOST_SHAPES])
        with self._server.atomic():
            for key in [key for key, (shape, _) in self._drawn.items() if shapes.get(key) is not shape]:
                for handle in self._drawn.pop(key)[1]:
                    handle.remove()
            for key, shape in shapes.items():
                if key not in self._drawn:
                    self._drawn[key] = shape, self._draw(f"{_ANSWERS}/{len(self._drawn)}_{_plain(key)}", shape)

    def _draw(self, name: str, shape: Shape) -> list[viser.SceneNodeHandle]:
        scene, points = self._server.scene, np.asarray(shape.points, np.float32)
        if shape.kind == "spheres":
            return [
                scene.add_icosphere(
                    f"{name}/{number}",
                    radius=shape.size / 2,
                    color=tuple(int(value) for value in colour),  # type: ignore[arg-type]
                    subdivisions=2,
                    position=place,
                    cast_shadow=False,
                    receive_shadow=False,
                )
                for number, (place, colour) in enumerate(zip(points[:_MOST_SPHERES], shape.colours, strict=False))
            ]
        pairs = points[: len(points) // 2 * 2].reshape(-1, 2, 3)
        if shape.kind == "lines":
            colours = np.repeat(shape.colours[: len(pairs), None, :], 2, axis=1)
            return [scene.add_line_segments(name, pairs, colours, thickness=shape.size, thickness_units="world")]
        if shape.kind == "arrows":
            size = shape.size
            return [
                scene.add_arrows(
                    name, pairs, shape.colours[: len(pairs)], shaft_radius=size / 8, head_radius=size / 3, head_length=size
                )
            ]
        if shape.kind == "axes":
            return [
                scene.add_frame(name, wxyz=shape.wxyz, position=points[0], axes_length=shape.size, axes_radius=shape.size / 15)
            ]
        above = points[0] - (0.0, shape.size, 0.0)  # Otherwise, the label hides what it names.
        return [scene.add_label(name, shape.text[:100], position=above, anchor="bottom-center", font_screen_scale=0.9)]


def _plain(key: str) -> str:
    """Return a name of a node of viser, in which slashes separate parents and children."""
    return "".join(letter if letter.isalnum() else "_" for letter in key)[:60]
