"""Convert answers to detections of vision_msgs. The package is optional: only this module imports it."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose, Vector3
from std_msgs.msg import Header

from robobrain_ros.bounds.texts import clean
from robobrain_ros.core.approach import ApproachPose
from robobrain_ros.core.query import Box, Point
from robobrain_ros.ros.messages.poses import to_point, to_pose_stamped
from robobrain_ros.ros.requests.result import Result

_SCORE = 1.0
"""Score of each detection, because the model gives none."""


def available() -> bool:
    """Return whether vision_msgs is installed."""
    return find_spec("vision_msgs") is not None


def message_types() -> tuple[Any, Any]:
    """Return Detection2DArray and Detection3DArray."""
    messages = import_module("vision_msgs.msg")
    return messages.Detection2DArray, messages.Detection3DArray


def of(header: Header, result: Result) -> tuple[Any, Any]:
    """Return the detections of an answer in the image and in space, each None if there are none.

    :param header: header of the detections in space. Those in the image have the image's header.
    """
    messages = import_module("vision_msgs.msg")
    answer, positions = result.answer, result.positions
    parts = answer.targets if answer else ()
    name = result.origin.text
    flat = [_flat(messages, result.origin.header, part, part.label or name) for part in parts]
    lifted = [each.positions for each in (positions.points, positions.boxes) if each is not None] if positions else []
    places = np.concatenate(lifted) if lifted else np.empty((0, 3))
    approaches = positions.approaches if positions else ()
    solid = [
        _solid(messages, header, place, approaches[index] if index < len(approaches) else None, parts[index].label or name)
        for index, place in enumerate(places)
        if index < len(parts) and np.isfinite(place).all()
    ]
    return (
        messages.Detection2DArray(header=result.origin.header, detections=flat) if flat else None,
        messages.Detection3DArray(header=header, detections=solid) if solid else None,
    )


def _hypothesis(messages: Any, label: str) -> Any:
    hypothesis = messages.ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = clean(label), _SCORE
    return hypothesis


def _flat(messages: Any, header: Header, part: Point | Box, label: str) -> Any:
    detection = messages.Detection2D(header=header, results=[_hypothesis(messages, label)])
    box = detection.bbox
    if isinstance(part, Box):
        box.center.position.x, box.center.position.y = (part.u_min + part.u_max) / 2.0, (part.v_min + part.v_max) / 2.0
        box.size_x, box.size_y = part.u_max - part.u_min, part.v_max - part.v_min
    else:
        box.center.position.x, box.center.position.y = part.u, part.v
    return detection


def _solid(messages: Any, header: Header, place: Any, approach: ApproachPose | None, label: str) -> Any:
    """Return a detection in space. Its size is that of the visible surface; the unknown size along z is 0."""
    hypothesis = _hypothesis(messages, label)
    pose = Pose(position=to_point(place))
    size = Vector3()
    if approach is not None and approach.pose.available:
        pose = to_pose_stamped(approach.pose).pose
        if np.isfinite((approach.length, approach.width)).all():
            size = Vector3(x=approach.length, y=approach.width)
    hypothesis.pose.pose = pose
    return messages.Detection3D(header=header, results=[hypothesis], bbox=messages.BoundingBox3D(center=pose, size=size))
