"""vLLM's own OpenAI-compatible HTTP server on the node's engine: one GPU for the robot and its people, the robot first."""

import asyncio
import inspect
import logging
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any

from robobrain_ros.engine import compat
from robobrain_ros.engine.base import EngineHealth, EngineInfo, Generation, ProgressCallback, TextDelta
from robobrain_ros.engine.embedded import EmbeddedEngine
from robobrain_ros.engine.options import ServerOptions
from robobrain_ros.engine.server_guard import Guard, ServerState, is_loopback

HTTP_PRIORITY = 1_000_000
"""Of all that comes over HTTP, whatever it asks for; a robot's own requests have 0 or a little more."""

_AGAIN = 10.0
"""Seconds between two tries to open a port that another program holds."""
_GOODBYE = 3.0
_IDLE_CONNECTIONS = 64

_log = logging.getLogger(__name__)


class ServedEngine:
    """An embedded engine that is open to others over HTTP as long as it runs.

    A port that cannot be opened does not stop the robot: it is told by ``state`` and in the log, and tried again.
    """

    def __init__(self, inner: EmbeddedEngine, options: ServerOptions, state: ServerState) -> None:
        self._inner = inner
        self._options = options
        self._state = state
        self._key = options.validate(inner.options)
        self._task: asyncio.Task[None] | None = None
        self._server: Any = None

    async def start(self, progress: ProgressCallback) -> EngineInfo:
        """See `Engine.start`."""
        info = await self._inner.start(progress)
        self._task = asyncio.create_task(self._keep_open(info.model), name="http-server")
        return info

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        """See `Engine.generate`."""
        async with aclosing(self._inner.generate(generation)) as stream:
            async for delta in stream:
                yield delta

    async def abort(self, request_id: str) -> None:
        """See `Engine.abort`."""
        await self._inner.abort(request_id)

    def health(self) -> EngineHealth:
        """See `Engine.health`."""
        return self._inner.health()

    async def close(self) -> None:
        """See `Engine.close`. Requests over HTTP are broken off."""
        task, self._task = self._task, None
        if task is not None:
            if self._server is not None:
                self._server.should_exit = self._server.force_exit = True
            await asyncio.wait({task}, timeout=_GOODBYE)
            task.cancel()
            await asyncio.wait({task}, timeout=_GOODBYE)
        self._tell("closed", "The HTTP server is closed.")
        await self._inner.close()

    async def _keep_open(self, model: str) -> None:
        try:
            engine = self._behind()
            app = await compat.build_http_app(engine, str(engine.model_config.model), _public_name(model))
            guard = Guard(
                app,
                key=self._key,
                max_requests=self._options.max_requests,
                max_body=self._options.max_body_mib << 20,
                state=self._state,
            )
            while True:
                await self._serve(guard)
                await asyncio.sleep(_AGAIN)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            _log.exception("The HTTP server has failed; the node works on without it.")
            self._tell("failed", f"The HTTP server has failed ({type(error).__name__}: {error}); the log says where.")

    def _behind(self) -> Any:
        return _Behind(self._inner.vllm, self._options.max_requests)

    async def _serve(self, guard: Guard) -> None:
        """Serve until the end; returns at once where the port cannot be had."""
        host, port = self._options.host, self._options.port
        try:
            listener = _listen(host, port)
        except OSError as error:
            message = (
                f"The HTTP server cannot listen at {host}, port {port} ({error.strerror or error}); end the program that does, "
                "or set openai_server.port. It is tried again; the node works on without it."
            )
            if self._state.message != message:
                _log.warning(message)
            self._tell("failed", message)
            return
        import uvicorn

        class Server(uvicorn.Server):
            """Leaves the process's signals to the node."""

            @contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield

        configuration = uvicorn.Config(
            guard,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=self._options.max_requests + _IDLE_CONNECTIONS,
            timeout_graceful_shutdown=1,
        )
        self._server = Server(configuration)
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        self._state.address = address
        self._tell("open", f"Serving {address}.")
        key = "with a key" if self._key else "without a key, for this machine alone"
        _log.info("The engine is open to others at %s, %s; the robot goes first.", address, key)
        try:
            await self._server.serve(sockets=[listener])
        finally:
            self._server = None
            listener.close()

    def _tell(self, state: str, message: str) -> None:
        self._state.state, self._state.message = state, message


class _Behind:
    """vLLM's engine as the HTTP server sees it: every request goes behind the robot's, and only some at once.

    One HTTP request may hold many for the engine (``n``, lists of prompts), so it is here that they are counted.
    """

    def __init__(self, engine: Any, most: int) -> None:
        self._engine = engine
        self._most = most
        self._slots = asyncio.Semaphore(most)
        self._signature = inspect.signature(engine.generate)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, *arguments: Any, **named: Any) -> AsyncGenerator[Any, None]:
        """As of AsyncLLM, with the priority of HTTP.

        :raises ValueError: more answers to one question are asked for than there may be requests.
        """
        call = self._signature.bind(*arguments, **named)
        call.arguments["priority"] = HTTP_PRIORITY
        answers = getattr(call.arguments.get("sampling_params"), "n", 1) or 1
        if answers > self._most:
            raise ValueError(f"n is {answers}; at most {self._most} answers to one question are given here.")
        async with self._slots, aclosing(self._engine.generate(*call.args, **call.kwargs)) as outputs:
            async for output in outputs:
                yield output


def _public_name(model: str) -> str:
    """What clients call a model: its name on the hub, or its folder's, or the demo model's."""
    path = Path(model)
    if not path.is_dir():
        return model
    return "tabletop-demo" if path.parts[-2:] == ("demo", "model") else path.name


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        if not is_loopback(host):
            _log.warning("The HTTP server is not encrypted; put a proxy with TLS before it where the network is not yours.")
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
