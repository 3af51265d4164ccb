"""Limit the rate of a service's responses, so that clients do not lose any.

In DDS, a client receives the responses to all clients of its service. By default, its queue holds the last 10 responses. If
hundreds of requests end at once, the queue of a slow client overflows.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from threading import Lock

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future
from rclpy.timer import Timer

_UNPACED = 5
"""Number of responses that are sent at once. It is half of a client's default queue."""
_INTERVAL = 0.008
"""Seconds between further responses. `_INTERVAL_PER_CLIENT` is added for each client."""
_INTERVAL_PER_CLIENT = 0.0002
"""Additional seconds for each client, because each client receives the responses to all clients."""
READ_WITHIN = _UNPACED * _INTERVAL
"""Seconds. A client with the default queue that never waits longer before it reads its responses loses none."""
_TICK = 0.002
"""Seconds between two checks while responses wait."""
_SHORTEST = 0.0005
"""Seconds. Smallest period of the timer of a wait."""
_RECOUNT = 1.0
"""Seconds after which the clients are counted again."""


@dataclass
class _Lane:
    """The waiting responses of one service: a token bucket. ``tokens`` responses can be sent now."""

    tokens: float = _UNPACED
    at: float = 0.0
    interval: float = _INTERVAL
    counted: float = -_RECOUNT
    waiting: deque[Callable[[], None]] = field(default_factory=deque)

    def take(self, now: float) -> bool:
        """Take a token for one response. Return whether there was one."""
        self.tokens = min(self.tokens + (now - self.at) / self.interval, _UNPACED)
        self.at = now
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


class Pacing:
    """Sends the responses of each service in order and at a limited rate. All methods are called in the executor.

    While responses wait, a timer ticks. Otherwise, it fires once when the next wait ends, so that a long wait costs nothing.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lanes: dict[str, _Lane] = {}
        self._sleepers: list[tuple[float, Future]] = []
        self._timer: Timer | None = None
        self._wakes_at = math.inf
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._lock = Lock()

    @property
    def waiting(self) -> int:
        """Number of responses that wait."""
        return sum(len(lane.waiting) for lane in self._lanes.values())

    async def turn(self, service: str, weight: float) -> None:
        """Wait until a response may be sent; for coroutines. See `respond`."""
        future = Future()
        self.respond(service, lambda: future.set_result(None), weight)
        await future

    def respond(self, service: str, send: Callable[[], None], weight: float = 1.0) -> None:
        """Call ``send`` as soon as a response of the service may be sent.

        :param weight: factor for the time that a client needs for this response; 1 for ordinary services.
        """
        with self._lock:
            lane = self._lanes.setdefault(service, _Lane())
            now = time.monotonic()
            if now - lane.counted >= _RECOUNT:
                lane.counted = now
                lane.interval = _INTERVAL + _INTERVAL_PER_CLIENT * weight * self._node.count_clients(service)
            if lane.waiting or not lane.take(now):
                lane.waiting.append(send)
                self._set_timer()
                return
        send()

    async def sleep(self, seconds: float) -> None:
        """Wait for this number of seconds without blocking the executor."""
        await self.after(seconds)

    def after(self, seconds: float) -> Future:
        """Return a future that is done after this number of seconds. A caller that sets its result earlier ends the wait."""
        future = Future()
        with self._lock:
            waiting = [sleeper for sleeper in self._sleepers if not sleeper[1].done()]
            self._sleepers = [*waiting, (time.monotonic() + seconds, future)]
            self._set_timer()
        return future

    def close(self) -> None:
        """Send all waiting responses and end all waits."""
        with self._lock:
            released = [send for lane in self._lanes.values() for send in lane.waiting]
            sleepers = self._sleepers
            self._lanes, self._sleepers = {}, []
            self._set_timer()
        for send in released:
            send()
        _end_waits(future for _, future in sleepers)

    def _tick(self) -> None:
        now = time.monotonic()
        with self._lock:
            awake = [future for end, future in self._sleepers if end <= now]
            released = []
            self._sleepers = [(end, future) for end, future in self._sleepers if end > now]
            for lane in self._lanes.values():
                while lane.waiting and lane.take(now):
                    released.append(lane.waiting.popleft())
            self._set_timer(fired=True)
        for send in released:
            send()
        _end_waits(awake)

    def _set_timer(self, *, fired: bool = False) -> None:
        """Set the timer to the end of the next wait, or let it tick. A timer that is earlier remains, unless it has fired."""
        ticks = any(lane.waiting for lane in self._lanes.values())
        due = -math.inf if ticks else min((end for end, _ in self._sleepers), default=math.inf)
        if self._wakes_at <= due < math.inf and (ticks or not fired):
            return
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
        self._wakes_at = due
        if due < math.inf:
            seconds = _TICK if ticks else max(due - time.monotonic(), _SHORTEST)
            self._timer = self._node.create_timer(seconds, self._tick, clock=self._clock)


def _end_waits(futures: Iterable[Future]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
