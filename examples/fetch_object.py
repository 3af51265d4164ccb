"""A behaviour tree that finds an object, drives to it with Nav2, finds it again, and reaches for it with MoveIt.

It needs py_trees (`pip install py_trees`), depth images, and a node robobrain whose `target_frame` is the robot's base::

    ros2 launch robobrain_ros robobrain.launch.py depth_topic:=/camera/depth target_frame:=base_link
    python3 fetch_object.py "the red mug"
"""

import argparse
import math
import sys
from typing import Any

import py_trees
import rclpy
from geometry_msgs.msg import Pose, PoseStamped, Quaternion
from moveit_msgs.action import MoveGroup
from moveit_msgs.msg import BoundingVolume, Constraints, MotionPlanRequest, OrientationConstraint, PositionConstraint
from nav2_msgs.action import NavigateToPose
from py_trees.common import Access, Status
from rclpy.executors import ExternalShutdownException
from rclpy.utilities import remove_ros_args
from shape_msgs.msg import SolidPrimitive

from robobrain_ros.behaviours import Ask, Locate, SendGoal

GROUP, LINK = "arm", "gripper"
"""The planning group of MoveIt, and the link that moves to the object."""
DISTANCE = 0.7
"""Metres between the robot's base and the object after driving."""
DOWN = Quaternion(x=1.0, y=0.0, z=0.0, w=0.0)
"""The gripper's z axis points down in a frame whose z axis points up."""
board = py_trees.blackboard.Client(name="fetch_object")
board.register_key(key="target", access=Access.READ)


def drive_goal() -> Any:
    """Return a goal for Nav2: a pose on the floor in front of the object, facing it."""
    position = board.target.points[0].position
    goal = PoseStamped(header=board.target.header)
    far = math.hypot(position.x, position.y)
    part = max(far - DISTANCE, 0.0) / far
    goal.pose.position.x, goal.pose.position.y = part * position.x, part * position.y
    yaw = math.atan2(position.y, position.x)
    goal.pose.orientation.z, goal.pose.orientation.w = math.sin(yaw / 2), math.cos(yaw / 2)
    return NavigateToPose.Goal(pose=goal)


def reach_goal() -> Any:
    """Return a goal for MoveIt: the link within 1 cm of the object, pointing down."""
    header, position = board.target.header, board.target.points[0].position
    ball = SolidPrimitive(type=SolidPrimitive.SPHERE, dimensions=[0.01])
    volume = BoundingVolume(primitives=[ball], primitive_poses=[Pose(position=position, orientation=Quaternion(w=1.0))])
    place = PositionConstraint(header=header, link_name=LINK, constraint_region=volume, weight=1.0)
    turn = OrientationConstraint(header=header, link_name=LINK, orientation=DOWN, weight=1.0)
    turn.absolute_x_axis_tolerance = turn.absolute_y_axis_tolerance = turn.absolute_z_axis_tolerance = 0.1
    constraints = Constraints(position_constraints=[place], orientation_constraints=[turn])
    request = MotionPlanRequest(group_name=GROUP, goal_constraints=[constraints], allowed_planning_time=5.0)
    return MoveGroup.Goal(request=request)


def tree_for(thing: str) -> py_trees.behaviour.Behaviour:
    """Return the tree. Each `Locate` is tried three times, for example because the queue of the node was full."""
    find = [Locate(f"find {n}", thing, needs_position=True, key="target") for n in (1, 2)]
    retry = [py_trees.decorators.Retry(f"retry {each.name}", each, num_failures=3) for each in find]
    drive = SendGoal("drive", NavigateToPose, "navigate_to_pose", drive_goal)
    reach = SendGoal("reach", MoveGroup, "move_action", reach_goal)
    children = [Ask("visible", f"Is {thing} in the image?"), retry[0], drive, retry[1], reach]
    return py_trees.composites.Sequence("fetch", memory=True, children=children)


def main() -> None:
    parser = argparse.ArgumentParser(description="Drive to an object and reach for it.")
    parser.add_argument("thing")
    given = parser.parse_args(remove_ros_args(sys.argv)[1:])
    rclpy.init()
    node = rclpy.create_node("fetch_object")
    tree = py_trees.trees.BehaviourTree(tree_for(given.thing))
    tree.setup(node=node)
    try:
        while tree.root.status in (Status.INVALID, Status.RUNNING):
            tree.tick()
            rclpy.spin_once(node, timeout_sec=0.05)  # Between the ticks, the node receives feedback and results.
        tip = tree.tip()
        print(py_trees.display.unicode_tree(tree.root, show_status=True), f"{tip.name}: {tip.feedback_message}", sep="\n")
        sys.exit(0 if tree.root.status == Status.SUCCESS else 1)
    finally:
        tree.shutdown()


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit(130)
