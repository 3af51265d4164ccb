"""Limits of connections, headers and bodies of the HTTP server, over real sockets. The application is a stub."""

import asyncio
import contextlib
import http.client
import json
import logging
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from engine_loop import OnLoop
from fakes import ScriptedEngine
from ports import free_port

from robobrain_ros.bounds.compile_cost import MOST_COMPILE
from robobrain_ros.engine.addresses import client_of, is_loopback
from robobrain_ros.engine.http import connections as server_connections
from robobrain_ros.engine.http import guard as server_guard
from robobrain_ros.engine.http.connections import LARGEST_HEADER
from robobrain_ros.engine.http.front import HttpFront
from robobrain_ros.engine.http.options import ServerOptions
from robobrain_ros.engine.http.rates import COMPILE_BURST, COMPILE_RATE, MOST_CLIENTS, Rates
from robobrain_ros.engine.http.requests import RequestLimits, checked_body
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.ros.model import Model, ModelSettings

KEY = "sk-robot-91c2"
LIMITS = RequestLimits(max_model_len=100, max_answers=2, max_images=1, max_pixels=10**6, max_body=1 << 20, names=("m",))
BODY = json.dumps({"model": "m", "prompt": "x"}).encode()


class Server(OnLoop):
    """A front on its own event loop. Its application counts requests and answers with 200 as soon as ``go`` is set."""

    def __init__(self, key_file: str) -> None:
        super().__init__()
        self.port = free_port()
        options = ServerOptions(
            enabled=True, port=self.port, key_file=key_file, max_requests=2, max_body_mib=1, max_connections=24
        )
        self.front = HttpFront(options, EngineOptions(model="x"))
        self.served = 0
        self.fault = ""
        self.go = asyncio.Event()
        self.wait(self._open())

    async def _open(self) -> None:
        self.front.open()
        self.go.set()
        while self.front.state.state != "waiting":
            await asyncio.sleep(0.01)
        self.front.serve(self._app, LIMITS, lambda: self.fault)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.served += 1
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def connect(self, data: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30, source_address=(source, 0))
        connection.sendall(data)
        return connection

    def status(self, method: str = "GET", path: str = "/health", body: bytes | None = None, key: str = KEY) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            connection.request(method, path, body, headers)
            return connection.getresponse().status

    def until(self, condition: Any) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, self.front.state
            time.sleep(0.02)


@pytest.fixture
def server(tmp_path: Any) -> Iterator[Server]:
    file = tmp_path / "key"
    file.write_text(KEY)
    file.chmod(0o600)
    it = Server(str(file))
    try:
        yield it
    finally:
        it.wait(it.front.close())
        it.loop.stop()


def ended(connection: socket.socket) -> bool:
    """Wait until the server has closed a connection."""
    with contextlib.closing(connection):
        try:
            while connection.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True


def head(method: str = "GET", path: str = "/health", *lines: str) -> bytes:
    fields = (f"{method} {path} HTTP/1.1", "Host: l", f"Authorization: Bearer {KEY}", *lines)
    return "\r\n".join(fields).encode() + b"\r\n\r\n"


@pytest.mark.parametrize("start", [b"GET /health HTTP/1.1\r\nX: ", b"GET /", b"GET / HTTP/1.1\r\n", b""])
def test_an_endless_header_is_cut(server: Server, start: bytes) -> None:
    """The inputs are a long value, a long path, many lines, and many bytes that are not HTTP."""
    piece = b"".join(b"a%d: b\r\n" % number for number in range(1000)) if start.endswith(b"1.1\r\n") else b"a" * 8192
    connection = server.connect(start)
    sent = 0
    with contextlib.suppress(OSError):
        while sent < 100 * LARGEST_HEADER:
            connection.sendall(piece)
            sent += len(piece)
    assert ended(connection)
    assert server.served == 0
    assert server.status() == 200


@pytest.mark.parametrize(("size", "status"), [(LARGEST_HEADER, 200), (LARGEST_HEADER + 2, 400), (15 * LARGEST_HEADER, 400)])
@pytest.mark.parametrize("line", [0, 64], ids=["one line", "many lines"])
def test_a_whole_header_in_one_packet_has_the_same_limit(server: Server, size: int, status: int, line: int) -> None:
    rest = size - len(head("GET", "/v1/models", "X: "))
    lines = ["X: " + "a" * rest]
    if line:
        lines = ["X: " + "a" * (line - 5)] * (rest // line)
        lines.append("X: " + "a" * (rest - line * len(lines)))
    sent = head("GET", "/v1/models", *lines)
    assert len(sent) == size
    connection = server.connect(sent)
    with contextlib.closing(connection):
        assert int(connection.recv(65536).split()[1]) == status


def test_incomplete_requests_do_not_block_other_clients(server: Server) -> None:
    """Incomplete requests from one address, from the key holder's address, and from more addresses than there are places."""
    half = b"GET /v1/models HTTP/1.1\r\nHost: l\r\nX-"
    connections = []
    for source in ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"):
        for _ in range(20):
            connections.append(server.connect(half, source))
    for _ in range(3):
        assert server.status() == 200
        assert server.front.state.connections <= 24
    assert server.front.state.dropped > 40
    for connection in connections:
        connection.close()


def test_idle_connections_do_not_take_descriptors(server: Server) -> None:
    connections = [server.connect() for _ in range(150)]
    assert server.status() == 200
    assert server.front.state.connections <= 24
    server.until(lambda: server.front.state.dropped >= 100)
    for connection in connections:
        connection.close()


def test_a_header_has_a_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time counts from the start of the connection or from the last answer, no matter how often a byte arrives."""
    monkeypatch.setattr(server_connections, "HEADER", 0.3)
    assert ended(server.connect())
    assert ended(server.connect(b"GET /hea"))
    again = server.connect(head())
    assert again.recv(65536).startswith(b"HTTP/1.1 200")
    again.sendall(b"GET /hea")
    assert ended(again)
    slow = server.connect(b"GET / HTTP/1.1\r\n")
    with pytest.raises(OSError, match=r"Broken pipe|reset"):  # noqa: PT012 - it takes some bytes
        for _ in range(200):
            slow.sendall(b"x")
            time.sleep(0.05)


def test_requests_at_work_are_not_dropped(server: Server) -> None:
    server.wait(_clear(server.go))
    working = server.connect(head())
    server.until(lambda: server.served == 1)
    others = [server.connect() for _ in range(60)]
    server.wait(_set(server.go))
    assert working.recv(65536).startswith(b"HTTP/1.1 200")
    for connection in (working, *others):
        connection.close()


def test_a_slow_body_is_cut_and_takes_no_place(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_guard, "UPLOAD_SHARE", 0.0)
    start = head("POST", "/v1/completions", "Content-Type: application/json", f"Content-Length: {len(BODY)}") + b"{"
    slow = [server.connect(start) for _ in range(10)]
    assert server.status("POST", "/v1/completions", BODY) == 200
    monkeypatch.setattr(server_guard, "UPLOAD", 0.3)
    for connection in slow:
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")
        connection.close()
    assert server.front.state.running == 0


def test_bodies_beyond_all_places_get_429(server: Server) -> None:
    start = head("POST", "/v1/completions", "Content-Type: application/json", f"Content-Length: {len(BODY)}") + b"{"
    slow = [server.connect(start) for _ in range(2 + server_guard.SPARE_UPLOADS)]
    server.until(lambda: len(server.front.guard._uploads) == len(slow))
    assert server.status("POST", "/v1/completions", BODY) == 429
    for connection in slow:
        connection.close()
    server.until(lambda: not server.front.guard._uploads)
    assert server.status("POST", "/v1/completions", BODY) == 200


def test_what_is_wrong_before_the_body_is_read(server: Server) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request("POST", "/v1/completions", BODY, {"Authorization": f"Bearer {KEY}"})
        assert connection.getresponse().status == 415
    assert server.status(key="wrong") == 401
    assert server.status("POST", "/v1/responses", BODY) == 404
    assert server.status("PUT", "/v1/models", BODY) == 405
    for length in ("-1", "1x", "9" * 30):
        wrong = server.connect(head("POST", "/v1/completions", f"Content-Length: {length}"))
        assert wrong.recv(65536).split()[1] in (b"400", b"413")
        wrong.close()
    assert server.served == 0


def test_without_an_engine_requests_get_503_and_a_time(server: Server) -> None:
    server.fault = "The engine's process has died."
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request("GET", "/health", headers={"Authorization": f"Bearer {KEY}"})
        response = connection.getresponse()
        assert (response.status, response.getheader("Retry-After")) == (503, "10")
        assert server.fault in json.loads(response.read())["error"]["message"]
    assert server.status(key="wrong") == 401


def test_a_restart_breaks_requests_off_with_503(server: Server) -> None:
    server.wait(_clear(server.go))
    connection = server.connect(head())
    server.until(lambda: server.served == 1)
    server.wait(_call(server.front.suspend, "It restarts."))
    assert b"503" in connection.recv(65536)
    connection.close()
    assert server.front.state.state == "waiting"


def test_one_address_has_a_rate(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.front.guard._rates = Rates(rate=0.001, burst=5)
    assert [server.status(key="wrong") for _ in range(7)] == [401] * 5 + [429] * 2
    assert server.status() == 200, "those with the key are counted apart"


def test_large_bodies_count_as_many_requests(server: Server) -> None:
    server.front.guard._rates = Rates(rate=0.001, burst=3)
    large = json.dumps({"model": "other", "messages": [{"role": "user", "content": "x" * 900_000}]}).encode()
    assert server.status("POST", "/v1/chat/completions", large) == 404
    assert server.status() == 429


def constrained(*names: str) -> bytes:
    schema = {"type": "object", "properties": {name: {"type": "string", "format": "email"} for name in names}}
    return json.dumps({"prompt": "x", "structured_outputs": {"json": schema}}).encode()


def test_constraints_have_a_rate_of_their_own(server: Server) -> None:
    """The engine does not keep compiled constraints, so a repeated one counts each time."""
    small, large = constrained("a"), constrained(*map(str, range(30)))
    cost = checked_body("/v1/completions", large, LIMITS).compile_cost
    server.front.guard._compiles = Rates(rate=0.001, burst=2.5 * cost)
    assert [server.status("POST", "/v1/completions", large) for _ in range(3)] == [200, 200, 429]
    assert server.status("POST", "/v1/completions", small) == 200, "enough is left for it"
    assert server.status("POST", "/v1/completions", BODY) == 200, "requests without constraints are not affected"
    assert server.front.state.refused == 1


def test_the_rate_of_constraints_is_a_share_of_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("robobrain_ros.engine.http.rates.time.monotonic", lambda: now[0])
    rates = Rates(COMPILE_RATE, COMPILE_BURST)
    compiled = 0.0
    for _ in range(10_000):
        now[0] += 0.1
        compiled += MOST_COMPILE if rates.take("a", MOST_COMPILE) else 0
    assert compiled == pytest.approx(COMPILE_RATE * now[0], rel=0.05)
    assert all(rates.take("b", 10) for _ in range(5)), "a few small schemas at once"


def test_rejected_constraints_count_for_the_time_of_their_check(server: Server) -> None:
    server.front.guard._rates = Rates(rate=0.001, burst=15)
    wrong = constrained(*map(str, range(4000)))
    assert len(wrong) > 150_000
    assert server.status("POST", "/v1/completions", wrong) == 400
    assert server.status() == 429


def test_metrics_count_as_many_requests(server: Server) -> None:
    server.front.guard._rates = Rates(rate=0.001, burst=20)
    statuses = [server.status("GET", "/metrics") for _ in range(4)]
    assert statuses == [200, 200, 429, 429]


def test_a_rejected_large_body_is_received_and_discarded(server: Server) -> None:
    """The client reads its answer only after it has sent the whole body. The answer must have arrived by then."""
    for path, size, key, status in (
        ("/v1/chat/completions", 30 << 20, KEY, 413),
        ("/tokenize", 900_000, KEY, 413),
        ("/v1/chat/completions", 900_000, "wrong", 401),
    ):
        assert server.status("POST", path, b"x" * size, key) == status
    assert server.served == 0


def test_rates_come_back_and_forget_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("robobrain_ros.engine.http.rates.time.monotonic", lambda: now[0])
    rates = Rates(rate=2.0, burst=2.0)
    assert [rates.take("a") for _ in range(3)] == [True, True, False]
    assert rates.take("b")
    now[0] = 0.5
    assert [rates.take("a") for _ in range(2)] == [True, False]
    for number in range(5000):
        rates.take(number)
    assert len(rates._left) <= MOST_CLIENTS


def test_requests_of_unknown_clients_are_logged_at_a_limited_rate(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(40):
            ended(server.connect(b"\x00\x01 nonsense\r\n\r\n"))
        connections = [server.connect() for _ in range(60)]
        server.until(lambda: server.front.state.dropped >= 30)
    for connection in connections:
        connection.close()
    assert len(caplog.records) <= 4, [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("key", ["no", KEY])
def test_a_request_whose_rest_is_no_http_leaves_no_traceback(server: Server, key: str, caplog: pytest.LogCaptureFixture) -> None:
    """uvicorn answers with 400 before the guard's own answer to the header."""
    lines = ("POST /v1/nothing HTTP/1.1", "Host: l", f"Authorization: Bearer {key}", "Transfer-Encoding: chunked", "", "-5\r\n")
    with caplog.at_level(logging.WARNING):
        connection = server.connect("\r\n".join(lines).encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 400")
        assert ended(connection)
        server.until(lambda: server.front.state.rejected == 1)
        assert server.status() == 200
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


def test_a_client_that_does_not_read_its_answer_is_cut(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_guard, "STALL", 0.3)
    finished = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * (1 << 20), "more_body": True})
        finally:
            finished.append(True)

    server.wait(_call(server.front.serve, app, LIMITS, lambda: ""))
    connection = server.connect(head())
    server.until(lambda: finished)
    server.until(lambda: server.front.state.connections == 0)
    connection.close()


def test_the_port_is_given_back_with_the_model() -> None:
    closed = []

    async def close() -> None:
        closed.append(True)

    model = Model(logging.getLogger(), lambda: None)
    settings = ModelSettings(name="x", max_pixels=10**6, max_queued=1, max_running=1, warm_up=False)
    model.load(lambda: ScriptedEngine([]), settings, close)
    assert model._loading is not None
    model._loading.result(30)
    assert closed == []
    assert model.close(30)
    assert closed == [True]


def test_clients_are_addresses_and_networks() -> None:
    assert client_of(("10.0.0.1", 5)) == "10.0.0.1"
    assert client_of(("::ffff:10.0.0.1", 5, 0, 0)) == "10.0.0.1"
    assert client_of(("2001:db8::1", 5, 0, 0)) == client_of(("2001:db8::ffff:2", 5, 0, 0)) == "2001:db8::/64"
    assert client_of(("2001:db8:0:1::1", 5, 0, 0)) != client_of(("2001:db8::1", 5, 0, 0))
    assert client_of(("fe80::1%eth0", 5, 0, 2)) == "fe80::/64"
    assert client_of(None) == client_of(("", 0)) == "unknown"


async def _set(event: asyncio.Event) -> None:
    event.set()


async def _clear(event: asyncio.Event) -> None:
    event.clear()


async def _call(function: Any, *arguments: Any) -> Any:
    return function(*arguments)


def test_rejected_bodies_of_all_connections_share_one_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Receiving discarded data takes time of the event loop from the robot's requests."""
    now = [100.0]
    monkeypatch.setattr(server_connections, "time", SimpleNamespace(monotonic=lambda: now[0]))
    connections = server_connections.Connections(10, 5, server_guard.ServerState())
    rate = server_guard.DISCARD_RATE
    assert connections.discard_pause(int(rate)) == pytest.approx(1.0)
    assert connections.discard_pause(int(rate / 2)) == pytest.approx(1.5)
    now[0] += 5.0
    assert connections.discard_pause(int(rate / 4)) == pytest.approx(0.25)


def test_hosts_of_images_are_names_or_addresses() -> None:
    hosts = ("images.example.org", "127.0.0.1", "::1", "my_nas")
    ServerOptions(enabled=True, allowed_media_domains=hosts).validate(EngineOptions(model="x"))


def test_loopbacks() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "gpu", "10.0.0.1", "localhost.evil.example")))
