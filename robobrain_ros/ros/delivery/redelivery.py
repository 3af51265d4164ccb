"""Send a response again if the middleware does not know its client yet.

On a loaded computer or a lossy network, a request can arrive before DDS has matched the client's reader of responses. The
middleware then waits 0.1 s and raises an error. It raises no error for a client that has left. After such an error, the node
keeps the response, and sends it when the middleware knows the client.
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
"""Seconds between two attempts. A failed attempt blocks the executor for 0.1 s."""

_AT_ONCE = 5
"""Number of responses that are sent in one round. It is half of a client's default queue."""


@dataclass(frozen=True)
class _Kept:
    send: Callable[[], bool]
    lost: Callable[[], None]
    until: float


class Redelivery:
    """Keeps responses that could not be sent. All methods are called in the executor."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._kept: deque[_Kept] = deque()
        self._timer: Timer | None = None
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)

    @property
    def waiting(self) -> int:
        """Number of responses that are kept."""
        return len(self._kept)

    def keep(self, send: Callable[[], bool], lost: Callable[[], None]) -> None:
        """Keep a response, and send it later.

        :param send: sends the response and returns whether this succeeded. It must not raise.
        :param lost: called after the last attempt failed.
        """
        self._kept.append(_Kept(send, lost, time.monotonic() + _PATIENCE))
        if self._timer is None:
            self._timer = self._node.create_timer(_PAUSE, self._try, clock=self._clock)

    def _try(self) -> None:
        """Send responses until one attempt fails. The failed response moves to the end, so that no client delays the others."""
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
