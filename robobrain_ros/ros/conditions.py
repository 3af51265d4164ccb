"""Conditions: standing queries that are answered with yes or no. Their states, and the events of changes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from std_msgs.msg import Header

from robobrain_ros.bounds.texts import clean
from robobrain_ros.core.hysteresis import DEFAULT_STABLE_FRAMES, Change, Hysteresis
from robobrain_ros.core.query import Report, Task
from robobrain_ros.errors import BadRequestError
from robobrain_ros.msg import Event, InferenceReport
from robobrain_ros.ros.clock import nanoseconds
from robobrain_ros.ros.limits import LEAST_CONFIDENCE, MOST_STABLE_FRAMES
from robobrain_ros.ros.messages.conversions import to_report
from robobrain_ros.ros.requests.result import Result

_STATES = {None: "unknown", True: "true", False: "false"}
_TYPES = {True: Event.BECAME_TRUE, False: Event.BECAME_FALSE}


@dataclass(frozen=True)
class ConditionSettings:
    """When a condition changes its state.

    :param stable_frames: number of consecutive answers that must agree.
    :param min_confidence: answers with a lower confidence do not count. Answers of unknown confidence always count.
    """

    stable_frames: int = DEFAULT_STABLE_FRAMES
    min_confidence: float = LEAST_CONFIDENCE

    @classmethod
    def checked(cls, name: str, task: Task, stable_frames: int, min_confidence: float) -> "ConditionSettings":
        """Return the settings of a request, in which 0 selects the default.

        :param name: name of the standing query.
        :raises BadRequestError: the task has no conditions, or a value is out of its bounds.
        """
        if task is not Task.ASK:
            raise BadRequestError(
                f"The standing query {name} is a condition, but its task is {task.value}. Set task to ask, or condition to false."
            )
        if stable_frames > MOST_STABLE_FRAMES:
            raise BadRequestError(
                f"stable_frames of the standing query {name} is {stable_frames}; it must be 0 (the default, "
                f"{DEFAULT_STABLE_FRAMES}) or 1 to {MOST_STABLE_FRAMES}."
            )
        if not (min_confidence == 0.0 or LEAST_CONFIDENCE <= min_confidence <= 1.0):
            raise BadRequestError(
                f"min_confidence of the standing query {name} is {min_confidence:g}; it must be 0 (all answers count) or "
                f"{LEAST_CONFIDENCE:g} to 1."
            )
        return cls(stable_frames or DEFAULT_STABLE_FRAMES, min_confidence or LEAST_CONFIDENCE)


class Condition:
    """The state of one condition.

    :param query: name of the standing query.
    :param question: question of the standing query.
    :param publish: publishes an event.
    """

    def __init__(self, settings: ConditionSettings, query: str, question: str, publish: Callable[[Event], None]) -> None:
        self.settings = settings
        self.events = 0
        """Number of published events."""
        self.uncertain = 0
        """Number of answers that did not count, because their confidence was too low."""
        self.confidence: float | None = None
        """Confidence of the newest answer. None: no answer yet, or unknown."""
        self.round = 0
        """Number of times that the state was forgotten. The answer to a request of an earlier round does not count."""
        self._query = query
        self._question = clean(question)
        self._publish = publish
        self._hysteresis = Hysteresis(settings.stable_frames)
        self._supported_by = Header()
        self._camera = ""
        self._changed_at = 0

    @property
    def state(self) -> str:
        """The state: "true", "false" or "unknown"."""
        return _STATES[self._hysteresis.state]

    @property
    def agreeing(self) -> str:
        """The progress of a possible change as text, such as "2 of 3 answers for true"; empty: the newest answer agrees."""
        hysteresis = self._hysteresis
        if hysteresis.candidate is None:
            return ""
        return f"{hysteresis.agreeing} of {hysteresis.frames} answers for {_STATES[hysteresis.candidate]}"

    def note(self, result: Result, round_: int) -> None:
        """Count the result of a request, and publish an event if the state changes. A result without an answer does not count.

        :param round_: the value of ``round`` at the start of the request.
        """
        answer = result.answer
        if answer is None or answer.holds is None or round_ != self.round:
            return
        self.confidence = answer.confidence
        if answer.confidence is not None and answer.confidence < self.settings.min_confidence:
            self.uncertain += 1
            return
        change = self._hysteresis.add(answer.holds, answer.confidence)
        if answer.holds == self._hysteresis.state:
            self._supported_by, self._camera = result.origin.header, result.origin.camera
        if change is not None:
            self._publish_change(change, answer.text, to_report(result.report, answer.thinking))

    def forget(self, reason: str) -> None:
        """Forget the state and the counted answers. If the state was known, publish that it is unknown now.

        :param reason: why, as a sentence.
        """
        self.round += 1
        known = self._hysteresis.state is not None
        self._hysteresis.reset()
        self.confidence = None
        if known:
            event = self._event(Event.BECAME_UNKNOWN, self._duration())
            event.confidence = math.nan
            event.text = clean(reason)
            event.report = to_report(Report(image_age=math.nan))
            self._send(event)

    def _publish_change(self, change: Change, text: str, report: InferenceReport) -> None:
        event = self._event(_TYPES[change.holds], math.nan if change.initial else self._duration())
        event.initial = change.initial
        event.confidence = math.nan if change.confidence is None else change.confidence
        event.frames = change.frames
        event.text = clean(text)
        event.report = report
        self._changed_at = nanoseconds(self._supported_by.stamp)
        self._send(event)

    def _event(self, type_: int, duration: float) -> Event:
        return Event(
            header=self._supported_by,
            query=self._query,
            question=self._question,
            camera=self._camera,
            type=type_,
            previous_duration=duration,
        )

    def _duration(self) -> float:
        """Return the seconds from the stamp of the last change to the stamp of the newest supporting image; NaN: no stamps."""
        now = nanoseconds(self._supported_by.stamp)
        return (now - self._changed_at) * 1e-9 if now and self._changed_at else math.nan

    def _send(self, event: Event) -> None:
        self.events += 1
        self._publish(event)
