"""The action ~/run_task: streamed feedback, cancel, and a result for every goal."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from action_msgs.msg import GoalStatus
from fakes import Script
from rclpy.action import ActionClient
from ros_rig import Rig, scripted

from robobrain_ros.action import RunTask
from robobrain_ros.msg import Outcome, QueryOptions


def send_goal(it: Rig, task: str, instruction: str, on_feedback: Callable[[Any], None] | None = None, **options: Any) -> Any:
    """Send a goal and await its acceptance; gives the handle."""
    client = it.clients.setdefault("run_task", None) or ActionClient(it.client, RunTask, f"{it.name}/run_task")
    it.clients["run_task"] = client
    it.until(client.server_is_ready, "the action")
    goal = RunTask.Goal(task=task, instruction=instruction, options=QueryOptions(**options))
    handle = it.answer(client.send_goal_async(goal, feedback_callback=on_feedback))
    assert handle.accepted
    return handle


def test_points_are_fed_back_as_soon_as_they_are_complete() -> None:
    gate = asyncio.Event()
    with scripted(Script(["[(10, 12),", gate, " (30, 40)]"])) as (it, _):
        feedback: list[Any] = []
        handle = send_goal(it, "point", "two mugs", lambda message: feedback.append(message.feedback))
        it.until(lambda: sum(len(part.points) for part in feedback) == 1, "the first point")
        it.on_loop(gate.set)
        outcome = it.answer(handle.get_result_async())
        it.until(lambda: sum(len(part.points) for part in feedback) == 2, "the second point")
    assert outcome.status == GoalStatus.STATUS_SUCCEEDED
    result = outcome.result
    assert result.outcome.code == Outcome.OK
    fed_back = [(point.u, point.v) for part in feedback for point in part.points]
    assert fed_back == [(point.u, point.v) for point in result.affordances.points]
    assert "".join(part.text for part in feedback) == "[(10, 12), (30, 40)]"
    assert result.affordances.header.frame_id == "camera_optical"


@pytest.mark.parametrize(
    ("task", "script", "filled"),
    [
        ("affordance", "[10, 12, 30, 40]", lambda result: result.affordances.areas),
        ("ground", "[10, 12, 30, 40]", lambda result: result.affordances.areas),
        ("trajectory", "[(1, 2), (30, 40)]", lambda result: result.trajectory.waypoints),
        ("plan", "1. Reach\n2. Grasp", lambda result: result.plan.steps),
        ("ask", "Two mugs.", lambda result: result.answer.text),
    ],
)
def test_every_task_runs_as_a_goal(task: str, script: str, filled: Callable[[Any], Any]) -> None:
    with scripted(script) as (it, _):
        outcome = it.answer(send_goal(it, task, "the mug").get_result_async())
    assert outcome.status == GoalStatus.STATUS_SUCCEEDED
    assert filled(outcome.result)


def test_cancel_ends_the_work_in_the_engine() -> None:
    with scripted(Script(["[(10, 12),", asyncio.Event()])) as (it, engine):
        handle = send_goal(it, "point", "two mugs")
        it.until(lambda: engine.running, "the request in the engine")
        cancelled = it.answer(handle.cancel_goal_async())
        outcome = it.answer(handle.get_result_async())
        assert not engine.running
        assert engine.aborted == [engine.generations[0].request_id]
        assert it.node.model.health().running == 0
    assert len(cancelled.goals_canceling) == 1
    assert outcome.status == GoalStatus.STATUS_CANCELED
    assert outcome.result.outcome.code == Outcome.CANCELED
    assert outcome.result.affordances.report.raw_text == "[(10, 12),"
    assert not outcome.result.affordances.points


def test_one_of_two_goals_can_be_cancelled() -> None:
    gate = asyncio.Event()
    with scripted(Script([gate, "[(10, 12)]"])) as (it, engine):
        first, second = send_goal(it, "point", "first"), send_goal(it, "point", "second")
        it.until(lambda: len(engine.running) == 2, "both in the engine")
        it.answer(first.cancel_goal_async())
        assert it.answer(first.get_result_async()).status == GoalStatus.STATUS_CANCELED
        it.on_loop(gate.set)
        assert it.answer(second.get_result_async()).status == GoalStatus.STATUS_SUCCEEDED


@pytest.mark.parametrize(("task", "instruction"), [("dance", "the mug"), ("", "the mug"), ("point", "")])
def test_a_goal_that_makes_no_sense_is_aborted_with_the_reason(task: str, instruction: str) -> None:
    with scripted("[(10, 12)]") as (it, engine):
        outcome = it.answer(send_goal(it, task, instruction).get_result_async())
        assert not engine.generations
    assert outcome.status == GoalStatus.STATUS_ABORTED
    assert outcome.result.outcome.code == Outcome.BAD_REQUEST
    assert outcome.result.outcome.message
