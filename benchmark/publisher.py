"""Publish one constant image at a rate, as a camera driver: `python publisher.py TOPIC WIDTH HEIGHT RATE`."""

import array
import contextlib
import sys

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image


class StillCamera(Node):
    """A bgr8 camera with a constant image, so that the publisher needs little CPU time."""

    def __init__(self, topic: str, width: int, height: int, rate: float) -> None:
        super().__init__("still_camera")
        self._message = Image(width=width, height=height, step=width * 3, encoding="bgr8")
        self._message.header.frame_id = "camera_optical_frame"
        self._message.data = array.array("B", bytes(range(250)) * (width * height * 3 // 250 + 1))[: width * height * 3]
        self._publisher = self.create_publisher(Image, topic, QoSProfile(depth=2))
        self.create_timer(1.0 / rate, self._publish)

    def _publish(self) -> None:
        self._message.header.stamp = self.get_clock().now().to_msg()
        self._publisher.publish(self._message)


def main() -> None:
    """Publish until the process is interrupted."""
    topic, width, height, rate = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    rclpy.init()
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(StillCamera(topic, width, height, rate))


if __name__ == "__main__":
    main()
