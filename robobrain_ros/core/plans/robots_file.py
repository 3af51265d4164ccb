"""Read robots and their skills from a YAML file. Errors name the line."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from robobrain_ros.bounds.files import UnreadableFileError, home_expanded, read_small_text
from robobrain_ros.core.plans import yaml_nodes
from robobrain_ros.core.plans.argument_schema import is_printable
from robobrain_ros.core.plans.checks import LONGEST_NAME, MOST_ROBOTS, MOST_SKILLS, check_request
from robobrain_ros.core.plans.request import PlanRequest, Robot, Skill, SkillEffect
from robobrain_ros.core.plans.yaml_nodes import YamlFault, line_of
from robobrain_ros.core.traces.space import Position, Reach, Workspace
from robobrain_ros.errors import BadRequestError

LARGEST_FILE = 256 * 1024
"""Most bytes of a robots file."""
FARTHEST = 1000
"""Largest coordinate and distance in metres."""

_EFFECTS = {effect.name.lower(): effect for effect in SkillEffect}
_SKILL_TEXTS = ("description", "object_argument")
_SKILL_KEYS = (*_SKILL_TEXTS, "arguments_schema", "effect")
_ROBOT_TEXTS = ("type", "state", "position", "holding")
_ROBOT_KEYS = (*_ROBOT_TEXTS, "reachable_places", "skills", "workspace", "reach")
_PATH = re.compile(r"robots(?:\[\d+\])?(?:\.\w+(?:\[\d+\])?)*")
_TYPES = {
    yaml_nodes.TEXT: {"string"},
    yaml_nodes.BOOLEAN: {"boolean"},
    yaml_nodes.NUMBER: {"integer", "number"},
    yaml_nodes.FRACTION: {"number"},
    yaml_nodes.NULL: {"null"},
}
"""The types of a JSON schema that a YAML value fits, by the value's YAML tag."""


def read_robots(path: Path) -> tuple[Robot, ...]:
    """Read the robots in a file, whose path can begin with ~. config/robots_example.yaml describes the format.

    :raises BadRequestError: the file cannot be read, or its content is invalid. The message begins with the file, and with the
        line if the content is invalid.
    """
    path = home_expanded(str(path))
    try:
        text = read_small_text(path, LARGEST_FILE)
    except UnreadableFileError as error:
        raise BadRequestError(f"{path} cannot be read: {error}.") from error
    reader = _Reader()
    try:
        return reader.read(text)
    except YamlFault as error:
        raise BadRequestError(f"{path}:{error.line}: {error.sentence[0].upper()}{error.sentence[1:]}") from error
    except BadRequestError as error:
        raise BadRequestError(f"{path}:{reader.line_of(error.message)}: {error.message}") from error


class _Reader:
    """Reads one file."""

    def __init__(self) -> None:
        self._lines: dict[str, int] = {}
        """The line of each field, by the field's path in the request."""
        self._schemas: dict[int, str] = {}
        """JSON texts of schemas by the identity of their nodes, because several robots may share a schema."""

    def read(self, text: str) -> tuple[Robot, ...]:
        root = yaml_nodes.compose(text)
        if root is None:
            raise self._fault(1, "it is empty; it must contain robots.")
        parts = self._fields(root, "the file", ("skills", "robots"))
        if "robots" not in parts:
            raise self._fault(line_of(root), "it contains no robots.")
        shared = self._fields(parts["skills"], "skills") if "skills" in parts else {}
        for name, node in shared.items():
            self._skill(name, node, "")  # Faults are reported even if no robot has the skill.
        named = self._fields(parts["robots"], "robots")
        if not named:
            raise self._fault(line_of(parts["robots"]), "it contains no robots.")
        if len(named) > MOST_ROBOTS:
            raise self._fault(line_of(parts["robots"]), f"it contains {len(named)} robots; at most {MOST_ROBOTS} are allowed.")
        self._lines["robots"] = line_of(parts["robots"])
        robots = tuple(self._robot(name, node, shared, f"robots[{index}]") for index, (name, node) in enumerate(named.items()))
        check_request(PlanRequest(robots=robots))
        return robots

    def line_of(self, message: str) -> int:
        """Return the line of the field at the beginning of a message. If its line is unknown, return that of its parent."""
        found = _PATH.search(message)
        path = found[0] if found else "robots"
        while path and path not in self._lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self._lines.get(path, 1)

    def _robot(self, name: str, node: yaml.Node, shared: dict[str, yaml.Node], path: str) -> Robot:
        fields = self._noted(node, f"robot {name}", _ROBOT_KEYS, path)
        texts = {key: self._text(fields[key], f"{key} of robot {name}") for key in _ROBOT_TEXTS if key in fields}
        places = self._items(fields.get("reachable_places"), f"reachable_places of robot {name}")
        skills = self._items(fields.get("skills"), f"skills of robot {name}")
        if len(skills) > MOST_SKILLS:
            fault = f"robot {name} has {len(skills)} skills; at most {MOST_SKILLS} are allowed."
            raise self._fault(line_of(fields["skills"]), fault)
        return Robot(
            name,
            skills=tuple(self._named_skill(item, name, shared, f"{path}.skills[{index}]") for index, item in enumerate(skills)),
            reachable_places=tuple(self._text(place, f"a reachable place of robot {name}") for place in places),
            workspace=self._workspace(fields.get("workspace"), f"workspace of robot {name}"),
            reach=self._reach(fields.get("reach"), f"reach of robot {name}"),
            **texts,
        )

    def _workspace(self, node: yaml.Node | None, what: str) -> Workspace | None:
        if node is None:
            return None
        fields = self._complete(node, what, ("frame", "minimum", "maximum"))
        low, high = (self._position(fields[key], f"{key} of {what}") for key in ("minimum", "maximum"))
        if not all(least < most for least, most in zip(low, high, strict=True)):
            raise self._fault(line_of(node), f"minimum of {what} must be less than maximum in x, y and z.")
        return Workspace(self._frame(fields["frame"], what), low, high)

    def _reach(self, node: yaml.Node | None, what: str) -> Reach | None:
        if node is None:
            return None
        fields = self._complete(node, what, ("frame", "distance"), ("base",))
        distance = self._metres(fields["distance"], f"distance of {what}")
        if distance <= 0.0:
            raise self._fault(line_of(fields["distance"]), f"distance of {what} must be above 0 m.")
        base = self._position(fields["base"], f"base of {what}") if "base" in fields else Reach.base
        return Reach(self._frame(fields["frame"], what), distance, base)

    def _complete(self, node: yaml.Node, what: str, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, yaml.Node]:
        """Return the fields of a mapping that must have some of them."""
        fields = self._fields(node, what, (*needed, *optional))
        missing = [key for key in needed if key not in fields]
        if missing:
            raise self._fault(line_of(node), f"{what} needs {' and '.join(missing)}.")
        return fields

    def _frame(self, node: yaml.Node, what: str) -> str:
        frame = self._text(node, f"frame of {what}")
        if not frame.strip() or not is_printable(frame, LONGEST_NAME):
            raise self._fault(line_of(node), f"frame of {what} is empty, unprintable or longer than {LONGEST_NAME} characters.")
        return frame

    def _position(self, node: yaml.Node, what: str) -> Position:
        items = self._items(node, what)
        if len(items) != 3:
            raise self._fault(line_of(node), f"{what} must have three numbers, `[x, y, z]` in metres.")
        x, y, z = (self._metres(item, what) for item in items)
        return x, y, z

    def _metres(self, node: yaml.Node, what: str) -> float:
        if node.tag not in (yaml_nodes.NUMBER, yaml_nodes.FRACTION) or yaml_nodes.surprising(node):
            raise self._fault(line_of(node), f"{what} must be a number in metres; it is {yaml_nodes.meaning(node)}.")
        value = yaml_nodes.scalar(node)
        if not abs(value) <= FARTHEST:
            raise self._fault(line_of(node), f"{what} must be within -{FARTHEST} to {FARTHEST} m.")
        return float(value)

    def _named_skill(self, item: yaml.Node, robot: str, shared: dict[str, yaml.Node], path: str) -> Skill:
        """Read a skill of a robot. It is the name of a shared skill, or a mapping with the skill's name and its fields."""
        if isinstance(item, yaml.MappingNode):
            own = self._fields(item, f"a skill of robot {robot}")
            if len(own) != 1:
                raise self._fault(line_of(item), f"a skill of robot {robot} must be a name, or one name with its description.")
            ((name, node),) = own.items()
            return self._skill(name, node, path)
        name = self._text(item, f"a skill of robot {robot}")
        if name not in shared:
            known = ", ".join(shared) or "none"
            raise self._fault(line_of(item), f"Robot {robot} has the skill {name!r}, which is not under skills: {known}.")
        return self._skill(name, shared[name], path)

    def _skill(self, name: str, node: yaml.Node, path: str) -> Skill:
        fields = self._noted(node, f"skill {name}", _SKILL_KEYS, path)
        texts = {key: self._text(fields[key], f"{key} of skill {name}") for key in _SKILL_TEXTS if key in fields}
        effect = self._text(fields["effect"], f"effect of skill {name}") if "effect" in fields else "none"
        if effect not in _EFFECTS:
            raise self._fault(
                line_of(fields["effect"]), f"effect of skill {name} is {effect!r}; it must be one of {', '.join(_EFFECTS)}."
            )
        return Skill(name, arguments_schema=self._schema(fields.get("arguments_schema"), name), effect=_EFFECTS[effect], **texts)

    def _schema(self, node: yaml.Node | None, skill: str) -> str:
        if node is None:
            return ""
        if not isinstance(node, yaml.MappingNode):
            raise self._fault(line_of(node), f"arguments_schema of skill {skill} must be a mapping: a JSON schema in YAML.")
        if id(node) not in self._schemas:
            schema = self._json(node, f"arguments_schema of skill {skill}")
            self._schemas[id(node)] = json.dumps(schema, ensure_ascii=False)
        return self._schemas[id(node)]

    def _json(self, node: yaml.Node, what: str) -> object:
        """Convert a node to a JSON value."""
        if isinstance(node, yaml.MappingNode):
            fields = self._fields(node, what)
            self._check_values(fields, what)
            return {key: self._json(value, what) for key, value in fields.items()}
        if isinstance(node, yaml.SequenceNode):
            return [self._json(item, what) for item in node.value]
        if node.tag not in yaml_nodes.SCALARS:
            raise self._misread(node, what, "which JSON does not support")
        if node.tag != yaml_nodes.BOOLEAN and yaml_nodes.surprising(node):
            raise self._misread(node, what, "which is rarely intended", "For the number, write it in base 10; for text, ")
        value = yaml_nodes.scalar(node)
        if isinstance(value, int | float) and not -1e308 < value < 1e308:
            raise self._misread(node, what, "which JSON does not support", "Write a finite number; for text, ")
        return value

    def _check_values(self, fields: Mapping[str, yaml.Node], what: str) -> None:
        """Reject values of ``enum`` and ``const`` if YAML gave them an unintended type.

        This is so if the schema's type is string but the value is not text, and for values such as ``on`` and ``12:30``.
        """
        values = [fields["const"]] if "const" in fields else []
        if isinstance(fields.get("enum"), yaml.SequenceNode):
            values += fields["enum"].value
        kind = fields.get("type")
        kinds = kind.value if isinstance(kind, yaml.SequenceNode) else [kind] if kind is not None else []
        types = {str(item.value) for item in kinds if isinstance(item, yaml.ScalarNode)}
        for value in values:
            if not isinstance(value, yaml.ScalarNode) or value.tag not in _TYPES or _TYPES[value.tag] & types:
                continue
            if "string" in types or yaml_nodes.surprising(value):
                raise self._misread(value, what, "not as text")

    def _misread(self, node: yaml.Node, what: str, problem: str, cure: str = "For text, ") -> YamlFault:
        """Return the fault that YAML gives a value an unintended type."""
        explanation = f"{what} contains {str(node.value)[:40]}, which YAML reads as {yaml_nodes.meaning(node)}, {problem}"
        return self._fault(line_of(node), f"{explanation}. {cure}put it in quotes: {yaml_nodes.quoted(node)}.")

    def _noted(self, node: yaml.Node, what: str, allowed: Iterable[str], path: str) -> dict[str, yaml.Node]:
        """Return the fields of a mapping, and store their lines for error messages."""
        fields = self._fields(node, what, allowed)
        if path:
            self._lines[path] = line_of(node)
            self._lines |= {f"{path}.{key}": line_of(value) for key, value in fields.items()}
        return fields

    def _fields(self, node: yaml.Node, what: str, allowed: Iterable[str] = ()) -> dict[str, yaml.Node]:
        """Return the fields of a mapping. Without ``allowed``, they may have any names."""
        if not isinstance(node, yaml.MappingNode):
            raise self._fault(line_of(node), f"{what} must be a mapping, `name: ...`.")
        fields: dict[str, yaml.Node] = {}
        merged: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if key.tag == yaml_nodes.MERGE:
                for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    merged = self._fields(part, f"what << names in {what}", allowed) | merged
                continue
            name = self._text(key, f"a name in {what}")
            if name in fields:
                raise self._fault(line_of(key), f"{what} names {name!r} twice.")
            if allowed and name not in allowed:
                raise self._fault(line_of(key), f"{what} has no field {name!r}; there are {', '.join(allowed)}.")
            fields[name] = value
        return merged | fields

    def _items(self, node: yaml.Node | None, what: str) -> list[yaml.Node]:
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            raise self._fault(line_of(node), f"{what} must be a list, `[a, b]`.")
        return list(node.value)

    def _text(self, node: yaml.Node, what: str) -> str:
        if isinstance(node, yaml.ScalarNode) and node.tag == yaml_nodes.TEXT:
            return str(node.value)
        if not isinstance(node, yaml.ScalarNode):
            raise self._fault(line_of(node), f"{what} must be text; it is {yaml_nodes.meaning(node)}.")
        cure = f"put it in quotes: {yaml_nodes.quoted(node)}" if str(node.value) else "write it, or leave the field out"
        written = str(node.value)[:40] or "nothing"
        raise self._fault(line_of(node), f"{what} must be text; YAML reads {written} as {yaml_nodes.meaning(node)}; {cure}.")

    def _fault(self, line: int, sentence: str) -> YamlFault:
        return YamlFault(line, sentence)
