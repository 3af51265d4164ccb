"""Find an object and publish its approach pose as a geometry_msgs/PoseStamped, for MoveIt or your own driver.

The node needs depth images, and its parameter `target_frame` sets the frame of the pose::

    ros2 launch robobrain_ros robobrain.launch.py depth_topic:=/camera/depth target_frame:=base_link
    python3 point_to_pose.py "the red mug" base_link
"""

import argparse
import sys
from typing import Any

import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.client import Client
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.utilities import remove_ros_args

from robobrain_ros.msg import ApproachPose, Outcome, QueryOptions
from robobrain_ros.srv import Approach

LIMIT = 60.0
"""Seconds to wait for a response."""
TIMEOUT = LIMIT - 10.0
"""Seconds after which the node ends a request. It does not notice that a service client has stopped waiting."""


def call(node: Node, client: Client, request: Any) -> Any:
    """Return the node's response; exit with a message if there is none."""
    if not client.wait_for_service(timeout_sec=10.0):
        sys.exit(f"There is no service {client.srv_name}. Is the node running?")
    future = client.call_async(request)
    rclpy.spin_until_future_complete(node, future, timeout_sec=LIMIT)
    return future.result() if future.done() else sys.exit(f"No response from {client.srv_name} within {LIMIT:.0f} s.")


def find(node: Node, instruction: str, frame: str) -> ApproachPose:
    """Ask the node for the approach pose; exit with a message if there is none in this frame."""
    client = node.create_client(Approach, "robobrain/approach")
    options = QueryOptions(timeout=TIMEOUT)
    response = call(node, client, Approach.Request(instruction=instruction, options=options))
    if response.outcome.code != Outcome.OK:
        sys.exit(response.outcome.message)
    found = response.approach
    if found.pose.header.frame_id != frame:
        sys.exit(f"The node answers in {found.pose.header.frame_id}, not in {frame}. Check its parameter target_frame.")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Publish the approach pose of an object.")
    parser.add_argument("instruction")
    parser.add_argument("frame", help="frame of the pose: the node's target_frame")
    given = parser.parse_args(remove_ros_args(sys.argv)[1:])
    rclpy.init()
    node = rclpy.create_node("point_to_pose")
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)  # Late subscribers also receive it.
    publisher = node.create_publisher(PoseStamped, "target_pose", latched)
    found = find(node, given.instruction, given.frame)
    publisher.publish(found.pose)
    at = found.pose.pose.position
    node.get_logger().info(f"{given.instruction}: grasp at {at} in {given.frame}; the object is {found.width:.3f} m wide.")
    rclpy.spin(node)  # Until Ctrl-C: the pose stays published.


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit(130)
