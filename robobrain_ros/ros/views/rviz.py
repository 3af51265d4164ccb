"""Start RViz with the frame of a camera's images as its fixed frame. Used by the launch files.

RViz reads the fixed frame only at its start. The frame of a camera is known after its first image has arrived.
"""

import argparse
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import rclpy
import yaml
from ament_index_python.packages import get_package_prefix, get_package_share_directory
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CompressedImage, Image

from robobrain_ros.core.messages.frames import frame_fault

UPRIGHT = "Upright frame"
"""Name of the saved view for frames whose z axis points up, such as base_link. The first view is for optical frames."""

_TYPES: dict[str, Any] = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}


def first_frame(node: Node, topic: str, seconds: float) -> str:
    """Return the frame of the first image on a topic, raw or compressed, or an empty string if no image arrived in time."""
    # The clock is steady, because simulated time stands still until /clock is published.
    clock = rclpy.clock.Clock(clock_type=rclpy.clock.ClockType.STEADY_TIME)
    end = clock.now() + rclpy.duration.Duration(seconds=seconds)
    frames: list[str] = []
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)  # Compatible with every publisher.
    subscribed: set[str] = set()
    while not any(frames) and clock.now() < end:
        for publisher in node.get_publishers_info_by_topic(topic):
            kind = publisher.topic_type
            if kind in _TYPES and kind not in subscribed:
                subscribed.add(kind)
                node.create_subscription(_TYPES[kind], topic, lambda message: frames.append(_frame_of(message)), qos)
        rclpy.spin_once(node, timeout_sec=0.1)
    return next(filter(None, frames), "").lstrip("/")


def _frame_of(message: Any) -> str:
    frame: str = message.header.frame_id
    return "" if frame_fault(frame) else frame


def upright(configuration: str) -> str:
    """Return a copy of a configuration of RViz that starts with its saved view "Upright frame", in a temporary file.

    A configuration without this view, or one that RViz will reject itself, is returned unchanged.
    """
    try:
        content = yaml.safe_load(Path(configuration).read_text(encoding="utf-8"))
        views = content["Visualization Manager"]["Views"]
        view = next(saved for saved in views["Saved"] if saved["Name"] == UPRIGHT)
    except (OSError, ValueError, KeyError, TypeError, StopIteration, yaml.YAMLError):
        return configuration
    views["Saved"] = [views["Current"], *(saved for saved in views["Saved"] if saved is not view)]
    views["Current"] = view
    with tempfile.NamedTemporaryFile("w", prefix="robobrain_", suffix=".rviz", encoding="utf-8", delete=False) as file:
        yaml.safe_dump(content, file, sort_keys=False, allow_unicode=True)
    return file.name


def main() -> None:
    """Wait for an image, then replace this process by RViz. Unknown arguments are passed to RViz."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--image-topic", default="camera/image", help="topic whose frame becomes the fixed frame (default: %(default)s)"
    )
    parser.add_argument("--fixed-frame", default="", help="fixed frame; do not wait for an image")
    parser.add_argument(
        "--wait", type=float, default=30.0, metavar="S", help="seconds to wait for an image (default: %(default)g)"
    )
    parser.add_argument(
        "-d",
        "--display-config",
        default=str(Path(get_package_share_directory("robobrain_ros")) / "rviz" / "robobrain.rviz"),
        metavar="FILE",
        help="configuration of RViz (default: that of this package)",
    )
    options, others = parser.parse_known_args(remove_ros_args(sys.argv)[1:])
    if not 0.0 <= options.wait < math.inf:
        parser.error("--wait must be a number of seconds, at least 0")
    given = sys.argv[1:]
    ros_arguments = given[given.index("--ros-args") :] if "--ros-args" in given else []
    frame = options.fixed_frame
    if not frame:
        rclpy.init(args=ros_arguments)
        try:
            node = rclpy.create_node(f"rviz_start_{os.getpid()}")
            topic = node.resolve_topic_name(options.image_topic)
            frame = first_frame(node, topic, options.wait)
            if not frame:
                node.get_logger().warning(
                    f"No image with a frame_id arrived on {topic} within {options.wait:g} s. RViz starts with the fixed frame of "
                    "its configuration. Set another one in RViz, or start with fixed_frame:=<frame>."
                )
        except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
            sys.exit(130)
        finally:
            rclpy.try_shutdown()
    # REP 103: z points up, except in frames with "optical" in their name. The frame of an image is treated as an optical frame.
    is_upright = bool(options.fixed_frame) and "optical" not in options.fixed_frame
    configuration = upright(options.display_config) if is_upright else options.display_config
    arguments = ["-d", configuration, *others, *(["-f", frame] if frame else []), *ros_arguments]
    program = Path(get_package_prefix("rviz2")) / "lib" / "rviz2" / "rviz2"
    os.execv(program, [str(program), *arguments])


if __name__ == "__main__":
    main()
