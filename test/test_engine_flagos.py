"""FlagGems in vLLM's real workers. A stand-in replaces FlagGems itself, and really replaces PyTorch's operators on the CPU."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flagos_rig import StartedEngine, choose, stand_in
from random_checkpoint import make_random_checkpoint

from robobrain_ros.engine.base import Constraint, Generation
from robobrain_ros.engine.flagos import recovery
from robobrain_ros.engine.flagos.choice import Operators
from robobrain_ros.engine.flagos.ledger import VARIABLE, Failure, Ledger, LedgerReader, WorkerEntry
from robobrain_ros.engine.flagos.operators import excluded_by_default, known_operators
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineFailedError

ANSWER = 60.0
pytestmark = pytest.mark.timeout(900)  # One test starts three engines, one after the other.
OPERATORS = ("argmax", "embedding", "gelu", "gems_silu_and_mul", "pow_scalar", "silu")
"""The stand-in's operators, without those that FlagScale, and FlagGems for this vendor, exclude."""


class Started(StartedEngine):
    """An engine on its own event loop."""

    def ask(self, seed: int = 0, form: str = "") -> str:
        return self.loop.submit(self._ask(seed, form)).result(ANSWER)

    async def _ask(self, seed: int, form: str) -> str:
        image = np.random.default_rng(seed).integers(0, 255, (224, 224, 3), np.uint8)
        constraint = Constraint(regex=form) if form else None
        generation = Generation(f"ask-{seed}", "the mug", [image], 16 if form else 8, constraint=constraint)
        text = ""
        async with aclosing(self.engine.generate(generation)) as stream:
            async for delta in stream:
                text += delta.text
        return text

    def use(self, *names: str) -> list[list[str]]:
        """Switch operators in the running engine."""
        call = self.engine._vllm.collective_rpc("flagos_use", args=(list(names),))
        used: list[list[str]] = self.loop.submit(call).result(ANSWER)
        return used


@contextmanager
def behaving(behaviour: dict[str, str], folder: Path, model: Path, **options: Any) -> Iterator[Started]:
    """Start an engine whose FlagGems operators have this behaviour. The unique model name keeps its stored failures separate."""
    own = folder / "model"
    own.symlink_to(model)
    with stand_in(folder, behaviour):
        running = Started(EngineOptions.of(model=str(own), flagos_mode="on", **options))
        try:
            yield running
        finally:
            running.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flagos")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return make_random_checkpoint(folder / "checkpoint")


@pytest.fixture(scope="module")
def started(folder: Path, model: Path) -> Iterator[Started]:
    options = EngineOptions.of(
        model=str(model), flagos_mode="on", flagos_record=True, flagos_tune_file=str(folder / "cache" / "flagos.json")
    )
    with stand_in(folder):
        running = Started(options)
        yield running
        running.close()


@pytest.fixture
def found(tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """Put the stand-in on the path."""
    with stand_in(tmp_path) as patch:
        yield patch


def test_registered_and_called_operators_are_reported(started: Started, folder: Path) -> None:
    info = started.info
    assert info.flagos_active
    assert tuple(info.details["flagos_registered"].split(", ")) == OPERATORS
    assert info.details["flagos_vendor"] == "arm"
    assert "SiluAndMul: FlagGems while gems_silu_and_mul is in use" in info.details["flagos_fused"]
    assert "RotaryEmbedding: vLLM" in info.details["flagos_fused"]
    assert "flag-gems" in info.details["flagos_parts"]
    started.use(*OPERATORS)
    assert started.engine.health().flagos_operators == ()
    started.ask()
    health = started.engine.health()
    assert {"argmax", "embedding", "gems_silu_and_mul"} <= set(health.flagos_operators) <= set(OPERATORS)
    assert health.flagos_active
    assert not health.warning
    log = Path(info.details["flagos_log"])
    assert log.parent == folder / "cache"
    assert "GEMS ARGMAX" in log.read_text()


def test_operators_are_switched_in_the_running_engine(started: Started) -> None:
    """Correct operators give the same answer as those of PyTorch."""
    assert started.use() == [[]]
    native = started.ask(seed=1)
    assert started.engine.health().flagos_operators == ()
    assert started.engine.health().flagos_active is False
    assert started.use("argmax", "silu", "nonsense") == [["argmax", "silu"]]
    assert started.ask(seed=1) == native
    # Without the fused operator, vLLM's own layer computes with PyTorch's silu, which FlagGems has replaced.
    assert started.engine.health().flagos_operators == ("argmax", "silu")


def test_failing_operators_are_left_out_one_by_one(tmp_path: Path, model: Path) -> None:
    """One operator raises an exception, and one ends its process. The engine starts without both, names them, and answers.

    The order depends on vLLM. Some versions choose a token during the start, others only in the first steps.
    """
    last_words = (
        "argmax failed (its process died while it ran). PyTorch's own operator replaces embedding, argmax",
        "embedding failed (RuntimeError: Triton cannot compile embedding). PyTorch's own operator replaces argmax, embedding",
    )
    with behaving({"embedding": "raise", "argmax": "crash"}, tmp_path, model) as running:
        registered = running.info.details["flagos_registered"].split(", ")
        assert registered == [name for name in OPERATORS if name not in ("argmax", "embedding")]
        warning = running.engine.health().warning
        assert any(words in warning for words in last_words)
        running.ask()


@pytest.mark.thorough
def test_the_model_is_loaded_natively(tmp_path: Path, model: Path) -> None:
    """An operator that would damage tables during loading, such as the rotary positions, does no harm."""
    with behaving({"cos": "raise"}, tmp_path, model, flagos_include=("argmax", "cos")) as running:
        assert running.info.details["flagos_registered"] == "argmax, cos"
        assert running.engine.health().warning == ""
        running.ask()


@pytest.mark.thorough
def test_an_operator_that_lets_forbidden_tokens_through_is_found_and_left_out(tmp_path: Path, model: Path) -> None:
    """The operator raises no exception and ends no process. Only an answer with a constraint reveals it."""
    with behaving({"argmax": "next"}, tmp_path, model) as running:
        registered = running.info.details["flagos_registered"].split(", ")
        assert registered == [name for name in OPERATORS if name != "argmax"]
        warning = running.engine.health().warning
        assert "FlagGems' operator argmax failed (the engine could not complete the first answers)" in warning
        assert running.ask(form=r"\[\[1, 2\]\]") == "[[1, 2]]"

        # If the operator is used again, a request fails, and the engine restarts without any operators of FlagGems.
        running.use(*OPERATORS)
        with pytest.raises(EngineFailedError, match="failed twice to answer this request"):
            running.ask(form=r"\[\[1, 2\]\]")
        assert running.engine.health().state == "failed"
        choice = choose(tmp_path / "model", mode="on")
        assert choice.operators is Operators.NATIVE
        assert "the engine failed with it (it could not answer a request)" in choice.warning


@pytest.mark.thorough
def test_an_operator_that_is_wrong_once_is_no_accident(tmp_path: Path, model: Path) -> None:
    """A second attempt would succeed, because the 17th token is the first one with a constraint. The engine cannot find out which
    operator failed, so it uses none.
    """
    with behaving({"argmax": "next at 17"}, tmp_path, model) as running:
        assert not running.info.flagos_active
        assert "the engine failed with it (the engine could not complete the first answers)" in running.engine.health().warning
        assert running.ask(form=r"\[\[1, 2\]\]") == "[[1, 2]]"


@pytest.mark.parametrize(
    ("guilty", "found"),
    [({"d"}, "d"), ({"a"}, "a"), ({"b", "e"}, "b"), (set(), "")],
)
def test_the_culprit_is_found_by_halves(guilty: set[str], found: str) -> None:
    tried: list[Sequence[str]] = []

    async def fail(names: Sequence[str]) -> bool:
        tried.append(names)
        return bool(guilty & set(names))

    assert asyncio.run(recovery.find_culprit("abcde", fail)) == found
    assert len(tried) <= 8


def test_what_fails_only_together_has_no_culprit() -> None:
    async def fail(names: Sequence[str]) -> bool:
        return {"a", "e"} <= set(names)

    assert asyncio.run(recovery.find_culprit("abcde", fail)) == ""


def test_what_fails_without_any_operator_has_no_culprit() -> None:
    """The damage that an operator has done may remain after the operator is removed."""
    tried: list[Sequence[str]] = []

    async def fail(names: Sequence[str]) -> bool:
        tried.append(names)
        return True

    assert asyncio.run(recovery.find_culprit("abcde", fail)) == ""
    assert tried == [()]


def written_by_a_worker(folder: Path, work: str, behaviour: dict[str, str], vendor: str = "arm") -> WorkerEntry:
    """Return what vLLM's worker writes when its module is imported, and what it does with the settings."""
    told: dict[str, Any] = {"include": None, "exclude": [], "folder": str(folder), "log_folder": "", "deferred": True}
    script = f"import robobrain_ros.engine.flagos.worker as worker\nworker{work}"
    with stand_in(folder, behaviour) as patch:
        patch.setenv("GEMS_VENDOR", vendor)
        patch.setenv(VARIABLE, json.dumps(told))
        subprocess.run([sys.executable, "-c", script], check=True, timeout=ANSWER)
    (folder / "behaviour.json").unlink()
    (entry,) = LedgerReader(folder).entries()
    return entry


@pytest.mark.parametrize(
    ("behaviour", "work", "said"),
    [
        pytest.param("import", "", "RuntimeError: The Triton device is not found.", marks=pytest.mark.thorough),
        ("enable", ".FlagosExtension().flagos_begin()", "RuntimeError: There is no such kernel here."),
    ],
)
def test_where_flag_gems_cannot_be_used_the_worker_goes_on(tmp_path: Path, behaviour: str, work: str, said: str) -> None:
    entry = written_by_a_worker(tmp_path, work, {behaviour: "raise"})
    assert (entry.registered, entry.error) == ((), said)


@pytest.mark.parametrize(
    ("vendor", "left_out"), [pytest.param("arm", {"cos"}, marks=pytest.mark.thorough), ("nvidia", {"pow_scalar"})]
)
def test_what_is_left_out_depends_on_the_maker(tmp_path: Path, vendor: str, left_out: set[str]) -> None:
    """FlagGems excludes cos on chips of other vendors than NVIDIA. vllm-plugin-FL excludes pow_scalar on NVIDIA's chips."""
    entry = written_by_a_worker(tmp_path, ".FlagosExtension().flagos_begin()", {}, vendor)
    assert set(entry.registered) == {*OPERATORS, "cos"} - left_out


@pytest.mark.parametrize(
    ("version", "excluded"),
    [("5.0.2", True), ("5.2.9", True), ("", True), ("unknown", True), ("5.3.0", False), ("5.4.0.dev0+ged2508b", False)],
)
def test_mul_is_left_out_in_the_versions_that_do_not_broadcast(version: str, excluded: bool) -> None:
    assert ("mul" in excluded_by_default("nvidia", version)) is excluded
    assert "to_copy" in excluded_by_default("nvidia", version)
    assert "mul" not in excluded_by_default("arm", version)


def test_the_ledger_knows_where_a_process_ended(tmp_path: Path) -> None:
    script = f"""
import os
from pathlib import Path
from robobrain_ros.engine.flagos.ledger import Ledger
ledger = Ledger(Path({str(tmp_path)!r}), ["mm", "silu"])
ledger.watched("mm", ledger.watched("silu", lambda: None))()
ledger.watched("mm", lambda: os.kill(os.getpid(), 9))()
"""
    subprocess.run([sys.executable, "-c", script], check=False, timeout=ANSWER)
    reader = LedgerReader(tmp_path)
    assert reader.called() == ("mm", "silu")
    assert reader.failure() == Failure("mm", "its process died while it ran")


def test_an_exception_is_remembered_and_passed_on(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, ["mm"])

    def fail() -> None:
        raise ValueError("no kernel")

    with pytest.raises(ValueError, match="no kernel"):
        ledger.watched("mm", fail)()
    assert LedgerReader(tmp_path).failure() == Failure("mm", "ValueError: no kernel")


def test_the_operators_are_read_without_importing(found: pytest.MonkeyPatch) -> None:
    assert known_operators() == {*OPERATORS, "cos", "exponential_", "gems_rms_forward"}
    assert "flag_gems" not in sys.modules
