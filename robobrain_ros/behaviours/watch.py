"""A behaviour that watches a robot's task on the camera images."""

from typing import Any

from robobrain_ros.action import WatchTask as WatchTaskAction
from robobrain_ros.behaviours.base import WAIT_FOR_NODE, GoalBehaviour

TIMEOUT = 600.0
"""Seconds until the watch ends, if its goal has no timeout."""
_STATES = {getattr(WatchTaskAction.Result, name): name for name in ("SUCCEEDED", "REGRESSED", "STALLED", "TIMED_OUT")}


class WatchTask(GoalBehaviour):
    """Watches a task: RUNNING until it succeeds (SUCCESS), or until it regresses, stalls or times out (FAILURE).

    Run it in a ``Parallel`` with the behaviour that executes the task. On SUCCESS, the blackboard key contains the message
    ``Progress``.

    :param name: name of the behaviour.
    :param goal: task, cameras, references and limits. A timeout of 0 is replaced by `TIMEOUT`.
    :param key: the blackboard key that gets the newest estimate on SUCCESS. It is unset in all other cases. Empty: none.
    :param robobrain: name of the node robobrain, relative to the namespace of the tree's node, or absolute.
    :param wait_for_node: seconds to wait for the node before the status is FAILURE.
    """

    def __init__(
        self,
        name: str,
        goal: WatchTaskAction.Goal,
        *,
        key: str = "",
        robobrain: str = "robobrain",
        wait_for_node: float = WAIT_FOR_NODE,
    ) -> None:
        super().__init__(name, WatchTaskAction, f"{robobrain}/watch_task", key, wait_for_node)
        self._goal = goal

    def goal(self) -> tuple[WatchTaskAction.Goal, float]:
        """Return the goal, and the seconds until the watch ends."""
        return self._goal, self._goal.timeout or TIMEOUT

    def describe(self, feedback: Any) -> str:
        """Return the newest estimate in words."""
        return f"Progress {feedback.progress.progress:.2f}, change {feedback.progress.change:+.2f}"

    def judge(self, result: Any) -> tuple[bool, str, Any]:
        """Judge the state in which the watch ended."""
        succeeded = result.state == WatchTaskAction.Result.SUCCEEDED
        state = _STATES.get(result.state, "no decision")
        return succeeded, f"{state}: progress {result.final:.2f}, highest {result.peak:.2f}", result.progress
