"""Decide from estimates of progress how a watched task ends."""

import math
from dataclasses import dataclass
from enum import Enum

from robobrain_ros.errors import BadRequestError

LEAST_GAIN = 0.02
"""Least increase of the progress that counts as an advance. The model's scores are whole percentages."""


class WatchState(Enum):
    """The state of a watched task."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    REGRESSED = "regressed"
    STALLED = "stalled"


@dataclass(frozen=True)
class WatchLimits:
    """When a watched task ends.

    :param success: the task has succeeded at this progress, above 0, at most 1.
    :param regression: the task has failed when its progress is lower than the highest by this difference, above 0, below
        ``success``.
    :param stall: the task has failed when its progress has not increased for this number of seconds. 0: a pause may last forever.
    :param confirmations: number of successive estimates that must agree that the task has succeeded or regressed.
    :raises BadRequestError: a limit is out of its range, or the limits contradict each other.
    """

    success: float = 0.95
    regression: float = 0.2
    stall: float = 0.0
    confirmations: int = 2

    def __post_init__(self) -> None:
        if not 0.0 < self.success <= 1.0:
            raise BadRequestError(f"success is {self.success:g}. It must be above 0 and at most 1.")
        if not 0.0 < self.regression < self.success:
            raise BadRequestError(
                f"regression is {self.regression:g}. It must be above 0 and below success ({self.success:g}): before the task "
                "has succeeded, the progress cannot decrease by more."
            )
        if not (math.isfinite(self.stall) and self.stall >= 0.0):
            raise BadRequestError(f"stall is {self.stall:g} s. It must be 0 or a positive number of seconds.")
        if self.confirmations < 1:
            raise BadRequestError(f"confirmations is {self.confirmations}. It must be at least 1.")


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
        self.peak = 0.0
        """The highest progress so far."""
        self.final = 0.0
        """The newest progress."""

    def add(self, time: float, progress: float) -> WatchState:
        """Add the progress (0 to 1) at a time in seconds, and return the state of the task."""
        self.final = progress
        self.peak = max(self.peak, progress)
        if progress >= self._advanced_to + LEAST_GAIN:
            self._advanced_at, self._advanced_to = time, progress
        self._successes = self._successes + 1 if progress >= self._limits.success else 0
        self._regressions = self._regressions + 1 if self.peak - progress >= self._limits.regression else 0
        if self._successes >= self._limits.confirmations:
            return WatchState.SUCCEEDED
        if self._regressions >= self._limits.confirmations:
            return WatchState.REGRESSED
        return self.at(time)

    def at(self, time: float) -> WatchState:
        """Return the state at a time without a new estimate: RUNNING or STALLED."""
        stalled = self._limits.stall and time - self._advanced_at >= self._limits.stall
        # A task whose last estimate already suggests its end waits for the confirmation.
        return WatchState.STALLED if stalled and not self._successes else WatchState.RUNNING
