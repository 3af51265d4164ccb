"""Read the JSON schema of a skill's arguments, and convert it to a closed and bounded schema that a grammar can enforce.

Closed means that an object has no other properties. Bounded means that every value has a longest text. A schema with a keyword
that cannot be enforced is rejected, because a plan could violate the keyword. `bounds.constraints` checks the schemas of HTTP
clients and has wider bounds.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

from robobrain_ros.bounds.constraints import check_schema_bounds, reject_constant
from robobrain_ros.core.plans.patterns import safe_pattern

Schema = dict[str, Any]

OBJECT, PLACE, ROBOT = "object", "place", "robot"
FORMATS = (OBJECT, PLACE, ROBOT)
"""Values of ``format`` for strings that must be the name of an object, a place or a robot."""

LARGEST_SCHEMA = 16 * 1024
"""Most bytes of a skill's schema."""
DEEPEST_SCHEMA = 8
MOST_NODES = 200
"""Most subschemas of a schema. A subschema that several references use counts each time."""
MOST_VALUES = 200
"""Most values of an enum."""
LONGEST_KEY = 100
LONGEST_STRING = 1000
MOST_ITEMS = 64
DEFAULT_MOST_ITEMS = 8
DECIMALS = 4
LARGEST_NUMBER = 1_000_000
"""Numbers without a minimum or maximum are limited to this value and its negative."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$schema", "$id"}
)
_DEFINITIONS = ("$defs", "definitions")
_KEYWORDS: Mapping[str, frozenset[str]] = {
    "null": frozenset(),
    "boolean": frozenset(),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "number": frozenset({"minimum", "maximum"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "object": frozenset({"properties", "required", "additionalProperties"}),
}


@lru_cache(maxsize=512)  # A robot sends the same skills with each request.
def read_schema(text: str) -> Schema:
    """Return the closed and bounded form of an object's schema. Without ``required``, all properties are required.

    Strings without a pattern keep their ``minLength``, ``maxLength`` and ``format``. `core.plans.schema` bounds them, because
    their bounds depend on the request.

    :param text: the schema as JSON, or empty for no arguments.
    :raises ValueError: the text is not a schema, is too large, or has a keyword that cannot be enforced. The message begins with
        the path in the schema.
    """
    if not text.strip():
        return {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    size = len(text.encode("utf-8", "replace"))
    if size > LARGEST_SCHEMA:
        raise ValueError(f"the text has {size} bytes; at most {LARGEST_SCHEMA} are allowed")
    try:
        schema = json.loads(text, parse_constant=reject_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the text is not JSON: {error}") from error
    check_schema_bounds(schema)
    if not isinstance(schema, dict):
        raise ValueError('the text is not the JSON schema of an object, such as {"type": "object", "properties": {...}}')
    _check_schema(schema)
    closed = _Reader(schema).node(schema, "", 0)
    if closed.get("type") != "object":
        raise ValueError('the schema does not describe an object; arguments are {"type": "object", "properties": {...}}')
    return closed


def _check_schema(schema: Schema) -> None:
    from jsonschema import Draft7Validator, FormatChecker
    from jsonschema.exceptions import SchemaError

    parts = [schema.get(key, {}) for key in _DEFINITIONS]
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"{' or '.join(_DEFINITIONS)} is not an object")
    try:
        # For the supported keywords, draft 7 has the same rules as newer drafts, and its check is three times as fast.
        # `core.plans.patterns` checks patterns. The format check is off, because Python's compiler raises errors of other types.
        Draft7Validator.check_schema(schema | {"definitions": parts[0] | parts[1]}, format_checker=FormatChecker(formats=()))
    except SchemaError as error:
        where = "".join(f".{part}" for part in error.absolute_path)
        raise ValueError(f"{where[1:] or 'it'} is not a JSON schema: {error.message[:200]}") from error
    except RecursionError as error:
        raise ValueError("the schema is nested too deep") from error


class _Reader:
    """Reads one schema and counts its subschemas."""

    def __init__(self, root: Schema) -> None:
        self._definitions = {f"#/{key}/{name}": it for key in _DEFINITIONS for name, it in dict(root.get(key, {})).items()}
        self._nodes = 0

    def node(self, schema: Any, path: str, depth: int) -> Schema:
        self._nodes += 1
        _require(self._nodes <= MOST_NODES, path, f"the schema has more than {MOST_NODES} subschemas")
        _require(depth <= DEEPEST_SCHEMA, path, f"the schema is nested more than {DEEPEST_SCHEMA} deep, or refers to itself")
        _require(isinstance(schema, dict), path, "true and false are not supported as schemas; write the allowed type")
        keywords = {key: value for key, value in schema.items() if key not in _ANNOTATIONS and key not in _DEFINITIONS}
        if "$ref" in keywords:
            _only(keywords, {"$ref"}, path)
            target = self._definitions.get(keywords["$ref"])
            reference = keywords["$ref"]
            _require(target is not None, path, f"$ref {reference!r} is not a definition in this schema; use '#/$defs/NAME'")
            return self.node(target, path, depth + 1)
        if "anyOf" in keywords:
            _only(keywords, {"anyOf"}, path)
            return {"anyOf": [self.node(it, f"{path}.anyOf[{i}]", depth + 1) for i, it in enumerate(keywords["anyOf"])]}
        if "const" in keywords or "enum" in keywords:
            return _values(keywords, path)
        kinds = keywords.pop("type", None)
        _require(kinds is not None, path, "the type is missing; add one")
        if isinstance(kinds, str):
            _only(keywords, _KEYWORDS[kinds], path)
            return self._typed(kinds, keywords, path, depth)
        _only(keywords, frozenset().union(*(_KEYWORDS[kind] for kind in kinds)), path)
        return {"anyOf": [self._typed(kind, _part(keywords, _KEYWORDS[kind]), path, depth) for kind in kinds]}

    def _typed(self, kind: str, keywords: Schema, path: str, depth: int) -> Schema:
        if kind in ("integer", "number"):
            return _number(kind, keywords, path)
        if kind == "string":
            return _string(keywords, path)
        if kind == "array":
            return self._array(keywords, path, depth)
        if kind == "object":
            return self._object(keywords, path, depth)
        return {"type": kind}

    def _array(self, keywords: Schema, path: str, depth: int) -> Schema:
        _require("items" in keywords, path, "items is missing; add the schema of the array's items")
        least = int(keywords.get("minItems", 0))
        most = int(keywords.get("maxItems", max(DEFAULT_MOST_ITEMS, least)))
        fault = f"minItems is {least} and maxItems {most}; maxItems must be at least minItems and at most {MOST_ITEMS}"
        _require(least <= most <= MOST_ITEMS, path, fault)
        items = self.node(keywords["items"], f"{path}.items", depth + 1)
        return {"type": "array", "items": items, "minItems": least, "maxItems": most}

    def _object(self, keywords: Schema, path: str, depth: int) -> Schema:
        properties = keywords.get("properties", {})
        for name in properties:
            fault = f"the property name {name[:40]!r} is empty, too long or unprintable"
            _require(bool(name) and is_printable(name, LONGEST_KEY) and not is_like_a_token(name), path, fault)
        required = keywords.get("required", list(properties))
        unknown = [name for name in required if name not in properties]
        _require(not unknown, path, f"required names {', '.join(map(repr, unknown[:3]))}, but properties does not")
        return {
            "type": "object",
            "properties": {name: self.node(it, f"{path}.{name}", depth + 1) for name, it in properties.items()},
            "required": [name for name in properties if name in required],
            "additionalProperties": False,
        }


def _values(keywords: Schema, path: str) -> Schema:
    from jsonschema import Draft202012Validator

    values = keywords["enum"] if "enum" in keywords else [keywords["const"]]
    _require(len(values) <= MOST_VALUES, path, f"enum has {len(values)} values; at most {MOST_VALUES} are allowed")
    _only(keywords, {"enum", "const", "type"}, path)
    fitting = [value for value in values if Draft202012Validator(keywords).is_valid(value)]
    _require(bool(fitting), path, "no value of enum or const has the type")
    for value in fitting:
        fault = f"{str(value)[:40]!r} is not allowed as a value; use one line of text, a number, a boolean or null"
        _require(_is_plain(value), path, fault)
    return {"enum": fitting}


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return is_printable(value, LONGEST_STRING) and not is_like_a_token(value)
    return value is None or (isinstance(value, bool | int | float) and abs(value) <= 1e15)


def _number(kind: str, keywords: Schema, path: str) -> Schema:
    low, high = keywords.get("minimum"), keywords.get("maximum")
    if kind == "integer":
        low, high = _integer_bounds(keywords)
    low = min(-LARGEST_NUMBER, high if high is not None else 0) if low is None else low
    high = max(LARGEST_NUMBER, low) if high is None else high
    _require(low <= high, path, f"no number lies between {low} and {high}")
    _require(max(abs(low), abs(high)) <= 1e12, path, "the bounds are larger than 1e12; use smaller ones")
    _require(
        kind == "integer" or bool(_writable(low, high)), path, f"no number of {DECIMALS} decimals lies between {low} and {high}"
    )
    return {"type": kind, "minimum": low, "maximum": high}


def enforceable(schema: Schema) -> Schema:
    """Return the schema for engines, with a bounded number of digits in each number. JSON Schema has no keyword for it.

    Numbers from 0 on have up to `DECIMALS` decimals, by ``multipleOf``. llguidance does not support ``multipleOf`` for negative
    numbers. Negative numbers are therefore whole, or have at most three significant digits and three decimals. Numbers with the
    same bounds share a definition, because the list of these fractions takes 10 ms to compile.

    :param schema: the schema of a plan. References are to its ``$defs``.
    """
    shared: Schema = {}
    written: Schema = _enforceable(schema, shared)
    return written | {"$defs": written.get("$defs", {}) | shared} if shared else written


def _enforceable(schema: Any, shared: Schema) -> Any:
    if isinstance(schema, list):
        return [_enforceable(item, shared) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "number":
        low, high = schema["minimum"], schema["maximum"]
        name = f"number_{low}_{high}"
        if name not in shared:
            alternatives = _writable(low, high)
            shared[name] = {"anyOf": alternatives} if len(alternatives) > 1 else alternatives[0]
        return {"$ref": f"#/$defs/{name}"}
    return {key: value if key == "enum" else _enforceable(value, shared) for key, value in schema.items()}


def _writable(low: float, high: float) -> list[Schema]:
    """Return schemas of the numbers with few digits between two bounds."""
    alternatives: list[Schema] = []
    if math.ceil(max(low, 0) * 10**DECIMALS) <= math.floor(high * 10**DECIMALS):
        alternatives.append({"type": "number", "minimum": max(low, 0), "maximum": high, "multipleOf": 10**-DECIMALS})
    if math.ceil(low) <= min(-1, math.floor(high)):
        alternatives.append({"type": "integer", "minimum": math.ceil(low), "maximum": min(-1, math.floor(high))})
    fractions = [value for value in _negative_fractions() if low <= value <= high]
    return [*alternatives, {"enum": fractions}] if fractions else alternatives


@cache
def _negative_fractions() -> tuple[float, ...]:
    values = {-count / scale for scale in (1000, 100, 10) for count in range(1, 1000) if count % scale}
    return tuple(sorted(values))


def _integer_bounds(keywords: Schema) -> tuple[int | None, int | None]:
    lows = [math.ceil(keywords["minimum"])] if "minimum" in keywords else []
    lows += [math.floor(keywords["exclusiveMinimum"]) + 1] if "exclusiveMinimum" in keywords else []
    highs = [math.floor(keywords["maximum"])] if "maximum" in keywords else []
    highs += [math.ceil(keywords["exclusiveMaximum"]) - 1] if "exclusiveMaximum" in keywords else []
    return max(lows, default=None), min(highs, default=None)


def _string(keywords: Schema, path: str) -> Schema:
    kind = keywords.get("format")
    if kind is not None:
        _require(kind in FORMATS, path, f"the format {kind!r} cannot be enforced; use {', '.join(FORMATS)}, or pattern")
        _only(keywords, {"format"}, path)
        return {"type": "string", "format": kind}
    if "pattern" in keywords:
        _only(keywords, {"pattern"}, path)
        try:
            return {"type": "string", "pattern": safe_pattern(keywords["pattern"])}
        except ValueError as error:
            raise ValueError(f"{path[1:] or 'it'}: {error}") from error
    least = int(keywords.get("minLength", 0))
    most = int(keywords.get("maxLength", LONGEST_STRING))
    _require(least <= min(most, LONGEST_STRING), path, f"minLength is {least}, which exceeds maxLength or {LONGEST_STRING}")
    return {"type": "string", "minLength": least, "maxLength": most}


def is_printable(text: str, longest: int) -> bool:
    """Return whether a text has at most ``longest`` characters, and no line breaks, control characters or lone surrogates."""
    return len(text) <= longest and _UNPRINTABLE.search(text) is None


def is_like_a_token(text: str) -> bool:
    """Return whether a text has a word in angle brackets. It may be a control token such as ``<think>``.

    A grammar cannot produce the characters of a control token.
    """
    return re.search(r"<\S*>", text) is not None


def _only(keywords: Schema, allowed: frozenset[str] | set[str], path: str) -> None:
    others = [key for key in keywords if key not in allowed]
    _require(not others, path, f"{', '.join(others[:5])} cannot be enforced here; remove it")


def _part(keywords: Schema, keys: frozenset[str]) -> Schema:
    return {key: value for key, value in keywords.items() if key in keys}


def _require(holds: bool, path: str, fault: str) -> None:
    if not holds:
        raise ValueError(f"{path[1:]}: {fault}" if path else fault)


def names_of(schema: Schema) -> Sequence[str]:
    """Return the names of the arguments in a schema from `read_schema`."""
    return list(schema["properties"])
