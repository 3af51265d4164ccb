"""Detect a stalled engine.

A stopped process (SIGSTOP, a debugger) or a hung device causes no error, and requests wait forever. A slow prefill looks similar,
but is no stall. Therefore the check uses three sources: the process state that the kernel reports, the CPU time while requests
run, and replies of the engine's loop, which runs once for each step of the model.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from robobrain_ros.engine.embedded import processes

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StallLimits:
    """Limits of the detection, in seconds except ``idle_share``.

    :param interval: time between two checks.
    :param quiet: time without text after which a reply of the engine's loop is requested.
    :param silence: time without text and reply, while requests run, after which the engine counts as stalled.
    :param busy_silence: the same for an engine that uses CPU time. On a slow machine, a prefill or compilation can take minutes.
    :param idle_share: share of one core. With a smaller use, the engine counts as idle.
    """

    interval: float = 1.0
    quiet: float = 2.0
    silence: float = 8.0
    busy_silence: float = 600.0
    idle_share: float = 0.02


class Vitals:
    """Watches whether a running engine still works.

    :param pids: ids of the engine's processes.
    :param ask: requests a reply of the engine's loop, and returns after the reply.
    :param running: returns the number of requests in the engine.
    :param works_on_cpu: whether CPU time shows that the engine works. A process that waits for a hung GPU can use a whole core.
    """

    def __init__(
        self,
        pids: list[int],
        ask: Callable[[], Awaitable[object]],
        running: Callable[[], int],
        *,
        works_on_cpu: Callable[[], bool],
        limits: StallLimits | None = None,
    ) -> None:
        self._pids = pids
        self._ask = ask
        self._running = running
        self._works_on_cpu = works_on_cpu
        self._limits = limits or StallLimits()
        self._question: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._last_check = self._last_sign = time.monotonic()
        """Times of the last check and of the last sign that the engine works, by ``time.monotonic()``."""
        self._cpu_at_sign = self._cpu = 0.0
        """CPU time of the engine's processes in seconds, at the last sign and at the last check."""
        self._since: float | None = None
        """Start of the stall, or None if the engine works."""
        self._reason = ""

    @property
    def stalled_for(self) -> float:
        """Seconds since the start of the stall; 0: the engine works."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def reason(self) -> str:
        """The reason of the stall as a clause, or an empty string if the engine works."""
        return self._reason if self._since is not None else ""

    def describe_stall(self, restart_after: float) -> str:
        """Return a sentence about a stalled engine, or an empty string if it works.

        :param restart_after: seconds after which the node restarts a stalled engine; 0: never.
        """
        if not self.reason:
            return ""
        follows = f"The node restarts it after {restart_after:.0f} s (engine.stall_timeout)."
        if not restart_after:
            follows = "Continue the process, or restart the node: engine.stall_timeout is 0."
        return f"The engine has stalled for {self.stalled_for:.0f} s: {self.reason}. {follows}"

    def start(self) -> None:
        """Start the checks on the running event loop."""
        self._note_sign()
        self._task = asyncio.create_task(self._keep_checking(), name="engine-vitals")

    def note_output(self) -> None:
        """Note that the engine has written text."""
        self._note_sign()

    async def close(self) -> None:
        """Stop the checks."""
        tasks = {task for task in (self._task, self._question) if task is not None}
        self._task = self._question = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)

    async def _keep_checking(self) -> None:
        while True:
            await asyncio.sleep(self._limits.interval)
            try:
                self._check()
            except Exception:
                _log.exception("Checking the engine's processes failed.")

    def _check(self) -> None:
        now = time.monotonic()
        if now - self._last_check > 5 * self._limits.interval:
            self._note_sign()  # This process itself was stopped, so the times are invalid.
        self._last_check = now
        found = [process for pid in self._pids if (process := processes.read_process(pid)) is not None]
        self._cpu = sum(process.cpu for process in found)
        stopped = [process.pid for process in found if process.stopped]
        if stopped:
            self._note_stall(self._since or now, f"its process {stopped[0]} is stopped (SIGSTOP or a debugger)")
            return
        if not self._running():
            self._note_sign()
            return
        silent = now - self._last_sign
        if silent >= self._limits.quiet and self._question is None:
            self._question = asyncio.create_task(self._wait_for_reply(), name="engine-reply")
        if silent >= self._limit(silent):
            self._note_stall(self._last_sign, "it neither generates text nor replies")
        elif self._since is not None:
            self._note_sign()  # The process was stopped and continues now.

    def _limit(self, silent: float) -> float:
        used = self._cpu - self._cpu_at_sign
        computes = self._works_on_cpu() and used > self._limits.idle_share * silent
        return self._limits.busy_silence if computes else self._limits.silence

    async def _wait_for_reply(self) -> None:
        with suppress(Exception):  # The engine died. `EmbeddedEngine` handles this.
            await self._ask()
            self._note_sign()
        self._question = None

    def _note_sign(self) -> None:
        if self._since is not None:
            _log.info("The engine works again after %.0f s.", self.stalled_for)
        self._since = None
        self._last_sign = time.monotonic()
        self._cpu_at_sign = self._cpu

    def _note_stall(self, since: float, reason: str) -> None:
        if self._since is None:
            _log.warning("The engine has stalled: %s.", reason)
        self._since, self._reason = since, reason
