"""Ask the same question about each new image and print the answers.

The node repeats the question and publishes the answers. This program sets the question and removes it after ten answers::

    python3 standing_query.py "the red mug"
"""

import sys

import rclpy
from rclpy.node import Node
from rclpy.utilities import remove_ros_args

from robobrain_ros.msg import Affordances, Outcome
from robobrain_ros.srv import SetStandingQuery

NAME = "example"
ANSWERS = 10


class Watcher(Node):
    """Sets the standing query and counts its answers."""

    def __init__(self, instruction: str) -> None:
        super().__init__("watcher")
        self.answers = 0
        self.instruction = instruction
        self.create_subscription(Affordances, "robobrain/affordances", self.on_answer, 10)
        self.client = self.create_client(SetStandingQuery, "robobrain/set_standing_query")
        self.client.wait_for_service()

    def set_query(self, enabled: bool) -> None:
        """Set the question, or remove it."""
        request = SetStandingQuery.Request(name=NAME, enabled=enabled, task="point", instruction=self.instruction)
        request.rate = 2.0  # At most twice a second; 0.0: on each new image.
        future = self.client.call_async(request)
        rclpy.spin_until_future_complete(self, future)
        if future.result().outcome.code != Outcome.OK:
            sys.exit(future.result().outcome.message)

    def on_answer(self, message: Affordances) -> None:
        """Print the points of an answer; other queries and requests also publish on this topic."""
        if message.query == NAME:
            self.answers += 1
            points = ", ".join(f"({point.u:.0f}, {point.v:.0f})" for point in message.points)
            print(f"{message.header.stamp.sec}.{message.header.stamp.nanosec:09d}: {points or 'nothing found'}", flush=True)


def main() -> None:
    rclpy.init()
    (instruction,) = remove_ros_args(sys.argv)[1:]
    watcher = Watcher(instruction)
    watcher.set_query(enabled=True)
    try:
        while watcher.answers < ANSWERS:
            rclpy.spin_once(watcher)
    finally:
        watcher.set_query(enabled=False)


if __name__ == "__main__":
    main()
