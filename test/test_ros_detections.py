"""Detections of vision_msgs. The package is optional: a ROS distribution has it, PyPI does not."""

import math
from typing import Any

import numpy as np
import pytest
from std_msgs.msg import Header

from robobrain_ros.core.approach import ApproachPose
from robobrain_ros.core.messages.answers import Origin
from robobrain_ros.core.messages.positions import Positions
from robobrain_ros.core.poses import Source, StampedPose, Unavailable, Uncertainty
from robobrain_ros.core.query import Answer, Box, Point, Report, Task
from robobrain_ros.core.surfaces import Lifted
from robobrain_ros.ros.requests.result import Result
from robobrain_ros.ros.views import detections

pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not installed")

_REASON = Unavailable.EDGE
IMAGE, BASE = Header(frame_id="camera_optical"), Header(frame_id="base_link")


def result(answer: Answer | None, positions: Positions | None = None) -> Result:
    return Result(Task.GROUND, Origin(IMAGE, "the cups"), Report(), answer, positions=positions)


def test_boxes_and_points_are_detections_in_the_image_and_in_space() -> None:
    answer = Answer(
        Task.GROUND, points=(Point(3.0, 4.0),), boxes=(Box(1.0, 2.0, 5.0, 8.0, label="a cup"), Box(0.0, 0.0, 1.0, 1.0))
    )
    points = Lifted(np.array([[7.0, 8.0, 9.0]]), ("",), np.zeros(1, np.bool_))
    boxes = Lifted(np.array([[1.0, 2.0, 3.0], [math.nan] * 3]), ("", "a hole"), np.zeros(2, np.bool_))
    pose = StampedPose("base_link", (1, 0), Source.BOX, (1.0, 2.0, 2.9), (1.0, 0.0, 0.0, 0.0), Uncertainty(0.01, 0.1))
    approaches = (ApproachPose(pose.without(_REASON)), ApproachPose(pose, (3.0, 5.0), 0.06, 0.08, True))
    flat, solid = detections.of(BASE, result(answer, Positions(BASE, points, boxes, approaches=approaches)))
    assert flat.header == IMAGE
    assert [each.results[0].hypothesis.class_id for each in flat.detections] == ["the cups", "a cup", "the cups"]
    box: Any = flat.detections[1].bbox
    assert (box.center.position.x, box.center.position.y, box.size_x, box.size_y) == (3.0, 5.0, 4.0, 6.0)
    assert solid.header == BASE
    assert len(solid.detections) == 2  # One box has no position.
    plain, full = (each.bbox for each in solid.detections)
    assert (plain.center.position.z, plain.size.x) == (9.0, 0.0)
    assert (full.center.position.z, full.center.orientation.x) == (2.9, 1.0)
    assert (full.size.x, full.size.y, full.size.z) == (0.08, 0.06, 0.0)


def test_an_answer_without_parts_has_no_detections() -> None:
    assert detections.of(BASE, result(None)) == (None, None)
