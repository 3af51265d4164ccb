"""Command lines of programs with ROS arguments."""

from collections.abc import Sequence


def own_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments that are not for ROS.

    rclpy's remove_ros_args is unsuitable, because it treats model:=x as a remapping, as in ROS 1.
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
