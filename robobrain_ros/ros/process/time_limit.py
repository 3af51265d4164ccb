"""Run slow work of a transition in a thread, so that the transition ends in time even if a drive does not respond."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from robobrain_ros.errors import CanceledError, EngineConfigError

Result = TypeVar("Result")

FILES_LIMIT = 10.0
"""Time limit in seconds for reading the files of all parameters."""
_CHECK_INTERVAL = 0.05
"""Seconds between two checks of whether ROS still runs."""


def run_with_time_limit(work: Callable[[], Result], what: str, alive: Callable[[], bool], limit: float = FILES_LIMIT) -> Result:
    """Run work in a separate thread, and wait for its result while ``alive()`` is true, at most ``limit`` seconds.

    A thread that does not end in time continues, but it does not prevent the end of the process.

    :param what: description of the work. It is the subject of sentences in messages.
    :raises EngineConfigError: the work takes longer.
    :raises CanceledError: ROS shuts down meanwhile.
    """
    job = _Job(work)
    thread = threading.Thread(target=job.run, name=what, daemon=True)
    end = time.monotonic() + limit
    thread.start()
    while not job.done.wait(_CHECK_INTERVAL):
        if not alive():
            raise CanceledError(f"{what} was canceled, because ROS shuts down.")
        if time.monotonic() > end:
            raise EngineConfigError(f"{what} did not end within {limit:.0f} s. Is a network drive unreachable?")
    return job.result()


class _Job(Generic[Result]):
    """A function call in a thread, and its result."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self.done = threading.Event()
        self._work = work
        self._results: list[Result] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:
            self._error = error
        finally:
            self.done.set()

    def result(self) -> Result:
        if self._error is not None:
            raise self._error
        return self._results[0]
