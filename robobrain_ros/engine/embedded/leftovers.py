"""Remove the processes, sockets and shared memory of engines whose owner was killed.

A process that is killed with SIGKILL cannot remove its sockets and its shared memory, and a stopped process does not notice that
its owner has ended. Therefore each owner of an engine has a folder ``robobrain_ros-*`` in the folder for temporary files. The
folder contains vLLM's sockets, and a record of vLLM's processes and shared memory. The owner holds a lock on the folder, which
the kernel releases when the owner ends for any reason. So if no process holds the lock, the owner is dead, even if it ran in
another container.
"""

import fcntl
import json
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from robobrain_ros.bounds.files import UnreadableFileError, read_small_json
from robobrain_ros.engine.embedded import processes, worker

PREFIX = "robobrain_ros-"
SHARED_MEMORY = Path("/dev/shm")

_LOCK = "owner.lock"
_RECORD = "engine.json"
_PLAIN_NAME = re.compile(r"[\w.-]+")
_LARGEST_RECORD = 1 << 20
_LONGEST_SOCKET = 107 - len("/") - 36
"""Maximum bytes of the path of a folder for sockets, to which vLLM appends a UUID."""

_present: "set[RunFolder]" = set()
"""The folders of this process."""

_log = logging.getLogger(__name__)


class RunFolder:
    """The folder of the engine of this process. One engine at a time uses it."""

    def __init__(self) -> None:
        self._processes: dict[tuple[int, int], processes.Process] = {}
        self._shared: set[str] = set()
        # The folder is renamed to the name that `sweep` looks for after it is locked. Otherwise `sweep` could remove it.
        hidden = Path(tempfile.mkdtemp(prefix=f".{PREFIX}{os.getpid()}-"))
        self._lock = _locked(hidden / _LOCK, create=True)
        self.path = hidden.rename(hidden.with_name(hidden.name.removeprefix(".")))
        _present.add(self)

    @property
    def socket_folder(self) -> str | None:
        """Folder for vLLM's sockets, or None if the path is too long for sockets."""
        return str(self.path) if len(os.fsencode(self.path)) <= _LONGEST_SOCKET else None

    @property
    def processes(self) -> list[processes.Process]:
        """The recorded processes of the engine."""
        return list(self._processes.values())

    def record(self, roots: Iterable[int]) -> None:
        """Record the processes of an engine and their shared memory.

        :param roots: ids of the processes that vLLM has started. Their descendants are also recorded.
        """
        found = processes.with_descendants(roots)
        self._processes |= {(process.pid, process.started): process for process in found}
        self._shared |= processes.shared_memory(process.pid for process in found)
        content = {
            "owner": worker.owner_name(),
            "processes": [list(key) for key in self._processes],
            "shared_memory": sorted(self._shared),
        }
        with suppress(OSError):  # The disk is full: the record exists only in this process.
            (self.path / _RECORD).write_text(json.dumps(content), encoding="utf-8")

    def kill(self) -> None:
        """Kill the recorded processes."""
        for process in self.processes:
            processes.kill(process)

    def clear(self) -> None:
        """Kill the remaining processes of a closed or dead engine, and remove its shared memory."""
        self.kill()
        _remove_shared_memory(self._shared)
        self._processes.clear()
        self._shared.clear()

    def release(self) -> None:
        """Kill the remaining processes of the engine, and remove its shared memory and the folder."""
        _present.discard(self)
        self.clear()
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def release_all() -> None:
    """Release all folders of this process before it ends. Callable from any thread."""
    for folder in tuple(_present):
        folder.release()


def sweep() -> None:
    """Remove engine processes, shared memory and sockets of dead owners. Files of other users are not touched."""
    try:
        folders = sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))
    except OSError:
        return
    for folder in folders:
        try:
            _sweep(folder)
        except OSError as error:
            _log.warning("%s of a dead engine cannot be removed (%s).", folder, error.strerror)


def _sweep(folder: Path) -> None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or not (folder / _LOCK).is_file():
        return
    lock = _locked(folder / _LOCK, create=False)
    if lock is None:
        return  # The owner is alive.
    try:
        record = _read(folder / _RECORD)
        shared = {name for name in _list(record, "shared_memory") if isinstance(name, str)}
        killed = _kill_recorded(record)
        removed = _remove_shared_memory(shared)
        shutil.rmtree(folder, ignore_errors=True)
        _log.info("Removed the leftovers of a dead engine: %s, %d processes, %d files of shared memory.", folder, killed, removed)
    finally:
        os.close(lock)


def _kill_recorded(record: dict[str, Any]) -> int:
    """Kill recorded processes of a dead owner. Process ids are valid only in the owner's container."""
    if not worker.in_same_container(str(record.get("owner", ""))):
        return 0
    count = 0
    for entry in _list(record, "processes"):
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(number, int) for number in entry)):
            continue
        found = processes.read_process(entry[0])
        if found is not None and found.started == entry[1] and found.state != "Z":
            processes.kill(found)
            count += 1
    return count


def _remove_shared_memory(names: Iterable[str]) -> int:
    """Remove files of this user in /dev/shm that no running process maps."""
    mine = [SHARED_MEMORY / name for name in names if _PLAIN_NAME.fullmatch(name) and _is_mine(SHARED_MEMORY / name)]
    if not mine:
        return 0
    mapped = processes.all_mapped()
    left = [file for file in mine if file.name not in mapped]
    for file in left:
        with suppress(OSError):
            file.unlink()
    return len(left)


def _is_mine(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_small_json(path, _LARGEST_RECORD)
    except UnreadableFileError:
        return {}


def _list(record: dict[str, Any], name: str) -> list[Any]:
    value = record.get(name)
    return value if isinstance(value, list) else []


def _locked(path: Path, *, create: bool) -> int | None:
    """Lock a file and return its descriptor. If another process holds the lock, return None."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0), 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
