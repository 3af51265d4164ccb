"""Limit the memory of a process: glibc reuses the buffers of images, and returns free memory to the kernel at intervals."""

import ctypes
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

_OPTIONS = {-3: 32 << 20, -1: 256 << 20, -8: 4}
"""Values for M_MMAP_THRESHOLD (its maximum, in bytes), M_TRIM_THRESHOLD (in bytes) and M_ARENA_MAX of malloc.h."""
INTERVAL = 10.0
"""Seconds between two returns of memory. After a return, glibc must allocate the buffers again. This takes some milliseconds."""
_IDLE = 0.2
"""Most seconds of CPU time in an interval for which a process counts as idle."""


def keep_buffers() -> None:
    """Let glibc keep the buffers of images for later images, and use only a few heaps.

    By default, glibc returns a buffer at the end of the heap to the kernel, and allocates it again with one fault per page. A
    stream of 1920x1080 then takes twice the CPU time. By default, glibc also creates up to eight heaps per core, one for each
    thread, and each heap keeps its peak size. With this setting, all threads share a few heaps.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # Other C libraries do not have mallopt.
        for option, value in _OPTIONS.items():
            mallopt(option, value)


def return_free_memory() -> None:
    """Return the free pages of all heaps to the kernel, including pages between memory in use. This takes milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@contextmanager
def paused_collection() -> Iterator[None]:
    """Do not collect garbage inside the ``with`` block. The import of vLLM creates millions of objects, and almost no garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def settle_objects() -> None:
    """Exempt all existing objects from garbage collection. Call it after a model was loaded.

    Some objects of a request with an image are freed only by a full collection. Python starts a full collection when the number
    of new objects in the oldest generation reaches a quarter of the objects that the last full collection kept. After the import
    of vLLM, a quarter are hundreds of thousands of objects, which can hold hundreds of MB of images. With most objects exempt,
    full collections are frequent and short. The objects of an earlier engine are collected first.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.collect()  # This resets the number of kept objects, from which Python computes when the next full collection starts.


def return_free_memory_at_intervals() -> None:
    """Start a thread that returns free memory every `INTERVAL` seconds, if the process was not idle.

    vLLM's workers need this, because the tensors of each step are between small objects that stay in use. Without this thread,
    the worker of a CPU engine grew by 56 MB per 1,000 requests.
    """
    Thread(target=_return_at_intervals, name="memory-return", daemon=True).start()


def _return_at_intervals() -> None:
    used = time.process_time()
    while True:
        time.sleep(INTERVAL)
        if time.process_time() - used > _IDLE:
            return_free_memory()
        used = time.process_time()
