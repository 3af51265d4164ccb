"""Find the resources of a process on this machine, and those that remain after its end."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Holdings:
    """Processes, shared-memory files, sockets with a path, and listening ports of a process and its children."""

    processes: frozenset[psutil.Process]
    shared_memory: frozenset[Path]
    sockets: frozenset[Path]
    ports: frozenset[int]


def holdings(pid: int) -> Holdings:
    """Return the current resources of a process and its children."""
    root = psutil.Process(pid)
    processes = [root, *root.children(recursive=True)]
    connections = [connection for process in processes for connection in _connections(process)]
    return Holdings(
        processes=frozenset(processes),
        shared_memory=frozenset(path for process in processes for path in _mapped(process)),
        sockets=frozenset(Path(c.laddr) for c in connections if isinstance(c.laddr, str) and c.laddr.startswith("/")),
        ports=frozenset(c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN and not isinstance(c.laddr, str)),
    )


def leftovers(before: Holdings) -> list[str]:
    """Return descriptions of the resources that still exist and belong to no running process."""
    alive = [f"process {p.pid}" for p in before.processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    in_use = {path for process in psutil.process_iter() for path in _mapped(process)}
    files = [f"file {path}" for path in before.shared_memory | before.sockets if path.exists() and path not in in_use]
    return sorted(alive + files)


def _connections(process: psutil.Process) -> list[Any]:
    with suppress(psutil.Error):
        return list(process.net_connections(kind="all"))
    return []


def _mapped(process: psutil.Process) -> Iterator[Path]:
    """Return the files in /dev/shm that a process maps."""
    with suppress(OSError, psutil.Error):
        for line in Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8").splitlines():
            _, found, name = line.partition("/dev/shm/")
            if found and not name.endswith("(deleted)"):
                yield Path("/dev/shm") / name
