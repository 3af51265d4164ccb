"""The least a node can do with an image: a bare rclpy subscriber that keeps the newest and counts them."""

import contextlib
import signal
import sys

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image


class BareSubscriber(Node):
    """Subscribes to one image topic as the node robobrain does where the publisher is reliable: reliable, keep last 1."""

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
    """Subscribe until interrupted, then tell the count."""
    # rclpy's own handler ends the spinning; Python's would raise in the midst of taking an image.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    rclpy.init()
    node = BareSubscriber(sys.argv[1])
    with contextlib.suppress(ExternalShutdownException):
        rclpy.spin(node)
    print(node.count, flush=True)


if __name__ == "__main__":
    main()
