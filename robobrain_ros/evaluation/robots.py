"""Random robots that a user could describe in a plan request, and what their skills do on the simulated table.

The names, descriptions, argument schemas and the order of the properties are random. The prompt of a plan contains the names of
skills and arguments and the descriptions, but not the schemas. Therefore, a description states the values of a relation if they
are not "in", "on" and "beside", and a skill with a made-up name has a description.

Robots for the evaluation (``unseen``) have words that no robot for training has, see `evaluation.robot_words`:

- The robot's name, and the name of at least one skill that plans need, are always held out.
- Each other name of such a skill, and each description, is held out with probability 0.5.
- In about 40 % of the robots, the name of one argument (object, place or relation) is held out.
- Half of the values of a relation that are not "in", "on" and "beside" are held out.

So no robot for the evaluation occurs in training. The names of unneeded skills and of optional arguments are those of training.
"""

import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from robobrain_ros.bounds.json_text import parse_json
from robobrain_ros.core.plans.request import DoneStep, Robot, Skill, SkillEffect
from robobrain_ros.demo.layout import NAMES
from robobrain_ros.demo.simulator import RELATIONS, Step, Table
from robobrain_ros.evaluation import robot_words as words
from robobrain_ros.evaluation.robot_words import Words

ONE, SEPARATE = "one skill to place", "a skill for each relation"
"""Kinds of robots."""

_SHARE_OF_SEPARATE = 0.5
_SHARE_WITHOUT_OBJECT = 0.2
_SHARE_OF_MADE_UP = 0.25
_SHARE_WITHOUT_TEXT = 0.12
_SHARE_OF_OTHER_RELATIONS = 0.5
_SHARE_WITH_EFFECTS = 0.4
_SHARE_OF_OPTIONS = 0.15
_STYLES = ("_", "_", "_", "-", "", "camel", "Camel")
_OPTIONS: tuple[dict[str, Any], ...] = (
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "boolean"},
    {"type": "integer", "minimum": 0, "maximum": 9},
    {"type": "string", "enum": ["low", "high"]},
)


@dataclass(frozen=True)
class Meaning:
    """What a skill does on the table.

    :param action: "pick" or "place", as in `Step`; "open": open the gripper; empty: nothing.
    :param object: name of the argument for the object. Empty: the skill has none, and places the held object.
    :param place: name of the argument for the place.
    :param relation: name of the argument for the relation. Empty: there is only one.
    :param values: value of the argument for each relation. Without this argument, the relation of the skill is the only key.
    """

    action: str
    object: str = ""
    place: str = ""
    relation: str = ""
    values: Mapping[str, str] = field(default_factory=dict)

    def arguments(self, step: Step) -> dict[str, str]:
        """Return the arguments for a step of the simulator, in any order."""
        said = {self.object: step.object, self.place: step.place, self.relation: self.values.get(step.relation, "")}
        return {name: value for name, value in said.items() if name}

    def does(self, step: Step) -> bool:
        """Return whether the skill can do the step."""
        return self.action == step.skill and (self.action == "pick" or step.relation in self.values)

    def read(self, arguments: Mapping[str, Any], held: str) -> Step:
        """Return the step of the simulator. An unknown value gives an empty relation, which the simulator rejects.

        :param held: the object in the gripper.
        """
        thing = str(arguments.get(self.object, "")) if self.object else held
        if self.action == "pick":
            return Step("pick", thing)
        if not self.relation:
            return Step("place", thing, next(iter(self.values)), str(arguments.get(self.place, "")))
        said = str(arguments.get(self.relation, ""))
        relation = next((known for known, value in self.values.items() if value == said), "")
        return Step("place", thing, relation, str(arguments.get(self.place, "")))


@dataclass(frozen=True)
class TableRobot:
    """A robot with its description for plan requests, and the meaning of each of its skills.

    :param kind: `ONE` or `SEPARATE`.
    """

    robot: Robot
    meanings: Mapping[str, Meaning]
    kind: str = ONE

    def call(self, step: Step) -> tuple[str, dict[str, str]]:
        """Return the skill and the arguments for a step of the simulator. The arguments have the order of the schema."""
        name, meaning = next((name, it) for name, it in self.meanings.items() if it.does(step))
        given = meaning.arguments(step)
        skill = next(skill for skill in self.robot.skills if skill.name == name)
        return name, {key: given[key] for key in json.loads(skill.arguments_schema)["properties"] if key in given}

    def do(self, table: Table, skill: str, arguments: str) -> str:
        """Execute a step of a plan for this robot. Return the reason of a failure, otherwise an empty string.

        :param arguments: a JSON object as text, or empty.
        :raises ValueError: the arguments are not JSON.
        """
        meaning = self.meanings.get(skill)
        given = parse_json(arguments or "{}")
        if meaning is None or not isinstance(given, dict):
            return f"the robot has no skill {skill!r} with the arguments {arguments}"
        if meaning.action == "open" and table.held:
            table.lie(table.held)
        return table.do(meaning.read(given, table.held)) if meaning.action in ("pick", "place") else ""

    def holding(self, held: str) -> Robot:
        """Return the description of the robot, with the object that it holds."""
        return replace(self.robot, holding=held)

    def done(self, step: DoneStep) -> DoneStep:
        """Return a done step of the demo's arm as a step of this robot."""
        skill, arguments = self.call(Step.read(step.skill, step.arguments))
        return replace(step, robot=self.robot.name, skill=skill, arguments=json.dumps(arguments))


def make_robot(rng: random.Random, names: Sequence[str], unseen: bool = False) -> TableRobot:
    """Return a random robot. It depends only on the arguments.

    :param names: the objects on the table. Some schemas list them.
    :param unseen: a robot for the evaluation.
    """
    return _Maker(rng, names, unseen).robot()


def plain(name: str) -> str:
    """Return a name in lower case without separators, so that names can be compared whatever their style is."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def held_out_names() -> frozenset[str]:
    """Return the held-out names of robots and of skills that plans need, as `plain` writes them."""
    lists = (words.ROBOTS, words.PICK, words.PLACE, *words.PLACE_BY_RELATION.values())
    return frozenset(plain(name) for one in lists for name in one.held_out)


class _Maker:
    """Makes one robot. All its names have one style, and an argument has the same name in all skills."""

    def __init__(self, rng: random.Random, names: Sequence[str], unseen: bool) -> None:
        self.rng, self.names, self.unseen = rng, names, unseen
        self.style = rng.choice(_STYLES)
        self.skills: set[str] = set()
        self.arguments: set[str] = set()
        strange = rng.choice((words.OBJECT_ARGUMENTS, words.PLACE_ARGUMENTS, words.RELATION_ARGUMENTS, None, None, None))
        self.object, self.place, self.relation = (
            self.named(one, unseen and one is strange, self.arguments)
            for one in (words.OBJECT_ARGUMENTS, words.PLACE_ARGUMENTS, words.RELATION_ARGUMENTS)
        )
        self.value = self.string()
        self.effects = rng.random() < _SHARE_WITH_EFFECTS

    def robot(self) -> TableRobot:
        rng = self.rng
        separate = rng.random() < _SHARE_OF_SEPARATE
        implicit = rng.random() < _SHARE_WITHOUT_OBJECT
        lists = [words.PICK, *(words.PLACE_BY_RELATION[it] for it in RELATIONS)] if separate else [words.PICK, words.PLACE]
        unseen = [self.unseen and rng.random() < 0.5 for _ in lists]
        if self.unseen and not any(unseen):
            unseen[rng.randrange(len(unseen))] = True
        self.effects = self.effects and not implicit
        made = [self.pick(unseen[0])]
        if separate:
            made += [self.place_by(it, flag, implicit) for it, flag in zip(RELATIONS, unseen[1:], strict=True)]
        else:
            made.append(self.place_any(unseen[1], implicit))
        made += [self.distractor(one) for one in rng.sample(words.DISTRACTORS, rng.choice((0, 0, 1, 1, 2, 3)))]
        rng.shuffle(made)
        name = self.named(words.ROBOTS, self.unseen, set()) if self.unseen or rng.random() < 0.6 else self.made_up()
        robot = Robot(name, self.chosen(words.TYPES), self.chosen(words.STATES), tuple(skill for skill, _ in made))
        return TableRobot(robot, {skill.name: meaning for skill, meaning in made}, SEPARATE if separate else ONE)

    def pick(self, unseen: bool) -> tuple[Skill, Meaning]:
        name, own = self.skill_name(words.PICK, unseen)
        text = self.text(words.PICK_TEXTS, own)
        schema = self.schema({self.object: self.value})
        return self.skill(name, text, schema, SkillEffect.GRASPS), Meaning("pick", self.object)

    def place_any(self, unseen: bool, implicit: bool) -> tuple[Skill, Meaning]:
        rng = self.rng
        name, own = self.skill_name(words.PLACE, unseen)
        values = dict(zip(RELATIONS, RELATIONS, strict=True))
        if rng.random() < _SHARE_OF_OTHER_RELATIONS:
            style = rng.choice(("_", " ", "upper"))
            said = self.chosen(words.RELATION_VALUES).split(",")
            said = [it.upper().replace(" ", "_") if style == "upper" else it.replace(" ", style) for it in said]
            values, own = dict(zip(RELATIONS, said, strict=True)), False
        listed = list(values.values())
        rng.shuffle(listed)
        properties = {} if implicit else {self.object: self.value}
        properties |= {self.relation: {"type": "string", "enum": listed}, self.place: self.value}
        shown = dict(zip("abc", values.values(), strict=True))
        text = self.text(words.PLACE_TEXTS, own, implicit, **shown)
        skill = self.skill(name, text, self.schema(properties), SkillEffect.RELEASES)
        return skill, Meaning("place", "" if implicit else self.object, self.place, self.relation, values)

    def place_by(self, relation: str, unseen: bool, implicit: bool) -> tuple[Skill, Meaning]:
        name, own = self.skill_name(words.PLACE_BY_RELATION[relation], unseen)
        properties = ({} if implicit else {self.object: self.value}) | {self.place: self.value}
        text = self.text(words.TEXTS_BY_RELATION[relation], own, implicit)
        skill = self.skill(name, text, self.schema(properties), SkillEffect.RELEASES)
        return skill, Meaning("place", "" if implicit else self.object, self.place, "", {relation: relation})

    def distractor(self, one: words.Distractor) -> tuple[Skill, Meaning]:
        name = self.unique(map(self.styled, self.rng.sample(one.names, len(one.names))), self.skills)
        text = self.written(self.rng.choice(one.texts), False) if self.rng.random() < 0.7 else ""
        schema = self.schema(one.properties) if one.properties or self.rng.random() < 0.5 else ""
        return Skill(name, text, schema), Meaning("open" if one.opens else "")

    def skill(self, name: str, text: str, schema: str, effect: SkillEffect) -> Skill:
        return Skill(name, text, schema, effect, self.object) if self.effects else Skill(name, text, schema)

    def skill_name(self, one: Words, unseen: bool) -> tuple[str, bool]:
        """Return a name, and whether it is a word that states what the skill does."""
        if not unseen and not self.unseen and self.rng.random() < _SHARE_OF_MADE_UP:
            return self.made_up(), False
        return self.named(one, unseen, self.skills), True

    def made_up(self) -> str:
        """Return a name that is no word, such as "kuvo" or "sk_31"."""

        def candidates() -> Iterable[str]:
            while True:
                rng = self.rng
                name = "".join(rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.choice((1, 2, 2, 3))))
                name = f"{name} {rng.randrange(1, 100)}" if len(name) < 3 or rng.random() < 0.25 else name
                if plain(name) not in held_out_names():
                    yield self.styled(name)

        return self.unique(candidates(), self.skills)

    def named(self, one: Words, unseen: bool, used: set[str]) -> str:
        listed = one.held_out if unseen else one.training
        return self.unique(map(self.styled, self.rng.sample(listed, len(listed))), used)

    def unique(self, names: Iterable[str], used: set[str]) -> str:
        """Return the first name that is not used yet, and add it to the used names."""
        name = next(name for name in names if plain(name) not in used)
        used.add(plain(name))
        return name

    def chosen(self, one: Words) -> str:
        return self.rng.choice(one.held_out if self.unseen and self.rng.random() < 0.5 else one.training)

    def styled(self, name: str) -> str:
        parts = name.split()
        if self.style in ("camel", "Camel"):
            joined = "".join(part.capitalize() for part in parts)
            return joined if self.style == "Camel" else joined[0].lower() + joined[1:]
        return self.style.join(parts)

    def text(self, one: Words, optional: bool, implicit: bool = False, **values: str) -> str:
        """Return a description. It may be empty if it is optional."""
        if optional and self.rng.random() < _SHARE_WITHOUT_TEXT:
            return ""
        return self.written(self.chosen(one), implicit, **values)

    def written(self, text: str, implicit: bool, **values: str) -> str:
        named = self.rng.random() < 0.5
        thing, place = (self.object, self.place) if named else ("object", "place")
        text = text.format(object="held object" if implicit else thing, place=place, **values)
        form = self.rng.random()
        if form < 0.35:
            text = text[0].upper() + text[1:]
        return f"{text}." if form < 0.2 else text

    def string(self) -> dict[str, Any]:
        """Return the schema of the name of an object."""
        kind = self.rng.choice(("format", "format", "enum", "free"))
        if kind == "format":
            return {"type": "string", "format": "object"}
        if kind == "free":
            return {"type": "string"} if self.rng.random() < 0.5 else {"type": "string", "description": "name of an object"}
        listed = [*self.names, *self.rng.sample(sorted(set(NAMES) - set(self.names)), self.rng.randrange(4))]
        self.rng.shuffle(listed)
        return {"type": "string", "enum": listed} if self.rng.random() < 0.5 else {"enum": listed}

    def schema(self, properties: Mapping[str, Any]) -> str:
        """Return the schema of arguments in a random order, sometimes with an optional argument."""
        needed = list(properties)
        everything = dict(properties)
        option = self.styled(self.rng.choice(words.OTHER_ARGUMENTS))
        if self.rng.random() < _SHARE_OF_OPTIONS and plain(option) not in map(plain, properties):
            everything[option] = self.rng.choice(_OPTIONS)
        order = self.rng.sample(list(everything), len(everything))
        schema: dict[str, Any] = {"type": "object", "properties": {name: everything[name] for name in order}}
        if len(everything) > len(needed) or self.rng.random() < 0.5:
            schema["required"] = needed
        if self.rng.random() < 0.4:
            schema["additionalProperties"] = False
        return json.dumps(schema)
