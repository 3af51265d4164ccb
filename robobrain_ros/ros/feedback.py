"""The feedback of one goal. Each message contains the whole answer so far, so a lost message does no harm."""

import math
import time

from rclpy.action.server import ServerGoalHandle

from robobrain_ros.action import RunTask
from robobrain_ros.bounds.texts import clean
from robobrain_ros.core.messages.answers import Origin
from robobrain_ros.core.query import Answer, PartialAnswer
from robobrain_ros.ros.delivery.boundary import GuardedNode
from robobrain_ros.ros.messages.conversions import to_areas, to_points, to_steps, to_waypoints

_INTERVAL = 0.05
"""Minimum seconds between messages with only new text. New points, boxes, waypoints and steps are published at once."""
_LAST_WORD = 0.03
"""Seconds between the last feedback and the result, because an rclpy client drops waiting feedback when the result arrives."""


class Feedback:
    """Collects the partial answers to a goal and publishes them. Called in the executor.

    Text is published at most 20 times a second, because each message repeats the text, and long answers have thousands of tokens.
    """

    def __init__(self, node: GuardedNode, goal: ServerGoalHandle) -> None:
        self._node = node
        self._goal = goal
        self._message = RunTask.Feedback()
        self._published = -math.inf
        self._pending = False
        """Whether there is text that has not been published."""
        self._scheduled = False

    def add(self, partial: PartialAnswer, origin: Origin) -> None:
        """Add new parts of the answer, and publish them. Never raises."""
        try:
            self._add(partial, origin)
        except Exception as error:
            self._node.fault("The feedback of a goal", error)

    async def finish(self, answer: Answer | None, origin: Origin) -> None:
        """Publish pending feedback and give the client time to receive it, before the result. Never raises.

        :param answer: the whole answer. The last feedback contains all its parts. It is None if there is no answer.
        """
        try:
            if answer is not None:
                self._complete(answer, origin)
            if self._pending:
                self._publish()
        except Exception as error:
            self._node.fault("The feedback of a goal", error)
        if time.monotonic() - self._published < _LAST_WORD:
            await self._node.pacing.sleep(_LAST_WORD)

    def _add(self, partial: PartialAnswer, origin: Origin) -> None:
        message = self._message
        message.text += clean(partial.text)
        message.thinking = partial.thinking
        _fill(message, partial, origin)
        self._pending = True
        parts = partial.points or partial.boxes or partial.waypoints or partial.steps
        if parts or time.monotonic() - self._published >= _INTERVAL:
            self._publish()
        elif not self._scheduled:
            self._scheduled = True
            self._node.start_task(self._publish_later)

    def _complete(self, answer: Answer, origin: Origin) -> None:
        """Replace the parts by those of the answer. The end of an answer can complete parts, or turn parts into thinking."""
        whole = RunTask.Feedback(sequence=self._message.sequence, text=self._message.text)
        _fill(whole, answer, origin)
        if str(whole) != str(self._message):  # Positions are NaN, which is not equal to itself.
            self._message, self._pending = whole, True

    async def _publish_later(self) -> None:
        await self._node.pacing.sleep(_INTERVAL)
        self._scheduled = False
        if self._pending:
            self._publish()

    def _publish(self) -> None:
        self._message.sequence += 1
        self._published = time.monotonic()
        self._pending = False
        self._goal.publish_feedback(self._message)


def _fill(message: RunTask.Feedback, source: Answer | PartialAnswer, origin: Origin) -> None:
    """Append the parts of an answer, or of a piece of it, to a feedback."""
    message.points.extend(to_points(source.points))
    message.areas.extend(to_areas(source.boxes, origin.width, origin.height))
    message.waypoints.extend(to_waypoints(source.waypoints))
    message.steps.extend(to_steps(source.steps))
