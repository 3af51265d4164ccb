"""The tables of benchmarks: JSON Lines, and Parquet files of the hub."""

import csv
import importlib
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robobrain_ros.evaluation.benchmark_item import BenchmarkError, json_lines, read_text

Row = tuple[dict[str, Any], str]
"""A row, and its place for messages."""


@dataclass(frozen=True)
class Table:
    """A file with rows.

    :param columns: names of the columns: of a JSON Lines file, those of its first row.
    """

    path: Path
    columns: frozenset[str]

    def rows(self) -> Iterator[Row]:
        """Yield the rows.

        :raises BenchmarkError: the file is damaged.
        """
        if self.path.suffix == ".parquet":
            return _parquet_rows(self.path)
        return json_lines(self.path)


def tables_in(folder: Path) -> list[Table]:
    """Return the tables of a folder: its Parquet files and those of its subfolders; otherwise its JSON Lines files.

    :raises BenchmarkError: a file is damaged, or there are Parquet files, and pyarrow is not installed.
    """
    parquet = sorted({*folder.glob("*.parquet"), *folder.glob("*/*.parquet")})
    if parquet:
        return [Table(path, _parquet_columns(path)) for path in parquet]
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        first = next(json_lines(path), None)
        if first is not None:
            found.append(Table(path, frozenset(first[0])))
    return found


def selected(tables: Sequence[Table], word: str) -> list[Table]:
    """Return the tables whose file name contains a word, such as the name of a split, or all if there are none."""
    return [table for table in tables if word in table.path.name.lower()] or list(tables)


def tab_separated(path: Path) -> list[Row]:
    """Return the rows of a file with tabs between its columns, as VLMEvalKit writes it.

    :raises BenchmarkError: the file cannot be read.
    """
    csv.field_size_limit(sys.maxsize)  # A field can be an image in base64.
    lines = io.StringIO(read_text(path), newline="")
    try:
        return [(row, f"{path}, row {number}") for number, row in enumerate(csv.DictReader(lines, delimiter="\t"), 1)]
    except csv.Error as error:
        raise BenchmarkError(f"{path} is not a table with tabs: {error}.") from error


def _parquet() -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise BenchmarkError(
            "The folder has Parquet files, and pyarrow is not installed. Install it with: pip install pyarrow."
        ) from error


def _parquet_columns(path: Path) -> frozenset[str]:
    module = _parquet()
    try:
        return frozenset(module.read_schema(path).names)
    except Exception as error:
        raise BenchmarkError(f"{path} cannot be read as a Parquet file: {error}.") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    module = _parquet()
    number = 0
    try:
        for batch in module.ParquetFile(path).iter_batches(batch_size=64):
            for row in batch.to_pylist():
                number += 1
                yield row, f"{path}, row {number}"
    except BenchmarkError:
        raise
    except Exception as error:
        raise BenchmarkError(f"{path} cannot be read as a Parquet file: {error}.") from error
