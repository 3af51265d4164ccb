"""Whether the places that an engine writes to are full: its processes then die without a word."""

import os
import tempfile
from pathlib import Path

_ENOUGH = 16 << 20
"""Bytes of free space."""


def shortage() -> str:
    """Which of the places is full, as a sentence with what to do; empty: none."""
    for path, advice in _places():
        try:
            found = os.statvfs(path)
        except OSError:
            continue
        if found.f_blocks and found.f_bavail * found.f_frsize < _ENOUGH:
            left = found.f_bavail * found.f_frsize / (1 << 20)
            return f"{path} is full ({left:.1f} MiB left): {advice}."
    return ""


def _places() -> list[tuple[str, str]]:
    places = [("/dev/shm", "remove old files there, or give it more (docker run --shm-size=2g, or --ipc=host)")]
    try:
        places.append((tempfile.gettempdir(), "free some space, or name another folder in TMPDIR"))
    except OSError:
        places.append(("/tmp", "free some space"))
    named = os.environ.get("VLLM_CACHE_ROOT") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "vllm")
    cache = Path(os.path.expanduser(named))
    present = next((folder for folder in (cache, *cache.parents) if os.access(folder, os.F_OK)), None)
    if present is not None:
        places.append((str(present), "free some space, or name another folder for compiled kernels in VLLM_CACHE_ROOT"))
    return places
