"""Operators by shape in the worker of a real engine on the CPU. They start when the model is loaded and never prevent a start."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flagos_rig import StartedEngine
from random_checkpoint import make_random_checkpoint
from shape_entries import GPU, TILE, Computed, entry

from robobrain_ros.engine.base import Generation
from robobrain_ros.engine.embedded import arguments
from robobrain_ros.engine.flagos import decision
from robobrain_ros.engine.flagos.by_shape import report, table
from robobrain_ros.engine.flagos.by_shape.operators import ShapeOperators
from robobrain_ros.engine.flagos.by_shape.report import TableReport
from robobrain_ros.engine.flagos.by_shape.table import ShapeTable
from robobrain_ros.engine.flagos.choice import Choice, Operators
from robobrain_ros.engine.flagos.session import Session
from robobrain_ros.engine.options import EngineOptions

pytestmark = pytest.mark.timeout(600)


class Started(StartedEngine):
    """An engine that answers."""

    async def ask(self) -> list[Any]:
        image = np.zeros((224, 224, 3), np.uint8)
        return [delta async for delta in self.engine.generate(Generation("ask", "the mug", [image], 4))]


@pytest.fixture
def looks_for_table(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Make engines in mode auto look for a table on this machine too, with the CPU worker."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(arguments, "TABLE_WORKER", "vllm_table_worker.CpuTableWorker")
    monkeypatch.setattr(decision, "_looks_for_table", lambda options, choice, platform: True)
    return monkeypatch


@pytest.mark.thorough
def test_a_worker_looks_for_its_table_after_loading_and_answers_without_a_gpu(
    tmp_path: Path, looks_for_table: pytest.MonkeyPatch
) -> None:
    folder = make_random_checkpoint(tmp_path / "model")
    started = Started(EngineOptions.of(model=str(folder)))
    try:
        assert started.info.details["flagos_shapes"] == "Native matrix products: this process has no GPU."
        assert not started.info.flagos_active
        assert started.engine.health().flagos_operators == ()
        [sizes] = started.wait(started.engine.vllm.collective_rpc("weight_sizes"))
        config = json.loads((folder / "config.json").read_text())
        text = config.get("text_config", config)
        # On the CPU vLLM packs the matrices of the layers into its own format. The output layer is not packed.
        assert (text["hidden_size"], text["vocab_size"]) in {tuple(size) for size in sizes}
        assert started.wait(started.ask())
    finally:
        started.close()


def test_the_output_layer_is_computed_by_its_entries(tmp_path: Path, looks_for_table: pytest.MonkeyPatch) -> None:
    folder = make_random_checkpoint(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    text = config.get("text_config", config)
    k, n = text["hidden_size"], text["vocab_size"]
    entries = tuple(replace(entry(rows, k, n), launch=TILE) for rows in (1, 4))
    table.write(table.table_file(GPU, tmp_path), ShapeTable(GPU, "2", "3", entries))
    looks_for_table.setenv("VLLM_TABLE_WORKER_TABLES", str(tmp_path))
    started = Started(EngineOptions.of(model=str(folder), dtype="bfloat16"))
    try:
        assert started.info.details["flagos_shapes_in_use"] == f"mm bfloat16 {k}x{n}: 1, 4 rows"
        assert started.engine.health().flagos_operators == ("mm by shape",)
        [before] = started.wait(started.engine.vllm.collective_rpc("products"))
        assert started.wait(started.ask())
        [after] = started.wait(started.engine.vllm.collective_rpc("products"))
        assert {tuple(product) for product in after[len(before) :]} == {(1, k, n, False)}
        assert len(after) == len(before) + 4, "one for each token"
    finally:
        started.close()


@pytest.mark.thorough
def test_a_check_that_ends_the_engine_costs_the_table_and_not_the_start(
    tmp_path: Path, looks_for_table: pytest.MonkeyPatch
) -> None:
    crashed = tmp_path / "crashed"
    looks_for_table.setenv("VLLM_TABLE_WORKER_CRASH_ONCE", str(crashed))
    started = Started(EngineOptions.of(model=str(make_random_checkpoint(tmp_path / "model"))))
    try:
        assert crashed.exists()
        assert (
            "FlagOS is disabled, because the engine failed with it (the engine did not start)" in started.engine.health().warning
        )
        assert "flagos_shapes" not in started.info.details
        assert started.wait(started.ask())
    finally:
        started.close()


@pytest.mark.parametrize(
    ("eager", "batch_invariant", "why"), [(True, "0", "without CUDA graphs"), (False, "1", "not batch invariant")]
)
def test_an_engine_that_cannot_use_a_table_stays_native(
    eager: bool, batch_invariant: str, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("vllm")
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", batch_invariant)
    from robobrain_ros.engine.flagos.by_shape.vllm_worker import TableWorkerMixin

    class Loads:
        vllm_config = SimpleNamespace(model_config=SimpleNamespace(enforce_eager=eager))

        def load_model(self, **options: Any) -> None:
            self.loaded = options

        def compile_or_warm_up_model(self) -> str:
            return "compiled"

    class Worker(TableWorkerMixin, Loads):
        pass

    monkeypatch.setenv(report.VARIABLE, str(tmp_path))
    worker = Worker()
    worker.load_model(load_dummy_weights=True)
    assert worker.loaded == {"load_dummy_weights": True}
    assert worker.compile_or_warm_up_model() == "compiled"
    [found] = report.read(tmp_path)
    assert not found.in_use
    assert why in found.details["flagos_shapes"]


def worker_with_table(model: Any, operators: ShapeOperators, head_dtype: torch.dtype) -> Any:
    """Return a worker whose GPU has passed the check of its table.

    :param model: the model that vLLM has loaded.
    :param head_dtype: the data type of the logits.
    """
    pytest.importorskip("vllm")
    from robobrain_ros.engine.flagos.by_shape.start import StartResult
    from robobrain_ros.engine.flagos.by_shape.vllm_worker import TableWorkerMixin

    class Loads:
        vllm_config = SimpleNamespace(model_config=SimpleNamespace(dtype=torch.bfloat16, head_dtype=head_dtype))

        def load_model(self) -> None:
            pass

        def get_model(self) -> Any:
            return model

    class Worker(TableWorkerMixin, Loads):
        def _start(self) -> StartResult:
            return StartResult(operators, "1 shape class.")

    return Worker()


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the folder with the reports of the workers."""
    monkeypatch.setenv(report.VARIABLE, str(tmp_path))
    return tmp_path


def test_a_model_that_cannot_be_inspected_costs_the_table_and_not_the_start(reports: Path) -> None:
    class Broken(torch.nn.Module):
        @property
        def lm_head(self) -> Any:
            raise RuntimeError("not built yet")

    worker = worker_with_table(Broken(), ShapeOperators([entry()], {"skinny": Computed()}, key="CPU"), torch.bfloat16)
    worker.load_model()
    [found] = report.read(reports)
    assert not found.in_use
    assert found.details["flagos_shapes"] == "Native matrix products: RuntimeError: not built yet"


def test_a_kernel_that_fails_after_the_start_is_reported(reports: Path) -> None:
    def fail(result: Any, k: int, n: int) -> None:
        raise RuntimeError("illegal address")

    operators = ShapeOperators([entry(4)], {"skinny": Computed(fail)}, key="CPU")
    worker_with_table(torch.nn.Module(), operators, torch.bfloat16).load_model()
    [before] = report.read(reports)
    assert "flagos_shapes_failed" not in before.details
    assert operators.compute("mm", torch.zeros(4, 32, dtype=torch.bfloat16), torch.zeros(32, 48, dtype=torch.bfloat16)) is None
    [after] = report.read(reports)
    assert after.details["flagos_shapes_failed"] == "mm bfloat16 4x32x48: RuntimeError: illegal address"


@pytest.mark.parametrize(("head_dtype", "used"), [(torch.bfloat16, True), (torch.float32, False)])
def test_the_output_layer_uses_the_table_only_where_vllm_asks_its_method(
    head_dtype: torch.dtype, used: bool, reports: Path
) -> None:
    embedding = pytest.importorskip("vllm.model_executor.layers.vocab_parallel_embedding")
    model = torch.nn.Module()
    model.lm_head = torch.nn.Linear(32, 48, bias=False, dtype=torch.bfloat16)
    model.lm_head.quant_method = native = embedding.UnquantizedEmbeddingMethod()
    operators = ShapeOperators([entry(rows) for rows in table.ROWS], {"skinny": Computed()}, key="CPU")
    worker_with_table(model, operators, head_dtype).load_model()
    assert (model.lm_head.quant_method is native) is not used
    [found] = report.read(reports)
    assert ("flagos_shapes_in_use" in found.details) is used


def test_an_output_layer_that_cannot_be_computed_keeps_its_method() -> None:
    embedding = pytest.importorskip("vllm.model_executor.layers.vocab_parallel_embedding")
    from robobrain_ros.engine.flagos.by_shape import output_layer

    native = embedding.UnquantizedEmbeddingMethod()
    model = torch.nn.Module()
    model.lm_head = torch.nn.Module()  # It has no weights with the usual name.
    model.lm_head.quant_method = native
    output_layer.use_table(model, ShapeOperators([entry()], {"skinny": Computed()}, key="CPU"))
    assert model.lm_head.quant_method is native


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """Return a session whose engine looks for a table. This process is its worker."""
    session = Session(Choice(Operators.NATIVE, "no FlagGems", by_shape=True), EngineOptions.of(model="some/model"))
    for name, value in session.environment().items():
        if value is not None:
            monkeypatch.setenv(name, value)
    yield session
    session.release()


def test_a_session_reports_the_table_that_its_worker_uses(session: Session) -> None:
    assert not session.active
    assert session.failure("its process died") is None
    report.write(TableReport(in_use=True))
    assert session.active, "its check may have ended the process"
    report.write(TableReport(in_use=True, operators=("mm",), details={"flagos_shapes": "37 shape classes."}))
    assert session.details()["flagos_shapes"] == "37 shape classes."
    assert session.operators == ("mm by shape",)
    failure = session.failure("its process died")
    assert failure is not None
    assert (failure.operator, failure.how) == ("", "its process died")


def test_a_worker_that_stays_native_is_not_blamed(session: Session) -> None:
    report.write(TableReport(in_use=True))
    report.write(TableReport(in_use=False, details={"flagos_shapes": "Native matrix products: this process has no GPU."}))
    assert not session.active
    assert session.operators == ()
    assert session.failure("its process died") is None


def test_without_a_folder_no_report_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(report.VARIABLE, raising=False)
    report.write(TableReport(in_use=True))
    monkeypatch.setenv(report.VARIABLE, str(tmp_path / "missing"))
    report.write(TableReport(in_use=True))
    assert list(tmp_path.iterdir()) == []
