"""One goal of an action: from sending it to its result, or to its cancellation."""

from typing import Any

from rclpy.action import ActionClient
from rclpy.action.client import ClientGoalHandle
from rclpy.task import Future


class Attempt:
    """A goal that is sent at once.

    The executor of the client's node sets the attributes, maybe in another thread than the tree's.

    :param goal: the goal message.
    """

    def __init__(self, client: ActionClient, goal: Any) -> None:
        self.feedback: Any = None
        """The newest feedback message. None: there is none yet."""
        self.result: Any = None
        """The result message. None: the goal has not ended."""
        self.status = 0
        """How the goal ended: a constant of ``action_msgs/GoalStatus``. It is set before ``result``."""
        self.fault = ""
        """Why there will be no result. Empty: it is still expected, or has arrived."""
        self._handle: ClientGoalHandle | None = None
        self._canceled = False
        client.send_goal_async(goal, feedback_callback=self._on_feedback).add_done_callback(self._on_response)

    def cancel(self) -> None:
        """Cancel the goal, if it has not ended. If the node has not accepted it yet, it is canceled as soon as it is accepted."""
        # _on_response sets the handle before it reads this flag. So one of the two methods sees both, whichever runs first.
        self._canceled = True
        if self._handle is not None and self.result is None:
            self._handle.cancel_goal_async()

    def _on_feedback(self, message: Any) -> None:
        self.feedback = message.feedback

    def _on_response(self, future: Future) -> None:
        if (error := future.exception()) is not None:
            self.fault = f"The goal could not be sent: {error}"
            return
        handle = future.result()
        if not handle.accepted:
            self.fault = "The node rejected the goal."
            return
        self._handle = handle
        if self._canceled:
            handle.cancel_goal_async()
        handle.get_result_async().add_done_callback(self._on_result)

    def _on_result(self, future: Future) -> None:
        if (error := future.exception()) is not None:
            self.fault = f"The result could not be received: {error}"
        else:
            response = future.result()
            self.status = response.status
            self.result = response.result
