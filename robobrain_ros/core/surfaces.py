"""Find the surfaces at the pixels of an answer, from a depth image of the same time.

A depth image has the depth of each pixel along the optical axis. It shows the same view as the image, but its size may differ.
Nothing is guessed: where too few depths are valid, the result is NaN with a reason.
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
from robobrain_ros.core.geometry import CameraModel, Floats, GeometryError
from robobrain_ros.core.query import Box, Point

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.intp]

UNKNOWN = "too little valid depth around it"
TOO_NEAR = "nearer than min_depth or than the depth camera can measure"
TOO_FAR = "farther than max_depth or than the depth camera can measure"
NO_OWN_DEPTH = "the model gave no depth"
OWN_OUT_OF_RANGE = "the model's own depth is outside min_depth to max_depth"

_CONVERTED_NO_SAMPLE = np.float32(NO_SAMPLE * 1e-3)
"""65535 after a driver has converted millimetres to metres."""

_LEAST = 5e-4
"""Metres. Smaller values are 0, or floats with the wrong byte order."""

_STRETCH = 0.02
"""Relative difference that the aspect ratios of depth image and image may have, because sizes are whole pixels."""

_ENOUGH = 4
"""Fewest samples of a surface. Fewer samples are a measuring error."""

_FLAT = 0.3
"""Deviation from a plane that its samples may have, as a share of a gap. For two planes a gap apart it is about a quarter."""

_BOX_SAMPLES = 32
"""Most samples along each side of a box."""


@dataclass(frozen=True)
class DepthImage:
    """A depth image without a copy: (height, width), uint16 millimetres or float32 metres.

    In uint16, 0 (REP 118) and 65535 are invalid. In float32, NaN, 0, denormal and negative depths are invalid. -Inf is nearer
    and +Inf farther than the camera can measure (REP 117); so are finite depths outside of ``limits``.
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
        """Make a depth image of the values of a sensor_msgs/Image, without a copy. For the last two parameters see `bounded`.

        :raises GeometryError: the encoding is not one of depth, or the sizes contradict each other; see also `bounded`.
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
        """Return the same image, in which only depths within the limits are measurements.

        :param detect_clamp: exclude the value at which a driver clamps, by the rule of `clamp_of`.
        :raises GeometryError: the whole image is in millimetres where metres are expected, or the other way round.
        """
        some = replace(self, samples=some_of(self.samples))._valid(np.s_[:, :])
        if self.samples.dtype.kind == "f" and in_millimetres(some, limits):
            raise GeometryError(
                f"The depth image is 32FC1 with a median of {np.nanmedian(some[np.isfinite(some)]):.6g}, which are millimetres. "
                "32FC1 holds metres (REP 118). Convert it, or publish it as 16UC1."
            )
        if self.samples.dtype.kind == "u" and in_metres(some):
            raise GeometryError(
                f"The depth image is 16UC1 with a median of {np.nanmedian(some) * 1e3:.6g}, which are not millimetres. 16UC1 "
                "holds millimetres (REP 118). Convert it, or publish metres as 32FC1."
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
        """The whole image in metres, (height, width), float32. NaN where nothing was measured."""
        depths = self._take(np.s_[:, :])
        return np.where(np.isfinite(depths), depths, np.nan).astype(np.float32)

    def at(self, rows: Integers, columns: Integers) -> Floats:
        """Depths in metres at pixels. NaN outside of the image and where invalid; infinite as of REP 117."""
        inside = (rows >= 0) & (rows < self.height) & (columns >= 0) & (columns < self.width)
        depths = self._take((np.where(inside, rows, 0), np.where(inside, columns, 0)))
        depths[~inside] = np.nan
        return depths

    def _take(self, where: tuple[slice, slice] | tuple[Integers, Integers]) -> Floats:
        depths = self._valid(where)
        depths[self.limits.too_near(depths)] = -np.inf
        depths[self.limits.too_far(depths)] = np.inf
        return depths

    def _valid(self, where: tuple[slice, slice] | tuple[Integers, Integers]) -> Floats:
        """Depths in metres, NaN where invalid. The limits do not apply."""
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
        """Depth pixels per pixel of the camera's image, to the right and down.

        :raises GeometryError: the aspect ratios differ, so the views differ.
        """
        across, down = self.width / camera.width, self.height / camera.height
        # A pixel more or less is rounding, however small the image.
        slack = _STRETCH + 1.0 / min(self.width, self.height)
        if abs(across / down - 1.0) > slack:
            raise GeometryError(
                f"The depth image has {self.width}x{self.height} pixels and the image {camera.width}x{camera.height}: their "
                "aspect ratios differ, so they show different views. Publish depth that is aligned to the image."
            )
        return across, down


@dataclass(frozen=True)
class Lifted:
    """Positions (n, 3) in the optical frame, in metres.

    An unknown position is NaN, and its entry in ``reasons`` (n) states why; the entries of known ones are empty. ``interpolated``
    (n): the depth was not measured, but interpolated between the neighbours.
    """

    positions: Floats
    reasons: tuple[str, ...]
    interpolated: Bools


def lift_points(
    camera: CameraModel, depth: DepthImage | None, points: Sequence[Point], limits: DepthRange = USUAL_DEPTH
) -> Lifted:
    """Lift each point to the surface that it shows; without a depth image, to the model's own depth.

    :param limits: limits of the model's own depths. A depth image has limits of its own.
    """
    pixels = _pixels(points)
    if depth is None:
        depths, reasons = _own_depths(points, limits)
    else:
        depths, reasons = surface_at(depth, pixels, depth.scale(camera))
    return _lifted(camera, pixels, depths, reasons, np.zeros(len(pixels), np.bool_))


def lift_boxes(camera: CameraModel, depth: DepthImage, boxes: Sequence[Box]) -> Lifted:
    """Lift the centre of each box to the surface of the object that fills the box."""
    scale = depth.scale(camera)
    found = [_surface_in(depth, box, scale) for box in boxes]
    pixels = np.array([((box.u_min + box.u_max) / 2.0, (box.v_min + box.v_max) / 2.0) for box in boxes]).reshape(-1, 2)
    depths = np.array([one for one, _ in found])
    return _lifted(camera, pixels, depths, [reason for _, reason in found], np.zeros(len(boxes), np.bool_))


def lift_waypoints(
    camera: CameraModel, depth: DepthImage | None, waypoints: Sequence[Point], limits: DepthRange = USUAL_DEPTH
) -> Lifted:
    """Lift each waypoint to the model's own depth, because waypoints may be in the air; without one, to the surface it shows.

    A waypoint without a depth, between waypoints with one, is interpolated on the straight line in space between them.

    :param limits: limits of the model's own depths. A depth image has limits of its own.
    """
    pixels = _pixels(waypoints)
    depths, reasons = _own_depths(waypoints, limits)
    open_ones = np.flatnonzero(np.isnan(depths))
    if depth is not None and len(open_ones):
        measured, why = surface_at(depth, pixels[open_ones], depth.scale(camera))
        depths[open_ones] = measured
        for index, reason in zip(open_ones, why, strict=True):
            reasons[index] = reason
    depths, interpolated = _bridged(pixels, depths)
    return _lifted(camera, pixels, depths, reasons, interpolated)


def _lifted(camera: CameraModel, pixels: Floats, depths: Floats, reasons: Sequence[str], interpolated: Bools) -> Lifted:
    positions = camera.positions(pixels, depths)
    known: Bools = np.isfinite(positions[:, 0])
    positions[~known] = np.nan
    said = tuple(
        "" if good else (reason if np.isnan(d) else "the camera's lens model does not cover this pixel")
        for good, reason, d in zip(known, reasons, depths, strict=True)
    )
    return Lifted(positions, said, interpolated & known)


def _pixels(points: Sequence[Point]) -> Floats:
    return np.array([(point.u, point.v) for point in points], np.float64).reshape(-1, 2)


def _own_depths(points: Sequence[Point], limits: DepthRange) -> tuple[Floats, list[str]]:
    """The model's own depths, NaN where missing or implausible, with the reasons."""
    depths = np.array([np.nan if point.depth is None else point.depth for point in points], np.float64)
    depths[~(depths > 0.0)] = np.nan
    outside = limits.too_near(depths) | limits.too_far(depths) | np.isinf(depths)
    depths[outside] = np.nan
    return depths, [OWN_OUT_OF_RANGE if out else NO_OWN_DEPTH for out in outside]


def _bridged(pixels: Floats, depths: Floats) -> tuple[Floats, Bools]:
    """Fill gaps between known depths, and tell which. 1 / depth is linear along a straight line in space."""
    gaps, known = np.isnan(depths), np.flatnonzero(~np.isnan(depths))
    if not gaps.any() or len(known) < 2:
        return depths, np.zeros(len(depths), np.bool_)
    inner = gaps & (np.arange(len(depths)) > known[0]) & (np.arange(len(depths)) < known[-1])
    # Where two waypoints are the same pixel, their order still counts.
    way = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(pixels, axis=0).T) + 1e-6)))
    filled = depths.copy()
    filled[inner] = 1.0 / np.interp(way[inner], way[known], 1.0 / depths[known])
    return filled, inner


@lru_cache(maxsize=8)
def _window(radius: int) -> tuple[Integers, Integers, Floats]:
    """Rows, columns and weights of the samples in a round window. The centre comes first."""
    down, across = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    distance = np.hypot(down, across)
    order = np.argsort(distance, axis=None, kind="stable")
    order = order[distance.ravel()[order] < radius + 0.5]
    weights = np.exp(-0.5 * (distance.ravel()[order] / (0.6 * radius)) ** 2)
    return down.ravel()[order], across.ravel()[order], weights


def _gap(depths: Floats) -> Floats:
    """Distance in metres between neighbouring depths beyond which they belong to two surfaces, not to noise or slant.

    Noise of depth cameras grows with the square of the depth (Khoshelham and Elberink 2012).
    """
    return 0.008 + 0.004 * depths + 0.003 * depths * depths


def surface_at(depth: DepthImage, pixels: Floats, scale: tuple[float, float]) -> tuple[Floats, list[str]]:
    """Depths (n) in metres of the surfaces at pixels (n, 2) of the image, and the reasons where they are NaN.

    In a window around each pixel, depths without a gap between them are one surface. The result is the nearest surface, from a
    plane through its samples. If the pixel itself has no depth, the surface must surround it, because an object that depth
    cameras cannot see must not get the depth of the background.
    """
    if not len(pixels):
        return np.empty(0), []
    radius = min(max(round(depth.width / 200), 2), 6)
    rows, columns, weights = _window(radius)
    u, v = (pixels[:, 0] + 0.5) * scale[0] - 0.5, (pixels[:, 1] + 0.5) * scale[1] - 0.5
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
        # A floor seen along its length has gaps, too: from row to row.
        all_valid = np.isfinite(z[split])
        depths, misfit = _plane(z[split], all_valid, weights, x[split], y[split])
        flat = (misfit < _FLAT * _gap(depths)) & (all_valid.sum(axis=1) > 4 * _ENOUGH)
        chosen[split[flat]] = all_valid[flat]
    chosen &= _reaches(z, chosen, (down >= 0) & (down < depth.height) & (across >= 0) & (across < depth.width))[:, None]
    depths, _ = _plane(z, chosen, weights, x, y)
    near, far = (raw[:, :9] == -np.inf).sum(axis=1), (raw[:, :9] == np.inf).sum(axis=1)
    reasons = [
        "" if known else TOO_NEAR if 2 * n > 9 else TOO_FAR if 2 * f > 9 else UNKNOWN
        for known, n, f in zip(~np.isnan(depths), near, far, strict=True)
    ]
    return depths, reasons


def _nearest_surface(z: Floats, weights: Floats, enough: float, *, centre_decides: bool = False) -> Bools:
    """Which samples (n, w) belong to the nearest surface whose samples have at least the weight ``enough``.

    :param z: depths; infinite ones are invalid.
    :param centre_decides: the surface of the first sample takes precedence over farther ones if it has two samples or more. If it
        has only one, no surface is chosen: the sample is a measuring error or something too thin.
    """
    count, size = z.shape
    order = np.argsort(z, axis=1)
    ordered = np.take_along_axis(z, order, axis=1)
    valid = np.isfinite(ordered)
    with np.errstate(invalid="ignore"):
        new = np.diff(ordered, axis=1) > _gap(ordered[:, :-1])
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
    """Whether the chosen surface (n, w) of a window reaches its centre: at the pixel itself, or around a pixel without depth."""
    around = chosen[:, 1:9].sum(axis=1)
    behind = (np.isfinite(z) & ~chosen).any(axis=1)
    # Before something farther, the surface's own edge may be what could not be measured.
    needed = np.where(behind, 3, 0.75 * inside[:, 1:9].sum(axis=1))
    there: Bools = np.isfinite(z[:, 0]) | ((around >= needed) & (around > 0))
    return there


def _plane(z: Floats, chosen: Bools, weights: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Fit a plane through the chosen samples (n, w) at x and y. 1 / depth of a plane is linear in the image.

    :returns: the depth (n) at x = y = 0, NaN where no sample is chosen; the root mean square deviation (n) in metres.
    """
    z = np.where(chosen, z, 1.0)
    weight = np.where(chosen, weights, 0.0)
    weight /= weight.sum(axis=1, keepdims=True) + 1e-12
    q = 1.0 / z
    x_mean, y_mean, q_mean = (weight * x).sum(axis=1), (weight * y).sum(axis=1), (weight * q).sum(axis=1)
    x, y, q = x - x_mean[:, None], y - y_mean[:, None], q - q_mean[:, None]
    wx, wy = weight * x, weight * y
    # Without samples on all sides, no slope rather than any.
    xx, yy, xy = (wx * x).sum(axis=1) + 0.1, (wy * y).sum(axis=1) + 0.1, (wx * y).sum(axis=1)
    xq, yq = (wx * q).sum(axis=1), (wy * q).sum(axis=1)
    determinant = xx * yy - xy * xy
    slope_x, slope_y = (yy * xq - xy * yq) / determinant, (xx * yq - xy * xq) / determinant
    inverse = q_mean - slope_x * x_mean - slope_y * y_mean
    # Small differences of 1 / depth are those of depth by its square.
    off = (q - slope_x[:, None] * x - slope_y[:, None] * y) * z * z
    misfit = np.sqrt((off * off * chosen).mean(axis=1) * chosen.shape[1] / np.maximum(chosen.sum(axis=1), 1))
    nearest = np.where(chosen, z, np.inf).min(axis=1)
    farthest = np.where(chosen, z, -np.inf).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.clip(1.0 / inverse, nearest, farthest)
    return np.where(chosen.any(axis=1), depth, np.nan), misfit


def _surface_in(depth: DepthImage, box: Box, scale: tuple[float, float]) -> tuple[float, str]:
    """The depth at a box's centre of the nearest surface that fills much of its middle; otherwise NaN and the reason."""
    sides = np.array([[box.u_min, box.v_min], [box.u_max, box.v_max]])
    if not np.isfinite(sides).all():
        return np.nan, UNKNOWN
    low, high = (sides + 0.5) * scale - 0.5
    middle, quarter = (low + high) / 2.0, np.maximum((high - low) / 4.0, 1.0)
    # The outer half of a box shows the background in its corners, and the ground that the thing stands on.
    v, u = (
        np.unique(np.rint(np.linspace(middle[axis] - quarter[axis], middle[axis] + quarter[axis], _BOX_SAMPLES))).astype(np.intp)
        for axis in (1, 0)
    )
    rows, columns = (grid.ravel() for grid in np.meshgrid(v, u, indexing="ij"))
    far = ((columns - middle[0]) / quarter[0]) ** 2 + ((rows - middle[1]) / quarter[1]) ** 2
    order = np.argsort(far, kind="stable")
    raw = depth.at(rows[order], columns[order])
    z = np.where(np.isfinite(raw), raw, np.inf)[None]
    weights = np.exp(-0.5 * far[order])
    valid = (weights * np.isfinite(z[0])).sum()
    chosen = _nearest_surface(z, weights, 0.25 * valid)[0]
    if valid < 0.4 * weights.sum() or not chosen.any():
        half = raw.size / 2
        return np.nan, TOO_NEAR if (raw == -np.inf).sum() > half else TOO_FAR if (raw == np.inf).sum() > half else UNKNOWN
    # Those next to the centre: on a slant, they have its depth.
    return float(np.median(z[0][chosen][: max(_ENOUGH, raw.size // 40)])), ""
