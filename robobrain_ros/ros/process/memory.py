"""Return the node's free memory to the kernel after requests."""

import gc
import time
from collections.abc import Callable
from threading import Thread

from robobrain_ros.engine.memory import INTERVAL, return_free_memory


class MemoryReturn:
    """Collects garbage and returns free memory after requests, at most once per `INTERVAL`, in a separate thread.

    glibc does not return the memory of images automatically, because small objects between the images stay in use.

    :param ended: returns the number of requests that have ended.
    :param clock: returns seconds of a steady clock.
    """

    def __init__(self, ended: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._ended = ended
        self._clock = clock
        self._seen = ended()
        self._last = clock()
        self._thread: Thread | None = None

    def on_timer(self) -> None:
        """Return free memory when it is due; called each second."""
        ended, now = self._ended(), self._clock()
        if ended == self._seen or now - self._last < INTERVAL or (self._thread is not None and self._thread.is_alive()):
            return
        self._seen, self._last = ended, now
        self._thread = Thread(target=_return, name="memory-return", daemon=True)
        self._thread.start()


def _return() -> None:
    gc.collect()
    return_free_memory()
