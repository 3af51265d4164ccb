"""Table files of operators by shape: reading, writing and rejected content."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from shape_entries import GPU, SHAPES, VECTOR, entry

from robobrain_ros.engine.flagos.by_shape import table as flagos_table
from robobrain_ros.engine.flagos.by_shape.operators import ShapeOperators
from robobrain_ros.engine.flagos.by_shape.table import ShapeTable, Weights
from robobrain_ros.errors import EngineConfigError


def written(folder: Path, **changes: Any) -> Path:
    """Return the content of a table file with changes of its top-level fields."""
    path = flagos_table.table_file(GPU, folder)
    flagos_table.write(path, ShapeTable(GPU, "2", "3", (entry(),), {"date": "2026-11-27"}))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    entries = tuple(SHAPES)
    by_flag_gems = replace(entry(4, 8, 8), implementation="flag_gems", launch=flagos_table.AUTOTUNED)
    weights = (Weights("bfloat16", 32, 48),)
    whole = ShapeTable(GPU, "2", "3", (*entries, by_flag_gems), {"torch": "2.11.0"}, weights)
    flagos_table.write(flagos_table.table_file(GPU, tmp_path), whole)
    table = flagos_table.find(GPU, "2.13.0+cu130", "3.6.0", tmp_path)
    assert set(table.entries) == {*entries, by_flag_gems}
    assert table.weights == weights
    assert {(known.k, known.n) for known in table.for_weights([(64, 16), (1, 1)])} == {(64, 16)}


@pytest.mark.parametrize(
    ("device", "torch_version", "triton_version", "words"),
    [
        ("Other GPU", "2.11", "3.6", "no measured table for Other GPU"),
        (GPU, "3.0.1", "3.6", "for PyTorch 2; this is PyTorch 3"),
        (GPU, "2.11", "4.0", "for Triton 3; this is Triton 4"),
        ("stub-gpu 80gb", "2.11", "3.6", f"for GPU {GPU}"),
    ],
)
def test_a_table_for_something_else_is_rejected_with_the_reason(
    tmp_path: Path, device: str, torch_version: str, triton_version: str, words: str
) -> None:
    written(tmp_path)
    with pytest.raises(EngineConfigError, match=words) as caught:
        flagos_table.find(device, torch_version, triton_version, tmp_path)
    assert "Run tune_flagos" in str(caught.value)


def changed(**changes: Any) -> dict[str, Any]:
    """Return an entry as JSON with changes; None removes a field."""
    content = asdict(entry()) | changes
    return {name: value for name, value in content.items() if value is not None}


def launched(**changes: Any) -> dict[str, Any]:
    """Return an entry as JSON with changes of its launch parameters."""
    return changed(launch=asdict(VECTOR) | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"format": True},
        {"device": ""},
        {"device": 5},
        {"torch": "2.11"},
        {"triton": None},
        {"measured": []},
        {"measured": {"date": 3}},
        {"entries": {}},
        {"entries": [7]},
        {"entries": [changed()] * 2},
        {"entries": [changed(operator="bmm")]},
        {"entries": [changed(operator=["mm"])]},
        {"entries": [changed(dtype="float64")]},
        {"entries": [changed(rows=3)]},
        {"entries": [changed(rows=True)]},
        {"entries": [changed(rows=2)]},
        {"entries": [changed(k=0)]},
        {"entries": [changed(k=32.0)]},
        {"entries": [changed(n=2**40)]},
        {"entries": [changed(n=None)]},
        {"entries": [changed(implementation="shell")]},
        {"entries": [changed(us=-1.0)]},
        {"entries": [changed(native_us=float("nan"))]},
        {"entries": [changed(native_us=float("inf"))]},
        {"entries": [changed(launch="vector")]},
        {"entries": [launched(kernel="other")]},
        {"entries": [launched(block_n=3)]},
        {"entries": [launched(block_k=2**20)]},
        {"entries": [launched(block_n=4096, block_k=4096)]},
        {"entries": [launched(block_m=16)]},
        {"entries": [launched(kernel="tile", block_m=16, block_n=4)]},
        {"entries": [launched(split_k=0)]},
        {"entries": [launched(warps=3)]},
        {"entries": [launched(stages=99)]},
        {"entries": [changed(implementation="flag_gems")]},
        {"entries": [launched(kernel="autotuned")]},
        {"weights": {}},
        {"weights": [{"dtype": "float64", "k": 1, "n": 1}]},
        {"weights": [{"dtype": "bfloat16", "k": 0, "n": 1}]},
    ],
)
def test_a_damaged_table_is_rejected(tmp_path: Path, changes: dict[str, Any]) -> None:
    written(tmp_path, **changes)
    with pytest.raises(EngineConfigError, match="cannot be used"):
        flagos_table.find(GPU, "2.11.0", "3.6.0", tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"{", b"[" * 100_000, b" " * (4 * 2**20 + 1)])
def test_a_file_that_is_no_table_is_rejected(tmp_path: Path, content: bytes) -> None:
    written(tmp_path).write_bytes(content)
    with pytest.raises(EngineConfigError, match="cannot be used"):
        flagos_table.find(GPU, "2.11.0", "3.6.0", tmp_path)


def test_a_pipe_in_place_of_a_table_is_rejected(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "table.json")
    with pytest.raises(EngineConfigError, match="named pipe"):
        flagos_table.read(tmp_path / "table.json")


def test_a_table_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes 1 rows, not 2"):
        flagos_table.write(tmp_path / "table.json", ShapeTable(GPU, "2", "3", (replace(entry(), rows=2),)))
    assert not (tmp_path / "table.json").exists()


@pytest.mark.parametrize("path", sorted(flagos_table.FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_shipped_tables_are_whole(path: Path) -> None:
    table = flagos_table.read(path)
    assert flagos_table.table_file(table.device) == path
    assert table.entries
    assert all(known.us < known.native_us for known in table.entries)
    ShapeOperators(table.entries, {}, key="CPU")
