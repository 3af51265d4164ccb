"""Save the next image of a camera as the goal image of a task. Run the program while the camera sees the completed task::

    python3 save_goal_image.py /camera/image goal.png

The topic must have raw images in rgb8 or bgr8.
"""

import argparse
import sys

import cv2
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import qos_profile_sensor_data
from rclpy.utilities import remove_ros_args
from rclpy.wait_for_message import wait_for_message
from sensor_msgs.msg import Image

LIMIT = 10.0
"""Seconds to wait for an image."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Save the next image of a camera.")
    parser.add_argument("topic", help="topic of raw images")
    parser.add_argument("file", help="file to write, with the ending .png")
    given = parser.parse_args(remove_ros_args(sys.argv)[1:])
    if not given.file.endswith(".png"):
        parser.error("the name of the file must end with .png")
    rclpy.init()
    node = rclpy.create_node("save_goal_image")
    received, message = wait_for_message(Image, node, given.topic, qos_profile=qos_profile_sensor_data, time_to_wait=LIMIT)
    if not rclpy.ok():
        raise KeyboardInterrupt
    if not received:
        sys.exit(f"No image arrived on {node.resolve_topic_name(given.topic)} within {LIMIT:.0f} s.")
    if message.encoding not in ("rgb8", "bgr8"):
        sys.exit(f"The encoding of the image is {message.encoding}. This program reads only rgb8 and bgr8.")
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    image = rows[:, : 3 * message.width].reshape(message.height, message.width, 3)
    if not cv2.imwrite(given.file, image[:, :, ::-1] if message.encoding == "rgb8" else image):
        sys.exit(f"{given.file} cannot be written.")
    print(f"Saved {image.shape[1]}x{image.shape[0]} pixels to {given.file}.")


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit(130)
