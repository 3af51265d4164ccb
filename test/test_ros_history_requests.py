"""Requests about recent images of a camera: ask, plan, the action, standing queries, bad requests, and clearing."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from fakes import ScriptedEngine
from history_rig import SECOND, jpeg, stamp, times
from lifecycle_msgs.msg import Transition
from rclpy.action import ActionClient
from ros_rig import Rig, image_message, rig
from sensor_msgs.msg import Image

from robobrain_ros.action import RunTask
from robobrain_ros.engine.base import EngineInfo
from robobrain_ros.msg import Outcome, QueryOptions, TextAnswer
from robobrain_ros.ros.cameras.history import MOST_BYTES_PER_FRAME, FrameHistory
from robobrain_ros.ros.clock import Jump
from robobrain_ros.srv import Ask, Locate, SetStandingQuery

HISTORY: dict[str, Any] = {"camera__history_seconds": 4.0, "camera__history_frames": 5, "max_image_age": 0.0}


def buffer_of(it: Rig) -> FrameHistory:
    history = it.node.cameras["camera"].history
    assert history is not None
    return history


def show(it: Rig, time: float, **changes: Any) -> Time:
    """Publish an image with this stamp, and wait until it is the newest one and kept."""
    message = image_message(**changes, stamp=stamp(round(time * SECOND)))
    it.show(message)
    kept = buffer_of(it)
    it.until(lambda: kept._kept and kept._kept[-1].header.stamp == message.header.stamp, "the image in the buffer")
    return message.header.stamp


@contextmanager
def with_history(*scripts: str, times: Sequence[float] = (), **parameters: Any) -> Iterator[tuple[Rig, ScriptedEngine]]:
    """Run a ready node whose camera keeps 5 images of 4 s, and show it images with these stamps."""
    engine = ScriptedEngine(list(scripts) or ["The cup fell."])
    with rig(engine, **HISTORY | parameters) as it:
        it.until_ready()
        it.until(lambda: list(it.node.cameras), "open cameras")
        for time in times:
            show(it, time)
        yield it, engine


def ask(it: Rig, seconds: float = 4.0, frames: int = 5, **options: Any) -> Any:
    wanted = QueryOptions(history_seconds=seconds, history_frames=frames, **options)
    return it.call(Ask, "ask", Ask.Request(question="What happened?", options=wanted))


def seconds_of(stamps: Sequence[Time]) -> list[float]:
    return [each.sec + each.nanosec * 1e-9 for each in stamps]


def test_ask_gets_the_last_seconds() -> None:
    with with_history(times=[100.0, 101.0, 102.0, 103.0, 104.0]) as (it, engine):
        response = ask(it)
        assert (response.outcome.code, response.outcome.message) == (Outcome.OK, "")
        assert seconds_of(response.answer.report.stamps) == [100.0, 101.0, 102.0, 103.0, 104.0]
        assert seconds_of([response.answer.header.stamp]) == [104.0], "the newest image"
        assert response.answer.camera == "camera"
        (generation,) = engine.generations
        assert len(generation.images) == 5
        assert generation.user_text.startswith(
            "The images show one view over time. Seconds before the last image: 4, 3, 2, 1, 0."
        )
        assert len(set(generation.image_ids)) == 5
        # Fewer images, of a shorter time.
        assert seconds_of(ask(it, 2.0, 2).answer.report.stamps) == [102.0, 104.0]
        # Without history, the newest image.
        plain = it.call(Ask, "ask", Ask.Request(question="What is it?"))
        assert seconds_of(plain.answer.report.stamps) == [104.0]
        assert engine.generations[-1].user_text == "What is it?"


def test_plan_gets_the_last_seconds_through_the_action() -> None:
    with with_history("1. Lift the cup.", times=[100.0, 102.0, 104.0]) as (it, engine):
        client = ActionClient(it.client, RunTask, f"{it.name}/run_task")
        it.until(client.server_is_ready, "the action")
        options = QueryOptions(history_seconds=4.0, history_frames=3)
        handle = it.answer(client.send_goal_async(RunTask.Goal(task="plan", instruction="Lift it", options=options)))
        result = it.answer(handle.get_result_async()).result
        assert result.outcome.code == Outcome.OK
        assert [step.text for step in result.plan.steps] == ["Lift the cup."]
        assert seconds_of(result.plan.report.stamps) == [100.0, 102.0, 104.0]
        assert "Seconds before the last image: 4, 2, 0." in engine.generations[0].user_text


def test_a_buffer_that_is_not_full_gives_what_it_has_and_a_note() -> None:
    with with_history(times=[103.0, 104.0]) as (it, engine):
        response = ask(it)
        assert response.outcome.code == Outcome.OK
        assert response.outcome.message.startswith("Only 2 of 5 images are available from the last 4 s of camera camera")
        assert seconds_of(response.answer.report.stamps) == [103.0, 104.0]
        buffer_of(it).clear()
        alone = ask(it)
        assert alone.outcome.message.startswith("Only 1 of 5 image is available")
        assert engine.generations[-1].user_text == "What happened?", "a single image has no time"


def test_a_standing_query_repeats_on_the_last_seconds() -> None:
    described: dict[str, Any] = {"history_seconds": 2.0, "history_frames": 3, "rate": 0.0}
    described |= {"task": "ask", "instruction": "What happened?"}
    parameters: dict[str, Any] = {f"standing_query__watch__{name}": value for name, value in described.items()}
    with with_history(standing_queries=["watch"], **parameters) as (it, engine):
        answers = it.listen(TextAnswer, f"{it.name}/answer")
        for number in range(4):
            show(it, 100.0 + number)
            it.until(partial(lambda count: len(answers) > count, number), "an answer")
        assert [seconds_of(answer.report.stamps) for answer in answers] == [
            [100.0], [100.0, 101.0], [100.0, 101.0, 102.0], [101.0, 102.0, 103.0],
        ]  # fmt: skip
        del engine


def test_a_standing_query_needs_a_buffer() -> None:
    with rig(ScriptedEngine(["no"])) as it:
        it.until(lambda: list(it.node.cameras), "open cameras")
        options = QueryOptions(history_seconds=2.0, history_frames=3)
        request = SetStandingQuery.Request(name="watch", enabled=True, task="ask", instruction="What happened?", options=options)
        response = it.call(SetStandingQuery, "set_standing_query", request)
        assert response.outcome.code == Outcome.BAD_REQUEST
        assert "Camera camera keeps no recent images" in response.outcome.message
        assert response.names == []


def image_at(time: float) -> Image:
    return image_message(stamp=stamp(round(time * SECOND)))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "more images than the buffer": ({"history_seconds": 4.0, "history_frames": 6}, "camera camera keeps 5 images"),
    "a longer time than the buffer": ({"history_seconds": 4.1, "history_frames": 5}, "keeps the images of 4 s"),
    "nine images": ({"history_seconds": 4.0, "history_frames": 9}, "0, or 2 to 8"),
    "one image": ({"history_seconds": 4.0, "history_frames": 1}, "0, or 2 to 8"),
    "a huge number of images": ({"history_seconds": 4.0, "history_frames": 2**32 - 1}, "0, or 2 to 8"),
    "no number": ({"history_seconds": math.nan, "history_frames": 2}, "0, or 0.1 to 3600"),
    "infinite seconds": ({"history_seconds": math.inf, "history_frames": 2}, "0, or 0.1 to 3600"),
    "negative seconds": ({"history_seconds": -1.0, "history_frames": 2}, "0, or 0.1 to 3600"),
    "huge seconds": ({"history_seconds": 1e9, "history_frames": 2}, "0, or 0.1 to 3600"),
    "seconds without images": ({"history_seconds": 4.0}, "Set both, or none"),
    "images without seconds": ({"history_frames": 4}, "Set both, or none"),
    "no number without images": ({"history_seconds": math.nan}, "Set both, or none"),
    "history and images": ({"history_seconds": 4.0, "history_frames": 2, "images": [image_at(1.0)]}, "history and images"),
    "history and times of images": ({"history_seconds": 4.0, "history_frames": 2, "images_in_time": True}, "needs images"),
    "history of two cameras": ({"history_seconds": 4.0, "history_frames": 2, "cameras": ["camera", "other"]}, "of one camera"),
    "a camera without a buffer": ({"history_seconds": 4.0, "history_frames": 2, "camera": "other"}, "other keeps no recent"),
    "an unknown camera": ({"history_seconds": 4.0, "history_frames": 2, "camera": "third"}, "There is no camera 'third'"),
    "times of one image": ({"images_in_time": True, "images": [image_at(1.0)]}, "at least 2 images"),
    "times without images": ({"images_in_time": True}, "at least 2 images"),
    "images in the wrong order": ({"images_in_time": True, "images": [image_at(2.0), image_at(1.0)]}, "not after"),
    "images of one time": ({"images_in_time": True, "images": [image_at(2.0), image_at(2.0)]}, "not after"),
    "images without stamps": ({"images_in_time": True, "images": [image_at(0.0), image_at(1.0)]}, "need stamps"),
    "images of two days": ({"images_in_time": True, "images": [image_at(1.0), image_at(90_000.0)]}, "89999 s apart"),
}


def test_bad_requests_state_the_reason() -> None:
    with with_history(times=[100.0], cameras=["camera", "other"]) as (it, engine):
        for name, (fields, reason) in BAD.items():
            response = it.call(Ask, "ask", Ask.Request(question="What happened?", options=QueryOptions(**fields)))
            assert response.outcome.code == Outcome.BAD_REQUEST, name
            assert reason in response.outcome.message, name
        for fields in (
            {"history_seconds": 4.0, "history_frames": 2},
            {"images_in_time": True, "images": [image_at(1.0)]},
        ):
            request = Locate.Request(instruction="the cup", options=QueryOptions(**fields))
            response = it.call(Locate, "point", request)
            assert response.outcome.code == Outcome.BAD_REQUEST
            assert "The task point takes no images of different times" in response.outcome.message
        assert engine.generations == []


def test_a_request_can_carry_images_of_different_times() -> None:
    with with_history() as (it, engine):
        images = [image_at(50.0), image_at(50.5), image_at(52.0)]
        options = QueryOptions(images=images, images_in_time=True)
        response = it.call(Ask, "ask", Ask.Request(question="What happened?", options=options))
        assert response.outcome.code == Outcome.OK
        assert "Seconds before the last image: 2, 1.5, 0." in engine.generations[0].user_text
        assert seconds_of(response.answer.report.stamps) == [50.0, 50.5, 52.0]
        assert seconds_of([response.answer.header.stamp]) == [52.0]
        options.images_in_time = False
        response = it.call(Ask, "ask", Ask.Request(question="What happened?", options=options))
        assert engine.generations[1].user_text == "What happened?"
        assert seconds_of([response.answer.header.stamp]) == [50.0]


def test_too_many_tokens_are_rejected() -> None:
    info = EngineInfo(model="scripted", model_type="qwen2_5_vl", engine="scripted", cell=28, max_model_len=10)
    with rig(ScriptedEngine(["no"], info=info), **HISTORY) as it:
        it.until_ready()
        for time in (100.0, 102.0, 104.0):
            show(it, time)
        response = ask(it, 4.0, 3)
        assert response.outcome.code == Outcome.BAD_REQUEST
        assert "visual tokens" in response.outcome.message


def test_deactivation_clears_the_buffer() -> None:
    with with_history(times=[100.0, 101.0, 102.0]) as (it, _):
        kept = buffer_of(it)
        assert len(kept) == 3
        assert it.transition(Transition.TRANSITION_DEACTIVATE)
        assert (len(kept), kept.bytes) == (0, 0)
        assert it.transition(Transition.TRANSITION_ACTIVATE)
        assert len(buffer_of(it)) == 0
        again = buffer_of(it)
        show(it, 103.0)
        assert it.transition(Transition.TRANSITION_DEACTIVATE)
        assert it.transition(Transition.TRANSITION_CLEANUP)
        assert (len(again), again.bytes) == (0, 0)


def test_stamps_that_jump_back_clear_the_buffer() -> None:
    with with_history(times=[100.0, 101.0, 102.0]) as (it, _):
        it.until(lambda: it.node.cameras["camera"]._stream.publisher_nodes, "the publisher's name")
        show(it, 50.0)
        assert times(buffer_of(it)) == [50.0]


def test_a_clock_that_jumps_back_clears_the_buffer() -> None:
    with with_history(times=[100.0, 101.0, 102.0]) as (it, _):
        kept = buffer_of(it)
        it.node.cameras.forget(Jump(200 * SECOND, 10 * SECOND))
        assert (len(kept), kept.bytes) == (0, 0)


def test_diagnostics_show_the_images_and_bytes() -> None:
    with with_history(times=[100.0, 101.0, 102.0], cameras=["camera", "other"]) as (it, _):
        messages = it.listen(DiagnosticArray, "/diagnostics")

        def shown(part: str) -> dict[str, str] | None:
            found = [status for message in messages for status in message.status if status.name.endswith(part)]
            mine = [status for status in found if it.name.lstrip("/") in status.name]
            return {pair.key: pair.value for pair in mine[-1].values} if mine else None

        values = it.until(lambda: shown("camera camera"), "the camera's entry")
        kept = buffer_of(it)
        assert values["history_frames"] == "3 of 5"
        assert values["history_bytes"] == f"{kept.bytes} of {5 * MOST_BYTES_PER_FRAME}"
        assert values["history_span"] == "2.0 of 4 s"
        assert "history_frames" not in it.until(lambda: shown("camera other"), "the other entry")


@pytest.mark.parametrize("parameters", [{"camera__history_seconds": 2.0}, {"camera__history_frames": 4}])
def test_one_parameter_of_a_buffer_is_not_enough(parameters: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    with rig(ScriptedEngine(["no"]), autostart=False, **parameters) as it:
        assert not it.transition(Transition.TRANSITION_CONFIGURE)
    assert "Set both to keep recent images, or none" in capfd.readouterr().err


def test_compressed_images_of_the_camera_are_kept_as_they_are() -> None:
    with rig(ScriptedEngine(["Yes."]), camera__transport="compressed", **HISTORY) as it:
        it.until_ready()
        message = jpeg()
        message.header.stamp = stamp(100 * SECOND)
        it.show(message, suffix="image/compressed")
        kept = buffer_of(it)
        it.until(lambda: len(kept), "the image in the buffer")
        assert kept._kept[0].data == bytes(message.data)
        newer = jpeg()
        newer.header.stamp = stamp(102 * SECOND)
        it.show(newer, suffix="image/compressed")
        assert seconds_of(ask(it, 2.0, 2).answer.report.stamps) == [100.0, 102.0]
