"""Check for full disks and a full /dev/shm, because processes of the engine and of ROS die there without a message."""

import os
import tempfile
from pathlib import Path

from robobrain_ros.bounds.files import home_expanded

_ENOUGH = 16 << 20
"""Bytes of free space. A folder with less counts as full."""
_ENOUGH_FOR_ROS = 64 << 10
"""Bytes of free space in /dev/shm. With less, the tracing in ROS 2 ends the process by SIGBUS when Python imports rclpy."""
_ENOUGH_FOR_FILES = 1 << 20
"""Bytes of free space for an engine's folder with its log, record and sockets."""
_SHARED_MEMORY = "/dev/shm"
_MORE_SHARED_MEMORY = "remove old files there, or enlarge it (docker run --shm-size=2g, or --ipc=host)"


def shortage_for_ros() -> str:
    """Return a sentence with what to do if /dev/shm has too little space to import rclpy, or an empty string if it has enough."""
    return _sentence(_SHARED_MEMORY, _MORE_SHARED_MEMORY, _ENOUGH_FOR_ROS)


def shortage() -> str:
    """Return a sentence with what to do about the first full folder, or an empty string if none is full."""
    sentences = (_sentence(path, advice, _ENOUGH) for path, advice in _places())
    return next((sentence for sentence in sentences if sentence), "")


def check_room(folder: Path) -> None:
    """Check that a folder has space for an engine's files. Python accepts a temporary folder with four bytes of free space.

    :raises OSError: it has too little space.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, _ENOUGH_FOR_FILES)


def _sentence(path: str, advice: str, enough: int) -> str:
    try:
        found = os.statvfs(path)
    except OSError:
        return ""
    left = found.f_bavail * found.f_frsize
    if not found.f_blocks or left >= enough:
        return ""
    return f"{path} is full ({left / (1 << 20):.1f} MiB left): {advice}."


def _places() -> list[tuple[str, str]]:
    places = [(_SHARED_MEMORY, _MORE_SHARED_MEMORY)]
    try:
        places.append((tempfile.gettempdir(), "free some space, or name another folder in TMPDIR"))
    except OSError:
        places.append(("/tmp", "free some space"))
    named = os.environ.get("VLLM_CACHE_ROOT") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "vllm")
    cache = home_expanded(named)
    present = next((folder for folder in (cache, *cache.parents) if os.access(folder, os.F_OK)), None)
    if present is not None:
        places.append((str(present), "free some space, or name another folder for compiled kernels in VLLM_CACHE_ROOT"))
    return places
