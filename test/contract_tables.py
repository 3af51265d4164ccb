"""The requests of the contract test for each task, and the allowed responses."""

import math
from collections.abc import Sequence
from typing import Any

from contract_node import GRID, Behaviour
from lifecycle_msgs.msg import Transition

from robobrain_ros import msg as messages
from robobrain_ros.msg import Outcome
from robobrain_ros.srv import Ask, Locate, MakePlan, PredictTrajectory

DEFAULT_TIMEOUT = 3.0
"""Largest value in seconds of the parameter request_timeout in the test."""
MOST_OPEN = 150
"""Maximum number of open requests. Then the client waits for responses."""

TASKS: dict[str, tuple[Any, str, str]] = {
    "point": (Locate, "instruction", "affordances"),
    "affordance": (Locate, "instruction", "affordances"),
    "ground": (Locate, "instruction", "affordances"),
    "trajectory": (PredictTrajectory, "instruction", "trajectory"),
    "plan": (MakePlan, "task", "plan"),
    "ask": (Ask, "question", "answer"),
}
"""The service, the text field and the result field of each task."""

_CODE_NAMES = (
    "OK", "NOT_READY", "BUSY", "NO_IMAGE", "STALE_IMAGE", "BAD_IMAGE", "BAD_REQUEST", "UNSUPPORTED_TASK", "UNPARSABLE_ANSWER",
    "NOTHING_FOUND", "TIMEOUT", "CANCELED", "ENGINE_FAILED", "INFEASIBLE_PLAN", "NO_POSE",
)  # fmt: skip
CODES: dict[int, str] = {getattr(Outcome, name): name for name in _CODE_NAMES}

RESULT_TOPICS = {
    "affordances": messages.Affordances,
    "trajectory": messages.Trajectory,
    "plan": messages.Plan,
    "answer": messages.TextAnswer,
}
"""The result topics."""
TRANSITIONS: dict[str, dict[int, str]] = {
    "unconfigured": {Transition.TRANSITION_CONFIGURE: "inactive"},
    "inactive": {Transition.TRANSITION_ACTIVATE: "active", Transition.TRANSITION_CLEANUP: "unconfigured"},
    "active": {Transition.TRANSITION_DEACTIVATE: "inactive"},
}
"""The transitions that each state allows, and the states to which they lead."""

ALWAYS = {"NOT_READY", "BUSY", "NO_IMAGE", "STALE_IMAGE", "BAD_IMAGE", "CANCELED", "TIMEOUT", "ENGINE_FAILED"}
"""Outcomes that other requests, cameras, transitions and a dying engine can cause for any valid request."""
EXPECTED: dict[Behaviour, set[str]] = {
    Behaviour.OK: {"OK"},
    Behaviour.SLOW: {"OK"},
    Behaviour.BLOCK: {"OK"},
    Behaviour.FLOOD: {"OK"},
    Behaviour.HANG: set(),
    Behaviour.STUBBORN: set(),
    Behaviour.RAISE: set(),
    Behaviour.FAIL: set(),
    Behaviour.DIE: set(),
    Behaviour.GARBAGE: {"UNPARSABLE_ANSWER"},
    Behaviour.NOTHING: {"NOTHING_FOUND", "UNPARSABLE_ANSWER"},
    Behaviour.EMPTY: {"UNPARSABLE_ANSWER", "NOTHING_FOUND"},
}
"""Further outcomes that each behaviour of the engine can cause. Answers to ``ask`` can be any text."""

NUMBERS = [0.0, -0.0, 1e-11, 1e-38, 1e12, 3.4e38, math.nan, math.inf, -math.inf, -1.0, 0.05, 0.5, 20.0]
TEXTS = ["", " ", "\n", "the mug", "x" * 5_000, "<|im_end|>", "<|image_pad|>", "\x00", "{text}", "🤖" * 50, "%s %d", "]}"]


def parts_of(task: str, result: Any) -> Sequence[Any]:
    if task == "ask":
        return [result.text] if result.text else []
    if task == "plan":
        return list(result.steps)
    return list(result.waypoints) if task == "trajectory" else [*result.points, *result.areas]


def number_in_answer(task: str, result: Any) -> int | None:
    """Return the number of the image that the engine has received; None: the answer does not contain it."""
    text = result.report.raw_text.rpartition("<answer>")[2]
    digits = [int(word) for word in "".join(c if c.isdigit() else " " for c in text).split()]
    if not digits:
        return None
    if task in ("ask", "plan"):
        return digits[0] if task == "ask" else digits[1]
    return digits[0] + GRID * digits[1]
