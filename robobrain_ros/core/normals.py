"""Estimate the normals of the surfaces that pixels of a depth image show.

All computations use 1 / depth. In the image, 1 / depth of a plane is linear: a x + b y + c = 1 / z. (x, y, 1) is the ray, and
(a, b, c) is proportional to the normal. The noise of depth cameras that measure disparity is constant in 1 / depth (Khoshelham
and Elberink 2012), so least squares in 1 / depth weight all samples correctly. docs/explanation/approach_poses.md describes the
method.
"""

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np

from robobrain_ros.core.geometry import CameraModel, Floats, to_depth_pixels
from robobrain_ros.core.surfaces import Bools, DepthImage, Integers, beyond_range, gap_between

_RADIUS = 0.012
"""Metres. Radius of the window in which a surface is fitted."""
_GRID = 5
"""Samples from the centre of the window to its border."""
_LEAST_PIXELS, _MOST_PIXELS = 4.0, 30.0
"""Bounds of the window's radius in pixels of the depth image."""

NOISE = 1.6e-3
"""Standard deviation of 1 / depth in 1/m: noise of 1.425e-3 and steps of 2.85e-3 (Khoshelham and Elberink 2012)."""
_LEAST_NOISE = 0.6 * NOISE
"""Smaller deviations are by chance, or in simulations without noise."""

_CURVATURE = 1.0 / 0.03
"""1/m. Standard deviation of the curvature that is expected before the fit: objects with a radius of 3 cm."""
_ENOUGH = 12
"""Fewest samples of a surface."""
_ROUNDS = 2
"""Rounds of the robust fit."""

_AMBIGUOUS = np.radians(30.0)
"""Two planes that both fit at the point form an edge if the angle between their normals is larger."""
_CALIBRATION = 1.75
"""Ratio of true errors to those of a fit to independent samples. Neighbouring samples have common errors.

With this ratio, about 90 % of the errors at points of the demo are within two standard deviations.
"""


@dataclass(frozen=True)
class SurfaceFits:
    """The surfaces at n pixels. Values of pixels without a surface are arbitrary finite numbers.

    :param positions: (n, 3), metres, in the optical frame.
    :param normals: (n, 3), unit vectors into the surface, away from the camera.
    :param angles: (n) standard deviations of the normals in radians.
    :param spreads: (n) standard deviations of the depths in metres.
    :param measured: (n) whether the depth image has valid depth at the pixel.
    :param covered: (n) whether the camera's lens model covers the pixel.
    :param enough: (n) whether the surface has enough samples.
    :param too_near: (n) whether most of the nine pixels there are nearer than the depth camera can measure. ``too_far``: farther.
    :param folded: (n) whether the pixel is on an edge between two surfaces.
    """

    positions: Floats
    normals: Floats
    angles: Floats
    spreads: Floats
    measured: Bools
    covered: Bools
    enough: Bools
    folded: Bools
    too_near: Bools
    too_far: Bools

    def replaced(self, indices: Integers, others: "SurfaceFits", sources: Integers) -> "SurfaceFits":
        """Return the same surfaces, with others at some indices."""
        changed = {}
        for field in fields(self):
            changed[field.name] = getattr(self, field.name).copy()
            changed[field.name][indices] = getattr(others, field.name)[sources]
        return SurfaceFits(**changed)


def rays_at(camera: CameraModel, scale: tuple[float, float], columns: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """Return x and y of the rays, at a depth of 1 m, through pixels of the depth image. All arrays have the same shape.

    :param scale: depth pixels per pixel of the image (`DepthImage.scale`).
    """
    u, v = (columns + 0.5) / scale[0] - 0.5, (rows + 0.5) / scale[1] - 0.5
    if not camera.distortion and camera.rotation == CameraModel.rotation:
        return (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
    rays = camera.rays(np.column_stack((u.ravel(), v.ravel())))
    return rays[:, 0].reshape(u.shape), rays[:, 1].reshape(u.shape)


def fit_surfaces(camera: CameraModel, depth: DepthImage, pixels: Floats) -> SurfaceFits:
    """Fit a surface to the depths around each pixel.

    :param pixels: (n, 2), finite, in pixels of the image, inside of the image.
    :raises GeometryError: the views of depth image and camera differ.
    """
    scale = depth.scale(camera)
    u, v = to_depth_pixels(pixels, scale).T
    column = np.clip(np.rint(u).astype(np.intp), 0, depth.width - 1)
    row = np.clip(np.rint(v).astype(np.intp), 0, depth.height - 1)
    nearest, inverse, measured, beyond = _centres(depth, column, row)
    focal = camera.fx * scale[0]
    radius = np.clip(_RADIUS * focal / nearest, _LEAST_PIXELS, _MOST_PIXELS)
    down, across, windows = _pattern()
    columns = column[:, None] + np.rint(across * (radius / _GRID)[:, None]).astype(np.intp)
    rows = row[:, None] + np.rint(down * (radius / _GRID)[:, None]).astype(np.intp)
    z = depth.at(rows, columns)
    size = radius / focal  # Radius of the window at a depth of 1 m.
    # Samples behind or in front of the surface are excluded, unless a surface at 75 degrees reaches them.
    with np.errstate(invalid="ignore"):
        valid = np.abs(z - nearest[:, None]) < (4.0 * size * nearest + gap_between(nearest))[:, None]
    q = np.where(valid, 1.0 / np.where(valid, z, 1.0) - inverse[:, None], 0.0)
    x0, y0 = rays_at(camera, scale, u, v)
    x, y = rays_at(camera, scale, columns.astype(np.float64), rows.astype(np.float64))
    covered = np.isfinite(x0) & np.isfinite(y0)
    x0, y0 = np.where(covered, x0, 0.0), np.where(covered, y0, 0.0)
    x, y = (x - x0[:, None]) / size[:, None], (y - y0[:, None]) / size[:, None]
    if camera.distortion:
        valid &= np.isfinite(x)
        x, y = np.where(valid, x, 0.0), np.where(valid, y, 0.0)
    weights = valid.astype(np.float64)
    planes = _planes(x, y, q, weights, windows)
    best = planes.best
    chosen = np.arange(len(pixels)), best
    basis = np.stack((np.ones_like(x), x, y, x * x, x * y, y * y), axis=1)
    ray = np.column_stack((x0, y0, np.ones(len(x0))))

    def normals(c: Floats, a: Floats, b: Floats) -> tuple[Floats, Floats]:
        """Return unit normals and their lengths before the normalization, from 1 / depth at the pixel and its slopes."""
        extra = (1,) * (c.ndim - 1)
        s, i, px, py = (value.reshape(-1, *extra) for value in (size, inverse, x0, y0))
        vectors = np.stack((a / s, b / s, i + c - (a * px + b * py) / s), axis=-1)
        length = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return vectors / length, length[..., 0]

    first = np.stack([part[chosen] for part in (planes.c, planes.a, planes.b)], axis=-1)
    leaning, _ = normals(*first.T)
    cosine = np.clip(np.abs((leaning * ray).sum(axis=1)) / np.linalg.norm(ray, axis=1), 0.15, 1.0)
    noise = np.maximum(planes.misfit[chosen], _LEAST_NOISE)
    solution = _robust(basis, q, weights, first, noise, 0.5 * _CURVATURE * size**2 / cosine**2, cosine)
    direction, length = normals(*solution.coefficients[:, :3].T)
    others, _ = normals(planes.c, planes.a, planes.b)
    apart = np.arccos(np.clip((others * direction[:, None]).sum(axis=-1), -1.0, 1.0))
    fits_too = (np.abs(planes.c) < NOISE) & (planes.misfit < 2.0 * NOISE) & planes.big
    final_inverse = np.maximum(inverse + solution.coefficients[:, 0], 1e-6)
    return SurfaceFits(
        ray / final_inverse[:, None],
        direction,
        _CALIBRATION * _spread_of_normals(direction, length, solution.covariance, size, x0, y0),
        _CALIBRATION * np.sqrt(solution.covariance[:, 0, 0]) / final_inverse**2,
        measured,
        covered,
        solution.samples >= _ENOUGH,
        (fits_too & (apart > _AMBIGUOUS)).any(axis=1),
        beyond < 0,
        beyond > 0,
    )


@lru_cache(maxsize=1)
def _pattern() -> tuple[Integers, Integers, Floats]:
    """Return rows and columns of the samples in a round window, and which of them (10, k) are in the parts of the window.

    The first part is the middle. The others are circles whose borders go through the centre, in eight directions.
    """
    down, across = (grid.ravel() for grid in np.mgrid[-_GRID : _GRID + 1, -_GRID : _GRID + 1])
    inside = np.hypot(down, across) <= _GRID + 0.3
    down, across = down[inside], across[inside]
    x, y = across / _GRID, down / _GRID
    turns = np.arange(8) * np.pi / 4.0
    parts = [np.hypot(x, y) <= 0.55, *(np.hypot(x - 0.5 * np.cos(turn), y - 0.5 * np.sin(turn)) <= 0.53 for turn in turns)]
    return down, across, np.array(parts, np.float64)


def _centres(depth: DepthImage, column: Integers, row: Integers) -> tuple[Floats, Floats, Bools, Integers]:
    """Return depth (n) and mean of 1 / depth (n) of the surface at each pixel, from 3x3 pixels, and whether it was measured (n).

    The last value is -1 if most of the nine depths are nearer than the camera can measure, 1 if they are farther, otherwise 0.

    A single lost pixel is filled if most of its neighbours are on one surface. A single pixel without neighbours at its depth is
    a measuring error.
    """
    down, across = (grid.ravel() for grid in np.mgrid[-1:2, -1:2])
    z = depth.at(row[:, None] + down, column[:, None] + across)
    beyond = beyond_range(z)
    z[~np.isfinite(z)] = np.nan
    own = np.isfinite(z[:, 4])
    some = np.isfinite(z).any(axis=1)
    middle = np.where(own, z[:, 4], 1.0)
    lost = some & ~own
    if lost.any():
        middle[lost] = np.nanmedian(z[lost], axis=1)
    with np.errstate(invalid="ignore"):
        close = np.abs(z - middle[:, None]) < gap_between(middle)[:, None]
    count = close.sum(axis=1)
    measured = some & (count >= np.where(own, 4, 5))
    inverse = np.where(close, 1.0 / np.where(close, z, 1.0), 0.0).sum(axis=1) / np.maximum(count, 1)
    return np.where(measured, middle, 1.0), np.where(measured, inverse, 1.0), measured, beyond


@dataclass(frozen=True)
class _Planes:
    """Planes c + a x + b y (n, p) of the parts of windows, relative to the mean of 1 / depth.

    ``misfit`` is the standard deviation (n, p), ``big`` is whether a part has enough samples, and ``best`` (n) is the best part.
    """

    c: Floats
    a: Floats
    b: Floats
    misfit: Floats
    big: Bools
    best: Integers


def _planes(x: Floats, y: Floats, q: Floats, weights: Floats, windows: Floats) -> _Planes:
    """Fit a plane to each part of the windows.

    The best part has the smallest deviation, and its plane goes through the centre. At an edge, this is a part that is completely
    on the surface of the centre (Kuwahara et al. 1976). The middle part is preferred: a curvature does not tilt its plane.
    """
    wx, wy, wq = weights * x, weights * y, weights * q
    products = np.stack((weights, wx, wy, wq, wx * x, wx * y, wy * y, wx * q, wy * q, wq * q), axis=1)
    sums = np.moveaxis(products @ windows.T, 1, 0)
    count = sums[0]
    means = sums / np.maximum(count, 1.0)
    xm, ym, qm = means[1], means[2], means[3]
    # The addend makes the slope 0 if the samples are in a line.
    xx, yy, xy = means[4] - xm * xm + 0.003, means[6] - ym * ym + 0.003, means[5] - xm * ym
    xq, yq, qq = means[7] - xm * qm, means[8] - ym * qm, means[9] - qm * qm
    determinant = xx * yy - xy * xy
    a, b = (yy * xq - xy * yq) / determinant, (xx * yq - xy * xq) / determinant
    c = qm - a * xm - b * ym
    misfit = np.sqrt(np.maximum(qq - a * xq - b * yq, 0.0) * count / np.maximum(count - 3.0, 1.0))
    big = count >= 8
    score = np.where(big, np.sqrt(misfit**2 + (0.5 * NOISE) ** 2 + c * c), np.inf)
    score[:, 0] *= 0.7
    return _Planes(c, a, b, misfit, big, score.argmin(axis=1))


@dataclass(frozen=True)
class _Solution:
    """Coefficients (n, 6) of 1, x, y, x², xy and y²; their covariance (n, 6, 6); and the number of samples (n)."""

    coefficients: Floats
    covariance: Floats
    samples: Integers


def _robust(
    basis: Floats, q: Floats, weights: Floats, planes: Floats, noise: Floats, curvature: Floats, cosine: Floats
) -> _Solution:
    """Fit a paraboloid by iteratively reweighted least squares with Tukey's weights (Beaton and Tukey 1974).

    A normal distribution of the curvature around 0, with the standard deviation ``curvature`` (n), is part of the least squares.
    Without it, the paraboloid of a small or one-sided patch would be arbitrary.
    """
    coefficients: Floats = np.zeros((len(q), 6))
    coefficients[:, :3] = planes
    far = basis[:, 3] + basis[:, 5]
    window = weights * np.exp(-0.5 * far / 0.75**2)
    bend = (1.4 * curvature * cosine)[:, None] * far
    squares = np.arange(3, 6)
    matrix: Floats = np.zeros((len(q), 6, 6))
    samples: Integers = np.zeros(len(q), np.intp)
    for turn in range(_ROUNDS):
        off = q - (coefficients[:, None] @ basis)[:, 0]
        limit = 3.5 * noise[:, None] + (bend if turn == 0 else 0.0)
        weight = np.clip(1.0 - (off / limit) ** 2, 0.0, None) ** 2 * window
        weighted = basis * (weight / noise[:, None] ** 2)[:, None]
        matrix = weighted @ np.swapaxes(basis, 1, 2)
        matrix[:, squares, squares] += 1.0 / curvature[:, None] ** 2
        matrix[:, [0, 1, 2], [0, 1, 2]] += 1.0
        coefficients = np.asarray(np.linalg.solve(matrix, weighted @ q[..., None])[..., 0], np.float64)
        off = q - (coefficients[:, None] @ basis)[:, 0]
        kept = (weight > 0.0) & (np.abs(off) < 3.5 * noise[:, None])
        samples = kept.sum(axis=1)
        deviation = np.sqrt((off * off * kept).sum(axis=1) / np.maximum(samples - 4, 1))
        noise = np.asarray(np.maximum(deviation, _LEAST_NOISE), np.float64)
    covariance = np.asarray(np.linalg.inv(matrix), np.float64)
    return _Solution(coefficients, covariance, samples)


def _spread_of_normals(normals: Floats, lengths: Floats, covariance: Floats, size: Floats, x0: Floats, y0: Floats) -> Floats:
    """Return the standard deviations (n) of normals in radians, by propagation of the covariance of 1 / depth and its slopes."""
    change: Floats = np.zeros((len(normals), 3, 3))
    change[:, 0, 1] = change[:, 1, 2] = 1.0 / size
    change[:, 2, 0], change[:, 2, 1], change[:, 2, 2] = 1.0, -x0 / size, -y0 / size
    across = np.eye(3) - normals[:, :, None] * normals[:, None, :]
    change = across @ change
    total = ((change @ covariance[:, :3, :3]) * change).sum(axis=(1, 2))
    # The two directions across the normal have together the variance of two angles.
    found: Floats = np.sqrt(total) / lengths
    return found


_DIRECTIONS, _STEPS = 16, 12
"""Directions on the tangent plane, and steps in each direction, of the search for large flat surfaces."""
_SHARE, _LEAST_DIRECTIONS = 0.25, 3
"""A surface is large if it reaches the limit in this share of the directions that do not end for another reason."""


def on_large_surface(camera: CameraModel, depth: DepthImage, positions: Floats, normals: Floats, reach: float) -> Bools:
    """Return whether flat surfaces extend at least ``reach`` metres around positions (n, 3) on them, as a table or a wall does.

    The function follows the tangent plane in all directions until the depth leaves the plane. A direction does not count if it
    ends at the image's border, at a hole, or at something in front of the plane, which hides the plane. Each round refines the
    plane, because with an error of one degree, a surface leaves its plane after 0.3 m.
    """
    large = np.ones(len(positions), np.bool_)
    # Most objects end soon, so a search of a third of the way in half of the directions saves time.
    for directions, steps in ((_DIRECTIONS // 2, _STEPS // 3), (_DIRECTIONS, _STEPS)):
        index = np.flatnonzero(large)
        if len(index):
            ways = reach * np.arange(1, steps + 1) / _STEPS
            large[index] = _extends(camera, depth, positions[index], normals[index], ways, directions)
    return large


def _extends(camera: CameraModel, depth: DepthImage, positions: Floats, normals: Floats, steps: Floats, directions: int) -> Bools:
    """Return whether the surfaces extend to the last of the steps, which are distances in metres (see `on_large_surface`)."""
    count, scale = len(positions), depth.scale(camera)
    right, up = _tangents(normals)
    turns = (np.arange(directions) * (2.0 * np.pi / directions))[:, None]
    ways = np.cos(turns) * right[:, None, :] + np.sin(turns) * up[:, None, :]
    pixels = camera.project((positions[:, None, None, :] + ways[:, :, None, :] * steps[:, None]).reshape(-1, 3))
    pixels = np.clip(np.nan_to_num(to_depth_pixels(pixels, scale), nan=-9.0), -9.0, 1e6)
    columns, rows = np.rint(pixels).astype(np.intp).T
    shape = (count, directions, len(steps))
    inside = ((columns >= 0) & (columns < depth.width) & (rows >= 0) & (rows < depth.height)).reshape(shape)
    z: Floats = depth.at(rows, columns).reshape(shape)
    x, y = rays_at(camera, scale, columns.astype(np.float64), rows.astype(np.float64))
    rays: Floats = np.stack((x, y, np.ones_like(x)), axis=-1).reshape(*shape, 3)
    valid = np.isfinite(z) & np.isfinite(rays).all(axis=-1)
    rays, z = np.where(valid[..., None], rays, 0.0), np.where(valid, z, 1.0)
    # A single lost sample does not end a direction. A larger hole does, because the surface can end in it.
    filled = ~valid & inside
    filled[:, :, 1:] &= valid[:, :, :-1]
    tolerance = 0.002 + 3.0 * NOISE * z * z
    plane = normals / (normals * positions).sum(axis=1, keepdims=True)  # The product of plane and ray is 1 / depth.
    same: Bools = np.zeros(shape, np.bool_)
    behind: Floats = np.zeros(shape)
    for part in sorted({_STEPS // 3, 2 * _STEPS // 3, _STEPS}):
        if part > len(steps):
            break
        flat = (rays.reshape(count, -1, 3) @ plane[..., None]).reshape(shape)
        behind = np.asarray(flat * z - 1.0, np.float64) / np.linalg.norm(plane, axis=1)[:, None, None]
        same = np.logical_and.accumulate(((np.abs(behind) < tolerance) & valid) | filled, axis=2)
        used = (same & valid)[:, :, :part].reshape(count, -1, 1)
        near = rays[:, :, :part].reshape(count, -1, 3)
        weighted = np.swapaxes(near * used, 1, 2)
        # The fitted surface counts as much as a few samples, so there is always a solution.
        matrix, side = weighted @ near + 1e-4 * np.eye(3), weighted @ (1.0 / z[:, :, :part]).reshape(count, -1, 1)
        plane = np.linalg.solve(matrix, side + 1e-4 * plane[..., None])[..., 0]
    reaches = same[:, :, -1].sum(axis=1)
    ends = (~same).argmax(axis=2)[..., None]
    end_valid, end_behind = np.take_along_axis(valid, ends, axis=2), np.take_along_axis(behind, ends, axis=2)
    falls = (~same[:, :, -1:] & end_valid & (end_behind > 0.0))[..., 0].sum(axis=1)
    large: Bools = (reaches >= np.where(falls > 0, _LEAST_DIRECTIONS * directions // _DIRECTIONS, 1)) & (
        reaches >= _SHARE * (reaches + falls)
    )
    return large


def _tangents(normals: Floats) -> tuple[Floats, Floats]:
    """Return two unit vectors (n, 3) that are perpendicular to each normal and to each other."""
    helper = np.where(np.abs(normals[:, :1]) < 0.7, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    right = np.asarray(np.cross(normals, helper), np.float64)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    up = np.asarray(np.cross(normals, right), np.float64)
    return right, up
