"""tune_flagos with matrix products by shape: real engines on the CPU, whose workers report a scripted GPU."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flagos_rig import StartedEngine, stand_in
from random_checkpoint import make_random_checkpoint
from shape_entries import GPU

from robobrain_ros.cli import tune_flagos, tuning_run
from robobrain_ros.cli.engine_comparison import AnswerTimes
from robobrain_ros.cli.operator_tuner import Settings, native_choice
from robobrain_ros.cli.tune_flagos import tune
from robobrain_ros.cli.whole_engines import Side
from robobrain_ros.engine.embedded import arguments, image_bytes
from robobrain_ros.engine.embedded.checkpoint import Checkpoint, read_checkpoint
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.flagos import decision
from robobrain_ros.engine.flagos.by_shape import own_table, table
from robobrain_ros.engine.flagos.choice import Operators
from robobrain_ros.engine.flagos.tune_file import TuningResult
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError

pytestmark = pytest.mark.timeout(900)

SETTINGS = Settings(pairs=1, scenes=1, tokens=4, size=(224, 224))


@pytest.fixture
def scripted_gpu(tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """Let engines on this machine measure and use matrix products by shape. There is no table of the package for the GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("VLLM_TABLE_WORKER_TABLES", str(tmp_path / "package"))
        patch.setattr(arguments, "TABLE_WORKER", "vllm_table_worker.CpuTableWorker")
        patch.setattr(arguments, "TUNING_WORKER", "vllm_tuning_worker.CpuTuningWorker")
        patch.setattr(decision, "_obstacle_to_shapes", lambda options, platform: "")
        patch.setattr(decision, "graphs_are_possible", lambda options: True)
        patch.setattr(tune_flagos, "gpu_memory", lambda: 1000.0)
        yield patch


def script_answers(patch: pytest.MonkeyPatch, tuned_seconds: float) -> None:
    """Script the times of complete engines: a native one takes 1 s for an answer."""

    async def one(side: Side, index: int) -> AnswerTimes:
        choice = side.engine._given_choice
        assert choice is not None
        return AnswerTimes(0.1, tuned_seconds if choice.by_shape else 1.0)

    patch.setattr(Side, "one", one)
    patch.setattr(Side, "at_once", one)


def run(options: EngineOptions) -> tuple[TuningResult, list[str]]:
    said: list[str] = []
    return asyncio.run(tune(options, SETTINGS, said.append, minutes=60.0)), said


def engine_options(tmp_path: Path, **changes: Any) -> EngineOptions:
    model = make_random_checkpoint(tmp_path / "checkpoint")
    return EngineOptions.of(
        model=str(model), dtype="bfloat16", flagos_tune_file=str(tmp_path / "flagos.json"), max_num_seqs=8, **changes
    )


@pytest.mark.thorough
def test_operators_and_shapes_are_measured_and_auto_uses_both(tmp_path: Path, scripted_gpu: pytest.MonkeyPatch) -> None:
    options = engine_options(tmp_path)
    with stand_in(
        tmp_path, {"argmax": "native slow", "embedding": "wrong", **dict.fromkeys(("gelu", "silu", "gems_silu_and_mul"), "slow")}
    ):
        script_answers(scripted_gpu, 0.9)
        tuned, said = run(options)
        choice = decision.choose(options, read_checkpoint(Path(options.model), local=True))
    assert tuned.operators == ("argmax",)
    assert tuned.graphs
    assert (choice.operators, choice.include, choice.late, choice.by_shape) == (Operators.OURS, ("argmax",), True, True)
    saved = table.read(table.table_file(GPU, own_table.folder_for(Path(options.flagos.tune_file))))
    assert {made.rows for made in saved.entries} == {1, 2, 4, 8}, "not more rows than requests at a time"
    assert saved.measured["torch"] == torch.__version__
    assert len(tuned.shapes) == len(saved.entries)
    titles = [str(row["name"]) for row in tuned.table]
    assert titles[-2:] == ["1 operators and 4 shape classes, 1 request", "1 operators and 4 shape classes, 8 requests"]
    assert any("The engine started and answered in" in line for line in said)
    folder = own_table.folder_for(tmp_path / "flagos.json")
    assert any(f"will use 4 shape classes of matrix products ({folder}" in line for line in said)


@pytest.mark.thorough
def test_a_table_that_makes_the_engine_slower_is_not_used(tmp_path: Path, scripted_gpu: pytest.MonkeyPatch) -> None:
    options = engine_options(tmp_path)
    script_answers(scripted_gpu, 1.1)
    tuned, said = run(options)
    assert tuned.operators == ()
    assert any("FlagGems' operators are not measured: flag-gems is not installed" in line for line in said)
    saved = table.read(table.table_file(GPU, own_table.folder_for(Path(options.flagos.tune_file))))
    assert saved.entries == ()
    assert saved.weights
    started = StartedEngine(options)
    try:
        assert "tune_flagos found no matrix product that is correct and faster" in started.info.details["flagos_shapes"]
    finally:
        started.close()


@pytest.mark.thorough
def test_an_engine_that_does_not_use_the_table_is_not_kept(tmp_path: Path, scripted_gpu: pytest.MonkeyPatch) -> None:
    options = engine_options(tmp_path)
    script_answers(scripted_gpu, 0.9)
    scripted_gpu.setattr(arguments, "TABLE_WORKER", image_bytes.WORKERS["cpu"])
    tuned, said = run(options)
    assert str(tuned.table[-1]["word"]) == "not used: The engine does not use the table."
    assert len(tuned.shapes) == 4
    assert any("The matrix products stay as they are" in line for line in said)
    assert not own_table.folder_for(Path(options.flagos.tune_file)).exists(), "the package's table, if there is one, applies"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("VLLM_TUNING_WORKER_NO_DEVICE", "No shape classes were found in the engine. RuntimeError: this process has no GPU"),
        ("VLLM_TUNING_WORKER_CRASH", "Measuring matrix products ended the engine"),
    ],
)
def test_shapes_that_cannot_be_measured_leave_the_rest(
    tmp_path: Path, scripted_gpu: pytest.MonkeyPatch, variable: str, words: str
) -> None:
    options = engine_options(tmp_path)
    scripted_gpu.setenv(variable, "1")
    tuned, said = run(options)
    assert any(words in line for line in said)
    assert (tuned.operators, tuned.shapes) == ((), [])
    assert not own_table.folder_for(Path(options.flagos.tune_file)).exists()


@pytest.mark.thorough
def test_a_time_limit_that_is_too_short_changes_nothing(tmp_path: Path, scripted_gpu: pytest.MonkeyPatch) -> None:
    options = engine_options(tmp_path)

    async def take_long(run: Any, tuner: Any, state: Any, path: Path, *, needed: bool) -> tuple[list[str], list[Any]]:
        scripted_gpu.setattr(tuning_run, "_ANSWERS_TIME", 100_000.0)
        return [], []

    scripted_gpu.setattr(tuning_run.TuningRun, "_operators", take_long)
    with pytest.raises(EngineConfigError, match=r"The time limit of 60 minutes is too short .* with --minutes \d+"):
        run(options)
    assert not Path(options.flagos.tune_file).exists()
    assert not own_table.folder_for(Path(options.flagos.tune_file)).exists()


@pytest.mark.thorough
def test_the_worker_names_the_output_layer(tmp_path: Path, scripted_gpu: pytest.MonkeyPatch) -> None:
    options = engine_options(tmp_path)

    async def ask() -> list[Any]:
        engine = EmbeddedEngine(options, choice=native_choice(flaggems=False, tunes=True))
        try:
            await engine.start(lambda progress: None)
            return await engine.call_workers("shape_classes")
        finally:
            await engine.close()

    [reply] = asyncio.run(ask())
    assert {(shape["operator"], shape["rows"]) for shape in reply["shapes"]} == {("mm", rows) for rows in (1, 2, 4, 8)}
    assert all(shape["count"] >= 1 for shape in reply["shapes"])


@pytest.mark.parametrize(
    ("gigabytes", "gpus", "memory", "fit"),
    [(16.6, 1, 80.0, True), (67.0, 1, 80.0, False), (67.0, 2, 80.0, False), (0.0, 1, 16.0, False)],
)
def test_two_engines_share_the_gpu_where_their_weights_fit(gigabytes: float, gpus: int, memory: float, fit: bool) -> None:
    checkpoint = Checkpoint(Path(), True, "qwen2_5_vl", 28, 0, 0, 0, "bfloat16", gigabytes)
    options = EngineOptions.of(model="some/model", tensor_parallel_size=gpus)
    assert tuning_run.both_fit(options, checkpoint, memory) == fit
