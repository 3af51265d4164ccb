"""Access control and limits of the HTTP server: keys, routes, sizes, rates and concurrent requests.

`Guard` is an ASGI application that wraps another ASGI application. It does not depend on models.
"""

import asyncio
import contextlib
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from robobrain_ros.engine.addresses import client_of, is_loopback
from robobrain_ros.engine.http.checks import RequestError
from robobrain_ros.engine.http.rates import COMPILE_BURST, COMPILE_RATE, RATE, Rates
from robobrain_ros.engine.http.requests import ROUTES, RequestLimits, checked_body, largest_body

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PATHS = {"GET": {"/v1/models", "/health", "/metrics", "/version"}, "POST": set(ROUTES)}
"""The served routes by method. Routes of vLLM that load adapters, pause, profile, reset or store are not served."""

UPLOAD = 10.0
"""Time limit in seconds for receiving a request's body, plus one second for each `SLOWEST` bytes."""
SLOWEST = 64 * 1024
SPARE_UPLOADS = 4
"""Number of bodies that can be received in addition to the requests in progress."""
UPLOAD_SHARE = 2.0
"""If the maximum number of bodies is being received, a new one replaces the oldest after this number of seconds."""
STALL = 30.0
"""Seconds within which a client must read a part of its answer."""
COST = 1 << 20
"""For the rate, this number of bytes of a body counts as one request, or as `WRONG` requests if the body is rejected."""
WRONG = 10
CHECKED, MOST_CHECKED = 1024, 512 * 1024
"""Of a rejected body, each `CHECKED` of the first `MOST_CHECKED` bytes also count as one request: the check of a
schema takes up to 1 ms for 1 KiB, in which the robot's event loop waits."""
METRICS = 10
"""For the rate, ``GET /metrics`` counts as this number of requests, because the robot's event loop collects the values."""
RETRY_AFTER = 10
"""Seconds in the header Retry-After while the engine is unavailable."""

_LINGER = 2.0
"""Seconds for which the rest of a rejected request is read and dropped."""
DISCARD_RATE = 24e6
"""Maximum bytes per second of rejected bodies on all connections together, because receiving them takes CPU time."""
_LONG = 64 << 20
"""A sender of a rejected body with at most this number of bytes gets enough time to send all of it."""
_SMALL = 64 * 1024
_LOOK = 0.5
_HEADERS = frozenset({b"host", b"accept", b"user-agent"})
"""Headers that are passed to the application. Others could change its behaviour."""

_log = logging.getLogger(__name__)


@dataclass
class ServerState:
    """The state of the server for /diagnostics. Readable from any thread.

    :param state: "closed", "waiting" (for the engine), "open" or "failed".
    :param running: number of requests in progress.
    :param refused: number of requests that were answered with 429.
    :param rejected: number of requests that were answered with another error before the engine, except 503.
    :param dropped: number of connections that a limit closed.
    """

    state: str = "closed"
    message: str = "The HTTP server is closed. It opens when the node loads the model."
    address: str = ""
    running: int = 0
    refused: int = 0
    rejected: int = 0
    dropped: int = 0
    connections: int = 0


class Guard:
    """Passes requests to an application, or rejects them.

    :param key: key that requests must contain. If it is empty, no key is needed, but only programs on this machine are accepted.
    :param max_requests: maximum number of POST requests in progress. Further ones get status 429.
    :param max_body: maximum bytes of a request's body.
    :param state: is updated with counts.
    """

    def __init__(self, *, key: str, max_requests: int, max_body: int, state: ServerState) -> None:
        self._key = key.encode()
        self._max_requests = max_requests
        self._max_body = max_body
        self._state = state
        self._app: App | None = None
        self._limits: RequestLimits | None = None
        self._fault: Callable[[], str] = lambda: ""
        self._inside: set[asyncio.Task[None]] = set()
        self._uploads: list[_Upload] = []
        self._rates = Rates()
        self._compiles = Rates(COMPILE_RATE, COMPILE_BURST)
        # A separate executor, because the robot's requests use that of the loop.
        self._checking = ThreadPoolExecutor(max_workers=2, thread_name_prefix="http-check")

    def serve(self, app: App, limits: RequestLimits, fault: Callable[[], str]) -> None:
        """Pass requests to an application from now on.

        :param fault: returns why the application is unavailable, or an empty string if it is available.
        """
        self._app, self._limits, self._fault = app, limits, fault

    def suspend(self) -> None:
        """Answer with 503 from now on, and abort the requests in the application."""
        self._app = None
        for task in self._inside:
            task.cancel()

    def close(self) -> None:
        """Stop the threads that check requests."""
        self._checking.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, as ASGI defines it."""
        if scope["type"] != "http":
            return
        connection = scope.get("state", {}).pop("connection", None)
        headers = {name.lower(): value for name, value in scope["headers"]}
        answer = _Answer(scope, send, connection)
        length = headers.get(b"content-length", b"0")
        answer.outstanding = _SMALL + 1 if b"transfer-encoding" in headers or len(length) > 9 else int(length)
        try:
            refusal = self._refusal(scope, headers, connection)
            refusal = refusal or await self._let_through(scope, headers, receive, answer)
        except _GoneError:
            return
        if refusal is not None:
            self._state.rejected += refusal[0] not in (429, 503)
            try:
                await answer.refuse(receive, *refusal)
            except Exception:  # The rest of the request is no HTTP, and uvicorn has already answered with 400.
                answer.abort()
                await _ended(receive)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes], connection: Any) -> tuple[int, str] | None:
        allowed = self._is_allowed(headers)
        client = client_of(scope.get("client"))
        if not self._rates.take((client, allowed)):
            self._state.refused += 1
            return 429, f"This address sends more than {RATE:.0f} requests per second. Send fewer requests."
        if not allowed:
            return 401, "This server requires a key. Send the header Authorization: Bearer KEY."
        # A web page in a browser on this machine could reach the loopback address, where no key is needed.
        if not self._key and not (_is_local(headers.get(b"host", b"")) and _is_local(headers.get(b"origin"), page=True)):
            return 403, "Without a key, this server accepts only requests from its own machine that are addressed to localhost."
        if connection is not None:
            connection.admit()
        path = scope["path"]
        if path not in PATHS.get(scope["method"], ()):
            known = sorted(method for method, paths in PATHS.items() if path in paths)
            if known:
                return 405, f"{path} accepts only the method {known[0]}."
            return (
                404,
                f"This server has no {scope['method'][:20]} {path[:100]}. Use GET /v1/models or POST /v1/chat/completions.",
            )
        if path == "/metrics":
            self._rates.charge((client, allowed), METRICS - 1)
        return self._unavailable() or (self._rejected_post(path, headers) if scope["method"] == "POST" else None)

    def _largest(self, path: str) -> int:
        """Return the maximum bytes of a body for a route."""
        return self._max_body if self._limits is None else largest_body(path, self._limits)

    def _rejected_post(self, path: str, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        length = headers.get(b"content-length", b"0")
        most = self._largest(path)
        if not length.isdigit() or len(length) > 18 or int(length) > most:
            return 413, _too_large(most)
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            return 415, "The body must be JSON. Send the header Content-Type: application/json."
        return self._busy()

    def _busy(self) -> tuple[int, str] | None:
        if self._state.running < self._max_requests:
            return None
        self._state.refused += 1
        return (
            429,
            f"{self._max_requests} requests are in progress, which is the maximum (openai_server.max_requests). Retry later.",
        )

    def _unavailable(self) -> tuple[int, str] | None:
        if self._app is None:
            return 503, f"The engine is not ready: {self._state.message} Retry in about {RETRY_AFTER} s."
        fault = self._fault()
        return (503, f"The engine is not ready: {fault} Retry in about {RETRY_AFTER} s.") if fault else None

    def _is_allowed(self, headers: dict[bytes, bytes]) -> bool:
        if not self._key:
            return True
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._key)

    async def _let_through(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, answer: "_Answer"
    ) -> tuple[int, str] | None:
        kept = [(name, value) for name, value in headers.items() if name in _HEADERS]
        inner = {**scope, "query_string": b"", "headers": kept}
        if scope["method"] != "POST":
            return await self._pass(inner, b"", receive, answer)
        with self._upload() as upload:
            if upload is None:
                return 429, "Too many request bodies are being received. Retry later."
            body = await upload.read(receive, self._largest(scope["path"]))
        if isinstance(body, tuple):
            return body
        answer.outstanding = 0
        client = client_of(scope.get("client")), True
        self._rates.charge(client, len(body) / COST)
        if refusal := self._unavailable() or self._busy():
            return refusal
        self._state.running += 1
        try:
            refusal = await self._check_and_pass(inner, body, receive, answer)
        finally:
            self._state.running -= 1
        if refusal is not None and refusal[0] < 500:
            self._rates.charge(client, (WRONG - 1) * len(body) / COST + min(len(body), MOST_CHECKED) / CHECKED)
        return refusal

    @contextlib.contextmanager
    def _upload(self) -> Iterator["_Upload | None"]:
        """Reserve a place for a body. If recent bodies use all places, return None."""
        if len(self._uploads) >= self._max_requests + SPARE_UPLOADS:
            oldest = self._uploads[0]
            if time.monotonic() - oldest.began < UPLOAD_SHARE:
                self._state.refused += 1
                yield None
                return
            oldest.cut = True
            self._uploads.remove(oldest)
        upload = _Upload()
        self._uploads.append(upload)
        try:
            yield upload
        finally:
            if upload in self._uploads:
                self._uploads.remove(upload)

    async def _check_and_pass(self, inner: Scope, body: bytes, receive: Receive, answer: "_Answer") -> tuple[int, str] | None:
        limits = self._limits
        assert limits is not None, "requests are rejected before there are limits"
        loop = asyncio.get_running_loop()
        try:
            checked = await loop.run_in_executor(self._checking, checked_body, inner["path"], body, limits)
        except RequestError as error:
            answer.field = error.field
            return error.status, str(error)
        except MemoryError:
            return 413, "The server does not have enough memory for this request. Send a smaller one."
        except Exception as error:
            _log.error("The check of an HTTP request failed: %s: %s", type(error).__name__, str(error)[:200])
            return 500, "The server failed to process this request. Its log has the reason."
        cost = checked.compile_cost
        if cost and not self._compiles.take(client_of(inner.get("client")), cost):
            self._state.refused += 1
            return 429, (
                f"Compiling the constraint takes about {cost:.0f} ms (estimate). The constraints of one address may take "
                f"{COMPILE_RATE:.0f} ms per second. Send fewer requests with constraints, or simpler constraints."
            )
        size = str(len(checked.content)).encode()
        inner["headers"] += [(b"content-type", b"application/json"), (b"content-length", size)]
        return await self._pass(inner, checked.content, receive, answer)

    async def _pass(self, inner: Scope, body: bytes, receive: Receive, answer: "_Answer") -> tuple[int, str] | None:
        """Run the application for one request. Return an error to answer with if the application did not answer."""
        app = self._app
        if app is None:
            return self._unavailable()
        left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return left.pop() if left else await receive()

        answer.held_back = lambda: self._unavailable() is not None
        task = asyncio.ensure_future(app(inner, replay, answer.pass_on))
        self._inside.add(task)
        try:
            await asyncio.wait({task})
        finally:
            self._inside.discard(task)
            task.cancel()
        error = None if task.cancelled() else task.exception()
        if isinstance(error, _GoneError) or answer.complete:
            return None
        if answer.started:
            answer.abort()  # An incomplete answer must not look complete.
            return None
        if error is not None and not self._unavailable():
            _log.error("The HTTP application failed on a request: %s: %s", type(error).__name__, error)
        return self._unavailable() or (500, "The server failed to process this request. Its log has the reason.")


class _Upload:
    """The body of a request while the server receives it."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.cut = False
        """Whether another body has taken its place."""

    async def read(self, receive: Receive, most: int) -> bytes | tuple[int, str]:
        """Receive the body, or return an error to answer with. The length of a chunked body is unknown in advance.

        :raises _GoneError: the client has closed the connection.
        """
        body = bytearray()
        while True:
            left = self.began + UPLOAD + len(body) / SLOWEST - time.monotonic()
            if left <= 0 or self.cut:
                return 408, f"The request's body did not arrive within {UPLOAD:.0f} s, plus 1 s for each {SLOWEST} bytes."
            try:
                message = await asyncio.wait_for(receive(), min(left, _LOOK))
            except asyncio.TimeoutError:
                continue
            if message["type"] != "http.request":
                raise _GoneError
            body += message.get("body", b"")
            if len(body) > most:
                return 413, _too_large(most)
            if not message.get("more_body"):
                return bytes(body)


class _Answer:
    """The answer to one request, from the application or from the guard."""

    def __init__(self, scope: Scope, send: Send, connection: Any) -> None:
        self._send = send
        self._connection = connection
        self._bodiless = scope["method"] == "HEAD"
        self._dropping = False
        self.started = self.complete = False
        self.field = ""
        """The field of the body to which an error refers."""
        self.outstanding = 0
        """Bytes of the request that have not arrived yet."""
        self.held_back: Callable[[], bool] = lambda: False
        """Whether the guard replaces an error of the application by a more specific one."""

    async def pass_on(self, message: Message) -> None:
        """The ``send`` of the application.

        :raises _GoneError: the client does not read its answer.
        """
        if message["type"] == "http.response.start" and message["status"] >= 500 and self.held_back():
            self._dropping = True
        if self._dropping:
            return
        self.started = True
        try:
            await asyncio.wait_for(self._send(message), STALL)
        except asyncio.TimeoutError as error:
            self.abort()
            raise _GoneError from error
        self.complete = message["type"] == "http.response.body" and not message.get("more_body")

    def abort(self) -> None:
        """Close the connection at once."""
        if self._connection is not None:
            self._connection.abort()

    async def refuse(self, receive: Receive, status: int, message: str) -> None:
        """Answer with an error in the format of OpenAI's servers."""
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
        error = {"message": message, "type": kind, "param": self.field or None, "code": status}
        body = json.dumps({"error": error}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers.append((b"connection", b"close"))
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if status in (429, 503):
            headers.append((b"retry-after", str(1 if status == 429 else RETRY_AFTER).encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"" if self._bodiless else body, "more_body": True})
        # Closing before the request has arrived completely would reset the connection, and the client would lose the answer.
        if self.outstanding > _SMALL and self._connection is not None:
            await self._connection.discard(_LINGER + 2 * min(self.outstanding, _LONG) / DISCARD_RATE)
        elif self.outstanding:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_discard(receive), _LINGER)
        await self._send({"type": "http.response.body", "body": b""})


class _GoneError(Exception):
    """The client has closed the connection, or does not read its answer."""


def _is_local(value: bytes | None, page: bool = False) -> bool:
    """Whether a Host header names the loopback address. With ``page``: whether an Origin header does, or is missing."""
    if value is None:
        return page
    text = value.decode("latin-1")
    try:
        host = urlsplit(text if page else f"//{text}").hostname
    except ValueError:
        return False
    return is_loopback(host or "")


def _too_large(most: int) -> str:
    return f"The request has more than {most} bytes (openai_server.max_body_mib; the limit is lower on routes without images)."


async def _ended(receive: Receive) -> None:
    """Wait until the connection has ended. If an application returns earlier without an answer, uvicorn logs an error."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _discard(receive: Receive) -> None:
    """Read until the request is complete, or its client has closed the connection."""
    while (await receive()).get("more_body"):
        pass
