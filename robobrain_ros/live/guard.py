"""Who may open the page, and what a browser may send.

viser has no access control. It also listens on another port if the port is in use, and its clients can ask it to publish the
page on a public server. Therefore this module opens the socket itself, and starts viser's server on it with four checks: of
the number of connections, of each HTTP request, of the number of viewers, and of each message of a browser.
"""

import asyncio
import hmac
import http
import ipaddress
import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.cookies import CookieError, SimpleCookie
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import msgspec
import websockets.asyncio.server
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from robobrain_ros.engine.addresses import client_of
from robobrain_ros.live.feed import LONGEST_INSTRUCTION

TOKEN_VARIABLE = "ROBOBRAIN_LIVE_TOKEN"
"""Environment variable with the token. It is no argument, because every user of the computer can list arguments."""
LEAST_TOKEN = 16
MOST_VIEWERS = 16
MOST_CONNECTIONS = 64
"""Open TCP connections. A browser uses several while it loads the page. Without a complete request, they end after 10 s, or when
there are too many: the oldest one of the client that has the most of them.
"""
LARGEST_MESSAGE = 64 * 1024
"""Bytes of a message of a browser. The longest instruction has at most 32 KB."""
_RATE, _BURST = 256 * 1024, 1024 * 1024
"""Bytes that a browser may send: each second, and at once."""
_MESSAGES, _MESSAGE_BURST = 150.0, 600.0
"""Messages that a browser may send: each second, and at once. Moving the 3D view sends up to 60 in a second."""
_CLOSING = 1.0
"""Seconds to wait until a browser confirms the end of its connection."""
_EMPTY = ("GuiFormSubmitMessage", "GuiFormDirtyMessage")
_POLICY_VIOLATION = 1008


class LiveViewError(Exception):
    """The live view cannot start. The message is a sentence."""


class Gate:
    """The address of the page, and the token that it requires.

    :param host: name or address to listen on. The token is required unless it is a loopback address.
    :param port: TCP port. 0: any free port.
    :raises LiveViewError: the address cannot be used.
    """

    def __init__(self, host: str, port: int) -> None:
        self._socket = _listen(host, port)
        self._host = host
        self.port: int = self._socket.getsockname()[1]
        self.loopback = ipaddress.ip_address(self._socket.getsockname()[0]).is_loopback
        self._token = "" if self.loopback else _token()
        self._cookie = f"robobrain_live_{self.port}"
        self.viewers = 0
        self.connections = 0
        self._waiting: dict[ServerConnection, str] = {}
        """The client of each connection without a complete request, the oldest one first."""
        self._used = False

    @property
    def address(self) -> str:
        """URL of the page, with the token if one is required."""
        name = self._socket.getsockname()[0] if self.loopback or self._host not in ("0.0.0.0", "::") else socket.gethostname()
        name = f"[{name}]" if ":" in name else name
        return f"http://{name}:{self.port}/{f'?token={self._token}' if self._token else ''}"

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    @contextmanager
    def around_viser(self) -> Iterator[None]:
        """Within the ``with`` block, a server of viser that starts uses this gate.

        :raises LiveViewError: no server of viser started, so the installed viser starts its server in another way.
        """
        serve = websockets.asyncio.server.serve

        def guarded_serve(handler: Any, host: Any, port: Any, *, process_request: Any, **options: Any) -> Any:
            del host, port
            self._used = True
            options |= {
                "max_size": LARGEST_MESSAGE,
                "max_queue": 16,
                "open_timeout": 10,
                "close_timeout": _CLOSING,
                "create_connection": partial(_Connection, self),
            }

            def check(connection: ServerConnection, request: Request) -> Response | None:
                self._waiting.pop(connection, None)
                try:
                    refused = self._refuse(request)
                except (LookupError, ValueError):
                    refused = _reply(http.HTTPStatus.BAD_REQUEST, "A header of the request is malformed or repeated.")
                return refused or _harden(process_request(connection, request))

            async def handle(connection: ServerConnection) -> None:
                self.viewers += 1
                try:
                    await handler(connection)
                finally:
                    self.viewers -= 1

            return serve(handle, sock=self._socket, process_request=check, **options)

        with mock.patch.object(websockets.asyncio.server, "serve", guarded_serve):
            yield
        if not self._used:
            raise LiveViewError("The installed version of viser does not start its server as expected. Install viser 1.1.1.")

    def opened(self, connection: ServerConnection, client: str) -> None:
        """Count a new connection. If too many are open, end one without a complete request.

        :param client: the client's identity, see `client_of`.
        """
        self.connections += 1
        self._waiting[connection] = client
        if self.connections > MOST_CONNECTIONS:
            ((most, _),) = Counter(self._waiting.values()).most_common(1)
            oldest = next(one for one, its in self._waiting.items() if its == most)
            del self._waiting[oldest]
            oldest.transport.abort()

    def ended(self, connection: ServerConnection) -> None:
        """Count the end of a connection."""
        self.connections -= 1
        self._waiting.pop(connection, None)

    def _refuse(self, request: Request) -> Response | None:
        """Return the response to a request that is not allowed, or None."""
        # This runs in the event loop. It reads nothing but the headers and the path.
        host = request.headers.get("Host", "")
        if self.loopback and not _is_loopback(host):
            # A page of another site whose name resolves to this computer (DNS rebinding).
            return _reply(http.HTTPStatus.FORBIDDEN, f"Open the page with its address: {self.address}")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return _reply(http.HTTPStatus.FORBIDDEN, "A page of another site cannot use the live view.")
        upgrade = request.headers.get("Upgrade", "").lower() == "websocket"
        if self._token:
            given = parse_qs(urlsplit(request.path).query).get("token", [""])[0]
            if given and not upgrade and _equal(given, self._token):
                # The token moves from the address to a cookie, so that it does not stay in the browser's history.
                cookie = f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/"
                return _reply(http.HTTPStatus.SEE_OTHER, "", Location="/", **{"Set-Cookie": cookie})
            if not _equal(_cookie(request, self._cookie), self._token):
                return _reply(
                    http.HTTPStatus.UNAUTHORIZED, "The live view needs its token. Open the address that the program printed."
                )
        if upgrade and self.viewers >= MOST_VIEWERS:
            return _reply(http.HTTPStatus.SERVICE_UNAVAILABLE, f"{MOST_VIEWERS} viewers are connected, which is the maximum.")
        return None


class _Connection(ServerConnection):
    """A connection that ignores messages which the page does not need, and ends if a browser sends too much."""

    def __init__(self, gate: Gate, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._gate = gate
        self._bytes, self._messages, self._since = float(_BURST), _MESSAGE_BURST, time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection with the gate."""
        super().connection_made(transport)
        self._gate.opened(self, client_of(transport.get_extra_info("peername")))

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the gate."""
        self._gate.ended(self)
        super().connection_lost(exc)

    async def recv(self, decode: bool | None = None) -> Any:
        """Return the next allowed message."""
        while True:
            message = await super().recv(decode)
            now = time.monotonic()
            passed, self._since = now - self._since, now
            self._bytes = min(self._bytes + passed * _RATE, _BURST) - len(message)
            self._messages = min(self._messages + passed * _MESSAGES, _MESSAGE_BURST) - 1
            if self._bytes < 0 or self._messages < 0:
                await self.close(_POLICY_VIOLATION, "The browser sends too much.")
            elif isinstance(message, bytes) and allowed(message):
                return message


def allowed(data: bytes) -> bool:
    """Return whether a message of a browser is one that the page needs: the view, a value of an input, or a form."""
    try:
        message = msgspec.msgpack.decode(data)
    except msgspec.DecodeError:
        return False
    if not isinstance(message, dict):
        return False
    kind = message.get("type")
    if kind == "ViewerCameraMessage":
        return True
    if not isinstance(message.get("uuid"), str) or len(message["uuid"]) > 100:
        return False
    if kind == "GuiUpdateMessage":
        # viser would set any attribute.
        updates = message.get("updates")
        return isinstance(updates, dict) and set(updates) == {"value"} and _is_plain(updates["value"])
    return kind in _EMPTY and len(message) == 2


def _is_plain(value: object) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= LONGEST_INSTRUCTION)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise LiveViewError(f"The live view cannot listen on {host!r}: {error.strerror}. Choose another --host.") from error
    except (OverflowError, UnicodeError) as error:
        raise LiveViewError(f"{host!r} with port {port} is not an address to listen on.") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise LiveViewError(
            f"The live view cannot listen on {host} port {port}: {error.strerror}. Choose another port with --port, or 0 for any."
        ) from error
    return listening


def _token() -> str:
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        return secrets.token_urlsafe(24)
    if len(token) < LEAST_TOKEN or not all((letter.isalnum() and letter.isascii()) or letter in "-_" for letter in token):
        raise LiveViewError(f"{TOKEN_VARIABLE} needs at least {LEAST_TOKEN} characters: letters, digits, - and _.")
    return token


def _is_loopback(host: str) -> bool:
    """Return whether the header Host names this computer's loopback interface."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _cookie(request: Request, name: str) -> str:
    try:
        found = SimpleCookie("; ".join(request.headers.get_all("Cookie"))).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def _equal(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _reply(status: http.HTTPStatus, text: str, **headers: str) -> Response:
    body = f"{text}\n".encode()
    fields = Headers(
        {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body)), "Connection": "close"} | headers
    )
    return _harden(Response(status, status.phrase, fields, body))  # type: ignore[return-value]


def _harden(response: Response | None) -> Response | None:
    """Add headers to a response: no other site may embed the page or learn its address."""
    if response is not None:
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
    return response
