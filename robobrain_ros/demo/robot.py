"""The simulated robot: one arm, its description for plan requests, and the table that it works on."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from robobrain_ros.core.plans.request import DoneStep, Place, Robot, Skill, SkillEffect, StepOutcome
from robobrain_ros.demo import rearrange
from robobrain_ros.demo.layout import Layout
from robobrain_ros.demo.simulator import RELATIONS, Step, Table
from robobrain_ros.demo.world import Scene, render_layout

_OBJECT = {"type": "string", "format": "object"}


def _schema(**properties: Any) -> str:
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return json.dumps(schema)


ARM = Robot(
    "arm",
    type="an arm with a gripper",
    skills=(
        Skill("pick", "grasp an object and lift it", _schema(object=_OBJECT), SkillEffect.GRASPS, "object"),
        Skill(
            "place",
            "put the held object in, on or beside another one",
            _schema(object=_OBJECT, relation={"type": "string", "enum": list(RELATIONS)}, place=_OBJECT),
            SkillEffect.RELEASES,
            "object",
        ),
    ),
)
"""The arm that the demo model was trained to plan for."""

MOST_STEPS = 10
"""Maximum number of steps of a plan: five objects are picked and placed, because a table has at most six objects.

With a lower maximum, each step has room for more text.
"""

MOST_PLANS = 8
"""Most plan requests for a task, including the last one, whose answer is that the task is done."""

SLIPPED = "the {name} slipped and lies on the table"
MOVED = "the {name} is not where it was"
STOPPED = "the arm stopped"
"""Observations of the arm when a step fails. The demo model was trained with the first two. After others, its plans are wrong."""


def known(fault: str, name: str) -> str:
    """Return the observation after a fault of a step with this object, in a sentence that the demo model knows."""
    slipped = SLIPPED.format(name=name)
    return slipped if fault == slipped else MOVED.format(name=name) if fault else ""


def done(step: Step, outcome: StepOutcome = StepOutcome.SUCCEEDED, observation: str = "") -> DoneStep:
    """Return a step as a part of the history of a plan request."""
    return DoneStep(step.text, ARM.name, step.skill, step.arguments, outcome, observation)


@dataclass
class World:
    """The simulated table: its state, and the layout that the camera sees. Both change together.

    :param layout: layout of a scene in which no object was moved yet.
    :param rng: random numbers for the positions of objects that slip or are moved.
    """

    layout: Layout
    rng: np.random.RandomState
    table: Table = field(init=False)

    def __post_init__(self) -> None:
        self.table = Table(tuple(thing.name for thing in self.layout.things))
        self._gripper = self.layout.gripper

    def render(self) -> Scene:
        """Render the current scene."""
        return render_layout(self.layout)[0]

    def execute(self, step: Step) -> str:
        """Execute a step. Return the reason of a failure, otherwise an empty string."""
        contents = sum(place == ("in", step.place) for place in self.table.where.values())
        fault = self.table.do(step)
        if fault:
            return fault
        if step.skill == "pick":
            self.layout = rearrange.hold(self.layout, step.object)
        else:
            self._change(rearrange.put(self.layout, step.object, step.relation, step.place, contents))
        return ""

    def drop(self, name: str) -> None:
        """Put an object at another position on the table, because it slipped or a person moved it."""
        self._change(rearrange.move(self.layout, name, self.rng), open_gripper=self.table.held in ("", name))
        self.table.lie(name)

    def _change(self, layout: Layout, open_gripper: bool = True) -> None:
        self.layout = replace(layout, gripper=self._gripper) if open_gripper else layout

    def across(self, name: str) -> float:
        """Return the column at which the camera sees an object, in pixels."""
        thing = rearrange.find(self.layout, name)
        return self.layout.camera.project((thing.x, thing.y, thing.z))[0]

    def arm(self) -> Robot:
        """Return the description of the arm, with the object that it holds."""
        return replace(ARM, holding=self.table.held)

    def places(self) -> tuple[Place, ...]:
        """Return the places and their objects, for a plan request."""
        on_table = [name for name in self.table.names if name != self.table.held and self._support(name) == "table"]
        held: dict[str, list[str]] = {place: [] for place in self.table.names}
        for name in self.table.names:
            if self._support(name) in held:
                held[self._support(name)].append(name)
        others = tuple(Place(place, tuple(names)) for place, names in held.items() if names)
        return (Place("table", tuple(on_table)), *others)

    def _support(self, name: str) -> str:
        relation, place = self.table.where.get(name, ("on", "table"))
        return "table" if relation == "beside" else place
