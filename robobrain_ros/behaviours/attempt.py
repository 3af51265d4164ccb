"""One goal of an action: from sending it to its result, or to its cancellation."""

from collections.abc import Callable
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
        self.over = False
        """Whether the goal needs the client no more: it was rejected, it has ended, or its cancellation was answered."""
        self._canceled = False
        self._on_over: Callable[[], object] | None = None
        client.send_goal_async(goal, feedback_callback=self._on_feedback).add_done_callback(self._on_response)

    def cancel(self) -> None:
        """Cancel the goal, if it has not ended. If the node has not accepted it yet, it is canceled as soon as it is accepted."""
        # _on_response sets the handle before it reads this flag. So one of the two methods sees both, whichever runs first.
        self._canceled = True
        if self._handle is not None and self.result is None:
            self._cancel(self._handle)

    def when_over(self, call: Callable[[], object]) -> None:
        """Call a function when the goal is over, or at once if it is over."""
        # As in `cancel`, one of this method and _end sees both.
        self._on_over = call
        if self.over:
            self._end()

    def _end(self) -> None:
        self.over = True
        call, self._on_over = self._on_over, None
        if call is not None:
            call()

    def _cancel(self, handle: ClientGoalHandle) -> None:
        handle.cancel_goal_async().add_done_callback(lambda _: self._end())

    def _on_feedback(self, message: Any) -> None:
        self.feedback = message.feedback

    def _on_response(self, future: Future) -> None:
        if (error := future.exception()) is not None:
            self.fault = f"The goal could not be sent: {error}"
            self._end()
            return
        handle = future.result()
        if not handle.accepted:
            self.fault = "The node rejected the goal."
            self._end()
            return
        self._handle = handle
        if self._canceled:
            self._cancel(handle)
        handle.get_result_async().add_done_callback(self._on_result)

    def _on_result(self, future: Future) -> None:
        if (error := future.exception()) is not None:
            self.fault = f"The result could not be received: {error}"
        else:
            response = future.result()
            self.status = response.status
            self.result = response.result
        self._end()
