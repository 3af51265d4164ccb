"""The base of the behaviours: sends a goal when a behaviour starts, and cancels it when the tree interrupts the behaviour."""

import time
from typing import Any

import py_trees
from py_trees.common import Access, Status
from rclpy.action import ActionClient
from rclpy.node import Node

from robobrain_ros.behaviours.attempt import Attempt
from robobrain_ros.bounds.deadlines import CLIENT_GRACE
from robobrain_ros.errors import OutcomeCode

WAIT_FOR_NODE = 5.0
"""Seconds to wait for an action that is not available, by default."""
_GONE = 3.0
"""Seconds without the action after which the node counts as ended."""


class GoalBehaviour(py_trees.behaviour.Behaviour):
    """Sends a goal when it starts. Its status is RUNNING until the result arrives, then SUCCESS or FAILURE.

    No method waits for the node. The executor of the tree's node must spin between the ticks, or in another thread. If the tree
    interrupts the behaviour (status INVALID), the goal is canceled, and the engine ends the work on it.

    Subclasses implement `goal`, `judge` and `describe`.

    :param name: name of the behaviour.
    :param action_type: type of the action.
    :param action: name of the action, relative to the namespace of the tree's node, or absolute.
    :param key: the blackboard key that gets the value of `judge` on SUCCESS. It is unset in all other cases, so that no behaviour
        uses an old answer. Empty: none.
    :param wait_for_node: seconds to wait for the action before the status is FAILURE.
    """

    def __init__(self, name: str, action_type: Any, action: str, key: str, wait_for_node: float) -> None:
        super().__init__(name)
        self.result: Any = None
        """The action's result since the behaviour last started. None: there is none."""
        self._action_type, self._action, self._wait_for_node = action_type, action, wait_for_node
        self._key = key
        self._board = self.attach_blackboard_client(name=name)
        if key:
            self._board.register_key(key=key, access=Access.WRITE)
        self._node: Node | None = None
        self._client: ActionClient | None = None
        self._attempt: Attempt | None = None
        self._attempts: list[Attempt] = []  # Those that are not over, also of interrupted runs.
        self._started = self._seen = 0.0  # Values of time.monotonic().

    def goal(self) -> tuple[Any, float]:
        """Return the goal, and the seconds within which the node ends it."""
        raise NotImplementedError

    def fault(self, result: Any, status: int) -> str:
        """Return why the goal failed. Empty: it did not fail, and `judge` judges its result.

        :param status: a constant of ``action_msgs/GoalStatus``.
        """
        outcome = result.outcome
        return "" if outcome.code == OutcomeCode.OK else f"{_name_of(outcome.code)}: {outcome.message}"

    def judge(self, result: Any) -> tuple[bool, str, Any]:
        """Judge the result of a goal that did not fail.

        :return: whether the status is SUCCESS, the feedback message, and the value for the blackboard.
        """
        raise NotImplementedError

    def describe(self, feedback: Any) -> str:
        """Return the feedback message for the newest feedback of the action."""
        raise NotImplementedError

    def setup(self, **kwargs: Any) -> None:
        """Create the action client.

        :param kwargs: ``node`` is the tree's node, as in py_trees_ros.
        :raises KeyError: ``node`` is missing.
        """
        if "node" not in kwargs:
            raise KeyError(f"{self.name}: the argument node is missing. Call tree.setup(node=...) with an rclpy node.")
        if self._client is None:
            self._node = kwargs["node"]
            self._client = ActionClient(self._node, self._action_type, self._action)

    def initialise(self) -> None:
        """Forget the last answer, and send the goal if the action is available."""
        if self._client is None:
            raise RuntimeError(f"{self.name}: call tree.setup(node=...) before the first tick.")
        self.result = self._attempt = None
        self._write(None)
        self._started = self._seen = time.monotonic()

    def update(self) -> Status:
        """Return the status. It is RUNNING until the result arrives."""
        assert self._client is not None
        now, available = time.monotonic(), self._client.server_is_ready()
        if available:
            self._seen = now
        attempt = self._attempt
        if attempt is None:
            if available:
                goal, seconds = self.goal()
                self._attempt, self._ends = Attempt(self._client, goal), now + seconds + CLIENT_GRACE
                self._attempts = [*(each for each in self._attempts if not each.over), self._attempt]
            elif now - self._started > self._wait_for_node:
                return self._fail(f"There is no action {self._action}. Is the node running?")
            self.feedback_message = "Waiting for the node's answer." if available else f"Waiting for the action {self._action}."
            return Status.RUNNING
        if attempt.result is not None:
            return self._finish(attempt.result, attempt.status)
        if attempt.fault:
            return self._fail(attempt.fault)
        if now - self._seen > _GONE:
            return self._fail(f"The node ended before it answered: the action {self._action} has disappeared.")
        if now > self._ends:
            return self._fail("No result arrived in time. Was the node restarted?")
        if attempt.feedback is not None:
            self.feedback_message = self.describe(attempt.feedback)
        return Status.RUNNING

    def terminate(self, new_status: Status) -> None:
        """Cancel the goal, if it has no result."""
        attempt, self._attempt = self._attempt, None
        if attempt is None or attempt.result is not None or self._node is None or not self._node.context.ok():
            return
        attempt.cancel()
        if new_status == Status.INVALID:
            self.feedback_message = "Canceled."

    def shutdown(self) -> None:
        """Cancel the goal, and remove the action client when no goal needs it any more.

        Without the client, a goal that the node accepts later could not be canceled.
        """
        self.terminate(Status.INVALID)
        client, self._client = self._client, None
        if client is None or self._node is None or not self._node.context.ok():
            return
        attempts, self._attempts = self._attempts, []
        destroyed = False

        def destroy() -> None:
            nonlocal destroyed
            if not destroyed and all(attempt.over for attempt in attempts):
                destroyed = True
                client.destroy()

        for attempt in attempts:
            attempt.when_over(destroy)
        destroy()

    def _finish(self, result: Any, status: int) -> Status:
        self.result = result
        if why := self.fault(result, status):
            return self._fail(why)
        succeeded, self.feedback_message, value = self.judge(result)
        self._write(value if succeeded else None)
        return Status.SUCCESS if succeeded else Status.FAILURE

    def _fail(self, why: str) -> Status:
        self.feedback_message = why
        return Status.FAILURE

    def _write(self, value: Any) -> None:
        """Set the blackboard key, or unset it with None."""
        if not self._key:
            return
        if value is None:
            self._board.unset(self._key)
        else:
            self._board.set(self._key, value)


def _name_of(code: int) -> str:
    """Return the name of an outcome. A node of a newer version can send codes that this version does not know."""
    try:
        return OutcomeCode(code).name
    except ValueError:
        return f"Outcome {code}"
