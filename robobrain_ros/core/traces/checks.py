"""Check a trajectory in metres against a robot's limits and a depth image, before a robot moves along it.

A check whose input is missing, such as the depth image, is left out. The report states why.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from robobrain_ros.core.geometry import CameraModel, Floats, to_depth_pixels
from robobrain_ros.core.surfaces import DepthImage, Integers
from robobrain_ros.core.traces.distances import named_distances
from robobrain_ros.core.traces.issues import IssueKind, TraceIssue
from robobrain_ros.core.traces.space import Reach, Workspace
from robobrain_ros.core.transforms import Transform

MOST_WAYPOINTS = 1000
FARTHEST = 1e6
"""Coordinates in metres from here on count as unknown."""
LEAST_LENGTH = 1e-3
"""Least length of a trajectory in metres."""
MOST_SAMPLES = 20_000
"""Most samples of all segments. Longer trajectories are sampled more coarsely."""
HIGHEST = 1.0
"""Largest height above a surface in metres that is measured."""
_HEIGHT_STEP = 2e-3
_FILL, _FILL_SHARE = 2, 1.0 / 3.0
"""A pixel without depth is filled if this share of the pixels around it, up to this distance, has depth."""
_UNIT = 1e-2
"""Largest deviation of the length of a unit vector."""


@dataclass(frozen=True)
class View:
    """A depth image and its camera.

    :param camera: the camera model of the colour image.
    :param depth: it shows the same view as the colour image, and may have another size.
    :param from_waypoints: transform from the frame of the waypoints to the optical frame. None: it is the same frame.
    """

    camera: CameraModel
    depth: DepthImage
    from_waypoints: Transform | None = None


@dataclass(frozen=True)
class Trace:
    """A trajectory and the request that led to it.

    :param waypoints: positions (n, 3) in metres. NaN: unknown.
    :param frame: name of the frame of the waypoints.
    :param duration: seconds from the first waypoint to the last one, with equal times between waypoints. 0: unknown.
    :param gripper: position (3) of the gripper in metres in the same frame, or None.
    :param up: unit vector (3) against gravity in the same frame, or None.
    :param instruction: the instruction, for distances that it names.
    """

    waypoints: npt.NDArray[np.float64]
    frame: str
    duration: float = 0.0
    gripper: Floats | None = None
    up: Floats | None = None
    instruction: str = ""


@dataclass(frozen=True)
class TraceLimits:
    """Limits of a trajectory. None, and 0 for ``step``, ``speed`` and ``start``, switch a check off.

    :param step: longest step in metres.
    :param speed: largest speed in metres per second.
    :param start: largest distance of the first waypoint from the gripper in metres.
    :param behind: largest depth behind the visible surface in metres: the tolerance of the depth camera.
    :param spacing: distance of the samples of a segment in metres.
    """

    workspace: Workspace | None = None
    reach: Reach | None = None
    step: float = 0.0
    speed: float = 0.0
    start: float = 0.0
    behind: float = 0.02
    spacing: float = 0.005

    def __post_init__(self) -> None:
        """Raise ValueError for a limit that is NaN or negative, and for a spacing of 0."""
        if not (self.spacing > 0.0 and all(limit >= 0.0 for limit in (self.step, self.speed, self.start, self.behind))):
            raise ValueError("Limits must be at least 0, and the spacing above 0.")


@dataclass(frozen=True)
class TraceReport:
    """The findings, and the reasons why checks were left out."""

    issues: tuple[TraceIssue, ...] = ()
    unchecked: tuple[str, ...] = ()


@dataclass
class _Checker:
    trace: Trace
    limits: TraceLimits
    view: View | None
    transforms: Mapping[str, Transform]
    unchecked: list[str] = field(default_factory=list)

    def run(self) -> Iterator[TraceIssue]:
        points = np.asarray(self.trace.waypoints, np.float64)
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"The waypoints have the shape {points.shape}, not (n, 3).")
        if len(points) > MOST_WAYPOINTS:
            yield TraceIssue(-1, IssueKind.TOO_MANY, len(points), MOST_WAYPOINTS)
            return
        known = (np.abs(points) < FARTHEST).all(axis=1)
        for index in np.flatnonzero(~known):
            yield TraceIssue(int(index), IssueKind.NOT_FINITE, float("nan"), 0.0)
        indices, points = np.flatnonzero(known), points[known]
        if len(points) < 2:
            yield TraceIssue(-1, IssueKind.TOO_FEW, len(points), 2)
            return
        steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
        length = float(steps.sum())
        if length < LEAST_LENGTH:
            yield TraceIssue(-1, IssueKind.NO_MOTION, length, LEAST_LENGTH)
            return
        yield from self._space(points, indices)
        yield from self._motion(steps, indices)
        yield from self._start(points[0], int(indices[0]))
        if self.view is None:
            self.unchecked.append("There is no depth image, so free space and named distances were not checked.")
            return
        yield from self._free(self.view, points, steps, indices)
        yield from self._distances(self.view, points[-1], int(indices[-1]))

    def _space(self, points: Floats, indices: npt.NDArray[np.intp]) -> Iterator[TraceIssue]:
        box, reach = self.limits.workspace, self.limits.reach
        if box is not None and (inside := self._in_frame(points, box.frame, "the workspace")) is not None:
            outside = np.maximum(np.subtract(box.minimum, inside), np.subtract(inside, box.maximum)).clip(min=0.0)
            yield from _above(IssueKind.OUTSIDE_WORKSPACE, np.linalg.norm(outside, axis=1), 0.0, indices)
        if reach is not None and (seen := self._in_frame(points, reach.frame, "the reach")) is not None:
            yield from _above(IssueKind.OUT_OF_REACH, np.linalg.norm(seen - reach.base, axis=1), reach.distance, indices)

    def _in_frame(self, points: Floats, frame: str, what: str) -> Floats | None:
        if frame == self.trace.frame:
            return points
        transform = self.transforms.get(frame)
        if transform is None or not transform.valid:
            why = "missing" if transform is None else "no rotation and translation"
            self.unchecked.append(f"The transform from {self.trace.frame!r} to {frame!r} is {why}, so {what} was not checked.")
            return None
        return transform.apply(points)

    def _motion(self, steps: Floats, indices: npt.NDArray[np.intp]) -> Iterator[TraceIssue]:
        if self.limits.step > 0.0:
            yield from _above(IssueKind.LONG_STEP, steps, self.limits.step, indices[1:])
        if self.limits.speed <= 0.0:
            return
        if not 0.0 < self.trace.duration < np.inf:
            self.unchecked.append("The duration is unknown, so the speed was not checked.")
            return
        times = np.diff(indices) * self.trace.duration / (len(self.trace.waypoints) - 1)
        yield from _above(IssueKind.TOO_FAST, steps / times, self.limits.speed, indices[1:])

    def _start(self, first: Floats, index: int) -> Iterator[TraceIssue]:
        if self.limits.start <= 0.0:
            return
        if self.trace.gripper is None or not np.isfinite(self.trace.gripper).all():
            self.unchecked.append("The position of the gripper is unknown, so the start was not checked.")
            return
        distance = np.linalg.norm(first - np.asarray(self.trace.gripper, np.float64))
        yield from _above(IssueKind.FAR_START, np.array([distance]), self.limits.start, np.array([index]))

    def _free(self, view: View, points: Floats, steps: Floats, indices: npt.NDArray[np.intp]) -> Iterator[TraceIssue]:
        spacing = max(self.limits.spacing, float(steps.sum()) / (MOST_SAMPLES - 2 * len(steps)))
        # Each segment has its end among the samples. The first segment also has its start.
        counts = np.ceil(steps / spacing).astype(np.intp).clip(min=1)
        segments = np.repeat(np.arange(len(steps)), counts)
        parts = (np.arange(len(segments)) - np.repeat(np.cumsum(counts) - counts, counts) + 1.0) / counts[segments]
        samples = points[segments] + parts[:, None] * (points[segments + 1] - points[segments])
        samples, segments = np.vstack((points[:1], samples)), np.concatenate(([0], segments))
        behind = _behind(view, samples)
        missing = int(np.isnan(behind).sum())
        if missing:
            self.unchecked.append(
                f"{missing} of {len(samples)} samples of the trajectory have no depth, so their free space was not checked."
            )
        worst = np.full(len(steps), -np.inf)
        np.maximum.at(worst, segments, np.nan_to_num(behind, nan=-np.inf))
        yield from _above(IssueKind.NOT_FREE, worst, self.limits.behind, indices[1:])

    def _distances(self, view: View, last: Floats, index: int) -> Iterator[TraceIssue]:
        distances = named_distances(self.trace.instruction)
        if not distances:
            return
        up = np.asarray(self.trace.up, np.float64) if self.trace.up is not None else np.zeros(3)
        if not abs(float(np.linalg.norm(up)) - 1.0) < _UNIT:
            self.unchecked.append("The direction against gravity (up) is no unit vector, so the named distance was not checked.")
            return
        height = _height(view, last, up, self.limits.behind)
        if height is None:
            self.unchecked.append("The depth image shows no surface below the end, so the named distance was not checked.")
            return
        named = distances[-1]
        if not named.low <= height <= named.high:
            yield TraceIssue(index, IssueKind.WRONG_DISTANCE, height, named.low if height < named.low else named.high)


def check_trace(
    trace: Trace, limits: TraceLimits, view: View | None = None, transforms: Mapping[str, Transform] | None = None
) -> TraceReport:
    """Check a trajectory. Waypoints without a position are reported, and the checks join their neighbours.

    :param view: the depth image, or None if there is none.
    :param transforms: transforms from the waypoints' frame to the frames of the workspace and the reach, by their names.
    :raises ValueError: the waypoints do not have the shape (n, 3).
    :raises GeometryError: the depth image and the camera show different views.
    """
    checker = _Checker(trace, limits, view, transforms or {})
    issues = tuple(checker.run())
    return TraceReport(issues, tuple(checker.unchecked))


def _above(kind: IssueKind, values: Floats, allowed: float, indices: npt.NDArray[np.intp]) -> Iterator[TraceIssue]:
    """Yield an issue for each value above the bound. Values within 1 micrometre of it are equal to it."""
    for place in np.flatnonzero(values > allowed + 1e-6):
        yield TraceIssue(int(indices[place]), kind, float(values[place]), allowed)


def _behind(view: View, positions: Floats) -> Floats:
    """Return how far positions (n, 3) are behind the visible surface in metres. NaN: unknown, or outside of the image."""
    seen = positions if view.from_waypoints is None else view.from_waypoints.apply(positions)
    pixels = to_depth_pixels(view.camera.project(seen), view.depth.scale(view.camera))
    columns, rows = np.rint(np.clip(np.nan_to_num(pixels, nan=-9.0), -9.0, 1e6)).astype(np.intp).T
    surface = view.depth.at(rows, columns)
    inside = (rows >= 0) & (rows < view.depth.height) & (columns >= 0) & (columns < view.depth.width)
    lost = np.flatnonzero(np.isnan(surface) & inside)
    if len(lost):
        surface[lost] = _around(view.depth, rows[lost], columns[lost])
    surface[surface == -np.inf] = np.nan  # A surface that is too near to be measured has no depth.
    behind: Floats = seen[:, 2] - surface
    return behind


def _around(depth: DepthImage, rows: Integers, columns: Integers) -> Floats:
    """Return the nearest surfaces (n) around pixels without depth, such as single lost pixels. NaN: a hole is there."""
    down, across = (grid.ravel() for grid in np.mgrid[-_FILL : _FILL + 1, -_FILL : _FILL + 1])
    z = depth.at(rows[:, None] + down, columns[:, None] + across)
    z = np.where(np.isnan(z), np.inf, z)
    seen = np.isfinite(z)
    nearest: Floats = np.where(seen.mean(axis=1) >= _FILL_SHARE, z.min(axis=1), np.nan)
    return nearest


def _height(view: View, position: Floats, up: Floats, tolerance: float) -> float | None:
    """Return the height of a position above the visible surface below it in metres, or None if the image shows none.

    :param tolerance: metres. A position that is farther behind a surface is hidden by it, and not on it.
    """
    heights = np.arange(0.0, HIGHEST + _HEIGHT_STEP, _HEIGHT_STEP)
    behind = _behind(view, position - heights[:, None] * up)
    with np.errstate(invalid="ignore"):
        hits = np.flatnonzero(behind >= 0.0)
    if not len(hits):
        return None
    hit = int(hits[0])
    if behind[hit] > tolerance + 2.0 * _HEIGHT_STEP:
        return None
    if hit == 0:
        return 0.0
    before, after = -behind[hit - 1], behind[hit]
    share = before / (before + after) if np.isfinite(before) and before + after > 0.0 else 1.0
    return float(heights[hit - 1] + share * _HEIGHT_STEP)
