"""Requests to the node over DDS: each gets exactly one answer with the correct outcome."""

import asyncio
import math
from types import SimpleNamespace
from typing import Any

import pytest
import rclpy
from builtin_interfaces.msg import Time
from fakes import Script, ScriptedEngine
from ros_rig import Rig, image_message, now, rig, scripted

from robobrain_ros.errors import EngineFailedError
from robobrain_ros.msg import Outcome, QueryOptions
from robobrain_ros.ros.endpoints import _Call
from robobrain_ros.srv import Ask, Locate, MakePlan, PredictTrajectory


def point(it: Rig, instruction: str = "the red mug", **options: Any) -> Locate.Response:
    return it.call(Locate, "point", Locate.Request(instruction=instruction, options=QueryOptions(**options)))


def test_point_answers_in_the_pixels_and_with_the_header_of_the_cameras_image() -> None:
    stamp = Time(sec=now().sec, nanosec=123456789)
    with scripted("[(56, 28), (9999, 28)]", max_image_age=0.0) as (it, engine):
        message = image_message(width=640, height=480, stamp=stamp)
        it.show(message)
        response = point(it)
        fitted = engine.generations[0].images[0]
    assert response.outcome == Outcome(code=Outcome.OK)
    found = response.affordances
    assert found.header == message.header
    assert (found.task, found.instruction, found.camera) == ("point", "the red mug", "camera")
    assert (found.image_width, found.image_height) == (640, 480)
    height, width = fitted.shape[:2]
    inside, outside = found.points
    assert inside.u == pytest.approx((56 + 0.5) * 640 / width - 0.5, abs=0.51)
    assert inside.v == pytest.approx((28 + 0.5) * 480 / height - 0.5, abs=0.51)
    assert not inside.clamped
    assert outside.clamped
    assert outside.u == pytest.approx(639, abs=0.51)
    assert math.isnan(inside.position.x)
    assert (found.report.model_image_width, found.report.model_image_height) == (width, height)


def test_each_task_answers_on_its_service() -> None:
    scripts = ["[10, 12, 30, 40]", "[8, 9, 20, 25]", "[(1, 2), (30, 40)]", "1. Reach\n2. Grasp", "Two mugs."]
    with scripted(*scripts) as (it, _):
        affordance = it.call(Locate, "affordance", Locate.Request(instruction="hold the mug"))
        ground = it.call(Locate, "ground", Locate.Request(instruction="the mug"))
        trajectory = it.call(PredictTrajectory, "trajectory", PredictTrajectory.Request(instruction="reach the mug"))
        plan = it.call(MakePlan, "plan", MakePlan.Request(task="clear the table"))
        answer = it.call(Ask, "ask", Ask.Request(question="How many mugs?"))
    assert [it.outcome.code for it in (affordance, ground, trajectory, plan, answer)] == [Outcome.OK] * 5
    area = affordance.affordances.areas[0]
    assert area.roi.width >= area.u_max - area.u_min
    assert area.roi.x_offset <= area.u_min + 0.5
    assert len(ground.affordances.areas) == 1
    assert len(trajectory.trajectory.waypoints) == 2
    assert math.isnan(trajectory.trajectory.waypoints[0].depth)
    assert [(step.order, step.text) for step in plan.plan.steps] == [(1, "Reach"), (2, "Grasp")]
    assert answer.answer.text == "Two mugs."
    assert answer.answer.report.raw_text == "Two mugs."


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"camera": "wrist"}, "The cameras are: camera"),
        ({"think": 7}, "THINK_ON"),
        ({"timeout": math.nan}, "timeout"),
        ({"timeout": -1.0}, "timeout"),
        ({"timeout": math.inf}, "timeout"),
        ({"images": [image_message(), image_message()]}, "exactly one"),
        ({"camera": "camara"}, "Did you mean 'camera'?"),
        ({"cameras": ["camera", "wrist"]}, "There is no camera 'wrist'"),
        ({"cameras": ["camera", "camera"]}, "twice"),
        ({"cameras": ["camera", ""]}, "empty"),
        ({"cameras": ["camera"], "camera": "camera"}, "both"),
        ({"cameras": ["camera"], "images": [image_message()]}, "both"),
    ],
)
def test_options_that_contradict_their_description_are_rejected(shared: Rig, options: dict[str, Any], part: str) -> None:
    response = point(shared, **options)
    assert response.outcome.code == Outcome.BAD_REQUEST
    assert part in response.outcome.message


def test_an_empty_question_is_rejected(shared: Rig) -> None:
    assert point(shared, " ").outcome.code == Outcome.BAD_REQUEST


@pytest.fixture(scope="module")
def shared() -> object:
    with scripted("[(10, 10)]") as (it, _):
        yield it


def test_requests_in_the_engine_leave_the_executor_free_and_end_together() -> None:
    gate = asyncio.Event()
    with scripted(Script([gate, "[(10, 10)]"])) as (it, engine):
        futures = [it.send(Locate, "point", Locate.Request(instruction=f"mug {index}")) for index in range(8)]
        it.until(lambda: len(engine.running) == 8, "eight requests in the engine")
        it.show(image_message())  # Camera callbacks still run.
        assert it.parameter("max_tokens") == 512  # Parameter services still answer.
        assert not any(future.done() for future in futures)
        it.on_loop(gate.set)
        responses = [it.answer(future) for future in futures]
    assert [response.outcome.code for response in responses] == [Outcome.OK] * 8
    assert [response.affordances.instruction for response in responses] == [f"mug {index}" for index in range(8)]


def test_a_request_beyond_the_queue_is_rejected_at_once() -> None:
    gate = asyncio.Event()
    with scripted(Script([gate, "[(10, 10)]"]), engine__max_num_seqs=1, max_queued=2) as (it, engine):
        futures = [it.send(Locate, "point", Locate.Request(instruction="mug")) for _ in range(3)]
        it.until(lambda: it.node.model.health().waiting == 2, "two waiting requests")
        refused = point(it)
        assert refused.outcome.code == Outcome.BUSY
        assert "max_queued" in refused.outcome.message
        assert len(engine.generations) == 1
        it.on_loop(gate.set)
        assert [it.answer(future).outcome.code for future in futures] == [Outcome.OK] * 3


def test_a_request_past_its_deadline_leaves_the_engine() -> None:
    with scripted(Script(["[(10,", asyncio.Event()])) as (it, engine):
        response = point(it, timeout=0.3)
        assert response.outcome.code == Outcome.TIMEOUT
        assert response.affordances.report.raw_text == "[(10,"
        assert response.affordances.report.total_time == pytest.approx(0.3, abs=5.0)
        assert not engine.running
        assert engine.aborted == [engine.generations[0].request_id]


def test_a_request_ends_when_the_last_client_of_its_service_has_left() -> None:
    """No client could receive its response. Requests of other services, and of clients that stay, continue."""
    with scripted(*[Script(["1. Reach", asyncio.Event()]) for _ in range(2)], max_image_age=0.0) as (it, engine):
        leaving = rclpy.create_node("leaving", namespace=it.client.get_namespace(), context=it.context)
        it.executor.add_node(leaving)
        client = leaving.create_client(MakePlan, f"{it.name}/plan")
        it.until(client.service_is_ready, "the service")
        client.call_async(MakePlan.Request(task="its own"))
        it.until(lambda: len(engine.running) == 1, "its request in the engine")
        stays = it.send(Ask, "ask", Ask.Request(question="another's"))
        it.until(lambda: len(engine.running) == 2, "the other request in the engine")
        it.executor.remove_node(leaving)
        leaving.destroy_node()
        it.until(lambda: engine.aborted, "the end of its request")
        assert engine.aborted == [engine.generations[0].request_id]
        assert len(engine.running) == 1
        it.until(lambda: it.node.statistics.failed == 1, "its outcome")
        assert "All clients of the service have disappeared" in it.node.statistics.last_error
        assert not stays.done()


@pytest.mark.parametrize(
    ("counts", "ends"),
    [
        ([1, 1, 0, 0], True),
        ([0, 0, 1, 0, 0], True),
        ([1, 0, 1, 0], False),
        ([0, 0, 0, 0], False),
    ],
    ids=["left", "left after a late discovery", "absent for a moment", "never discovered"],
)
def test_a_request_goes_on_while_a_client_may_be_there(counts: list[int], ends: bool) -> None:
    """Discovery may find a client after its request, or lose it for a moment."""
    reasons: list[str] = []
    call = _Call("~/point", SimpleNamespace(cancel=reasons.append), seen=False)  # type: ignore[arg-type]
    for count in counts:
        call.note_clients(count)
    assert len(reasons) == ends


def test_the_nodes_own_timeout_holds_where_a_request_names_none_and_a_change_acts_at_once() -> None:
    with scripted(Script([asyncio.Event()])) as (it, _):
        assert it.set_parameter("request_timeout", 0.2).successful
        assert point(it).outcome.code == Outcome.TIMEOUT


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("Some words (12, and nothing more", Outcome.UNPARSABLE_ANSWER),
        ("[]", Outcome.NOTHING_FOUND),
        (Script([EngineFailedError("The engine died.")]), Outcome.ENGINE_FAILED),
        (Script([RuntimeError("boom")]), Outcome.ENGINE_FAILED),
    ],
)
def test_an_error_of_the_engine_is_an_outcome_and_the_next_request_is_answered(script: object, code: int) -> None:
    with scripted(script, "[(10, 10)]") as (it, _):
        failed = point(it)
        served = point(it)
    assert failed.outcome.code == code
    assert failed.outcome.message
    assert not failed.affordances.points
    assert failed.affordances.header.frame_id == "camera_optical"
    assert served.outcome.code == Outcome.OK


def test_before_the_model_is_loaded_requests_get_the_progress_of_loading() -> None:
    gate = asyncio.Event()
    with rig(ScriptedEngine(["[(10, 10)]"], start_gate=gate)) as it:
        it.until(lambda: it.node.model.progress.stage == "loading", "loading")
        early = point(it)
        assert early.outcome.code == Outcome.NOT_READY
        assert "50%" in early.outcome.message
        it.on_loop(gate.set)
        it.until_ready()
        it.show(image_message())
        assert point(it).outcome.code == Outcome.OK


def test_a_model_that_cannot_be_loaded_is_an_outcome_that_says_why() -> None:
    with rig(ScriptedEngine(["x"], start_error=EngineFailedError("No weights in /nowhere."))) as it:
        it.until(lambda: it.node.model.health().state == "failed", "the failure")
        response = point(it)
    assert response.outcome.code == Outcome.ENGINE_FAILED
    assert "No weights in /nowhere." in response.outcome.message


def test_images_of_the_request_need_no_camera_and_give_their_header() -> None:
    with rig(ScriptedEngine(["[(10, 10)]", "Two images."])) as it:
        it.until_ready()
        first = image_message("bgr8")
        found = point(it, images=[first])
        asked = it.call(Ask, "ask", Ask.Request(question="?", options=QueryOptions(images=[first, image_message("mono8")])))
        none = point(it)
    assert found.outcome.code == Outcome.OK
    assert (found.affordances.header, found.affordances.camera) == (first.header, "")
    assert (asked.outcome.code, asked.answer.text) == (Outcome.OK, "Two images.")
    assert none.outcome.code == Outcome.NO_IMAGE
    assert "Publishers: none" in none.outcome.message


def test_an_old_image_and_one_from_the_future_are_rejected() -> None:
    with scripted("[(10, 10)]", max_image_age=5.0) as (it, _):
        it.show(image_message(stamp=Time(sec=now().sec - 60)))
        old = point(it)
        it.show(image_message(stamp=Time(sec=now().sec + 60)))
        future = point(it)
        it.show(image_message(stamp=Time()))  # Without a stamp, the age counts from its arrival.
        unstamped = point(it)
    assert (old.outcome.code, future.outcome.code) == (Outcome.STALE_IMAGE, Outcome.STALE_IMAGE)
    assert "max_image_age" in old.outcome.message
    assert "use_sim_time" in future.outcome.message
    assert unstamped.outcome.code == Outcome.OK
    assert math.isnan(unstamped.affordances.report.image_age)


def test_thinking_is_on_request_and_by_parameter() -> None:
    with scripted(Script(["hm"]), "[(10, 10)]", Script(["hm"]), "[(10, 10)]", "[(10, 10)]") as (it, engine):
        on_request = point(it, think=QueryOptions.THINK_ON)
        assert it.set_parameter("think", True).successful
        by_parameter = point(it)
        off = point(it, think=QueryOptions.THINK_OFF)
    assert [it.affordances.report.think for it in (on_request, by_parameter, off)] == [True, True, False]
    assert on_request.affordances.report.thinking == "hm"
    assert len(engine.generations) == 5


def test_coordinates_are_constrained_by_parameter_at_once() -> None:
    with scripted("[(10, 10)]") as (it, engine):
        for constrain in (True, False, True):
            assert it.set_parameter("constrain_coordinates", constrain).successful
            assert point(it).outcome.code == Outcome.OK
    assert [generation.constraint is not None for generation in engine.generations] == [True, False, True]


def test_a_changed_parameter_does_not_affect_a_request_in_flight() -> None:
    gate = asyncio.Event()
    with scripted(Script(["hm", gate]), "[(10, 10)]", "[(10, 10)]", think=True) as (it, engine):
        in_flight = it.send(Locate, "point", Locate.Request(instruction="the red mug"))
        it.until(lambda: engine.generations, "the thinking")
        for name, value in (("think", False), ("think_tokens", 7), ("constrain_coordinates", False)):
            assert it.set_parameter(name, value).successful
        it.on_loop(gate.set)
        before, after = it.answer(in_flight), point(it)
    assert (before.outcome.code, after.outcome.code) == (Outcome.OK, Outcome.OK)
    assert (before.affordances.report.think, after.affordances.report.think) == (True, False)
    assert [generation.constraint is not None for generation in engine.generations] == [False, True, False]


def test_two_cameras_have_images_of_their_own() -> None:
    with scripted("[(10, 10)]", cameras=["camera", "wrist"], wrist__transport="raw") as (it, engine):
        wide = image_message(width=320, height=240)
        it.show(wide, "wrist")
        front, wrist = point(it), point(it, camera="wrist")
    assert (front.affordances.camera, front.affordances.image_width) == ("camera", 64)
    assert (wrist.affordances.camera, wrist.affordances.image_width) == ("wrist", 320)
    assert wrist.affordances.header == wide.header
    assert engine.generations[0].image_ids != engine.generations[1].image_ids
