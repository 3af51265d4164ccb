"""The surroundings of an object in a depth image: whether an open gripper is free of everything that the image shows."""

from dataclasses import dataclass

import numpy as np

from robobrain_ros.core.boxed_objects import BoxedObjects
from robobrain_ros.core.geometry import CameraModel, Floats, to_depth_pixels
from robobrain_ros.core.gripper import Grasps, Gripper
from robobrain_ros.core.normals import NOISE, rays_at
from robobrain_ros.core.surfaces import Bools, DepthImage, Integers

_SAMPLES = 64
"""Samples along each side of the part of the image around an object."""
_MOST_TOUCHING = 2
"""Up to this number of samples inside the gripper are measuring errors. With more, the gripper touches something."""
_FREE = 0.002
"""Smallest distance in metres between the gripper and samples."""
_NEAR = 0.010
"""Metres. Samples that are closer to the gripper increase the costs of a grasp."""
_ABOVE = 0.004
"""Smallest distance in metres between the gripper and the plane on which the object stands."""
_HIDDEN = 0.015
"""Metres. A part of the gripper that is farther behind a surface is in space that the camera does not see."""


@dataclass(frozen=True)
class Support:
    """The plane on which an object stands, in the optical frame: ``up`` (3) has the length 1, and up · p = ``offset``."""

    up: Floats
    offset: float

    def heights(self, positions: Floats) -> Floats:
        """Return the heights (...) of positions (..., 3) above the plane in metres."""
        found: Floats = positions @ self.up - self.offset
        return found


@dataclass(frozen=True)
class Surroundings:
    """What the depth image shows around an object.

    :param cloud: positions (s, 3) in metres of surfaces around the object, and of the object, without those of the support.
    :param support: the plane on which the object stands. None: unknown.
    """

    camera: CameraModel
    depth: DepthImage
    cloud: Floats
    support: Support | None

    @classmethod
    def of(
        cls,
        camera: CameraModel,
        depth: DepthImage,
        objects: BoxedObjects,
        support: Support | None,
        gripper: Gripper,
    ) -> "Surroundings":
        """Sample the depth image around the first of the objects, as far as an open gripper reaches."""
        scale = depth.scale(camera)
        columns, rows = objects.columns[0], objects.rows[0]
        members = objects.positions[0][objects.members[0]]
        nearest = max(float(members[:, 2].min()), 0.05) if len(members) else 1.0
        reach = (gripper.opening + gripper.thickness) * camera.fx * scale[0] / nearest
        u, v = _spread(columns, reach, depth.width), _spread(rows, reach, depth.height)
        grid_v, grid_u = (part.ravel() for part in np.meshgrid(v, u, indexing="ij"))
        z = depth.at(grid_v, grid_u)
        x, y = rays_at(camera, scale, grid_u.astype(np.float64), grid_v.astype(np.float64))
        known = np.isfinite(z) & np.isfinite(x) & np.isfinite(y)
        x, y, z = x[known], y[known], z[known]
        cloud = np.stack((x * z, y * z, z), axis=1).astype(np.float64)
        if support is not None:
            cloud = cloud[support.heights(cloud) > 0.005 + 3.0 * NOISE * cloud[:, 2] ** 2]
        return cls(camera, depth, cloud, support)

    def best(self, grasps: Grasps, gripper: Gripper) -> int | None:
        """Return the index of the best grasp in which the gripper touches nothing before it closes. None: there is none."""
        if not len(grasps.depths):
            return None
        low, high = gripper.parts(grasps)
        possible = np.flatnonzero(np.isfinite(grasps.costs) & self._above_support(grasps, low, high))
        if not len(possible):
            return None
        chosen = grasps.selected(possible)
        hidden = self._hidden(chosen, low[possible], high[possible])
        touching, near = self._touching(chosen, *gripper.parts(chosen, closing=True))
        free = touching <= _MOST_TOUCHING
        costs = np.where(free, chosen.costs + hidden + 0.1 * touching + 0.01 * np.minimum(near, 50.0), np.inf)
        return int(possible[costs.argmin()]) if free.any() else None

    def _touching(self, grasps: Grasps, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """Return the number (k) of samples inside of the gripper, and of those beside it."""
        local = (self.cloud[None] - grasps.tips[:, None]) @ grasps.axes  # (k, s, 3)
        touching, near = np.zeros(len(local)), np.zeros(len(local))
        for part in range(low.shape[1]):
            between = (local > low[:, None, part] - _FREE) & (local < high[:, None, part] + _FREE)
            along = between[..., 1] & between[..., 2]
            touching += (along & between[..., 0]).sum(axis=1)
            near += (along & (np.abs(local[..., 0]) < high[:, None, part, 0] + _NEAR)).sum(axis=1)
        return touching, near

    def _above_support(self, grasps: Grasps, low: Floats, high: Floats) -> Bools:
        """Return whether all corners (k) of the gripper are above the support."""
        if self.support is None:
            return np.ones(len(grasps.depths), np.bool_)
        corners = self._points(grasps, low, high, 2)
        found: Bools = self.support.heights(corners).min(axis=1) >= _ABOVE
        return found

    def _hidden(self, grasps: Grasps, low: Floats, high: Floats) -> Floats:
        """Return the share (k) of the fingers in space that the camera does not see."""
        points = self._points(grasps, low[:, :2], high[:, :2], 3)
        flat = points.reshape(-1, 3)
        pixels = to_depth_pixels(self.camera.project(flat), self.depth.scale(self.camera))
        columns, rows = np.clip(np.nan_to_num(np.rint(pixels), nan=-9.0), -9.0, 1e6).astype(np.intp).T
        z = self.depth.at(rows, columns)
        with np.errstate(invalid="ignore"):
            behind = np.isfinite(z) & (flat[:, 2] > z + _HIDDEN)
        found: Floats = behind.reshape(points.shape[:2]).mean(axis=1)
        return found

    @staticmethod
    def _points(grasps: Grasps, low: Floats, high: Floats, steps: int) -> Floats:
        """Return points (k, p, 3) of the gripper's parts in the optical frame."""
        shares = np.linspace(0.0, 1.0, steps)
        grid = np.stack(np.meshgrid(shares, shares, shares, indexing="ij"), axis=-1).reshape(-1, 3)
        local = low[:, :, None] + grid * (high - low)[:, :, None]
        local = local.reshape(len(low), -1, 3)
        points: Floats = grasps.tips[:, None] + local @ np.swapaxes(grasps.axes, 1, 2)
        return points


def _spread(lines: Integers, reach: float, size: int) -> Integers:
    """Return evenly spread rows or columns of the depth image: those of an object, and ``reach`` pixels on both sides."""
    low, high = max(float(lines[0]) - reach, 0.0), min(float(lines[-1]) + reach, size - 1.0)
    found: Integers = np.unique(np.rint(np.linspace(low, high, _SAMPLES)).astype(np.intp))
    return found
