"""Make the poses that a robot follows from a trajectory, and check them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from robobrain_ros.core.geometry import Floats
from robobrain_ros.core.traces.checks import FARTHEST, LEAST_LENGTH, Trace, TraceLimits, TraceReport, View, check_trace
from robobrain_ros.core.traces.issues import IssueKind, TraceIssue
from robobrain_ros.core.traces.shape import MOST_POSES, resample, smooth
from robobrain_ros.core.transforms import Transform

_OF_PLACES = (IssueKind.OUTSIDE_WORKSPACE, IssueKind.OUT_OF_REACH)
"""Findings about single waypoints. They count also if the poses differ from the waypoints, because both are published."""


@dataclass(frozen=True)
class Shape:
    """How a trajectory is resampled, and then smoothed. All values 0: the waypoints stay as they are.

    :param count: number of poses, from 2. Overrides ``step``.
    :param step: largest distance of two poses in metres.
    :param rounds: rounds of smoothing, see `core.traces.shape.smooth`.
    """

    count: int = 0
    step: float = 0.0
    rounds: int = 0

    @property
    def changes(self) -> bool:
        """Whether the poses differ from the waypoints."""
        return self.count > 0 or self.step > 0.0 or self.rounds > 0


@dataclass(frozen=True)
class Followed:
    """The poses of a trajectory and the findings about them.

    :param report: the findings about the poses, and about waypoints outside of the workspace or the reach. The index of an issue
        is that of a waypoint, also if the poses were resampled.
    :param positions: positions (n, 3) of the poses in metres. Empty: the trajectory has no motion, or too many waypoints.
    """

    report: TraceReport = field(default_factory=TraceReport)
    positions: Floats = field(default_factory=lambda: np.empty((0, 3)))


def follow(
    trace: Trace,
    limits: TraceLimits,
    shape: Shape = Shape(),
    view: View | None = None,
    transforms: Mapping[str, Transform] | None = None,
) -> Followed:
    """Resample, smooth and check a trajectory. Waypoints without a position are reported, and left out of the poses.

    :raises ValueError: see `check_trace`.
    :raises GeometryError: see `check_trace`.
    """
    points = np.asarray(trace.waypoints, np.float64)
    known = np.flatnonzero((np.abs(points) < FARTHEST).all(axis=1)) if points.ndim == 2 else np.empty(0, np.intp)
    steps = np.linalg.norm(np.diff(points[known], axis=0), axis=1) if len(known) > 1 else np.zeros(1)
    usable = steps.sum() >= LEAST_LENGTH
    if not (shape.changes and usable and len(points) <= MOST_POSES):
        report = check_trace(trace, limits, view, transforms)
        return Followed(report, points[known] if usable and not _has_too_many(report) else np.empty((0, 3)))
    ways = np.concatenate(([0.0], np.cumsum(steps)))
    positions = points[known]
    if shape.count > 0 or shape.step > 0.0:
        # Too many poses are reported below. Their number is limited, because `resample` has a limit of its own.
        step = 0.0 if shape.count > 0 else max(shape.step, float(ways[-1]) / (MOST_POSES - 1))
        positions = resample(positions, count=shape.count, step=step)
        at = np.linspace(0.0, ways[-1], len(positions))
    else:
        at = ways
    positions = smooth(positions, rounds=shape.rounds)
    report = check_trace(replace(trace, waypoints=positions), limits, view, transforms)
    # A pose belongs to the segment that ends at the next waypoint. The tolerance is for the pose at the waypoint itself.
    ends = known[np.searchsorted(ways, at - 1e-9 * ways[-1]).clip(max=len(known) - 1)]
    lost = tuple(
        TraceIssue(int(index), IssueKind.NOT_FINITE, float("nan"), 0.0) for index in np.setdiff1d(np.arange(len(points)), known)
    )
    places = TraceLimits(workspace=limits.workspace, reach=limits.reach)
    own = check_trace(trace, places, transforms=transforms).issues
    outside = tuple(issue for issue in own if issue.kind in _OF_PLACES)
    issues = _worst((*(_of_waypoint(issue, ends) for issue in report.issues), *outside))
    found = TraceReport((*lost, *issues), report.unchecked)
    return Followed(found, np.empty((0, 3)) if _has_too_many(report) else positions)


def _has_too_many(report: TraceReport) -> bool:
    return any(issue.kind is IssueKind.TOO_MANY for issue in report.issues)


def _of_waypoint(issue: TraceIssue, ends: npt.NDArray[np.intp]) -> TraceIssue:
    """Return the issue of a pose as that of a waypoint."""
    return replace(issue, waypoint=-1 if issue.waypoint < 0 else int(ends[issue.waypoint]))


def _worst(issues: Iterable[TraceIssue]) -> tuple[TraceIssue, ...]:
    """Return the worst issue of each kind at each waypoint."""
    worst: dict[tuple[IssueKind, int], TraceIssue] = {}
    for issue in issues:
        before = worst.get((issue.kind, issue.waypoint))
        if before is None or abs(issue.measured - issue.allowed) > abs(before.measured - before.allowed):
            worst[issue.kind, issue.waypoint] = issue
    return tuple(worst.values())
