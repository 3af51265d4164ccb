"""The tabletop world's simulator: executes the steps of a plan, and tells whether a goal holds."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from robobrain_ros.demo.layout import NAMES

CONTAINERS = ("bowl",)
"""Kinds that things can be put into."""

_SECOND_WORDS = {"cube": "block", "cup": "mug"}
_NAME = re.compile(r"\b([a-z]+) (block|cube|ball|mug|cup|bowl)\b")
_GRASP = re.compile(r"^(?:pick up|grasp|grab|take|lift|hold)\b")
_APPROACH = re.compile(r"^(?:move the gripper|move to|reach|approach|open)\b")
_RELEASE = re.compile(r"^(?:release|place|put|drop|lower|set)\b")
_CARRY = re.compile(r"^(?:move|carry|lift|bring)\b")


@dataclass(frozen=True)
class Goal:
    """Where things shall be: each of ``things`` "in", "on" or "beside" ``place``, or "held" by the gripper (``place`` empty)."""

    relation: str
    things: tuple[str, ...]
    place: str = ""


@dataclass
class Table:
    """The state: what lies where, and what the gripper holds."""

    names: tuple[str, ...]
    held: str = ""
    near: str = ""
    """What the gripper, or the thing it holds, is above."""
    where: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Of each thing that was moved: relation and place."""

    def execute(self, step: str) -> str:
        """Execute one step in plain English.

        :returns: why it cannot be done; empty when it was.
        """
        text = step.strip().lower().rstrip(".")
        names = [f"{colour} {_SECOND_WORDS.get(kind, kind)}" for colour, kind in _NAME.findall(text)]
        missing = [name for name in names if name not in self.names]
        if missing:
            return f"there is no {missing[0]} on the table"
        if not names:
            return f"nothing on the table is named in {step!r}"
        if _APPROACH.match(text):
            self.near = names[-1]
            return ""
        lifts = self.held == names[0] and _CARRY.match(text)
        if _GRASP.match(text) and not lifts:
            return self._grasp(names[0])
        if _RELEASE.match(text):
            return self._release(text, names)
        if _CARRY.match(text):
            return self._carry(names)
        return f"{step!r} is not something that the gripper can do"

    def holds(self, goal: Goal) -> bool:
        """Whether the goal holds now."""
        if goal.relation == "held":
            return self.held in goal.things
        return not self.held and all(self.where.get(thing) == (goal.relation, goal.place) for thing in goal.things)

    def _grasp(self, name: str) -> str:
        if self.held:
            return f"the gripper holds the {self.held} already"
        self.held, self.near = name, ""
        self.where.pop(name, None)
        return ""

    def _carry(self, names: Sequence[str]) -> str:
        if self.held != names[0]:
            return f"the gripper does not hold the {names[0]}"
        self.near = names[-1] if len(names) > 1 else ""
        return ""

    def _release(self, text: str, names: Sequence[str]) -> str:
        if self.held != names[0]:
            return f"the gripper does not hold the {names[0]}"
        place = names[1] if len(names) > 1 else self.near
        if place == names[0]:
            return f"the {place} cannot be put onto itself"
        relation = _relation(text)
        if relation == "in" and place.split()[-1:] != [*CONTAINERS]:
            return f"the {place} cannot hold anything"
        self.where[names[0]] = (relation, place)
        self.held, self.near = "", ""
        return ""


def _relation(text: str) -> str:
    """How a step says that a thing shall lie to its place."""
    if re.search(r"\b(?:in|into|inside)\b", text):
        return "in"
    return "beside" if re.search(r"\b(?:next to|beside)\b", text) else "on"


def reaches_goal(names: Iterable[str], steps: Iterable[str], goal: Goal) -> tuple[bool, str]:
    """Execute a plan on a table with the named things.

    :returns: whether the goal holds afterwards, and why not.
    """
    table = Table(tuple(name for name in names if name in NAMES))
    for step in steps:
        fault = table.execute(step)
        if fault:
            return False, fault
    return (True, "") if table.holds(goal) else (False, "the goal does not hold after the last step")
