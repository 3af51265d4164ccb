"""Responses to clients that DDS has not discovered yet. The fault is injected, because a test cannot order DDS discovery."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from action_msgs.msg import GoalStatus
from fakes import Script
from lifecycle_msgs.msg import Transition
from rclpy.action import ActionClient
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.service import Service
from ros_rig import scripted

from robobrain_ros.action import RunTask
from robobrain_ros.msg import Outcome
from robobrain_ros.srv import Locate

REQUEST = Locate.Request(instruction="mug")


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], bool]], list[int]]:
    """Make chosen attempts to send a response of ~/point fail, as rmw_fastrtps does for an undiscovered reader."""

    def fail(which: Callable[[int], bool]) -> list[int]:
        real = Service.send_response
        tries: list[int] = []

        def send(service: Service, response: Any, header: Any) -> None:
            if service.srv_name.endswith("point"):
                tries.append(len(tries) + 1)
                if which(tries[-1]):
                    raise rclpy_implementation.RCLError("failed to send response: client will not receive response")
            real(service, response, header)

        monkeypatch.setattr(Service, "send_response", send)
        return tries

    return fail


def test_a_response_waits_for_a_client_that_is_not_known_yet(unknown: Callable[[Callable[[int], bool]], list[int]]) -> None:
    tries = unknown(lambda number: number <= 3)
    with scripted("[(10, 10)]", max_image_age=0.0) as (it, _):
        answers = [it.send(Locate, "point", REQUEST) for _ in range(3)]
        codes = [it.answer(answer).outcome.code for answer in answers]
        it.until(lambda: not it.node.redelivery.waiting, "an empty store")
        assert it.node.faults.lost_responses == 0
    assert codes == [Outcome.OK] * 3
    assert len(tries) == 6


def test_a_client_that_never_comes_costs_one_response_and_a_log_line(
    unknown: Callable[[Callable[[int], bool]], list[int]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("robobrain_ros.ros.delivery.redelivery._PATIENCE", 0.0)
    unknown(lambda number: number <= 2)
    with scripted("[(10, 10)]", max_image_age=0.0) as (it, _):
        it.send(Locate, "point", REQUEST)
        it.until(lambda: it.node.faults.lost_responses, "the end of the patience")
        after = it.call(Locate, "point", REQUEST)
        assert it.node.faults.lost_responses == 1
        assert not it.node.redelivery.waiting
    assert after.outcome.code == Outcome.OK
    assert "its client is unreachable" in capfd.readouterr().err


@pytest.fixture
def unknown_to_action(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Make the first responses of one kind ("goal", "cancel", "result") of the action fail."""

    def fail(kind: str, count: int) -> None:
        handle, name = rclpy_implementation.ActionServer, f"send_{kind}_response"
        real = getattr(handle, name)
        failures = iter(range(count))

        def send(server: Any, header: Any, response: Any) -> None:
            if next(failures, None) is not None:
                raise rclpy_implementation.RCLError("failed to send response: client will not receive response")
            real(server, header, response)

        monkeypatch.setattr(handle, name, send)

    return fail


@pytest.mark.parametrize("kind", ["goal", "result"])
def test_a_goal_is_executed_and_answered_though_its_client_is_not_known_yet(
    unknown_to_action: Callable[[str, int], None], kind: str
) -> None:
    unknown_to_action(kind, 2)
    with scripted("[(10, 10)]", max_image_age=0.0) as (it, _):
        client = ActionClient(it.client, RunTask, f"{it.name}/run_task")
        it.until(client.server_is_ready, "the action")
        goal = it.answer(client.send_goal_async(RunTask.Goal(task="point", instruction="mug")))
        end = it.answer(goal.get_result_async())
        assert it.node.faults.lost_responses == it.node.faults.count == 0
    assert (end.status, end.result.outcome.code) == (GoalStatus.STATUS_SUCCEEDED, Outcome.OK)


def test_a_cancel_is_answered_though_its_client_is_not_known_yet(unknown_to_action: Callable[[str, int], None]) -> None:
    unknown_to_action("cancel", 2)
    with scripted(Script([asyncio.Event()]), max_image_age=0.0) as (it, _):
        client = ActionClient(it.client, RunTask, f"{it.name}/run_task")
        it.until(client.server_is_ready, "the action")
        goal = it.answer(client.send_goal_async(RunTask.Goal(task="point", instruction="mug")))
        canceled = it.answer(goal.cancel_goal_async())
        end = it.answer(goal.get_result_async())
    assert [bytes(info.goal_id.uuid) for info in canceled.goals_canceling] == [bytes(goal.goal_id.uuid)]
    assert (end.status, end.result.outcome.code) == (GoalStatus.STATUS_CANCELED, Outcome.CANCELED)


def test_a_goal_of_a_client_that_never_comes_ends_and_costs_its_responses_only(
    unknown_to_action: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robobrain_ros.ros.delivery.redelivery._PATIENCE", 0.0)
    unknown_to_action("goal", 2)
    with scripted("[(10, 10)]", max_image_age=0.0) as (it, engine):
        client = ActionClient(it.client, RunTask, f"{it.name}/run_task")
        it.until(client.server_is_ready, "the action")
        client.send_goal_async(RunTask.Goal(task="point", instruction="mug"))
        it.until(lambda: it.node.faults.lost_responses and engine.generations, "the end of the goal and of the patience")
        after = it.answer(client.send_goal_async(RunTask.Goal(task="point", instruction="mug")))
        assert it.answer(after.get_result_async()).result.outcome.code == Outcome.OK
        assert it.node.faults.lost_responses == 1


def test_a_response_that_waits_while_its_service_is_destroyed_is_lost_without_a_fault(
    unknown: Callable[[Callable[[int], bool]], list[int]], capfd: pytest.CaptureFixture[str]
) -> None:
    unknown(lambda number: True)
    with scripted("[(10, 10)]", max_image_age=0.0) as (it, _):
        it.send(Locate, "point", REQUEST)
        it.until(lambda: it.node.redelivery.waiting, "the response")
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
            assert it.transition(transition)
        it.until(lambda: it.node.faults.lost_responses, "the end of the service")
        assert it.node.faults.count == 0
    assert "Please report" not in capfd.readouterr().err
