"""Ends with 0 when the node of this machine is active, otherwise with 1 and a sentence: python healthcheck.py [NODE]."""

import sys

import rclpy
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState

LIMIT = 5.0
"""Seconds for each: that the node is found, and that it answers."""


def look(name: str) -> str:
    """What is wrong with a node, as a sentence; empty: it is active."""
    node = rclpy.create_node("healthcheck")
    try:
        client = node.create_client(GetState, f"{name}/get_state")
        if not client.wait_for_service(LIMIT):
            return f"There is no node {name}."
        future = client.call_async(GetState.Request())
        rclpy.spin_until_future_complete(node, future, timeout_sec=LIMIT)
        if not future.done():
            return f"{name} does not answer."
        state = future.result().current_state
        return "" if state.id == State.PRIMARY_STATE_ACTIVE else f"{name} is {state.label}."
    finally:
        node.destroy_node()


def main() -> None:
    """Look, and end."""
    rclpy.init()
    try:
        fault = look(sys.argv[1] if len(sys.argv) > 1 else "/robobrain")
    finally:
        rclpy.try_shutdown()
    sys.exit(fault or 0)


if __name__ == "__main__":
    main()
