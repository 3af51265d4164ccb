"""A real stopped engine: the stall is detected, requests can be cancelled, and the engine restarts."""

import asyncio
import re
import signal
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import numpy as np
import psutil
import pytest
from engine_loop import OnLoop
from processes import engine_processes

from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.engine.base import Engine, Generation
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.engine.supervisor import Supervisor, Timings
from robobrain_ros.errors import EngineFailedError

START = 280.0
SIDE = 224
OPTIONS = EngineOptions.of(model=str(DEMO_MODEL), stall_timeout=6.0, image_cache_mib=1, max_pixels=SIDE * SIDE, max_num_seqs=4)


class Running(OnLoop):
    """A supervised engine on its own event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[EmbeddedEngine] = []
        self.supervisor = self.wait(self._make())
        self.info = self.wait(self.supervisor.start(lambda progress: None), START)

    async def _make(self) -> Supervisor:
        return Supervisor(self._engine, max_queued=4, max_running=4, timings=Timings(first_back_off=0.1))

    def _engine(self) -> Engine:
        self.made.append(EmbeddedEngine(OPTIONS))
        return self.made[-1]

    async def answer(self, number: int, timeout: float = 60.0, seed: int = 0) -> str:
        image = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
        generation = Generation(f"request-{number}", "?", [image], 4)
        async with asyncio.timeout(timeout), aclosing(self.supervisor.generate(generation)) as stream:
            return "".join([delta.text async for delta in stream])

    async def until(self, condition: Any, limit: float) -> None:
        async with asyncio.timeout(limit):
            while not condition():
                await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    it = Running()
    yield it
    it.wait(it.supervisor.close())
    assert it.loop.stop()


@pytest.mark.timeout(START)
def test_prepared_images_keep_to_their_memory(running: Running) -> None:
    """vLLM evicts images by the same rule in the engine's process, which stores the images themselves."""
    cache = running.made[-1].vllm.renderer.mm_processor_cache._cache
    bound = 3 << 20  # An image of engine.max_pixels has at most 1.2 MB.
    assert cache.maxsize <= bound
    assert re.fullmatch(r"\d of 3 MiB per process, \d images", running.supervisor.health().image_cache)
    for number in range(40):
        running.wait(running.answer(number, seed=number))
    assert 0 < cache.currsize <= bound
    kept = len(cache)
    hits = cache.stat().hits
    running.wait(running.answer(100, seed=39))
    assert cache.stat().hits > hits
    assert len(cache) == kept
    used = round(cache.currsize / (1 << 20))
    assert running.supervisor.health().image_cache == f"{used} of 3 MiB per process, {kept} images"
    assert used >= 2, "40 images have filled it"


@pytest.mark.timeout(START)
def test_ctrl_c_in_a_terminal_does_not_end_the_engine(running: Running) -> None:
    """A terminal sends SIGINT to all processes of a program. The program ends the engine itself, after its own shutdown work."""
    for process in engine_processes():
        process.send_signal(signal.SIGINT)
    running.wait(running.answer(150, seed=150))
    assert running.supervisor.health().restarts == 0


@pytest.mark.timeout(START)
def test_a_stopped_engine_is_noticed_and_restarted(running: Running) -> None:
    processes = engine_processes()
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    with pytest.raises((TimeoutError, EngineFailedError)):
        running.wait(running.answer(200, timeout=1.0, seed=1000))
    # The documented limit is ten seconds.
    running.wait(running.until(lambda: "is stopped" in running.supervisor.health().warning, 10.0))
    running.wait(running.until(lambda: running.supervisor.health().restarts == 1, START), START)
    _, alive = psutil.wait_procs(processes, timeout=30.0)
    assert not alive
    assert running.supervisor.health().warning == ""
    running.wait(running.answer(300))
