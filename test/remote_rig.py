"""Start a remote engine against servers of a test."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from openai_server import chunk, sse

from robobrain_ros.core import Answer, Brain, Defaults, Query, Task, profile_for
from robobrain_ros.core.profiles import check_origin
from robobrain_ros.engine.base import Generation, TextDelta
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.engine.remote.engine import CheckIntervals, RemoteEngine
from robobrain_ros.errors import (
    RoboBrainError,
)

KEY = "sk-secret-0123456789"
INTERVALS = CheckIntervals(up=0.2, down=0.05)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60.0))


def options(*urls: str, **changes: Any) -> EngineOptions:
    return EngineOptions.of(kind="remote", urls=urls, start_timeout=10.0, **changes)


def question(request_id: str = "a", **changes: Any) -> Generation:
    return Generation(request_id, "where?", [np.zeros((28, 56, 3), np.uint8)], **{"max_tokens": 50} | changes)


@asynccontextmanager
async def started(*urls: str, **changes: Any) -> AsyncIterator[RemoteEngine]:
    engine = RemoteEngine(options(*urls, **changes), INTERVALS, check_origin)
    await engine.start(lambda progress: None)
    try:
        yield engine
    finally:
        await engine.close()


async def ask(engine: Any, generation: Generation | None = None) -> list[TextDelta]:
    async with aclosing(engine.generate(generation or question())) as stream:
        return [delta async for delta in stream]


async def within(timeout: float, engine: Any) -> Answer:
    """Run a query on a brain, which enforces the deadline."""
    brain = Brain(engine, profile_for("qwen2_5_vl"), defaults=Defaults(timeout=timeout))
    return await brain.run(Query(Task.POINT, "where?", [np.zeros((28, 56, 3), np.uint8)]))


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true. `run` has a time limit."""
    while not condition():
        await asyncio.sleep(0.01)


def text(deltas: list[TextDelta]) -> str:
    return "".join(delta.text for delta in deltas)


async def fault(work: Coroutine[Any, Any, Any]) -> RoboBrainError:
    with pytest.raises(RoboBrainError) as caught:
        await work
    assert KEY not in f"{caught.value.message} {caught.value!r} {caught.value.__cause__!r}"
    return caught.value


async def drop(request: web.Request) -> web.StreamResponse:
    response = await sse(request)
    await response.write(chunk("[(1", 1))
    assert request.transport is not None
    request.transport.close()
    return response


async def end_early(request: web.Request) -> web.StreamResponse:
    response = await sse(request)
    await response.write(chunk("[(1", 1))
    return response


async def endless_line(request: web.Request) -> web.StreamResponse:
    response = await sse(request)
    while True:
        await response.write(b"x" * 65536)


async def error_in_stream(request: web.Request) -> web.StreamResponse:
    response = await sse(request)
    await response.write(chunk("[(1", 1) + f'data: {{"error": {{"message": "burnt {KEY}", "code": 500}}}}\n\n'.encode())
    return response


async def no_json_in_stream(request: web.Request) -> web.StreamResponse:
    response = await sse(request)
    await response.write(b"data: {oh no\n\n")
    return response


async def other_form(request: web.Request) -> web.StreamResponse:
    response = await sse(request)
    await response.write(b'data: {"choices": [{"delta": 5}], "usage": "many"}\n\ndata: {"choices": 7}\n\ndata: [DONE]\n\n')
    return response


async def html(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html><body>Welcome</body></html>", content_type="text/html")


def refusing(status: int, message: str = "") -> Any:
    async def refuse(request: web.Request) -> web.StreamResponse:
        said = message or f"no, {request.headers.get('Authorization')}"
        return web.json_response({"error": {"message": said, "code": status}}, status=status)

    return refuse


async def html_error(request: web.Request) -> web.StreamResponse:
    return web.Response(text=f"<html><h1>Bad gateway</h1>{KEY * 20}</html>", content_type="text/html", status=502)


async def redirect(request: web.Request) -> web.StreamResponse:
    raise web.HTTPTemporaryRedirect(f"https://elsewhere.invalid/v1?key={KEY}")
