"""Admission and restarts with a scripted engine, which produces timing and failures that a real one cannot produce on command."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from fakes import Script, ScriptedEngine

from robobrain_ros.engine import supervisor as supervisor_module
from robobrain_ros.engine.base import Engine, EngineInfo, Generation, LoadProgress, TextDelta
from robobrain_ros.engine.supervisor import Supervisor, Timings
from robobrain_ros.errors import (
    BusyError,
    CanceledError,
    EngineConfigError,
    EngineFailedError,
    NotReadyError,
)

QUICK = Timings(health_interval=0.01, first_back_off=0.01, longest_back_off=0.02)
GUARD = 20.0
"""Timeout in seconds after which a test counts as hung."""


def ask(number: int = 0) -> Generation:
    return Generation(request_id=f"request-{number}", user_text="?", images=[], max_tokens=8)


async def read(engine: Supervisor, generation: Generation) -> str:
    async with aclosing(engine.generate(generation)) as stream:
        return "".join([delta.text async for delta in stream])


async def until(condition: Callable[[], bool]) -> None:
    """Wait until other tasks of the event loop make a condition true."""
    async with asyncio.timeout(GUARD):
        while not condition():
            await asyncio.sleep(0)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), GUARD))


def quiet(_progress: LoadProgress) -> None:
    pass


async def started(engine: Engine, **options: Any) -> Supervisor:
    bounds: dict[str, Any] = {"max_queued": 4, "max_running": 2} | options
    supervisor = Supervisor(lambda: engine, timings=QUICK, **bounds)
    await supervisor.start(quiet)
    return supervisor


def test_text_passes_through() -> None:
    async def test() -> None:
        supervisor = await started(ScriptedEngine(["one", Script(["t", "w", "o"])]))
        assert [await read(supervisor, ask(1)), await read(supervisor, ask(2))] == ["one", "two"]
        await supervisor.close()

    run(test)


def test_the_queue_is_bounded_and_each_waiting_request_is_served() -> None:
    async def test() -> None:
        gate = asyncio.Event()
        engine = ScriptedEngine([Script([gate, "done"])])
        supervisor = await started(engine, max_queued=2, max_running=1)
        readers = [asyncio.ensure_future(read(supervisor, ask(number))) for number in range(3)]
        await until(lambda: supervisor.health().waiting == 2)
        assert engine.running == {"request-0"}
        with pytest.raises(BusyError, match="2 requests are waiting already"):
            await read(supervisor, ask(3))
        gate.set()
        assert await asyncio.gather(*readers) == ["done"] * 3
        health = supervisor.health()
        assert (health.running, health.waiting) == (0, 0)
        await supervisor.close()

    run(test)


def test_waiting_requests_are_served_by_priority_then_by_arrival() -> None:
    async def test() -> None:
        gate = asyncio.Event()
        engine = ScriptedEngine([Script([gate, "done"])])
        supervisor = await started(engine, max_queued=4, max_running=1)
        requests = [replace(ask(number), priority=priority) for number, priority in enumerate((1, 1, 1, 0, 0))]
        readers = [asyncio.ensure_future(read(supervisor, request)) for request in requests]
        await until(lambda: supervisor.health().waiting == 4)
        gate.set()
        assert await asyncio.gather(*readers) == ["done"] * 5
        assert [generation.request_id[-1] for generation in engine.generations] == ["0", "3", "4", "1", "2"]
        await supervisor.close()

    run(test)


def test_a_place_that_comes_as_its_request_is_given_up_is_not_lost() -> None:
    async def test() -> None:
        gate = asyncio.Event()
        supervisor = await started(ScriptedEngine([Script([gate, "done"])]), max_queued=4, max_running=1)
        readers = [asyncio.ensure_future(read(supervisor, ask(number))) for number in range(3)]
        await until(lambda: supervisor.health().waiting == 2)
        readers[1].cancel()
        gate.set()
        assert [await readers[0], await readers[2]] == ["done", "done"]
        assert await read(supervisor, ask(4)) == "done"
        await supervisor.close()

    run(test)


def test_a_full_queue_takes_a_request_in_place_of_one_with_lower_priority() -> None:
    """Otherwise standing queries, which have a lower priority, could shut out the requests of clients."""

    async def test() -> None:
        gate = asyncio.Event()
        supervisor = await started(ScriptedEngine([Script([gate, "done"])]), max_queued=2, max_running=1)
        low = [asyncio.ensure_future(read(supervisor, replace(ask(number), priority=1))) for number in range(3)]
        await until(lambda: supervisor.health().waiting == 2)
        with pytest.raises(BusyError):
            await read(supervisor, replace(ask(3), priority=1))
        high = [asyncio.ensure_future(read(supervisor, ask(number))) for number in (4, 5)]
        await until(lambda: low[1].done() and low[2].done())
        with pytest.raises(BusyError):
            await read(supervisor, ask(6))
        gate.set()
        assert await asyncio.gather(low[0], *high) == ["done"] * 3
        assert [type(reader.exception()) for reader in low[1:]] == [BusyError, BusyError]
        await supervisor.close()

    run(test)


def test_a_request_that_is_given_up_leaves_the_engine() -> None:
    async def test() -> None:
        engine = ScriptedEngine([Script(["some text", asyncio.Event()])])
        supervisor = await started(engine)
        reader = asyncio.ensure_future(read(supervisor, ask()))
        await engine.started.wait()
        reader.cancel()
        await asyncio.wait({reader})
        assert engine.aborted == ["request-0"]
        assert not engine.running
        assert supervisor.health().running == 0
        await supervisor.close()

    run(test)


def test_a_request_that_is_given_up_leaves_the_queue() -> None:
    async def test() -> None:
        engine = ScriptedEngine([Script([asyncio.Event()])])
        supervisor = await started(engine, max_running=1)
        first = asyncio.ensure_future(read(supervisor, ask(0)))
        await engine.started.wait()
        second = asyncio.ensure_future(read(supervisor, ask(1)))
        await until(lambda: supervisor.health().waiting == 1)
        second.cancel()
        await asyncio.wait({second})
        assert supervisor.health().waiting == 0
        assert [generation.request_id for generation in engine.generations] == ["request-0"]
        first.cancel()
        await supervisor.close()

    run(test)


class SlowToLetGo(ScriptedEngine):
    """An engine that takes some time to end a cancelled request."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.letting_go, self.may_end = asyncio.Event(), asyncio.Event()

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        try:
            async for delta in super().generate(generation):
                yield delta
        finally:
            self.letting_go.set()
            await self.may_end.wait()


def test_a_reader_cancelled_while_its_request_is_given_up_leaves_no_place_taken() -> None:
    async def test() -> None:
        engine = SlowToLetGo([Script([asyncio.Event()])])
        supervisor = await started(engine, max_running=1)
        reader = asyncio.ensure_future(read(supervisor, ask(0)))
        await engine.started.wait()
        reader.cancel()
        await engine.letting_go.wait()
        reader.cancel()
        await asyncio.wait({reader})
        engine.may_end.set()
        await until(lambda: supervisor.health().running == 0)
        await supervisor.close()

    run(test)


def test_a_request_that_the_engine_does_not_let_go_of_occupies_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "ENGINE_RELEASE", 0.0)

    async def test() -> None:
        stubborn, later = SlowToLetGo([Script([asyncio.Event()])]), ScriptedEngine(["done"])
        engines = [stubborn, later]
        supervisor = Supervisor(lambda: engines.pop(0), timings=QUICK, max_queued=0, max_running=1)
        await supervisor.start(quiet)
        reader = asyncio.ensure_future(read(supervisor, ask(0)))
        await stubborn.started.wait()
        reader.cancel()
        await asyncio.wait({reader})
        assert stubborn.letting_go.is_set()
        assert (supervisor.health().running, supervisor.health().waiting) == (1, 0)
        with pytest.raises(BusyError):
            await read(supervisor, ask(1))
        stubborn.state = "failed"
        await until(lambda: later.state == "ready" and supervisor.health().state == "ready")
        assert supervisor.health().running == 0
        assert await read(supervisor, ask(2)) == "done"
        stubborn.may_end.set()
        await supervisor.close()

    run(test)


def test_abort_ends_a_running_and_a_waiting_request() -> None:
    async def test() -> None:
        engine = ScriptedEngine([Script(["text", asyncio.Event()])])
        supervisor = await started(engine, max_running=1)
        running = asyncio.ensure_future(read(supervisor, ask(0)))
        await engine.started.wait()
        waiting = asyncio.ensure_future(read(supervisor, ask(1)))
        await until(lambda: supervisor.health().waiting == 1)
        await supervisor.abort("request-1")
        with pytest.raises(CanceledError):
            await waiting
        await supervisor.abort("request-0")
        assert await running == "text"
        assert not engine.running
        await supervisor.close()

    run(test)


def test_a_dead_engine_is_restarted() -> None:
    async def test() -> None:
        engines = [ScriptedEngine([Script(["text", asyncio.Event()])]), ScriptedEngine(["alive"])]
        remaining = iter(engines)
        told: list[LoadProgress] = []
        supervisor = Supervisor(lambda: next(remaining), max_queued=4, max_running=1, timings=QUICK)
        await supervisor.start(told.append)
        readers = [asyncio.ensure_future(read(supervisor, ask(number))) for number in range(3)]
        await until(lambda: supervisor.health().waiting == 2)
        engines[0].state = "failed"
        for reader in readers:
            with pytest.raises(EngineFailedError, match="restarts"):
                await reader
        await until(lambda: supervisor.health().state == "ready")
        assert await read(supervisor, ask(9)) == "alive"
        assert supervisor.health().restarts == 1
        assert engines[0].state == "stopped"
        await supervisor.close()

    run(test)


@pytest.mark.parametrize("error", [EngineConfigError("No memory."), KeyError("unexpected")])
def test_restarts_are_repeated_until_one_succeeds_and_the_health_reports_them(error: Exception) -> None:
    async def test() -> None:
        gate = asyncio.Event()
        broken = ScriptedEngine(["-"], start_error=error)
        engines = [ScriptedEngine(["-"]), broken, broken, ScriptedEngine(["alive"], start_gate=gate)]
        remaining = iter(engines)
        supervisor = Supervisor(lambda: next(remaining), max_queued=4, max_running=1, timings=QUICK)
        await supervisor.start(quiet)
        engines[0].state = "failed"
        await until(lambda: engines[3].state == "loading")
        with pytest.raises(NotReadyError, match="not ready"):
            await read(supervisor, ask(1))
        gate.set()
        await until(lambda: supervisor.health().state == "ready")
        assert await read(supervisor, ask(2)) == "alive"
        await supervisor.close()

    run(test)


def test_an_engine_that_cannot_start_at_all_raises_and_is_closed() -> None:
    async def test() -> None:
        engine = ScriptedEngine(["-"], start_error=EngineConfigError("No weights."))
        supervisor = Supervisor(lambda: engine, max_queued=1, max_running=1, timings=QUICK)
        with pytest.raises(EngineConfigError, match="No weights"):
            await supervisor.start(quiet)
        assert supervisor.health().state == "failed"
        assert engine.state == "stopped"

    run(test)


def test_close_ends_waiting_requests() -> None:
    async def test() -> None:
        engine = ScriptedEngine([Script(["text", asyncio.Event()])])
        supervisor = await started(engine, max_running=1)
        readers = [asyncio.ensure_future(read(supervisor, ask(number))) for number in range(2)]
        await until(lambda: supervisor.health().waiting == 1)
        await supervisor.close()
        for reader in readers:
            with pytest.raises(CanceledError):
                await reader
        assert engine.state == "stopped"
        assert not engine.running

    run(test)


def test_it_warms_up_before_it_is_ready() -> None:
    async def test() -> None:
        engine = ScriptedEngine(["warm"])
        seen: list[str] = []

        async def warm_up(inner: Engine, info: EngineInfo) -> None:
            seen.append(supervisor.health().state)
            async with aclosing(inner.generate(replace(ask(), user_text=f"warm {info.model}"))) as stream:
                seen.extend([delta.text async for delta in stream if delta.text])

        supervisor = Supervisor(lambda: engine, max_queued=1, max_running=1, warm_up=warm_up, timings=QUICK)
        await supervisor.start(quiet)
        assert seen == ["loading", "warm"]
        assert engine.generations[0].user_text == "warm scripted"
        await supervisor.close()

    run(test)
