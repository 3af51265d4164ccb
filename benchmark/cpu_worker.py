"""Compare vLLM's worker in the engine's process with a worker in its own process, on a CPU: `python benchmark/cpu_worker.py`.

The engines start alternately, each in its own Python process, with the demo model. Each one answers questions about new images.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import psutil
from figures import plain_table, tell

from robobrain_ros.core import Brain, Query, Task
from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.demo.world import make_scene
from robobrain_ros.errors import NothingFoundError, UnparsableAnswerError
from robobrain_ros.local import open_brain

BACKENDS = {"": "in the engine's process", "mp": "in its own process"}
"""Values of ``engine.distributed_executor_backend``, and where the worker runs."""
_QUESTIONS = 40
_AT_ONCE = 8
_LIMIT = 600.0
"""Time limit of a Python process in seconds."""


@dataclass(frozen=True)
class Measured:
    """An engine: seconds of the start and of its CPU time, MB of memory without that of this process, and times of answers."""

    start_s: float
    start_cpu_s: float
    memory_mb: float
    answer_ms: float
    answer_p95_ms: float
    eight_s: float


async def ask(brain: Brain, seed: int) -> float:
    """Ask about a new image, and return the seconds until the answer."""
    query = Query(Task.POINT, "the red mug", [make_scene(seed, (1280, 720)).image])
    began = time.perf_counter()
    with contextlib.suppress(NothingFoundError, UnparsableAnswerError):  # A scene without a red mug takes as long.
        await brain.run(query)
    return time.perf_counter() - began


async def measure(backend: str) -> Measured:
    """Start an engine, and ask it questions."""
    began = time.perf_counter()
    brain = await open_brain(str(DEMO_MODEL), progress=lambda message: None, distributed_executor_backend=backend)
    start = time.perf_counter() - began
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    used = sum(sum(process.cpu_times()[:2]) for process in family)
    await ask(brain, 1)
    times = [await ask(brain, 100 + number) for number in range(_QUESTIONS)]
    began = time.perf_counter()
    await asyncio.gather(*(ask(brain, 500 + number) for number in range(_AT_ONCE)))
    together = time.perf_counter() - began
    memory = sum(process.memory_full_info().uss for process in family[1:]) / 1e6
    await brain.close()
    slow = statistics.quantiles(times, n=20)[-1]
    return Measured(start, used, memory, statistics.median(times) * 1e3, slow * 1e3, together)


def run_child(backend: str) -> Measured:
    """Measure an engine in another Python process."""
    command = [sys.executable, __file__, "--backend", backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all engines, and print the medians as a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="starts of each engine (default: 3)")
    parser.add_argument("--backend", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.backend is not None:
        print(json.dumps(asdict(asyncio.run(measure(options.backend)))))
        return
    found: dict[str, list[Measured]] = {backend: [] for backend in BACKENDS}
    for number in range(options.repeat):
        for backend in BACKENDS:
            found[backend].append(run_child(backend))
            tell(f"{number + 1} of {options.repeat}, worker {BACKENDS[backend]}: {found[backend][-1]}")
    head = [
        "worker",
        "start, s",
        "CPU time of the start, s",
        "memory, MB",
        "answer, ms",
        "p95, ms",
        f"{_AT_ONCE} answers at once, s",
    ]
    rows = [[BACKENDS[backend], *medians(measured)] for backend, measured in found.items()]
    print(plain_table([head, *rows]))


def medians(measured: Sequence[Measured]) -> list[str]:
    """Return the median of each value."""
    values = (asdict(one).values() for one in measured)
    return [f"{statistics.median(column):.1f}" for column in zip(*values, strict=True)]


if __name__ == "__main__":
    main()
