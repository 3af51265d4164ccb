"""A small OpenAI-compatible server that misbehaves on command, over real sockets, with or without TLS."""

import asyncio
import datetime
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

MODEL = "RoboBrain2.0-test"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class TestServer:
    """The behaviour of the server. It can be changed while the server runs.

    ``chat`` answers chat completions after the engine has measured the server. If ``key`` is not empty, clients must send it.
    Chat completions first wait for ``frozen``. The server stores the ``bodies`` of streamed requests, the number of other
    requests (``probes``), the number of streams that the client closed (``broken_off``), and the number of ``open`` requests.
    """

    __test__ = False

    url: str = ""
    key: str = ""
    models: Handler | None = None
    chat: Handler | None = None
    pieces: tuple[str, ...] = ("[(1", "0, 20)]")
    hold: asyncio.Event | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    frozen: asyncio.Event | None = None
    probes: int = 0
    broken_off: int = 0
    open: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a count has the expected value."""
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(condition), 30.0)

    async def note(self, **changes: int) -> None:
        async with self.changed:
            for name, change in changes.items():
                setattr(self, name, getattr(self, name) + change)
            self.changed.notify_all()

    async def on_models(self, request: web.Request) -> web.StreamResponse:
        if self.models is not None:
            return await self.models(request)
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            # Some servers repeat the received key in their message.
            return web.json_response({"error": {"message": f"wrong key {request.headers.get('Authorization')}"}}, status=401)
        model = {"id": MODEL, "object": "model", "owned_by": "vllm", "max_model_len": 4096}
        return web.json_response({"object": "list", "data": [model]})

    async def on_chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body.get("stream"):
            self.bodies.append(body)
        if self.frozen is not None:
            await self.frozen.wait()
        if not body.get("stream"):
            self.probes += 1
            return web.json_response({"choices": [], "usage": {"prompt_tokens": 1}})
        if self.chat is not None:
            return await self.chat(request)
        return await self.stream(request)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Stream the pieces and the end. After the first piece, wait for ``hold``."""
        response = await sse(request)
        await self.note(open=1)
        try:
            for number, piece in enumerate(self.pieces):
                if number and self.hold is not None:
                    await self.hold.wait()
                await response.write(chunk(piece, number + 1))
            await response.write(chunk("", len(self.pieces), "stop") + b"data: [DONE]\n\n")
        except (asyncio.CancelledError, ConnectionError):
            await asyncio.shield(self.note(broken_off=1))
            raise
        finally:
            await asyncio.shield(self.note(open=-1))
        return response


def chunk(text: str, tokens: int, finish_reason: str | None = None) -> bytes:
    """Return a chunk in the format of vLLM."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
    return b"data: " + json.dumps({"object": "chat.completion.chunk", "choices": [choice], "usage": usage}).encode() + b"\n\n"


async def sse(request: web.Request) -> web.StreamResponse:
    """Start an event stream."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    return response


@asynccontextmanager
async def serving(port: int = 0, tls: ssl.SSLContext | None = None, **settings: Any) -> AsyncIterator[TestServer]:
    """Run the server on the loopback address."""
    server = TestServer(**settings)
    app = web.Application(client_max_size=64 << 20)
    app.router.add_get("/v1/models", server.on_models)
    app.router.add_post("/v1/chat/completions", server.on_chat)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls, reuse_address=True)
    await site.start()
    port = runner.addresses[0][1]
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return a TLS context with a self-signed certificate, and the file with which clients can trust it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    trusted, secret = folder / "trusted.pem", folder / "secret.pem"
    trusted.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, secret)
    return context, trusted
