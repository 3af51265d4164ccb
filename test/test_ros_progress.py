"""The service ~/estimate_progress, the action ~/watch_task and the topic ~/progress."""

import asyncio
import math
import re
from array import array
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from action_msgs.msg import GoalStatus
from fakes import ScriptedEngine
from lifecycle_msgs.msg import Transition
from rclpy.action import ActionClient
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_rig import Rig, image_message, now, rig, scripted
from sensor_msgs.msg import Image

from robobrain_ros.action import WatchTask
from robobrain_ros.engine.base import Generation, TextDelta
from robobrain_ros.msg import Outcome, Progress, QueryOptions
from robobrain_ros.ros.limits import MOST_WATCHES
from robobrain_ros.srv import EstimateProgress

BEFORE, AFTER = 2, 5
"""Positions of the front views in a comparison."""
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def shade(progress: float, **stamp: Any) -> Image:
    """Return an image whose brightness is the progress of a task, from 0 (black) to 1 (white)."""
    message = image_message(**stamp)
    message.data = array("B", bytes([round(progress * 250)]) * len(message.data))
    return message


class Grader(ScriptedEngine):
    """An engine that reads the progress from the brightness of the images, and writes the true score."""

    def __init__(self) -> None:
        super().__init__([""])
        self.held: asyncio.Event | None = None
        """Comparisons wait for this event."""

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        self.generations.append(generation)
        if self.held is not None:
            await self.held.wait()
        before, after = (float(generation.images[place].mean()) / 250 for place in (BEFORE, AFTER))
        score = round(100 * ((after - before) / (1 - before) if after > before else (after - before) / max(before, 1e-9)))
        text = f"<score>{f'{score:+d}' if score else '0'}%</score>"
        yield TextDelta(text, 5, prompt_tokens=900, finish_reason="stop")


@contextmanager
def graded(**parameters: Any) -> Iterator[tuple[Rig, Grader]]:
    """Run a ready node whose engine grades images by their brightness. The first image shows the start of a task."""
    engine = Grader()
    with rig(engine, **parameters) as it:
        it.until_ready()
        it.show(shade(0.0))
        yield it, engine


def send_goal(it: Rig, on_feedback: Callable[[Any], None] | None = None, **fields: Any) -> Any:
    """Send a goal of ~/watch_task, wait until it is accepted, and return the handle."""
    client = it.clients.setdefault("watch_task", None) or ActionClient(it.client, WatchTask, f"{it.name}/watch_task")
    it.clients["watch_task"] = client
    it.until(client.server_is_ready, "the action")
    defaults: dict[str, Any] = {"task": "fill the box", "rate": 100.0}
    goal = WatchTask.Goal(**defaults | fields)
    handle = it.answer(client.send_goal_async(goal, feedback_callback=on_feedback))
    assert handle.accepted
    return handle


class Watched:
    """A goal of ~/watch_task whose feedback is collected."""

    def __init__(self, it: Rig, **fields: Any) -> None:
        self._it = it
        self.feedback: list[Progress] = []
        self.handle = send_goal(it, lambda message: self.feedback.append(message.feedback.progress), **fields)

    def after(self, progress: float) -> Progress:
        """Show an image with this progress, and return the next estimate."""
        count = len(self.feedback)
        self._it.show(shade(progress))
        self._it.until(lambda: len(self.feedback) > count, "an estimate")
        return self.feedback[-1]

    def end(self) -> Any:
        """Return the result and the status of the goal."""
        outcome = self._it.answer(self.handle.get_result_async())
        return outcome.result, outcome.status


def held_watch(it: Rig, engine: Grader) -> Watched:
    """Send a goal, and wait until its first comparison is in the engine, which does not answer."""
    engine.held = asyncio.Event()
    watched = Watched(it)
    it.show(shade(0.3))
    it.until(lambda: engine.generations, "a comparison")
    return watched


def request(**changes: Any) -> EstimateProgress.Request:
    """Return a complete request to compare a moment at 40 % with one at 70 %."""
    fields = {
        "task": "fill the box", "reference_start": shade(0.0), "reference_end": shade(1.0), "before": [shade(0.4)],
        "after": [shade(0.7)],
    }  # fmt: skip
    return EstimateProgress.Request(**fields | changes)


def estimate(it: Rig, **changes: Any) -> EstimateProgress.Response:
    return it.call(EstimateProgress, "estimate_progress", request(**changes))


def test_a_comparison_of_given_images_is_answered_and_published() -> None:
    with graded() as (it, engine):
        published = it.listen(Progress, f"{it.name}/progress", LATCHED)
        response = estimate(it)
        assert response.outcome.code == Outcome.OK, response.outcome.message
        progress = response.progress
        assert progress.change == pytest.approx(0.5)
        assert progress.task == "fill the box"
        assert (progress.camera, progress.header.frame_id) == ("", "camera_optical")
        assert all(
            math.isnan(value) for value in (progress.progress, progress.uncertainty, progress.forward, progress.incremental)
        )
        assert progress.report.prompt_tokens == 900
        it.until(lambda: published, "the topic")
        assert published[0].change == progress.change
    (generation,) = engine.generations
    assert [round(float(image.mean()) / 250, 1) for image in generation.images] == [0.0, 1.0, 0.4, 0.4, 0.4, 0.7, 0.7, 0.7]


def test_the_later_moment_can_be_the_camera_s_newest_image() -> None:
    with graded() as (it, _):
        it.show(shade(0.2))
        response = estimate(it, after=[])
        assert response.outcome.code == Outcome.OK, response.outcome.message
        assert response.progress.change == pytest.approx(-0.5)
        assert response.progress.camera == "camera"


@pytest.mark.parametrize(
    ("changes", "code", "reason"),
    [
        ({"task": " "}, Outcome.BAD_REQUEST, "empty"),
        ({"reference_start": Image()}, Outcome.BAD_REQUEST, "reference_start is empty"),
        ({"reference_end": Image()}, Outcome.BAD_REQUEST, "reference_end is empty"),
        ({"before": []}, Outcome.BAD_REQUEST, "same number of views"),
        ({"before": [shade(0.1)] * 2}, Outcome.BAD_REQUEST, "same number of views"),
        ({"before": [shade(0.1)] * 4, "after": [shade(0.1)] * 4}, Outcome.BAD_REQUEST, "same number of views"),
        ({"options": QueryOptions(images=[shade(0.1)])}, Outcome.BAD_REQUEST, "options.images"),
        ({"options": QueryOptions(think=QueryOptions.THINK_ON)}, Outcome.BAD_REQUEST, "think"),
        ({"options": QueryOptions(timeout=math.nan)}, Outcome.BAD_REQUEST, "timeout"),
        ({"after": [], "options": QueryOptions(camera="side")}, Outcome.BAD_REQUEST, "no camera"),
        ({"before": [Image(width=2, height=2, encoding="rgb8", step=6, data=[1])]}, Outcome.BAD_IMAGE, r"before\[0\]"),
        ({"reference_end": Image(encoding="odd", data=[1])}, Outcome.BAD_IMAGE, "reference_end"),
    ],
)
def test_an_incomplete_comparison_is_rejected_with_the_reason(changes: dict[str, Any], code: int, reason: str) -> None:
    with graded() as (it, engine):
        response = estimate(it, **changes)
        assert response.outcome.code == code, response.outcome.message
        assert re.search(reason, response.outcome.message), response.outcome.message
        assert math.isnan(response.progress.change)
        assert not engine.generations


def test_images_of_different_sizes_are_compared() -> None:
    with graded() as (it, _):
        small = shade(0.5, width=40, height=30)
        assert estimate(it, before=[small], after=[shade(0.75)]).progress.change == pytest.approx(0.5)


def test_an_unreadable_score_is_unparsable_and_not_zero() -> None:
    with scripted("the arm moved") as (it, _):
        response = estimate(it)
    assert response.outcome.code == Outcome.UNPARSABLE_ANSWER
    assert math.isnan(response.progress.change)
    assert response.progress.report.raw_text == "the arm moved"


def test_a_watched_task_succeeds() -> None:
    with graded() as (it, engine):
        published = it.listen(Progress, f"{it.name}/progress", LATCHED)
        watched = Watched(it, reference_end=shade(1.0))
        first = watched.after(0.4)
        assert (first.progress, first.change, first.uncertainty) == pytest.approx((0.4, 0.4, 0.0), abs=0.011)
        assert (first.incremental, first.forward, first.backward) == pytest.approx((0.4, 0.4, 0.4), abs=0.011)
        assert len(engine.generations) == 2, "the incremental comparison equals the forward one"
        second = watched.after(0.7)
        assert (second.progress, second.change) == pytest.approx((0.7, 0.3), abs=0.011)
        assert len(engine.generations) == 5
        watched.after(1.0)
        watched.after(0.99)
        result, status = watched.end()
        assert (result.state, status) == (WatchTask.Result.SUCCEEDED, GoalStatus.STATUS_SUCCEEDED)
        assert result.outcome.code == Outcome.OK
        assert (result.peak, result.final) == pytest.approx((1.0, 0.99), abs=0.011)
        assert (result.estimates, result.failed) == (4, 0)
        assert result.progress.progress == result.final
        it.until(lambda: len(published) == 4, "the topic")
    assert {generation.priority for generation in engine.generations} == {1}, "requests of clients come first"


def test_a_task_whose_work_is_undone_has_regressed() -> None:
    with graded() as (it, _):
        watched = Watched(it, reference_end=shade(1.0))
        for progress in (0.6, 0.6, 0.3):  # The second 0.6 confirms the first one.
            watched.after(progress)
        result, status = watched.end()
    assert (result.state, status) == (WatchTask.Result.REGRESSED, GoalStatus.STATUS_ABORTED)
    assert result.outcome.code == Outcome.OK
    assert (result.peak, result.final) == pytest.approx((0.6, 0.3), abs=0.02)


def test_a_goal_states_how_many_estimates_must_agree() -> None:
    with graded() as (it, _):
        once_more = Watched(it, reference_end=shade(1.0), regression_confirmations=3)
        for progress in (0.6, 0.6, 0.3, 0.3, 0.3):
            once_more.after(progress)
        assert once_more.end()[0].state == WatchTask.Result.REGRESSED
        at_once = Watched(it, reference_end=shade(1.0), confirmations=1)
        at_once.after(0.98)
        assert at_once.end()[0].state == WatchTask.Result.SUCCEEDED


def test_without_a_reference_of_the_end_there_is_no_backward_comparison() -> None:
    with graded() as (it, engine):
        watched = Watched(it)
        progress = watched.after(0.5)
        assert math.isnan(progress.backward)
        assert progress.forward == progress.progress == pytest.approx(0.5, abs=0.011)
        watched.handle.cancel_goal_async()
        watched.end()
    assert len(engine.generations) == 1


def test_a_task_without_advance_stalls_even_without_images() -> None:
    with graded(max_image_age=0.0) as (it, _):
        watched = Watched(it, stall=0.3, timeout=30.0)
        result, status = watched.end()
    assert (result.state, status) == (WatchTask.Result.STALLED, GoalStatus.STATUS_ABORTED)
    assert result.estimates == 0
    assert math.isnan(result.peak)


def test_a_watch_ends_at_its_timeout_while_the_engine_works() -> None:
    with graded() as (it, engine):
        engine.held = asyncio.Event()
        watched = Watched(it, timeout=0.5)
        it.show(shade(0.3))
        result, status = watched.end()
    assert (result.state, status) == (WatchTask.Result.TIMED_OUT, GoalStatus.STATUS_ABORTED)
    assert result.outcome.code == Outcome.OK


def test_a_canceled_watch_ends_its_comparisons() -> None:
    with graded() as (it, engine):
        watched = held_watch(it, engine)
        it.answer(watched.handle.cancel_goal_async())
        result, status = watched.end()
        assert (result.outcome.code, status) == (Outcome.CANCELED, GoalStatus.STATUS_CANCELED)
        assert result.state == 0
        it.until(lambda: it.node._requests.open_count == 0, "the end of the comparison")


def test_a_watch_ends_when_the_camera_is_lost() -> None:
    with graded(max_image_age=0.5) as (it, _):
        watched = Watched(it)
        result, status = watched.end()
    assert (result.outcome.code, status) == (Outcome.STALE_IMAGE, GoalStatus.STATUS_ABORTED)


def test_a_watch_ends_with_the_node_s_deactivation() -> None:
    with graded() as (it, engine):
        watched = held_watch(it, engine)
        assert it.transition(Transition.TRANSITION_DEACTIVATE)
        result, _ = watched.end()
    assert result.outcome.code == Outcome.CANCELED
    assert "deactivated" in result.outcome.message


def test_a_watch_ends_when_the_time_of_its_camera_jumps() -> None:
    with graded() as (it, _):
        watched = Watched(it)
        watched.after(0.3)
        old = now()
        old.sec -= 3600
        it.show(shade(0.4, stamp=old))
        result, _ = watched.end()
    assert result.outcome.code == Outcome.STALE_IMAGE
    assert "jumped" in result.outcome.message
    assert result.estimates == 1


def test_estimates_that_the_engine_cannot_keep_up_with_are_skipped() -> None:
    with graded() as (it, engine):
        engine.held = asyncio.Event()
        watched = Watched(it)
        it.show(shade(0.2))
        it.until(lambda: engine.generations, "a comparison")
        it.show(shade(0.3))
        it.show(shade(0.4))
        assert len(engine.generations) == 1, "a watch does not queue behind itself"
        it.on_loop(engine.held.set)
        it.until(lambda: len(watched.feedback) == 2, "the estimates of the first and the last of these images")
        assert watched.feedback[-1].progress == pytest.approx(0.4, abs=0.02)
        watched.after(1.0)
        watched.after(1.0)
        result, _ = watched.end()
    assert result.state == WatchTask.Result.SUCCEEDED
    assert result.skipped > 0


def test_unreadable_scores_end_a_watch_after_some_attempts() -> None:
    with scripted("hm") as (it, engine):
        watched = Watched(it)
        shown = 0

        def ended() -> bool:
            nonlocal shown
            if len(engine.generations) > shown:
                shown = len(engine.generations)
                it.show(image_message())
            return bool(future.done())

        future = watched.handle.get_result_async()
        it.show(image_message())
        it.until(ended, "the result")
        result = future.result().result
    assert result.outcome.code == Outcome.UNPARSABLE_ANSWER
    assert (result.estimates, result.failed) == (0, 5)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"task": ""}, "task is empty"),
        ({"rate": math.nan}, "rate is"),
        ({"rate": -1.0}, "rate is"),
        ({"rate": 1e9}, "rate is"),
        ({"success": 1.5}, "success is"),
        ({"success": math.nan}, "success is"),
        ({"regression": 0.96}, "regression is"),
        ({"regression": -0.1}, "regression is"),
        ({"success": 0.1}, "regression is"),
        ({"success": 1e-11, "regression": 1e-12}, "success is"),
        ({"regression": 1e-11}, "regression is"),
        ({"stall": 1e-11}, "stall is"),
        ({"stall": math.nan}, "stall is"),
        ({"stall": 9.0, "timeout": 9.0}, "stall is"),
        ({"timeout": math.inf}, "timeout is"),
        ({"timeout": -1.0}, "timeout is"),
        ({"options": QueryOptions(images=[shade(0.1)])}, "options.images"),
        ({"options": QueryOptions(cameras=["a", "b", "c", "d"])}, "at most 3|At most 3"),
        ({"options": QueryOptions(camera="side")}, "no camera"),
        ({"options": QueryOptions(history_seconds=2.0, history_frames=4)}, "images of different times"),
    ],
)
def test_a_goal_with_contradictory_fields_is_rejected_with_the_reason(fields: dict[str, Any], reason: str) -> None:
    with graded() as (it, engine):
        outcome = it.answer(send_goal(it, **fields).get_result_async())
        assert outcome.result.outcome.code == Outcome.BAD_REQUEST, outcome.result.outcome.message
        assert re.search(reason, outcome.result.outcome.message), outcome.result.outcome.message
        assert outcome.status == GoalStatus.STATUS_ABORTED
        assert not engine.generations


def test_the_number_of_watches_is_bounded() -> None:
    with graded() as (it, _):
        goals = [send_goal(it) for _ in range(MOST_WATCHES)]
        outcome = it.answer(send_goal(it).get_result_async())
        assert outcome.result.outcome.code == Outcome.BUSY
        for goal in goals:
            it.answer(goal.cancel_goal_async())
        assert {it.answer(goal.get_result_async()).result.outcome.code for goal in goals} == {Outcome.CANCELED}
