"""The memory of the node's process: glibc keeps buffers of images for the next ones, and returns what is free now and then."""

import ctypes
import gc
import time
from collections.abc import Callable
from threading import Thread

_OPTIONS = {-3: 32 << 20, -1: 256 << 20, -8: 4}
"""M_MMAP_THRESHOLD, at its largest, and M_TRIM_THRESHOLD, both in bytes, and M_ARENA_MAX; see malloc.h."""
INTERVAL = 30.0
"""Seconds between two returns. The buffers in use are then taken anew once, which costs some milliseconds."""


def keep_buffers() -> None:
    """Let glibc keep the buffers of images for the next ones.

    By default it returns them to the kernel and gets them anew, each page by a fault, whenever the heap happens to end with one:
    then a stream of 1920x1080 takes twice the CPU time. It also makes up to eight heaps per core, one for each thread, and
    each keeps what its busiest moment needed: hence a few for all threads.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # Other C libraries have none.
        for option, value in _OPTIONS.items():
            mallopt(option, value)


def return_free_memory() -> None:
    """Return the free pages of all heaps to the kernel, also those between memory in use; takes milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def settle_objects() -> None:
    """Exempt the objects that live now from garbage collection; call it when a model was loaded.

    Part of what a request with an image leaves behind is freed only by a full collection. Python begins one when the objects that
    have grown old are a quarter of those that the last one kept: after vLLM's import that is hundreds of thousands of objects, and
    images of hundreds of MB. A full collection of the few objects that are not exempt is short and comes often. What an earlier
    engine has left behind is collected first.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.collect()  # Only a full collection makes Python forget how many there were.


class MemoryReturn:
    """Collects garbage and returns free memory after requests, at most once per `INTERVAL`, in a thread of its own.

    What an image leaves behind in the heaps lies between small objects that live on, so that glibc, left alone, never returns it.

    :param ended: how many requests have ended so far.
    :param clock: seconds of a steady clock.
    """

    def __init__(self, ended: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._ended = ended
        self._clock = clock
        self._seen = ended()
        self._last = clock()
        self._thread: Thread | None = None

    def attend(self) -> None:
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
