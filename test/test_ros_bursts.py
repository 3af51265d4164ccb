"""Hundreds of requests at once, from clients that keep 10 responses (the default) and from others: each gets one response."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import Script
from lifecycle_msgs.srv import ChangeState, GetAvailableStates, GetAvailableTransitions, GetState
from rclpy.action import ActionClient
from rclpy.qos import QoSProfile
from ros_rig import Rig, scripted

from robobrain_ros.action import RunTask
from robobrain_ros.core.query import CAMERA_TASKS
from robobrain_ros.msg import Outcome
from robobrain_ros.ros.delivery import qos
from robobrain_ros.ros.delivery.pacing import READ_WITHIN
from robobrain_ros.ros.limits import MOST_WATCHES

alone = pytest.mark.alone
"""A client that keeps 10 responses loses some if other tests use its core for too long."""
COUNT = 200
ATTEMPTS = 3
"""Number of bursts, if the machine does not run the client often enough for its queue of 10 responses."""


class StalledClient(AssertionError):
    """The machine did not run a client for longer than the node guarantees to a client that keeps 10 responses."""


def burst(
    it: Rig, kind: str, count: int, clients: int, meanwhile: Callable[[], None] = lambda: None, depth: int = qos.BURST
) -> dict[str, int]:
    """Return how the requests of a client process ended: their number by outcome, and the number without response ("lost").

    :raises StalledClient: the client lost responses, and it waited longer than READ_WITHIN before it read one.
    """
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "bursts.py"), kind, it.name, str(count), str(clients), str(depth)],
        stdout=subprocess.PIPE, text=True, cwd="/",
    )  # fmt: skip

    def ended() -> bool:
        meanwhile()
        return process.poll() is not None

    try:
        it.until(ended, "the client's end", 120.0)
    finally:
        process.kill()
    assert process.stdout is not None
    assert process.returncode == 0
    ends = json.loads(process.stdout.read())
    longest_wait = ends.pop("longest_wait")
    if ends["lost"] and longest_wait > READ_WITHIN:
        raise StalledClient(f"{ends['lost']} responses were lost; the client waited {longest_wait:.3f} s before it read one.")
    return ends


def repeated(attempt: Callable[[], None]) -> None:
    """Repeat an attempt whose client was stalled."""
    for left in reversed(range(ATTEMPTS)):
        try:
            return attempt()
        except StalledClient:
            if not left:
                raise


@pytest.mark.parametrize(
    ("clients", "depth"), [pytest.param(1, 10, marks=alone), pytest.param(50, 10, marks=alone), (50, qos.BURST)]
)
def test_of_200_service_requests_at_once_each_is_answered(clients: int, depth: int) -> None:
    def attempt() -> None:
        with scripted("[(10, 10)]", max_image_age=0.0, max_queued=COUNT, request_timeout=60.0) as (it, _):
            ends = burst(it, "services", COUNT, clients, depth=depth)
            statistics = it.node.statistics
        assert ends == {"lost": 0, str(Outcome.OK): COUNT}
        assert (statistics.served, statistics.failed) == (COUNT, 0)

    repeated(attempt)


def test_of_200_comparisons_at_once_each_is_answered() -> None:
    """The requests have no images, so that the node rejects each with a reason, without the engine."""
    with scripted("<score>+10%</score>", max_image_age=0.0) as (it, engine):
        ends = burst(it, "comparisons", COUNT, 50)
    assert ends == {"lost": 0, str(Outcome.BAD_REQUEST): COUNT}
    assert not engine.generations


def test_of_200_changes_of_standing_queries_at_once_each_is_answered() -> None:
    with scripted("[(10, 10)]", max_image_age=0.0) as (it, _):
        ends = burst(it, "standing", COUNT, 50)
    assert ends == {"lost": 0, str(Outcome.OK): COUNT}


def test_of_200_watched_tasks_at_once_each_has_its_result() -> None:
    """The camera shows no second image, so that the accepted goals end at their timeout."""
    with scripted("<score>+10%</score>", max_image_age=0.0) as (it, _):
        ends = burst(it, "watches", COUNT, 20)
    busy = ends.pop(str(Outcome.BUSY))
    assert ends.pop("lost") == 0
    assert sum(ends.values()) >= MOST_WATCHES
    assert busy + sum(ends.values()) == COUNT


@alone
@pytest.mark.parametrize("kind", [ChangeState, GetState, GetAvailableStates, GetAvailableTransitions])
def test_of_60_lifecycle_requests_at_once_each_is_answered(kind: Any) -> None:
    """rcl's own services keep 10 requests. In this test, 60 requests to activate an active node are rejected."""
    name = re.sub("(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()
    with scripted("[(10, 10)]") as (it, _):
        requests = [it.send(kind, name, kind.Request()) for _ in range(60)]
        responses = [it.answer(request) for request in requests]
        states = it.call(GetState, "get_state", GetState.Request())
    assert len(responses) == 60
    assert states.current_state.label == "active"


def test_requests_beyond_max_queued_get_busy() -> None:
    gate = asyncio.Event()
    with scripted(Script([gate, "[(10, 10)]"]), max_image_age=0.0, max_queued=3, engine__max_num_seqs=2) as (it, _):

        def release() -> None:
            """Let the engine continue after it has refused all requests beyond its limit."""
            if it.node.statistics.failed == COUNT - 5:
                it.on_loop(gate.set)

        ends = burst(it, "services", COUNT, 1, release)
    assert ends == {"lost": 0, str(Outcome.OK): 5, str(Outcome.BUSY): COUNT - 5}


@pytest.mark.parametrize(("clients", "depth"), [pytest.param(1, 10, marks=alone), (20, qos.BURST)])
def test_of_200_goals_at_once_each_is_accepted_and_has_its_result(clients: int, depth: int) -> None:
    def attempt() -> None:
        with scripted("[(10, 10)]", max_image_age=0.0, max_queued=COUNT, request_timeout=60.0) as (it, _):
            ends = burst(it, "goals", COUNT, clients, depth=depth)
        assert ends == {"lost": 0, str(Outcome.OK): COUNT}

    repeated(attempt)


def test_of_200_cancels_at_once_each_is_answered_and_ends_its_goal() -> None:
    with scripted(Script(["[(10,", asyncio.Event()]), max_image_age=0.0, max_queued=COUNT, request_timeout=60.0) as (it, engine):
        ends = burst(it, "cancels", COUNT, 1)
        assert not engine.running
    assert ends == {"lost": 0, str(Outcome.CANCELED): COUNT}


def test_every_service_keeps_more_than_what_may_wait() -> None:
    """This includes the services that rclpy and rcl create, such as those of the parameters."""
    with scripted("[(10, 10)]", max_queued=500) as (it, _):
        kept = {service.srv_name: service.qos_profile.depth for service in it.node.services}
    assert all(kept[f"~/{task.value}"] >= 500 + qos.BURST for task in CAMERA_TASKS)
    assert {name: depth for name, depth in kept.items() if depth < qos.BURST} == {}
    assert {"~/set_standing_query", "~/change_state", "robobrain/set_parameters"} <= kept.keys()


def test_lost_feedback_is_visible_and_harmless() -> None:
    """A client that keeps one message and reads rarely misses some feedback, but still gets the complete answer."""
    pieces: list[Any] = ["1. Step 1\n"]
    gates = [asyncio.Event() for _ in range(30)]
    for number, gate in enumerate(gates, 2):
        pieces += [gate, f"{number}. Step {number}\n"]
    with scripted(Script(pieces), max_image_age=0.0) as (it, _):
        client = ActionClient(it.client, RunTask, f"{it.name}/run_task", feedback_sub_qos_profile=QoSProfile(depth=1))
        it.until(client.server_is_ready, "the action")
        fed: list[Any] = []
        goal = RunTask.Goal(task="plan", instruction="clear the table")
        handle = it.answer(client.send_goal_async(goal, feedback_callback=lambda message: fed.append(message.feedback)))
        it.until(lambda: fed, "the first feedback")
        for gate in gates:
            it.on_loop(gate.set)  # The client reads nothing in the meantime.
        result = it.answer(handle.get_result_async()).result
        it.until(lambda: len(fed[-1].steps) == len(result.plan.steps), "the last feedback")
    numbers = [feedback.sequence for feedback in fed]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] > len(numbers), "some were lost"
    assert fed[-1].steps == result.plan.steps
