"""Sends a response again where the middleware did not know its client yet.

A request can arrive before DDS has matched the client's reader of responses, on a loaded computer or a lossy network. The
middleware then waits 0.1 s and raises an error. For a client that has left, it raises no error. The node therefore keeps the
response and sends it when the client is known.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.timer import Timer

_PATIENCE = 15.0
"""Seconds after which a response counts as lost. DDS repeats its announcements every few seconds."""
_PAUSE = 0.5
"""Seconds between two tries: a try that fails blocks the executor for 0.1 s."""

_AT_ONCE = 5
"""Responses that leave in one round: half of what a client keeps by default."""


@dataclass(frozen=True)
class _Kept:
    send: Callable[[], bool]
    lost: Callable[[], None]
    until: float


class Redelivery:
    """Responses that could not be sent yet. All methods are called in the executor."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._kept: deque[_Kept] = deque()
        self._timer: Timer | None = None
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)

    @property
    def waiting(self) -> int:
        """Responses that are kept."""
        return len(self._kept)

    def keep(self, send: Callable[[], bool], lost: Callable[[], None]) -> None:
        """Send a response later.

        :param send: sends it; returns whether that succeeded. It must not raise.
        :param lost: called after the last try failed.
        """
        self._kept.append(_Kept(send, lost, time.monotonic() + _PATIENCE))
        if self._timer is None:
            self._timer = self._node.create_timer(_PAUSE, self._try, clock=self._clock)

    def _try(self) -> None:
        """Send until one try fails. A response that failed moves to the end, so that no client delays the others."""
        for _ in range(min(len(self._kept), _AT_ONCE)):
            kept = self._kept.popleft()
            if kept.send():
                continue
            if time.monotonic() < kept.until:
                self._kept.append(kept)
            else:
                kept.lost()
            break
        if not self._kept and self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
