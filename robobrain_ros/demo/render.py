"""Ray casting of boxes, spheres and hollow cones. Each is cast only within its own part of the image.

All pixel arithmetic is float32 and uses only + - * / and square roots. IEEE 754 defines their rounding, so the same scene gives
the same image on every machine. Coordinates are in the frame of the table: x right, y away from the camera, z up, with the origin
on the table below the camera. The parameter of a ray is the depth along the optical axis in metres.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

FAR = np.float32(1e6)
"""Depth of rays that hit nothing."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera above the table.

    :param sin_pitch: sine of the angle between the horizontal and the optical axis, which points down.
    :param cos_pitch: cosine of this angle.
    :param half_pitch: cosine and sine of half of this angle.
    :param height: height of the optical centre above the table in metres.
    """

    width: int
    height_px: int
    fx: float
    fy: float
    cx: float
    cy: float
    sin_pitch: float
    cos_pitch: float
    half_pitch: tuple[float, float]
    height: float

    def to_camera(self, point: tuple[float, float, float]) -> tuple[float, float, float]:
        """Convert a point in the table's frame to the optical frame (x right, y down, z forward)."""
        x, y, z = point[0], point[1], point[2] - self.height
        return x, -self.sin_pitch * y - self.cos_pitch * z, self.cos_pitch * y - self.sin_pitch * z

    def project(self, point: tuple[float, float, float]) -> tuple[float, float]:
        """Return the pixel (u, v) of a point in the table's frame."""
        x, y, z = self.to_camera(point)
        return self.cx + self.fx * x / z, self.cy + self.fy * y / z

    def rays(self, left: int, top: int, right: int, bottom: int) -> tuple[Floats, Floats, Floats]:
        """Return the directions of the rays through a part of the image, for 1 m of depth.

        :returns: x of shape (1, n), y and z of shape (m, 1).
        """
        across = ((np.arange(left, right) - self.cx) / self.fx).astype(np.float32)[None, :]
        down = ((np.arange(top, bottom) - self.cy) / self.fy).astype(np.float32)[:, None]
        sin_pitch, cos_pitch = np.float32(self.sin_pitch), np.float32(self.cos_pitch)
        return across, cos_pitch - sin_pitch * down, -sin_pitch - cos_pitch * down


@dataclass(frozen=True)
class Rays:
    """Rays in the frame of an object: a common origin, and directions as arrays that broadcast to the part of the image."""

    ox: np.float32
    oy: np.float32
    oz: np.float32
    dx: Floats
    dy: Floats
    dz: Floats


@dataclass
class Hits:
    """The first hit of each ray: its depth, the normal of the surface in the object's frame, and the part of the object."""

    depth: Floats
    nx: Floats
    ny: Floats
    nz: Floats
    part: npt.NDArray[np.uint8]

    @classmethod
    def nothing(cls, shape: tuple[int, int]) -> "Hits":
        """Return hits in which no ray hits anything."""
        nx, ny, nz = (np.zeros(shape, np.float32) for _ in range(3))
        return cls(np.full(shape, FAR, np.float32), nx, ny, nz, np.zeros(shape, np.uint8))

    def add(self, depth: Floats, normal: tuple[Floats, Floats, Floats], part: int) -> None:
        """Replace hits where ``depth`` is smaller. `FAR` means no hit."""
        nearer = depth < self.depth
        np.copyto(self.depth, depth, where=nearer)
        np.copyto(self.nx, normal[0], where=nearer)
        np.copyto(self.ny, normal[1], where=nearer)
        np.copyto(self.nz, normal[2], where=nearer)
        self.part[nearer] = part


_ZERO = np.zeros((1, 1), np.float32)
_UP = (_ZERO, _ZERO, np.ones((1, 1), np.float32))


def cast_box(rays: Rays, hits: Hits, low: tuple[float, float, float], high: tuple[float, float, float], part: int) -> None:
    """Cast an axis-aligned box between two corners in the object's frame."""
    with np.errstate(divide="ignore", invalid="ignore"):
        enters, leaves = [], []
        for origin, direction, a, b in zip((rays.ox, rays.oy, rays.oz), (rays.dx, rays.dy, rays.dz), low, high, strict=True):
            first, second = (np.float32(a) - origin) / direction, (np.float32(b) - origin) / direction
            enters.append(np.minimum(first, second))
            leaves.append(np.maximum(first, second))
        near = np.maximum(np.maximum(enters[0], enters[1]), enters[2])
        far = np.minimum(np.minimum(leaves[0], leaves[1]), leaves[2])
        depth = np.where((near < far) & (near > 0), near, FAR)
        signs = [np.where(direction > 0, np.float32(-1), np.float32(1)) for direction in (rays.dx, rays.dy, rays.dz)]
        on_x = enters[0] >= near
        on_y = (enters[1] >= near) & ~on_x
        on_z = ~(on_x | on_y)
    hits.add(depth, (np.where(on_x, signs[0], _ZERO), np.where(on_y, signs[1], _ZERO), np.where(on_z, signs[2], _ZERO)), part)


def cast_sphere(rays: Rays, hits: Hits, radius: float, part: int) -> None:
    """Cast a ball that lies on the table at the object's origin."""
    r = np.float32(radius)
    oz = rays.oz - r
    a = rays.dx * rays.dx + rays.dy * rays.dy + rays.dz * rays.dz
    b = rays.ox * rays.dx + rays.oy * rays.dy + oz * rays.dz
    c = rays.ox * rays.ox + rays.oy * rays.oy + oz * oz - r * r
    root = b * b - a * c
    depth = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, FAR).astype(np.float32)
    normal = ((rays.ox + depth * rays.dx) / r, (rays.oy + depth * rays.dy) / r, (oz + depth * rays.dz) / r)
    hits.add(depth, normal, part)


def cast_cup(rays: Rays, hits: Hits, base: float, top: float, height: float, wall: float, part: int, rim_part: int) -> None:
    """Cast a hollow truncated cone that stands on the table: a mug if ``base`` equals ``top``, otherwise a bowl.

    :param base: outer radius at the table.
    :param top: outer radius at ``height``.
    :param wall: thickness of the wall.
    """
    slope = np.float32((top - base) / height)
    tilt = np.float32(1.0) / np.sqrt(np.float32(1.0) + slope * slope)
    h, thickness = np.float32(height), np.float32(wall)
    a = rays.dx * rays.dx + rays.dy * rays.dy - slope * slope * rays.dz * rays.dz
    flat = rays.ox * rays.dx + rays.oy * rays.dy
    for radius, lowest, side in (
        (np.float32(base), np.float32(0), np.float32(1)),
        (np.float32(base - wall), thickness, np.float32(-1)),
    ):
        at_origin = radius + slope * rays.oz
        b = flat - slope * rays.dz * at_origin
        c = rays.ox * rays.ox + rays.oy * rays.oy - at_origin * at_origin
        root = b * b - a * c
        # Whatever a's sign, this root enters the cone (side 1: its outer face is seen) or leaves it (side -1: its inner face).
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = (-b - side * np.sqrt(np.maximum(root, 0))) / a
        z = rays.oz + depth * rays.dz
        depth = np.where((root > 0) & (z >= lowest) & (z <= h) & (depth > 0), depth, FAR).astype(np.float32)
        x, y = rays.ox + depth * rays.dx, rays.oy + depth * rays.dy
        scale = side * tilt / np.maximum(np.abs(radius + slope * z), np.float32(1e-6))
        hits.add(depth, (x * scale, y * scale, -side * tilt * slope + _ZERO), part)
    floor = (thickness - rays.oz) / rays.dz
    _add_ring(rays, hits, floor, np.float32(0), np.float32(base - wall) + slope * thickness, part)
    _add_ring(rays, hits, (h - rays.oz) / rays.dz, np.float32(top - wall), np.float32(top), rim_part)


def _add_ring(rays: Rays, hits: Hits, depth: Floats, inner: np.float32, outer: np.float32, part: int) -> None:
    x, y = rays.ox + depth * rays.dx, rays.oy + depth * rays.dy
    distance = x * x + y * y
    inside = (distance >= inner * inner) & (distance <= outer * outer) & (depth > 0)
    hits.add(np.where(inside, depth, FAR).astype(np.float32), _UP, part)
