"""The life cycle of a request: its deadline, its cancellation, and failures of its engine."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from brain_rig import TWO, ask, query, seen
from fakes import Script, ScriptedEngine

from robobrain_ros.core import Brain, Defaults
from robobrain_ros.core.query import PartialAnswer
from robobrain_ros.engine.base import TextDelta
from robobrain_ros.engine.supervisor import Supervisor
from robobrain_ros.errors import (
    CanceledError,
    EngineFailedError,
    RequestTimeoutError,
)


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 60))

    run.__name__ = test.__name__
    return run


@in_a_loop
async def test_a_request_past_its_deadline_is_aborted_in_the_engine() -> None:
    engine = ScriptedEngine([Script(["[(137, ", asyncio.Event()])])
    with pytest.raises(RequestTimeoutError, match="deadline") as caught:
        await Brain(engine, TWO).run(query(timeout=0.05))
    assert engine.running == set()
    assert engine.aborted == [engine.generations[0].request_id]
    assert caught.value.raw_text == "[(137, "
    assert caught.value.report is not None
    assert caught.value.report.answer_tokens == 1


@in_a_loop
async def test_one_deadline_holds_for_thinking_and_answer_together() -> None:
    engine = ScriptedEngine(["hm", Script([asyncio.Event()])])
    with pytest.raises(RequestTimeoutError):
        await Brain(engine, TWO, defaults=Defaults(timeout=0.2, think=True)).run(query())
    _, write = engine.generations
    assert engine.aborted == [write.request_id]


@in_a_loop
async def test_the_deadline_counts_in_the_supervisors_queue_and_frees_the_place() -> None:
    engine = ScriptedEngine([Script([asyncio.Event()])])
    supervisor = Supervisor(lambda: engine, max_queued=1, max_running=1)
    await supervisor.start(lambda progress: None)
    brain = Brain(supervisor, TWO)
    running = asyncio.create_task(brain.run(query()))
    await engine.started.wait()
    with pytest.raises(RequestTimeoutError, match="deadline"):
        await brain.run(query(timeout=0.05))
    assert len(engine.generations) == 1
    assert (supervisor.health().running, supervisor.health().waiting) == (1, 0)
    running.cancel()
    await supervisor.close()


@in_a_loop
async def test_other_defaults_do_not_affect_requests_in_flight() -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine([Script(["hm", gate]), "[(1, 1)]"])
    brain = Brain(engine, TWO, defaults=Defaults(think=True))
    in_flight = asyncio.create_task(brain.run(query()))
    await engine.started.wait()
    other = brain.with_defaults(think=False, constrain_coordinates=False, max_tokens=7)
    gate.set()
    assert (await in_flight).report.think
    assert not (await other.run(query())).report.think
    _, answer, free = engine.generations
    assert answer.constraint is not None
    assert answer.max_tokens == Defaults.max_tokens
    assert (free.constraint, free.max_tokens) == (None, 7)
    assert brain.defaults == Defaults(think=True)


@in_a_loop
async def test_cancelling_the_caller_aborts_the_request_in_the_engine() -> None:
    engine = ScriptedEngine([Script(["[(137, ", asyncio.Event()])])
    task = asyncio.create_task(Brain(engine, TWO).run(query()))
    await engine.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.running == set()
    assert engine.aborted == [engine.generations[0].request_id]


@in_a_loop
async def test_a_request_aborted_in_the_engine_is_canceled_not_answered() -> None:
    engine = ScriptedEngine([Script(["[(137, 116)", asyncio.Event(), "]"])])
    task = asyncio.create_task(Brain(engine, TWO).run(query()))
    await engine.started.wait()
    await engine.abort(engine.generations[0].request_id)
    with pytest.raises(CanceledError):
        await task


@in_a_loop
async def test_a_dead_engine_is_reported_with_the_text_so_far() -> None:
    engine = ScriptedEngine([Script(["[(137, 116)", EngineFailedError("The engine died; it is being built again.")])])
    with pytest.raises(EngineFailedError, match="built again") as caught:
        await Brain(engine, TWO).run(query())
    assert caught.value.raw_text == "[(137, 116)"
    assert caught.value.report is not None


@in_a_loop
async def test_an_engine_that_does_not_abort_does_not_block_the_caller() -> None:
    release = asyncio.Event()

    class Stubborn(ScriptedEngine):
        async def generate(self, generation):
            self.started.set()
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            yield  # pragma: no cover

    with pytest.raises(RequestTimeoutError):
        await Brain(Stubborn([""]), TWO).run(query(timeout=0.05))
    release.set()


@pytest.mark.parametrize("reason", ["error", ""])
def test_an_aborted_answer_is_an_error(reason: str) -> None:
    with pytest.raises(EngineFailedError, match="stopped the answer early") as caught:
        ask(ScriptedEngine([Script(["[(137, 116)]"], finish_reason=reason)]), query())
    assert caught.value.raw_text == "[(137, 116)]"


@in_a_loop
async def test_a_failing_listener_ends_the_request_in_the_engine() -> None:
    def fail(_: PartialAnswer) -> None:
        raise ZeroDivisionError

    class Stream:
        """A stream that is not a generator. A generator would close automatically when it is deleted."""

        closed = False

        def __aiter__(self) -> "Stream":
            return self

        async def __anext__(self) -> TextDelta:
            return TextDelta("[", 1)

        async def aclose(self) -> None:
            self.closed = True

    stream = Stream()
    engine: Any = ScriptedEngine([""])
    engine.generate = lambda generation: stream
    with pytest.raises(ZeroDivisionError):
        await Brain(engine, TWO).run(query(), fail)
    assert stream.closed


@in_a_loop
async def test_concurrent_requests_get_their_own_answers() -> None:
    engine = ScriptedEngine([f"[({100 + number}, 100)]" for number in range(32)])
    brain = Brain(engine, TWO)
    answers = await asyncio.gather(*(brain.run(query(text=f"mug {number}")) for number in range(32)))
    assert [answer.points[0] for answer in answers] == [seen(100 + number, 100) for number in range(32)]
    assert len({generation.request_id for generation in engine.generations}) == 32


@pytest.mark.parametrize("steps", range(1, 12))
def test_a_failure_in_the_moment_of_a_cancellation_is_not_reported_as_lost(steps: int) -> None:
    """The engine fails, and the reader is cancelled a few steps of the loop later. asyncio must not log a lost exception."""
    lost: list[dict[str, Any]] = []

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
        gate = asyncio.Event()
        engine = ScriptedEngine([Script([gate, EngineFailedError("The engine died.")])])
        reader = asyncio.ensure_future(Brain(engine, TWO).run(query()))
        await engine.started.wait()
        gate.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        reader.cancel()
        await asyncio.wait({reader})
        if not reader.cancelled():
            reader.exception()
        del reader
        gc.collect()

    asyncio.run(test())
    assert not lost
