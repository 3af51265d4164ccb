"""The schedule and the arithmetic of the soak test, and a short run on a real engine."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmark"))

import soak
from soak_faults import ENGINE_FAULTS, OTHER_FAULTS, schedule


def test_thirty_faults_are_of_every_kind_and_leave_the_engine_alone_in_the_second_half() -> None:
    plan = schedule(30, seed=1)
    assert len(plan) == 30
    assert {name for _, name in plan} == {*ENGINE_FAULTS, *OTHER_FAULTS}
    assert [when for when, _ in plan] == sorted(when for when, _ in plan)
    assert all(0.0 < when < 1.0 for when, _ in plan)
    assert max(when for when, name in plan if name in ENGINE_FAULTS) < 0.5


def _samples(pid: int, per_request: float, first: int = 0) -> list[soak.Sample]:
    noise = np.random.default_rng(pid)
    return [
        soak.Sample(answered, answered / 10.0, pid, "engine", 500.0 + per_request * answered + noise.normal(0.0, 0.5), 20, 9)
        for answered in range(first, 10_000, 50)
    ]


@pytest.mark.parametrize("slope", [0.0, 0.7, 70.0])
def test_the_slope_is_that_of_the_second_half(slope: float) -> None:
    samples = _samples(1, slope / 1000.0)
    for sample in samples[:80]:
        sample.memory -= 300.0  # The growth at the beginning does not count.
    for periods in (20, 0):
        ((name, (measured, error)),) = soak.slopes(samples, 10_000, periods=periods).items()
        assert name == "engine (1)"
        assert measured == pytest.approx(slope, abs=0.2)
        assert 0.0 < error < 0.1


@pytest.mark.parametrize("slope", [0.0, 2.0])
def test_memory_that_the_process_returns_does_not_hide_its_growth(slope: float) -> None:
    samples = [
        soak.Sample(answered, 0.0, 1, "node", 500.0 + slope / 1000.0 * answered + answered % 230 / 2.3, 20, 9)
        for answered in range(0, 10_000, 10)
    ]
    ((measured, error),) = soak.slopes(samples, 10_000).values()
    assert measured == pytest.approx(slope, abs=0.3)
    assert error < 0.3


def test_later_parts_have_slopes_of_their_own() -> None:
    samples = _samples(1, 0.0)
    for sample in samples:
        sample.memory += 2.0 / 1000.0 * min(sample.answered, 7_500)  # The growth ends.
    assert soak.slopes(samples, 10_000)["engine (1)"][0] > 0.8
    assert soak.slopes(samples, 10_000, 0.75)["engine (1)"][0] == pytest.approx(0.0, abs=0.2)


def test_a_process_that_lived_for_a_moment_has_no_slope() -> None:
    assert soak.slopes(_samples(1, 5.0, first=9_000), 10_000) == {}


GROWS = """
print("started", flush=True)
input()
block = bytes([1]) * (50 * 2**20)
print(len(block), flush=True)
input()
"""


def test_memory_is_that_of_the_process_itself() -> None:
    """A process grows by the memory that it allocates and writes. The test's own process has threads that change its memory."""
    with subprocess.Popen([sys.executable, "-c", GROWS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        before = soak.memory_mb(psutil.Process(process.pid))
        process.stdin.write("grow\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{50 * 2**20}\n"
        grown = soak.memory_mb(psutil.Process(process.pid)) - before
        process.communicate("end\n", timeout=60)
    assert grown == pytest.approx(50.0, abs=5.0)


@pytest.mark.thorough
def test_a_short_soak_on_a_real_engine(tmp_path: Path) -> None:
    """Every request is answered, even during faults. The memory of so few requests is not checked."""
    command = [sys.executable, soak.__file__, "--requests", "40", "--faults", "3", "--output", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    found = json.loads((tmp_path / "soak.json").read_text(encoding="utf-8"))
    assert found["reached"]["unanswered"], result.stdout + result.stderr
    assert found["reached"]["duplicates"], result.stdout
    assert found["reached"]["faults survived"], result.stdout + result.stderr
    assert found["ledger"]["sent"] >= 40
    assert (tmp_path / "soak.png").stat().st_size > 10_000
