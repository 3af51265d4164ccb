"""The action ~/run_task: streamed feedback, cancel, and a result for every goal."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rclpy
from action_msgs.msg import GoalStatus
from action_msgs.srv import CancelGoal
from fakes import Script
from geometry_msgs.msg import Point as PointMessage
from lifecycle_msgs.msg import Transition
from rclpy.action import ActionClient
from ros_rig import Rig, image_message, scripted

from robobrain_ros.action import RunTask
from robobrain_ros.msg import Outcome, PlanContext, QueryOptions
from robobrain_ros.ros.process.transport_profile import profile_variable


def send_goal(
    it: Rig,
    task: str,
    instruction: str,
    on_feedback: Callable[[Any], None] | None = None,
    context: PlanContext | None = None,
    **options: Any,
) -> Any:
    """Send a goal, wait until it is accepted, and return the handle."""
    client = it.clients.setdefault("run_task", None) or ActionClient(it.client, RunTask, f"{it.name}/run_task")
    it.clients["run_task"] = client
    it.until(client.server_is_ready, "the action")
    goal = RunTask.Goal(task=task, instruction=instruction, options=QueryOptions(**options), context=context or PlanContext())
    handle = it.answer(client.send_goal_async(goal, feedback_callback=on_feedback))
    assert handle.accepted
    return handle


def test_points_are_fed_back_as_soon_as_they_are_complete() -> None:
    gate = asyncio.Event()
    with scripted(Script(["[(10, 12),", gate, " (30, 40)]"])) as (it, _):
        feedback: list[Any] = []
        handle = send_goal(it, "point", "two mugs", lambda message: feedback.append(message.feedback))
        it.until(lambda: feedback and len(feedback[-1].points) == 1, "the first point")
        it.on_loop(gate.set)
        outcome = it.answer(handle.get_result_async())
        it.until(lambda: len(feedback[-1].points) == 2, "the second point")
    assert outcome.status == GoalStatus.STATUS_SUCCEEDED
    result = outcome.result
    assert result.outcome.code == Outcome.OK
    fed_back = [(point.u, point.v) for point in feedback[-1].points]
    assert fed_back == [(point.u, point.v) for point in result.affordances.points]
    assert feedback[-1].text == "[(10, 12), (30, 40)]"
    assert [part.sequence for part in feedback] == list(range(1, len(feedback) + 1))
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


RESULTS = {
    "a list": ("plan", "1. Reach\n2. Grasp\n3. Lift", lambda result: result.plan.steps),
    "one sentence": ("plan", "Reach for the mug.", lambda result: result.plan.steps),
    "JSON": ("plan", '[{"subtask": "Lift", "order": 2}, {"subtask": "Grasp", "order": 1}]', lambda result: result.plan.steps),
    "numbers without brackets": ("point", "10, 12", lambda result: result.affordances.points),
    "thinking without a tag": ("point", "Not (1, 2).</think>[(10, 12)]", lambda result: result.affordances.points),
    "two corners": ("ground", "[10, 12], [30, 40]", lambda result: result.affordances.areas),
}


@pytest.mark.parametrize("name", RESULTS)
def test_the_last_feedback_has_all_parts_of_the_result(name: str) -> None:
    """The end of the text completes the last step, and may show that the earlier text was thinking."""
    task, text, parts = RESULTS[name]
    with scripted(text) as (it, _):
        feedback: list[Any] = []
        handle = send_goal(it, task, "the mug", lambda message: feedback.append(message.feedback))
        outcome = it.answer(handle.get_result_async())
        wanted = list(map(without_position, parts(outcome.result)))
        assert wanted

        def given() -> list[str]:
            last = feedback[-1]
            return list(map(without_position, [*last.points, *last.areas, *last.waypoints, *last.steps]))

        it.until(lambda: feedback and given() == wanted, "the last feedback")
    assert not feedback[-1].thinking


def without_position(part: Any) -> str:
    """Return a part of an answer as text. In feedback, positions are NaN."""
    if hasattr(part, "position"):
        part.position = PointMessage()
    return str(part)


PARTS = {
    "affordance": ("[10, 12, 30, 40]", "areas"),
    "ground": ("[10, 12, 30, 40]", "areas"),
    "trajectory": ("[(1, 2),", "waypoints"),
    "plan": ("1. Reach\n2. Grasp\n3. Li", "steps"),
}


@pytest.mark.parametrize("task", PARTS)
def test_each_part_is_fed_back_before_the_answer_ends_and_the_report_says_when(task: str) -> None:
    text, parts = PARTS[task]
    gate = asyncio.Event()
    rest = " (30, 40)]" if task == "trajectory" else "ft" if task == "plan" else ""
    with scripted(Script([text, gate, rest])) as (it, engine):
        feedback: list[Any] = []
        handle = send_goal(it, task, "the mug", lambda message: feedback.append(message.feedback))
        it.until(lambda: any(getattr(part, parts) for part in feedback), "the first part")
        assert engine.running
        it.on_loop(gate.set)
        outcome = it.answer(handle.get_result_async())
    assert outcome.status == GoalStatus.STATUS_SUCCEEDED
    result = outcome.result
    report = (result.plan if task == "plan" else result.trajectory if task == "trajectory" else result.affordances).report
    assert 0 < report.first_token_time <= report.first_part_time < report.total_time


def test_a_goal_past_its_deadline_is_aborted_as_timeout() -> None:
    with scripted(Script(["1. Reach\n2. Gr", asyncio.Event()])) as (it, engine):
        outcome = it.answer(send_goal(it, "plan", "clear the table", timeout=0.5).get_result_async())
        assert not engine.running
        assert engine.aborted == [engine.generations[0].request_id]
    assert (outcome.status, outcome.result.outcome.code) == (GoalStatus.STATUS_ABORTED, Outcome.TIMEOUT)
    assert outcome.result.plan.report.raw_text == "1. Reach\n2. Gr"
    assert not outcome.result.plan.steps


def test_a_new_goal_leaves_the_old_one_alone_and_cancelling_all_ends_both() -> None:
    """Goals run concurrently. A goal is never pre-empted; only its sender can cancel it."""
    with scripted(Script(["1. Reach", asyncio.Event()])) as (it, engine):
        handles = [send_goal(it, "plan", "clear the table"), send_goal(it, "point", "the mug")]
        it.until(lambda: len(engine.running) == 2, "both in the engine")
        cancelled = it.call(CancelGoal, "run_task/_action/cancel_goal", CancelGoal.Request())
        outcomes = [it.answer(handle.get_result_async()) for handle in handles]
        assert not engine.running
        assert len(engine.aborted) == 2
    assert len(cancelled.goals_canceling) == 2
    assert [outcome.status for outcome in outcomes] == [GoalStatus.STATUS_CANCELED] * 2
    assert [outcome.result.outcome.code for outcome in outcomes] == [Outcome.CANCELED] * 2


@pytest.mark.parametrize(
    "transitions",
    [
        [Transition.TRANSITION_DEACTIVATE],
        [Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP],
        [Transition.TRANSITION_ACTIVE_SHUTDOWN],
    ],
)
def test_a_goal_in_the_middle_of_a_deactivation_or_shutdown_is_aborted_as_canceled(transitions: list[int]) -> None:
    with scripted(Script(["1. Reach", asyncio.Event()])) as (it, engine):
        handle = send_goal(it, "plan", "clear the table")
        result = handle.get_result_async()
        it.until(lambda: engine.running, "the request in the engine")
        for transition in transitions:
            assert it.transition(transition)
        outcome = it.answer(result)
        # As texts, because a NaN in a message does not equal itself.
        assert str(it.answer(handle.get_result_async())) == str(outcome), "a later request gets the same result"
        assert not engine.running
    assert (outcome.status, outcome.result.outcome.code) == (GoalStatus.STATUS_ABORTED, Outcome.CANCELED)
    assert "deactivated" in outcome.result.outcome.message


def test_the_goal_of_a_client_that_leaves_is_aborted_and_another_clients_is_not() -> None:
    gate = asyncio.Event()
    with scripted(Script([gate, "1. Reach\n2. Grasp"])) as (it, engine):
        leaving = rclpy.create_node("leaving", namespace=it.client.get_namespace(), context=it.context)
        it.executor.add_node(leaving)
        client = ActionClient(leaving, RunTask, f"{it.name}/run_task")
        it.until(client.server_is_ready, "the action")
        assert it.answer(client.send_goal_async(RunTask.Goal(task="plan", instruction="its own"))).accepted
        it.until(lambda: engine.running, "its goal in the engine")
        it.executor.remove_node(leaving)
        client.destroy()
        leaving.destroy_node()
        it.until(lambda: engine.aborted, "the end of its goal")
        stays = send_goal(it, "plan", "another's")
        it.until(lambda: engine.running, "the other goal in the engine")
        it.on_loop(gate.set)
        assert it.answer(stays.get_result_async()).status == GoalStatus.STATUS_SUCCEEDED
    assert engine.aborted == [engine.generations[0].request_id]


CLIENT = """
import os, sys
import rclpy
from rclpy.action import ActionClient
from robobrain_ros.action import RunTask

rclpy.init()
node = rclpy.create_node("dying")
client = ActionClient(node, RunTask, sys.argv[1])
assert client.wait_for_server(30)
future = client.send_goal_async(RunTask.Goal(task="plan", instruction="clear the table"))
rclpy.spin_until_future_complete(node, future)
sys.stdout.write("sent\\n" if future.result().accepted else "refused\\n")
sys.stdout.flush()
sys.stdin.read()
"""
SHORT_LEASE = """<?xml version="1.0"?>
<dds xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"><profiles>
<participant profile_name="short_lease" is_default_profile="true"><rtps><builtin><discovery_config>
<leaseDuration><sec>2</sec></leaseDuration><leaseAnnouncement><sec>0</sec><nanosec>500000000</nanosec></leaseAnnouncement>
</discovery_config></builtin></rtps></participant></profiles></dds>
"""
"""What DDS holds to be dead: by default who has not been heard of for 20 s, here for 2 s."""


def test_the_goal_of_a_client_that_is_killed_is_aborted(tmp_path: Path) -> None:
    """The client sends no message when it is killed, so only DDS detects it."""
    profile = tmp_path / "short_lease.xml"
    profile.write_text(SHORT_LEASE)
    with scripted(Script(["1. Reach", asyncio.Event()]), max_image_age=0.0) as (it, engine):
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, f"{it.name}/run_task"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
            env=os.environ | {profile_variable(): str(profile)},
        )  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "sent\n"
            it.until(lambda: engine.running, "its goal in the engine")
        finally:
            process.kill()
            process.wait()
        it.until(lambda: not engine.running, "the end of its goal")
        assert engine.aborted == [engine.generations[0].request_id]
        it.until(lambda: it.node.model.health().running == 0, "an empty engine")


def test_an_ended_goal_keeps_neither_its_images_nor_its_context() -> None:
    """rclpy keeps each goal until its result expires, by default 15 minutes, and its images may have many MB."""
    with scripted(Script(["[(10, 12)]"])) as (it, _):
        handle = send_goal(it, "point", "the mug", images=[image_message()])
        assert it.answer(handle.get_result_async()).status == GoalStatus.STATUS_SUCCEEDED
        kept = [goal.request for action in it.node._endpoints._actions for goal in action.server._goal_handles.values()]
    assert len(kept) == 1
    assert kept[0].options == QueryOptions()
    assert kept[0].context == PlanContext()


def test_a_context_is_for_plans_alone() -> None:
    with scripted("[(10, 12)]") as (it, engine):
        outcome = it.answer(send_goal(it, "point", "the mug", context=PlanContext(max_steps=3)).get_result_async())
        assert not engine.generations
    assert (outcome.status, outcome.result.outcome.code) == (GoalStatus.STATUS_ABORTED, Outcome.BAD_REQUEST)
    assert "context is set, but the task point does not use it" in outcome.result.outcome.message
