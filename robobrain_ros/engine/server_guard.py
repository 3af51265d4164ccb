"""What stands before the HTTP server of the engine: who may ask, what, how much, and how many at once.

A plain ASGI application around another. It knows nothing of models.
"""

import asyncio
import contextlib
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

PATHS = {
    "GET": {"/v1/models", "/health", "/metrics", "/version"},
    "POST": {"/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"},
}
"""All that is served, by method. What loads adapters, pauses, profiles, resets or stores is not: the engine is the robot's."""

_UPLOAD = 60.0
"""Seconds that a request's body may take to come."""
_LINGER = 2.0
"""Seconds in which what still comes of a refused request is taken, and thrown away."""


@dataclass
class ServerState:
    """What the server does, for diagnostics; read from any thread. ``state``: "closed", "open" or "failed".

    ``running`` and ``refused`` count requests, the latter those for which no place was left.
    """

    state: str = "closed"
    message: str = "The HTTP server is closed; it opens when the model is loaded."
    address: str = ""
    running: int = 0
    refused: int = 0


class Guard:
    """Lets requests through to ``app``, or answers them itself.

    :param key: what requests must bring; empty: none, and then only programs on this machine are let through.
    :param max_requests: POST requests that are worked on at once; the next is answered with 429.
    :param max_body: bytes of a request.
    :param state: where it counts.
    """

    def __init__(self, app: App, *, key: str, max_requests: int, max_body: int, state: ServerState) -> None:
        self._app = app
        self._key = key.encode()
        self._max_requests = max_requests
        self._max_body = max_body
        self._state = state

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers) or await self._let_through(scope, receive, send)
        if refusal is not None:
            await _answer(receive, send, *refusal)

    async def _let_through(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> tuple[int, str] | None:
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return None
        self._state.running += 1
        try:
            return await self._pass(scope, receive, send)
        finally:
            self._state.running -= 1

    def _refusal(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        if not self._is_allowed(headers):
            return 401, "This server asks for a key: Authorization: Bearer KEY."
        # A web page that this machine's browser shows can reach the loopback, and needs no key there.
        if not self._key and not (_is_local(headers.get(b"host", b"")) and _is_local(headers.get(b"origin"), page=True)):
            return 403, "Without a key this server answers only programs on its own machine, under the loopback's name."
        path = scope["path"]
        if path not in PATHS.get(scope["method"], ()):
            known = sorted(method for method, paths in PATHS.items() if path in paths)
            if known:
                return 405, f"{path} takes {known[0]}."
            return 404, f"There is no {scope['method']} {path[:100]} here; there is /v1/models and /v1/chat/completions."
        if scope["method"] == "POST":
            length = headers.get(b"content-length", b"0")
            if not length.isdigit() or len(length) > 18 or int(length) > self._max_body:
                return 413, f"The request has more than {self._max_body} bytes."
            if self._state.running >= self._max_requests:
                self._state.refused += 1
                return 429, f"{self._max_requests} requests are worked on already; try again in a while."
        return None

    def _is_allowed(self, headers: dict[bytes, bytes]) -> bool:
        if not self._key:
            return True
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._key)

    async def _pass(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> tuple[int, str] | None:
        """Let a request through once its body is there, in time and not too large, which a chunked one does not say before."""
        try:
            body = await asyncio.wait_for(self._read(receive), _UPLOAD)
        except asyncio.TimeoutError:
            return 408, f"The request has not come within {_UPLOAD:.0f} s."
        except _BodyTooLargeError:
            return 413, f"The request has more than {self._max_body} bytes."
        if body is None:
            return None
        left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return left.pop() if left else await receive()

        await self._app(scope, replay, send)
        return None

    async def _read(self, receive: Receive) -> bytes | None:
        """The body; None: the client has gone."""
        pieces: list[bytes] = []
        total = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            pieces.append(message.get("body", b""))
            total += len(pieces[-1])
            if total > self._max_body:
                raise _BodyTooLargeError
            if not message.get("more_body"):
                return b"".join(pieces)


class _BodyTooLargeError(Exception):
    pass


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own, reachable from nowhere else."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_local(value: bytes | None, page: bool = False) -> bool:
    """Whether a Host header, or (``page``) an Origin header or its absence, names the loopback."""
    if value is None:
        return page
    text = value.decode("latin-1")
    try:
        host = urlsplit(text if page else f"//{text}").hostname
    except ValueError:
        return False
    return is_loopback(host or "")


async def _answer(receive: Receive, send: Send, status: int, message: str) -> None:
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    error = {"message": message, "type": kinds.get(status, "invalid_request_error"), "param": None, "code": status}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 429:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    # Closing while the request still comes would reset the connection, and take the answer away from who is sending.
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_discard(receive), _LINGER)
    await send({"type": "http.response.body", "body": b""})


async def _discard(receive: Receive) -> None:
    """Until the request has come, or its client has gone."""
    while (await receive()).get("more_body"):
        pass
