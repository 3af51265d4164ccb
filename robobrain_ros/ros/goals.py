"""The goals of an action: each gets exactly one result, also if its code raises or its client leaves."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from rclpy.action import CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import CallbackGroup

from robobrain_ros.ros.delivery.action_server import GuardedActionServer
from robobrain_ros.ros.delivery.boundary import GuardedNode, failed_response
from robobrain_ros.ros.messages.unknown import unknown

_DISCOVERY = 5.0
"""Seconds after a goal's arrival within which DDS discovers the client that sent it."""


@dataclass
class Goal:
    """A goal in progress.

    :param handle: rclpy's handle. Its request contains the goal's fields.
    :param subscribers: endpoints that subscribed to feedback when the goal arrived. One of them belongs to the goal's client.
    :param cancel: cancels the work of the goal. Its argument is the reason. The work sets it.
    """

    handle: ServerGoalHandle
    began: float
    subscribers: set[bytes] = field(default_factory=set)
    cancel: Callable[[str], None] = lambda reason: None


Work = Callable[[Goal], Awaitable[tuple[Any, bool]]]
"""Executes a goal. Returns the action's result, and whether the goal succeeded."""


class Goals:
    """The server of an action. All methods are called in the executor.

    :param work: executes each goal. If it raises, the result's outcome is ENGINE_FAILED.
    :param clear: removes large fields of a goal's request, because rclpy keeps the request until the goal's result expires.
    """

    def __init__(
        self,
        node: GuardedNode,
        action_type: Any,
        name: str,
        work: Work,
        clear: Callable[[Any], None],
        *,
        depth: int,
        group: CallbackGroup,
    ) -> None:
        self._node, self._type, self._name, self._work, self._clear = node, action_type, name, work, clear
        self._goals: dict[bytes, Goal] = {}
        self.server = GuardedActionServer(
            node, action_type, name, execute=self._execute, cancel=self._cancel, depth=depth, group=group
        )

    @property
    def busy(self) -> int:
        """Goals without a result."""
        return len(self._goals)

    def on_timer(self) -> None:
        """End the goals of clients that have left; called each second.

        Every action client subscribes to the feedback, so a goal's client is one of the subscribers at the goal's arrival. When
        all of these subscribers have left, the goal's client has left.
        """
        present = self._feedback_subscribers() if self._goals else set()
        for goal in list(self._goals.values()):
            if time.monotonic() - goal.began < _DISCOVERY:
                goal.subscribers |= present
            if goal.subscribers and goal.subscribers.isdisjoint(present):
                goal.subscribers.clear()
                goal.cancel("The client that sent the goal has disappeared.")

    def destroy(self) -> None:
        """Remove the action at once."""
        self.server.destroy()

    async def _execute(self, handle: ServerGoalHandle) -> Any:
        """Execute a goal. An exception becomes its outcome."""
        goal = self._goals[bytes(handle.goal_id.uuid)] = Goal(handle, time.monotonic(), self._feedback_subscribers())
        try:
            message, succeeded = await self._work(goal)
            await self.server.turn("result")
            self._end(handle, handle.succeed if succeeded else handle.canceled if handle.is_cancel_requested else handle.abort)
        except Exception as error:
            sentence = self._node.fault(f"A goal of {self._name}", error)
            message = failed_response(None, unknown(self._type.Result), sentence)
            self._end(handle, handle.abort)
        finally:
            self._goals.pop(bytes(handle.goal_id.uuid), None)
            self._clear(handle.request)
        return message

    def _end(self, handle: ServerGoalHandle, event: Callable[[], None]) -> None:
        """Set the final state of a goal. If this fails, the result is still delivered."""
        try:
            if handle.is_active:
                event()
        except Exception as error:
            self._node.fault(f"Setting the state of a goal of {self._name}", error)

    def _cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        known = self._goals.get(bytes(handle.goal_id.uuid))
        if known is not None:
            known.cancel("The goal was canceled.")
        return CancelResponse.ACCEPT

    def _feedback_subscribers(self) -> set[bytes]:
        topic = f"{self._name}/_action/feedback"
        return {bytes(info.endpoint_gid) for info in self._node.get_subscriptions_info_by_topic(topic)}
