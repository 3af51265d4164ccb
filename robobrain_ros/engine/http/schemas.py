"""Check the constraints in HTTP requests: JSON schemas, regular expressions and choices.

The engine's process compiles a constraint. These checks run before that, and compile nothing. Grammars (EBNF or Lark) and
structural tags are not supported, because their cost is unknown until they are compiled.
"""

import json
from typing import Any

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

_PARTS = frozenset({"properties", "items", "prefixItems", "additionalProperties", "anyOf", "allOf", "oneOf", "$ref"})


def check_schema(schema: Any) -> None:
    """Check a JSON schema.

    :param schema: the schema as JSON text, or parsed.
    :raises ValueError: the schema exceeds a limit, refers to itself, or has an unsupported keyword.
    """
    check_schema_bounds(schema)
    value = json.loads(schema) if isinstance(schema, str) else schema
    if isinstance(value, bool):
        return
    if not isinstance(value, dict):
        raise ValueError("a JSON schema is an object")
    _Walk(value).schema(value, "", ())


def check_regex(pattern: Any) -> None:
    """Check a regular expression.

    :raises ValueError: it is not a string, or exceeds a limit.
    """
    if not isinstance(pattern, str):
        raise ValueError("a regular expression is a string")
    check_regex_bounds(pattern)


def check_choice(choices: Any) -> None:
    """Check a list of allowed answers.

    :raises ValueError: it is not a list of strings, or is too long.
    """
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) and choice for choice in choices):
        raise ValueError("a choice is a list of strings that are not empty")
    if len(choices) > MOST_CHOICES or max(map(len, choices)) > LONGEST_CHOICE:
        raise ValueError(f"a choice has at most {MOST_CHOICES} strings of at most {LONGEST_CHOICE} characters")


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


class _Walk:
    """Visits every subschema, and sums up the subschemas and their counts."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._subschemas = 0
        self._counts = 0
        self._checked: dict[str, tuple[int, int]] = {}
        """References whose targets are already checked, with their alternatives and subschemas."""

    def schema(self, schema: Any, path: str, within: tuple[str, ...]) -> tuple[int, int]:
        """Check a subschema.

        :param within: the references that lead to this subschema.
        :returns: the number of optional properties and alternatives with which an answer can begin here, and the number of
            subschemas if every reference is replaced by its target.
        """
        if isinstance(schema, bool):
            return 1, 1
        _require(isinstance(schema, dict), path, "a schema is an object")
        self._add(1, path)
        alternatives = size = 1
        for key, value in schema.items():
            place = f"{path}.{key[:40]}"
            _require(key in _KEYWORDS, path, f"the keyword {key[:40]!r} is not supported; remove it")
            if key in _MAP_KEYWORDS:
                _require(isinstance(value, dict), place, "an object is expected")
                if key == "properties" or not path:  # References can reach only the definitions of the root.
                    sizes = [self.schema(item, f"{place}.{name[:40]}", within)[1] for name, item in value.items()]
                    size += sum(sizes) if key == "properties" else 0
            elif key in _LIST_KEYWORDS or key in ("allOf", "oneOf"):
                _require(isinstance(value, list), place, "a list is expected")
                # The compiler multiplies the alternatives of combined schemas.
                single = "only one entry is supported; write the schema out, or use anyOf"
                _require(key in _LIST_KEYWORDS or len(value) == 1, place, single)
                entries = [self.schema(item, f"{place}[{number}]", within) for number, item in enumerate(value)]
                alternatives *= 1 if key == "prefixItems" else max(sum(count for count, _ in entries), 1)
                size += sum(its_size for _, its_size in entries)
            elif key in _SCHEMA_KEYWORDS:
                size += self.schema(value, place, within)[1]
            elif key == "$ref":
                count, its_size = self._follow(value, place, within)
                alternatives *= count
                size += its_size
            else:
                self._plain(key, value, place)
        if alternatives > 1 and len(_PARTS.intersection(schema)) > 1:
            # The compiler combines each alternative with everything beside it.
            self._add(size * (alternatives - 1), path)
            size *= alternatives
        alternatives *= 1 + len(set(schema.get("properties", ())).difference(schema.get("required", ())))
        most = f"more than {MOST_AT_ONE_PLACE} optional properties and alternatives can begin at one place of the answer"
        _require(alternatives <= MOST_AT_ONE_PLACE, path, f"{most}; require the properties, or use fewer")
        return alternatives, size

    def _add(self, count: int, path: str) -> None:
        self._subschemas += count
        most = f"the schema has more than {MOST_SUBSCHEMAS} subschemas (those beside anyOf count once for each alternative)"
        _require(self._subschemas <= MOST_SUBSCHEMAS, path, most)

    def _follow(self, reference: Any, path: str, within: tuple[str, ...]) -> tuple[int, int]:
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
            _require(isinstance(value, int) and value >= 0, path, "a whole number from 0 on is expected")
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


def _check_number(key: str, value: Any, path: str) -> None:
    within = isinstance(value, int | float) and abs(value) <= LARGEST_NUMBER
    _require(within, path, f"a number up to {LARGEST_NUMBER:g} is expected")
    if key == "multipleOf":
        _require(1e-6 <= value <= 1e6, path, "a number from 0.000001 to 1000000 is expected")


def _require(holds: bool, path: str, fault: str) -> None:
    if not holds:
        raise ValueError(f"{path.removeprefix('.')[:200]}: {fault}" if path else fault)
