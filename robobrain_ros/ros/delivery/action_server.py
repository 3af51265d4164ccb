"""An action server that survives exceptions and limits the rate of its responses."""

from collections.abc import Callable
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import CallbackGroup

from robobrain_ros.ros.delivery import qos
from robobrain_ros.ros.delivery.boundary import GuardedNode

_SERVICES = {"goal": "send_goal", "cancel": "cancel_goal", "result": "get_result"}
"""rclpy's name of each kind of request, and the service of this kind."""
RESULT_TIMEOUT = 60
"""Seconds of the node's clock for which the result of an ended goal is kept. rclpy's default is 900 s."""
_WEIGHT = 10.0
"""Weight of a response. Each change of a goal's state sends the states of all goals to every action client."""


class GuardedActionServer(ActionServer):
    """An action server that answers each goal, cancel and result request, and accepts every goal.

    :param execute: executes a goal. It must set the goal's state, and must not raise.
    :param cancel: called with goals whose cancel was requested.
    """

    def __init__(
        self,
        node: GuardedNode,
        action_type: Any,
        name: str,
        *,
        execute: Callable[[ServerGoalHandle], Any],
        cancel: Callable[[ServerGoalHandle], CancelResponse],
        depth: int,
        group: CallbackGroup,
    ) -> None:
        self._guarded_node = node
        self._name = name
        profile = qos.service(depth)
        super().__init__(
            node,
            action_type,
            name,
            execute,
            callback_group=group,
            goal_callback=lambda goal: GoalResponse.ACCEPT,  # An invalid goal gets a result with the reason instead.
            cancel_callback=node.guard(f"The action {name}", cancel, lambda _: CancelResponse.REJECT),
            goal_service_qos_profile=profile,
            result_service_qos_profile=profile,
            cancel_service_qos_profile=profile,
            feedback_pub_qos_profile=qos.FEEDBACK,
            result_timeout=RESULT_TIMEOUT,
        )

    async def turn(self, kind: str) -> None:
        """Wait for the turn of a response to a "goal", "cancel" or "result" request."""
        await self._guarded_node.pacing.turn(f"{self._name}/_action/{_SERVICES[kind]}", _WEIGHT)

    def take_data(self) -> dict[str, Any]:
        """See `Waitable`. Skips messages that cannot be read."""
        try:
            return super().take_data()
        except Exception as error:
            self._guarded_node.fault(f"The action {self._name}", error)
            return {}

    async def execute(self, taken_data: dict[str, Any]) -> None:
        """See `Waitable`. Handles each kind of request separately, so that an exception does not affect the others."""
        for kind, data in taken_data.items():
            try:
                if kind in _SERVICES:
                    await self.turn(kind)
                await super().execute({kind: data})
            except Exception as error:
                self._guarded_node.fault(f"The action {self._name} ({kind})", error)
