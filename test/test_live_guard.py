"""The live view's gate: addresses, tokens, foreign pages, and what a browser may send. A real server of viser runs behind it."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import pytest

pytest.importorskip("viser", reason="the live view needs viser")

import msgspec
import viewer
from viewer import LIMIT, Viewer
from websockets.exceptions import ConnectionClosed, InvalidStatus

from robobrain_ros.core.clouds import Cloud
from robobrain_ros.live import guard
from robobrain_ros.live.feed import Feed, Frame, Question
from robobrain_ros.live.guard import Gate, LiveViewError, allowed
from robobrain_ros.live.page import Page

TOKEN = "a-token-of-a-test-0123456789"


class NoSource:
    """A source without images."""

    live = True

    def __init__(self) -> None:
        self.asked: list[Question] = []

    def choices(self) -> list[str]:
        return []

    def choose(self, name: str) -> None: ...
    def watch(self, watching: bool) -> None: ...
    def cancel(self) -> None: ...
    def close(self) -> None: ...

    def frame(self) -> Frame | None:
        return None

    def cloud(self) -> Cloud | None:
        return None

    def ask(self, question: Question) -> None:
        self.asked.append(question)


@contextmanager
def page(gate: Gate) -> Iterator[NoSource]:
    source = NoSource()
    with closing(Page(gate, source, Feed(), 10.0)):
        yield source


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate("127.0.0.1", 0)
    with page(gate):
        yield gate


@pytest.fixture
def outer_gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate that listens on every interface."""
    monkeypatch.setenv(guard.TOKEN_VARIABLE, TOKEN)
    gate = Gate("0.0.0.0", 0)
    with page(gate):
        yield gate


def get(gate: Gate, path: str = "/", **headers: str) -> tuple[int, str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=LIMIT)
    with closing(connection):
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", "replace"), response.headers


def test_the_page_is_served_and_no_other_site_can_embed_it(gate: Gate) -> None:
    status, text, headers = get(gate)
    assert status == 200
    assert "<html" in text
    assert headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "10.0.0.1", "", "[::2]", "a:b:c"])
def test_another_host_name_for_the_loopback_address_is_rejected(gate: Gate, host: str) -> None:
    status, text, _ = get(gate, Host=host)
    assert (status, text) == (403, f"Open the page with its address: {gate.address}\n")


def test_a_page_of_another_site_cannot_connect(gate: Gate) -> None:
    with pytest.raises(InvalidStatus) as caught:
        Viewer(gate.address, Origin="http://evil.example")
    assert caught.value.response.status_code == 403
    with closing(Viewer(gate.address, Origin=gate.address.rstrip("/"))) as own:
        own.until_text("viewers: 1")


def test_another_address_than_loopback_requires_the_token(outer_gate: Gate) -> None:
    assert f"?token={TOKEN}" in outer_gate.address
    status, text, _ = get(outer_gate)
    assert (status, text) == (401, "The live view needs its token. Open the address that the program printed.\n")
    assert get(outer_gate, "/?token=wrong")[0] == 401
    with pytest.raises(InvalidStatus):
        Viewer(f"http://127.0.0.1:{outer_gate.port}/")
    status, _, headers = get(outer_gate, f"/?token={TOKEN}")
    assert (status, headers["Location"]) == (303, "/")
    cookie = headers["Set-Cookie"]
    assert cookie.endswith("; HttpOnly; SameSite=Strict; Path=/")
    cookie = cookie.partition(";")[0]
    status, text, _ = get(outer_gate, Cookie=cookie)
    assert (status, TOKEN in text) == (200, False)
    with closing(Viewer(f"http://127.0.0.1:{outer_gate.port}/", Cookie=cookie)) as one:
        one.until_text("viewers: 1")
        assert TOKEN not in str(one.elements)


def test_a_weak_token_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    for token in ("short", "with a space in the token"):
        monkeypatch.setenv(guard.TOKEN_VARIABLE, token)
        with pytest.raises(LiveViewError, match="needs at least 16 characters"):
            Gate("0.0.0.0", 0)


def test_a_token_is_made_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(guard.TOKEN_VARIABLE, raising=False)
    first, second = Gate("0.0.0.0", 0), Gate("0.0.0.0", 0)
    tokens = {gate.address.partition("?token=")[2] for gate in (first, second)}
    first.close()
    second.close()
    assert [len(token) for token in tokens] == [32, 32]


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LiveViewError) as caught:
            Gate("127.0.0.1", port)
    assert str(caught.value) == (
        f"The live view cannot listen on 127.0.0.1 port {port}: Address already in use. "
        "Choose another port with --port, or 0 for any."
    )


def test_an_unknown_host_is_one_sentence() -> None:
    with pytest.raises(
        LiveViewError, match=r"^The live view cannot listen on 'no.such.host.invalid': .*\. Choose another --host\.$"
    ):
        Gate("no.such.host.invalid", 0)


def test_another_version_of_viser_does_not_run_unguarded() -> None:
    gate = Gate("127.0.0.1", 0)
    with pytest.raises(LiveViewError, match=r"Install viser 1\.1\.1"), gate.around_viser():
        pass
    gate.close()


@pytest.mark.parametrize(
    "message",
    [
        {"type": "ShareUrlRequest"},  # It would publish the page on a public server.
        {"type": "FileTransferStartUpload", "source_component_uuid": "x", "transfer_uuid": "y", "size_bytes": 10**12},
        {"type": "GuiUpdateMessage", "uuid": "x", "updates": {"removed": True}},
        {"type": "GuiUpdateMessage", "uuid": "x", "updates": {"value": ["a", "list"]}},
        {"type": "GuiUpdateMessage", "uuid": "x", "updates": {"value": "x" * 8001}},
        {"type": "GuiUpdateMessage", "uuid": 1, "updates": {"value": "x"}},
        {"type": "GuiFormSubmitMessage", "uuid": "x", "more": 1},
        ["a", "list"],
        {},
    ],
)
def test_messages_that_the_page_does_not_need_are_ignored(message: Any) -> None:
    assert not allowed(msgspec.msgpack.encode(message))
    assert not allowed(b"\xc1")


def test_a_form_and_a_value_are_allowed() -> None:
    assert allowed(msgspec.msgpack.encode({"type": "GuiUpdateMessage", "uuid": "x", "updates": {"value": "the mug"}}))
    assert allowed(msgspec.msgpack.encode({"type": "GuiFormSubmitMessage", "uuid": "x"}))


def test_ignored_messages_do_not_end_the_connection(gate: Gate) -> None:
    with closing(Viewer(gate.address)) as one:
        one.send("ShareUrlRequest")
        one.connection.send("a text")
        one.connection.send(b"\xc1")
        one.until_text("viewers: 1")
        one.connection.ping().wait(LIMIT)


@pytest.mark.parametrize("size", [guard.LARGEST_MESSAGE + 1, 1000])
def test_a_browser_that_sends_too_much_is_disconnected(gate: Gate, size: int) -> None:
    def flood(viewer: Viewer) -> None:
        for _ in range(2000):
            viewer.connection.send(b"x" * size)
        viewer.until(lambda: False, "the end of the connection")

    with closing(Viewer(gate.address)) as one:
        one.until_text("viewers: 1")
        with pytest.raises(ConnectionClosed):
            flood(one)
    with closing(Viewer(gate.address)) as another:
        another.until_text("viewers: 1")


def test_the_number_of_viewers_is_limited(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_VIEWERS", 2)
    with closing(Viewer(gate.address)) as one, closing(Viewer(gate.address)):
        one.until_text("viewers: 2")
        with pytest.raises(InvalidStatus) as caught:
            Viewer(gate.address)
        assert caught.value.response.status_code == 503


def test_a_viewer_of_another_version_is_closed(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "SUBPROTOCOL", "viser-v0.0.1")
    with pytest.raises(ConnectionClosed):
        Viewer(gate.address).until_text("never")


def test_connections_without_a_request_do_not_exclude_a_viewer(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest ones stay, because a client that holds connections must not keep others from the page."""
    monkeypatch.setattr(guard, "MOST_CONNECTIONS", 8)
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection(("127.0.0.1", gate.port), LIMIT)) for _ in range(9)]
        opened[0].settimeout(LIMIT)
        with suppress(ConnectionResetError):
            assert opened[0].recv(1) == b""
        opened[-1].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert opened[-1].recv(12) == b"HTTP/1.1 200"
        assert get(gate)[0] == 200
        with closing(Viewer(gate.address)) as one:
            one.until_text("viewers: 1")


@pytest.mark.parametrize("header", ["Origin: http://[", "Host: localhost", "Origin: a\r\nOrigin: b"])
def test_a_malformed_or_repeated_header_is_a_bad_request(gate: Gate, header: str) -> None:
    with closing(socket.create_connection(("127.0.0.1", gate.port), LIMIT)) as one:
        one.sendall(f"GET / HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n".encode())
        assert one.recv(12) == b"HTTP/1.1 400"
