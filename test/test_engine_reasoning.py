"""Servers with a reasoning parser: text that they declare as thinking is never read as the answer. Uses real sockets."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_server import TestServer, serving, sse

from robobrain_ros.core import AnswerParser, Brain, Query, Task, profile_for
from robobrain_ros.core.plans.request import PlanMode, PlanRequest, PlanVerdict
from robobrain_ros.core.profiles import check_origin
from robobrain_ros.core.query import Answer, Point
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.engine.remote.engine import RemoteEngine
from robobrain_ros.errors import NothingFoundError, UnparsableAnswerError

PROFILE = profile_for("qwen2_5_vl")
IMAGE = np.zeros((280, 280, 3), np.uint8)
THERE = (Point(10, 20),)


def chat(*deltas: dict[str, Any], end: str = "stop") -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Answer each request with these deltas. The last one has the finish reason."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = await sse(request)
        for number, (delta, _) in enumerate(pairwise((*deltas, {})), 1):
            reason = end if number == len(deltas) else None
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            usage = {"prompt_tokens": 7, "completion_tokens": number, "total_tokens": 7 + number}
            await response.write(b"data: " + json.dumps({"choices": [choice], "usage": usage}).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    return handler


def answer(handler: Any, query: Query | None = None) -> tuple[Answer, TestServer]:
    async def work() -> tuple[Answer, TestServer]:
        async with serving() as server:
            engine = RemoteEngine(
                EngineOptions.of(kind="remote", urls=(server.url,), start_timeout=10.0), check_origin=check_origin
            )
            info = await engine.start(lambda progress: None)
            server.chat = handler
            try:
                return await Brain(engine, PROFILE, info=info).run(query or Query(Task.POINT, "the mug", [IMAGE])), server
            finally:
                await engine.close()

    return asyncio.run(asyncio.wait_for(work(), 60.0))


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize("end", [{}, {"content": ""}, {"content": None}], ids=["nothing", "empty", "null"])
def test_reasoning_with_coordinates_is_thinking_once_content_follows(name: str, end: dict[str, Any]) -> None:
    found, server = answer(
        chat({name: "It may be at (99, 98), no: "}, {name: "[(99, 98)]. "}, {"content": "[(10, "}, {"content": "20)]"}, end)
    )
    assert (found.points, found.text) == (THERE, "[(10, 20)]")
    assert found.thinking == "It may be at (99, 98), no: [(99, 98)]."
    assert found.report.raw_text == "<think>It may be at (99, 98), no: [(99, 98)]. </think>[(10, 20)]"
    assert (found.report.thinking_tokens, found.report.answer_tokens) == (2, 3)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "deltas",
    [
        [{"reasoning": "Left of the bowl (99, 98).", "content": "[(10,"}, {"content": " 20)]"}],
        [{"reasoning": "Left of "}, {"reasoning_content": "the bowl (99, 98).", "content": "[(10, 20)]"}],
        [{"reasoning": "Left of the bowl (99, 98).", "reasoning_content": "Left of the bowl (99, 98).", "content": "[(10, 20)]"}],
        [{"role": "assistant", "content": ""}, {"reasoning": "Left of the bowl (99, 98)."}, {"content": "</think>\n[(10, 20)]"}],
    ],
    ids=["the end and the beginning", "in the last delta", "under both names", "a tag left in the content"],
)
def test_both_parts_of_a_delta_are_read(deltas: list[dict[str, Any]]) -> None:
    found, _ = answer(chat(*deltas))
    assert found.points == THERE
    assert found.thinking == "Left of the bowl (99, 98)."


def test_an_empty_list_after_reasoning_is_an_answer() -> None:
    with pytest.raises(NothingFoundError) as caught:
        answer(chat({"reasoning": "It may be at (99, 98). "}, {"content": "[]"}))
    assert caught.value.raw_text.endswith("</think>[]")


@pytest.mark.parametrize("end", ["stop", "length"])
def test_reasoning_alone_is_no_answer(end: str) -> None:
    with pytest.raises(UnparsableAnswerError, match=r"sent reasoning but no answer.*reasoning parser") as caught:
        answer(chat({"reasoning": "It is at "}, {"reasoning": "[(99, 98)]"}, end=end))
    assert caught.value.report is not None
    assert caught.value.report.answer_tokens == 0


def test_a_plan_after_reasoning_keeps_its_form() -> None:
    text = '{"reasoning_explanation":"a </think> b","verdict":"done"}'
    request = Query(Task.PLAN, "tidy up", [IMAGE], plan=PlanRequest(mode=PlanMode.CHECK))
    found, _ = answer(
        chat({"reasoning": "{ it [ is"}, {"reasoning": " done.", "content": text[:9]}, {"content": text[9:]}), request
    )
    assert (found.verdict, found.reasoning, found.thinking) == (PlanVerdict.DONE, "a </think> b", "{ it [ is done.")


def test_an_answer_that_follows_the_thinking_at_once_is_asked_for_again() -> None:
    """The request for the thinking has another budget and no constraint, so an answer that follows in it is not used."""
    calls: list[list[dict[str, Any]]] = [[{"reasoning": "Left."}, {"content": "[(99, 98)]"}], [{"content": "[(10, 20)]"}]]

    async def handler(request: web.Request) -> web.StreamResponse:
        return await chat(*calls.pop(0))(request)

    found, server = answer(handler, Query(Task.POINT, "the mug", [IMAGE], think=True))
    assert (found.points, found.thinking) == (THERE, "Left.")
    assert server.bodies[1]["messages"][-1]["content"] == "<think>Left.</think><answer>"
    assert found.report.raw_text == "Left.</think><answer>[(10, 20)]"


PIECES = st.lists(
    st.tuples(st.booleans(), st.sampled_from(["(99, 98)", "<thi", "nk>", "</think>", "[", "(1, 2)", ", ", "]", " a "])),
    max_size=8,
)


@given(PIECES, st.lists(st.integers(0, 60), max_size=6))
@settings(max_examples=300, deadline=None)
def test_declared_thinking_is_the_same_however_it_is_cut(pieces: list[tuple[bool, str]], cuts: list[int]) -> None:
    """Chunks may end anywhere, and no declared thinking ever becomes part of the answer's points."""
    whole, cut = AnswerParser(Task.POINT, PROFILE), AnswerParser(Task.POINT, PROFILE)
    place = 0
    for thinking, text in pieces:
        whole.feed(text, thinking)
        places = sorted({0, *(it - place for it in cuts if place < it < place + len(text)), len(text)})
        for start, end in pairwise(places):
            cut.feed(text[start:end], thinking)
        place += len(text)
    assert (whole.text, whole.thinking, whole.in_thinking) == (cut.text, cut.thinking, cut.in_thinking)
    assert whole.raw_text == cut.raw_text
    results: list[Any] = []
    for parser in (whole, cut):
        try:
            results.append(parser.finish().points)
        except UnparsableAnswerError as error:
            results.append(error.message)
    assert results[0] == results[1]
    answered = "".join(text for thinking, text in pieces if not thinking)
    assert "99" in answered or "99, 98" not in str(results[0])
