"""Tables of the shapes for which this package's matrix products are faster than PyTorch's on one GPU.

A table is a JSON file for one GPU and for major versions of PyTorch and Triton. The key of an entry is a shape class: operator,
dtype, size of the weights and row range. The entry contains the kernel and its launch configuration. Shapes without an entry stay
native. This module reads and checks tables. It imports neither PyTorch nor Triton.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from robobrain_ros.bounds.files import UnreadableFileError, read_small_json
from robobrain_ros.engine.flagos.ledger import write_atomically
from robobrain_ros.errors import EngineConfigError

FORMAT = 1
MOST_ROWS = 16
ROWS = (1, 2, 4, 8, 16)
"""Upper ends of the row ranges: 1, 2, 3 to 4, 5 to 8, and 9 to 16 rows."""
OPERATORS = ("mm", "addmm")
"""Operators of entries. Each entry also applies to the operator's form ``out``."""
DTYPES = ("bfloat16", "float16")
IMPLEMENTATIONS = ("skinny", "flag_gems")
"""Names of implementations: "skinny" is the module `matmul`, "flag_gems" the module `flaggems_products`."""
FOLDER = Path(__file__).with_name("tables")
"""Folder of this package's tables."""

_MOST_BYTES = 4 * 2**20
_MOST_ENTRIES = 10_000
_MOST_SIZE = 2**24
_POWERS = tuple(2**power for power in range(13))
_KERNELS = ("vector", "tile")
_AUTOTUNED = "autotuned"
_VERSION = re.compile(r"\d{1,4}")


@dataclass(frozen=True)
class Launch:
    """Launch configuration of a kernel.

    :param kernel: "vector" (one row), "tile" (at most ``block_m`` rows), or "autotuned": FlagGems selects everything itself.
    :param block_n: columns of the output for each program.
    :param block_k: elements of each step along k.
    :param block_m: rows of a tile; 0 for "vector".
    :param split_k: number of programs that share the sum of an element.
    :param warps: warps of a program.
    :param stages: number of steps whose loads are in flight at the same time.
    """

    kernel: str
    block_n: int
    block_k: int
    block_m: int = 0
    split_k: int = 1
    warps: int = 4
    stages: int = 3

    @property
    def most_rows(self) -> int:
        """Maximum number of rows."""
        if self.kernel == _AUTOTUNED:
            return MOST_ROWS
        return 1 if self.kernel == "vector" else min(self.block_m, MOST_ROWS)


AUTOTUNED = Launch(_AUTOTUNED, 1, 1)
"""The launch of entries with the implementation "flag_gems"."""


@dataclass(frozen=True)
class _ShapeKey:
    """The key of an entry.

    :param operator: one of `OPERATORS`.
    :param dtype: one of `DTYPES`.
    :param rows: upper end of the row range, one of `ROWS`.
    :param k: rows of the second matrix.
    :param n: columns of the second matrix.
    """

    operator: str
    dtype: str
    rows: int
    k: int
    n: int

    @property
    def name(self) -> str:
        """Operator, dtype and sizes as text."""
        return f"{self.operator} {self.dtype} {self.rows}x{self.k}x{self.n}"


@dataclass(frozen=True)
class ShapeClass(_ShapeKey):
    """A shape class: the key of an entry.

    :param residual: whether the bias of ``addmm`` is a matrix (rows, n). It is not part of the key.
    """

    residual: bool = field(default=False, compare=False)


def row_range(rows: int) -> int:
    """Return the upper end of the row range that contains a number of rows, at most `MOST_ROWS`."""
    return next(end for end in ROWS if rows <= end)


@dataclass(frozen=True)
class ShapeEntry(_ShapeKey):
    """A shape class, its launch configuration, and the measured times.

    :param implementation: one of `IMPLEMENTATIONS`.
    :param native_us: measured time of PyTorch's operator in µs.
    :param us: measured time of this operator in µs.
    """

    implementation: str
    launch: Launch
    native_us: float
    us: float

    @property
    def shape(self) -> ShapeClass:
        """The shape class."""
        return ShapeClass(self.operator, self.dtype, self.rows, self.k, self.n)


@dataclass(frozen=True)
class Weights:
    """The dtype and size of weights: k rows and n columns."""

    dtype: str
    k: int
    n: int


@dataclass(frozen=True)
class ShapeTable:
    """The table of one GPU.

    :param device: name of the GPU in PyTorch.
    :param torch: major version of PyTorch.
    :param triton: major version of Triton.
    :param measured: machine, full versions, date and command of the measurement. Only `own_table` uses it.
    :param weights: in a table of tune_flagos, the weights whose shape classes were measured. Without an entry, PyTorch's operator
        was as fast.
    """

    device: str
    torch: str
    triton: str
    entries: tuple[ShapeEntry, ...]
    measured: dict[str, str] = field(default_factory=dict)
    weights: tuple[Weights, ...] = ()

    def for_weights(self, sizes: Iterable[tuple[int, int]]) -> tuple[ShapeEntry, ...]:
        """Return the entries for weights of these sizes (k, n)."""
        wanted = set(sizes)
        return tuple(entry for entry in self.entries if (entry.k, entry.n) in wanted)


def major(version: str) -> str:
    """Return the major version, such as "2" of "2.11.0+cu130"."""
    return version.split(".")[0]


def table_file(device: str, folder: Path = FOLDER) -> Path:
    """Return the path of a GPU's table."""
    return folder / (re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json")


def find(device: str, torch: str, triton: str, folder: Path = FOLDER) -> ShapeTable:
    """Return the table for a GPU and these full versions of PyTorch and Triton.

    :raises EngineConfigError: there is no table, or it is damaged, or it is for another GPU or version. The message states what
        to do.
    """
    path = table_file(device, folder)
    if not path.is_file():
        raise EngineConfigError(f"There is no measured table for {device or 'this GPU'}. {HOW_TO_MEASURE}")
    table = read(path)
    for what, theirs, ours in (
        ("GPU", table.device, device),
        ("PyTorch", table.torch, major(torch)),
        ("Triton", table.triton, major(triton)),
    ):
        if theirs != ours:
            raise EngineConfigError(f"The table {path} is for {what} {theirs}; this is {what} {ours}. {HOW_TO_MEASURE}")
    return table


HOW_TO_MEASURE = "Run tune_flagos to measure one on this machine."


def read(path: Path) -> ShapeTable:
    """Read and check a table.

    :raises EngineConfigError: the file cannot be read, or a value is missing, of a wrong type or out of its limits.
    """
    try:
        return _table(read_small_json(path, _MOST_BYTES))
    except (UnreadableFileError, _Damaged) as error:
        raise EngineConfigError(f"The table {path} cannot be used: {error}. {HOW_TO_MEASURE}") from error


def write(path: Path, table: ShapeTable) -> None:
    """Write a table that `read` accepts.

    :raises OSError: the file cannot be written.
    :raises ValueError: `read` would reject it.
    """
    entries = [asdict(entry) for entry in sorted(table.entries, key=_order)]
    head = {"format": FORMAT, **{name: value for name, value in asdict(table).items() if name != "entries"}}
    head["weights"] = list(head["weights"])
    _table({**head, "entries": entries})
    lines = ",\n".join("  " + json.dumps(entry) for entry in entries)
    text = json.dumps(head, indent=1)[: -len("\n}")] + f',\n "entries": [\n{lines}\n ]\n}}\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)


def is_valid(launch: Launch) -> bool:
    """Return whether `read` accepts this launch."""
    try:
        _launch(asdict(launch), "")
    except _Damaged:
        return False
    return True


def as_entry(content: Any) -> ShapeEntry:
    """Return an entry from its fields, as ``dataclasses.asdict`` returns them.

    :raises ValueError: a field is missing or wrong.
    """
    return _entry(content, "the entry")


def as_launch(content: Any) -> Launch:
    """Return a launch from its fields, as ``dataclasses.asdict`` returns them.

    :raises ValueError: a field is missing or wrong.
    """
    return _launch(content, "the launch")


def _order(entry: ShapeEntry) -> tuple[str, str, int, int, int]:
    return entry.operator, entry.dtype, entry.k, entry.n, entry.rows


class _Damaged(ValueError):
    """A value in the file is missing or wrong."""


class _Fields:
    """The fields of a JSON object, with checks of their types and limits."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _Damaged(f"{where} is not an object")
        self._value, self._where = value, where

    def take(self, name: str) -> Any:
        if name not in self._value:
            raise _Damaged(f"{self._where} has no {name!r}")
        return self._value[name]

    def optional_list(self, name: str) -> list[Any]:
        value = self._value.get(name, [])
        if not isinstance(value, list) or len(value) > _MOST_ENTRIES:
            raise _Damaged(f"{name!r} of {self._where} is not a list of at most {_MOST_ENTRIES}")
        return value

    def text(self, name: str, pattern: str = r"[^\x00-\x1f]{1,300}") -> str:
        value = self.take(name)
        if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
            raise _Damaged(f"{name!r} of {self._where} is {_shown(value)}")
        return value

    def one_of(self, name: str, choices: Iterable[Any]) -> Any:
        value = self.take(name)
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise _Damaged(f"{name!r} of {self._where} is {_shown(value)}")
        return value

    def whole(self, name: str, least: int, most: int) -> int:
        value = self.take(name)
        if type(value) is not int or not least <= value <= most:
            raise _Damaged(f"{name!r} of {self._where} is {_shown(value)}, not a whole number from {least} to {most}")
        return value

    def positive(self, name: str) -> float:
        value = self.take(name)
        if type(value) not in (int, float) or not 0.0 < value < 1e9:
            raise _Damaged(f"{name!r} of {self._where} is {_shown(value)}, not a number of microseconds")
        return float(value)


def _shown(value: Any) -> str:
    return repr(value)[:80]


def _table(content: Any) -> ShapeTable:
    fields = _Fields(content, "the file")
    if (found := fields.take("format")) != FORMAT or type(found) is not int:
        raise _Damaged(f"it has format {_shown(found)}, and this version reads {FORMAT}")
    entries = fields.take("entries")
    if not isinstance(entries, list) or len(entries) > _MOST_ENTRIES:
        raise _Damaged(f"'entries' is not a list of at most {_MOST_ENTRIES}")
    measured = fields.take("measured")
    if not isinstance(measured, dict) or not all(isinstance(value, str) for value in measured.values()):
        raise _Damaged("'measured' is not an object of texts")
    read_entries = tuple(_entry(entry, f"entry {index}") for index, entry in enumerate(entries))
    if len({_order(entry) for entry in read_entries}) < len(read_entries):
        raise _Damaged("two entries are for the same shape class")
    device, torch, triton = fields.text("device"), fields.text("torch", _VERSION.pattern), fields.text("triton", _VERSION.pattern)
    weights = tuple(_weights(item, f"weights {index}") for index, item in enumerate(fields.optional_list("weights")))
    return ShapeTable(device, torch, triton, read_entries, measured, weights)


def _weights(content: Any, where: str) -> Weights:
    fields = _Fields(content, where)
    return Weights(fields.one_of("dtype", DTYPES), fields.whole("k", 1, _MOST_SIZE), fields.whole("n", 1, _MOST_SIZE))


def _entry(content: Any, where: str) -> ShapeEntry:
    fields = _Fields(content, where)
    entry = ShapeEntry(
        operator=fields.one_of("operator", OPERATORS),
        dtype=fields.one_of("dtype", DTYPES),
        rows=fields.one_of("rows", ROWS),
        k=fields.whole("k", 1, _MOST_SIZE),
        n=fields.whole("n", 1, _MOST_SIZE),
        implementation=fields.one_of("implementation", IMPLEMENTATIONS),
        launch=_launch(fields.take("launch"), f"the launch of {where}"),
        native_us=fields.positive("native_us"),
        us=fields.positive("us"),
    )
    if entry.rows > entry.launch.most_rows:
        raise _Damaged(f"the launch of {where} takes {entry.launch.most_rows} rows, not {entry.rows}")
    if (entry.implementation == "flag_gems") != (entry.launch == AUTOTUNED):
        raise _Damaged(f"{where} has another implementation than its launch")
    return entry


def _launch(content: Any, where: str) -> Launch:
    fields = _Fields(content, where)
    kernel = fields.one_of("kernel", (*_KERNELS, _AUTOTUNED))
    if kernel == _AUTOTUNED:
        return AUTOTUNED
    launch = Launch(
        kernel,
        block_n=fields.one_of("block_n", _POWERS),
        block_k=fields.one_of("block_k", _POWERS),
        block_m=fields.one_of("block_m", (0,) if kernel == "vector" else (8, 16)),
        split_k=fields.whole("split_k", 1, 64),
        warps=fields.one_of("warps", (1, 2, 4, 8, 16)),
        stages=fields.whole("stages", 1, 8),
    )
    if kernel == "tile" and (launch.block_n < 16 or launch.block_k < 16):
        raise _Damaged(f"{where} has blocks below 16")
    if launch.block_n * launch.block_k > 2**16:
        raise _Damaged(f"{where} has blocks of more than {2**16} weights")
    return launch
