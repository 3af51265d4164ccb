"""The services and the actions of the node. `requests` answers their requests."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.service import Service
from sensor_msgs.msg import Image

from robobrain_ros.action import RunTask, WatchTask
from robobrain_ros.msg import PlanContext, Progress, QueryOptions
from robobrain_ros.ros.approaching import Approaching
from robobrain_ros.ros.cameras.images import Frame
from robobrain_ros.ros.clock import Jump
from robobrain_ros.ros.delivery import qos
from robobrain_ros.ros.delivery.boundary import GuardedNode
from robobrain_ros.ros.feedback import Feedback
from robobrain_ros.ros.goals import Goal, Goals
from robobrain_ros.ros.messages.conversions import to_outcome
from robobrain_ros.ros.messages.unknown import unknown
from robobrain_ros.ros.parameters.declared import Parameters
from robobrain_ros.ros.requests.request import Comparison, TaskRequest
from robobrain_ros.ros.requests.requests import Requests
from robobrain_ros.ros.requests.selection import ImageSelection
from robobrain_ros.ros.requests.tickets import Ticket
from robobrain_ros.ros.tasks import TASKS, TaskInterface
from robobrain_ros.ros.watching import Watching
from robobrain_ros.srv import Approach

_APPROACH = "~/approach"
_ABSENCES = 2
"""Number of checks in a row without a client after which requests of a service end. Discovery can lose a client for a moment."""
_LINGER = 2.0
"""Seconds for which closed endpoints still respond, because a client requests the result of its goal separately."""


@dataclass(eq=False)
class _Call:
    """A service request in progress.

    :param seen: whether the service had a client when the request arrived or later.
    :param absences: number of checks in a row without a client, one check each second.
    """

    service: str
    ticket: Ticket[Any]
    seen: bool
    absences: int = 0

    def note_clients(self, count: int) -> None:
        """Update the number of the service's clients, and cancel the request if there are none."""
        if count:
            self.seen, self.absences = True, 0
        elif self.seen:
            self.absences += 1
            if self.absences == _ABSENCES:
                self.ticket.cancel("All clients of the service have disappeared.")


class Endpoints:
    """The services of the tasks, ~/approach, and the actions ~/run_task and ~/watch_task of a node.

    :param publish_progress: publishes an estimate of a watched task.
    """

    def __init__(
        self,
        node: GuardedNode,
        parameters: Parameters,
        requests: Requests,
        selection: ImageSelection,
        publish_progress: Callable[[Progress], None],
    ) -> None:
        self._node = node
        self._requests = requests
        self._watching = Watching(node, requests, selection, publish_progress)
        self._approaching = Approaching(parameters, requests)
        # Reentrant, because a coroutine that waits for the model must not block the other requests.
        self._group = ReentrantCallbackGroup()
        self._services: list[Service] = []
        self._actions: list[Goals] = []
        self._calls: set[_Call] = set()
        self._busy = 0
        self._closed: float | None = None

    @property
    def busy(self) -> int:
        """Requests and goals without a response or result."""
        return self._busy + sum(action.busy for action in self._actions)

    def open(self, max_queued: int) -> None:
        """Offer the services and the actions: all, or none if an exception is raised.

        :param max_queued: number of requests that can wait in the engine.
        """
        self._closed = None
        if self._services:
            return
        try:
            self._open(max_queued)
        except BaseException:
            self.destroy()
            raise

    def _open(self, max_queued: int) -> None:
        services: list[tuple[Any, str, Callable[..., Any]]] = [
            (each.service_type, f"~/{each.name}", partial(self._serve, each)) for each in TASKS.values()
        ]
        services.append((Approach, _APPROACH, self._serve_approach))
        for service_type, name, serve in services:
            self._services.append(
                self._node.create_service(
                    service_type, name, serve, callback_group=self._group, qos_profile=qos.service(max_queued)
                )
            )
        actions = ((RunTask, "~/run_task", self._run, _clear), (WatchTask, "~/watch_task", self._watching.run, _clear_watch))
        for action_type, name, work, clear in actions:
            self._actions.append(Goals(self._node, action_type, name, work, clear, depth=max_queued, group=self._group))

    def end_older(self, jump: Jump) -> None:
        """End the watched tasks whose images are from before a time jump."""
        self._watching.end_older(jump)

    def end_watches(self, reason: str) -> None:
        """End all watched tasks with CANCELED."""
        self._watching.end_all(reason)

    def on_frame(self, frame: Frame) -> None:
        """Wake the watched tasks that wait for an image of this camera."""
        self._watching.on_frame(frame)

    def close(self) -> None:
        """Remove the services and the actions, after all requests are answered and clients had time to fetch their results."""
        self._closed = time.monotonic()

    async def _serve(self, interface: TaskInterface, request: Any, response: Any) -> Any:
        with self._call(f"~/{interface.name}") as ticket:
            wanted = TaskRequest(interface.task.value, getattr(request, interface.text_field), request.options)
            if interface.takes_context:
                wanted = replace(wanted, context=request.context)
            if interface.compares:
                wanted = replace(wanted, comparison=Comparison.of(request))
            result = await self._requests.answer(wanted, ticket)
            response.outcome = to_outcome(result.error, result.note)
            interface.put_result(response, result.message)
            return response

    async def _serve_approach(self, request: Approach.Request, response: Approach.Response) -> Approach.Response:
        with self._call(_APPROACH) as ticket:
            return await self._approaching.answer(request, response, ticket)

    @contextmanager
    def _call(self, name: str) -> Iterator[Ticket[Any]]:
        """Count a request of a service as in progress, and provide its ticket."""
        call = _Call(name, self._requests.ticket(), seen=self._node.count_clients(name) > 0)
        self._calls.add(call)
        self._busy += 1
        try:
            yield call.ticket
        finally:
            self._calls.discard(call)
            self._busy -= 1

    async def _run(self, goal: Goal) -> tuple[RunTask.Result, bool]:
        """Execute a goal of ~/run_task."""
        ticket = self._requests.ticket()
        goal.cancel = ticket.cancel
        if goal.handle.is_cancel_requested:
            ticket.cancel("The goal was canceled.")
        request = goal.handle.request
        wanted = TaskRequest(request.task, request.instruction, request.options, context=request.context)
        feedback = Feedback(self._node, goal.handle)
        result = await self._requests.answer(wanted, ticket, feedback.add)
        await feedback.finish(None if result.error else result.answer, result.origin)
        message = unknown(RunTask.Result)
        message.outcome = to_outcome(result.error, result.note)
        if result.task is not None:
            TASKS[result.task].put_result(message, result.message)
        return message, result.error is None

    def on_timer(self) -> None:
        """End the goals and service requests of clients that have left, and destroy closed endpoints; called each second.

        rclpy does not report which client sent a request. Therefore requests of a service end only when the service has no client
        left. `Goals` describes the same for goals.
        """
        if self._closed is not None and not self.busy and time.monotonic() - self._closed >= _LINGER:
            self.destroy()
        clients = {name: self._node.count_clients(name) for name in {call.service for call in self._calls}}
        for call in self._calls:
            call.note_clients(clients[call.service])
        for action in self._actions:
            action.on_timer()
        self._watching.on_timer()

    def destroy(self) -> None:
        """Remove the services and the actions at once."""
        self._node.pacing.close()
        for service in self._services:
            self._node.destroy_service(service)
        for action in self._actions:
            action.destroy()
        self._services, self._actions, self._closed = [], [], None


def _clear(request: RunTask.Goal) -> None:
    request.options, request.context = QueryOptions(), PlanContext()


def _clear_watch(request: WatchTask.Goal) -> None:
    request.options, request.reference_start, request.reference_end = QueryOptions(), Image(), Image()
