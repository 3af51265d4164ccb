"""A user's node: it asks a node robobrain through its services."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

import rclpy
from rclpy.node import Node

from robobrain_ros.bounds.deadlines import CLIENT_MARGIN
from robobrain_ros.core.plans.request import PlanRequest
from robobrain_ros.core.query import Answer, Box, PlanStep, Point, Report, Task
from robobrain_ros.errors import NotReadyError, RequestTimeoutError
from robobrain_ros.msg import InferenceReport, QueryOptions
from robobrain_ros.ros.delivery import qos
from robobrain_ros.ros.messages.plans import VERDICTS, to_plan_context
from robobrain_ros.ros.tasks import RESULT_FIELDS, SERVICES

_THINK = {None: QueryOptions.THINK_DEFAULT, False: QueryOptions.THINK_OFF, True: QueryOptions.THINK_ON}
_GONE = 3.0
"""Seconds without the service after which the node is taken to have ended."""


def query_options(
    *, cameras: Sequence[str] = (), think: bool | None = None, timeout: float = 0.0, max_tokens: int = 0
) -> QueryOptions:
    """What a request may set; the defaults leave it to the node."""
    return QueryOptions(cameras=list(cameras), think=_THINK[think], timeout=timeout, max_tokens=max_tokens)


class Client(Node):
    """Asks through the services of a node robobrain.

    :param robobrain: that node's name, relative to this one's namespace, or with its own.
    :param tasks: what will be asked.
    """

    def __init__(
        self, name: str, namespace: str | None = None, robobrain: str = "robobrain", tasks: Iterable[Task] = tuple(Task)
    ) -> None:
        super().__init__(name, namespace=namespace)
        self._clients_by_task = {
            task: self.create_client(SERVICES[task][0], f"{robobrain}/{task.value}", qos_profile=qos.CLIENT) for task in tasks
        }

    def spin_until(self, condition: Callable[[], Any], seconds: float) -> bool:
        """Work off what comes until the condition holds; False: it did not within so many seconds."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() >= end:
                return False
            # In short pieces, between which a Ctrl-C is noticed.
            rclpy.spin_once(self, timeout_sec=0.1)
        return True

    def wait_for_task(self, task: Task, seconds: float) -> None:
        """Wait until the node offers the task.

        :raises NotReadyError: it does not within so many seconds.
        """
        client = self._clients_by_task[task]
        if not self.spin_until(client.service_is_ready, seconds):
            raise NotReadyError(f"The service {self.resolve_service_name(client.srv_name)} did not appear within {seconds:g} s.")

    def running_nodes(self) -> list[str]:
        """Names of the nodes robobrain in sight, with their namespaces."""
        suffix = f"/{Task.POINT.value}"
        offered = [name for name, types in self.get_service_names_and_types() if "robobrain_ros/srv/Locate" in types]
        # Names of services are those of their callers, too.
        return sorted(name.removesuffix(suffix) for name in offered if name.endswith(suffix) and self.count_services(name))

    def ask(
        self, task: Task, text: str, options: QueryOptions, patience: float = 0.0, plan: PlanRequest | None = None
    ) -> Any:
        """Ask through the task's service; gives the response.

        :param plan: what is known beside the images; for the task plan alone.
        :param patience: seconds to wait for an answer; 0: a little longer than the options' timeout.
        :raises RequestTimeoutError: none came.
        :raises NotReadyError: the node ended meanwhile.
        """
        service, field = SERVICES[task]
        client = self._clients_by_task[task]
        request = service.Request(**{field: text}, options=options)
        if plan is not None:
            request.context = to_plan_context(plan)
        future = client.call_async(request)
        patience = patience or options.timeout + CLIENT_MARGIN
        last_seen = time.monotonic()

        def ended() -> bool:
            nonlocal last_seen
            if client.service_is_ready():
                last_seen = time.monotonic()
            return future.done() or time.monotonic() - last_seen > _GONE

        self.spin_until(ended, patience)
        if future.done():
            return future.result()
        client.remove_pending_request(future)
        if time.monotonic() - last_seen > _GONE:
            name = self.resolve_service_name(client.srv_name)
            raise NotReadyError(f"The service {name} went away before it answered; the node has ended.")
        raise RequestTimeoutError(f"The node did not answer within {patience:.0f} s.")


def to_answer(task: Task, response: Any) -> Answer:
    """What a response says, as the core says it."""
    found = getattr(response, RESULT_FIELDS[task])
    answer = Answer(task, found.report.raw_text, thinking=found.report.thinking, report=read_report(found.report))
    if task in (Task.POINT, Task.AFFORDANCE, Task.GROUND):
        return replace(
            answer,
            points=tuple(Point(p.u, p.v, clamped=p.clamped, label=p.label) for p in found.points),
            boxes=tuple(Box(a.u_min, a.v_min, a.u_max, a.v_max, a.clamped, a.label) for a in found.areas),
        )
    if task is Task.TRAJECTORY:
        depths = [None if math.isnan(waypoint.depth) else waypoint.depth for waypoint in found.waypoints]
        waypoints = (Point(w.u, w.v, depth, w.clamped) for w, depth in zip(found.waypoints, depths, strict=True))
        return replace(answer, waypoints=tuple(waypoints))
    if task is Task.PLAN:
        steps = (PlanStep(step.order, step.text, step.robot, step.skill, step.arguments) for step in found.steps)
        verdict = next(verdict for verdict, number in VERDICTS.items() if number == found.verdict)
        return replace(answer, steps=tuple(steps), reasoning=found.reasoning, verdict=verdict)
    return replace(answer, text=found.text)


def read_report(message: InferenceReport) -> Report:
    """How an answer came about, as the core says it."""
    names = [field.name for field in fields(Report) if field.name != "model_image_sizes"]
    size = (message.model_image_width, message.model_image_height)
    return Report(**{name: getattr(message, name) for name in names}, model_image_sizes=[size] if all(size) else [])
