"""The services and the action of the node. `requests` answers their requests."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rclpy.action import CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.service import Service

from robobrain_ros.action import RunTask
from robobrain_ros.core.query import Answer
from robobrain_ros.errors import EngineFailedError
from robobrain_ros.msg import PlanContext, QueryOptions
from robobrain_ros.ros.delivery import qos
from robobrain_ros.ros.delivery.action_server import GuardedActionServer
from robobrain_ros.ros.delivery.boundary import GuardedNode
from robobrain_ros.ros.feedback import Feedback
from robobrain_ros.ros.messages.conversions import to_outcome
from robobrain_ros.ros.requests.request import TaskRequest
from robobrain_ros.ros.requests.requests import Requests
from robobrain_ros.ros.requests.tickets import Ticket
from robobrain_ros.ros.tasks import TASKS, TaskInterface

_DISCOVERY = 5.0
"""Seconds after a goal's arrival within which DDS discovers the client that sent it."""
_ABSENCES = 2
"""Number of checks in a row without a client after which requests of a service end. Discovery can lose a client for a moment."""
_LINGER = 2.0
"""Seconds for which closed endpoints still respond, because a client requests the result of its goal separately."""
_ACTION = "~/run_task"
_FEEDBACK = f"{_ACTION}/_action/feedback"


@dataclass
class _Goal:
    """A goal in progress.

    :param subscribers: endpoints that subscribed to feedback when the goal arrived. One of them belongs to the goal's client.
    """

    ticket: Ticket[Answer]
    began: float
    subscribers: set[bytes] = field(default_factory=set)


@dataclass(eq=False)
class _Call:
    """A service request in progress.

    :param seen: whether the service had a client when the request arrived or later.
    :param absences: number of checks in a row without a client, one check each second.
    """

    service: str
    ticket: Ticket[Answer]
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
    """The services ~/<task> and the action ~/run_task of a node."""

    def __init__(self, node: GuardedNode, requests: Requests) -> None:
        self._node = node
        self._requests = requests
        # Reentrant, because a coroutine that waits for the model must not block the other requests.
        self._group = ReentrantCallbackGroup()
        self._services: list[Service] = []
        self._action: GuardedActionServer | None = None
        self._goals: dict[bytes, _Goal] = {}
        self._calls: set[_Call] = set()
        self._busy = 0
        self._closed: float | None = None

    @property
    def busy(self) -> int:
        """Requests and goals without a response or result."""
        return self._busy

    def open(self, max_queued: int) -> None:
        """Offer the services and the action: all, or none if an exception is raised.

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
        for interface in TASKS.values():
            self._services.append(
                self._node.create_service(
                    interface.service_type,
                    f"~/{interface.name}",
                    partial(self._serve, interface),
                    callback_group=self._group,
                    qos_profile=qos.service(max_queued),
                )
            )
        self._action = GuardedActionServer(
            self._node,
            RunTask,
            _ACTION,
            execute=self._execute,
            cancel=self._cancel,
            depth=max_queued,
            group=self._group,
        )

    def close(self) -> None:
        """Remove the services and the action, after all requests are answered and clients had time to fetch their results."""
        self._closed = time.monotonic()

    async def _serve(self, interface: TaskInterface, request: Any, response: Any) -> Any:
        name = f"~/{interface.name}"
        call = _Call(name, self._requests.ticket(), seen=self._node.count_clients(name) > 0)
        self._calls.add(call)
        self._busy += 1
        try:
            wanted = TaskRequest(interface.name, getattr(request, interface.text_field), request.options)
            if interface.takes_context:
                wanted = replace(wanted, context=request.context)
            result = await self._requests.answer(wanted, call.ticket)
            response.outcome = to_outcome(result.error, result.note)
            interface.put_result(response, result.message)
            return response
        finally:
            self._calls.discard(call)
            self._busy -= 1

    async def _execute(self, goal: ServerGoalHandle) -> RunTask.Result:
        """Execute a goal. An exception becomes its outcome."""
        self._busy += 1
        try:
            message = await self._run(goal)
        except Exception as error:
            sentence = self._node.fault(f"A goal of {_ACTION}", error)
            message = RunTask.Result(outcome=to_outcome(EngineFailedError(sentence)))
            self._end(goal, goal.abort)
        finally:
            self._goals.pop(bytes(goal.goal_id.uuid), None)
            self._busy -= 1
            # rclpy keeps an ended goal and its request, which can contain large images, until the result expires.
            goal.request.options, goal.request.context = QueryOptions(), PlanContext()
        return message

    async def _run(self, goal: ServerGoalHandle) -> RunTask.Result:
        ticket = self._requests.ticket()
        self._goals[bytes(goal.goal_id.uuid)] = _Goal(ticket, time.monotonic(), self._feedback_subscribers())
        if goal.is_cancel_requested:
            ticket.cancel("The goal was canceled.")
        request = goal.request
        wanted = TaskRequest(request.task, request.instruction, request.options, context=request.context)
        feedback = Feedback(self._node, goal)
        result = await self._requests.answer(wanted, ticket, feedback.add)
        await feedback.finish(None if result.error else result.answer, result.origin)
        message = RunTask.Result(outcome=to_outcome(result.error, result.note))
        if result.task is not None:
            TASKS[result.task].put_result(message, result.message)
        if self._action is not None:
            await self._action.turn("result")
        if result.error is None:
            self._end(goal, goal.succeed)
        elif goal.is_cancel_requested:
            self._end(goal, goal.canceled)
        else:
            self._end(goal, goal.abort)
        return message

    def _end(self, goal: ServerGoalHandle, event: Callable[[], None]) -> None:
        """Set the final state of a goal. If this fails, the result is still delivered."""
        try:
            if goal.is_active:
                event()
        except Exception as error:
            self._node.fault(f"Setting the state of a goal of {_ACTION}", error)

    def _cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        known = self._goals.get(bytes(goal.goal_id.uuid))
        if known is not None:
            known.ticket.cancel("The goal was canceled.")
        return CancelResponse.ACCEPT

    def on_timer(self) -> None:
        """End the goals and service requests of clients that have left, and destroy closed endpoints; called each second.

        rclpy does not report which client sent a request. Therefore requests of a service end only when the service has no client
        left. Every action client subscribes to the feedback, so a goal's client is one of the subscribers at the goal's arrival.
        When all of these subscribers have left, the goal's client has left.
        """
        if self._closed is not None and not self._busy and time.monotonic() - self._closed >= _LINGER:
            self.destroy()
        clients = {name: self._node.count_clients(name) for name in {call.service for call in self._calls}}
        for call in self._calls:
            call.note_clients(clients[call.service])
        present = self._feedback_subscribers() if self._goals else set()
        for goal in self._goals.values():
            if time.monotonic() - goal.began < _DISCOVERY:
                goal.subscribers |= present
            if goal.subscribers and goal.subscribers.isdisjoint(present):
                goal.subscribers.clear()
                goal.ticket.cancel("The client that sent the goal has disappeared.")

    def _feedback_subscribers(self) -> set[bytes]:
        return {bytes(info.endpoint_gid) for info in self._node.get_subscriptions_info_by_topic(_FEEDBACK)}

    def destroy(self) -> None:
        """Remove the services and the action at once."""
        self._node.pacing.close()
        for service in self._services:
            self._node.destroy_service(service)
        if self._action is not None:
            self._action.destroy()
        self._services, self._action, self._closed = [], None, None
