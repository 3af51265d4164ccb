"""Camera subscriptions that follow the reliability of their publishers."""

from typing import Any

import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_rig import Rig, image_message, rig
from sensor_msgs.msg import Image

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
