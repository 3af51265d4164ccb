"""Ask one question about the images of several cameras.

The node's parameter `cameras` names them, such as `cameras: [head, wrist]`. The question may refer to the images by their order::

    python3 several_cameras.py "Is the mug of the first image in the gripper in the second image?" head wrist
"""

import sys

import rclpy
from rclpy.utilities import remove_ros_args

from robobrain_ros.msg import Outcome, QueryOptions
from robobrain_ros.srv import Ask


def main() -> None:
    question, *cameras = remove_ros_args(sys.argv)[1:]
    rclpy.init()
    node = rclpy.create_node("several_cameras")
    client = node.create_client(Ask, "robobrain/ask")
    client.wait_for_service()
    options = QueryOptions(cameras=cameras, timeout=60.0)
    future = client.call_async(Ask.Request(question=question, options=options))
    rclpy.spin_until_future_complete(node, future)
    response = future.result()
    if response.outcome.code != Outcome.OK:
        sys.exit(response.outcome.message)
    print(response.answer.text)
    print(f"{response.answer.report.total_time:.2f} s, {response.answer.report.prompt_tokens} prompt tokens")


if __name__ == "__main__":
    main()
