"""Check that the node on this machine is active: python healthcheck.py [NODE].

The exit code is 0 if the node is active. Otherwise, it is 1, and the program prints a sentence with the reason.
"""

import sys

import rclpy
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState

LIMIT = 5.0
"""Time limit in seconds for the discovery of the node, and for its answer."""


def check_node(name: str) -> str:
    """Return a sentence about why a node is not active. Empty: it is active."""
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
    """Check the node, and exit with the result."""
    rclpy.init()
    try:
        fault = check_node(sys.argv[1] if len(sys.argv) > 1 else "/robobrain")
    finally:
        rclpy.try_shutdown()
    sys.exit(fault or 0)


if __name__ == "__main__":
    main()
