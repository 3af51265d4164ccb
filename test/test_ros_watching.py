"""How a goal of ~/watch_task waits, and how the results of goals report values that are unknown."""

import math
from typing import Any

import pytest
import rclpy
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from nan_fields import documented_as_nan, is_unknown
from rclpy.action import ActionClient
from ros_rig import Rig, now, scripted
from test_ros_faults import fail, run_goal
from test_ros_progress import Watched, graded, shade

from robobrain_ros.action import WatchTask
from robobrain_ros.msg import Outcome
from robobrain_ros.ros.delivery.pacing import Pacing
from robobrain_ros.ros.requests.selection import ImageSelection
from robobrain_ros.ros.watching import Watching


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """Return a list that gets an entry for each call of a method."""
    calls: list[Any] = []
    method = getattr(owner, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return method(*arguments, **options)

    monkeypatch.setattr(owner, name, counted)
    return calls


@pytest.mark.parametrize("rate", [0.01, 100.0])
def test_a_watch_without_a_due_estimate_or_a_new_image_does_not_poll(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 0.01 Hz, the watch waits for its next estimate. At 100 Hz, it waits for an image."""
    ticks = count_calls(monkeypatch, Pacing, "_tick")
    looks = count_calls(monkeypatch, ImageSelection, "views")
    with graded(max_image_age=0.0) as (it, engine):
        reports = it.listen(DiagnosticArray, "/diagnostics")
        watched = Watched(it, rate=rate)
        if rate < 1.0:
            it.show(shade(0.2))
        reports.clear()
        it.until(lambda: len(reports) >= 3, "reports of three seconds")
        assert len(ticks) <= 5
        assert len(looks) <= 10
        assert not engine.generations
        if rate > 1.0:
            watched.after(0.3)


@pytest.mark.parametrize("rate", [0.01, 100.0])
@pytest.mark.parametrize(
    ("end", "code", "reason"),
    [
        ("cancel", Outcome.CANCELED, "canceled"),
        ("deactivate", Outcome.CANCELED, "deactivated"),
        ("jump", Outcome.STALE_IMAGE, "jumped"),
    ],
)
def test_a_watch_that_waits_ends_at_once(end: str, code: int, reason: str, rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watching, "on_timer", lambda watching: None)  # The event alone ends the watch.
    with graded(max_image_age=0.0) as (it, _):
        watched = Watched(it, rate=rate)
        if end == "cancel":
            it.answer(watched.handle.cancel_goal_async())
        elif end == "deactivate":
            assert it.transition(Transition.TRANSITION_DEACTIVATE)
        else:
            old = now()
            old.sec -= 3600
            it.show(shade(0.4, stamp=old))
        result, _ = watched.end()
    assert result.outcome.code == code, result.outcome.message
    assert reason in result.outcome.message


def test_a_watch_that_waits_ends_when_its_client_has_left() -> None:
    with graded(max_image_age=0.0) as (it, _):
        leaver = rclpy.create_node("leaver", namespace="/leaver", context=it.context)
        it.executor.add_node(leaver)
        client = ActionClient(leaver, WatchTask, f"{it.name}/watch_task")
        it.until(client.server_is_ready, "the action")
        assert it.answer(client.send_goal_async(WatchTask.Goal(task="fill the box", rate=0.01))).accepted
        assert it.node._endpoints.busy == 1
        client.destroy()
        leaver.destroy_node()
        it.until(lambda: it.node._endpoints.busy == 0, "the end of the goal")


def test_a_watch_that_waits_stalls_without_an_event() -> None:
    with graded(max_image_age=0.0) as (it, _):
        result, _ = Watched(it, rate=0.01, stall=0.5).end()
    assert (result.state, result.estimates) == (WatchTask.Result.STALLED, 0)
    assert math.isnan(result.progress.progress)
    assert math.isnan(result.progress.report.image_age)


def watch_goal(it: Rig) -> Any:
    """Send a goal of ~/watch_task without a task, and return its result."""
    client = it.clients.setdefault("watch_task", None) or ActionClient(it.client, WatchTask, f"{it.name}/watch_task")
    it.clients["watch_task"] = client
    it.until(client.server_is_ready, "the action")
    return it.answer(it.answer(client.send_goal_async(WatchTask.Goal())).get_result_async())


@pytest.mark.parametrize("fault", [fail, lambda error: Outcome(code=Outcome.OK, message="\ud800")], ids=["raises", "unsendable"])
def test_a_failed_result_has_nan_where_a_value_is_unknown(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted("[(10, 10)]") as (it, _):
        with monkeypatch.context() as broken:
            for module in ("endpoints", "watching"):
                broken.setattr(f"robobrain_ros.ros.{module}.to_outcome", lambda error, note="": fault(error))
            ends = [run_goal(it, task="point", instruction="mug"), watch_goal(it)]
        assert it.node.faults.count == len(ends)
        assert watch_goal(it).result.outcome.code == Outcome.BAD_REQUEST
    for end in ends:
        assert (end.status, end.result.outcome.code) == (GoalStatus.STATUS_ABORTED, Outcome.ENGINE_FAILED)
        values = documented_as_nan(end.result)
        assert values
        assert all(is_unknown(value) for value in values.values()), values
