"""Make coloured points of a depth image and the image of the same view."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from robobrain_ros.core.geometry import CameraModel
from robobrain_ros.core.query import RgbImage
from robobrain_ros.core.surfaces import DepthImage


@dataclass(frozen=True)
class Cloud:
    """The depth image as coloured points.

    :param number: differs from that of the previous cloud.
    :param points: (n, 3), metres, optical frame, float32.
    :param colours: (n, 3), uint8.
    :param spacing: distance of neighbouring points at the median depth in metres.
    """

    number: int
    points: npt.NDArray[np.float32]
    colours: npt.NDArray[np.uint8]
    spacing: float


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
