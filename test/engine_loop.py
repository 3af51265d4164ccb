"""The event loop of an engine, for synchronous tests."""

from collections.abc import Coroutine
from typing import Any, ClassVar, TypeVar

from robobrain_ros.engine.runtime import LoopThread

Result = TypeVar("Result")


class OnLoop:
    """Owns a running event loop. Subclasses run an engine on it."""

    TIMEOUT: ClassVar[float] = 60.0
    """Default time limit of `wait` in seconds."""

    def __init__(self) -> None:
        self.loop = LoopThread()
        self.loop.start()

    def wait(self, work: Coroutine[Any, Any, Result], timeout: float | None = None) -> Result:
        return self.loop.submit(work).result(self.TIMEOUT if timeout is None else timeout)
