"""The port of the HTTP server. It is open while a model is loaded or loading, also during restarts of the engine."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from robobrain_ros.engine.addresses import is_loopback
from robobrain_ros.engine.http.guard import App, Guard, ServerState
from robobrain_ros.engine.http.options import ServerOptions
from robobrain_ros.engine.http.requests import RequestLimits
from robobrain_ros.engine.options import EngineOptions

_AGAIN = 10.0
"""Seconds between two attempts to open a port that another program uses."""
_GOODBYE = 3.0
_LOGGERS = ("uvicorn.error", "uvicorn.asgi")

_log = logging.getLogger(__name__)


class HttpFront:
    """Passes HTTP requests to the engine's application while the engine runs. Otherwise, answers with 503 and the reason.

    If the port cannot be opened, the node continues. ``state`` and the log report this, and the front tries again.

    :param options: options of the server, which is enabled.
    :param engine: options of the engine.
    :raises EngineConfigError: an option is wrong.
    """

    def __init__(self, options: ServerOptions, engine: EngineOptions, state: ServerState | None = None) -> None:
        self.options = options
        self.state = state or ServerState()
        self._key = options.validate(engine)
        self.guard = Guard(
            key=self._key, max_requests=options.max_requests, max_body=options.max_body_mib << 20, state=self.state
        )
        self._task: asyncio.Task[None] | None = None
        self._server: Any = None
        self._listening = False
        self._serving = False
        self._closing = asyncio.Event()
        self._waiting_for = "The model is loading."

    def open(self) -> None:
        """Listen on the port, unless it is open already. Runs on the engine's loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep_open(), name="http-server")

    def serve(self, app: App, limits: RequestLimits, fault: Callable[[], str]) -> None:
        """Pass requests to an application from now on; see `Guard.serve`."""
        self.guard.serve(app, limits, fault)
        self._serving = True
        self._update_state()

    def suspend(self, reason: str) -> None:
        """Answer with 503 until the next `serve`, and abort requests in the application."""
        self._serving = False
        self._waiting_for = reason
        self.guard.suspend()
        self._update_state()

    async def close(self) -> None:
        """Close the port, and abort its requests."""
        self.suspend("The model is unloaded.")
        self._closing.set()
        task, self._task = self._task, None
        if task is not None:
            if self._server is not None:
                self._server.should_exit = self._server.force_exit = True
            await asyncio.wait({task}, timeout=_GOODBYE)
            task.cancel()
            await asyncio.wait({task}, timeout=_GOODBYE)
        self.guard.close()
        self.state.state, self.state.message = "closed", "The HTTP server is closed."

    def _update_state(self) -> None:
        if not self._listening:
            return
        if self._serving:
            self.state.state, self.state.message = "open", f"Serving {self.state.address}."
        else:
            self.state.state, self.state.message = "waiting", self._waiting_for

    async def _keep_open(self) -> None:
        while not self._closing.is_set():
            try:
                await self._listen()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                _log.exception("The HTTP server failed. The node continues without it.")
                self.state.state = "failed"
                self.state.message = f"The HTTP server failed ({type(error).__name__}: {error}). The log has the traceback."
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _AGAIN)

    async def _listen(self) -> None:
        """Serve until `close`. Return at once if the port cannot be opened."""
        host, port = self.options.host, self.options.port
        try:
            listener = _bound(host, port)
        except OSError as error:
            message = (
                f"The HTTP server cannot listen on {host}, port {port} ({error.strerror or error}). Stop the program that uses "
                "the port, or change openai_server.port. The node retries every 10 s and continues without the server."
            )
            if self.state.message != message:
                _log.warning(message)
            self.state.state, self.state.message = "failed", message
            return
        self._server = _server(self.guard, self.options, self.state)
        self.state.address = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        self._listening = True
        self._update_state()
        key = "with a key" if self._key else "without a key, for this machine only"
        _log.info("The HTTP server listens at %s, %s. ROS requests have priority.", self.state.address, key)
        try:
            await self._server.serve(sockets=[listener])
        finally:
            self._server = None
            self._listening = False
            listener.close()


def _server(guard: Guard, options: ServerOptions, state: ServerState) -> Any:
    import uvicorn

    from robobrain_ros.engine.http import connections as limits

    connections = limits.Connections(options.max_connections, options.max_connections_per_client, state)

    protocol = limits.make_protocol(connections)

    class Server(uvicorn.Server):
        """Does not handle signals, which belong to the node, and accepts connections within limits."""

        _accepting: "asyncio.Task[None] | None" = None

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def startup(self, sockets: Any = None) -> None:
            self.servers: list[Any] = []

            def make() -> Any:
                return protocol(self.config, self.server_state, {})

            (listener,) = sockets
            self._accepting = asyncio.create_task(limits.accept(listener, make, connections))
            self.started = True

        async def shutdown(self, sockets: Any = None) -> None:
            if self._accepting is not None:
                self._accepting.cancel()
                await asyncio.wait({self._accepting})
            await super().shutdown(sockets)
            for connection in list(self.server_state.connections):
                connection.transport.abort()

    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(known, limits.RateLimitFilter) for known in logger.filters):
            logger.addFilter(limits.RateLimitFilter())
    return Server(
        uvicorn.Config(
            guard,
            http=protocol,
            h11_max_incomplete_event_size=limits.LARGEST_HEADER,
            timeout_keep_alive=limits.KEEP_ALIVE,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
    )


def _bound(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        # With SO_REUSEADDR, only listen() fails if another program listens on the port.
        listener.listen()
    except BaseException:
        listener.close()
        raise
    if not is_loopback(host):
        _log.warning("The HTTP server is not encrypted. On a shared network, put a TLS proxy in front of it.")
    listener.setblocking(False)
    return listener
