"""Command lines of programs with ROS arguments."""

import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise

from robobrain_ros.bounds.files import UnreadableFileError, read_small_file

_LARGEST_PARAMETER_FILE = 256 << 10
"""Maximum bytes of a parameter file. rcl reads twice as much in four times the time: this size takes 3 s, 1 MiB takes 40 s."""


def own_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments that are not for ROS.

    rclpy's remove_ros_args is unsuitable, because it treats model:=x as a remapping, as in ROS 1.
    """
    return [argument for argument, for_ros in _sorted(arguments) if not for_ros]


def check_parameter_files(program: str, arguments: Sequence[str]) -> None:
    """End the program with one sentence if a parameter file is no regular file, or too large.

    rcl would wait for a writer of a pipe, and read a large file for minutes, both without a word and without handling signals.

    :param program: name of the program, for the sentence.
    """
    for_ros = [argument for argument, is_for_ros in _sorted(arguments) if is_for_ros]
    for flag, path in pairwise(for_ros):
        if flag == "--params-file":
            try:
                read_small_file(path, _LARGEST_PARAMETER_FILE)
            except UnreadableFileError as error:
                sys.exit(f"{program}: the parameter file {path} cannot be read: {error}.")


def _sorted(arguments: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yield each argument, and whether it is for ROS. The marks of sections are neither."""
    for_ros = False
    for argument in arguments:
        if argument == "--ros-args":
            for_ros = True
        elif argument == "--" and for_ros:
            for_ros = False
        else:
            yield argument, for_ros
