"""Faults of a remote server: each fault of a request becomes an outcome."""

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from openai_server import serving, sse
from remote_rig import (
    KEY,
    ask,
    drop,
    end_early,
    endless_line,
    error_in_stream,
    fault,
    html,
    html_error,
    no_json_in_stream,
    other_form,
    question,
    redirect,
    refusing,
    run,
    started,
    text,
    until,
    within,
)

from robobrain_ros.engine.base import Constraint
from robobrain_ros.errors import (
    BadRequestError,
    BusyError,
    EngineFailedError,
    RequestTimeoutError,
    RoboBrainError,
)


def redirect_to(location: str) -> Any:
    async def chat(request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": location})

    return chat


@pytest.mark.parametrize(
    ("chat", "kind", "said"),
    [
        (refusing(400, "the prompt is too long"), BadRequestError, "rejects the request: the prompt is too long"),
        (refusing(401), EngineFailedError, "rejects the key (401). Check engine.key_file"),
        (refusing(403), EngineFailedError, "rejects the key (403)"),
        (refusing(404), EngineFailedError, "no model 'RoboBrain2.0-test'"),
        (refusing(429), BusyError, "too many requests"),
        (refusing(500), EngineFailedError, "failed (500"),
        (html_error, EngineFailedError, "failed (502: Bad gateway"),
        (html, EngineFailedError, "answers with text/html instead of text/event-stream"),
        (redirect, EngineFailedError, "redirects to https://elsewhere.invalid (307)"),
        (redirect_to("http://[::1"), EngineFailedError, "redirects (307), which is not supported"),
        (redirect_to("/v2"), EngineFailedError, "redirects (307), which is not supported"),
        (drop, EngineFailedError, "closed the connection"),
        (end_early, EngineFailedError, "ended its answer early"),
        (endless_line, EngineFailedError, "does not end"),
        (error_in_stream, EngineFailedError, "ended its answer with an error: burnt ***"),
        (no_json_in_stream, EngineFailedError, "text that is not JSON"),
        (other_form, EngineFailedError, "ended its answer early"),
    ],
)
def test_each_fault_of_a_request_is_an_outcome(
    chat: Any, kind: type[RoboBrainError], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")

    async def work() -> None:
        async with serving(key=KEY) as server, started(server.url, key_file=str(file)) as engine:
            server.chat = chat
            found = await fault(ask(engine))
            assert type(found) is kind
            assert said in found.message
            server.chat = None
            end = time.monotonic() + 30
            while engine.health().state != "ready":
                assert time.monotonic() < end, "the server does not count as well again"
                await asyncio.sleep(0.02)
            assert text(await ask(engine, question("b"))) == "[(10, 20)]"

    run(work())
    assert KEY not in caplog.text


async def error_at_once(request: web.Request) -> web.StreamResponse:
    """Return an error at once, as vLLM does if xgrammar cannot compile the constraint."""
    response = await sse(request)
    await response.write(b'data: {"error": {"message": "Internal server error", "code": 500}}\n\n')
    return response


@pytest.mark.parametrize(
    ("chat", "form", "hinted"),
    [
        (error_at_once, True, True),
        (refusing(500), True, True),
        (error_at_once, False, False),
        (end_early, True, False),
        (refusing(401), True, False),
        (refusing(429), True, False),
    ],
)
def test_a_server_that_fails_on_a_form_may_need_another_backend(chat: Any, form: bool, hinted: bool) -> None:
    """The server's message does not mention it."""

    async def work() -> None:
        async with serving() as server, started(server.url) as engine:
            server.chat = chat
            constraint = Constraint(regex="[0-9]") if form else None
            found = await fault(ask(engine, question(constraint=constraint)))
            assert ('--structured-outputs-config \'{"backend": "guidance"' in found.message) is hinted

    run(work())


def test_a_stalled_engine_behind_a_working_server_is_reported_and_avoided(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server lists its models and accepts requests, but its engine hangs (SIGSTOP, a hung device): each request times out."""
    monkeypatch.setattr("robobrain_ros.engine.remote.server.SILENCE", 0.3)
    monkeypatch.setattr("robobrain_ros.engine.remote.server._QUIET", 0.1)

    async def test() -> None:
        async with serving() as hung, serving() as well, started(hung.url, well.url) as engine:
            hung.frozen = asyncio.Event()
            first = asyncio.create_task(within(2.0, engine))
            await until(lambda: hung.url in engine.health().warning)
            assert engine.health().state == "ready"
            with pytest.raises(RequestTimeoutError):
                await first
            for number in range(3):
                assert text(await ask(engine, question(f"b{number}"))) == "[(10, 20)]"
            assert len(hung.bodies) == 1, "requests go to the other server"
            assert hung.url in engine.health().warning
            hung.frozen.set()
            await until(lambda: not engine.health().warning)

    run(test())


def test_a_server_that_answers_between_long_requests_has_not_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prefill sends no text, but other requests are answered meanwhile."""
    monkeypatch.setattr("robobrain_ros.engine.remote.server.SILENCE", 2.0)
    monkeypatch.setattr("robobrain_ros.engine.remote.server._QUIET", 0.0)

    async def test() -> None:
        async with serving(pieces=("[(1", "0, 20)]"), hold=asyncio.Event()) as server, started(server.url) as engine:
            asked = asyncio.create_task(ask(engine))
            await until(lambda: server.probes >= 12)
            assert engine.health().warning == ""
            assert server.hold is not None
            server.hold.set()
            assert text(await asked) == "[(10, 20)]"

    run(test())
