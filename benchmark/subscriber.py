"""A minimal rclpy subscriber: it stores the newest image, and counts the images."""

import contextlib
import signal
import sys

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image


class BareSubscriber(Node):
    """Subscribes to an image topic like the node robobrain if the publisher is reliable: reliable, keep last, depth 1."""

    def __init__(self, topic: str) -> None:
        super().__init__("bare_subscriber")
        self.newest: Image | None = None
        self.count = 0
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        self.create_subscription(Image, topic, self._keep, qos)

    def _keep(self, message: Image) -> None:
        self.newest = message
        self.count += 1


def main() -> None:
    """Subscribe until the process is interrupted. Then print the count."""
    # rclpy's signal handler ends spinning. Python's handler would raise an exception while an image is taken.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    rclpy.init()
    node = BareSubscriber(sys.argv[1])
    with contextlib.suppress(ExternalShutdownException):
        rclpy.spin(node)
    print(node.count, flush=True)


if __name__ == "__main__":
    main()
