"""One asyncio loop in its own thread. The engine runs there, separate from the threads of ROS."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class LoopThread:
    """An asyncio loop in its own thread.

    :param name: name of the thread.
    """

    def __init__(self, name: str = "robobrain-engine") -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether the loop accepts work."""
        return self._loop is not None

    def start(self) -> None:
        """Start the thread, and return when the loop accepts work. Do nothing if it runs already."""
        if self.running:
            return
        ready: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
        # A daemon thread, so that a hanging model does not prevent the end of the process.
        self._thread = threading.Thread(target=self._run, args=(ready,), name=self._name, daemon=True)
        self._thread.start()
        self._loop = ready.result(timeout=10.0)

    def submit(self, work: Coroutine[Any, Any, Result]) -> "concurrent.futures.Future[Result]":
        """Run a coroutine on the loop. Callable from any thread. Cancelling the future cancels the coroutine.

        :raises RuntimeError: the loop is not running.
        """
        if self._loop is None:
            work.close()
            raise RuntimeError("The engine's loop is not running.")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self, timeout: float = 10.0) -> bool:
        """Cancel all tasks, and end the thread.

        :param timeout: seconds to wait for the thread.
        :returns: whether the thread ended in time.
        """
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is None or thread is None:
            return True
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout)
        return not thread.is_alive()

    @staticmethod
    def _run(ready: "concurrent.futures.Future[asyncio.AbstractEventLoop]") -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.call_soon(ready.set_result, loop)
        try:
            loop.run_forever()
            _cancel_all(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=5.0))
