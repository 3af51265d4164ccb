"""The choice between FlagGems and native operators, with its options and tune file. No engine is started."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flagos_rig import choose, stand_in
from random_checkpoint import make_random_checkpoint

from robobrain_ros.engine.embedded.checkpoint import Checkpoint, read_checkpoint
from robobrain_ros.engine.flagos import decision, recovery, tune_file
from robobrain_ros.engine.flagos.choice import Operators
from robobrain_ros.engine.flagos.ledger import Failure
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_checkpoint(tmp_path_factory.mktemp("flagos") / "checkpoint")


@pytest.fixture
def found(tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """Put the stand-in for FlagGems on the import path."""
    with stand_in(tmp_path) as patch:
        yield patch


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"flagos_mode": "yes"}, "flagos.mode is 'yes'; it must be one of auto, on, off"),
        ({"flagos_include": ("mm",), "flagos_exclude": ("silu",)}, "flagos.include and flagos.exclude are both set"),
        ({"flagos_include": "mm"}, "flagos.include must be a list of non-empty texts"),
        ({"flagos_platform": "cuda"}, "flagos.platform is 'cuda'"),
    ],
)
def test_wrong_options_are_rejected(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(EngineConfigError) as caught:
        EngineOptions.of(model="some/model").changed(**changes).validate()
    assert said in caught.value.message


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_an_unknown_operator_is_rejected_with_the_nearest(found: pytest.MonkeyPatch, option: str) -> None:
    changes: dict[str, Any] = {f"flagos_{option}": ("argmaxx",)}
    options = EngineOptions.of(model="some/model").changed(**changes)
    with pytest.raises(EngineConfigError, match=f"flagos.{option}: FlagGems has no operator 'argmaxx'\\. Did you mean argmax\\?"):
        decision.check_names(options)


def test_without_flag_gems(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision, "installed", lambda: False)
    with pytest.raises(EngineConfigError, match=r"flagos\.mode is on, but flag-gems is not installed"):
        choose(model, mode="on")
    choice = choose(model, mode="auto")
    assert choice.operators is Operators.NATIVE
    assert "flag-gems is not installed" in choice.why


def test_without_an_accelerator(model: Path, found: pytest.MonkeyPatch) -> None:
    found.delenv("GEMS_VENDOR")
    with pytest.raises(EngineConfigError, match=r"flagos\.mode is on, but vLLM runs on the CPU here"):
        choose(model, mode="on")
    assert "vLLM runs on the CPU here" in choose(model).why
    assert choose(model, mode="off").why == "flagos.mode is off."


def test_a_platform_that_is_not_installed_is_rejected(model: Path) -> None:
    with pytest.raises(EngineConfigError, match="vllm-plugin-FL is not installed"):
        choose(model, platform="fl")


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Failure]]:
    """No failures are recorded in this process yet."""
    none: dict[str, list[Failure]] = {}
    monkeypatch.setattr(recovery, "_failures", none)
    return none


def test_after_three_failures_or_an_unnamed_one_none_is_used(
    model: Path, found: pytest.MonkeyPatch, failures: dict[str, list[Failure]]
) -> None:
    for name in ("mm", "silu"):
        recovery.remember(str(model), Failure(name, "it broke"))
        choice = choose(model, mode="on")
        assert choice.operators is Operators.OURS
        assert choice.exclude[-1] == name
    recovery.remember(str(model), Failure("cat", "it broke"))
    choice = choose(model, mode="on")
    assert choice.operators is Operators.NATIVE
    assert "FlagOS is disabled, because cat failed with it (it broke)" in choice.warning
    failures.clear()
    recovery.remember(str(model), Failure("", "its process died"))
    assert choose(model, mode="on").operators is Operators.NATIVE


def test_with_cuda_graphs_an_unnamed_failure_costs_the_graphs_first(
    model: Path, found: pytest.MonkeyPatch, failures: dict[str, list[Failure]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mode on requests FlagGems even if it is slow; mode auto requests speed. A patched platform check replaces a GPU."""
    from vllm.platforms import current_platform

    monkeypatch.setattr(type(current_platform), "is_cpu", lambda self: False)
    assert choose(model, mode="on").graphs
    eager = EngineOptions.of(model=str(model), flagos_mode="on", enforce_eager=True)
    assert not decision.choose(eager, read_checkpoint(model, local=True)).graphs
    recovery.remember(str(model), Failure("", "its first steps ended it"))
    slower = choose(model, mode="on")
    assert (slower.operators, slower.graphs) == (Operators.OURS, False)
    assert "FlagGems failed with CUDA graphs (its first steps ended it)" in slower.warning
    recovery.remember(str(model), Failure("silu", "it broke"))
    without = choose(model, mode="on")
    assert (without.operators, without.graphs, without.exclude) == (Operators.OURS, False, ("silu",))
    assert "FlagGems' operator silu failed" in without.warning
    recovery.remember(str(model), Failure("", "its process died"))
    assert choose(model, mode="on").operators is Operators.NATIVE


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Make vLLM's platform look like one with CUDA."""
    from vllm.platforms import current_platform

    monkeypatch.setattr(type(current_platform), "is_cpu", lambda self: False)
    monkeypatch.setattr(type(current_platform), "is_cuda", lambda self: True)
    return monkeypatch


@pytest.mark.parametrize(
    ("changes", "looks"),
    [
        ({}, True),
        ({"exclude": ("silu",)}, True),
        ({"include": ("mm_out",)}, True),
        ({"mode": "off"}, False),
        ({"mode": "on"}, False),
        ({"exclude": ("addmm",)}, False),
        ({"include": ("silu",)}, False),
    ],
)
def test_mode_auto_looks_for_a_table_unless_matrix_products_are_excluded(
    model: Path, found: pytest.MonkeyPatch, on_cuda: pytest.MonkeyPatch, changes: dict[str, Any], looks: bool
) -> None:
    assert choose(model, **changes).by_shape is looks


def test_no_table_is_looked_for_without_cuda_graphs_or_a_gpu(model: Path, on_cuda: pytest.MonkeyPatch) -> None:
    from vllm.platforms import current_platform

    eager = EngineOptions.of(model=str(model), enforce_eager=True)
    assert not decision.choose(eager, read_checkpoint(model, local=True)).by_shape
    on_cuda.setattr(type(current_platform), "is_cuda", lambda self: False)
    assert not choose(model).by_shape


def test_only_an_unnamed_failure_costs_the_table(
    model: Path, on_cuda: pytest.MonkeyPatch, failures: dict[str, list[Failure]]
) -> None:
    recovery.remember(str(model), Failure("silu", "it broke"))
    assert choose(model).by_shape
    assert choose(model).warning == ""
    recovery.remember(str(model), Failure("", "its process died"))
    without = choose(model)
    assert (without.operators, without.by_shape) == (Operators.NATIVE, False)
    assert "FlagOS is disabled, because the engine failed with it (its process died)" in without.warning


@pytest.fixture
def checkpoint(model: Path) -> Checkpoint:
    return read_checkpoint(model, local=True)


def test_auto_uses_what_was_measured_here(model: Path, checkpoint: Checkpoint, found: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "flagos.json"
    assert "Nothing was measured yet" in choose(model, tune_file=str(path)).why
    options = EngineOptions.of(model=str(model), flagos_tune_file=str(path))
    key = tune_file.key_of(options, checkpoint)
    assert key.chip
    assert "torch" in key.versions
    # Additional vLLM options of the user may change every measurement.
    assert tune_file.key_of(options.changed(extra='{"block_size": 32}'), checkpoint) != key
    tune_file.write(path, tune_file.TuningResult(key, ("argmax", "silu"), graphs=True))
    choice = choose(model, tune_file=str(path))
    assert (choice.operators, choice.include, choice.graphs, choice.late) == (Operators.OURS, ("argmax", "silu"), True, True)
    assert choose(model, tune_file=str(path), exclude=("silu",)).include == ("argmax",)
    assert choose(model, tune_file=str(path), include=("silu", "cos")).include == ("silu",)
    nothing = choose(model, tune_file=str(path), include=("cos",))
    assert (nothing.operators, "found no operator that is correct" in nothing.why) == (Operators.NATIVE, True)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("chip", "is for another chip (NVIDIA H20; here "),
        ("driver", "is for another driver (NVIDIA H20; here unknown"),
        ("model", "is for another model (NVIDIA H20; here qwen2_5_vl "),
        ("settings", "is for another way of running the model (NVIDIA H20; here dtype auto"),
        ("versions", "is for another set of versions (NVIDIA H20; here "),
    ],
)
def test_a_tune_file_of_something_else_is_not_used(
    model: Path, checkpoint: Checkpoint, found: pytest.MonkeyPatch, tmp_path: Path, part: str, said: str
) -> None:
    path = tmp_path / "flagos.json"
    key = tune_file.key_of(EngineOptions.of(model=str(model)), checkpoint)
    tune_file.write(path, tune_file.TuningResult(dataclasses.replace(key, **{part: "NVIDIA H20"}), ("silu",)))
    choice = choose(model, tune_file=str(path))
    assert choice.operators is Operators.NATIVE
    assert said in choice.why
    assert "Run tune_flagos here" in choice.why


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"format": 2}',
        '{"format": 1, "entries": []}',
        '{"format": 99, "entries": []}',
        '{"format": 2, "entries": [{}]}',
        '{"format": 2, "entries": [3]}',
        '{"format": 2, "entries": [{"key": {"chip": "", "driver": "", "model": "", "settings": "", "versions": ""}, '
        '"operators": "silu", "graphs": false, "table": [], "shapes": []}]}',
        '{"format": 2, "entries": [{"key": {"chip": "", "driver": "", "model": "", "settings": "", "versions": ""}, '
        '"operators": ["silu"], "graphs": false, "table": []}]}',
    ],
)
def test_a_damaged_tune_file_is_named(model: Path, found: pytest.MonkeyPatch, tmp_path: Path, content: str) -> None:
    path = tmp_path / "flagos.json"
    path.write_text(content)
    choice = choose(model, tune_file=str(path))
    assert choice.operators is Operators.NATIVE
    assert str(path) in choice.why
    assert "Run tune_flagos again" in choice.why


def test_writing_keeps_other_entries_and_replaces_its_own(checkpoint: Checkpoint, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "flagos.json"
    key = tune_file.key_of(EngineOptions.of(model=str(model)), checkpoint)
    other = dataclasses.replace(key, chip="NVIDIA H20")
    for tuned in (
        tune_file.TuningResult(key, ("mm",)),
        tune_file.TuningResult(other, ("cat",)),
        tune_file.TuningResult(key, ("silu",)),
    ):
        tune_file.write(path, tuned)
    assert [(entry.key, entry.operators) for entry in tune_file.read(path)] == [(other, ("cat",)), (key, ("silu",))]
