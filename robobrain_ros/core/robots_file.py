"""Robots and their skills from a YAML file: the data of a request, and its checks, with the line of what is wrong."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from robobrain_ros.core.plan_checks import check_request
from robobrain_ros.core.plan_request import PlanRequest, Robot, Skill, SkillEffect
from robobrain_ros.errors import BadRequestError

LARGEST_FILE = 1_000_000
"""Bytes; far more than anyone writes."""
MOST_VALUES = 100_000
"""Values in all schemas of a file, those named by an alias counted each time."""

_TEXT = "tag:yaml.org,2002:str"
_SCALARS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}
_EFFECTS = {effect.name.lower(): effect for effect in SkillEffect}
_SKILL_TEXTS = ("description", "object_argument")
_SKILL_KEYS = (*_SKILL_TEXTS, "arguments_schema", "effect")
_ROBOT_TEXTS = ("type", "state", "position", "holding")
_ROBOT_KEYS = (*_ROBOT_TEXTS, "reachable_places", "skills")
_PATH = re.compile(r"robots(?:\[\d+\])?(?:\.\w+(?:\[\d+\])?)*")


def read_robots(path: Path) -> tuple[Robot, ...]:
    """The robots of a file; config/robots_example.yaml says what it may hold.

    :raises BadRequestError: it cannot be read, or what it says makes no sense; the message begins with file and line.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise BadRequestError(f"{path} is larger than {LARGEST_FILE} bytes; it cannot be a file of robots.")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadRequestError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BadRequestError(f"{path} cannot be read: it is no text in UTF-8.") from error
    return _Reader(str(path)).read(text)


class _Reader:
    """Reads one file. ``_lines`` remembers where each field stands, by its path in the request."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lines: dict[str, int] = {}
        self._values = 0

    def read(self, text: str) -> tuple[Robot, ...]:
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise self._fault(mark.line + 1 if mark else 1, f"it is no YAML: {error.problem or error.context}.") from error
        except (yaml.YAMLError, RecursionError) as error:
            raise self._fault(1, f"it is no YAML: {' '.join(str(error).split())}.") from error
        if root is None:
            raise self._fault(1, "it is empty; it must hold robots.")
        parts = self._fields(root, "the file", ("skills", "robots"))
        if "robots" not in parts:
            raise self._fault(_line(root), "it holds no robots.")
        shared = self._fields(parts["skills"], "skills") if "skills" in parts else {}
        for name, node in shared.items():
            self._skill(name, node, "")  # Wrong ones are told whether or not a robot has them.
        named = self._fields(parts["robots"], "robots")
        if not named:
            raise self._fault(_line(parts["robots"]), "it holds no robots.")
        self._lines["robots"] = _line(parts["robots"])
        robots = tuple(
            self._robot(name, node, shared, f"robots[{index}]") for index, (name, node) in enumerate(named.items())
        )
        try:
            check_request(PlanRequest(robots=robots))
        except BadRequestError as error:
            raise BadRequestError(f"{self._name}:{self._line_of(error.message)}: {error.message}") from error
        return robots

    def _line_of(self, message: str) -> int:
        """The line of the field that a message begins with, or of what it is part of."""
        found = _PATH.search(message)
        path = found[0] if found else "robots"
        while path not in self._lines:
            path = path[: max(path.rfind("."), path.rfind("["))]
        return self._lines[path]

    def _robot(self, name: str, node: yaml.Node, shared: dict[str, yaml.Node], path: str) -> Robot:
        fields = self._noted(node, f"robot {name}", _ROBOT_KEYS, path)
        texts = {key: self._text(fields[key], f"{key} of robot {name}") for key in _ROBOT_TEXTS if key in fields}
        places = self._items(fields.get("reachable_places"), f"reachable_places of robot {name}")
        skills = self._items(fields.get("skills"), f"skills of robot {name}")
        return Robot(
            name,
            skills=tuple(
                self._named_skill(item, name, shared, f"{path}.skills[{index}]") for index, item in enumerate(skills)
            ),
            reachable_places=tuple(self._text(place, f"A reachable place of robot {name}") for place in places),
            **texts,
        )

    def _named_skill(self, item: yaml.Node, robot: str, shared: dict[str, yaml.Node], path: str) -> Skill:
        """A skill of a robot: the name of one under skills, or one written right there, as a mapping of its name."""
        if isinstance(item, yaml.MappingNode):
            own = self._fields(item, f"A skill of robot {robot}")
            if len(own) != 1:
                raise self._fault(_line(item), f"A skill of robot {robot} must be a name, or one name with its description.")
            ((name, node),) = own.items()
            return self._skill(name, node, path)
        name = self._text(item, f"A skill of robot {robot}")
        if name not in shared:
            known = ", ".join(shared) or "none"
            raise self._fault(_line(item), f"Robot {robot} has the skill {name!r}, which is not under skills: {known}.")
        return self._skill(name, shared[name], path)

    def _skill(self, name: str, node: yaml.Node, path: str) -> Skill:
        fields = self._noted(node, f"skill {name}", _SKILL_KEYS, path)
        texts = {key: self._text(fields[key], f"{key} of skill {name}") for key in _SKILL_TEXTS if key in fields}
        effect = self._text(fields["effect"], f"effect of skill {name}") if "effect" in fields else "none"
        if effect not in _EFFECTS:
            raise self._fault(
                _line(fields["effect"]), f"effect of skill {name} is {effect!r}; it must be one of {', '.join(_EFFECTS)}."
            )
        return Skill(name, arguments_schema=self._schema(fields.get("arguments_schema"), name), effect=_EFFECTS[effect], **texts)

    def _schema(self, node: yaml.Node | None, skill: str) -> str:
        if node is None:
            return ""
        if not isinstance(node, yaml.MappingNode):
            raise self._fault(_line(node), f"arguments_schema of skill {skill} must be a mapping: a JSON schema in YAML.")
        return json.dumps(self._json(node, f"arguments_schema of skill {skill}", ()), ensure_ascii=False)

    def _json(self, node: yaml.Node, what: str, above: tuple[yaml.Node, ...]) -> object:
        """What a node says in JSON's terms."""
        self._values += 1
        if self._values > MOST_VALUES or any(node is other for other in above):
            raise self._fault(_line(node), f"{what} contains itself, or far too much.")
        if isinstance(node, yaml.MappingNode):
            return {key: self._json(value, what, (*above, node)) for key, value in self._fields(node, what).items()}
        if isinstance(node, yaml.SequenceNode):
            return [self._json(item, what, (*above, node)) for item in node.value]
        value = self._scalar(node)
        if node.tag not in _SCALARS or (isinstance(value, float) and not -1e308 < value < 1e308):
            raise self._fault(_line(node), f"{what} holds {node.value!r}, which JSON does not know; put it in quotes.")
        return value

    def _scalar(self, node: yaml.Node) -> object:
        try:
            return yaml.SafeLoader("").construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise self._fault(_line(node), f"{node.value!r} cannot be read.") from error

    def _noted(self, node: yaml.Node, what: str, allowed: Iterable[str], path: str) -> dict[str, yaml.Node]:
        """Fields, whose lines are noted."""
        fields = self._fields(node, what, allowed)
        if path:
            self._lines[path] = _line(node)
            self._lines |= {f"{path}.{key}": _line(value) for key, value in fields.items()}
        return fields

    def _fields(self, node: yaml.Node, what: str, allowed: Iterable[str] = ()) -> dict[str, yaml.Node]:
        """The fields of a mapping; without ``allowed``, any names."""
        if not isinstance(node, yaml.MappingNode):
            raise self._fault(_line(node), f"{what} must be a mapping, `name: ...`.")
        fields: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = self._text(key, f"A name in {what}")
            if name in fields:
                raise self._fault(_line(key), f"{what} names {name!r} twice.")
            if allowed and name not in allowed:
                raise self._fault(_line(key), f"{what} has no field {name!r}; there are {', '.join(allowed)}.")
            fields[name] = value
        return fields

    def _items(self, node: yaml.Node | None, what: str) -> list[yaml.Node]:
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            raise self._fault(_line(node), f"{what} must be a list, `[a, b]`.")
        return list(node.value)

    def _text(self, node: yaml.Node, what: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag != _TEXT:
            raise self._fault(_line(node), f"{what} must be text; put it in quotes.")
        return str(node.value)

    def _fault(self, line: int, sentence: str) -> BadRequestError:
        return BadRequestError(f"{self._name}:{line}: {sentence[0].upper()}{sentence[1:]}")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
