"""Depth or calibration that does not belong to the image: positions are NaN, and position_note names the reason."""

import re
from array import array
from collections.abc import Callable

import numpy as np
import pytest
from depth_rig import (
    Before,
    all_invalid,
    ask_point,
    depth_message,
    float_depth,
    float_millimetres,
    looking,
    points_text,
    position,
)
from std_msgs.msg import Header

from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.msg import Outcome
from robobrain_ros.ros.messages.conversions import to_image


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(7)


def wrong_moment(before: Before) -> None:
    before.info()
    before.depth(later=0.1)
    before.depth(later=0.2)


def wrong_proportions(before: Before) -> None:
    before.info()
    before.depth(depth_message(make_scene(7, (640, 360))))


def wrong_frame(before: Before) -> None:
    before.info()
    before.depth(frame="depth_optical")


def not_depth(before: Before) -> None:
    before.info()
    before.depth(to_image(before.scene.image, Header()))


def no_depth(before: Before) -> None:
    before.info()


def zeros(before: Before) -> None:
    before.info(k=[0.0] * 9, p=[0.0] * 12, d=[])
    before.depth()


def no_info(before: Before) -> None:
    before.depth()


def info_of_another_size(before: Before) -> None:
    before.info(width=320, height=240)
    before.depth()


def info_of_another_frame(before: Before) -> None:
    before.info(frame="other")
    before.depth()


def no_stamp(before: Before) -> None:
    before.header = Header(frame_id="camera_optical")
    before.info()
    before.depth()


def filled(before: Before, millimetres: int) -> None:
    before.info()
    message = depth_message(before.scene)
    size = message.width * message.height
    message.data = array("B", np.full(size, millimetres, "<u2").tobytes())
    before.depth(message)


def only_65535(before: Before) -> None:
    filled(before, 65535)


def clamped(before: Before) -> None:
    filled(before, 10000)


def far_plane(before: Before) -> None:
    before.info()
    before.depth(float_depth(np.full_like(before.scene.depth, 1e10)))


@pytest.mark.parametrize(
    ("show", "words"),
    [
        (
            wrong_moment,
            "No depth image with the image's stamp has arrived on .*/camera/depth: the nearest stamp differs by 0.1 s",
        ),
        (wrong_proportions, "The depth image has 640x360 pixels and the image 640x480: their aspect ratios differ"),
        (wrong_frame, "The depth image on .*/camera/depth is in the frame 'depth_optical', but the image is in 'camera_optical'"),
        (all_invalid, "points have no position: too little valid depth around it"),
        (not_depth, "The depth image is in 'rgb8'"),
        (no_depth, "No depth image has arrived on .*/camera/depth. Publishers: none"),
        (zeros, "The camera is not calibrated: K contains zeros"),
        (no_info, "No camera_info has arrived on .*/camera/camera_info. Publishers: none"),
        (info_of_another_size, "camera_info describes an image of 320x240 pixels, but the image has 640x480"),
        (info_of_another_frame, "The camera_info on .* is in the frame 'other', but the image is in 'camera_optical'"),
        (no_stamp, "The image has no stamp, so no depth image can be assigned to it"),
        (only_65535, "points have no position: too little valid depth around it"),
        (clamped, "points have no position: farther than max_depth or than the depth camera can measure"),
        (
            float_millimetres,
            "The depth image is 32FC1 with a median of .*: the values are millimetres. 32FC1 must",
        ),
        (far_plane, "points have no position: farther than max_depth"),
    ],
)
def test_depth_or_calibration_of_another_image_gives_nan_and_the_reason(
    scene: Scene, show: Callable[[Before], None], words: str
) -> None:
    """Each fault has its own message. The answer in pixels is correct, and all coordinates are NaN."""
    with looking(scene, points_text(scene.objects)) as before:
        if show is no_stamp:
            before.header = Header(frame_id="camera_optical")
        before.image()
        show(before)
        response = ask_point(before.it)
    assert response.outcome.code == Outcome.OK
    assert response.outcome.message == response.affordances.position_note
    assert response.affordances.position_note.endswith(".")
    assert re.search(words, response.affordances.position_note)
    assert len(response.affordances.points) == len(scene.objects)
    for thing, point in zip(scene.objects, response.affordances.points, strict=True):
        assert np.isnan(position(point)).all()
        assert (point.u, point.v) == pytest.approx(thing.centre, abs=1.0)
