"""Admit a bounded number of requests to an engine, and restart the engine when it dies."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import count as count_up

from robobrain_ros.bounds.deadlines import ENGINE_RELEASE
from robobrain_ros.engine.base import (
    Engine,
    EngineHealth,
    EngineInfo,
    EngineState,
    Generation,
    LoadProgress,
    ProgressCallback,
    TextDelta,
)
from robobrain_ros.errors import (
    BusyError,
    CanceledError,
    EngineFailedError,
    NotReadyError,
    RoboBrainError,
)

WarmUp = Callable[[Engine, EngineInfo], Awaitable[None]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timings:
    """Intervals and time limits of the supervisor in seconds."""

    health_interval: float = 0.5
    """Interval between two health checks of an idle engine."""
    first_back_off: float = 1.0
    """Pause before the first restart. Each further failure doubles the pause."""
    longest_back_off: float = 60.0
    close: float = 8.0
    """Time limit for closing an engine."""
    warm_up: float = 300.0
    """Time limit for the warm-up."""


@dataclass
class _AdmittedRequest:
    """A request that was admitted.

    :param arrivals: queue of the generated text. It ends with None, or with the error that ends the request.
    :param ended: whether it was ended while it waited, because a request with a higher priority needs its place in the queue.
    """

    generation: Generation
    arrivals: "asyncio.Queue[TextDelta | RoboBrainError | None]" = field(default_factory=asyncio.Queue)
    in_engine: bool = False
    ended: bool = False


class _Places:
    """The places for requests in the engine. Waiting requests get them in the order of their priority, then of their arrival."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = count_up()

    @asynccontextmanager
    async def take(self, priority: int) -> AsyncIterator[None]:
        """Wait for a place, and hold it within the block. Lower values of ``priority`` are served first."""
        if self._free:
            self._free -= 1
        else:
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heappush(self._waiting, (priority, next(self._numbers), place))
            try:
                await place
            except asyncio.CancelledError:
                if not place.cancelled():
                    self._give_back()  # The place came at the moment of the cancellation.
                raise
        try:
            yield
        finally:
            self._give_back()

    def _give_back(self) -> None:
        while self._waiting:
            place = heappop(self._waiting)[2]
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


class Supervisor:
    """An `engine.base.Engine` that wraps another engine.

    :param factory: creates an engine. It is called again after the death of an engine.
    :param max_queued: number of requests that can wait while ``max_running`` requests are in the engine. Further requests raise
        `BusyError`.
    :param max_running: maximum number of requests in the engine.
    :param warm_up: runs once on each new engine before it is ready.
    :param timings: intervals and time limits.
    """

    def __init__(
        self,
        factory: Callable[[], Engine],
        *,
        max_queued: int,
        max_running: int,
        warm_up: WarmUp | None = None,
        timings: Timings | None = None,
    ) -> None:
        self._factory = factory
        self._max_queued = max_queued
        self._warm_up = warm_up
        self._timings = timings or Timings()
        self._max_running = max_running
        self._places = _Places(max_running)
        self._check_now = asyncio.Event()
        self._engine: Engine | None = None
        self._admitted: dict[str, _AdmittedRequest] = {}
        self._health = EngineHealth("stopped", "The engine is not started.")
        self._restarts = 0
        self._watch: asyncio.Task[None] | None = None
        self._progress: ProgressCallback = lambda progress: None

    async def start(self, progress: ProgressCallback) -> EngineInfo:
        """See `Engine.start`. Afterwards, the supervisor watches the engine until `close`."""
        self._progress = progress
        self._set_health("loading", "The engine is starting.")
        try:
            info = await self._build()
        except BaseException as error:
            self._set_health("failed", str(error) or "Starting the engine was cancelled.")
            raise
        self._watch = asyncio.create_task(self._keep_alive(), name="engine-watch")
        return info

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        """See `Engine.generate`. Also raises `BusyError`, `NotReadyError` and `CanceledError`."""
        if self.health().state != "ready":
            raise self._unavailable()
        if generation.request_id in self._admitted:
            raise EngineFailedError(f"A request {generation.request_id} exists already. Request ids must be unique.")
        admitted = sum(not request.ended for request in self._admitted.values())
        if admitted >= self._max_running + self._max_queued and not self._make_room(generation.priority):
            raise self._busy()
        request = _AdmittedRequest(generation)
        requests = self._admitted
        requests[generation.request_id] = request
        pump = asyncio.create_task(self._pump(request))
        # The request is removed when the pump ends. An engine that ignores the cancellation still computes it until then.
        pump.add_done_callback(lambda _: requests.pop(generation.request_id, None))
        try:
            while (arrival := await request.arrivals.get()) is not None:
                if isinstance(arrival, RoboBrainError):
                    raise arrival
                yield arrival
        finally:
            pump.cancel()
            await asyncio.wait({pump}, timeout=ENGINE_RELEASE)

    def _make_room(self, priority: int) -> bool:
        """End the waiting request that would be served last, if its priority is lower. Return whether there was one."""
        waiting = [request for request in self._admitted.values() if not request.in_engine and not request.ended]
        last = max(reversed(waiting), key=lambda request: request.generation.priority, default=None)
        if last is None or last.generation.priority <= priority:
            return False
        last.ended = True
        last.arrivals.put_nowait(self._busy())
        return True

    def _busy(self) -> BusyError:
        return BusyError(f"{self._max_queued} requests are waiting already. Retry later, or raise max_queued.")

    async def _pump(self, request: _AdmittedRequest) -> None:
        """Pass the engine's output to the reader of the request. Cancelling this task aborts the request in the engine."""
        arrived = time.monotonic()
        try:
            async with self._places.take(request.generation.priority):
                engine = self._engine
                if engine is None or self.health().state != "ready":
                    raise self._unavailable()
                request.in_engine = True
                waited = time.monotonic() - arrived
                async with aclosing(engine.generate(request.generation)) as stream:
                    async for delta in stream:
                        request.arrivals.put_nowait(replace(delta, queue_time=delta.queue_time + waited))
            request.arrivals.put_nowait(None)
        except RoboBrainError as error:
            self._check_now.set()
            request.arrivals.put_nowait(error)
        except Exception as error:
            _log.exception("The engine failed on a request.")
            request.arrivals.put_nowait(EngineFailedError(f"The engine failed on this request: {error}"))

    async def abort(self, request_id: str) -> None:
        """See `Engine.abort`. A waiting request ends with `CanceledError`."""
        request = self._admitted.get(request_id)
        if request is None:
            return
        if request.in_engine and self._engine is not None:
            await self._engine.abort(request_id)
        else:
            request.arrivals.put_nowait(CanceledError("The request was canceled while it waited."))

    def health(self) -> EngineHealth:
        """See `Engine.health`."""
        admitted = list(self._admitted.values())
        running = sum(request.in_engine for request in admitted)
        engine, health = self._engine, self._health
        if health.state == "ready" and engine is not None:
            health = engine.health()
            if health.state == "failed":
                # `_keep_alive` has not checked the engine yet.
                health = EngineHealth("restarting", f"{health.message} The engine restarts.")
        return replace(health, running=running, waiting=len(admitted) - running, restarts=self._restarts)

    async def close(self) -> None:
        """See `Engine.close`. Requests end with `CanceledError`."""
        self._set_health("stopped", "The engine is closed.")
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait({self._watch}, timeout=self._timings.close)
            self._watch = None
        self._end_all(CanceledError("The node shuts down or is deactivated. Retry when it is active."))
        await self._discard()

    async def _build(self) -> EngineInfo:
        engine = self._factory()
        self._engine = engine
        try:
            info = await engine.start(self._progress)
            if self._warm_up is not None:
                message = "Warming up: running each task once."
                self._progress(LoadProgress("warming up", message))
                await asyncio.wait_for(self._warm_up(engine, info), self._timings.warm_up)
        except asyncio.TimeoutError as error:
            await self._discard()
            raise EngineFailedError(f"The engine did not warm up within {self._timings.warm_up:.0f} s.") from error
        except BaseException:
            await self._discard()
            raise
        self._set_health("ready", f"{info.model} is ready.")
        self._progress(LoadProgress("ready", f"{info.model} is ready.", 1.0))
        return info

    async def _keep_alive(self) -> None:
        """Watch the engine. After its death, end all requests, and start another engine."""
        while True:
            await self._wait_for_check()
            engine = self._engine
            if engine is None or engine.health().state != "failed":
                continue
            reason = engine.health().message
            _log.error("The engine failed: %s The engine restarts.", reason)
            self._set_health("restarting", f"{reason} The engine restarts.")
            self._end_all(EngineFailedError(f"{reason} The engine restarts. Retry when the node is ready."))
            await self._discard()
            await self._rebuild()

    async def _wait_for_check(self) -> None:
        """Wait until a request fails, or until the next check of an idle engine."""
        try:
            await asyncio.wait_for(self._check_now.wait(), self._timings.health_interval)
        except asyncio.TimeoutError:
            return
        self._check_now.clear()

    async def _rebuild(self) -> None:
        """Try to start another engine, with increasing pauses, until one starts."""
        back_off = self._timings.first_back_off
        while True:
            await asyncio.sleep(back_off)
            try:
                await self._build()
            except Exception as error:  # Also unexpected ones: nothing else starts another engine.
                if not isinstance(error, RoboBrainError):
                    _log.exception("Starting the engine failed.")
                back_off = min(2 * back_off, self._timings.longest_back_off)
                reason = str(error) if isinstance(error, RoboBrainError) else f"unexpected {type(error).__name__}: {error}."
                message = f"The engine did not restart: {reason} The next attempt starts in {back_off:.0f} s."
                _log.error(message)
                self._set_health("restarting", message)
                self._progress(LoadProgress("restarting", message))
                continue
            self._restarts += 1
            return

    async def _discard(self) -> None:
        """Close the engine within a time limit."""
        engine, self._engine = self._engine, None
        # The next engine gets new places, because this engine may keep places for requests that it does not end.
        self._admitted, self._places = {}, _Places(self._max_running)
        if engine is None:
            return
        try:
            await asyncio.wait_for(engine.close(), self._timings.close)
        except asyncio.TimeoutError:
            _log.error("The engine did not close within %.0f s. Its processes end with this one.", self._timings.close)
        except Exception:
            _log.exception("Closing the engine failed. Its processes end with this one.")

    def _end_all(self, error: RoboBrainError) -> None:
        for request in self._admitted.values():
            # A separate exception for each reader, because each raise extends the traceback of the exception.
            request.arrivals.put_nowait(type(error)(error.message))

    def _unavailable(self) -> RoboBrainError:
        health = self.health()
        if health.state in ("loading", "restarting"):
            return NotReadyError(f"The model is not ready: {health.message}")
        return EngineFailedError(f"The engine is unavailable: {health.message}")

    def _set_health(self, state: EngineState, message: str) -> None:
        self._health = EngineHealth(state, message)
