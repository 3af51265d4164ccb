"""Command lines of programs that are ROS nodes."""

from collections.abc import Sequence


def own_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of a program that are not for ROS.

    Not by rclpy's remove_ros_args, which takes model:=x for a remapping, as ROS 1 did.
    """
    own, for_ros = [], False
    for argument in arguments:
        if argument == "--ros-args":
            for_ros = True
        elif argument == "--" and for_ros:
            for_ros = False
        elif not for_ros:
            own.append(argument)
    return own
