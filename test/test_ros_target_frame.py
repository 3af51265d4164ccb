"""Positions in parameter target_frame."""

import math
import sys

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from depth_rig import ask_in_base_link, ask_point, error, looking, points_text, position
from ros_rig import now
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.msg import Outcome
from robobrain_ros.ros.transforms import Transform, TransformError


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(7)


class Frames:
    """A buffer that has the transform of one moment and fails the first ``late`` lookups."""

    def __init__(self, moment: Time, late: int = 0) -> None:
        self.moment = moment
        self.late = late
        self.closed = False

    def lookup(self, target: str, source: str, stamp: Time) -> Transform:
        self.late -= 1
        if self.late >= 0 or (target, source, stamp) != ("base_link", "camera_optical", self.moment):
            raise TransformError(f"{source} was not there at {stamp.sec}")
        return Transform((0.5, -0.5, 0.5, -0.5), (1.0, 2.0, 3.0))

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("late", [0, 3])
def test_positions_are_taken_to_target_frame_at_the_images_time(scene: Scene, late: int) -> None:
    """This includes transforms that arrive after the answer. The result states the frame; pixels stay those of the camera."""
    header = Header(stamp=now(), frame_id="camera_optical")
    frames = Frames(header.stamp, late)
    texts = [points_text(scene.objects)] * 2
    with looking(scene, *texts, target_frame="base_link", transform_source=lambda node: frames, transform_timeout=20.0) as before:
        overlays = before.it.listen(Image, f"{before.it.name}/overlay")
        before.header = header
        before.image()
        before.info()
        before.depth()
        response = ask_point(before.it)
        before.it.until(lambda: overlays, "the overlay")
    assert response.outcome == Outcome(code=Outcome.OK)
    assert response.affordances.header == Header(stamp=header.stamp, frame_id="base_link")
    assert overlays[0].header == header, "the image is the camera's"
    for thing, point in zip(scene.objects, response.affordances.points, strict=True):
        # In this frame, forward is x, right is -y, and down is -z.
        x, y, z = np.array(position(point)) - (1.0, 2.0, 3.0)
        assert error(scene, thing, (-y, -z, x)) < 0.01
    assert frames.closed


class Broken(Frames):
    """A buffer with one transform for every moment."""

    def __init__(self, transform: Transform) -> None:
        super().__init__(Time())
        self.transform = transform

    def lookup(self, target: str, source: str, stamp: Time) -> Transform:
        return self.transform


AROUND = (0.5, -0.5, 0.5, -0.5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "transform",
    [
        Transform((0.0, 0.0, 0.0, 0.0), (1.0, 2.0, 3.0)),
        Transform((1.0, -1.0, 1.0, -1.0), (1.0, 2.0, 3.0)),
        Transform((1e200, 1e200, 1e200, 1e200), (1.0, 2.0, 3.0)),
        Transform((math.nan, 0.0, 0.0, 1.0), (1.0, 2.0, 3.0)),
        Transform(AROUND, (math.nan, 2.0, 3.0)),
        Transform(AROUND, (1.0, -math.inf, 3.0)),
        Transform(AROUND, (1.0, 2.0, 1e300)),
    ],
)
def test_a_broken_transform_moves_no_position(scene: Scene, transform: Transform) -> None:
    frames = Broken(transform)
    before, response = ask_in_base_link(scene, frames)
    assert response.outcome.code == Outcome.OK
    assert "not in target_frame 'base_link': the transform is broken" in response.affordances.position_note
    assert response.affordances.header == before.header
    assert error(scene, scene.objects[0], position(response.affordances.points[0])) < 0.01


def test_a_quaternion_is_normalized() -> None:
    """tf2 accepts a length that differs from 1 by almost 1 %."""
    positions = np.array([[0.1, -0.2, 2.0], [5.0, 4.0, 30.0]])
    slightly_long = Transform((0.504, -0.504, 0.504, -0.504), (1.0, 2.0, 3.0))
    expected = Transform(AROUND, (1.0, 2.0, 3.0)).apply(positions)
    np.testing.assert_allclose(slightly_long.normalized().apply(positions), expected, atol=1e-9)


def test_without_the_transform_positions_stay_in_the_optical_frame_and_say_so(scene: Scene) -> None:
    frames = Frames(Time(sec=1))
    before, response = ask_in_base_link(scene, frames)
    assert response.outcome.code == Outcome.OK
    assert (
        "in the frame 'camera_optical', not in target_frame 'base_link': camera_optical was not there" in response.outcome.message
    )
    assert response.affordances.header == before.header
    assert error(scene, scene.objects[0], position(response.affordances.points[0])) < 0.01


def test_without_tf2_ros_positions_stay_in_the_optical_frame_and_say_so(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    with looking(scene, points_text(scene.objects), target_frame="base_link") as before:
        before.image()
        before.info()
        before.depth()
        response = ask_point(before.it)
    assert "not in target_frame 'base_link': tf2_ros cannot be imported" in response.affordances.position_note
    assert response.affordances.header == before.header
    assert error(scene, scene.objects[0], position(response.affordances.points[0])) < 0.01


def test_a_transform_turns_as_opencv_does_and_then_shifts() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        axis, angle = rng.normal(size=3), rng.uniform(0, 3)
        axis /= np.linalg.norm(axis)
        quaternion = (*(axis * math.sin(angle / 2)), math.cos(angle / 2))
        points, shift = rng.normal(size=(5, 3)), rng.normal(size=3)
        expected = points @ cv2.Rodrigues(axis * angle)[0].T + shift
        assert np.allclose(Transform(quaternion, tuple(shift)).apply(points), expected)


def test_the_real_tf2_gives_the_transform_at_the_images_time(scene: Scene) -> None:
    """The frame moves. The transform of the image's time is used and not the latest one."""
    pytest.importorskip("tf2_ros")
    from geometry_msgs.msg import TransformStamped
    from tf2_msgs.msg import TFMessage

    with looking(scene, points_text(scene.objects), target_frame="base_link", transform_timeout=20.0) as before:
        publisher = before.it.client.create_publisher(TFMessage, "/tf", 10)
        before.it.until(publisher.get_subscription_count, "tf2's subscription")
        for later in (-1, 0, 1):
            transform = TransformStamped(header=Header(frame_id="base_link"), child_frame_id="camera_optical")
            transform.header.stamp = Time(sec=before.header.stamp.sec + later, nanosec=before.header.stamp.nanosec)
            transform.transform.translation.x = 10.0 + later
            publisher.publish(TFMessage(transforms=[transform]))
        before.image()
        before.info()
        before.depth()
        response = ask_point(before.it)
    assert response.affordances.header.frame_id == "base_link"
    x, y, z = position(response.affordances.points[0])
    assert error(scene, scene.objects[0], (x - 10.0, y, z)) < 0.01
