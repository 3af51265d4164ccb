"""Ask one question about the images of several cameras.

The node's parameter `cameras` names them, such as `cameras: [front, wrist]`. The question can refer to their order::

    python3 several_cameras.py "Does the gripper in the second image hold the mug of the first image?" front wrist
"""

import argparse
import sys
from typing import Any

import rclpy
from rclpy.client import Client
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.utilities import remove_ros_args

from robobrain_ros.msg import Outcome, QueryOptions
from robobrain_ros.srv import Ask

LIMIT = 60.0
"""Seconds to wait for a response."""
TIMEOUT = LIMIT - 10.0
"""Seconds after which the node ends a request, at the latest. Its response then arrives before `LIMIT`."""


def call(node: Node, client: Client, request: Any) -> Any:
    """Return the node's response; exit with a message if there is none."""
    if not client.wait_for_service(timeout_sec=10.0):
        sys.exit(f"There is no service {client.srv_name}. Is the node running?")
    future = client.call_async(request)
    rclpy.spin_until_future_complete(node, future, timeout_sec=LIMIT)
    return future.result() if future.done() else sys.exit(f"No response from {client.srv_name} within {LIMIT:.0f} s.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask about the images of several cameras.")
    parser.add_argument("question")
    parser.add_argument("cameras", nargs="+", help="names in the node's parameter cameras")
    given = parser.parse_args(remove_ros_args(sys.argv)[1:])
    rclpy.init()
    node = rclpy.create_node("several_cameras")
    client = node.create_client(Ask, "robobrain/ask")
    options = QueryOptions(cameras=given.cameras, timeout=TIMEOUT)
    response = call(node, client, Ask.Request(question=given.question, options=options))
    if response.outcome.code != Outcome.OK:
        sys.exit(response.outcome.message)
    print(response.answer.text)
    print(f"{response.answer.report.total_time:.2f} s, {response.answer.report.prompt_tokens} prompt tokens")


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit(130)
