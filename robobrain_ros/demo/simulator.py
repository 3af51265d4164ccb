"""A simulator of the tabletop world. It executes the steps of a plan, and checks whether a goal is reached."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from robobrain_ros.bounds.json_text import parse_json
from robobrain_ros.demo.layout import NAMES

RELATIONS = ("in", "on", "beside")
CONTAINERS = ("bowl",)
"""Kinds of objects into which other objects can be put."""

_SECOND_WORDS = {"cube": "block", "cup": "mug"}
_NAME = re.compile(r"\b([a-z]+) (block|cube|ball|mug|cup|bowl)\b")
_GRASP = re.compile(r"^(?:pick up|grasp|grab|take|lift|hold)\b")
_APPROACH = re.compile(r"^(?:move the gripper|move to|reach|approach|open)\b")
_RELEASE = re.compile(r"^(?:release|place|put|drop|lower|set)\b")
_CARRY = re.compile(r"^(?:move|carry|lift|bring)\b")


@dataclass(frozen=True)
class Goal:
    """The goal of a plan: each of ``things`` is "in", "on" or "beside" ``place``, or "held" (``place`` is empty)."""

    relation: str
    things: tuple[str, ...]
    place: str = ""


@dataclass(frozen=True)
class Step:
    """One call of a skill of the arm. ``relation`` and ``place`` are empty for pick."""

    skill: str
    object: str
    relation: str = ""
    place: str = ""

    @property
    def text(self) -> str:
        """Return the step as text."""
        if self.skill == "pick":
            return f"Pick up the {self.object}"
        return f"Place the {self.object} {self.relation} the {self.place}"

    @property
    def arguments(self) -> str:
        """Return the arguments of the skill as JSON."""
        arguments = {"object": self.object}
        if self.skill == "place":
            arguments |= {"relation": self.relation, "place": self.place}
        return json.dumps(arguments, separators=(",", ":"))

    @classmethod
    def read(cls, skill: str, arguments: str) -> "Step":
        """Convert a step of a plan.

        :raises ValueError: the arm cannot execute such a step.
        """
        names = {"pick": {"object"}, "place": {"object", "relation", "place"}}.get(skill)
        given = parse_json(arguments or "{}")
        if names is None or not isinstance(given, dict) or set(given) != names:
            raise ValueError(f"The arm has no skill {skill!r} with the arguments {arguments}.")
        return cls(skill, **{name: str(value) for name, value in given.items()})


@dataclass
class Table:
    """The state: the places of the objects, and the object in the gripper."""

    names: tuple[str, ...]
    held: str = ""
    near: str = ""
    """The object below the gripper, or below the object that it holds."""
    where: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Relation and place of each object that was moved."""

    def copy(self) -> "Table":
        """Return an independent copy of the state."""
        return replace(self, where=dict(self.where))

    def execute(self, step: str) -> str:
        """Execute one step in plain English.

        :returns: the reason why the step failed. Empty: it succeeded.
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
            return self.pick(names[0])
        if _RELEASE.match(text):
            return self._release(text, names)
        if _CARRY.match(text):
            return self._carry(names)
        return f"{step!r} is not something that the gripper can do"

    def do(self, step: Step) -> str:
        """Execute a step. Return the reason of a failure, otherwise an empty string."""
        if step.skill == "place":
            return self.place(step.object, step.relation, step.place)
        if any(place == step.object and relation != "beside" for relation, place in self.where.values()):
            return f"something lies in or on the {step.object}"
        return self.pick(step.object)

    def holds(self, goal: Goal) -> bool:
        """Return whether the goal is reached."""
        if goal.relation == "held":
            return self.held in goal.things
        return not self.held and all(self.where.get(thing) == (goal.relation, goal.place) for thing in goal.things)

    def pick(self, name: str) -> str:
        """Grasp an object. Return the reason of a failure, otherwise an empty string."""
        if name not in self.names:
            return f"there is no {name} on the table"
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
        return self.place(names[0], _relation(text), names[1] if len(names) > 1 else self.near)

    def place(self, name: str, relation: str, place: str) -> str:
        """Put the held object "in", "on" or "beside" a place. Return the reason of a failure, otherwise an empty string."""
        if self.held != name:
            return f"the gripper does not hold the {name}"
        if relation not in RELATIONS:
            return f"nothing can be put {relation!r} a place"
        if place == name:
            return f"the {place} cannot be put onto itself"
        if place and place not in self.names:
            return f"there is no {place} on the table"
        if relation == "in" and place.split()[-1:] != [*CONTAINERS]:
            return f"the {place} cannot hold anything"
        self.where[name] = (relation, place)
        self.held, self.near = "", ""
        return ""

    def lie(self, name: str) -> None:
        """Set the place of an object to the table, because it was dropped or a person moved it."""
        self.where.pop(name, None)
        if self.held == name:
            self.held, self.near = "", ""


def _relation(text: str) -> str:
    """Return the relation of an object to its place, from the text of a step."""
    if re.search(r"\b(?:in|into|inside)\b", text):
        return "in"
    return "beside" if re.search(r"\b(?:next to|beside)\b", text) else "on"


def reaches_goal(names: Iterable[str], steps: Iterable[str], goal: Goal) -> tuple[bool, str]:
    """Execute a plan on a table with the named objects.

    :returns: whether the goal is reached afterwards, and otherwise the reason.
    """
    table = Table(tuple(name for name in names if name in NAMES))
    for step in steps:
        fault = table.execute(step)
        if fault:
            return False, fault
    return (True, "") if table.holds(goal) else (False, "the goal is not reached after the last step")
