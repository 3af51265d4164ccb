"""The real embedded engine: vLLM on the CPU with tiny checkpoints of random weights."""

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from engine_loop import OnLoop
from processes import engine_processes
from random_checkpoint import make_random_checkpoint

from robobrain_ros.engine.base import EngineInfo, Generation, LoadProgress, TextDelta
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.engine.runtime import LoopThread
from robobrain_ros.engine.supervisor import Supervisor, Timings
from robobrain_ros.errors import BadImageError, BadRequestError, EngineFailedError

START = 300.0
"""Time limit in seconds for starting vLLM on a busy machine."""
ANSWER = 60.0


class RunningEngine(OnLoop):
    """A supervised engine on its own event loop, for synchronous tests."""

    def __init__(self, model: Path) -> None:
        super().__init__()
        self.embedded: EmbeddedEngine | None = None
        self.progress: list[LoadProgress] = []
        self.options = EngineOptions.of(model=str(model), max_num_seqs=8)
        self.supervisor = self.wait(self._make())
        self.info: EngineInfo = self.wait(self.supervisor.start(self.progress.append), START)

    async def _make(self) -> Supervisor:
        timings = Timings(health_interval=0.2, first_back_off=0.1)
        return Supervisor(self._make_engine, max_queued=8, max_running=8, timings=timings)

    def _make_engine(self) -> EmbeddedEngine:
        self.embedded = EmbeddedEngine(self.options)
        return self.embedded

    async def deltas(self, generation: Generation, first: "Future[None] | None" = None) -> list[TextDelta]:
        """Return all streamed deltas. ``first`` is set after the first one."""
        deltas = []
        async with aclosing(self.supervisor.generate(generation)) as stream:
            async for delta in stream:
                deltas.append(delta)
                if first is not None and not first.done():
                    first.set_result(None)
        return deltas

    def start_answer(self, generation: Generation) -> "Future[list[TextDelta]]":
        """Start a generation, and return when it streams."""
        first: Future[None] = Future()
        answer = self.loop.submit(self.deltas(generation, first))
        first.result(ANSWER)
        return answer

    def unfinished(self) -> int:
        """Return the number of requests that vLLM has not finished."""
        assert self.embedded is not None
        return len(self.embedded._vllm.output_processor.request_states)

    def close(self) -> None:
        self.wait(self.supervisor.close())
        assert self.loop.stop()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[RunningEngine]:
    running = RunningEngine(checkpoint)
    yield running
    running.close()


def image(seed: int = 0, side: int = 224) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)


_next_id = iter(range(10**6))


def ask(max_tokens: int = 8, seed: int = 0, **changes: Any) -> Generation:
    arguments: dict[str, Any] = {
        "request_id": f"request-{next(_next_id)}",
        "user_text": "the red mug",
        "images": [image(seed)],
        "max_tokens": max_tokens,
    }
    return Generation(**(arguments | changes))


def text(deltas: list[TextDelta]) -> str:
    return "".join(delta.text for delta in deltas)


def test_a_started_engine_reports_its_model_and_progress(engine: RunningEngine, checkpoint: Path) -> None:
    info = engine.info
    assert (info.model, info.model_type) == (str(checkpoint), "qwen2_5_vl")
    assert info.engine.startswith("vllm ")
    assert (info.cell, info.min_pixels, info.max_pixels) == (28, 4 * 784, 1280 * 784)
    stages = [progress.stage for progress in engine.progress]
    assert stages[0] == "checking"
    assert "loading" in stages
    assert stages[-1] == "ready"


def test_programs_started_later_do_not_inherit_the_engines_folder(engine: RunningEngine) -> None:
    """The folder may not exist any more when such a program starts its own engine."""
    assert "VLLM_RPC_BASE_PATH" not in os.environ


def test_text_is_streamed_and_counted(engine: RunningEngine) -> None:
    deltas = engine.wait(engine.deltas(ask(12)))
    assert len(deltas) > 1
    assert sum(delta.tokens for delta in deltas) == 12
    assert [delta.finish_reason for delta in deltas] == [""] * (len(deltas) - 1) + ["length"]
    # The prompt has 64 visual tokens of 28x28 pixels, and text.
    assert 64 < deltas[-1].prompt_tokens < 150


def test_greedy_decoding_repeats_itself_and_sees_the_image_and_the_prefix(engine: RunningEngine) -> None:
    first = text(engine.wait(engine.deltas(ask(16))))
    assert text(engine.wait(engine.deltas(ask(16)))) == first
    others = [ask(16, seed=1), ask(16, assistant_prefix="<think>"), ask(16, user_text="the blue bowl")]
    assert any(text(engine.wait(engine.deltas(other))) != first for other in others)


def test_eight_at_once_are_batched_and_answered_as_one_by_one(engine: RunningEngine) -> None:
    alone = [text(engine.wait(engine.deltas(ask(8, seed=seed)))) for seed in range(8)]
    answers = [engine.loop.submit(engine.deltas(ask(8, seed=seed))) for seed in range(8)]
    assert [text(answer.result(ANSWER)) for answer in answers] == alone


def test_a_named_image_is_not_looked_at_again(engine: RunningEngine) -> None:
    """vLLM identifies the image by its name. Other pixels with a known name give the answer for the known image."""
    first = text(engine.wait(engine.deltas(ask(16, seed=20, image_ids=["camera@1"]))))
    assert text(engine.wait(engine.deltas(ask(16, seed=21, image_ids=["camera@1"])))) == first
    assert text(engine.wait(engine.deltas(ask(16, seed=20)))) == first


def test_abort_frees_the_engine(engine: RunningEngine) -> None:
    generation = ask(4000)
    answer = engine.start_answer(generation)
    engine.wait(engine.supervisor.abort(generation.request_id))
    assert answer.result(ANSWER)[-1].finish_reason == "abort"
    assert engine.unfinished() == 0


def test_a_cancelled_reader_frees_the_engine(engine: RunningEngine) -> None:
    answer = engine.start_answer(ask(4000))
    answer.cancel()
    engine.wait(wait_until_idle(engine))


async def wait_until_idle(engine: RunningEngine) -> None:
    while engine.unfinished() or engine.supervisor.health().running:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("generation", "error"),
    [
        (ask(user_text="x" * 9000), BadRequestError),
        (ask(user_text="what is <|image_pad|>?"), BadRequestError),
        (ask(user_text="what is it?<|im_end|>"), BadRequestError),
        (ask(images=[np.zeros((20, 300, 3), np.uint8)]), BadImageError),
        (ask(images=[np.zeros((224, 224), np.uint8)]), BadImageError),
        (ask(images=[image()] * 9), BadRequestError),
    ],
    ids=["too long", "placeholder in the question", "control token in the question", "off the grid", "gray", "too many images"],
)
def test_a_bad_request_is_rejected_and_the_next_one_answered(
    engine: RunningEngine, generation: Generation, error: type[Exception]
) -> None:
    with pytest.raises(error):
        engine.wait(engine.deltas(generation))
    assert text(engine.wait(engine.deltas(ask(4))))
    assert engine.supervisor.health().state == "ready"


@pytest.mark.thorough
def test_a_killed_engine_fails_its_requests_at_once_and_comes_back(engine: RunningEngine) -> None:
    answers = [engine.start_answer(ask(4000, seed=seed)) for seed in range(3)]
    processes = engine_processes()
    began = time.monotonic()
    for process in processes:
        process.kill()
    for answer in answers:
        with pytest.raises(EngineFailedError, match="The engine's process died"):
            answer.result(2.0 + began - time.monotonic())

    async def ready_again() -> None:
        while engine.supervisor.health().state != "ready":
            await asyncio.sleep(0.05)

    engine.wait(ready_again(), START)
    assert engine.supervisor.health().restarts == 1
    assert text(engine.wait(engine.deltas(ask(4))))


OWNER = """
import asyncio, sys
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.options import EngineOptions
async def main():
    engine = EmbeddedEngine(EngineOptions.of(model=sys.argv[1], distributed_executor_backend=sys.argv[2]))
    await engine.start(lambda progress: None)
    print("ready", flush=True)
    await asyncio.Event().wait()
if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize(("backend", "count"), [("", 1), pytest.param("mp", 2, marks=pytest.mark.thorough)])
def test_no_engine_process_outlives_a_killed_owner(checkpoint: Path, tmp_path: Path, backend: str, count: int) -> None:
    """The worker is in the engine's process, as by default, or in its own process, as on several GPUs."""
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    command = [sys.executable, str(script), str(checkpoint), backend]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        assert select.select([owner.stdout], [], [], START)[0], "the engine did not start"
        assert owner.stdout.readline() == "ready\n"
        children = psutil.Process(owner.pid).children(recursive=True)
        assert len([child for child in children if "VLLM" in child.name()]) == count
        os.kill(owner.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(children, timeout=10.0)
        assert not alive
    finally:
        owner.kill()
        owner.wait(10.0)


def test_cancelling_a_start_ends_its_processes(checkpoint: Path) -> None:
    """Otherwise, the processes would continue to load the model, and the program could not end."""
    before = engine_processes()

    async def break_off() -> set[psutil.Process]:
        engine = EmbeddedEngine(EngineOptions.of(model=str(checkpoint)))
        start = asyncio.ensure_future(engine.start(lambda progress: None))
        while not (started := engine_processes() - before):
            assert not start.done(), "it started before it could be broken off"
            await asyncio.sleep(0.05)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        await engine.close()
        return started

    loop = LoopThread()
    loop.start()
    started = loop.submit(break_off()).result(START)
    _, alive = psutil.wait_procs(started, timeout=10.0)
    assert not alive
    assert not engine_processes() - before
    assert loop.stop()
