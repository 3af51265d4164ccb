"""Limit the memory of the process: glibc reuses the buffers of images, and returns free memory to the kernel at intervals."""

import ctypes
import gc
import time
from collections.abc import Callable
from threading import Thread

_OPTIONS = {-3: 32 << 20, -1: 256 << 20, -8: 4}
"""M_MMAP_THRESHOLD, at its largest, and M_TRIM_THRESHOLD, both in bytes, and M_ARENA_MAX; see malloc.h."""
INTERVAL = 30.0
"""Seconds between two returns. After a return, glibc allocates the buffers once again, which takes some milliseconds."""


def keep_buffers() -> None:
    """Let glibc keep the buffers of images for the next ones, and use only a few heaps.

    By default, glibc returns a buffer at the end of the heap to the kernel, and allocates it again with one fault per page. A
    stream of 1920x1080 then takes twice the CPU time. By default, glibc also creates up to eight heaps per core, one for each
    thread, and each heap keeps its peak size. So all threads share a few heaps.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # Other C libraries have none.
        for option, value in _OPTIONS.items():
            mallopt(option, value)


def return_free_memory() -> None:
    """Return the free pages of all heaps to the kernel, also pages between memory in use. Takes milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def settle_objects() -> None:
    """Exempt the present objects from garbage collection. Call it after a model was loaded.

    Some objects of a request with an image are freed only by a full collection. Python starts one when the number of new old
    objects reaches a quarter of the objects that the last one kept. After vLLM's import, these are hundreds of thousands of
    objects, which hold hundreds of MB of images. With most objects exempt, full collections are short and frequent. The objects
    of an earlier engine are collected first.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.collect()  # Only a full collection makes Python forget how many there were.


class MemoryReturn:
    """Collects garbage and returns free memory after requests, at most once per `INTERVAL`, in a separate thread.

    The buffers of an image lie between small objects that stay in use, so glibc never returns them by itself.

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
