"""The benchmark of the bag program: its memory with a bag of 2 GB, and with a small bag."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed")
sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmark"))

import bags


@pytest.mark.parametrize("gigabytes", [0.05, pytest.param(2.0, marks=[pytest.mark.thorough, pytest.mark.timeout(600)])])
def test_the_memory_does_not_depend_on_the_size_of_the_bag(tmp_path: Path, gigabytes: float) -> None:
    """The goal is 1500 MB. The program needs about 180 MB."""
    images = bags.write_large_bag(tmp_path / "bag", round(gigabytes * 1e9))
    found = bags.measure_memory(tmp_path / "bag", 0.0)
    assert images > 30 * gigabytes
    assert found["before"] < found["peak"] < 400.0


def test_the_benchmark_prints_a_ratio() -> None:
    """A short run. Its ratio depends on the load of the machine, so it is not compared."""
    command = [sys.executable, bags.__file__, "--requests", "16", "--pairs", "1", "--gigabytes", "0", "--latency", "0.01"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert "of the engine's own with 8 requests in flight (goal: 0.9)" in done.stdout
