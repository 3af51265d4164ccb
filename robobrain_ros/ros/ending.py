"""How the program ends: within `LIMIT` of the first signal, whatever hangs.

The steps below share that time. What has not ended by `FORCED` is ended by force, with the engine's processes and files.
"""

import logging
import os
import sys
import threading

from robobrain_ros.engine import leftovers

LIMIT = 10.0
"""Seconds from the first SIGINT or SIGTERM to the end of the process. The launch files wait longer before they kill."""
FORCED = 9.0
"""Seconds after which the process ends by force."""
FAREWELL = 2.0
"""Seconds in which cancelled requests are still answered."""
LAST_WORDS = 0.2
"""Seconds of them in which clients that sent a goal still get its result: they ask for it in a request of its own."""
ENGINE = 5.0
"""Seconds that the engine has to give everything back."""

_log = logging.getLogger(__name__)


def force_later(after: float = FORCED) -> threading.Timer:
    """Begin to count: the process ends by force after so many seconds, unless it has ended before."""
    timer = threading.Timer(after, _force, [after])
    timer.daemon = True
    timer.start()
    return timer


def leave(code: int = 0) -> None:
    """End the process now. Python's own end waits for threads and then takes vLLM's objects apart, which lasts many seconds."""
    leftovers.release_all()
    _exit(code)


def _force(after: float) -> None:
    _log.error("The node did not end within %.0f s of the signal. It ends now by force.", after)
    leftovers.release_all()
    _exit(1)


def _exit(code: int) -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
