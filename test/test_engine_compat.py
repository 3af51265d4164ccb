"""The end of an engine of vLLM, with the old and the new interface."""

import asyncio
from typing import Any

import pytest

from robobrain_ros.engine.embedded import compat
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.options import EngineOptions


class NewEngine:
    """The used part of vLLM's engine."""

    def __init__(self) -> None:
        self.output_handler = asyncio.ensure_future(asyncio.Event().wait())
        self.timeouts: list[float] = []
        self.read_to_the_end = False

    def shutdown(self, timeout: float | None = None) -> None:
        self.read_to_the_end = not self.output_handler.done()
        self.timeouts.append(timeout or 0.0)


class OldEngine(NewEngine):
    """An older engine, whose shutdown has no time limit."""

    def shutdown(self) -> None:  # type: ignore[override]
        super().shutdown(5.0)


@pytest.mark.parametrize("kind", [OldEngine, NewEngine])
def test_the_output_of_a_closing_engine_is_not_read(kind: type[NewEngine]) -> None:
    """The reader would log the end as a failure with a traceback."""

    async def run() -> NewEngine:
        embedded: Any = EmbeddedEngine(EngineOptions())
        embedded._vllm = engine = kind()
        await embedded.close()
        assert embedded.health().state == "stopped"
        return engine

    engine = asyncio.run(run())
    assert engine.output_handler.cancelled()
    assert not engine.read_to_the_end
    assert engine.timeouts == [5.0 if kind is OldEngine else compat._SHUTDOWN_TIMEOUT]
