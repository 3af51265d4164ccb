"""Cameras: subscriptions that follow the reliability of their publishers, and requests that name several."""

from typing import Any

import pytest
from fakes import ScriptedEngine
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_rig import Rig, image_message, rig
from sensor_msgs.msg import Image

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
    """Publish until the node has subscribed in that way only, and a picture after that has arrived; gives how many came."""
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

    it.until(arrived, "a picture")
    return len(sent)


def test_a_camera_follows_its_publishers() -> None:
    """From reliable to best effort and back, and keeps the pictures coming."""
    with rig(lambda: pytest.fail("no engine is needed"), autostart=False) as it:
        it.node.trigger_configure()
        it.node.trigger_activate()
        for reliability in (RELIABLE, BEST_EFFORT, RELIABLE):
            source = publisher(it, reliability)
            stream_until(it, source, reliability)
            it.client.destroy_publisher(source)
        it.node.trigger_deactivate()
        it.until(lambda: not subscriptions(it), "the end of the subscriptions")


@pytest.mark.parametrize("name", ["reliable", "best_effort"])
def test_a_named_reliability_stays(name: str) -> None:
    """Whatever the publishers are."""
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
    """(width, height) of the pictures of the last generation: each camera's has a size of its own."""
    return [(image.shape[1], image.shape[0]) for image in engine.generations[-1].images]


def test_the_pictures_of_several_cameras_reach_the_model_in_the_order_named() -> None:
    """For ask and plan; the header is the first one's, the age the oldest one's."""
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
    """Never more than the engine's; a change acts at once, and answers stay in the picture's own pixels."""
    engine = ScriptedEngine(["Two mugs.", "[(14, 14)]"])
    budgets = {"engine__max_pixels": 200 * 200, "wrist__max_pixels": 56 * 56, "left__max_pixels": 10**6}
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


def test_more_cameras_than_the_task_or_the_model_takes_are_refused() -> None:
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


def test_a_standing_query_asks_about_several_cameras_when_the_first_has_a_new_picture() -> None:
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
