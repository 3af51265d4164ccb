"""A client node: sends requests to the services of a node robobrain."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import rclpy
from rclpy.node import Node

from robobrain_ros.bounds.deadlines import CLIENT_GRACE
from robobrain_ros.core.plans.request import PlanRequest
from robobrain_ros.core.query import CAMERA_TASKS, Answer, Task
from robobrain_ros.errors import NotReadyError, RequestTimeoutError
from robobrain_ros.msg import QueryOptions
from robobrain_ros.ros.delivery import qos
from robobrain_ros.ros.messages.plans import to_plan_context
from robobrain_ros.ros.messages.reading import read_report
from robobrain_ros.ros.tasks import TASKS

_THINK = {None: QueryOptions.THINK_DEFAULT, False: QueryOptions.THINK_OFF, True: QueryOptions.THINK_ON}
_GONE = 3.0
"""Seconds without the service after which the node counts as ended."""


def query_options(
    *,
    cameras: Sequence[str] = (),
    think: bool | None = None,
    timeout: float = 0.0,
    max_tokens: int = 0,
    history_seconds: float = 0.0,
    history_frames: int = 0,
) -> QueryOptions:
    """Return the options of a request. Default values select the node's parameters."""
    return QueryOptions(
        cameras=list(cameras),
        think=_THINK[think],
        timeout=timeout,
        max_tokens=max_tokens,
        history_seconds=history_seconds,
        history_frames=history_frames,
    )


class TaskClient(Node):
    """Sends requests to the services of a node robobrain.

    :param robobrain: name of this node, relative to the client's namespace, or absolute.
    :param tasks: tasks of the requests.
    """

    def __init__(
        self, name: str, namespace: str | None = None, robobrain: str = "robobrain", tasks: Iterable[Task] = CAMERA_TASKS
    ) -> None:
        super().__init__(name, namespace=namespace)
        self._clients_by_task = {
            task: self.create_client(TASKS[task].service_type, f"{robobrain}/{TASKS[task].name}", qos_profile=qos.CLIENT)
            for task in tasks
        }

    def spin_until(self, condition: Callable[[], Any], seconds: float) -> bool:
        """Spin until the condition is true. Return False if it is not within ``seconds``."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() >= end:
                return False
            # The steps are short, so that Ctrl-C is noticed.
            rclpy.spin_once(self, timeout_sec=0.1)
        return True

    def spin_while_served(self, condition: Callable[[], Any], is_served: Callable[[], bool], seconds: float, name: str) -> bool:
        """Spin until the condition is true, as `spin_until` does, while a node offers a service or action.

        :param is_served: whether a node offers it now.
        :param name: what the node offers, to begin a sentence, such as "The action watch_task".
        :raises NotReadyError: the node ended meanwhile.
        """
        last_seen = time.monotonic()

        def ended() -> bool:
            nonlocal last_seen
            if is_served():
                last_seen = time.monotonic()
            return condition() or time.monotonic() - last_seen > _GONE

        self.spin_until(ended, seconds)
        if condition():
            return True
        if time.monotonic() - last_seen > _GONE:
            raise NotReadyError(f"{name} disappeared before it answered. The node has ended; see its log.")
        return False

    def wait_for_task(self, task: Task, seconds: float) -> None:
        """Wait until the node offers the task.

        :raises NotReadyError: the node does not offer it within ``seconds``.
        """
        client = self._clients_by_task[task]
        if not self.spin_until(client.service_is_ready, seconds):
            raise NotReadyError(f"The service {self.resolve_service_name(client.srv_name)} did not appear within {seconds:g} s.")

    def running_nodes(self) -> list[str]:
        """Return the full names of all nodes robobrain in the ROS graph."""
        suffix = f"/{TASKS[Task.POINT].name}"
        offered = [name for name, types in self.get_service_names_and_types() if "robobrain_ros/srv/Locate" in types]
        # The graph also lists services that have clients but no server.
        return sorted(name.removesuffix(suffix) for name in offered if name.endswith(suffix) and self.count_services(name))

    def ask(self, task: Task, text: str, options: QueryOptions, patience: float = 0.0, plan: PlanRequest | None = None) -> Any:
        """Send a request to the task's service, and return the response.

        :param plan: context of the task ``plan``; None for other tasks.
        :param patience: seconds to wait for the response; 0: a little longer than the timeout of the options.
        :raises RequestTimeoutError: no response arrived in time.
        :raises NotReadyError: the node ended meanwhile.
        """
        interface = TASKS[task]
        client = self._clients_by_task[task]
        request = interface.service_type.Request(**{interface.text_field: text}, options=options)
        if plan is not None:
            request.context = to_plan_context(plan)
        future = client.call_async(request)
        patience = patience or options.timeout + CLIENT_GRACE
        name = f"The service {self.resolve_service_name(client.srv_name)}"
        try:
            if not self.spin_while_served(future.done, client.service_is_ready, patience, name):
                raise RequestTimeoutError(f"The node did not answer within {patience:.0f} s.")
        finally:
            if not future.done():
                client.remove_pending_request(future)
        return future.result()


def to_answer(task: Task, response: Any) -> Answer:
    """Return the answer in a response of the task's service."""
    interface = TASKS[task]
    message = interface.result_in(response)
    report = read_report(message.report)
    return interface.read_message(Answer(task, report.raw_text, thinking=message.report.thinking, report=report), message)
