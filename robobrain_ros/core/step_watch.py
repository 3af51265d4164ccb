"""Decide whether a step of a plan worked, from estimates of its progress at a few moments.

At each moment, the robot waits for the decision. Therefore, a few estimates are sufficient, and a slow model only delays the
robot. The module `core.watching` decides while the robot moves.
"""

from dataclasses import dataclass, field
from enum import Enum

from robobrain_ros.core.watching import reaches
from robobrain_ros.errors import BadRequestError


class StepState(Enum):
    """The state of a step.

    RUNNING: the robot can continue the step. UNCLEAR: the same moment needs another estimate. In all other states, the step has
    ended. REGRESSED: a part of the step was undone. STALLED: the progress did not increase from one moment to the next.
    INCOMPLETE: the robot has made all movements of the step, but the step is not completed.
    """

    RUNNING = "running"
    UNCLEAR = "unclear"
    SUCCEEDED = "succeeded"
    REGRESSED = "regressed"
    STALLED = "stalled"
    INCOMPLETE = "incomplete"

    @property
    def failed(self) -> bool:
        """Whether the step has failed."""
        return self in (StepState.REGRESSED, StepState.STALLED, StepState.INCOMPLETE)


@dataclass(frozen=True)
class StepLimits:
    """The limits at which a step has succeeded or failed. The progress is the completed share of the step, 0 to 1.

    :param success: the step has succeeded if the progress after its last movement is at least this value.
    :param margin: a first estimate of at least ``success`` + ``margin`` needs no confirmation.
    :param regression: the step has failed if the progress is at least this much below its highest value.
    :param advance: from one moment to the next, the progress must increase by at least this value.
    :param confirmations: number of estimates of a moment whose mean decides, if the first one shows a failure or an unclear end.
    :raises BadRequestError: a limit is out of its range, or the limits contradict each other.
    """

    success: float = 0.7
    margin: float = 0.1
    regression: float = 0.3
    advance: float = 0.15
    confirmations: int = 2

    def __post_init__(self) -> None:
        if not 0.0 < self.success <= 1.0:
            raise BadRequestError(f"success is {self.success:g}. It must be above 0 and at most 1.")
        if self.margin < 0.0 or not reaches(1.0 - self.success, self.margin):
            raise BadRequestError(f"margin is {self.margin:g}. It must be 0 to 1 - success ({1.0 - self.success:g}).")
        for name, value in (("regression", self.regression), ("advance", self.advance)):
            if not 0.0 < value < self.success:
                raise BadRequestError(f"{name} is {value:g}. It must be above 0 and below success ({self.success:g}).")
        if self.confirmations < 1:
            raise BadRequestError(f"confirmations is {self.confirmations}. It must be at least 1.")


@dataclass
class StepWatch:
    """Follows one step. Before its first movement, the progress is 0."""

    limits: StepLimits = field(default_factory=StepLimits)
    state: StepState = StepState.RUNNING
    moments: list[float] = field(default_factory=lambda: [0.0])
    """Progress at each moment so far: the mean of its estimates. The first one is the start."""
    _estimates: list[float] = field(default_factory=list)
    """Estimates of the current moment."""

    def add(self, progress: float, at_end: bool) -> StepState:
        """Add an estimate of the current moment, and return the state of the step.

        After RUNNING, the next estimate belongs to the next moment. After UNCLEAR, it belongs to the same moment.

        :param progress: 0 to 1.
        :param at_end: whether the robot has made the last movement of the step.
        :raises ValueError: the step has ended, or the progress is unknown (NaN) or out of its range.
        """
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"The progress is {progress:g}. It must be 0 to 1.")
        if self.state not in (StepState.RUNNING, StepState.UNCLEAR):
            raise ValueError(f"The step has ended: {self.state.value}.")
        self._estimates.append(progress)
        mean = sum(self._estimates) / len(self._estimates)
        confirmed = len(self._estimates) >= self.limits.confirmations
        self.state = self._at_end(mean, confirmed) if at_end else self._in_between(mean, confirmed)
        if self.state is not StepState.UNCLEAR:
            self.moments.append(mean)
            self._estimates.clear()
        return self.state

    def _in_between(self, progress: float, confirmed: bool) -> StepState:
        failure = self._failure(progress)
        if failure is None:
            return StepState.RUNNING
        return failure if confirmed else StepState.UNCLEAR

    def _at_end(self, progress: float, confirmed: bool) -> StepState:
        if reaches(progress, self.limits.success + (0.0 if confirmed else self.limits.margin)):
            return StepState.SUCCEEDED
        return (self._failure(progress) or StepState.INCOMPLETE) if confirmed else StepState.UNCLEAR

    def _failure(self, progress: float) -> StepState | None:
        if reaches(max(self.moments) - progress, self.limits.regression):
            return StepState.REGRESSED
        return None if reaches(progress - self.moments[-1], self.limits.advance) else StepState.STALLED

    @property
    def why(self) -> str:
        """The progress that led to the state, as a clause for messages: "the progress of the step is 92 %"."""
        percent = [f"{100.0 * progress:.0f} %" for progress in self.moments]
        if self.state is StepState.REGRESSED:
            return f"the progress of the step fell from {100.0 * max(self.moments):.0f} % to {percent[-1]}"
        if self.state is StepState.STALLED:
            return f"the progress of the step changed only from {percent[-2]} to {percent[-1]}"
        return f"the progress of the step is {percent[-1]}"
