"""Cameras: subscriptions that follow the reliability of their publishers, and requests with several cameras."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from fakes import Script, ScriptedEngine
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_rig import Rig, image_message, now, rig, scripted
from sensor_msgs.msg import CompressedImage, Image

from robobrain_ros.msg import Outcome, QueryOptions, TextAnswer
from robobrain_ros.srv import Ask, Locate, MakePlan, SetStandingQuery

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


def subscriptions(it: Rig) -> list[ReliabilityPolicy]:
    infos = it.client.get_subscriptions_info_by_topic(f"{it.client.get_namespace()}/camera/image")
    return [info.qos_profile.reliability for info in infos]


def publisher(it: Rig, reliability: ReliabilityPolicy) -> Any:
    topic = f"{it.client.get_namespace()}/camera/image"
    return it.client.create_publisher(Image, topic, QoSProfile(depth=1, reliability=reliability))


def stream_until(it: Rig, source: Any, reliability: ReliabilityPolicy) -> int:
    """Publish until the node subscribes only with this reliability and then gets an image. Return the number of images."""
    sent = []

    def followed() -> bool:
        if subscriptions(it) != [reliability]:
            sent.append(image_message())
            source.publish(sent[-1])
            return False
        return True

    it.until(followed, f"a subscription that is {reliability.name}")
    last = image_message()

    def arrived() -> bool:
        source.publish(last)
        newest = it.node.cameras["camera"].newest
        return newest is not None and newest.message.header == last.header

    it.until(arrived, "an image")
    return len(sent)


def test_a_camera_follows_its_publishers() -> None:
    """The reliability changes from reliable to best effort and back, and images continue to arrive."""
    with rig(lambda: pytest.fail("no engine is needed"), autostart=False) as it:
        it.node.trigger_configure()
        it.node.trigger_activate()
        for reliability in (RELIABLE, BEST_EFFORT, RELIABLE):
            source = publisher(it, reliability)
            stream_until(it, source, reliability)
            it.client.destroy_publisher(source)
        it.node.trigger_deactivate()
        it.until(lambda: not subscriptions(it), "the end of the subscriptions")


def test_a_closed_camera_still_states_what_was_missing() -> None:
    """A request can compute its positions while the node is deactivated."""
    with rig(lambda: pytest.fail("no engine is needed"), autostart=False) as it:
        it.node.trigger_configure()
        it.node.trigger_activate()
        info = it.node.cameras["camera"].position_topics.info
        match = info.match(1)
        it.node.trigger_deactivate()
        sentence = info.explain(match, 0.0)
        assert sentence.startswith(f"No camera_info has arrived on {it.client.get_namespace()}/camera/camera_info.")


@pytest.mark.parametrize("name", ["reliable", "best_effort"])
def test_a_named_reliability_stays(name: str) -> None:
    """This holds for any reliability of the publishers."""
    with rig(lambda: pytest.fail("no engine is needed"), autostart=False, image_reliability=name) as it:
        it.node.trigger_configure()
        it.node.trigger_activate()
        for reliability in (RELIABLE, BEST_EFFORT):
            publisher(it, reliability)
        it.until(lambda: it.node.count_publishers(f"{it.client.get_namespace()}/camera/image") == 2, "the publishers")
        it.node.cameras.adapt()
        assert subscriptions(it) == [RELIABLE if name == "reliable" else BEST_EFFORT]


THREE = ("front", "wrist", "left")


def ask(it: Rig, **options: Any) -> Ask.Response:
    return it.call(Ask, "ask", Ask.Request(question="What differs?", options=QueryOptions(**options)))


def sizes(engine: ScriptedEngine) -> list[tuple[int, int]]:
    """Return (width, height) of the images of the last generation. Each camera has a different size."""
    return [(image.shape[1], image.shape[0]) for image in engine.generations[-1].images]


def test_the_images_of_several_cameras_reach_the_model_in_the_order_named() -> None:
    """Applies to ask and plan. The header is that of the first image, the age that of the oldest one."""
    engine = ScriptedEngine(["Two mugs.", "1. Reach"])
    with rig(engine, cameras=list(THREE), max_image_age=0.0) as it:
        it.until_ready()
        for number, name in enumerate(THREE, start=2):
            message = image_message(width=number * 28, height=112)
            message.header.frame_id = name
            message.header.stamp.sec -= 100 * number
            it.show(message, name)
        answer = ask(it, cameras=["wrist", "front", "left"])
        assert answer.outcome == Outcome(code=Outcome.OK)
        assert sizes(engine) == [(84, 112), (56, 112), (112, 112)]
        assert answer.answer.header.frame_id == answer.answer.camera == "wrist"
        assert 400.0 < answer.answer.report.image_age < 500.0
        options = QueryOptions(cameras=["left", "front"])
        plan = it.call(MakePlan, "plan", MakePlan.Request(task="clear up", options=options))
        assert sizes(engine) == [(112, 112), (56, 112)]
        assert plan.plan.header.frame_id == plan.plan.camera == "left"


def test_each_camera_has_a_pixel_budget_of_its_own() -> None:
    """It is at most the engine's budget. A change applies at once, and answers use the original pixels."""
    engine = ScriptedEngine(["Two mugs.", "[(14, 14)]"])
    budgets: dict[str, Any] = {"engine__max_pixels": 200 * 200, "wrist__max_pixels": 56 * 56, "left__max_pixels": 10**6}
    with rig(engine, cameras=list(THREE), **budgets) as it:
        it.until_ready()
        for name in THREE:
            it.show(image_message(width=560, height=560), name)
        ask(it, cameras=list(THREE))
        assert sizes(engine) == [(196, 196), (56, 56), (196, 196)]
        request = Locate.Request(instruction="mug", options=QueryOptions(camera="wrist"))
        (point,) = it.call(Locate, "point", request).affordances.points
        assert (point.u, point.v) == (pytest.approx(144.5), pytest.approx(144.5))
        assert it.set_parameter("wrist.max_pixels", 84 * 84).successful
        ask(it, camera="wrist")
        assert sizes(engine) == [(84, 84)]


def test_more_cameras_than_the_task_or_the_model_takes_are_rejected() -> None:
    with rig(ScriptedEngine(["Two mugs."]), cameras=list(THREE), engine__max_images=2) as it:
        it.until_ready()
        for name in THREE:
            it.show(image_message(), name)
        assert ask(it, cameras=list(THREE[:2])).outcome.code == Outcome.OK
        too_many = ask(it, cameras=list(THREE)).outcome
        options = QueryOptions(cameras=list(THREE[:2]))
        spatial = it.call(Locate, "point", Locate.Request(instruction="mug", options=options)).outcome
    assert (too_many.code, spatial.code) == (Outcome.BAD_REQUEST, Outcome.BAD_REQUEST)
    assert "engine.max_images" in too_many.message
    assert "exactly one" in spatial.message
    assert all("field cameras" in outcome.message for outcome in (too_many, spatial))


def test_a_standing_query_asks_about_several_cameras_when_the_first_has_a_new_image() -> None:
    engine = ScriptedEngine(["Two mugs."])
    described = {"task": "ask", "instruction": "What differs?", "rate": 0.0, "cameras": ["wrist", "front"]}
    parameters: dict[str, Any] = {f"standing_query__both__{key}": value for key, value in described.items()}
    with rig(engine, cameras=list(THREE), standing_queries=["both"], **parameters) as it:
        it.until_ready()
        answers = it.listen(TextAnswer, f"{it.name}/answer")
        it.show(image_message(width=56, height=112), "front")
        message = image_message(width=84, height=112)
        it.show(message, "wrist")
        it.until(lambda: answers, "an answer")
        assert (answers[0].header, answers[0].query) == (message.header, "both")
        assert sizes(engine) == [(84, 112), (56, 112)]
        request = SetStandingQuery.Request(name="where", enabled=True, task="point", instruction="mug")
        request.options.cameras = ["wrist", "front"]
        refused = it.call(SetStandingQuery, "set_standing_query", request)
        assert refused.outcome.code == Outcome.BAD_REQUEST
        assert "field cameras" in refused.outcome.message


def no_engine() -> Any:
    pytest.fail("no engine is needed")


def diagnosis(it: Rig, heard: list[DiagnosticArray], part: str) -> tuple[Any, dict[str, str]]:
    """Return the next status of a part, and its values."""
    heard.clear()
    it.until(lambda: heard, "diagnostics")
    (status,) = [status for status in heard[0].status if status.name.endswith(part)]
    return status, {value.key: value.value for value in status.values}


@pytest.mark.parametrize(
    ("kind", "reliability", "part"),
    [
        (Image, BEST_EFFORT, "Publishers: 1, but best effort: a reliable subscription receives nothing"),
        (
            CompressedImage,
            RELIABLE,
            "Publishers: 1, but their type is sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image",
        ),
        (Image, RELIABLE, "/camera/image yet. Publishers: 1."),
    ],
)
def test_a_camera_that_has_not_started_says_why(kind: Any, reliability: ReliabilityPolicy, part: str) -> None:
    """The status names the publishers of its topic and why their images do not arrive."""
    with scripted("[(1, 2)]", image_reliability="reliable", cameras=["camera", "other"]) as (it, _):
        # This is another participant, because one participant cannot have a topic with two types.
        context = rclpy.context.Context()
        rclpy.init(context=context)
        driver = rclpy.create_node("driver", namespace=it.client.get_namespace(), context=context)
        try:
            driver.create_publisher(kind, "other/image", QoSProfile(depth=1, reliability=reliability))
            topic = f"{it.client.get_namespace()}/other/image"
            it.until(lambda: it.node.count_publishers(topic), "the publisher")
            outcome = ask(it, camera="other").outcome
        finally:
            driver.destroy_node()
            rclpy.shutdown(context=context)
    assert outcome.code == Outcome.NO_IMAGE
    assert part.replace("/camera/", "/other/") in outcome.message
    assert topic in outcome.message


def test_a_camera_that_stopped_is_told_from_one_whose_images_come_late() -> None:
    with scripted("Two mugs.", max_image_age=0.3) as (it, _):
        heard = it.listen(DiagnosticArray, "/diagnostics")
        for _ in range(3):
            it.show(image_message())
        stopped = it.until(lambda: (outcome := ask(it).outcome).code != Outcome.OK and outcome, "the image's end")
        late = image_message()
        late.header.stamp.sec -= 100
        it.show(late)
        delayed = ask(it).outcome
        status, _ = diagnosis(it, heard, "camera camera")
    assert (stopped.code, delayed.code) == (Outcome.STALE_IMAGE, Outcome.STALE_IMAGE)
    assert "Camera camera has stopped: its last image arrived 0." in stopped.message
    assert "Publishers: 1." in stopped.message
    assert "after its stamp" in delayed.message
    assert status.level == status.WARN


def test_an_image_that_came_late_and_has_just_become_too_old_is_no_stopped_camera() -> None:
    with scripted("Two mugs.", max_image_age=6.0) as (it, _):
        for _ in range(3):
            message = image_message(stamp=now())
            message.header.stamp.sec -= 5
            it.show(message)
        stale = it.until(lambda: (outcome := ask(it).outcome).code != Outcome.OK and outcome, "the image's end")
    assert stale.code == Outcome.STALE_IMAGE
    assert "after its stamp" in stale.message
    assert "stopped" not in stale.message


def test_diagnostics_count_lost_and_late_images_and_name_the_cure() -> None:
    with scripted("Two mugs.", max_image_age=0.0) as (it, _):
        heard = it.listen(DiagnosticArray, "/diagnostics")
        began = now()
        for number in range(12):
            message = image_message(width=640, height=480, stamp=now())
            # Ten per second, one minute ago; after the eighth image, two of three are lost.
            tenths = number + 2 * max(number - 7, 0)
            message.header.stamp.sec = began.sec - 60 + tenths // 10
            message.header.stamp.nanosec = tenths % 10 * 10**8
            it.show(message)
        status, values = diagnosis(it, heard, "camera camera")
    # The first image of the rig is newer than these images.
    assert (values["received"], values["lost"], values["late"]) == ("13", "8", "12")
    assert status.level == status.WARN
    assert "38% of the last images were lost" in status.message
    assert "0.9 MB" in status.message
    assert "transport_profile:=large" in status.message


def test_statistics_of_standing_queries_count_what_was_asked_answered_and_skipped() -> None:
    """After an answer, the query asks about the image that arrived in the meantime, even if no other image arrives."""
    gate = asyncio.Event()
    scripts = (Script([gate, "[(1, 2)]"]), "There is no mug in the image.", "1, 2, I do not know")
    with scripted(*scripts) as (it, engine):
        heard = it.listen(DiagnosticArray, "/diagnostics")
        request = SetStandingQuery.Request(name="mugs", enabled=True, task="point", instruction="mug")
        assert it.call(SetStandingQuery, "set_standing_query", request).outcome.code == Outcome.OK
        for _ in range(4):
            it.show(image_message())
        assert diagnosis(it, heard, "standing query mugs")[1] == {"asked": "1", "answered": "0", "failed": "0", "skipped": "2"}
        it.on_loop(gate.set)
        it.until(lambda: diagnosis(it, heard, "standing query mugs")[1]["answered"] == "2", "two answers")
        it.show(image_message())
        it.until(lambda: diagnosis(it, heard, "standing query mugs")[1]["failed"] == "1", "the failure")
        status, values = diagnosis(it, heard, "standing query mugs")
    assert values == {"asked": "3", "answered": "2", "failed": "1", "skipped": "2"}
    assert status.message == "3 asked, 2 answered, 1 failed, 2 skipped"
    assert len(engine.generations) == 3


LATCHED = QoSProfile(depth=1, reliability=RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@contextmanager
def driver_of(namespace: str) -> Iterator[Any]:
    """A camera driver in its own context, which may exist before the node."""
    context = rclpy.context.Context()
    rclpy.init(context=context)
    driver = rclpy.create_node("driver", namespace=namespace, context=context)
    try:
        yield driver
    finally:
        driver.destroy_node()
        rclpy.shutdown(context=context)


def test_messages_that_latched_publishers_sent_earlier_are_received() -> None:
    """Each message arrives once, and later messages arrive too."""
    with driver_of("/latched") as driver:
        source = driver.create_publisher(Image, "camera/image", LATCHED)
        early = image_message()
        source.publish(early)
        with rig(ScriptedEngine(["Two mugs."]), namespace="/latched", max_image_age=0.0) as it:
            it.until_ready()
            camera = it.until(lambda: next(iter(it.node.cameras), None), "the camera")
            newest = it.until(lambda: camera.newest, "the image that was sent before")
            assert newest.message == early
            assert ask(it).outcome.code == Outcome.OK
            later = image_message(width=100)
            source.publish(later)
            it.until(lambda: camera.newest.message == later, "the image that was sent later")
            assert camera.statistics.received == 2
            assert it.set_parameter("max_image_age", 0.01).successful
            stale = it.until(lambda: (outcome := ask(it).outcome).code != Outcome.OK and outcome, "the image's end")
    assert stale.code == Outcome.STALE_IMAGE
    assert "Set max_image_age to 0" in stale.message


def test_messages_of_latched_and_other_publishers_are_received() -> None:
    """This includes a latched publisher that started first. Each message counts once."""
    with driver_of("/mixed") as driver:
        plain = driver.create_publisher(Image, "camera/image", QoSProfile(depth=1, reliability=RELIABLE))
        latched = driver.create_publisher(Image, "camera/image", LATCHED)
        early = image_message()
        latched.publish(early)
        with rig(ScriptedEngine(["Two mugs."]), namespace="/mixed", max_image_age=0.0) as it:
            it.until_ready()
            camera = it.until(lambda: next(iter(it.node.cameras), None), "the camera")
            it.until(lambda: camera.newest and camera.newest.message == early, "the image that was sent before")
            for number, source in enumerate((plain, latched, plain, latched)):
                message = image_message(width=100 + number)
                source.publish(message)
                it.until(partial(_is_newest, camera, message), f"image {number}")
            assert camera.statistics.received == 5


def _is_newest(camera: Any, message: Image) -> bool:
    return bool(camera.newest.message == message)


def test_a_best_effort_subscription_names_what_it_cannot_get_of_a_latched_publisher() -> None:
    with driver_of("/deaf") as driver:
        driver.create_publisher(Image, "camera/image", LATCHED).publish(image_message())
        with rig(ScriptedEngine(["Two mugs."]), namespace="/deaf", image_reliability="best_effort") as it:
            it.until_ready()
            it.until(lambda: it.node.count_publishers("/deaf/camera/image"), "the publisher")
            outcome = ask(it).outcome
    assert outcome.code == Outcome.NO_IMAGE
    assert "latched (transient local): a best-effort subscription does not receive" in outcome.message
    assert "Set the reliability to auto" in outcome.message


def test_two_drivers_of_one_camera_are_named_and_no_image_counts_as_lost(capfd: pytest.CaptureFixture[str]) -> None:
    with scripted("Two mugs.", max_image_age=0.0) as (it, _), driver_of(it.client.get_namespace()) as driver:
        heard = it.listen(DiagnosticArray, "/diagnostics")
        second = driver.create_publisher(Image, "camera/image", 1)
        it.until(second.get_subscription_count, "the second driver")

        def named() -> Any:
            it.show(image_message())
            second.publish(image_message(width=100))
            status, _ = diagnosis(it, heard, "camera camera")
            return status if "2 publishers" in status.message else None

        status = it.until(named, "the diagnosis")
        namespace = it.client.get_namespace()
    assert status.level == status.WARN
    assert f"2 publishers send to {namespace}/camera/image: {namespace}/client, {namespace}/driver." in status.message
    assert "lost" not in status.message
    assert capfd.readouterr().err.count("2 publishers send to") == 1


def until_stale(it: Rig) -> str:
    """Wait until the camera's image is too old. Return the message."""
    outcome = it.until(lambda: (outcome := ask(it).outcome).code != Outcome.OK and outcome, "the image's end")
    assert outcome.code == Outcome.STALE_IMAGE
    return str(outcome.message)


def test_the_message_about_a_single_old_image_names_both_causes() -> None:
    with scripted("Two mugs.", max_image_age=0.3) as (it, _):
        message = until_stale(it)
    assert message.startswith("The only image of camera camera so far is 0.")
    assert "max_image_age is 0.3 s" in message
    assert "Publishers: 1." in message


@pytest.mark.parametrize("burst", [1, 3])
def test_a_camera_that_becomes_slower_or_sends_bursts_has_not_stopped(burst: int) -> None:
    """Most of its last 30 images arrived in quick succession."""
    with scripted("Two mugs.", max_image_age=0.3) as (it, _):
        for _ in range(30):
            it.show(image_message())
        for _ in range(2):
            assert "has stopped" in until_stale(it)
            for _ in range(burst):
                it.show(image_message())
        slow = until_stale(it)
        it.until(lambda: "has stopped" in ask(it).outcome.message, "the camera's end")
    assert re.search(r"Camera camera sends images up to \d\.\d s apart on .*\. Set max_image_age to at least \d s, or to 0", slow)


def test_a_camera_slower_than_max_image_age_is_told_from_one_that_has_stopped() -> None:
    with scripted("Two mugs.", max_image_age=0.3) as (it, _):
        heard = it.listen(DiagnosticArray, "/diagnostics")
        for _ in range(3):
            until_stale(it)
            it.show(image_message())
        slow = until_stale(it)
        it.until(lambda: "has stopped" in ask(it).outcome.message, "the camera's end")
        status, _ = diagnosis(it, heard, "camera camera")
    assert re.search(r"Camera camera sends one image every \d\.\d s on .*\. Set max_image_age to at least \d s, or to 0", slow)
    assert "sends one image every" in status.message
