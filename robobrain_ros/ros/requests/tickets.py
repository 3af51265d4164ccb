"""Connect a request in the executor with its work on the engine's loop. Neither side blocks the other."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from rclpy.task import Future as RosFuture

from robobrain_ros.core.query import PartialAnswer
from robobrain_ros.errors import CanceledError, RoboBrainError
from robobrain_ros.ros.model import Model

Result = TypeVar("Result")


class Ticket(Generic[Result]):
    """The executor's side of a request that runs on the engine's loop.

    :param model: provides the loop.
    :param wake: wakes the executor; called from the engine's thread.
    """

    def __init__(self, model: Model, wake: Callable[[], None]) -> None:
        self._model = model
        self._wake = wake
        self._lock = threading.Lock()
        self._news = RosFuture()
        self._partial: list[PartialAnswer] = []
        self._task: asyncio.Task[Any] | None = None
        self._work: concurrent.futures.Future[Result] | None = None
        self._given_up: RoboBrainError | None = None
        self._done = False

    def start(self, work: Callable[[Callable[[PartialAnswer], None]], Awaitable[Result]]) -> None:
        """Start the work.

        :param work: gets a function that it must call with each partial answer.

        :raises CanceledError: the ticket was canceled before.
        """
        if self._given_up is not None:
            raise self._given_up
        self._work = self._model.submit(self._run(work))
        self._work.add_done_callback(lambda _: self._notify(done=True))

    def cancel(self, reason: str) -> None:
        """Cancel the work. The ticket ends when the work has ended."""
        if self._given_up is None:
            self._given_up = CanceledError(reason)
        if self._work is not None and not self._work.done():
            self._model.submit(self._cancel())

    def give_up(self, error: RoboBrainError) -> None:
        """End the ticket with this error at once, even if the work does not end."""
        self.cancel(error.message)
        self._given_up = error
        self._notify(done=True)

    async def partial_answers(self) -> list[PartialAnswer] | None:
        """Await new partial answers in the executor and return them. Return None if the work has ended."""
        await self._news
        with self._lock:
            news, self._partial = self._partial, []
            if news or not self._done:
                self._news = RosFuture()
                if self._done:
                    self._news.set_result(None)
                return news
        return None

    async def result(self) -> Result:
        """Await the work's result in the executor.

        :raises CanceledError: the ticket was canceled, or the loop ended.
        :raises RoboBrainError: the error of the work, or the error that was passed to `give_up`.
        """
        while await self.partial_answers() is not None:
            pass
        if self._work is None or not self._work.done() or self._work.cancelled():
            raise self._given_up or CanceledError("The node shuts down and has canceled the request.")
        return self._work.result()

    async def _run(self, work: Callable[[Callable[[PartialAnswer], None]], Awaitable[Result]]) -> Result:
        self._task = asyncio.current_task()
        return await work(self._push)

    async def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _push(self, partial: PartialAnswer) -> None:
        with self._lock:
            self._partial.append(partial)
        self._notify()

    def _notify(self, done: bool = False) -> None:
        with self._lock:
            self._done = self._done or done
            news = self._news
        if not news.done():
            news.set_result(None)
        self._wake()
