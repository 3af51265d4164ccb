"""Rate limits of the HTTP server's clients."""

import time
from typing import Any

from robobrain_ros.bounds.compile_cost import MOST_COMPILE

RATE, BURST = 50.0, 100.0
"""Requests per second of one client, and requests at once. Requests with and without the key count separately."""
COMPILE_RATE = 15.0
"""Estimated milliseconds per second in which vLLM compiles the constraints of one client: 1.5 % of a core. While it compiles, the
robot's requests wait. At this rate, fewer than 5 % of them do."""
COMPILE_BURST = MOST_COMPILE
"""Estimated milliseconds at once. vLLM does not keep compiled constraints, so a repeated constraint counts each time."""
MOST_CLIENTS = 1000


class Rates:
    """Rate limits of clients by token buckets."""

    def __init__(self, rate: float = RATE, burst: float = BURST) -> None:
        self._rate, self._burst = rate, burst
        self._left: dict[Any, tuple[float, float]] = {}

    def charge(self, client: Any, cost: float) -> None:
        """Take further tokens of a client. The number can become negative."""
        if client in self._left:
            left, at = self._left[client]
            self._left[client] = (left - cost, at)

    def take(self, client: Any, cost: float = 1.0) -> bool:
        """Take tokens for a request of a client. Return whether there were as many."""
        now = time.monotonic()
        left, at = self._left.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        if len(self._left) >= MOST_CLIENTS:
            self._left.pop(next(iter(self._left)))  # The client whose last request is the oldest.
        self._left[client] = (left - cost if left >= cost else left, now)
        return left >= cost
