"""Send many requests at once from a separate process, for test_ros_bursts.py.

python bursts.py KIND NODE COUNT CLIENTS DEPTH prints a JSON object with the number of requests for each outcome. "lost" is the
number of requests without a response. "longest_wait" is the longest time in seconds between two responses that this process read,
which is long if the machine did not run this process.
"""

import collections
import json
import sys
import time
from typing import Any

import rclpy
from rclpy.action import ActionClient
from rclpy.qos import QoSProfile

from robobrain_ros.action import RunTask, WatchTask
from robobrain_ros.srv import EstimateProgress, Locate, SetStandingQuery

PATIENCE = 25.0
"""Seconds without any response after which the open requests count as lost."""


SERVICES = {
    "services": (Locate, "point", lambda n: Locate.Request(instruction=f"thing {n}")),
    "comparisons": (EstimateProgress, "estimate_progress", lambda n: EstimateProgress.Request(task=f"thing {n}")),
    "standing": (
        SetStandingQuery,
        "set_standing_query",
        lambda n: SetStandingQuery.Request(name=f"query {n % 50}", enabled=True, task="point", instruction="thing", rate=0.001),
    ),
}
"""The type, the name and the n-th request of each service."""
ACTIONS = {
    "goals": (RunTask, "run_task", lambda n: RunTask.Goal(task="point", instruction=f"thing {n}")),
    "cancels": (RunTask, "run_task", lambda n: RunTask.Goal(task="point", instruction=f"thing {n}")),
    "watches": (WatchTask, "watch_task", lambda n: WatchTask.Goal(task=f"thing {n}", timeout=2.0)),
}
"""The type, the name and the n-th goal of each action."""


def main(kind: str, name: str, count: int, clients: int, depth: int) -> None:
    rclpy.init()
    deep = QoSProfile(depth=depth)
    services = {f"{name}_service_qos_profile": deep for name in ("goal", "cancel", "result")}
    node = rclpy.create_node("bursts")
    longest_wait = 0.0

    def wait(futures: list[Any]) -> list[Any]:
        """Return the results of the futures that are done in time."""
        nonlocal longest_wait
        done, read = 0, time.monotonic()
        while time.monotonic() < read + PATIENCE and done < len(futures):
            rclpy.spin_once(node, timeout_sec=0.1)
            before, done = done, sum(future.done() for future in futures)
            if done > before:
                waited, read = time.monotonic() - read, time.monotonic()
                longest_wait = max(longest_wait, waited if before else 0.0)
        return [future.result() for future in futures if future.done()]

    def until(condition: Any) -> None:
        end = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < end:
            rclpy.spin_once(node, timeout_sec=0.1)

    if kind in SERVICES:
        service_type, service, request = SERVICES[kind]
        callers = [node.create_client(service_type, f"{name}/{service}", qos_profile=deep) for _ in range(clients)]
        until(lambda: all(caller.service_is_ready() for caller in callers))
        until(lambda: node.count_clients(f"{name}/{service}") == clients)
        sent = [callers[n % clients].call_async(request(n)) for n in range(count)]
        ends = [response.outcome.code for response in wait(sent)]
    else:
        action_type, action, goal = ACTIONS[kind]
        actors = [ActionClient(node, action_type, f"{name}/{action}", **services) for _ in range(clients)]
        until(lambda: all(actor.server_is_ready() for actor in actors))
        goals = [actors[n % clients].send_goal_async(goal(n)) for n in range(count)]
        handles = wait(goals)
        cancels = [handle.cancel_goal_async() for handle in handles] if kind == "cancels" else []
        canceled = wait(cancels)
        assert len(canceled) == len(cancels), f"{len(cancels) - len(canceled)} cancel requests had no response"
        ends = [response.result.outcome.code for response in wait([handle.get_result_async() for handle in handles])]
    lost = count - len(ends)
    codes = {str(code): number for code, number in collections.Counter(ends).items()}
    sys.stdout.write(json.dumps({"lost": lost, "longest_wait": longest_wait, **codes}) + "\n")
    sys.stdout.flush()
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
