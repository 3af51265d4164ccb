"""An action server that survives exceptions, limits the rate of its responses, and repeats those that could not be sent."""

import copy
from collections.abc import Callable
from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import CallbackGroup

from robobrain_ros.ros.delivery import qos
from robobrain_ros.ros.delivery.boundary import GuardedNode, failed_response
from robobrain_ros.ros.messages.unknown import unknown

_SERVICES = {"goal": "send_goal", "cancel": "cancel_goal", "result": "get_result"}
"""rclpy's name of each kind of request, and the service of this kind."""
RESULT_TIMEOUT = 60
"""Seconds of the node's clock for which the result of an ended goal is kept. rclpy's default is 900 s."""
_WEIGHT = 10.0
"""Weight of a response. Each change of a goal's state sends the states of all goals to every action client."""


class _Redelivering:
    """rclpy's handle of an action server. It sends responses again if DDS does not know the client yet.

    :param deliver: sends a response, see `GuardedNode.deliver`.
    :param instead: returns the response to send if a result contains a value that its message type does not support.
    """

    def __init__(self, handle: Any, deliver: Callable[[Callable[[], None]], None], instead: Callable[[Exception], Any]) -> None:
        self._handle = handle
        self._deliver = deliver
        self._instead = instead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def send_cancel_response(self, header: Any, response: Any) -> None:
        self._deliver(lambda: self._handle.send_cancel_response(header, response))

    def send_result_response(self, header: Any, response: Any) -> None:
        try:
            self._deliver(lambda: self._handle.send_result_response(header, response))
        except Exception as error:  # rclpy converts the message when it sends it. It calls this method outside of `execute`.
            failed = self._instead(error)
            self._deliver(lambda: self._handle.send_result_response(header, failed))


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
        # Not for goals, because rclpy's goal handles accept only its own handle of the server.
        self._redelivering = copy.copy(self)
        self._redelivering._handle = _Redelivering(self._handle, self._deliver, self._failed_result)

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

    def _deliver(self, send: Callable[[], None], *, failed: bool = False) -> None:
        self._guarded_node.deliver(f"The action {self._name}", send, failed=failed)

    def _failed_result(self, error: Exception) -> Any:
        """Return the response for a result that cannot be sent: aborted, with the outcome ENGINE_FAILED."""
        sentence = self._guarded_node.fault(f"The action {self._name} (result)", error)
        result = failed_response(None, unknown(self._action_type.Result), sentence)
        return self._action_type.Impl.GetResultService.Response(status=GoalStatus.STATUS_ABORTED, result=result)

    async def _execute_goal_request(self, request_header_and_message: Any) -> None:
        """See `ActionServer`. If the response cannot be sent, rclpy keeps the goal and does nothing with it."""
        header, request = request_header_and_message
        goal_id = bytes(request.goal_id.uuid)
        known = goal_id in self._goal_handles
        await super()._execute_goal_request(request_header_and_message)
        goal = self._goal_handles.get(goal_id)
        if known or goal is None or goal.status != GoalStatus.STATUS_ACCEPTED:
            return
        response = self._action_type.Impl.SendGoalService.Response(accepted=True, stamp=goal._goal_info.stamp)
        self._deliver(lambda: self._handle.send_goal_response(header, response), failed=True)
        self._handle.publish_status()
        goal.execute()

    async def _execute_cancel_request(self, request_header_and_message: Any) -> None:
        """See `ActionServer`."""
        await ActionServer._execute_cancel_request(self._redelivering, request_header_and_message)

    async def _execute_get_result_request(self, request_header_and_message: Any) -> None:
        """See `ActionServer`."""
        await ActionServer._execute_get_result_request(self._redelivering, request_header_and_message)
