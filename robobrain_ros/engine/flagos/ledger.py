"""Record FlagGems' operators in a worker process: which are registered, which ran, and which failed.

The records are files, so that the node can read them after the worker has crashed. Each worker writes two files in the engine's
folder:

- ``<pid>.json``: the fields of `WorkerEntry`.
- ``<pid>.calls``: an array of uint16 in the machine's byte order. Element 0 is the number of the operator that runs now (from
  1; 0: none). Element n is 1 if operator n was called.
"""

import json
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

VARIABLE = "ROBOBRAIN_ROS_FLAGOS"
"""Environment variable with the workers' settings, a JSON object:

- ``include``: names of operators; null: all except the excluded ones.
- ``exclude``: names of operators.
- ``folder``: folder of the ledger.
- ``log_folder``: folder of FlagGems' own log, or empty for no log.
- ``deferred``: whether the operators are registered only when ``flagos_begin`` is called.
"""

_CELL = 2


@dataclass(frozen=True)
class WorkerEntry:
    """The state of one worker.

    :param vendor: FlagGems' name of the chip's vendor.
    :param names: operators that the worker can use.
    :param registered: operators that the worker uses now.
    :param fused: for each fused layer of vLLM, the function of FlagGems that computes it, or the reason why vLLM computes it.
    :param log: path of FlagGems' own log, or empty for no log.
    :param error: why FlagGems cannot be used, or empty if it can.
    :param failed: the first operator that raised an exception, or empty if there is none.
    :param failure: this exception.
    """

    vendor: str = ""
    version: str = ""
    names: tuple[str, ...] = ()
    registered: tuple[str, ...] = ()
    fused: dict[str, str] = field(default_factory=dict)
    log: str = ""
    error: str = ""
    failed: str = ""
    failure: str = ""


class Ledger:
    """Writes the files of this worker.

    :param names: operators that the worker can use.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._path = folder / f"{os.getpid()}.json"
        self._numbers = {name: index + 1 for index, name in enumerate(names)}
        calls = self._path.with_suffix(".calls")
        calls.write_bytes(bytes(_CELL * (len(names) + 1)))
        with calls.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._cells = memoryview(self._memory).cast("H")
        self.entry = WorkerEntry(names=tuple(names))
        self.write()

    def write(self, **changes: Any) -> None:
        """Change fields of the entry, and write it to its file."""
        self.entry = WorkerEntry(**(vars(self.entry) | changes))
        write_atomically(self._path, json.dumps(asdict(self.entry)))

    def watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with recording: the ledger shows when it runs, that it was called, and its first exception."""
        cells, number = self._cells, self._numbers[name]

        @wraps(function)
        def watch(*arguments: Any, **options: Any) -> Any:
            before = cells[0]
            cells[0] = number
            cells[number] = 1
            try:
                result = function(*arguments, **options)
            except Exception as error:
                if not self.entry.failed:
                    self.write(failed=name, failure=f"{type(error).__name__}: {error}"[:300])
                raise
            finally:
                cells[0] = before
            return result

        return watch

    def forget_calls(self) -> None:
        """Mark all operators as not called."""
        for number in self._numbers.values():
            self._cells[number] = 0


@dataclass(frozen=True)
class Failure:
    """A failure of an operator.

    :param operator: name of the operator, or empty if unknown.
    :param how: what happened, for example the exception.
    """

    operator: str
    how: str


class LedgerReader:
    """Reads the files of all workers of an engine on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[Path, tuple[str, ...]] = {}
        """Names of the operators of each worker, which do not change."""
        self._known: dict[Path, tuple[int, WorkerEntry]] = {}
        """The last entry that was read from each file, with the file's modification time (ns)."""

    def entries(self) -> list[WorkerEntry]:
        """Return the entry of each worker that has imported FlagGems."""
        return [entry for path in sorted(self._folder.glob("*.json")) if (entry := self._entry(path)) is not None]

    def _entry(self, path: Path) -> WorkerEntry | None:
        try:
            written = path.stat().st_mtime_ns
        except OSError:
            return None
        known = self._known.get(path)
        if known is None or known[0] != written:
            entry = _read(path)
            if entry is None:
                return None
            self._known[path] = known = (written, entry)
        return known[1]

    def called(self) -> tuple[str, ...]:
        """Names of the operators that were called in any worker, in alphabetical order."""
        called: set[str] = set()
        for path in self._folder.glob("*.calls"):
            called.update(name for name, cell in zip(self._names_of(path), _cells(path)[1:], strict=False) if cell)
        return tuple(sorted(called))

    def _names_of(self, path: Path) -> tuple[str, ...]:
        if path not in self._names:
            entry = _read(path.with_suffix(".json"))
            if entry is None:
                return ()
            self._names[path] = entry.names
        return self._names[path]

    def failure(self) -> Failure | None:
        """Return the operator that failed: it raised an exception, or its process died while it ran.

        None: no failure is known.
        """
        for path in sorted(self._folder.glob("*.json")):
            entry, cells = _read(path), _cells(path)
            if entry is None:
                continue
            if entry.failed:
                return Failure(entry.failed, entry.failure)
            if cells and 0 < cells[0] <= len(entry.names) and not _lives(int(path.stem)):
                return Failure(entry.names[cells[0] - 1], "its process died while it ran")
        return None


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader gets the complete old file or the complete new file.

    :raises OSError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path) -> WorkerEntry | None:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # The engine has ended and removed it.
    return WorkerEntry(**fields | {name: tuple(fields[name]) for name in ("names", "registered")})


def _cells(path: Path) -> memoryview:
    try:
        content = path.with_suffix(".calls").read_bytes()
    except OSError:
        content = b""
    return memoryview(content[: len(content) // _CELL * _CELL]).cast("H")


def _lives(pid: int) -> bool:
    """Return whether a process runs. A zombie does not run."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")
