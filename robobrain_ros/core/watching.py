"""Decide from estimates of progress how a watched task ends."""

import math
from dataclasses import dataclass
from enum import Enum

from robobrain_ros.errors import BadRequestError

LEAST_GAIN = 0.02
"""Least increase of the progress that counts as an advance. The model's scores are whole percentages."""
LEAST_REGRESSION = 0.01
"""Smallest limit of a regression: the resolution of the model's scores."""
LEAST_STALL = 0.1
"""Seconds. Smallest limit of a stall."""
_ROUNDING = 1e-6
"""Relative difference by which a float32 of a message can be below the number that its sender wrote. The rounding of a difference
such as 0.3 - 0.1 is smaller."""


class WatchState(Enum):
    """The state of a watched task."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    REGRESSED = "regressed"
    STALLED = "stalled"


@dataclass(frozen=True)
class WatchLimits:
    """When a watched task ends.

    :param success: the task has succeeded at this progress, `LEAST_GAIN` to 1.
    :param regression: the task has failed when its progress is lower than the highest by this difference, at least
        `LEAST_REGRESSION`, below ``success``. For this, an estimate counts at most half of this difference more than the previous
        one, so that a single estimate that is too high is not the start of a regression.
    :param stall: the task has failed when its progress has not increased for this number of seconds, at least `LEAST_STALL`.
        0: a pause may last forever.
    :param confirmations: number of successive estimates that must agree that the task has succeeded.
    :param regression_confirmations: number of successive estimates that must agree that the task has regressed.
    :raises BadRequestError: a limit is out of its range, or the limits contradict each other.
    """

    success: float = 0.95
    regression: float = 0.2
    stall: float = 0.0
    confirmations: int = 2
    regression_confirmations: int = 1

    def __post_init__(self) -> None:
        if not reaches(self.success, LEAST_GAIN) or self.success > 1.0:
            raise BadRequestError(f"success is {self.success:g}. It must be {LEAST_GAIN:g} to 1.")
        if not reaches(self.regression, LEAST_REGRESSION) or self.regression >= self.success:
            raise BadRequestError(
                f"regression is {self.regression:g}. It must be at least {LEAST_REGRESSION:g} and below success "
                f"({self.success:g}): before the task has succeeded, the progress cannot decrease by more."
            )
        if self.stall != 0.0 and not (math.isfinite(self.stall) and reaches(self.stall, LEAST_STALL)):
            raise BadRequestError(f"stall is {self.stall:g} s. It must be 0 (pauses are allowed) or at least {LEAST_STALL:g} s.")
        for name in ("confirmations", "regression_confirmations"):
            if (value := getattr(self, name)) < 1:
                raise BadRequestError(f"{name} is {value}. It must be at least 1.")


def reaches(value: float, least: float) -> bool:
    """Whether a value that may come from a float32 or from a difference reaches a limit. NaN does not."""
    return value >= least * (1.0 - _ROUNDING)


class TaskWatch:
    """Follows the progress of a task.

    :param began: time of the task's start in seconds, on the clock of the later times.
    """

    def __init__(self, limits: WatchLimits, began: float) -> None:
        self._limits = limits
        self._advanced_at = began
        self._advanced_to = 0.0
        self._successes = 0
        self._regressions = 0
        self._trusted_peak = 0.0  # The peak, in which an estimate counts at most regression/2 more than the previous one.
        self.peak = 0.0
        """The highest progress so far."""
        self.final = 0.0
        """The newest progress."""

    def add(self, time: float, progress: float) -> WatchState:
        """Add the progress (0 to 1) at a time in seconds, and return the state of the task."""
        self._trusted_peak = max(self._trusted_peak, min(progress, self.final + self._limits.regression / 2.0))
        self.final = progress
        self.peak = max(self.peak, progress)
        if reaches(progress, self._advanced_to + LEAST_GAIN):
            self._advanced_at, self._advanced_to = time, progress
        self._successes = self._successes + 1 if reaches(progress, self._limits.success) else 0
        regressed = reaches(self._trusted_peak - progress, self._limits.regression)
        self._regressions = self._regressions + 1 if regressed else 0
        if self._successes >= self._limits.confirmations:
            return WatchState.SUCCEEDED
        if self._regressions >= self._limits.regression_confirmations:
            return WatchState.REGRESSED
        return self.at(time)

    @property
    def stalls_at(self) -> float:
        """The time in seconds at which the task stalls without a new estimate; infinite: never."""
        # A task whose last estimate already suggests its end waits for the confirmation.
        return math.inf if self._successes or not self._limits.stall else self._advanced_at + self._limits.stall

    def at(self, time: float) -> WatchState:
        """Return the state at a time without a new estimate: RUNNING or STALLED."""
        return WatchState.STALLED if time >= self.stalls_at else WatchState.RUNNING
