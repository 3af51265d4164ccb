"""Findings of the checks of a trajectory."""

from dataclasses import dataclass
from enum import Enum


class IssueKind(str, Enum):
    """The kind of a finding. The comments describe ``measured`` and ``allowed`` of `TraceIssue`."""

    TOO_FEW = "too_few"  # Finite waypoints; the least number.
    TOO_MANY = "too_many"  # Waypoints; the largest number.
    NOT_FINITE = "not_finite"  # NaN; 0. The waypoint has no position within 1000 km.
    NO_MOTION = "no_motion"  # Length of the trajectory in metres; the least length.
    OUTSIDE_WORKSPACE = "outside_workspace"  # Metres outside of the box; 0.
    OUT_OF_REACH = "out_of_reach"  # Metres from the base; the reach.
    LONG_STEP = "long_step"  # Metres from the waypoint before; the largest step.
    TOO_FAST = "too_fast"  # Metres per second from the waypoint before; the largest speed.
    NOT_FREE = "not_free"  # Metres behind the visible surface, on the segment that ends here; the tolerance.
    FAR_START = "far_start"  # Metres from the gripper; the largest distance.
    WRONG_DISTANCE = "wrong_distance"  # Metres above the surface; the bound that the instruction names.


_SENTENCES = {
    IssueKind.TOO_FEW: "The trajectory has {measured:g} waypoints with a position; at least {allowed:g} are necessary.",
    IssueKind.TOO_MANY: "The trajectory has {measured:g} waypoints; at most {allowed:g} are allowed. Resample it.",
    IssueKind.NOT_FINITE: "Waypoint {waypoint} has no position.",
    IssueKind.NO_MOTION: "The trajectory is {measured:.4f} m long, so it has no motion; at least {allowed:g} m are necessary.",
    IssueKind.OUTSIDE_WORKSPACE: "Waypoint {waypoint} is {measured:.3f} m outside of the workspace.",
    IssueKind.OUT_OF_REACH: "Waypoint {waypoint} is {measured:.3f} m from the base; the reach is {allowed:g} m.",
    IssueKind.LONG_STEP: "The step to waypoint {waypoint} is {measured:.3f} m long; at most {allowed:g} m are allowed.",
    IssueKind.TOO_FAST: "The step to waypoint {waypoint} has a speed of {measured:.3f} m/s; at most {allowed:g} m/s are allowed.",
    IssueKind.NOT_FREE: "The segment to waypoint {waypoint} is up to {measured:.3f} m behind the visible surface; at most "
    "{allowed:g} m are allowed.",
    IssueKind.FAR_START: "The trajectory starts {measured:.3f} m from the gripper; at most {allowed:g} m are allowed.",
    IssueKind.WRONG_DISTANCE: "The trajectory ends {measured:.3f} m above the surface; the instruction permits {allowed:g} m.",
}


@dataclass(frozen=True)
class TraceIssue:
    """A finding.

    :param waypoint: index of the waypoint from 0, or -1 for the whole trajectory. A segment has the index of its end.
    :param measured: the measured value; see `IssueKind` for its unit.
    :param allowed: the bound that the value violates, in the same unit.
    """

    waypoint: int
    kind: IssueKind
    measured: float
    allowed: float

    @property
    def message(self) -> str:
        """The finding as a sentence."""
        return _SENTENCES[self.kind].format(waypoint=self.waypoint, measured=self.measured, allowed=self.allowed)
