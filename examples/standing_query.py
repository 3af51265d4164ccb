"""Ask the same question about each new image and print the answers.

The node repeats the question and publishes the answers. This program sets the question and removes it after ten answers::

    python3 standing_query.py "the red mug"
"""

import argparse
import sys
from typing import Any

import rclpy
from rclpy.client import Client
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from robobrain_ros.msg import Affordances, Outcome
from robobrain_ros.srv import SetStandingQuery

NAME = "example"
LIMIT = 60.0
"""Seconds to wait for a response."""
ANSWERS = 10


def call(node: Node, client: Client, request: Any) -> Any:
    """Return the node's response; exit with a message if there is none."""
    if not client.wait_for_service(timeout_sec=10.0):
        sys.exit(f"There is no service {client.srv_name}. Is the node running?")
    future = client.call_async(request)
    rclpy.spin_until_future_complete(node, future, timeout_sec=LIMIT)
    return future.result() if future.done() else sys.exit(f"No response from {client.srv_name} within {LIMIT:.0f} s.")


class Watcher(Node):
    """Sets the standing query and counts its answers."""

    def __init__(self, instruction: str) -> None:
        super().__init__("watcher")
        self.answers = 0
        self.instruction = instruction
        self.create_subscription(Affordances, "robobrain/affordances", self.on_answer, 10)
        self.client = self.create_client(SetStandingQuery, "robobrain/set_standing_query")

    def set_query(self, enabled: bool) -> None:
        """Set the question, or remove it."""
        request = SetStandingQuery.Request(name=NAME, enabled=enabled, task="point", instruction=self.instruction)
        request.rate = 2.0  # At most two requests per second. 0.0: no limit.
        response = call(self, self.client, request)
        if response.outcome.code != Outcome.OK:
            sys.exit(response.outcome.message)

    def on_answer(self, message: Affordances) -> None:
        """Print the points of an answer; other queries and requests also publish on this topic."""
        if message.query == NAME:
            self.answers += 1
            points = ", ".join(f"({point.u:.0f}, {point.v:.0f})" for point in message.points)
            print(f"{message.header.stamp.sec}.{message.header.stamp.nanosec:09d}: {points}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the answers of a standing query.")
    parser.add_argument("instruction")
    given = parser.parse_args(remove_ros_args(sys.argv)[1:])
    # After Ctrl-C, this program still has to remove its query. By default, ROS ends first.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    watcher = Watcher(given.instruction)
    watcher.set_query(enabled=True)
    try:
        while watcher.answers < ANSWERS:
            rclpy.spin_once(watcher, timeout_sec=0.1)  # With a timeout, so that Ctrl-C is noticed.
    finally:
        watcher.set_query(enabled=False)


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit(130)
