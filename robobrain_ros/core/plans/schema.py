"""Make the JSON schema of a plan. It allows only steps with a robot, a skill and arguments of the request."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robobrain_ros.bounds.compile_cost import plain_cost
from robobrain_ros.core.plans.argument_schema import OBJECT, PLACE, ROBOT, Schema, enforceable
from robobrain_ros.core.plans.checks import DEFAULT_MAX_STEPS, ArgumentSchemas, check_request
from robobrain_ros.core.plans.hands import ObjectLimit, kept_objects, object_limit
from robobrain_ros.core.plans.patterns import MOST_BYTES, free_text, longest_match, matches
from robobrain_ros.core.plans.prompt import ARGUMENTS, ORDER, REASONING, SKILL, STEPS, TEXT, VERDICT, VERDICTS
from robobrain_ros.core.plans.prompt import ROBOT as ROBOT_KEY
from robobrain_ros.core.plans.request import PlanMode, PlanRequest, PlanVerdict, Robot
from robobrain_ros.errors import BadRequestError

MOST_ALTERNATIVES = 200
"""Most forms of a step. A form combines robots that have the same skills with skills that have the same arguments."""
LARGEST_PLAN_SCHEMA = 256 * 1024
"""Most bytes of the whole schema."""
MOST_COMPILE = 1000.0
"""Most estimated milliseconds of CPU time for compiling the schema. An HTTP client may use half of it."""


@dataclass(frozen=True)
class TextBounds:
    """Most characters of the reasoning, of a step's text, and of an argument with free text."""

    reasoning: int
    step: int
    argument: int


BOUNDS = tuple(TextBounds(*bounds) for bounds in ((600, 160, 160), (400, 120, 100), (300, 90, 60), (200, 60, 40), (120, 40, 24)))
"""Bounds from long to short. `plan_form` uses the first bounds whose longest plan fits into the model's context."""


@dataclass(frozen=True)
class PlanForm:
    """The form of a plan.

    :param schema: the JSON schema of the plan.
    :param tokens: most tokens of a text that satisfies the schema.
    """

    request: PlanRequest
    schema: Schema
    tokens: int

    @property
    def text(self) -> str:
        """The schema as JSON text for an engine. The keys of the answer have the order of the schema's properties."""
        return json.dumps(enforceable(self.schema), ensure_ascii=False)


def plan_form(request: PlanRequest, room: int) -> PlanForm:
    """Make the form of a request's plan. The bounds of free texts are as long as ``room`` permits.

    :param room: tokens that are free in the model's context. The longest plan must fit into them.
    :raises BadRequestError: the request is invalid, or the longest plan does not fit even with the shortest bounds.
    """
    schemas = check_request(request)
    for bounds in BOUNDS:
        schema = _schema(request, schemas, bounds)
        tokens = longest_text(schema) + 1  # Plus one token that ends the text.
        if tokens <= room:
            _check_cost(schema)
            return PlanForm(request, schema, tokens)
    raise BadRequestError(
        f"context.max_steps: a plan of {most_steps(request)} steps may take {tokens} tokens, but the model's context has "
        f"room for {max(room, 0)}. Decrease max_steps, shorten arguments and names, use fewer images, or increase "
        "engine.max_model_len."
    )


def _check_cost(schema: Schema) -> None:
    cost = plain_cost(enforceable(schema))
    if cost > MOST_COMPILE:
        raise BadRequestError(
            f"context.robots: compiling the schema of the plan would take about {cost:.0f} ms (estimate); at most "
            f"{MOST_COMPILE:.0f} ms are allowed. Remove skills or arguments, give robots the same skills, or use the same bounds "
            "for all numbers."
        )


def longest_text(schema: Schema) -> int:
    """Return the number of bytes of the longest text that satisfies the schema, with a blank after each comma and colon.

    This number is also an upper limit of the tokens, because each token has at least one byte.

    :param schema: a schema of this module. It is closed and bounded, and its strings need no escapes.
    """
    return _Lengths(schema.get("$defs", {})).of(schema)


def most_steps(request: PlanRequest) -> int:
    """Return the most steps of a request's plan."""
    return 1 if request.mode is PlanMode.NEXT_STEP else request.max_steps or DEFAULT_MAX_STEPS


def _schema(request: PlanRequest, schemas: ArgumentSchemas, bounds: TextBounds) -> Schema:
    verdicts = VERDICTS[request.mode]
    reasoning: Schema = {"type": "string", "pattern": free_text(0, bounds.reasoning)}
    others = [verdict.value for verdict in verdicts if verdict is not PlanVerdict.PLAN]
    without_steps = _object({REASONING: reasoning, VERDICT: {"enum": others}})
    if PlanVerdict.PLAN not in verdicts or not request.robots:
        return without_steps
    definitions = _Definitions(request, bounds)
    alternatives = list(_alternatives(request, schemas, definitions))
    if not alternatives:  # Every skill needs an object or a place, and the scene has none.
        return without_steps
    steps = {"type": "array", "items": {"$ref": "#/$defs/step"}, "minItems": 1, "maxItems": most_steps(request)}
    definitions.known["step"] = {"anyOf": alternatives} if len(alternatives) > 1 else alternatives[0]
    with_steps = _object({REASONING: reasoning, VERDICT: {"enum": [PlanVerdict.PLAN.value]}, STEPS: steps})
    schema = {"anyOf": [with_steps, without_steps], "$defs": definitions.known}
    size = len(json.dumps(schema, ensure_ascii=False).encode())
    if size > LARGEST_PLAN_SCHEMA:
        raise BadRequestError(
            f"context.robots: all schemas together have {size} bytes; at most {LARGEST_PLAN_SCHEMA} are allowed. Remove "
            "skills, or give robots the same ones."
        )
    return schema


def _object(properties: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "properties": dict(properties), "required": list(properties), "additionalProperties": False}


def _alternatives(request: PlanRequest, schemas: ArgumentSchemas, definitions: "_Definitions") -> Iterator[Schema]:
    """Yield the schema of each form of a step. Robots with the same skills and skills with the same arguments share a form."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for robot in request.robots:
        groups.setdefault(definitions.skills_of(robot, schemas), []).append(robot.name)
    forms = [(robots, arguments, names) for skills, robots in groups.items() for arguments, names in _shared(skills)]
    if len(forms) > MOST_ALTERNATIVES:
        raise BadRequestError(
            f"context.robots: the robots have {len(forms)} skills that differ in their arguments; at most {MOST_ALTERNATIVES} "
            "are allowed. Remove skills, or give robots the same ones."
        )
    order = {"type": "integer", "minimum": 1, "maximum": most_steps(request)}
    for robots, arguments, names in forms:
        yield _object(
            {
                TEXT: {"$ref": "#/$defs/text"},
                ROBOT_KEY: {"enum": robots},
                SKILL: {"enum": names},
                ARGUMENTS: json.loads(arguments),
                ORDER: order,
            }
        )


def _shared(skills: Sequence[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """Group skills by their arguments. Yield each argument schema with the names of its skills."""
    by_arguments: dict[str, list[str]] = {}
    for name, arguments in skills:
        by_arguments.setdefault(arguments, []).append(name)
    yield from by_arguments.items()


class _Definitions:
    """Adds names and bounds to argument schemas. ``known`` has the definitions of repeated parts."""

    def __init__(self, request: PlanRequest, bounds: TextBounds) -> None:
        self.known: dict[str, Schema] = {"text": {"type": "string", "pattern": free_text(1, bounds.step, blank_start=False)}}
        self._bounds = bounds
        self._filled: dict[tuple[str, str, str, ObjectLimit], str | None] = {}
        self._most_steps = most_steps(request)
        self._kept = kept_objects(request, self._most_steps)
        self._scene = [place.name for place in request.scene]
        self._robots = self._names("robots", [robot.name for robot in request.robots])
        self._objects: Schema | None = {}
        if request.scene:
            on_places = [name for place in request.scene for name in place.objects]
            self._objects = self._names("objects", on_places + [robot.holding for robot in request.robots if robot.holding])

    def skills_of(self, robot: Robot, schemas: ArgumentSchemas) -> tuple[tuple[str, str], ...]:
        """Return the names of the skills that the robot can use, each with the schema of its arguments as JSON text."""
        reachable = robot.reachable_places or self._scene
        places: Schema | None = {}
        if reachable:
            places = self._names("places", reachable)
        vocabulary = {OBJECT: self._objects, PLACE: places, ROBOT: self._robots}
        which = str(places)
        skills = []
        for skill in robot.skills:
            limit = object_limit(robot, skill, self._kept, self._most_steps)
            if limit is None:
                continue
            key = skill.arguments_schema, which, skill.object_argument, limit
            if key not in self._filled:
                filled = self._fill(schemas[skill.arguments_schema], vocabulary)
                filled = filled and self._limited(filled, skill.object_argument, limit)
                self._filled[key] = None if filled is None else json.dumps(filled, ensure_ascii=False)
            arguments = self._filled[key]
            if arguments is not None:
                skills.append((skill.name, arguments))
        return tuple(skills)

    def _names(self, key: str, names: Sequence[str]) -> Schema | None:
        """Return a reference to an enum of the names, or None if there are no names."""
        unique = list(dict.fromkeys(names))
        if not unique:
            return None
        known = next((name for name, it in self.known.items() if it == {"enum": unique}), "")
        if not known:
            known = f"{key}{len(self.known)}"
            self.known[known] = {"enum": unique}
        return {"$ref": f"#/$defs/{known}"}

    def _fill(self, schema: Schema, vocabulary: Mapping[str, Schema | None]) -> Schema | None:
        """Return the schema with names and bounds, or None if no value satisfies it, because the scene has no object or place."""
        if "anyOf" in schema:
            alternatives = [filled for it in schema["anyOf"] if (filled := self._fill(it, vocabulary)) is not None]
            return {"anyOf": alternatives} if alternatives else None
        if schema.get("type") == "string" and "pattern" not in schema:
            return self._string(schema, vocabulary)
        if schema.get("type") == "array":
            items = self._fill(schema["items"], vocabulary)
            return None if items is None else schema | {"items": items}
        if schema.get("type") != "object":
            return schema
        properties = {name: self._fill(it, vocabulary) for name, it in schema["properties"].items()}
        if any(properties[name] is None for name in schema["required"]):
            return None
        return schema | {"properties": {name: it for name, it in properties.items() if it is not None}}

    def _limited(self, schema: Schema, argument: str, limit: ObjectLimit) -> Schema | None:
        """Return a skill's schema with a limit for one argument, or None if no value of a required argument is within it."""
        if argument not in schema["properties"] or limit == ObjectLimit():
            return schema
        value = self._within(schema["properties"][argument], limit)
        if value is None and argument in schema["required"]:
            return None
        properties = {name: value if name == argument else it for name, it in schema["properties"].items()}
        return schema | {"properties": {name: it for name, it in properties.items() if it is not None}}

    def _within(self, schema: Schema, limit: ObjectLimit) -> Schema | None:
        """Return the schema of the values that a limit allows, or None if it allows none. Patterns can exclude no names."""
        if "anyOf" in schema:
            alternatives = [within for it in schema["anyOf"] if (within := self._within(it, limit)) is not None]
            return {"anyOf": alternatives} if alternatives else None
        if "$ref" in schema:
            names = self.known[schema["$ref"].removeprefix("#/$defs/")]["enum"]
            return self._names("objects", [name for name in names if limit.allows(name)])
        if "enum" in schema:
            values = [value for value in schema["enum"] if limit.allows(str(value))]
            return {"enum": values} if values else None
        if limit.only and schema["type"] == "null":
            return None
        if limit.only and "pattern" in schema and matches(schema["pattern"], limit.only):
            return {"enum": [limit.only]}
        return schema

    def _string(self, schema: Schema, vocabulary: Mapping[str, Schema | None]) -> Schema | None:
        if "format" in schema:
            named = vocabulary[schema["format"]]
            return named if named != {} else {"type": "string", "pattern": free_text(1, self._bounds.argument, blank_start=False)}
        least = schema["minLength"]
        most = max(min(schema["maxLength"], self._bounds.argument), least)
        if most == 0:
            return {"enum": [""]}
        return {"type": "string", "pattern": free_text(least, most)}


class _Lengths:
    """Computes the length of the longest text of a schema, in bytes."""

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions
        self._known: dict[str, int] = {}

    def of(self, schema: Schema) -> int:
        """Return the length for one schema in bytes."""
        if "$ref" in schema:
            name = schema["$ref"].removeprefix("#/$defs/")
            if name not in self._known:
                self._known[name] = self.of(self._definitions[name])
            return self._known[name]
        if "anyOf" in schema:
            return max(map(self.of, schema["anyOf"]))
        if "enum" in schema:
            return max(map(_written_length, schema["enum"]))
        return self._typed(schema)

    def _typed(self, schema: Schema) -> int:
        kind = schema["type"]
        if kind == "string":
            return 2 + MOST_BYTES * longest_match(str(schema["pattern"]))
        if kind == "array":
            return 2 + int(schema["maxItems"]) * (self.of(schema["items"]) + len(", "))
        if kind == "object":
            return 2 + sum(_written_length(key) + len(": , ") + self.of(it) for key, it in schema["properties"].items())
        if kind in ("integer", "number"):
            digits = max(len(f"{int(schema[bound])}") for bound in ("minimum", "maximum")) + 1
            return digits + (len(".0000") if kind == "number" else 0)
        return len("false")


def _written_length(value: Any) -> int:
    """Return the number of bytes of a value in JSON. Each slash counts twice, because some engines escape slashes."""
    text = json.dumps(value, ensure_ascii=False)
    return len(text.encode()) + text.count("/")
