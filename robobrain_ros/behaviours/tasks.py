"""Behaviours for the tasks of ~/run_task: find, plan, and ask whether something is true."""

import copy
import math
from collections.abc import Callable
from typing import Any, TypeVar

from robobrain_ros.action import RunTask
from robobrain_ros.behaviours.base import WAIT_FOR_NODE, GoalBehaviour
from robobrain_ros.core.query import Task
from robobrain_ros.core.reading.yes_or_no import read_yes_or_no
from robobrain_ros.msg import Plan as PlanMessage
from robobrain_ros.msg import PlanContext, QueryOptions
from robobrain_ros.ros.tasks import TASKS

T = TypeVar("T")

TIMEOUT = 30.0
"""Seconds until the deadline of a request whose options have no timeout."""
_SHOWN = 80
"""Length of a text in a feedback message."""
_LOCATING = (Task.POINT, Task.AFFORDANCE, Task.GROUND)


class _TaskBehaviour(GoalBehaviour):
    """Runs a task on the camera images.

    :param name: name of the behaviour.
    :param text: instruction, task or question, or a function that returns it when the behaviour starts.
    :param options: options of the request; a timeout of 0 is replaced by `TIMEOUT`. None: the node's defaults.
    :param key: the blackboard key that gets the answer's message on SUCCESS. It is unset in all other cases. Empty: none.
    :param robobrain: name of the node robobrain, relative to the namespace of the tree's node, or absolute.
    :param wait_for_node: seconds to wait for the node before the status is FAILURE.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        text: str | Callable[[], str],
        *,
        options: QueryOptions | None = None,
        key: str = "",
        robobrain: str = "robobrain",
        wait_for_node: float = WAIT_FOR_NODE,
    ) -> None:
        super().__init__(name, RunTask, f"{robobrain}/run_task", key, wait_for_node)
        self._task, self._text = task, text
        self._options = copy.copy(options) if options is not None else QueryOptions()
        self._options.timeout = self._options.timeout or TIMEOUT

    def goal(self) -> tuple[RunTask.Goal, float]:
        """Return the goal, and the seconds until its deadline."""
        goal = RunTask.Goal(task=self._task.value, instruction=_value(self._text), options=self._options)
        return goal, self._options.timeout

    def describe(self, feedback: Any) -> str:
        """Return the end of the text that the model has written."""
        doing = "Thinking" if feedback.thinking else "Answering"
        return f"{doing}: {_end_of(feedback.text)}"

    def answer(self, result: Any) -> Any:
        """Return the answer's message in the action's result."""
        return TASKS[self._task].result_in(result)


class Locate(_TaskBehaviour):
    """Finds points or bounding boxes. On SUCCESS, the blackboard key contains the message ``Affordances``.

    :param name: name of the behaviour.
    :param instruction: what to find, or a function that returns it when the behaviour starts.
    :param task: "point", "affordance" or "ground".
    :param needs_position: FAILURE if the position of the first point or bounding box is unknown.
    :param arguments: ``options``, ``key``, ``robobrain`` and ``wait_for_node``, as for all behaviours of this module.
    """

    def __init__(
        self,
        name: str,
        instruction: str | Callable[[], str],
        *,
        task: str = "point",
        needs_position: bool = False,
        **arguments: Any,
    ) -> None:
        if task not in {each.value for each in _LOCATING}:
            raise ValueError(f"{name}: task is {task!r}; it must be one of: {', '.join(each.value for each in _LOCATING)}.")
        super().__init__(name, Task(task), instruction, **arguments)
        self._needs_position = needs_position

    def judge(self, result: Any) -> tuple[bool, str, Any]:
        """Judge the answer. The outcome OK means that there is a point or a bounding box."""
        found = self.answer(result)
        first = (found.points or found.areas)[0]
        if self._needs_position and math.isnan(first.position.z):
            why = found.position_note or "the node has no depth for the camera."
            return False, f"The position is unknown: {why}", None
        return True, f"Found {_count(found.points, 'point') or _count(found.areas, 'bounding box')}.", found


class Plan(_TaskBehaviour):
    """Plans steps. On SUCCESS, the blackboard key contains the message ``Plan``.

    A plan without steps also succeeds: the task is done. With ``MODE_CHECK``, the behaviour is a condition, which holds if the
    task is done.

    :param name: name of the behaviour.
    :param task: the goal of the plan, or a function that returns it when the behaviour starts.
    :param context: robots, scene, history and mode, or a function that returns them when the behaviour starts. None: a plan in
        words, or for the robots of parameter ``robots_file``.
    :param arguments: ``options``, ``key``, ``robobrain`` and ``wait_for_node``, as for all behaviours of this module.
    """

    def __init__(
        self,
        name: str,
        task: str | Callable[[], str],
        *,
        context: PlanContext | Callable[[], PlanContext] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(name, Task.PLAN, task, **arguments)
        self._context = context

    def goal(self) -> tuple[RunTask.Goal, float]:
        """Return the goal with the context, and the seconds until its deadline."""
        goal, seconds = super().goal()
        if self._context is not None:
            goal.context = _value(self._context)
        return goal, seconds

    def judge(self, result: Any) -> tuple[bool, str, Any]:
        """Judge the plan by its verdict."""
        plan = self.answer(result)
        if plan.verdict == PlanMessage.VERDICT_NOT_DONE:
            return False, "The task is not done.", None
        if plan.verdict == PlanMessage.VERDICT_DONE:
            return True, "The task is done.", plan
        return True, f"Planned {_count(plan.steps, 'step')}.", plan


class Ask(_TaskBehaviour):
    """A condition: asks a question that the model answers with yes or no. Each run takes the time of a request.

    :param name: name of the behaviour.
    :param question: the question, or a function that returns it when the behaviour starts. It should ask for yes or no.
    :param expected: the answer with which the condition holds (SUCCESS): True for yes, False for no. Do not use an inverter
        instead: it would also invert the FAILURE of a request without an answer.
    :param arguments: ``options``, ``key``, ``robobrain`` and ``wait_for_node``, as for all behaviours of this module.
    """

    def __init__(self, name: str, question: str | Callable[[], str], *, expected: bool = True, **arguments: Any) -> None:
        super().__init__(name, Task.ASK, question, **arguments)
        self._expected = expected

    def judge(self, result: Any) -> tuple[bool, str, Any]:
        """Judge the answer: yes, no, or neither."""
        answer = self.answer(result)
        holds = read_yes_or_no(answer.text)
        if holds is None:
            return False, f'The answer is neither yes nor no: "{_end_of(answer.text)}". Rephrase the question.', None
        return holds is self._expected, f"The answer is {'yes' if holds else 'no'}.", answer


def _value(given: T | Callable[[], T]) -> T:
    """Return the value, or what the function returns."""
    return given() if callable(given) else given


def _count(parts: Any, what: str) -> str:
    """Return such as "2 points", or an empty text if there are none."""
    plural = f"{what}es" if what.endswith("x") else f"{what}s"
    return f"{len(parts)} {what if len(parts) == 1 else plural}" if parts else ""


def _end_of(text: str) -> str:
    """Return the end of a text as one line."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"...{line[-_SHOWN:]}"
