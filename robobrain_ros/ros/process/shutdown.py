"""End the program within `LIMIT` seconds after the first signal, even if something hangs.

The steps in this module share this time. After `FORCED` seconds, the process kills the engine's processes, removes their files,
and ends.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable

from rclpy.executors import SingleThreadedExecutor

from robobrain_ros.engine.embedded import leftovers

LIMIT = 10.0
"""Seconds from the first SIGINT or SIGTERM to the end of the process. The launch files wait longer before they kill it."""
FORCED = 9.0
"""Seconds after which the process is forced to end."""
RESPONSES = 2.0
"""Time limit in seconds for sending the responses of cancelled requests."""
RESULTS = 0.2
"""Seconds of `RESPONSES` in which clients can fetch the results of their goals. A result needs a separate request."""
ENGINE = 5.0
"""Time limit in seconds for stopping the engine."""

_log = logging.getLogger(__name__)


def send_responses(executor: SingleThreadedExecutor, unfinished: Callable[[], bool]) -> None:
    """Spin until all responses are sent, at most `RESPONSES` seconds. Then give clients time to fetch their results."""
    end = time.monotonic() + RESPONSES
    while unfinished() and time.monotonic() < end:
        executor.spin_once(timeout_sec=0.05)
    end = min(end, time.monotonic() + RESULTS)
    while time.monotonic() < end:
        executor.spin_once(timeout_sec=0.02)


def force_exit_later(after: float = FORCED) -> threading.Timer:
    """Force the process to end after this number of seconds, unless it has ended before."""
    timer = threading.Timer(after, _force, [after])
    timer.daemon = True
    timer.start()
    return timer


def exit_now(code: int = 0) -> None:
    """End the process now. Python's own exit waits for threads and destroys vLLM's objects, which takes many seconds."""
    leftovers.release_all()
    _exit(code)


def _force(after: float) -> None:
    _log.error("The node did not end within %.0f s of the signal, so it is killed now.", after)
    leftovers.release_all()
    _exit(1)


def _exit(code: int) -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
