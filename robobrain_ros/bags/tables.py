"""Tables of the answers: CSV and Parquet, one row for each point, bounding box, waypoint, step or text."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from robobrain_ros.bags.errors import BagError

COLUMNS: dict[str, type] = {
    "image": int, "stamp": int, "time": int, "camera": str, "query": str, "task": str, "instruction": str, "outcome": str,
    "message": str, "part": str, "index": int, "u": float, "v": float, "u_min": float, "v_min": float, "u_max": float,
    "v_max": float, "frame_id": str, "x": float, "y": float, "z": float, "depth": float, "label": str, "clamped": bool,
    "order": int, "robot": str, "skill": str, "arguments": str, "text": str, "total_time": float,
}  # fmt: skip
"""The columns and their types. A value that a row does not have is empty in CSV and null in Parquet."""

Row = Mapping[str, Any]


class Table(Protocol):
    """A table that rows are added to."""

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows.

        :raises BagError: they cannot be written.
        """

    def close(self) -> None:
        """Finish the file."""


class CsvTable:
    """A CSV file.

    :param first: number of the first image of this run. Rows of later images are removed from the file of an earlier run.
    """

    def __init__(self, path: Path, first: int = 0) -> None:
        self._path = path
        try:
            kept = list(self._earlier(first)) if first else []
            self._file = path.open("w", newline="", encoding="utf-8")
            self._writer = csv.DictWriter(self._file, list(COLUMNS), restval="")
            self._writer.writeheader()
            self._writer.writerows(kept)
        except OSError as error:
            raise _unwritable(path, error) from error

    def _earlier(self, first: int) -> Iterable[dict[str, str]]:
        if not self._path.exists():
            return
        with self._path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["image"].isdigit() and int(row["image"]) < first:
                    yield row

    def add(self, rows: Iterable[Row]) -> None:
        """See `Table`."""
        try:
            self._writer.writerows(rows)
            self._file.flush()
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def close(self) -> None:
        """See `Table`."""
        try:
            self._file.close()
        except OSError as error:
            raise _unwritable(self._path, error) from error


def require_pyarrow() -> None:
    """Check that the library pyarrow is installed.

    :raises BagError: it is not.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise BagError(
            f"--parquet needs the library pyarrow ({error}). Install it with `pip install pyarrow`, or use --csv."
        ) from error


class ParquetTable:
    """A Parquet file. It needs the library pyarrow.

    :param first: see `CsvTable`.
    """

    _ROWS = 4096
    """Rows that are written together, so that the memory is bounded."""

    def __init__(self, path: Path, first: int = 0) -> None:
        require_pyarrow()
        import pyarrow
        import pyarrow.parquet

        kinds = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string(), bool: pyarrow.bool_()}
        self._schema = pyarrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
        self._make = pyarrow.Table.from_pylist
        self._path = path
        self._rows: list[Row] = []
        earlier = path.with_name(f"{path.name}.earlier")
        try:
            if first and path.exists():
                path.replace(earlier)
            self._writer = pyarrow.parquet.ParquetWriter(path, self._schema)
            if first and earlier.exists():
                for batch in pyarrow.parquet.ParquetFile(earlier).iter_batches(self._ROWS):
                    self.add(row for row in batch.to_pylist() if row["image"] < first)
                earlier.unlink()
        except (OSError, pyarrow.ArrowException) as error:
            raise _unwritable(path, error) from error

    def add(self, rows: Iterable[Row]) -> None:
        """See `Table`."""
        self._rows += rows
        if len(self._rows) >= self._ROWS:
            self._flush()

    def _flush(self) -> None:
        rows = [{name: row.get(name) for name in COLUMNS} for row in self._rows]
        self._rows = []
        try:
            self._writer.write_table(self._make(rows, schema=self._schema))
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def close(self) -> None:
        """See `Table`."""
        try:
            if self._rows:
                self._flush()
        finally:
            try:
                self._writer.close()
            except OSError as error:
                raise _unwritable(self._path, error) from error


def _unwritable(path: Path, error: Exception) -> BagError:
    return BagError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}.")
