"""Publish targets that a robot can follow: goals, poses along a trajectory, and detections."""

from importlib import import_module
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose, PoseArray, PoseStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Header

from robobrain_ros.core.messages.frames import plain_frame
from robobrain_ros.ros.messages.poses import along_path, to_pose_stamped
from robobrain_ros.ros.parameters.declared import Parameters
from robobrain_ros.ros.requests.result import Result
from robobrain_ros.ros.views import detections

GOAL = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
"""Profile of ~/goal_pose. It is volatile, because a PoseStamped cannot express that there is no goal."""


def goals_type() -> Any:
    """Return the message type of ~/goals: nav_msgs/Goals, or geometry_msgs/PoseArray if the installed nav_msgs has no Goals."""
    return getattr(import_module("nav_msgs.msg"), "Goals", PoseArray)


class Target:
    """A latched topic that a robot can follow. An answer without positions replaces the last message by an empty one."""

    def __init__(self, node: Node, message_type: Any, topic: str, latched: QoSProfile) -> None:
        self._node = node
        self._type = message_type
        self._publisher = node.create_publisher(message_type, topic, latched)
        self._shown: tuple[str, str] | None = None
        """Query and frame of the latched message, or None if there is no message or it is empty."""

    def show(self, query: str, header: Header, message: Any) -> None:
        """Publish the message of a query. None replaces the latched message by an empty one, if it belongs to this query.

        :param header: header of the empty message. If it has no frame, the empty message gets the frame of the latched message
            and the current time.
        """
        if message is not None:
            self._shown = query, header.frame_id
            self._publisher.publish(message)
        elif self._shown is not None and self._shown[0] == query:
            if not header.frame_id:
                header = Header(stamp=self._node.get_clock().now().to_msg(), frame_id=self._shown[1])
            self._shown = None
            self._publisher.publish(self._type(header=header))

    def clear(self) -> None:
        """Replace the latched message of any query by an empty one."""
        if self._shown is not None:
            self.show(self._shown[0], Header(), None)

    def close(self) -> None:
        """Replace the latched message by an empty one, and destroy the publisher."""
        self.clear()
        self._node.destroy_publisher(self._publisher)


class MotionTopics:
    """Publishes ~/goal_pose, ~/goals and ~/trajectory/poses, and ~/detections_2d and ~/detections_3d if vision_msgs is installed.

    All poses are in ``target_frame`` (parameter) if it is set. The topics are latched, except ~/goal_pose.
    """

    def __init__(self, node: Node, parameters: Parameters, latched: QoSProfile) -> None:
        self._node = node
        self._parameters = parameters
        self._goals_type = goals_type()
        self._goal = node.create_publisher(PoseStamped, "~/goal_pose", GOAL)
        self._goals = Target(node, self._goals_type, "~/goals", latched)
        self._poses = Target(node, PoseArray, "~/trajectory/poses", latched)
        self._targets = [self._goals, self._poses]
        self._detections: list[Target] = []
        if detections.available():
            types = detections.message_types()
            topics = ("~/detections_2d", "~/detections_3d")
            self._detections = [Target(node, kind, topic, latched) for kind, topic in zip(types, topics, strict=True)]
            self._targets += self._detections

    def show(self, query: str, header: Header, result: Result) -> None:
        """Publish the targets of an answer. A target that the answer does not have is cleared."""
        approaches = result.positions.approaches if result.answer and result.positions else ()
        poses = [to_pose_stamped(approach.pose) for approach in approaches if approach.pose.available]
        self._goals.show(query, header, self._to_goals(poses) if poses else None)
        if poses:
            self._goal.publish(poses[0])
        along = self._along_trajectory(header, result)
        self._poses.show(query, header, PoseArray(header=header, poses=along) if along else None)
        for target, message in zip(self._detections, detections.of(header, result) if self._detections else (), strict=True):
            target.show(query, header, message)

    def _to_goals(self, poses: list[PoseStamped]) -> Any:
        header = poses[0].header
        if self._goals_type is PoseArray:
            return PoseArray(header=header, poses=[pose.pose for pose in poses])
        return self._goals_type(header=header, goals=poses)

    def _along_trajectory(self, header: Header, result: Result) -> list[Pose]:
        """Return the poses of a trajectory. Empty: it has none, or they are not in ``target_frame``."""
        followed = result.positions.followed if result.answer and result.positions else None
        target = plain_frame(self._parameters["target_frame"])
        if followed is None or (target and plain_frame(header.frame_id) != target):
            return []
        return along_path(np.asarray(followed.positions, np.float64))

    def clear(self, query: str) -> None:
        """Clear the targets of a query."""
        for target in self._targets:
            target.show(query, Header(), None)

    def clear_all(self) -> None:
        """Clear all targets."""
        for target in self._targets:
            target.clear()

    def close(self) -> None:
        """Clear all targets, and destroy the publishers."""
        self._node.destroy_publisher(self._goal)
        for target in self._targets:
            target.close()
