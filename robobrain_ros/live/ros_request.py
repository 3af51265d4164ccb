"""The requests of the page to a node: goals of ~/run_task."""

import time
from dataclasses import replace
from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.node import Node

from robobrain_ros.action import RunTask
from robobrain_ros.core.query import Answer, PlanStep, Task
from robobrain_ros.errors import OutcomeCode, outcome_code
from robobrain_ros.live.feed import Feed, Question
from robobrain_ros.ros.client import query_options, to_answer
from robobrain_ros.ros.delivery import qos
from robobrain_ros.ros.messages.reading import read_affordances, read_trajectory

_GONE = 3.0
"""Seconds without the action after which the node counts as ended."""


class Requests:
    """Sends one goal at a time. All methods are called in the executor.

    :param robobrain: full name of the node.
    """

    def __init__(self, node: Node, robobrain: str, feed: Feed) -> None:
        self._name, self._feed = robobrain, feed
        self._client = ActionClient(
            node,
            RunTask,
            f"{robobrain}/run_task",
            goal_service_qos_profile=qos.CLIENT,
            result_service_qos_profile=qos.CLIENT,
            cancel_service_qos_profile=qos.CLIENT,
            feedback_sub_qos_profile=qos.FEEDBACK,
        )
        self._number = 0
        """Number of the newest goal. Messages about earlier goals are ignored."""
        self._handle: Any = None
        self._canceled = False
        self._sequence = 0
        self._seen = 0.0

    def ask(self, question: Question, camera: str) -> None:
        """Send a goal."""
        self._number += 1
        number = self._number
        self._handle, self._canceled, self._sequence, self._seen = None, False, 0, time.monotonic()
        if not self._client.server_is_ready():
            self._fail("NOT_READY", f"The node {self._name} does not offer ~/run_task. Is it running and configured?")
            return
        options = query_options(cameras=[camera] if camera else [], think=question.think or None)
        goal = RunTask.Goal(task=question.task.value, instruction=question.text, options=options)
        sent = self._client.send_goal_async(goal, feedback_callback=lambda message: self._take(number, message.feedback))
        sent.add_done_callback(lambda future: self._begin(number, question.task, future))

    def cancel(self) -> None:
        """Cancel the goal. Its outcome arrives as that of any goal."""
        self._canceled = True
        if self._handle is not None:
            self._handle.cancel_goal_async()

    def check(self, running: bool) -> None:
        """End the question if the node has ended; called each second.

        :param running: whether the node publishes /diagnostics. DDS lists the action of a killed node for up to 20 s more.
        """
        question = self._feed.question
        if question is None or question.finished or not self._number:
            return
        if running and self._client.server_is_ready():
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > _GONE:
            self._number += 1
            self._fail("NOT_READY", f"The node {self._name} ended before it answered. See its log.")

    def _fail(self, outcome: str, message: str) -> None:
        self._feed.finish(outcome, message, None)

    def _begin(self, number: int, task: Task, future: Any) -> None:
        if number != self._number:
            return
        handle = future.result()
        if not handle.accepted:
            self._fail("BAD_REQUEST", f"The node {self._name} rejected the goal.")
            return
        self._handle = handle
        if self._canceled:
            handle.cancel_goal_async()
        handle.get_result_async().add_done_callback(lambda result: self._end(number, task, result))

    def _take(self, number: int, feedback: RunTask.Feedback) -> None:
        question = self._feed.question
        if number != self._number or question is None or feedback.sequence <= self._sequence:
            return
        self._sequence = feedback.sequence
        parts: Any = feedback  # It has the fields of both messages.
        answer = read_trajectory(read_affordances(Answer(question.task), parts), parts)
        steps = tuple(PlanStep(step.order, step.text, step.robot, step.skill, step.arguments) for step in feedback.steps)
        self._feed.partial(feedback.text, feedback.thinking, replace(answer, steps=steps))

    def _end(self, number: int, task: Task, future: Any) -> None:
        if number != self._number:
            return
        response = future.result()
        outcome = response.result.outcome
        if response.status == GoalStatus.STATUS_UNKNOWN:
            self._fail("NOT_READY", f"The node {self._name} does not know the goal, because it restarted. Ask again.")
            return
        code = outcome_code(outcome.code)
        answer = to_answer(task, response.result) if code is OutcomeCode.OK else None
        self._feed.finish(code.name, outcome.message, answer)
