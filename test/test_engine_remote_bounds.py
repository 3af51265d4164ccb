"""Servers that send too much, too slowly, or endlessly: text is bounded, the stream is closed, and deadlines are kept."""

import asyncio
import itertools
import json
import tracemalloc
from typing import Any

import pytest
from aiohttp import web
from openai_server import chunk, serving, sse
from remote_rig import ask, fault, question, run, started, text, within

from robobrain_ros.errors import EngineConfigError, EngineFailedError, RequestTimeoutError

MOST = 20 << 20
"""Maximum bytes that are read of an endless response."""


async def ignores_max_tokens(request: web.Request) -> web.StreamResponse:
    response = await sse(request)
    for number in itertools.count(1):
        await response.write(chunk("word ", number))
    return response


async def ignores_max_tokens_without_counts(request: web.Request) -> web.StreamResponse:
    response = await sse(request)
    while True:
        await response.write(b'data: {"choices": [{"index": 0, "delta": {"content": "' + b"x" * 20_000 + b'"}}]}\n\n')


async def never_stops_stopping(request: web.Request) -> web.StreamResponse:
    response = await sse(request)
    while True:
        await response.write(chunk("more ", 1, "stop"))


@pytest.mark.parametrize("chat", [ignores_max_tokens, ignores_max_tokens_without_counts, never_stops_stopping])
def test_text_ends_where_the_server_should_have_ended_it(chat: Any) -> None:
    async def work() -> None:
        async with serving() as server, started(server.url) as engine:
            server.chat = chat
            tracemalloc.start()
            try:
                deltas = await ask(engine, question(max_tokens=8))
                assert tracemalloc.get_traced_memory()[1] < MOST
            finally:
                tracemalloc.stop()
            assert deltas[-1].finish_reason == ("stop" if chat is never_stops_stopping else "length")
            assert len(text(deltas)) < 64 * (8 + 128) + 40_000

    run(work())


async def no_text(request: web.Request) -> web.StreamResponse:
    response = await sse(request)
    while True:
        await response.write(b'data: {"choices": []}\n\n' * 100)


async def comments(request: web.Request) -> web.StreamResponse:
    response = await sse(request)
    while True:
        await response.write(b": still here\n\n" * 4000)


async def zipped(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Content-Encoding": "gzip"})
    await response.prepare(request)
    while True:
        await response.write(b"\x1f\x8b" * 4000)


async def endless_headers(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.write(b"HTTP/1.1 200 OK\r\n")
    while not request.transport.is_closing():
        request.transport.write(b"X-More: " + b"x" * 1000 + b"\r\n")
        await asyncio.sleep(0)
    raise ConnectionResetError


@pytest.mark.parametrize("chat", [no_text, comments, zipped, endless_headers])
def test_endless_responses_end_with_an_outcome_in_bounded_memory(chat: Any) -> None:
    async def work() -> None:
        async with serving() as server, started(server.url) as engine:
            server.chat = chat
            found = await fault(ask(engine, question(max_tokens=8)))
            assert isinstance(found, EngineFailedError)

    run(work())


def odd(usage: Any = None, finish_reason: Any = "stop", index: int = 1) -> Any:
    """A server that sends two interleaved answers and ends with these values."""

    async def chat(request: web.Request) -> web.StreamResponse:
        response = await sse(request)
        other = {"index": index, "delta": {"content": "other"}, "finish_reason": None}
        last = {"index": 0, "delta": {"content": "one"}, "finish_reason": finish_reason}
        for choice in (other, last):
            await response.write(b"data: " + json.dumps({"choices": [choice], "usage": usage}).encode() + b"\n\n")
        return response

    return chat


@pytest.mark.parametrize(
    ("count", "finish_reason"), [(-5, "x" * 10_000), (10**30, "stop"), ("5", 5), (1e300, {"a": 1}), (5, "\ud800stop\0")]
)
def test_numbers_and_words_of_a_server_fit_into_a_report(count: Any, finish_reason: Any) -> None:
    """The answer is correct with any token counts. If there are several answers, the first is used."""

    async def work() -> None:
        async with serving() as server, started(server.url) as engine:
            server.chat = odd({"prompt_tokens": count, "completion_tokens": 2}, finish_reason)
            deltas = await ask(engine, question(max_tokens=8))
            assert text(deltas) == "one"
            assert 0 <= deltas[-1].prompt_tokens < 2**31
            assert len(deltas[-1].finish_reason) <= 40
            assert "\0" not in deltas[-1].finish_reason.encode().decode()

    run(work())


def test_a_number_of_thousands_of_digits_is_a_wrong_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def chat(request: web.Request) -> web.StreamResponse:
        response = await sse(request)
        await response.write(b'data: {"choices": [], "created": ' + b"9" * 5000 + b"}\n\n")
        return response

    async def work() -> None:
        async with serving() as server, started(server.url) as engine:
            server.chat = chat
            found = await fault(ask(engine, question(max_tokens=8)))
            assert "text that is not JSON" in found.message

    run(work())
    assert "Traceback" not in caplog.text


async def slow_drip(request: web.Request) -> web.StreamResponse:
    response = await sse(request)
    while True:
        await response.write(b": ")
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("chat", [slow_drip, comments])
def test_a_deadline_is_kept_however_a_server_writes(chat: Any) -> None:
    async def work() -> None:
        async with serving() as server, started(server.url) as engine:
            server.chat = chat
            found = await fault(within(0.2, engine))
            assert isinstance(found, RequestTimeoutError | EngineFailedError)

    run(work())


async def endless_json(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"data": [')
    while True:
        await response.write(b'{"id": "x"},\n' * 1000)


async def deep_json(request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"[" * 1_000_000, content_type="application/json")


async def many_models(request: web.Request) -> web.StreamResponse:
    models = [{"id": f"model-{number}-" + "x" * 100} for number in range(5000)]
    return web.json_response({"data": models})


def one_model(name: str) -> Any:
    async def models(request: web.Request) -> web.StreamResponse:
        return web.json_response({"data": [{"id": name}]})

    return models


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (endless_json, "does not end"),
        (deep_json, "not JSON"),
        (many_models, "Set engine.model to one of them"),
        (one_model("RoboBrain2.0" + "x" * 1_000_000), "a model name of 1000012 characters"),
        (one_model("RoboBrain2.0\ud800"), "not be printable"),
        (one_model("RoboBrain2.0\n"), "not be printable"),
    ],
)
def test_a_list_of_models_is_bounded(models: Any, said: str) -> None:
    async def work() -> None:
        async with serving(models=models) as server:
            with pytest.raises(EngineConfigError, match=said) as caught:
                async with started(server.url):
                    pass
            assert len(caught.value.message) < 1000

    run(work())
