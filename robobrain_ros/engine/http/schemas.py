"""Check the constraints in HTTP requests: JSON schemas, regular expressions and choices.

vLLM compiles a constraint. These checks run before that, and compile nothing. They return an estimate of the CPU time that vLLM
needs. Grammars (EBNF or Lark) and structural tags are not supported, because their cost is unknown until they are compiled.
"""

import json
from typing import Any, NamedTuple

from robobrain_ros.bounds.compile_cost import (
    BASE,
    BYTE,
    MOST_COMPILE,
    MOST_FORCED,
    SUBSCHEMA,
    TEXT_VALUE,
    forced_text,
    is_fixed,
    regex_parts,
    schema_costs,
)
from robobrain_ros.bounds.constraints import DEEPEST, check_regex_bounds, check_schema_bounds

MOST_SUBSCHEMAS = 3000
MOST_AT_ONE_PLACE = 256
"""Most optional properties and alternatives that can begin at one place of an answer, with nested ``anyOf`` added up. The engine
compares each of them with every token of the vocabulary, within the step that all requests share."""
MOST_COUNTS = 100_000
"""Largest sum of all counts, such as ``minItems``, in one schema."""
MOST_VALUES = 5000
"""Most values of one ``enum``."""
MOST_CHOICES = 200
LONGEST_CHOICE = 1000
LARGEST_NUMBER = 1e15

_FORCED = f"a text without alternatives may have more than {MOST_FORCED} characters"
_TEXT_KEYWORDS = frozenset({"title", "description", "$schema", "$id", "$comment", "format", "pattern", "$ref", "type"})
_FREE_KEYWORDS = frozenset({"default", "examples", "deprecated", "readOnly", "writeOnly", "strict"})
_COUNT_KEYWORDS = frozenset({"minItems", "maxItems", "minLength", "maxLength"})
_NUMBER_KEYWORDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_MAP_KEYWORDS = frozenset({"properties", "$defs", "definitions"})
_LIST_KEYWORDS = frozenset({"anyOf", "prefixItems"})
_SCHEMA_KEYWORDS = frozenset({"items", "additionalProperties"})
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_FORMATS = ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid")
_KEYWORDS = (
    _TEXT_KEYWORDS | _FREE_KEYWORDS | _COUNT_KEYWORDS | _NUMBER_KEYWORDS | _MAP_KEYWORDS | _LIST_KEYWORDS | _SCHEMA_KEYWORDS
) | {"enum", "const", "required", "allOf", "oneOf"}

_ANNOTATIONS = frozenset({"title", "description", "$schema", "$id", "$comment", "$defs", "definitions"}) | _FREE_KEYWORDS
_PARTS = frozenset({"properties", "items", "prefixItems", "additionalProperties", "anyOf", "allOf", "oneOf", "$ref"})


def check_schema(schema: Any) -> float:
    """Check a JSON schema.

    :param schema: the schema as JSON text, or parsed.
    :returns: the estimated CPU time for compiling it, in milliseconds.
    :raises ValueError: the schema exceeds a limit, refers to itself, or has an unsupported keyword.
    """
    check_schema_bounds(schema)
    value = json.loads(schema) if isinstance(schema, str) else schema
    if isinstance(value, bool):
        return BASE
    if not isinstance(value, dict):
        raise ValueError("a JSON schema is an object")
    walk = _Walk(value, len(schema) if isinstance(schema, str) else len(json.dumps(schema)))
    walk.schema(value, "", ())
    return walk.cost


def check_regex(pattern: Any) -> float:
    """Check a regular expression.

    :returns: the estimated CPU time for compiling it, in milliseconds.
    :raises ValueError: it is not a string, or exceeds a limit.
    """
    if not isinstance(pattern, str):
        raise ValueError("a regular expression is a string")
    check_regex_bounds(pattern)
    milliseconds, forced = regex_parts(pattern)
    if milliseconds > MOST_COMPILE:
        raise ValueError(
            f"compiling the regular expression would take more than {MOST_COMPILE:.0f} ms (estimate: {milliseconds:.0f} ms); use "
            "fewer parts with ? or *, and fewer classes such as \\w or [^a]"
        )
    _require(
        forced <= MOST_FORCED, "", f"a text without alternatives may have more than {MOST_FORCED} characters; use fewer counts"
    )
    return BASE + milliseconds


def check_choice(choices: Any) -> float:
    """Check a list of allowed answers.

    :returns: the estimated CPU time for compiling it, in milliseconds.
    :raises ValueError: it is not a list of strings, or is too long.
    """
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) and choice for choice in choices):
        raise ValueError("a choice is a list of strings that are not empty")
    if len(choices) > MOST_CHOICES or max(map(len, choices)) > LONGEST_CHOICE:
        raise ValueError(f"a choice has at most {MOST_CHOICES} strings of at most {LONGEST_CHOICE} characters")
    return BASE + sum(TEXT_VALUE + BYTE * len(choice) for choice in choices)


def check_structured_outputs(value: Any) -> None:
    """Check vLLM's parameters of a constraint. This is the last check before the engine, for every route.

    :raises ValueError: the constraint exceeds a limit, or its kind is not supported.
    """
    if value is None:
        return
    for name in ("grammar", "structural_tag"):
        if getattr(value, name, None) is not None:
            raise ValueError(f"structured_outputs.{name} is not supported; use json, regex or choice")
    for name, check in (("json", check_schema), ("regex", check_regex), ("choice", check_choice)):
        given = getattr(value, name, None)
        if given is None:
            continue
        try:
            check(given)
        except ValueError as error:
            raise ValueError(f"structured_outputs.{name}: {error}") from error


class _Part(NamedTuple):
    """What a subschema adds to a schema.

    :param alternatives: optional properties and alternatives with which an answer can begin here.
    :param size: number of subschemas, if every reference is replaced by its target.
    :param cost: estimated milliseconds for compiling it once, in the same way.
    :param forced: most characters of a text in it without alternatives.
    :param fixed: whether it may permit a single text only.
    :param least_items: least number of items in its list.
    """

    alternatives: int
    size: int
    cost: float
    forced: int
    fixed: bool
    least_items: int


_ANYTHING = _Part(1, 1, SUBSCHEMA, 0, False, 1)


class _Walk:
    """Visits every subschema, and sums up the subschemas, their counts, and the estimated milliseconds by keyword."""

    def __init__(self, root: dict[str, Any], size: int) -> None:
        self._root = root
        self._subschemas = 0
        self._counts = 0
        self.cost = BASE + BYTE * size
        """Estimated milliseconds for compiling what was visited."""
        self._costs: dict[str, float] = {}
        """The same by keyword."""
        self._checked: dict[str, _Part] = {}
        """References whose targets are already checked."""

    def schema(self, schema: Any, path: str, within: tuple[str, ...]) -> _Part:
        """Check a subschema.

        :param within: the references that lead to this subschema.
        """
        if isinstance(schema, bool):
            return _ANYTHING
        _require(isinstance(schema, dict), path, "a schema is an object")
        self._add(1, path)
        alternatives = 1
        parts: list[_Part] = []
        """Subschemas whose texts follow one another."""
        items: list[_Part] = []
        others: list[_Part] = []
        """Subschemas of the same text."""
        for key, value in schema.items():
            place = f"{path}.{key[:40]}"
            _require(key in _KEYWORDS, path, f"the keyword {key[:40]!r} is not supported; remove it")
            if key in _MAP_KEYWORDS:
                _require(isinstance(value, dict), place, "an object is expected")
                if key == "properties" or not path:  # References can reach only the definitions of the root.
                    found = [self.schema(item, f"{place}.{name[:40]}", within) for name, item in value.items()]
                    parts += found if key == "properties" else []
            elif key in _LIST_KEYWORDS or key in ("allOf", "oneOf"):
                _require(isinstance(value, list), place, "a list is expected")
                # The compiler multiplies the alternatives of combined schemas.
                single = "only one entry is supported; write the schema out, or use anyOf"
                _require(key in _LIST_KEYWORDS or len(value) == 1, place, single)
                entries = [self.schema(item, f"{place}[{number}]", within) for number, item in enumerate(value)]
                if key == "prefixItems":
                    parts += entries
                else:
                    others += entries
                    alternatives *= max(sum(entry.alternatives for entry in entries), 1)
            elif key in _SCHEMA_KEYWORDS:
                items.append(self.schema(value, place, within))
            elif key == "$ref":
                target = self._follow(value, place, within)
                others.append(target)
                alternatives *= target.alternatives
                if set(schema) - _ANNOTATIONS != {"$ref"}:  # The compiler combines the target with the keywords beside it.
                    self._charge("$ref", target.cost, path)
            else:
                self._plain(key, value, place)
        return self._summed(schema, path, alternatives, (parts, items, others))

    def _summed(self, schema: dict[str, Any], path: str, alternatives: int, found: tuple[list[_Part], ...]) -> _Part:
        parts, items, others = found
        own = schema_costs(schema)
        for kind, milliseconds in own.items():
            self._charge(kind, milliseconds, path)
        size = 1 + sum(part.size for part in parts + items + others)
        cost = sum(own.values()) + sum(part.cost for part in parts + items + others)
        if len(_PARTS.intersection(schema)) > 1 and others:
            # The compiler combines each alternative with everything beside it.
            self._add(size * (alternatives - 1), path)
            self._charge("combined subschemas", cost * alternatives, path)
            size *= alternatives
            cost *= 1 + alternatives
        names = schema.get("properties", {})
        combined = bool(others) and len(schema.keys() - _ANNOTATIONS) > 1
        fixed = is_fixed(schema) or combined or any(part.fixed for part in items + others)
        fixed = fixed or (bool(parts) and all(part.fixed for part in parts))
        own_least = max(schema.get("minItems", 1), 1)
        least = max([own_least, *(part.least_items for part in others)])
        forced = forced_text(schema) + _forced_run(list(names), parts)
        forced += (least if fixed else 1) * sum(part.forced + 1 for part in items)
        forced += (own_least if fixed else 1) * max((part.forced for part in others), default=0)
        _require(forced <= MOST_FORCED, path, f"{_FORCED}; use shorter values, or fewer items")
        alternatives *= 1 + len(set(names).difference(schema.get("required", ())))
        most = f"more than {MOST_AT_ONE_PLACE} optional properties and alternatives can begin at one place of the answer"
        _require(alternatives <= MOST_AT_ONE_PLACE, path, f"{most}; require the properties, or use fewer")
        return _Part(alternatives, size, cost, forced, fixed, least)

    def _add(self, count: int, path: str) -> None:
        self._subschemas += count
        most = f"the schema has more than {MOST_SUBSCHEMAS} subschemas (those beside anyOf count once for each alternative)"
        _require(self._subschemas <= MOST_SUBSCHEMAS, path, most)

    def _charge(self, kind: str, milliseconds: float, path: str) -> None:
        self._costs[kind] = self._costs.get(kind, 0.0) + milliseconds
        self.cost += milliseconds
        if self.cost > MOST_COMPILE:
            kind = max(self._costs, key=self._costs.__getitem__)
            fault = (
                f"compiling the schema up to this place would take more than {MOST_COMPILE:.0f} ms, "
                f"{self._costs[kind]:.0f} ms of them for {kind} (estimates); use fewer or simpler ones"
            )
            _require(False, path, fault)

    def _follow(self, reference: Any, path: str, within: tuple[str, ...]) -> _Part:
        _require(isinstance(reference, str), path, "a string is expected")
        _require(reference not in within and reference != "#", path, "the schema refers to itself; write it out to a fixed depth")
        if reference in self._checked:
            return self._checked[reference]
        _require(len(within) < DEEPEST, path, f"the schema has more than {DEEPEST} references that lead to one another")
        head, kind, name = ([*reference.split("/", 2), "", ""])[:3]
        definitions = self._root.get(kind)
        known = head == "#" and kind in ("$defs", "definitions") and isinstance(definitions, dict) and name in definitions
        _require(known, path, f"{reference[:80]!r} is not a definition in this schema; only '#/$defs/NAME' is supported")
        result = self._checked[reference] = self.schema(self._root[kind][name], path, (*within, reference))
        return result

    def _plain(self, key: str, value: Any, path: str) -> None:
        if key in _COUNT_KEYWORDS:
            _require(type(value) is int and value >= 0, path, "a whole number from 0 on is expected")
            self._counts += value
            _require(self._counts <= MOST_COUNTS, path, f"all counts of the schema together are more than {MOST_COUNTS}")
        elif key in _NUMBER_KEYWORDS:
            _check_number(key, value, path)
        elif key == "enum":
            few = isinstance(value, list) and 1 <= len(value) <= MOST_VALUES
            _require(few, path, f"a list of 1 to {MOST_VALUES} values is expected")
        elif key == "type":
            named = value if isinstance(value, list) else [value]
            _require(bool(named) and all(name in _TYPES for name in named), path, f"known types are {', '.join(_TYPES)}")
        elif key == "required":
            texts = isinstance(value, list) and all(isinstance(name, str) for name in value)
            _require(texts, path, "a list of strings is expected")
        elif key == "pattern":
            _require(isinstance(value, str), path, "a string is expected")
        elif key == "format":
            _require(value in _FORMATS, path, f"known formats are {', '.join(_FORMATS)}")


def _forced_run(names: list[str], parts: list[_Part]) -> int:
    """Return the most characters without alternatives in values that follow one another: whole ones, and parts of two others."""
    names = names + [""] * (len(parts) - len(names))
    lengths = [(part.forced + 6 + len(name), part.fixed) for name, part in zip(names, parts, strict=True)]
    return sum(length for length, fixed in lengths if fixed) + sum(sorted(length for length, fixed in lengths if not fixed)[-2:])


def _check_number(key: str, value: Any, path: str) -> None:
    within = type(value) in (int, float) and abs(value) <= LARGEST_NUMBER
    _require(within, path, f"a number up to {LARGEST_NUMBER:g} is expected")
    if key == "multipleOf":
        _require(1e-6 <= value <= 1e6, path, "a number from 0.000001 to 1000000 is expected")


def _require(holds: bool, path: str, fault: str) -> None:
    if not holds:
        raise ValueError(f"{path.removeprefix('.')[:200]}: {fault}" if path else fault)
