"""The services and the action: messages in, messages out; what happens between is `requests`."""

import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.service import Service

from robobrain_ros.action import RunTask
from robobrain_ros.core.query import Answer, Progress, Task
from robobrain_ros.ros.conversions import Origin, add_progress, to_outcome
from robobrain_ros.ros.requests import Asked, Requests
from robobrain_ros.ros.services import RESULT_FIELDS, SERVICES
from robobrain_ros.ros.tickets import Ticket

_ACQUAINTANCE = 5.0
"""Seconds after a goal's arrival in which who sent it must have been discovered."""
_LINGER = 2.0
"""Seconds in which what was closed still answers: who sent a goal asks for its result in a second request."""
_FEEDBACK = "~/run_task/_action/feedback"


@dataclass
class _Goal:
    """A goal that is worked on. ``listeners``: those who heard feedback when it came; one of them has sent it."""

    ticket: Ticket[Answer]
    began: float
    listeners: set[bytes] = field(default_factory=set)


class Endpoints:
    """The services ~/<task> and the action ~/run_task of a node."""

    def __init__(self, node: Node, requests: Requests) -> None:
        self._node = node
        self._requests = requests
        # Coroutines wait in it for the model; in a group of one at a time, one waiting would hold up all the others.
        self._group = ReentrantCallbackGroup()
        self._services: list[Service] = []
        self._action: ActionServer | None = None
        self._goals: dict[bytes, _Goal] = {}
        self._busy = 0
        self._closed: float | None = None

    def open(self) -> None:
        """Offer the services and the action."""
        self._closed = None
        if self._services:
            return
        for task, (service_type, text_field) in SERVICES.items():
            callback = partial(self._serve, task, text_field)
            self._services.append(
                self._node.create_service(service_type, f"~/{task.value}", callback, callback_group=self._group)
            )
        self._action = ActionServer(
            self._node,
            RunTask,
            "~/run_task",
            self._execute,
            callback_group=self._group,
            goal_callback=lambda goal: GoalResponse.ACCEPT,  # Refusals come with a reason, in the result.
            cancel_callback=self._cancel,
        )

    def close(self) -> None:
        """Take the services and the action away, once their requests have been answered and the answers fetched."""
        self._closed = time.monotonic()

    async def _serve(self, task: Task, text_field: str, request: Any, response: Any) -> Any:
        self._busy += 1
        try:
            asked = Asked(task.value, getattr(request, text_field), request.options)
            if task is Task.PLAN:
                asked = replace(asked, context=request.context)
            result = await self._requests.answer(asked)
            response.outcome = to_outcome(result.error, result.note)
            setattr(response, RESULT_FIELDS[task], result.message)
            return response
        finally:
            self._busy -= 1

    async def _execute(self, goal: ServerGoalHandle) -> RunTask.Result:
        self._busy += 1
        identity = bytes(goal.goal_id.uuid)
        ticket = self._requests.ticket()
        self._goals[identity] = _Goal(ticket, time.monotonic(), self._listeners())
        try:
            if goal.is_cancel_requested:
                ticket.cancel("The goal was canceled.")
            request = goal.request
            asked = Asked(request.task, request.instruction, request.options, context=request.context)
            result = await self._requests.answer(asked, ticket, partial(_publish_feedback, goal))
            message = RunTask.Result(outcome=to_outcome(result.error, result.note))
            if result.task is not None:
                setattr(message, RESULT_FIELDS[result.task], result.message)
            if result.error is None:
                goal.succeed()
            elif goal.is_cancel_requested:
                goal.canceled()
            else:
                goal.abort()
            return message
        finally:
            del self._goals[identity]
            self._busy -= 1

    def _cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        known = self._goals.get(bytes(goal.goal_id.uuid))
        if known is not None:
            known.ticket.cancel("The goal was canceled.")
        return CancelResponse.ACCEPT

    def attend(self) -> None:
        """End the goals of clients that are gone, and what was closed; called each second.

        An action server is not told who sent a goal. Every action client hears feedback, though: once all those who did when the
        goal came are gone, nobody waits for its result any more.
        """
        if self._closed is not None and not self._busy and time.monotonic() - self._closed >= _LINGER:
            self.destroy()
        present = self._listeners() if self._goals else set()
        for goal in self._goals.values():
            if time.monotonic() - goal.began < _ACQUAINTANCE:
                goal.listeners |= present
            if goal.listeners and goal.listeners.isdisjoint(present):
                goal.listeners.clear()
                goal.ticket.cancel("The client that sent the goal is gone.")

    def _listeners(self) -> set[bytes]:
        return {bytes(info.endpoint_gid) for info in self._node.get_subscriptions_info_by_topic(_FEEDBACK)}

    def destroy(self) -> None:
        """Take the services and the action away at once."""
        for service in self._services:
            self._node.destroy_service(service)
        if self._action is not None:
            self._action.destroy()
        self._services, self._action, self._closed = [], None, None


def _publish_feedback(goal: ServerGoalHandle, progress: Progress, origin: Origin) -> None:
    feedback = RunTask.Feedback()
    add_progress(feedback, progress, origin.width, origin.height)
    goal.publish_feedback(feedback)
