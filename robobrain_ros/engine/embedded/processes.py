"""Read the state, CPU time and mapped shared memory of processes from /proc. Without /proc, all of it is unknown."""

import os
import re
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_SHARED = re.compile(r" /dev/shm/((?:psm_|sem\.mp-|torch_|nccl-)[\w.-]+)$", re.MULTILINE)
"""Shared memory of Python's multiprocessing, its semaphores, and those of PyTorch and NCCL."""


@dataclass(frozen=True)
class Process:
    """The state of a process at one moment.

    :param state: one letter, see proc(5): R runs, S sleeps, D waits for a device, T is stopped, Z has ended.
    :param cpu: seconds of CPU time so far.
    :param started: clock ticks since the start of the system. Together with ``pid``, it identifies a process uniquely.
    """

    pid: int
    parent: int
    state: str
    cpu: float
    started: int

    @property
    def stopped(self) -> bool:
        """Whether a signal or a debugger has stopped it."""
        return self.state in ("T", "t")


def read_process(pid: int) -> Process | None:
    """Return the process with this id, or None if it does not exist."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
        # The name in parentheses can contain any characters.
        values = text.rpartition(")")[2].split()
        cpu = (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")
        return Process(pid, int(values[1]), values[0], cpu, int(values[19]))
    except (OSError, ValueError, IndexError):
        return None


def with_descendants(roots: Iterable[int]) -> list[Process]:
    """Return the running processes with these ids, and their descendants."""
    processes = [found for name in _names() if (found := read_process(int(name))) is not None and found.state != "Z"]
    members = set(roots)
    while True:
        more = {process.pid for process in processes if process.parent in members} - members
        if not more:
            return [process for process in processes if process.pid in members]
        members |= more


def shared_memory(pids: Iterable[int]) -> set[str]:
    """Return the names in /dev/shm that these processes map."""
    names: set[str] = set()
    for pid in pids:
        with suppress(OSError):
            names |= set(_SHARED.findall((_PROC / str(pid) / "maps").read_text(encoding="utf-8", errors="replace")))
    return names


def all_mapped() -> set[str]:
    """Return the names in /dev/shm that any visible process maps."""
    return shared_memory(int(name) for name in _names())


def kill(process: Process) -> None:
    """Kill a process, unless its id belongs to another process now."""
    with suppress(OSError):
        descriptor = os.pidfd_open(process.pid)
        try:
            present = read_process(process.pid)
            if present is not None and present.started == process.started:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def _names() -> list[str]:
    try:
        return [name for name in os.listdir(_PROC) if name.isdigit()]
    except OSError:
        return []
