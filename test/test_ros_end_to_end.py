"""The complete system: images and requests over DDS, and a vLLM engine on the CPU behind the node.

The checkpoint is tiny and random, so its answers have no meaning. The tests check everything except the content of the answers.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Time
from lifecycle_msgs.msg import Transition
from processes import engine_processes
from random_checkpoint import make_random_checkpoint
from rclpy.action import ActionClient
from ros_rig import Rig, image_message, now, rig

from robobrain_ros.action import RunTask
from robobrain_ros.core.query import CAMERA_TASKS, Task
from robobrain_ros.msg import Outcome, QueryOptions
from robobrain_ros.ros.tasks import TASKS
from robobrain_ros.srv import Ask

START = 280.0
"""Timeout in seconds for a start of vLLM on a busy machine."""

NOISE = (Outcome.OK, Outcome.UNPARSABLE_ANSWER, Outcome.NOTHING_FOUND)
"""Possible outcomes of random text."""


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Return one node with one engine for all tests of this file."""
    checkpoint: Path = make_random_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    parameters: dict[str, Any] = {"engine__model": str(checkpoint), "engine__max_num_seqs": 8, "max_tokens": 16}
    with rig(None, max_image_age=0.0, warm_up=True, **parameters) as running:
        running.until_ready(START)
        running.show(image_message(width=320, height=240))
        yield running


def unfinished(it: Rig) -> int:
    """Return the requests that vLLM has not finished."""
    engine: Any = it.node.model._supervisor
    return len(engine._engine._vllm.output_processor.request_states)


@pytest.fixture(scope="module")
def endless(it: Rig) -> str:
    """A question for which the random model generates many tokens; most answers end after a few."""
    options = QueryOptions(max_tokens=1000)
    for number in range(20):
        question = f"Tell story {number}."
        response = it.call(Ask, "ask", Ask.Request(question=question, options=options))
        if response.answer.report.finish_reason == "length":
            return question
    raise AssertionError("The random model ends every answer.")


@pytest.mark.timeout(START + 60)
@pytest.mark.parametrize("task", CAMERA_TASKS)
def test_each_service_answers_with_the_header_of_the_image(it: Rig, task: Task) -> None:
    interface = TASKS[task]
    message = image_message(width=320, height=240, stamp=Time(sec=now().sec, nanosec=987654321))
    it.show(message)
    request = interface.service_type.Request(**{interface.text_field: "the red mug"})
    response = it.call(interface.service_type, interface.name, request)
    result = interface.result_in(response)
    assert response.outcome.code in NOISE
    assert result.header == message.header
    assert result.report.engine.startswith("vllm ")
    assert 0 < result.report.answer_tokens <= 16
    assert result.report.prompt_tokens > 0
    assert 0 < result.report.first_token_time <= result.report.total_time
    assert result.report.finish_reason in ("stop", "length")
    assert result.report.raw_text or result.report.finish_reason == "stop", "random weights may write nothing but control tokens"
    assert result.report.model_image_width % 28 == 0


def test_eight_at_once_are_worked_on_together(it: Rig) -> None:
    options = QueryOptions(max_tokens=64)
    futures = [it.send(Ask, "ask", Ask.Request(question=f"What is at place {n}?", options=options)) for n in range(8)]
    it.until(lambda: it.node.model.health().running == 8, "eight requests in the engine")
    it.show(image_message(width=320, height=240))
    assert it.parameter("max_tokens") == 16
    responses = [it.answer(future) for future in futures]
    assert [response.outcome.code for response in responses] == [Outcome.OK] * 8
    assert [response.answer.question for response in responses] == [f"What is at place {n}?" for n in range(8)]
    assert it.node.model.health().running == 0


def test_a_request_past_its_deadline_leaves_vllm(it: Rig, endless: str) -> None:
    options = QueryOptions(max_tokens=4000, timeout=0.5)
    response = it.call(Ask, "ask", Ask.Request(question=endless, options=options))
    assert response.outcome.code == Outcome.TIMEOUT
    it.until(lambda: unfinished(it) == 0, "the end of the request in vLLM")


def test_the_action_streams_and_its_cancel_reaches_vllm(it: Rig, endless: str) -> None:
    client = ActionClient(it.client, RunTask, f"{it.name}/run_task")
    it.until(client.server_is_ready, "the action")
    feedback: list[Any] = []
    goal = RunTask.Goal(task="ask", instruction=endless, options=QueryOptions(max_tokens=4000))
    handle = it.answer(client.send_goal_async(goal, feedback_callback=feedback.append))
    it.until(lambda: len(feedback) >= 2, "streamed feedback")
    assert unfinished(it) == 1
    it.answer(handle.cancel_goal_async())
    outcome = it.answer(handle.get_result_async())
    assert outcome.status == GoalStatus.STATUS_CANCELED
    assert outcome.result.outcome.code == Outcome.CANCELED
    it.until(lambda: unfinished(it) == 0, "the end of the request in vLLM")


def test_token_limits_are_reduced_to_the_context_and_control_tokens_are_rejected(it: Rig) -> None:
    options = QueryOptions(max_tokens=10**6, timeout=1.0)
    response = it.call(Ask, "ask", Ask.Request(question="What?", options=options))
    assert response.outcome.code in (Outcome.OK, Outcome.TIMEOUT), "so much is cut down to what the context holds"
    marked = it.call(Ask, "ask", Ask.Request(question="What is <|image_pad|>?"))
    assert marked.outcome.code == Outcome.BAD_REQUEST
    assert "<|image_pad|>" in marked.outcome.message


@pytest.mark.timeout(START + 60)
def test_a_killed_engine_fails_its_requests_and_comes_back(it: Rig, endless: str) -> None:
    options = QueryOptions(max_tokens=4000)
    futures = [it.send(Ask, "ask", Ask.Request(question=endless, options=options)) for _ in range(8)]
    it.until(lambda: it.node.model.health().running == 8, "eight requests in the engine")
    (process,) = engine_processes("EngineCore")
    os.kill(process.pid, signal.SIGKILL)
    responses = [it.answer(future) for future in futures]
    assert {response.outcome.code for response in responses} == {Outcome.ENGINE_FAILED}
    early = it.call(Ask, "ask", Ask.Request(question="And now?"))
    assert early.outcome.code in (Outcome.NOT_READY, Outcome.ENGINE_FAILED)
    it.until_ready(START)
    assert it.call(Ask, "ask", Ask.Request(question="And now?")).outcome.code == Outcome.OK


def test_cleanup_gives_the_engines_processes_back(it: Rig) -> None:
    assert engine_processes()
    assert it.transition(Transition.TRANSITION_DEACTIVATE)
    assert it.transition(Transition.TRANSITION_CLEANUP)
    it.until(lambda: not engine_processes(), "the end of the engine's processes")
