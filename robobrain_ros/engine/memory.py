"""Limit the memory of a process: glibc reuses the buffers of images, and returns free memory to the kernel at intervals."""

import ctypes
import gc
import time
from threading import Thread

_OPTIONS = {-3: 32 << 20, -1: 256 << 20, -8: 4}
"""M_MMAP_THRESHOLD, at its largest, and M_TRIM_THRESHOLD, both in bytes, and M_ARENA_MAX; see malloc.h."""
INTERVAL = 30.0
"""Seconds between two returns. After a return, glibc allocates the buffers once again, which takes some milliseconds."""
_IDLE = 0.5
"""Seconds of CPU time within an interval up to which a process counts as idle."""


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


def return_free_memory_at_intervals() -> None:
    """Return free memory every `INTERVAL` seconds, in a thread, while the process used its CPU in between.

    For vLLM's workers: the tensors of each step lie between small objects that stay in use. Without this, the worker of a CPU
    engine grew by 56 MB per 1,000 requests.
    """
    Thread(target=_return_at_intervals, name="memory-return", daemon=True).start()


def _return_at_intervals() -> None:
    used = time.process_time()
    while True:
        time.sleep(INTERVAL)
        if time.process_time() - used > _IDLE:
            return_free_memory()
        used = time.process_time()
