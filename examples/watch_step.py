"""Watch whether the robot completes a task. The exit code is 0 if it does. Start the program before the robot moves::

    python3 watch_step.py "put the red block in the green bowl" --goal goal.png

`save_goal_image.py` saves the goal image.
"""

import argparse
import sys
import time
from typing import Any

import cv2
import rclpy
from cv_bridge import CvBridge
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import Image

from robobrain_ros.action import WatchTask
from robobrain_ros.msg import Outcome

TIMEOUT = 120.0
"""Seconds until the watch ends."""
GRACE = 30.0
"""Seconds to wait for each response of the node. The result can come this much later than `TIMEOUT`."""
STATES = {getattr(WatchTask.Result, name): name for name in ("SUCCEEDED", "REGRESSED", "STALLED", "TIMED_OUT")}


def read_image(path: str) -> Image:
    """Return the goal image."""
    pixels = cv2.imread(path)
    return sys.exit(f"{path} cannot be read as an image.") if pixels is None else CvBridge().cv2_to_imgmsg(pixels, "bgr8")


def wait(node: Node, future: Future, seconds: float) -> Any:
    """Return the response; exit with a message if there is none."""
    end = time.monotonic() + seconds
    while not future.done() and time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)  # With a timeout, so that Ctrl-C is noticed.
    return future.result() if future.done() else sys.exit(f"No response within {seconds:.0f} s.")


def show(message: Any) -> None:
    """Print an estimate."""
    progress = message.feedback.progress
    print(f"progress {progress.progress:.2f}, change {progress.change:+.2f}, uncertainty {progress.uncertainty:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Watch whether the robot completes a task.")
    parser.add_argument("task")
    parser.add_argument("--goal", metavar="FILE", help="image of the completed task")
    parser.add_argument("--rate", type=float, default=1.0, help="estimates per second")
    given = parser.parse_args(remove_ros_args(sys.argv)[1:])
    goal = WatchTask.Goal(task=given.task, rate=given.rate, timeout=TIMEOUT)
    if given.goal:
        goal.reference_end = read_image(given.goal)
    # After Ctrl-C, this program still has to cancel its goal. By default, ROS ends first.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("watcher")
    client = ActionClient(node, WatchTask, "robobrain/watch_task")
    if not client.wait_for_server(timeout_sec=10.0):
        sys.exit("There is no action robobrain/watch_task. Is the node running?")
    handle = wait(node, client.send_goal_async(goal, feedback_callback=show), GRACE)
    if not handle.accepted:
        sys.exit("The node rejected the goal.")
    try:
        result = wait(node, handle.get_result_async(), TIMEOUT + GRACE).result
    except KeyboardInterrupt:
        wait(node, handle.cancel_goal_async(), GRACE)
        raise
    if result.outcome.code != Outcome.OK:
        sys.exit(result.outcome.message)
    print(f"{STATES[result.state]}: progress {result.final:.2f}, highest {result.peak:.2f}")
    sys.exit(0 if result.state == WatchTask.Result.SUCCEEDED else 1)


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit(130)
