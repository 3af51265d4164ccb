"""What FlagGems does in a worker process, in files that outlive the process. The engine's owner reads them.

Each worker keeps two files in the engine's folder: ``<pid>.json``, what it has registered; ``<pid>.calls``, cells of two bytes
in the machine's order: first the number (from 1) of the operator that is running, 0 none, then for each operator whether it was
called. So after a crash that no Python code survives, the owner still knows in which operator it happened.
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
"""Environment variable with the workers' settings, a JSON object: ``include`` (names; null: all that are not excluded),
``exclude`` (names), ``folder`` of the ledger, ``log_folder`` of FlagGems' own log (empty: none), ``deferred`` (whether operators
are registered only when ``flagos_begin`` is called)."""

_CELL = 2


@dataclass(frozen=True)
class Entry:
    """What one worker has written.

    :param vendor: FlagGems' name of the chip's maker.
    :param names: all operators it may use; ``registered``, those it uses now.
    :param fused: vLLM's fused layers: which function of FlagGems computes them, or why none does.
    :param log: FlagGems' own log; empty: none is written.
    :param error: why FlagGems could not be used at all; empty: it could.
    :param failed: the operator that raised an exception first, and ``failure``, that exception.
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
    """A worker's own entry.

    :param names: all operators that it may come to use.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._path = folder / f"{os.getpid()}.json"
        self._numbers = {name: index + 1 for index, name in enumerate(names)}
        calls = self._path.with_suffix(".calls")
        calls.write_bytes(bytes(_CELL * (len(names) + 1)))
        with calls.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._cells = memoryview(self._memory).cast("H")
        self.entry = Entry(names=tuple(names))
        self.write()

    def write(self, **changes: Any) -> None:
        """Change fields of the entry."""
        self.entry = Entry(**(vars(self.entry) | changes))
        write_atomically(self._path, json.dumps(asdict(self.entry)))

    def watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which then says in the ledger that it runs, that it was called, and that it failed."""
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
        """Begin to count anew."""
        for number in self._numbers.values():
            self._cells[number] = 0


@dataclass(frozen=True)
class Failure:
    """An operator that failed, and how; an empty name: some operator, perhaps."""

    operator: str
    how: str


class LedgerReader:
    """What all workers of an engine have written, on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[Path, tuple[str, ...]] = {}
        """Names of each worker, which do not change."""
        self._known: dict[Path, tuple[int, Entry]] = {}
        """What was read, and when it was written."""

    def entries(self) -> list[Entry]:
        """One for each worker that has begun to use FlagGems."""
        return [entry for path in sorted(self._folder.glob("*.json")) if (entry := self._entry(path)) is not None]

    def _entry(self, path: Path) -> Entry | None:
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
    """Write a file such that a reader finds the old one or the new one, whole.

    :raises OSError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path) -> Entry | None:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # It is gone, with its engine.
    return Entry(**fields | {name: tuple(fields[name]) for name in ("names", "registered")})


def _cells(path: Path) -> memoryview:
    try:
        content = path.with_suffix(".calls").read_bytes()
    except OSError:
        content = b""
    return memoryview(content[: len(content) // _CELL * _CELL]).cast("H")


def _lives(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")
