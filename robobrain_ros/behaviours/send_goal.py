"""A behaviour for the actions of other nodes, such as those of Nav2 and MoveIt."""

from collections.abc import Callable
from typing import Any

from action_msgs.msg import GoalStatus

from robobrain_ros.behaviours.base import WAIT_FOR_NODE, GoalBehaviour
from robobrain_ros.bounds.texts import shortened

TIMEOUT = 300.0
"""Seconds until a goal counts as failed, by default."""
_SHOWN = 200
"""Characters of a result in a feedback message. A result of MoveIt can contain a whole trajectory."""
_STATES = {GoalStatus.STATUS_ABORTED: "The goal was aborted", GoalStatus.STATUS_CANCELED: "The goal was canceled"}


class SendGoal(GoalBehaviour):
    """Sends a goal to any action. The status is SUCCESS if the goal succeeded.

    :param name: name of the behaviour.
    :param action_type: type of the action, such as ``nav2_msgs.action.NavigateToPose``.
    :param action: name of the action, relative to the namespace of the tree's node, or absolute.
    :param goal: function that returns the goal when the behaviour starts, for example from the blackboard.
    :param key: the blackboard key that gets the result's message on SUCCESS. It is unset in all other cases. Empty: none.
    :param timeout: seconds until the status is FAILURE and the goal is canceled.
    :param wait_for_node: seconds to wait for the action before the status is FAILURE.
    """

    def __init__(
        self,
        name: str,
        action_type: Any,
        action: str,
        goal: Callable[[], Any],
        *,
        key: str = "",
        timeout: float = TIMEOUT,
        wait_for_node: float = WAIT_FOR_NODE,
    ) -> None:
        super().__init__(name, action_type, action, key, wait_for_node)
        self._goal, self._timeout = goal, timeout

    def goal(self) -> tuple[Any, float]:
        """Return the goal, and the seconds until it counts as failed."""
        return self._goal(), self._timeout

    def fault(self, result: Any, status: int) -> str:
        """Return how the goal ended, if it did not succeed, with the beginning of the result, which contains an error code."""
        if status == GoalStatus.STATUS_SUCCEEDED:
            return ""
        return f"{_STATES.get(status, 'The goal did not succeed')}: {shortened(str(result), _SHOWN)}"

    def judge(self, result: Any) -> tuple[bool, str, Any]:
        """Judge the result of a goal that succeeded."""
        return True, "The goal succeeded.", result

    def describe(self, feedback: Any) -> str:
        """Return that the action works on the goal."""
        return f"{self.name} is running."
