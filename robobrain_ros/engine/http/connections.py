"""Limits of connections to the HTTP server (number, duration, size of the header), applied before the key is checked.

A connection is *waiting* until the header of a request with the right key has arrived. Waiting connections are closed after
`HEADER` seconds, and new ones replace the oldest. So a client with many connections does not block other clients.
"""

import asyncio
import errno
import logging
import time
from collections import Counter
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from robobrain_ros.engine.addresses import client_of
from robobrain_ros.engine.http.guard import DISCARD_RATE, ServerState
from robobrain_ros.engine.http.rates import Rates

HEADER = 10.0
"""Time limit in seconds for the header of a request, from the start of the connection or the end of the previous answer."""
LARGEST_HEADER = 16 * 1024
KEEP_ALIVE = 5
"""Seconds after which an idle connection between two requests is closed."""
ACCEPTS, ACCEPTS_AT_ONCE = 200.0, 100.0
"""Connections accepted per second, and at once. Further connections wait in the system's queue, which has `BACKLOG` places."""
BACKLOG = 128
_QUIET = 0.1
"""Seconds without data after which a discarded request counts as complete."""
LOG_EACH = 60.0
"""Seconds between two log lines of the same kind."""

_log = logging.getLogger(__name__)


class Connections:
    """All connections of a server.

    :param most: maximum number of connections.
    :param most_of_client: maximum number of waiting connections of one client.
    """

    def __init__(self, most: int, most_of_client: int, state: ServerState) -> None:
        self._most = most
        self._most_of_client = most_of_client
        self._state = state
        self._waiting: dict[Any, str] = {}
        """Waiting connections and their clients, the oldest first."""
        self._working: set[Any] = set()
        self._logged: dict[str, float] = {}
        self._discarding_until = 0.0

    def discard_pause(self, received: int) -> float:
        """Return the seconds for which a connection that discarded ``received`` bytes must not read, to keep `DISCARD_RATE`."""
        now = time.monotonic()
        self._discarding_until = max(now, self._discarding_until) + received / DISCARD_RATE
        return self._discarding_until - now

    def add(self, connection: Any, client: str) -> bool:
        """Add a connection. If there are too many, close a waiting one. Return False if the added connection was closed."""
        self._waiting[connection] = client
        clients = Counter(self._waiting.values())
        if clients[client] > self._most_of_client:
            self._drop_oldest(client, f"one client opened more than {self._most_of_client} connections")
        elif len(self._waiting) + len(self._working) > self._most:
            self._drop_oldest(clients.most_common(1)[0][0], f"there were more than {self._most} connections")
        self._count()
        return connection in self._waiting

    def admit(self, connection: Any) -> None:
        """Note that a request with the key has arrived on a connection."""
        if self._waiting.pop(connection, None) is not None:
            self._working.add(connection)

    def wait(self, connection: Any, client: str) -> None:
        """Note that the request of a connection was answered."""
        if connection in self._working:
            self._working.discard(connection)
            self._waiting[connection] = client

    def remove(self, connection: Any) -> None:
        """Note that a connection has ended."""
        self._waiting.pop(connection, None)
        self._working.discard(connection)
        self._count()

    def drop(self, connection: Any, reason: str) -> None:
        """Close a connection at once."""
        self.remove(connection)
        self._state.dropped += 1
        self.log_rarely("dropped", f"The HTTP server closed a connection: {reason}.")
        connection.abort()

    def log_rarely(self, kind: str, message: str) -> None:
        """Log a line, unless one of its kind was logged within `LOG_EACH` seconds."""
        now = time.monotonic()
        if now - self._logged.get(kind, -LOG_EACH) >= LOG_EACH:
            self._logged[kind] = now
            _log.warning("%s The node logs at most one such line in %.0f s; /diagnostics counts all.", message, LOG_EACH)

    def _drop_oldest(self, client: str, reason: str) -> None:
        oldest = next(connection for connection, its in self._waiting.items() if its == client)
        self.drop(oldest, f"{reason}, and no request was in progress on this connection of {client}")

    def _count(self) -> None:
        self._state.connections = len(self._waiting) + len(self._working)


class RateLimitFilter(logging.Filter):
    """Passes one record of each message in `LOG_EACH` seconds, because unknown clients can cause any number of records."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter.filter`."""
        now = time.monotonic()
        key = str(record.msg)[:200]
        if now - self._last.get(key, -LOG_EACH) < LOG_EACH:
            return False
        if len(self._last) > 100:
            self._last.clear()
        self._last[key] = now
        return True


def make_protocol(connections: Connections) -> type[H11Protocol]:
    """Return uvicorn's protocol class for h11, which limits headers, with the limits of this module."""

    class Connection(H11Protocol):
        """One connection."""

        _timer: asyncio.TimerHandle | None = None
        _name = ""
        _discarded: int | None = None
        """Number of discarded bytes, or None if the connection does not discard data."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._name = client_of(self.client)
            self.app_state = {**self.app_state, "connection": self}
            if connections.add(self, self._name):
                self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            connections.remove(self)
            self._unwatch()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._discarded is not None:
                self._discarded += len(data)
                self.flow.pause_reading()
                self.loop.call_later(connections.discard_pause(len(data)), self.flow.resume_reading)
                return
            if self.transport.is_closing():
                return
            try:
                self._take(data)
            except h11.LocalProtocolError:
                self.abort()  # The client sent data that is not HTTP during an answer.
            if self.conn.their_state is not h11.IDLE:
                self._unwatch()

        def _take(self, data: bytes) -> None:
            """Pass data to h11. It limits incomplete headers only, so it must not get a whole header that is too large."""
            while self.conn.their_state is h11.IDLE and not self.transport.is_closing():
                room = LARGEST_HEADER + 1 - len(self.conn.trailing_data[0])
                super().data_received(data[:room])
                data = data[room:]
                if not data:
                    return
            if not self.transport.is_closing():
                super().data_received(data)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            connections.wait(self, self._name)
            if not self.transport.is_closing() and self.conn.their_state is h11.IDLE:
                self._watch()

        def admit(self) -> None:
            """Note that the request contains the key."""
            connections.admit(self)

        async def discard(self, longest: float) -> None:
            """Drop incoming data until the client stops sending, or for at most ``longest`` seconds. Then end the connection."""
            end = time.monotonic() + longest
            self._discarded, before = 0, -1
            self.flow.resume_reading()
            while not self.transport.is_closing() and time.monotonic() < end:
                if before == self._discarded and not self.flow.read_paused:
                    return
                before = self._discarded
                await asyncio.sleep(_QUIET)

        def abort(self) -> None:
            """Close at once, also with unsent data."""
            self._unwatch()
            self.transport.abort()

        def _watch(self) -> None:
            self._unwatch()
            self._timer = self.loop.call_later(HEADER, self._too_late)

        def _unwatch(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_late(self) -> None:
            connections.drop(self, f"no request came from {self._name} within {HEADER:.0f} s")

    return Connection


async def accept(listener: Any, make: Any, connections: Connections) -> None:
    """Accept connections at a limited rate until cancelled. A process without free file descriptors waits."""
    loop = asyncio.get_running_loop()
    rates = Rates(ACCEPTS, ACCEPTS_AT_ONCE)
    listener.listen(BACKLOG)
    while True:
        while not rates.take("all"):  # noqa: ASYNC110 - only time adds tokens, so there is no event to wait for
            await asyncio.sleep(1 / ACCEPTS)
        try:
            connection, _ = await loop.sock_accept(listener)
        except OSError as error:
            if error.errno in (errno.EBADF, errno.EINVAL):
                return  # The listener is closed.
            connections.log_rarely("accept", f"The HTTP server cannot accept connections now ({error.strerror}).")
            await asyncio.sleep(1.0)
            continue
        try:
            await loop.connect_accepted_socket(make, connection)
        except OSError:
            connection.close()
