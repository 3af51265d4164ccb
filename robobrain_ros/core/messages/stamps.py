"""Stamps of messages, and the message of a topic that belongs to an image."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any


def nanoseconds(stamp: Any) -> int:
    """Return a stamp (builtin_interfaces/Time) in ns; 0: no stamp."""
    return int(stamp.sec * 10**9 + stamp.nanosec)


class StampMatch:
    """Finds the message of a topic that belongs to an image, among earlier and later messages."""

    def __init__(self, stamp: int, kept: Sequence[Any]) -> None:
        self._stamp = stamp
        self.best: Any = None
        """The message with the nearest stamp so far."""
        self.settled: Future[None] = Future()
        """Done when no message with a nearer stamp can arrive."""
        self._closed = False
        for message in kept:
            self.offer(message)

    @property
    def stamp(self) -> int:
        """The image's stamp in ns."""
        return self._stamp

    def close(self) -> None:
        """Ignore further messages, because time has jumped. Called in the executor."""
        self._closed = True
        if not self.settled.done():
            self.settled.set_result(None)

    def offer(self, message: Any) -> None:
        """Compare a new message with the best one. Called in the executor."""
        if self._closed:
            return
        stamp = nanoseconds(message.header.stamp)
        if self.best is None or abs(stamp - self._stamp) < self.distance:
            self.best = message
        # The stamps of a topic ascend, so the stamps of later messages differ more.
        if stamp >= self._stamp and not self.settled.done():
            self.settled.set_result(None)

    @property
    def distance(self) -> int:
        """Difference between the stamps of the image and the best message in ns."""
        return abs(nanoseconds(self.best.header.stamp) - self._stamp)

    def is_met(self, tolerance: float) -> bool:
        """Return whether the best message belongs to the image. ``tolerance``: seconds between the stamps."""
        return self.best is not None and self.distance <= round(tolerance * 1e9)
