"""Compressed depth over DDS gives the same positions as raw depth, and ROS 1 messages are read like those of ROS 2."""

from array import array
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from depth_publisher import compressed_depth
from depth_rig import Before, ask_point, depth_message, error, looking, points_text, position
from ros_rig import now
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from robobrain_ros.core.messages import frames
from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.msg import Outcome, QueryOptions
from robobrain_ros.ros.messages.conversions import to_image
from robobrain_ros.ros.transforms import Transform, TransformError
from robobrain_ros.srv import Locate


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(7)


def samples_of(scene: Scene) -> np.ndarray:
    message = depth_message(scene)
    return np.frombuffer(message.data, "<u2").reshape(message.height, message.width)


def packed(data: bytes, image_format: str) -> CompressedImage:
    return CompressedImage(format=image_format, data=array("B", data))


@pytest.fixture
def driver() -> Iterator[Any]:
    """A node of another DDS participant, because one participant cannot have a topic with two types."""
    context = rclpy.context.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("driver", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def show_depth(driver: Any, before: Before, topic: str, message: CompressedImage) -> None:
    """Publish depth with the stamp of the image, and wait until the node has received it."""
    message.header = before.header
    if topic not in before.publishers:
        name = f"{before.it.client.get_namespace()}/camera/{topic}"
        before.publishers[topic] = driver.create_publisher(CompressedImage, name, 10)
    before.it.until(before.publishers[topic].get_subscription_count, f"a subscription to {topic}")
    before.publishers[topic].publish(message)
    depth = before.it.node.cameras["camera"].position_topics.depth
    assert depth is not None
    before.it.until(lambda: depth.newest is not None and depth.newest.header == message.header, topic)


def next_moment(before: Before) -> None:
    before.header = Header(stamp=now(), frame_id=before.header.frame_id)
    before.image()
    before.info()


def assert_on_the_things(scene: Scene, response: Locate.Response) -> None:
    assert response.outcome.code == Outcome.OK, response.outcome.message
    assert response.affordances.position_note == ""
    for thing, point in zip(scene.objects, response.affordances.points, strict=True):
        assert error(scene, thing, position(point)) < 0.02


def test_compressed_depth_gives_positions_without_a_parameter(scene: Scene, driver: Any) -> None:
    """The topic is <camera>/depth, as a user remaps it: both codecs, both depth encodings, and a plain 16-bit PNG."""
    depth = samples_of(scene)
    metres = np.where(depth == 0, np.nan, depth / 1000.0).astype(np.float32)
    messages = [packed(*compressed_depth(samples, codec)) for samples in (depth, metres) for codec in ("png", "rvl")]
    messages.append(packed(cv2.imencode(".png", depth)[1].tobytes(), "16UC1; png compressed "))
    with looking(scene, *[points_text(scene.objects)] * (len(messages) + 1)) as before:
        for message in messages:
            next_moment(before)
            show_depth(driver, before, "depth", message)
            assert_on_the_things(scene, ask_point(before.it))
        next_moment(before)
        show_depth(driver, before, "depth", packed(bytes(12) + bytes(100), "16UC1; compressedDepth rvl"))
        broken = ask_point(before.it)
    assert broken.outcome.code == Outcome.OK
    assert "RVL depth" in broken.affordances.position_note or "no pixels" in broken.affordances.position_note


@pytest.mark.parametrize("transport", ["auto", "compressed"])
def test_compressed_depth_on_its_own_topic_is_found(scene: Scene, driver: Any, transport: str) -> None:
    with looking(scene, points_text(scene.objects), camera__depth_transport=transport) as before:
        next_moment(before)
        show_depth(driver, before, "depth/compressedDepth", packed(*compressed_depth(samples_of(scene), "rvl")))
        assert_on_the_things(scene, ask_point(before.it))


def test_a_leading_slash_of_a_frame_is_removed_everywhere_and_logged_once(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "_logged", set())
    with looking(scene, *[points_text(scene.objects)] * 3) as before:
        for slashes in (("/", "", "//"), ("", "/", "/")):
            image, info, depth = (f"{slash}camera_optical" for slash in slashes)
            before.header = Header(stamp=now(), frame_id=image)
            before.image()
            before.info(frame=info)
            before.depth(frame=depth)
            response = ask_point(before.it)
            assert_on_the_things(scene, response)
            assert response.affordances.header.frame_id == "camera_optical"
        options = QueryOptions(images=[to_image(scene.image, Header(stamp=now(), frame_id="/camera_optical"))])
        sent = before.it.call(Locate, "point", Locate.Request(instruction="the things", options=options))
    assert sent.affordances.header.frame_id == "camera_optical"
    logged = [record.getMessage() for record in caplog.records if "begins with a slash" in record.getMessage()]
    assert len(logged) == 2, logged
    assert {"'/camera_optical'" in line for line in logged} == {True, False}


def test_target_frame_may_begin_with_a_slash(scene: Scene) -> None:
    class Moved:
        def lookup(self, target: str, source: str, stamp: Any) -> Transform:
            if (target, source) != ("base_link", "camera_optical"):
                raise TransformError(f"{target} or {source} does not exist")
            return Transform((0.0, 0.0, 0.0, 1.0), (10.0, 0.0, 0.0))

        def close(self) -> None:
            pass

    with looking(scene, points_text(scene.objects), target_frame="/base_link", transform_source=lambda node: Moved()) as before:
        before.header.frame_id = "/camera_optical"
        before.image()
        before.info(frame="/camera_optical")
        before.depth(frame="/camera_optical")
        affordances = ask_point(before.it).affordances
    assert affordances.header.frame_id == "base_link"
    assert affordances.points[0].position.x > 5.0
