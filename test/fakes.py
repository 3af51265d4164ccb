"""A fake engine with exact texts, exact timing and failures, which a real engine cannot produce on command."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field

from robobrain_ros.engine.base import EngineHealth, EngineInfo, EngineState, Generation, LoadProgress, ProgressCallback, TextDelta


@dataclass
class Script:
    """The script of one generation.

    :param pieces: what happens, in order. A string is one delta with one token. A `TextDelta` is passed on. An `asyncio.Event` is
    awaited. An exception is raised.
    :param finish_reason: finish reason of the last delta, whose text is empty: "stop", "length" or "abort".
    """

    pieces: Sequence[str | TextDelta | asyncio.Event | BaseException]
    finish_reason: str = "stop"


@dataclass
class ScriptedEngine:
    """An engine that follows scripts, one for each generation. The last script is repeated.

    :param scripts: a string is a script with this text as its only piece.
    :param info: result of `start`.
    :param start_gate: `start` waits for this event.
    :param start_error: `start` raises this error.

    It stores these values for tests: ``generations`` are the received generations. ``aborted`` are the ids of streams that were
    closed or cancelled early. ``running`` are the ids of open streams. ``started`` is set when the first generation begins.
    """

    scripts: Sequence[Script | str]
    info: EngineInfo = field(
        default_factory=lambda: EngineInfo(model="scripted", model_type="qwen2_5_vl", engine="scripted", cell=28)
    )
    start_gate: asyncio.Event | None = None
    start_error: BaseException | None = None
    generations: list[Generation] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    state: EngineState = "stopped"

    def __post_init__(self) -> None:
        self._next: Iterator[Script | str] = iter(self.scripts)
        self._last: Script | str = self.scripts[-1]
        self._gates: dict[str, asyncio.Event] = {}

    async def start(self, progress: ProgressCallback) -> EngineInfo:
        self.state = "loading"
        progress(LoadProgress("loading", "The scripted engine opens its script.", 0.5))
        if self.start_gate is not None:
            await self.start_gate.wait()
        if self.start_error is not None:
            self.state = "failed"
            raise self.start_error
        self.state = "ready"
        return self.info

    def script(self, generation: Generation) -> Script | str:
        """Return the script of a generation."""
        return next(self._next, self._last)

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        self.generations.append(generation)
        script = self.script(generation)
        if isinstance(script, str):
            script = Script([script])
        self.running.add(generation.request_id)
        self._gates[generation.request_id] = asyncio.Event()
        finished = False
        try:
            self.started.set()
            for piece in script.pieces:
                if isinstance(piece, BaseException):
                    finished = True
                    raise piece
                if isinstance(piece, asyncio.Event):
                    await self._wait(piece, generation.request_id)
                else:
                    yield TextDelta(piece, 1, prompt_tokens=10, queue_time=0.25) if isinstance(piece, str) else piece
                if self._gates[generation.request_id].is_set():
                    finished = True
                    self.aborted.append(generation.request_id)
                    yield TextDelta("", 0, prompt_tokens=10, finish_reason="abort")
                    return
            finished = True
            yield TextDelta("", 0, prompt_tokens=10, queue_time=0.25, finish_reason=script.finish_reason)
        finally:
            self.running.discard(generation.request_id)
            del self._gates[generation.request_id]
            if not finished:
                self.aborted.append(generation.request_id)

    async def _wait(self, event: asyncio.Event, request_id: str) -> None:
        """Wait for the script's event, or for an abort."""
        waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._gates[request_id].wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def abort(self, request_id: str) -> None:
        if request_id in self._gates:
            self._gates[request_id].set()

    def health(self) -> EngineHealth:
        return EngineHealth(self.state, f"The scripted engine is {self.state}.", running=len(self.running))

    async def close(self) -> None:
        for gate in self._gates.values():
            gate.set()
        self.state = "stopped"
