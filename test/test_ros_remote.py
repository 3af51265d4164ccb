"""The complete system with a remote engine, a vLLM server in its own process.

Tests the specific behaviour, and runs those tests of test_ros_demo_model.py again that depend on the way between node and engine:
positions, sizes, plans, thinking, conditions and several images. Encodings are converted before an image reaches the engine.
"""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from ros_rig import rig
from test_ros_demo_model import (  # noqa: F401 - pytest collects the tests.
    CAMERAS,
    NONSENSE,
    Table,
    check_answer_to_nonsense,
    check_answers_under_a_smaller_budget,
    test_a_comparison_of_two_moments_gets_a_score_from_the_real_engine,
    test_a_condition_follows_the_scene,
    test_answers_are_in_the_pixels_of_every_size,
    test_plans_reach_their_goals_and_answers_hold,
    test_two_cameras_each_see_their_own_table,
    test_with_thinking,
)
from vllm_server import KEY, MODEL, START, node_parameters, running_server, unfinished

from robobrain_ros.action import RunTask
from robobrain_ros.core.query import Task
from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.demo.world import make_scene
from robobrain_ros.engine.base import IMAGE_PLACEHOLDER, Constraint, Generation
from robobrain_ros.engine.embedded.checkpoint import read_checkpoint
from robobrain_ros.engine.remote.data_url import data_url
from robobrain_ros.engine.remote.server import Server
from robobrain_ros.msg import Outcome, QueryOptions
from robobrain_ros.srv import Ask, Locate

pytestmark = pytest.mark.timeout(START + 120)


@pytest.fixture(scope="module")
def vllm_server() -> Iterator[str]:
    """Return the address of a vLLM server with the demo model."""
    with running_server() as url:
        yield url


@pytest.fixture(scope="module")
def asked(vllm_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    """Return a node whose engine is the server and which accepts old images."""
    engine = node_parameters(vllm_server, tmp_path_factory.mktemp("secret"))
    with rig(None, max_image_age=0.0, engine__max_num_seqs=8, **engine) as running:
        running.until_ready(START)
        table = Table(running)
        table.show(make_scene(3))  # Each test can then run alone.
        yield table


@pytest.fixture(scope="module")
def table(vllm_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    """Return a node whose engine is the server, with two cameras, for the tests of test_ros_demo_model.py."""
    engine = node_parameters(vllm_server, tmp_path_factory.mktemp("secret"))
    with rig(None, **CAMERAS, **engine) as running:
        running.until_ready(START)
        yield Table(running)


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo model ends its answers early; this prevents it."""
    body = Server._body

    def without_end(server: Server, *arguments: Any) -> dict[str, Any]:
        changed = body(server, *arguments)
        changed.pop("stop", None)
        changed["extra_body"]["ignore_eos"] = True
        return changed

    monkeypatch.setattr(Server, "_body", without_end)


def test_name_and_bounds_are_those_of_the_checkpoint(asked: Table) -> None:
    """No server reports the limits of its images; the node measures them."""
    info = asked.it.node.model.info
    checkpoint = read_checkpoint(DEMO_MODEL, local=True)
    assert info is not None
    assert (info.model, info.model_type) == (MODEL, checkpoint.model_type)
    assert info.engine.startswith("vllm at http://127.0.0.1:")
    assert info.max_model_len > 0
    assert info.cell == checkpoint.cell
    assert (info.min_pixels, info.max_pixels) == (checkpoint.min_pixels, checkpoint.max_pixels)


def test_the_report_tells_of_the_server(asked: Table) -> None:
    options = QueryOptions(think=QueryOptions.THINK_ON)
    report = asked.it.call(Locate, "point", Locate.Request(instruction="the red block", options=options)).affordances.report
    assert report.model == MODEL
    assert report.engine.startswith("vllm at ")
    assert report.prompt_tokens > 0
    assert report.thinking_tokens > 0
    assert report.answer_tokens > 0
    assert 0 < report.first_token_time <= report.total_time
    assert report.finish_reason == "stop"
    assert KEY not in str(report)


def test_eight_at_once(asked: Table, endless: None) -> None:
    options = QueryOptions(max_tokens=100)
    futures = [asked.it.send(Ask, "ask", Ask.Request(question=f"What is at place {n}?", options=options)) for n in range(8)]
    asked.it.until(lambda: asked.it.node.model.health().running == 8, "eight requests in the engine")
    responses = [asked.it.answer(future) for future in futures]
    assert {response.outcome.code for response in responses} == {Outcome.OK}
    assert {response.answer.report.answer_tokens for response in responses} == {100}
    assert [response.answer.question for response in responses] == [f"What is at place {n}?" for n in range(8)]


def test_the_action_streams_and_its_cancel_reaches_the_server(asked: Table, endless: None, vllm_server: str) -> None:
    client = ActionClient(asked.it.client, RunTask, f"{asked.it.name}/run_task")
    asked.it.until(client.server_is_ready, "the action")
    feedback: list[Any] = []
    goal = RunTask.Goal(task="ask", instruction="Tell me all.", options=QueryOptions(max_tokens=7000))
    handle = asked.it.answer(client.send_goal_async(goal, feedback_callback=feedback.append))
    asked.it.until(lambda: len(feedback) >= 2, "streamed feedback")
    assert unfinished(vllm_server) == 1
    asked.it.answer(handle.cancel_goal_async())
    outcome = asked.it.answer(handle.get_result_async())
    assert outcome.status == GoalStatus.STATUS_CANCELED
    assert outcome.result.outcome.code == Outcome.CANCELED
    asked.it.until(lambda: unfinished(vllm_server) == 0, "the end of the request in the server")


def test_a_deadline_reaches_the_server(asked: Table, endless: None, vllm_server: str) -> None:
    options = QueryOptions(max_tokens=7000, timeout=0.7)
    response = asked.it.call(Ask, "ask", Ask.Request(question="Tell me all.", options=options))
    assert response.outcome.code == Outcome.TIMEOUT
    asked.it.until(lambda: unfinished(vllm_server) == 0, "the end of the request in the server")


def test_requests_that_the_server_or_the_engine_rejects(asked: Table) -> None:
    marked = asked.it.call(Ask, "ask", Ask.Request(question=f"What is {IMAGE_PLACEHOLDER}?"))
    assert marked.outcome.code == Outcome.BAD_REQUEST
    for tokens in (10**6, 16_380):  # More tokens than the context length allows, with the prompt or without it.
        much = asked.it.call(Ask, "ask", Ask.Request(question="What?", options=QueryOptions(max_tokens=tokens)))
        assert (much.outcome.code, much.outcome.message) == (Outcome.OK, "")
    long = asked.it.call(Ask, "ask", Ask.Request(question="0 1 2 3 4 5 6 7 " * 490))
    assert long.outcome.code in (Outcome.OK, Outcome.BAD_REQUEST)


@pytest.mark.parametrize("task", [Task.POINT, Task.ASK, Task.PLAN])
@pytest.mark.parametrize("text", NONSENSE)
def test_what_makes_no_sense_gets_a_well_formed_answer(asked: Table, task: Task, text: str) -> None:
    check_answer_to_nonsense(asked, task, text)


def test_structured_outputs(asked: Table) -> None:
    engine: Any = asked.it.node.model._supervisor
    properties = {"count": {"type": "integer", "minimum": 0, "maximum": 9}, "seen": {"type": "boolean"}}
    schema = {"type": "object", "properties": properties, "required": ["count", "seen"], "additionalProperties": False}

    async def written(request_id: str, constraint: Constraint) -> tuple[str, str]:
        image = np.zeros((224, 280, 3), np.uint8)
        generation = Generation(request_id, "How many?", [image], 60, constraint=constraint)
        async with aclosing(engine.generate(generation)) as stream:
            deltas = [delta async for delta in stream]
        return "".join(delta.text for delta in deltas), deltas[-1].finish_reason

    text, reason = asked.it.node.model.submit(written("json", Constraint(json_schema=json.dumps(schema)))).result(60)
    assert reason == "stop"
    assert set(json.loads(text)) == {"count", "seen"}
    # Either without whitespace, or with single blanks as xgrammar writes them in vLLM 0.26.
    assert text in [json.dumps(json.loads(text), separators=separators) for separators in ((",", ":"), (", ", ": "))]
    text, reason = asked.it.node.model.submit(written("regex", Constraint(regex="[0-9]{3}-[a-f]{2}"))).result(60)
    assert (len(text), text[3], reason) == (6, "-", "stop")


def test_the_prompt_is_token_for_token_that_of_the_embedded_engine(asked: Table, vllm_server: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    image = np.zeros((224, 280, 3), np.uint8)
    question, prefix = "the red  block. Ünd?\n", "<think>It is\n left.</think><answer>"
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    expected = tokenizer(rendered + prefix, add_special_tokens=False)["input_ids"]
    pad = tokenizer.convert_tokens_to_ids(IMAGE_PLACEHOLDER)
    place = expected.index(pad)
    expected[place : place + 1] = [pad] * (224 * 280 // 28**2)
    supervisor: Any = asked.it.node.model._supervisor
    server = supervisor._engine._servers[0]
    body = server._body(Generation("a", question, [], 1, assistant_prefix=prefix), [data_url(image, "png", 95)], server.served)
    request = {"model": MODEL, "messages": body["messages"]} | body["extra_body"]
    post = urllib.request.Request(
        vllm_server.replace("/v1", "/tokenize"),
        json.dumps(request).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
    )
    with urllib.request.urlopen(post, timeout=30) as response:
        assert json.load(response)["tokens"] == expected


def test_answers_are_in_the_pixels_under_a_smaller_budget(table: Table) -> None:
    check_answers_under_a_smaller_budget(table)
