"""Tables that tune_flagos measured on this machine: their precedence, and files that do not fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from shape_entries import GPU, TILE, Computed, entry

from robobrain_ros.engine.flagos.by_shape import own_table
from robobrain_ros.engine.flagos.by_shape import start as flagos_start
from robobrain_ros.engine.flagos.by_shape import table as flagos_table
from robobrain_ros.engine.flagos.by_shape.own_table import FoundEntries
from robobrain_ros.engine.flagos.by_shape.start import Device
from robobrain_ros.engine.flagos.by_shape.table import ShapeEntry, ShapeTable, Weights
from robobrain_ros.errors import EngineConfigError

VERSIONS = ("2.11.0+cu130", "3.6.0")
MEASURED = dict(zip(("torch", "triton"), VERSIONS, strict=True))
SIZE, OTHER = (32, 48), (64, 16)
OURS = replace(entry(4), launch=replace(TILE, warps=8))


def own(*entries: ShapeEntry, sizes: tuple[tuple[int, int], ...] = (SIZE,), **changes: Any) -> ShapeTable:
    """Return a table of tune_flagos."""
    weights = tuple(Weights("bfloat16", *size) for size in sizes)
    return replace(ShapeTable(GPU, "2", "3", entries, MEASURED, weights), **changes)


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """Return the folder of a package with a table for two weights."""
    folder = tmp_path / "package"
    entries = tuple(entry(rows, *size) for rows in (1, 4) for size in (SIZE, OTHER))
    flagos_table.write(flagos_table.table_file(GPU, folder), ShapeTable(GPU, "2", "3", entries))
    return folder


def find(tmp_path: Path, shipped: Path, dtype: str = "bfloat16", versions: tuple[str, str] = VERSIONS) -> FoundEntries:
    return own_table.entries_for(GPU, versions, dtype, [SIZE, OTHER], tmp_path, shipped)


def test_without_a_table_of_tune_flagos_the_packages_applies(tmp_path: Path, shipped: Path) -> None:
    found = find(tmp_path, shipped)
    assert (len(found.entries), found.source, found.note) == (4, f"the table for {GPU}", "")


def test_measured_weights_use_only_what_was_measured_here(tmp_path: Path, shipped: Path) -> None:
    own_table.save(own(OURS), tmp_path)
    found = find(tmp_path, shipped)
    of_measured = [known for known in found.entries if (known.k, known.n) == SIZE]
    assert of_measured == [OURS], "no entry of the package for one row, because PyTorch was as fast here"
    assert [(known.rows, known.k, known.n) for known in found.entries if known not in of_measured] == [(1, *OTHER), (4, *OTHER)]
    assert found.source == f"the table for {GPU} and the table of tune_flagos"


def test_a_model_for_which_nothing_was_faster_stays_native(tmp_path: Path, shipped: Path) -> None:
    own_table.save(own(sizes=(SIZE, OTHER)), tmp_path)
    with pytest.raises(EngineConfigError, match="tune_flagos found no matrix product that is correct and faster"):
        find(tmp_path, shipped)


def test_another_gpu_needs_no_table_of_the_package(tmp_path: Path) -> None:
    own_table.save(own(OURS), tmp_path)
    found = find(tmp_path, tmp_path / "none")
    assert (found.entries, found.source) == ((OURS,), "the table of tune_flagos")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device": "Stub-GPU 80GB"}, "is for GPU Stub-GPU 80GB; this is GPU Stub GPU 80GB"),
        ({"torch": "3"}, "is for PyTorch 3; this is PyTorch 2"),
        ({"measured": {**MEASURED, "torch": "2.10.0"}}, "is for PyTorch 2.10.0; this is PyTorch 2.11.0"),
        ({"measured": {**MEASURED, "triton": "3.5.0"}}, "is for Triton 3.5.0; this is Triton 3.6.0"),
        ({"measured": {}}, "is for PyTorch unknown"),
    ],
)
def test_a_table_for_something_else_is_not_used_and_named(
    tmp_path: Path, shipped: Path, changes: dict[str, Any], words: str
) -> None:
    flagos_table.write(flagos_table.table_file(GPU, tmp_path), own(OURS, **changes))
    found = find(tmp_path, shipped)
    assert OURS not in found.entries
    assert len(found.entries) == 4
    assert found.note.startswith("The table of tune_flagos is not used: The table ")
    assert words in found.note
    with pytest.raises(EngineConfigError, match=r"no measured table for .* The table of tune_flagos is not used"):
        find(tmp_path, tmp_path / "none")


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', '{"format": 7}'])
def test_a_damaged_table_is_not_used_and_named(tmp_path: Path, shipped: Path, content: str) -> None:
    flagos_table.table_file(GPU, tmp_path).write_text(content)
    found = find(tmp_path, shipped)
    assert len(found.entries) == 4
    assert "cannot be used" in found.note


def test_saving_keeps_other_models_and_replaces_the_same_weights(tmp_path: Path) -> None:
    own_table.save(own(entry(1), OURS), tmp_path)
    path = own_table.save(own(entry(8, *OTHER), sizes=(OTHER,)), tmp_path)
    own_table.save(own(OURS), tmp_path)
    saved = flagos_table.read(path)
    assert set(saved.entries) == {OURS, entry(8, *OTHER)}
    assert {(weights.k, weights.n) for weights in saved.weights} == {SIZE, OTHER}
    newer = {**MEASURED, "torch": "2.12.0"}
    own_table.save(own(entry(1), measured=newer), tmp_path)
    assert flagos_table.read(path).entries == (entry(1),), "measured with another version"


def test_each_tune_file_has_a_folder_of_its_own() -> None:
    assert own_table.folder_for(Path("/cache/flagos.json")) == Path("/cache/flagos_shapes")


def wrong_for_one(result: Any, k: int, n: int) -> None:
    if (k, n) == SIZE:
        result.mul_(2.0)


@pytest.mark.parametrize(
    ("implementation", "why"),
    [
        (Computed(), "use the table for Stub GPU 80GB and the table of tune_flagos"),
        (Computed(wrong_for_one), "wrong or failing for 1 of the shape classes: mm bfloat16 4x32x48"),
    ],
)
def test_the_check_at_the_start_applies_to_it(
    tmp_path: Path, shipped: Path, implementation: Computed, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_table.save(own(OURS), tmp_path)
    monkeypatch.setenv(own_table.VARIABLE, str(tmp_path))
    device = Device(GPU, "cpu", "CPU", *VERSIONS, {"skinny": implementation}, None)
    started = flagos_start.start([SIZE, OTHER], "bfloat16", lambda: device, shipped)
    assert why in started.why
    assert (started.operators is None) == ("wrong" in why)


def test_a_table_that_names_flaggems_without_flaggems_is_native(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    from robobrain_ros.engine.flagos.by_shape.flaggems_products import FlagGemsProducts

    by_flaggems = replace(entry(4), implementation="flag_gems", launch=flagos_table.AUTOTUNED)
    own_table.save(own(by_flaggems), tmp_path)
    device = Device(GPU, "cpu", "CPU", *VERSIONS, {"flag_gems": FlagGemsProducts()}, None)
    started = flagos_start.start([SIZE], "bfloat16", lambda: device, tmp_path / "none", tmp_path)
    assert started.operators is None
    assert "mm bfloat16 4x32x48" in started.why


class Gems:
    """FlagGems' matrix products."""

    mm, addmm = staticmethod(torch.mm), staticmethod(torch.addmm)

    @staticmethod
    def mm_out(x: Any, weight: Any, *, out: Any) -> Any:
        return torch.mm(x, weight, out=out)

    @staticmethod
    def addmm_out(bias: Any, x: Any, weight: Any, *, out: Any) -> Any:
        return torch.addmm(bias, x, weight, out=out)


def test_flaggems_products_have_all_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from robobrain_ros.engine.flagos.by_shape import flaggems_products

    monkeypatch.setattr(flaggems_products, "_import_flaggems", Gems)
    products = flaggems_products.FlagGemsProducts()
    x, weight, bias = torch.randn(4, 32).bfloat16(), torch.randn(48, 32).bfloat16().t(), torch.randn(48).bfloat16()
    for added in (None, bias):
        out = torch.empty(4, 48, dtype=torch.bfloat16)
        expected = torch.mm(x, weight) if added is None else torch.addmm(added, x, weight)
        assert products.obstacle(x, weight, added, out) == ""
        assert torch.equal(products.multiply(flagos_table.AUTOTUNED, x, weight, added), expected)
        assert products.multiply(flagos_table.AUTOTUNED, x, weight, added, out) is out
        assert torch.equal(out, expected)
