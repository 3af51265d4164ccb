"""The time limit of a program, and lines of progress with the remaining time."""

import time
from collections.abc import Callable

from robobrain_ros.engine.base import LoadProgress

Report = Callable[[str], None]
"""Prints a line about the progress."""


class Budget:
    """A time limit.

    :param seconds: the limit in seconds from now on.
    :param clock: returns the time in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._began = clock()

    @property
    def used(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._began

    @property
    def left(self) -> float:
        """Remaining seconds; negative after the limit."""
        return self.seconds - self.used

    def has(self, seconds: float) -> bool:
        """Return whether more than this number of seconds remains."""
        return self.left > seconds

    def reporter(self, report: Report) -> Report:
        """Return a function that prints a line after the elapsed and the remaining time."""

        def timed(line: str) -> None:
            report(f"[{self.used:4.0f} s, {max(0.0, self.left):4.0f} s left] {line}")

        return timed


class StartProgress:
    """Reports the progress of an engine's start, one line in each interval.

    :param interval: seconds between two lines.
    """

    def __init__(self, report: Report, interval: float = 20.0) -> None:
        self._report = report
        self._interval = interval
        self._last = time.monotonic()

    def __call__(self, progress: LoadProgress) -> None:
        """Report the progress if the last line was long ago."""
        if time.monotonic() - self._last >= self._interval:
            self._last = time.monotonic()
            self._report(f"  {progress.message}")
