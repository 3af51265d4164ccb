"""The program `robobrain` for the contract test, with an engine whose behaviour each request selects. Runs as a separate process.

A question contains one word such as ``do_hang``. `Behaviour` lists the words. The engine answers with the number that the pixels
of the image encode, so that a client knows which image the engine has received.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

import numpy as np
import numpy.typing as npt

from robobrain_ros.engine.base import EngineHealth, EngineInfo, EngineState, Generation, LoadProgress, ProgressCallback, TextDelta
from robobrain_ros.errors import EngineFailedError

_SLOW = 0.2
"""Duration of ``do_slow`` in seconds."""
_STUBBORN = 0.5
"""Seconds for which ``do_stubborn`` continues after it was cancelled."""
_BLOCK = 0.3
"""Seconds for which ``do_block`` blocks the engine's event loop."""
_FLOOD = 2_000
"""Number of deltas of ``do_flood``."""

GRID = 40
"""One coordinate is a frame's number modulo this value. The other one is the next digit."""


class Behaviour(str, Enum):
    """What the engine does with a request."""

    OK = "do_ok"
    SLOW = "do_slow"
    HANG = "do_hang"
    STUBBORN = "do_stubborn"
    BLOCK = "do_block"
    RAISE = "do_raise"
    FAIL = "do_fail"
    DIE = "do_die"
    GARBAGE = "do_garbage"
    NOTHING = "do_nothing"
    EMPTY = "do_empty"
    FLOOD = "do_flood"


def number_of(image: npt.NDArray[np.uint8]) -> int:
    """Return the number that a uniform RGB image encodes."""
    red, green, blue = (int(value) for value in image[image.shape[0] // 2, image.shape[1] // 2])
    return red << 16 | green << 8 | blue


def image_of(number: int, width: int = 64, height: int = 48) -> npt.NDArray[np.uint8]:
    """Return a uniform RGB image, (height, width, 3), that encodes a number below 2**24."""
    colour = [number >> 16 & 255, number >> 8 & 255, number & 255]
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)).copy()


def _answer(prompt: str, number: int) -> str:
    """Return an answer in the form that the prompt requests."""
    x, y = number % GRID, number // GRID % GRID
    if "bounding box" in prompt or "affordance area" in prompt:
        return f"[{x}, {y}, {x + 8}, {y + 8}]"
    if "key trajectory points" in prompt:
        return f"[[{x}, {y}], [{x + 1}, {y + 1}], [{x + 2}, {y + 2}]]"
    if "<score>" in prompt:
        return f"<score>{'+' if x else ''}{x}%</score>"
    if "list of tuples" in prompt:
        return f"[({x}, {y})]"
    if "steps to complete" in prompt:
        return f"1. look at frame {number}\n2. wait"
    return f"frame {number}"


@dataclass
class ContractEngine:
    """An `engine.base.Engine` whose behaviour each request selects."""

    state: EngineState = "stopped"
    _aborts: dict[str, asyncio.Event] = field(default_factory=dict)

    async def start(self, progress: ProgressCallback) -> EngineInfo:
        self.state = "loading"
        progress(LoadProgress("loading", "The engine of the contract test starts.", 0.5))
        await asyncio.sleep(0.05)
        self.state = "ready"
        return EngineInfo(model="contract", model_type="qwen2_5_vl", engine="contract", cell=28)

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        abort = self._aborts[generation.request_id] = asyncio.Event()
        try:
            async for delta in self._deltas(generation, abort):
                yield delta
        finally:
            self._aborts.pop(generation.request_id, None)

    async def _deltas(self, generation: Generation, abort: asyncio.Event) -> AsyncGenerator[TextDelta, None]:
        found = re.search(r"do_\w+", generation.user_text)
        behaviour = Behaviour(found.group()) if found else Behaviour.OK
        number = number_of(generation.images[0])
        text = _answer(generation.user_text, number)
        if generation.choices:  # A condition, which holds for three of six images.
            text = "Yes" if number % 6 < 3 else "No"
        if behaviour in (Behaviour.GARBAGE, Behaviour.NOTHING, Behaviour.EMPTY):
            text = {Behaviour.GARBAGE: "[(((", Behaviour.NOTHING: "[]", Behaviour.EMPTY: ""}[behaviour]
        if generation.assistant_prefix == "<think>":
            text = f"so</think><answer>{text}</answer>"
        await self._misbehave(behaviour, abort)
        if behaviour is Behaviour.FLOOD:
            for _ in range(_FLOOD):
                yield TextDelta(" ", 0, prompt_tokens=10)
        middle = len(text) // 2
        yield TextDelta(text[:middle], 1, prompt_tokens=10)
        await asyncio.sleep(0)
        yield TextDelta(text[middle:], 1, prompt_tokens=10)
        yield TextDelta("", 0, prompt_tokens=10, finish_reason="abort" if abort.is_set() else "stop")

    async def _misbehave(self, behaviour: Behaviour, abort: asyncio.Event) -> None:
        if behaviour is Behaviour.SLOW:
            await asyncio.sleep(_SLOW)
        elif behaviour is Behaviour.HANG:
            await abort.wait()
        elif behaviour is Behaviour.STUBBORN:
            try:
                await abort.wait()
            except asyncio.CancelledError:
                await asyncio.sleep(_STUBBORN)
                raise
        elif behaviour is Behaviour.BLOCK:
            time.sleep(_BLOCK)  # noqa: ASYNC251 - blocking the loop is what it is for.
        elif behaviour is Behaviour.RAISE:
            raise RuntimeError("The engine of the contract test raises.")
        elif behaviour is Behaviour.FAIL:
            raise EngineFailedError("The engine of the contract test fails on this request.")
        elif behaviour is Behaviour.DIE:
            self.state = "failed"
            raise EngineFailedError("The engine of the contract test died.")

    async def abort(self, request_id: str) -> None:
        if request_id in self._aborts:
            self._aborts[request_id].set()

    def health(self) -> EngineHealth:
        return EngineHealth(self.state, f"The engine of the contract test is {self.state}.", running=len(self._aborts))

    async def close(self) -> None:
        for abort in self._aborts.values():
            abort.set()
        self.state = "stopped"


def main() -> None:
    """Run the real program with this engine."""
    from robobrain_ros.ros import main as node_process
    from robobrain_ros.ros.node import RoboBrainNode

    node_process.RoboBrainNode = partial(RoboBrainNode, engine_factory=ContractEngine)  # type: ignore[attr-defined, assignment]
    node_process.main()


if __name__ == "__main__":
    main()
