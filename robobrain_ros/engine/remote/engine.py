"""An engine that uses OpenAI-compatible servers: ``vllm serve``, ``flagscale serve``, or the server of another robot."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass

from robobrain_ros.bounds.control_tokens import reject_control_tokens
from robobrain_ros.bounds.deadlines import ENGINE_RELEASE
from robobrain_ros.engine.base import (
    CheckOrigin,
    EngineHealth,
    EngineInfo,
    EngineState,
    Generation,
    LoadProgress,
    ModelOrigin,
    ProgressCallback,
    TextDelta,
)
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.engine.remote.client import ServerFault
from robobrain_ros.engine.remote.data_url import data_url
from robobrain_ros.engine.remote.server import SILENCE, ServedModel, Server
from robobrain_ros.errors import (
    BadImageError,
    EngineConfigError,
    EngineFailedError,
    RoboBrainError,
)

_TRIES = 2
"""Number of servers on which a request is tried."""
_FORM_HINT = (
    "The request has a constraint. If every request with a constraint fails, start the server with another backend: "
    """--structured-outputs-config '{"backend": "guidance", "disable_any_whitespace": true}'."""
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckIntervals:
    """Seconds between two checks of a server that is up or down."""

    up: float = 5.0
    down: float = 2.0


class RemoteEngine:
    """An `engine.base.Engine` on one or several servers of the same model.

    Each request is sent to the server with the fewest requests of this node. If the server fails before it has sent text, the
    request is sent once to another server.
    """

    def __init__(
        self, options: EngineOptions, intervals: CheckIntervals | None = None, check_origin: CheckOrigin | None = None
    ) -> None:
        self.options = options
        self._check_origin = check_origin
        self._intervals = intervals or CheckIntervals()
        self._servers: list[Server] = []
        self._watches: list[asyncio.Task[None]] = []
        self._arrivals: dict[str, asyncio.Queue[TextDelta | RoboBrainError]] = {}
        self._served: ServedModel | None = None
        self._state: tuple[EngineState, str] = ("stopped", "The engine is not started.")

    async def start(self, progress: ProgressCallback) -> EngineInfo:
        """See `Engine.start`. Waits at most ``engine.start_timeout`` for a server, unless no server can become available."""
        self._state = ("loading", "Looking for the servers.")
        try:
            return await self._start(progress)
        except BaseException as error:
            await self._disconnect()
            self._state = ("failed", str(error) or "Starting the engine was cancelled.")
            raise

    async def _start(self, progress: ProgressCallback) -> EngineInfo:
        self.options.validate()
        key = self.options.remote.read_key()
        self._warn_if_insecure(bool(key))
        # The import runs in a thread, because it takes a second.
        await asyncio.to_thread(_import_openai)
        self._servers = [Server(url, self.options, key, self._check_origin) for url in self.options.remote.urls]
        progress(LoadProgress("connecting", f"Looking for {_names(self._servers)}."))
        await self._wait_for_one(progress)
        served = next(server.served for server in self._servers if server.fault is None and server.served is not None)
        self._served = served
        for server in self._servers:
            self._compare(server)
        self._watches = [asyncio.create_task(self._watch(server), name=f"watch {server.url}") for server in self._servers]
        self._state = ("ready", "")
        return EngineInfo(
            model=served.model,
            model_type=served.model_type,
            engine=f"{served.software} at {_names(self._servers)}",
            max_model_len=served.max_model_len,
            min_pixels=served.min_pixels,
            max_pixels=served.max_pixels,
            cell=served.cell,
            origin=ModelOrigin(served.names),
        )

    async def _wait_for_one(self, progress: ProgressCallback) -> None:
        end = time.monotonic() + self.options.start_timeout
        while True:
            await asyncio.gather(*(server.check() for server in self._servers))
            faults = [server.fault for server in self._servers if server.fault is not None]
            if len(faults) < len(self._servers):
                return
            problems = " ".join(fault.error.message for fault in faults)
            if all(fault.lasting for fault in faults):
                raise EngineConfigError(problems)
            if time.monotonic() + self._intervals.down > end:
                limit = f"engine.start_timeout = {self.options.start_timeout:.0f} s"
                raise EngineConfigError(f"No server became available within {limit}. {problems}")
            progress(LoadProgress("connecting", f"Waiting for a server. {problems}"))
            await asyncio.sleep(self._intervals.down)

    def _warn_if_insecure(self, has_key: bool) -> None:
        if not self.options.remote.verify:
            _log.warning("engine.verify is false: another machine can pose as a server and get the images and the key.")
        for url in self.options.remote.urls:
            if has_key and url.lower().startswith("http:") and not re.match(r"http://(localhost|127\.|\[::1\])", url.lower()):
                _log.warning("%s is not encrypted: others on the network can read the key and the images. Use https.", url)

    def _compare(self, server: Server) -> None:
        """Reject a server if its model or its image sizes differ from the properties that the engine reported at the start.

        The brain resizes images for the reported properties.
        """
        ours, its = self._served, server.served
        if ours is None or its is None or server.fault is not None:
            return
        shared = its.model == ours.model and its.cell == ours.cell
        narrower = its.min_pixels > ours.min_pixels or its.max_pixels < ours.max_pixels
        if not shared or narrower:
            server.fault = ServerFault(
                EngineConfigError(
                    f"{server.url} serves {its.model} with images of {its.min_pixels} to {its.max_pixels} pixels, another server "
                    f"{ours.model} with {ours.min_pixels} to {ours.max_pixels}. Start all servers with the same options."
                ),
                down=True,
                lasting=True,
            )

    async def _watch(self, server: Server) -> None:
        """Check a server regularly, and at once after a failed request."""
        while True:
            was_up = server.fault is None
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(server.check_soon.wait(), self._intervals.up if was_up else self._intervals.down)
            if server.check_soon.is_set() and server.fault is not None:
                await asyncio.sleep(self._intervals.down)  # The server was down a moment ago.
            server.check_soon.clear()
            await server.check()
            self._compare(server)
            if was_up and server.fault is not None:
                _log.warning("A server is down. %s", server.fault.error.message)
            elif not was_up and server.fault is None:
                _log.info("%s is available again.", server.url)

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        """See `Engine.generate`. Also raises `BusyError`."""
        if self._state[0] != "ready":
            raise EngineFailedError("The engine is not started.")
        self._check(generation)
        arrivals: asyncio.Queue[TextDelta | RoboBrainError] = asyncio.Queue()
        self._arrivals[generation.request_id] = arrivals
        pump = asyncio.create_task(self._pump(generation, arrivals))
        try:
            while True:
                arrival = await arrivals.get()
                if isinstance(arrival, RoboBrainError):
                    raise arrival
                yield arrival
                if arrival.finish_reason:
                    return
        finally:
            self._arrivals.pop(generation.request_id, None)
            pump.cancel()
            await asyncio.wait({pump}, timeout=ENGINE_RELEASE)

    async def _pump(self, generation: Generation, arrivals: "asyncio.Queue[TextDelta | RoboBrainError]") -> None:
        """Pass the server's text to the reader. Cancelling this task ends the request on the server."""
        try:
            images = [
                await asyncio.to_thread(data_url, image, self.options.remote.image_format, self.options.remote.image_quality)
                for image in generation.images
            ]
            await self._ask(generation, images, arrivals)
        except RoboBrainError as error:
            arrivals.put_nowait(error)
        except Exception as error:
            _log.exception("The remote engine failed on a request.")
            arrivals.put_nowait(EngineFailedError(f"The remote engine failed on this request: {type(error).__name__}."))

    async def _ask(
        self, generation: Generation, images: list[str], arrivals: "asyncio.Queue[TextDelta | RoboBrainError]"
    ) -> None:
        tried: list[Server] = []
        written = False
        while True:
            server = self._choose(tried)
            tried.append(server)
            try:
                async with aclosing(server.generate(generation, images)) as stream:
                    async for delta in stream:
                        written = written or bool(delta.text)
                        arrivals.put_nowait(delta)
                return
            except ServerFault as fault:
                server.note_fault(fault)
                others = [other for other in self._servers if other.fault is None and other not in tried]
                if written or not fault.elsewhere or len(tried) >= _TRIES or not others:
                    raise _explained(fault, generation, written) from fault
                _log.warning("%s Trying another server.", fault.error.message)

    def _choose(self, tried: list[Server]) -> Server:
        """Return the available server with the fewest requests of this node. Stalled servers come last."""
        well = [server for server in self._servers if server.fault is None and server not in tried]
        if not well:
            raise EngineFailedError(self._describe_faults())
        return min(well, key=lambda server: (server.stalled, server.running))

    def _check(self, generation: Generation) -> None:
        assert self._served is not None
        reject_control_tokens("The prompt", generation.text)
        cell = self._served.cell
        for image in generation.images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype.name != "uint8":
                raise BadImageError(f"The engine needs images of shape (height, width, 3) and type uint8, not {image.shape}.")
            height, width = image.shape[:2]
            if min(height, width) < cell or height % cell or width % cell:
                raise BadImageError(f"The engine needs images whose sides are multiples of {cell} pixels, not {width}x{height}.")

    async def abort(self, request_id: str) -> None:
        """See `Engine.abort`."""
        arrivals = self._arrivals.get(request_id)
        if arrivals is not None:
            arrivals.put_nowait(TextDelta("", 0, finish_reason="abort"))

    def health(self) -> EngineHealth:
        """See `Engine.health`. The state is failed while no server is available."""
        state, message = self._state
        servers = list(self._servers)
        if state == "ready" and self._served is not None:
            well = sum(server.fault is None for server in servers)
            message = f"{self._served.model} is ready."
            if not well:
                state, message = "failed", self._describe_faults()
            elif well < len(servers):
                message += f" {well} of {len(servers)} servers: {self._describe_faults()}"
        return EngineHealth(state, message, running=len(self._arrivals), warning=self._describe_stalls())

    def _describe_stalls(self) -> str:
        return " ".join(
            f"{server.url} accepts requests, but has sent no text for at least {SILENCE:.0f} s. Its engine hangs or is "
            "overloaded: check its log."
            for server in list(self._servers)
            if server.fault is None and server.stalled
        )

    def _describe_faults(self) -> str:
        return " ".join(server.fault.error.message for server in list(self._servers) if server.fault is not None)

    async def close(self) -> None:
        """See `Engine.close`. Requests in progress end with "abort"."""
        self._state = ("stopped", "The engine is closed.")
        for request_id in list(self._arrivals):
            await self.abort(request_id)
        await self._disconnect()

    async def _disconnect(self) -> None:
        watches, self._watches = self._watches, []
        for watch in watches:
            watch.cancel()
        if watches:
            await asyncio.wait(watches, timeout=ENGINE_RELEASE)
        servers, self._servers = self._servers, []
        for server in servers:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(server.close(), ENGINE_RELEASE)


def _explained(fault: ServerFault, generation: Generation, written: bool) -> RoboBrainError:
    """Return the error of a failed request. If it had a constraint, add a hint, because servers do not state this reason."""
    error = fault.error
    if generation.constraint is None or written or fault.down or not isinstance(error, EngineFailedError):
        return error
    return EngineFailedError(f"{error.message} {_FORM_HINT}")


def _import_openai() -> None:
    with suppress(ImportError):  # `make_client` reports that the package is missing.
        import openai  # noqa: F401


def _names(servers: list[Server]) -> str:
    return ", ".join(server.url for server in servers)
