"""Send many requests at once from a separate process, for test_ros_bursts.py.

python bursts.py KIND NODE COUNT CLIENTS DEPTH prints a JSON object with the number of requests for each outcome. "lost" is the
number of requests without a response.
"""

import collections
import json
import sys
import time
from typing import Any

import rclpy
from rclpy.action import ActionClient
from rclpy.qos import QoSProfile

from robobrain_ros.action import RunTask
from robobrain_ros.srv import Locate

PATIENCE = 40.0
"""Seconds after which a request counts as lost."""


def main(kind: str, name: str, count: int, clients: int, depth: int) -> None:
    rclpy.init()
    deep = QoSProfile(depth=depth)
    services = {f"{name}_service_qos_profile": deep for name in ("goal", "cancel", "result")}
    node = rclpy.create_node("bursts")

    def wait(futures: list[Any], limit: float = PATIENCE) -> list[Any]:
        """Return the results of the futures that are done in time."""
        end = time.monotonic() + limit
        while time.monotonic() < end and not all(future.done() for future in futures):
            rclpy.spin_once(node, timeout_sec=0.1)
        return [future.result() for future in futures if future.done()]

    def until(condition: Any) -> None:
        end = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < end:
            rclpy.spin_once(node, timeout_sec=0.1)

    if kind == "services":
        callers = [node.create_client(Locate, f"{name}/point", qos_profile=deep) for _ in range(clients)]
        until(lambda: all(caller.service_is_ready() for caller in callers))
        until(lambda: node.count_clients(f"{name}/point") == clients)
        sent = [callers[n % clients].call_async(Locate.Request(instruction=f"thing {n}")) for n in range(count)]
        ends = [response.outcome.code for response in wait(sent)]
    else:
        actors = [ActionClient(node, RunTask, f"{name}/run_task", **services) for _ in range(clients)]
        until(lambda: all(actor.server_is_ready() for actor in actors))
        goals = [actors[n % clients].send_goal_async(RunTask.Goal(task="point", instruction=f"thing {n}")) for n in range(count)]
        handles = wait(goals)
        cancels = [handle.cancel_goal_async() for handle in handles] if kind == "cancels" else []
        canceled = wait(cancels)
        assert len(canceled) == len(cancels), f"{len(cancels) - len(canceled)} cancel requests had no response"
        ends = [response.result.outcome.code for response in wait([handle.get_result_async() for handle in handles])]
    lost = count - len(ends)
    sys.stdout.write(json.dumps({"lost": lost, **{str(code): n for code, n in collections.Counter(ends).items()}}) + "\n")
    sys.stdout.flush()
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
