"""Find the depths of the surfaces that an answer's pixels show, in a depth image of the same time.

A depth image has the depth of each pixel along the optical axis. It shows the same view as the image, but its size may differ.
The module never guesses. If too few depths around a pixel are valid, the result is NaN with a reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from robobrain_ros.core.formats.depth_checks import (
    NO_SAMPLE,
    USUAL_DEPTH,
    DepthRange,
    clamp_of,
    in_metres,
    in_millimetres,
    some_of,
)
from robobrain_ros.core.geometry import CameraModel, Floats, GeometryError, to_depth_pixels
from robobrain_ros.core.query import Box, Point

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.intp]

UNKNOWN = "too little valid depth around it"
TOO_NEAR = "nearer than min_depth or than the depth camera can measure"
TOO_FAR = "farther than max_depth or than the depth camera can measure"
NO_OWN_DEPTH = "the model gave no depth"
OWN_OUT_OF_RANGE = "the model's own depth is outside min_depth to max_depth"
NO_RAY = "the camera's lens model does not cover this pixel"

_CONVERTED_NO_SAMPLE = np.float32(NO_SAMPLE * 1e-3)
"""The value 65535 after a driver converted millimetres to metres."""

_LEAST = 5e-4
"""Smallest valid depth in metres. Smaller values are 0, or floats with the wrong byte order."""

_STRETCH = 0.02
"""Largest relative difference of the aspect ratios of depth image and image. They differ because sizes are whole pixels."""

_ENOUGH = 4
"""Fewest samples of a surface. A group with fewer samples is a measuring error."""

_FLAT = 0.3
"""Largest deviation of samples from a plane, as a share of `gap_between`. Two planes one gap apart deviate by about 0.25."""

_BOX_SAMPLES = 32
"""Most samples along each side of a box."""


@dataclass(frozen=True)
class DepthImage:
    """A view of a depth image's samples: (height, width), uint16 in millimetres or float32 in metres.

    In uint16, 0 (REP 118) and 65535 are invalid. In float32, NaN, 0, denormal and negative depths are invalid. -Inf means nearer
    and +Inf means farther than the camera can measure (REP 117). Finite depths outside of ``limits`` are read as -Inf or +Inf.
    """

    samples: npt.NDArray[np.uint16] | npt.NDArray[np.float32]
    limits: DepthRange = USUAL_DEPTH

    @classmethod
    def read(
        cls,
        data: bytes | memoryview,
        *,
        width: int,
        height: int,
        step: int,
        encoding: str,
        big_endian: bool = False,
        limits: DepthRange = USUAL_DEPTH,
        detect_clamp: bool = True,
    ) -> "DepthImage":
        """Make a depth image from the fields of a sensor_msgs/Image, without copying the data.

        :param limits: see `bounded`. ``detect_clamp``: likewise.
        :raises GeometryError: the encoding is not an encoding of depth, or the sizes contradict each other. See also `bounded`.
        """
        kind = {"16uc1": "u2", "mono16": "u2", "32fc1": "f4"}.get(encoding.strip().lower())
        if kind is None:
            raise GeometryError(
                f"The depth image is in {encoding[:40]!r}. Publish depth as 16UC1 (millimetres) or 32FC1 (metres)."
            )
        size = int(kind[1])
        if width < 1 or height < 1 or step < width * size or len(data) != step * height:
            raise GeometryError(
                f"The depth image is broken: {len(data)} bytes in rows of {step} are not {width}x{height} pixels in "
                f"{encoding.strip()}."
            )
        rows = np.frombuffer(data, np.uint8).reshape(height, step)[:, : width * size]
        if step % size:
            rows = np.ascontiguousarray(rows)
        samples = rows.view((">" if big_endian else "<") + kind)
        return cls(samples).bounded(limits, detect_clamp=detect_clamp)

    def bounded(self, limits: DepthRange, *, detect_clamp: bool = True) -> "DepthImage":
        """Return the same image with limits. Only depths within the limits count as measurements.

        :param detect_clamp: also exclude the value at which the driver clamps depths, by the rule of `clamp_of`.
        :raises GeometryError: a 32FC1 image is in millimetres, or a 16UC1 image is not.
        """
        some = replace(self, samples=some_of(self.samples))._valid(np.s_[:, :])
        if self.samples.dtype.kind == "f" and in_millimetres(some, limits):
            raise GeometryError(
                f"The depth image is 32FC1 with a median of {np.nanmedian(some[np.isfinite(some)]):.6g}: the values are "
                "millimetres. 32FC1 must contain metres (REP 118). Convert it, or publish it as 16UC1."
            )
        if self.samples.dtype.kind == "u" and in_metres(some):
            raise GeometryError(
                f"The depth image is 16UC1 with a median of {np.nanmedian(some) * 1e3:.6g}: the values are not millimetres. "
                "16UC1 must contain millimetres (REP 118). Convert it, or publish metres as 32FC1."
            )
        some[limits.too_far(some)] = np.nan
        clamp = clamp_of(some) if detect_clamp else np.inf
        return replace(self, limits=replace(limits, maximum=min(limits.maximum, clamp)))

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.samples.shape[1])

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.samples.shape[0])

    def metres(self) -> npt.NDArray[np.float32]:
        """Return the whole image in metres: (height, width), float32, NaN where nothing was measured."""
        depths = self._take(np.s_[:, :])
        return np.where(np.isfinite(depths), depths, np.nan).astype(np.float32)

    def at(self, rows: Integers, columns: Integers) -> Floats:
        """Return the depths in metres at pixels: NaN if invalid or outside of the image, -Inf or +Inf as defined by REP 117."""
        outside = (rows < 0) | (rows >= self.height) | (columns < 0) | (columns >= self.width)
        if outside.any():
            rows, columns = np.where(outside, 0, rows), np.where(outside, 0, columns)
        depths = self._take((rows, columns))
        depths[outside] = np.nan
        return depths

    def _take(self, where: tuple[slice, slice] | tuple[Integers, Integers]) -> Floats:
        depths = self._valid(where)
        depths[self.limits.too_near(depths)] = -np.inf
        depths[self.limits.too_far(depths)] = np.inf
        return depths

    def _valid(self, where: tuple[slice, slice] | tuple[Integers, Integers]) -> Floats:
        """Return depths in metres, NaN where invalid. The limits do not apply."""
        samples = self.samples[where]
        depths = samples.astype(np.float64)
        if self.samples.dtype.kind == "u":
            depths *= 1e-3
            depths[samples == NO_SAMPLE] = np.nan
        else:
            depths[samples == _CONVERTED_NO_SAMPLE] = np.nan
        depths[~((depths > _LEAST) | (depths == -np.inf))] = np.nan
        return depths

    def scale(self, camera: CameraModel) -> tuple[float, float]:
        """Return the number of depth pixels per pixel of the camera's image: (horizontal, vertical).

        :raises GeometryError: the aspect ratios differ, so the views differ.
        """
        across, down = self.width / camera.width, self.height / camera.height
        # A difference of one pixel is always rounding. In a small image, it is a large relative difference.
        slack = _STRETCH + 1.0 / min(self.width, self.height)
        if abs(across / down - 1.0) > slack:
            raise GeometryError(
                f"The depth image has {self.width}x{self.height} pixels and the image {camera.width}x{camera.height}: their "
                "aspect ratios differ, so they show different views. Publish depth that is aligned to the image."
            )
        return across, down


@dataclass(frozen=True)
class Lifted:
    """The result of lifting n pixels.

    :param positions: (n, 3), metres, in the optical frame. An unknown position is NaN.
    :param reasons: (n) why a position is unknown, or an empty string if it is known.
    :param interpolated: (n) whether the depth was interpolated between neighbouring waypoints, not measured.
    """

    positions: Floats
    reasons: tuple[str, ...]
    interpolated: Bools


def lift_points(
    camera: CameraModel, depth: DepthImage | None, points: Sequence[Point], limits: DepthRange = USUAL_DEPTH
) -> Lifted:
    """Lift each point to the surface that the depth image shows there. Without a depth image, use the model's own depth.

    :param limits: limits of the model's own depths. A depth image has its own limits.
    :raises GeometryError: the views of depth image and camera differ.
    """
    pixels = _pixels(points)
    if depth is None:
        depths, reasons = _own_depths(points, limits)
    else:
        depths, reasons = surface_at(depth, pixels, depth.scale(camera))
    return _lifted(camera, pixels, depths, reasons, np.zeros(len(pixels), np.bool_))


def lift_boxes(camera: CameraModel, depth: DepthImage, boxes: Sequence[Box]) -> Lifted:
    """Lift the centre of each box to the surface of the object that fills the box.

    :raises GeometryError: the views of depth image and camera differ.
    """
    scale = depth.scale(camera)
    found = [_surface_in(depth, box, scale) for box in boxes]
    pixels = np.array([((box.u_min + box.u_max) / 2.0, (box.v_min + box.v_max) / 2.0) for box in boxes]).reshape(-1, 2)
    depths = np.array([one for one, _ in found])
    return _lifted(camera, pixels, depths, [reason for _, reason in found], np.zeros(len(boxes), np.bool_))


def lift_waypoints(
    camera: CameraModel, depth: DepthImage | None, waypoints: Sequence[Point], limits: DepthRange = USUAL_DEPTH
) -> Lifted:
    """Lift each waypoint to the model's own depth, because waypoints may be in free space.

    A waypoint without such a depth is lifted to the surface that the depth image shows. If the surface is unknown, the depth is
    interpolated: the waypoint then lies on the straight line in space between its neighbours with a depth.

    :param limits: limits of the model's own depths. A depth image has its own limits.
    :raises GeometryError: the views of depth image and camera differ.
    """
    pixels = _pixels(waypoints)
    depths, reasons = _own_depths(waypoints, limits)
    missing = np.flatnonzero(np.isnan(depths))
    if depth is not None and len(missing):
        measured, measured_reasons = surface_at(depth, pixels[missing], depth.scale(camera))
        depths[missing] = measured
        for index, reason in zip(missing, measured_reasons, strict=True):
            reasons[index] = reason
    depths, interpolated = _bridged(pixels, depths)
    return _lifted(camera, pixels, depths, reasons, interpolated)


def _lifted(camera: CameraModel, pixels: Floats, depths: Floats, reasons: Sequence[str], interpolated: Bools) -> Lifted:
    positions = camera.positions(pixels, depths)
    known: Bools = np.isfinite(positions[:, 0])
    positions[~known] = np.nan
    all_reasons = tuple(
        "" if good else (reason if np.isnan(d) else NO_RAY) for good, reason, d in zip(known, reasons, depths, strict=True)
    )
    return Lifted(positions, all_reasons, interpolated & known)


def _pixels(points: Sequence[Point]) -> Floats:
    return np.array([(point.u, point.v) for point in points], np.float64).reshape(-1, 2)


def _own_depths(points: Sequence[Point], limits: DepthRange) -> tuple[Floats, list[str]]:
    """Return the model's own depths in metres, NaN where missing or implausible, and the reasons for NaN."""
    depths = np.array([np.nan if point.depth is None else point.depth for point in points], np.float64)
    depths[~(depths > 0.0)] = np.nan
    outside = limits.too_near(depths) | limits.too_far(depths) | np.isinf(depths)
    depths[outside] = np.nan
    return depths, [OWN_OUT_OF_RANGE if out else NO_OWN_DEPTH for out in outside]


def _bridged(pixels: Floats, depths: Floats) -> tuple[Floats, Bools]:
    """Interpolate unknown depths between known ones. Return all depths, and which of them were interpolated.

    The interpolation uses 1 / depth, which is linear in the image along a straight line in space.
    """
    gaps, known = np.isnan(depths), np.flatnonzero(~np.isnan(depths))
    if not gaps.any() or len(known) < 2:
        return depths, np.zeros(len(depths), np.bool_)
    inner = gaps & (np.arange(len(depths)) > known[0]) & (np.arange(len(depths)) < known[-1])
    # The small addend keeps the order of two waypoints at the same pixel.
    way = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(pixels, axis=0).T) + 1e-6)))
    filled = depths.copy()
    filled[inner] = 1.0 / np.interp(way[inner], way[known], 1.0 / depths[known])
    return filled, inner


@lru_cache(maxsize=8)
def _window(radius: int) -> tuple[Integers, Integers, Floats]:
    """Return rows, columns and weights of the samples in a round window. The centre is the first sample."""
    down, across = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    distance = np.hypot(down, across)
    order = np.argsort(distance, axis=None, kind="stable")
    order = order[distance.ravel()[order] < radius + 0.5]
    weights = np.exp(-0.5 * (distance.ravel()[order] / (0.6 * radius)) ** 2)
    return down.ravel()[order], across.ravel()[order], weights


def gap_between(depths: Floats) -> Floats:
    """Return the largest difference in metres between neighbouring depths of one surface. It allows for noise and slant.

    The noise of depth cameras grows with the square of the depth (Khoshelham and Elberink 2012).
    """
    return 0.008 + 0.004 * depths + 0.003 * depths * depths


def beyond_range(depths: Floats) -> Integers:
    """Return -1 where most depths (..., k) are nearer than the limits or than the camera can measure, 1: farther, 0: neither."""
    size = depths.shape[-1]
    near, far = (depths == -np.inf).sum(axis=-1), (depths == np.inf).sum(axis=-1)
    found: Integers = (2 * far > size).astype(np.intp) - (2 * near > size)
    return found


_WHY = {-1: TOO_NEAR, 0: UNKNOWN, 1: TOO_FAR}
"""Why there is no surface, by `beyond_range`."""


def surface_at(depth: DepthImage, pixels: Floats, scale: tuple[float, float]) -> tuple[Floats, list[str]]:
    """Return the depths (n) in metres of the surfaces at pixels (n, 2) of the image, and the reason for each NaN.

    In a window around each pixel, depths without a gap between them form one surface. The function fits a plane to the samples
    of the nearest surface and returns the plane's depth. If the pixel itself has no depth, the surface must surround the pixel.
    Otherwise, an object that the depth camera cannot see would get the depth of the background.

    :param scale: depth pixels per pixel of the image (`DepthImage.scale`).
    """
    if not len(pixels):
        return np.empty(0), []
    radius = min(max(round(depth.width / 200), 2), 6)
    rows, columns, weights = _window(radius)
    u, v = to_depth_pixels(pixels, scale).T
    strange = ~(np.isfinite(u) & np.isfinite(v))
    # A point on the image's border lies half a pixel outside of the outermost centres.
    column = np.clip(np.rint(np.where(strange, -1e4, u)), -1e4, 1e6).astype(np.intp)
    row = np.clip(np.rint(np.where(strange, -1e4, v)), -1e4, 1e6).astype(np.intp)
    column[column == depth.width] -= 1
    row[row == depth.height] -= 1
    across, down = column[:, None] + columns, row[:, None] + rows
    raw = depth.at(down, across)
    z = np.where(np.isfinite(raw), raw, np.inf)
    x, y = across - u[:, None], down - v[:, None]
    chosen = _nearest_surface(z, np.ones_like(weights), _ENOUGH, centre_decides=True)
    split = np.flatnonzero((np.isfinite(z) & ~chosen).any(axis=1))
    if len(split):
        # A floor at a grazing angle also has gaps, from row to row. If a plane fits all samples, they are one surface.
        all_valid = np.isfinite(z[split])
        depths, misfit = _plane(z[split], all_valid, weights, x[split], y[split])
        flat = (misfit < _FLAT * gap_between(depths)) & (all_valid.sum(axis=1) > 4 * _ENOUGH)
        chosen[split[flat]] = all_valid[flat]
    chosen &= _reaches(z, chosen, (down >= 0) & (down < depth.height) & (across >= 0) & (across < depth.width))[:, None]
    depths, _ = _plane(z, chosen, weights, x, y)
    beyond = beyond_range(raw[:, :9]).tolist()
    return depths, ["" if known else _WHY[side] for known, side in zip(~np.isnan(depths), beyond, strict=True)]


def _nearest_surface(z: Floats, weights: Floats, enough: float, *, centre_decides: bool = False) -> Bools:
    """Return which samples (n, w) belong to the nearest surface. The weights of its samples must sum to at least ``enough``.

    :param z: depths (n, w); infinity: invalid.
    :param centre_decides: the surface of the first sample takes precedence over farther surfaces if it has at least two samples.
        If it has only one sample, no surface is chosen, because the sample is a measuring error or an object that is too thin.
    """
    count, size = z.shape
    order = np.argsort(z, axis=1)
    ordered = np.take_along_axis(z, order, axis=1)
    valid = np.isfinite(ordered)
    with np.errstate(invalid="ignore"):
        new = np.diff(ordered, axis=1) > gap_between(ordered[:, :-1])
    surface = np.zeros((count, size), np.intp)
    np.cumsum(new & valid[:, 1:], axis=1, out=surface[:, 1:])
    place = surface + size * np.arange(count)[:, None]
    sums = np.bincount(place.ravel(), (weights[order] * valid).ravel(), count * size).reshape(count, size)
    big = sums >= enough
    choice = np.where(big.any(axis=1), big.argmax(axis=1), size)
    accepted = choice < size
    if centre_decides:
        number = (surface * (order == 0)).sum(axis=1)
        samples = np.bincount(place.ravel(), valid.ravel(), count * size).reshape(count, size)
        nearer = np.isfinite(z[:, 0]) & (number < choice)
        choice[nearer] = number[nearer]
        accepted[nearer] = samples[nearer, number[nearer]] >= 2
    picked = (surface == choice[:, None]) & valid & accepted[:, None]
    chosen = np.zeros((count, size), np.bool_)
    np.put_along_axis(chosen, order, picked, axis=1)
    return chosen


def _reaches(z: Floats, chosen: Bools, inside: Bools) -> Bools:
    """Return whether the chosen surface (n, w) of a window includes its centre, or surrounds a centre without depth."""
    around = chosen[:, 1:9].sum(axis=1)
    behind = (np.isfinite(z) & ~chosen).any(axis=1)
    # In front of another surface, the unmeasured centre may be the edge of the chosen surface. Three neighbours are enough then.
    needed = np.where(behind, 3, 0.75 * inside[:, 1:9].sum(axis=1))
    reaches: Bools = np.isfinite(z[:, 0]) | ((around >= needed) & (around > 0))
    return reaches


def _plane(z: Floats, chosen: Bools, weights: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Fit a plane to the chosen samples (n, w) at x and y. In the image, 1 / depth of a plane is linear.

    :returns: the depth (n) at x = y = 0, NaN where no sample is chosen; the root mean square deviation (n) in metres.
    """
    z = np.where(chosen, z, 1.0)
    weight = np.where(chosen, weights, 0.0)
    weight /= weight.sum(axis=1, keepdims=True) + 1e-12
    q = 1.0 / z
    x_mean, y_mean, q_mean = (weight * x).sum(axis=1), (weight * y).sum(axis=1), (weight * q).sum(axis=1)
    x, y, q = x - x_mean[:, None], y - y_mean[:, None], q - q_mean[:, None]
    wx, wy = weight * x, weight * y
    # The addend makes the slope 0 if the samples do not surround the centre. Otherwise, the slope would be arbitrary.
    xx, yy, xy = (wx * x).sum(axis=1) + 0.1, (wy * y).sum(axis=1) + 0.1, (wx * y).sum(axis=1)
    xq, yq = (wx * q).sum(axis=1), (wy * q).sum(axis=1)
    determinant = xx * yy - xy * xy
    slope_x, slope_y = (yy * xq - xy * yq) / determinant, (xx * yq - xy * xq) / determinant
    inverse = q_mean - slope_x * x_mean - slope_y * y_mean
    # A small difference of 1 / depth, times the square of the depth, is a difference of depths.
    off = (q - slope_x[:, None] * x - slope_y[:, None] * y) * z * z
    misfit = np.sqrt((off * off * chosen).mean(axis=1) * chosen.shape[1] / np.maximum(chosen.sum(axis=1), 1))
    nearest = np.where(chosen, z, np.inf).min(axis=1)
    farthest = np.where(chosen, z, -np.inf).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.clip(1.0 / inverse, nearest, farthest)
    return np.where(chosen.any(axis=1), depth, np.nan), misfit


def _surface_in(depth: DepthImage, box: Box, scale: tuple[float, float]) -> tuple[float, str]:
    """Return the depth in metres at a box's centre, of the nearest surface that fills much of the box's middle.

    :returns: the depth and an empty text, or NaN and the reason.
    """
    sides = np.array([[box.u_min, box.v_min], [box.u_max, box.v_max]])
    if not np.isfinite(sides).all():
        return np.nan, UNKNOWN
    low, high = to_depth_pixels(sides, scale)
    middle, quarter = (low + high) / 2.0, np.maximum((high - low) / 4.0, 1.0)
    # Use the inner half only: the outer half also shows the background and the surface on which the object stands.
    lines = np.linspace(middle - quarter, middle + quarter, _BOX_SAMPLES).clip(-1e4, 1e6)
    u, v = (np.unique(np.rint(line)).astype(np.intp) for line in lines.T)
    rows, columns = (grid.ravel() for grid in np.meshgrid(v, u, indexing="ij"))
    far = ((columns - middle[0]) / quarter[0]) ** 2 + ((rows - middle[1]) / quarter[1]) ** 2
    order = np.argsort(far, kind="stable")
    raw = depth.at(rows[order], columns[order])
    z = np.where(np.isfinite(raw), raw, np.inf)[None]
    weights = np.exp(-0.5 * far[order])
    valid = (weights * np.isfinite(z[0])).sum()
    chosen = _nearest_surface(z, weights, 0.25 * valid)[0]
    if valid < 0.4 * weights.sum() or not chosen.any():
        return np.nan, _WHY[int(beyond_range(raw))]
    # Use the samples next to the centre. On a slanted surface, only they have the depth of the centre.
    return float(np.median(z[0][chosen][: max(_ENOUGH, raw.size // 40)])), ""
