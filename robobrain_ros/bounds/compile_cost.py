"""Estimate the CPU time in which the engine compiles a constraint, from its text and JSON values alone.

vLLM compiles each constraint twice with llguidance: the process of the node validates it, and the engine process compiles it for
the vocabulary. vLLM keeps no compiled constraint, so each request takes this time again. The factors below are upper limits of
measurements of both together with llguidance 1.7.6 and a vocabulary of 150,000 tokens (`docs/reference/http_server.md`).
The estimates are milliseconds on one core.

Some constraints are compiled quickly and are slow in use: if a constraint permits only one next text, the engine tokenizes all of
this text again with each token, in a step that all requests share. `forced_text` and `regex_parts` bound the length of this text.
"""

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

MOST_COMPILE = 500.0
"""Most estimated milliseconds of one constraint."""
MOST_FORCED = 4096
"""Most characters of a text without alternatives. The engine takes about 1 ms for 1,000 of them with each token."""

BASE = 3.0
SUBSCHEMA = 0.08
BYTE = 0.0001
TEXT_VALUE = 0.008
"""A text of an ``enum``."""
_NUMBER_VALUE, _DIGIT_OF_VALUE = 0.002, 0.0015
PART_OF_VALUE = 0.12
"""A value within an object or a list of an ``enum``. It is compiled like a subschema."""
_ITEM, _OPTIONAL_ITEM = 0.002, 0.012
"""An item of ``minItems``, and an item that ``maxItems`` permits in addition."""
_SQUARED_DIGIT = 0.005
"""Multiplied by the square of the digits of a number bound."""
_MULTIPLE = 0.013
"""Multiplied by the digits of ``multipleOf``, read as a whole number: the compiler makes a state for each remainder."""
_FORMATS = {
    "date": 0.6, "date-time": 0.9, "duration": 1.0, "email": 1.0, "hostname": 0.3, "ipv4": 0.5, "ipv6": 1.4, "time": 0.4,
    "uri": 2.5, "uuid": 0.4,
}  # fmt: skip
_PATTERN, _CHARACTER, _CLASS = 0.3, 0.004, 0.07
_UNICODE = 8.0
"""Once, if an expression has a class with characters of many languages, such as ``\\w``."""
_OPTIONAL, _OPTIONALS = 0.07, 2.5e-4
"""For each part of a regular expression that can be missing, as ``a?``, ``a*`` or ``(a|)``, and for each pair of such parts: the
compiler follows all of them at once."""

_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_ANNOTATIONS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}
_BOUNDED = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_REGEX_PART = re.compile(
    r"\\[pP](?:\{[^}]{0,64}\}|.)|\\[xuU]\{[^}]{0,64}\}|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]"
    r"|(?P<count>\{\s*(\d{0,6})\s*(?:,\s*\d{0,6}\s*)?\})|\((?:\?(?:P?<\w{1,64}>|[a-zA-Z-]{0,16}:))?|.",
    re.DOTALL,
)
_MANY = re.compile(r"\\[wWpPdDS]|[^\x00-\x7f]")
_OPEN_CLASS = re.compile(r"\.|\\[wWdDsS]|\[(?:\^[\w .,;:]+|(?:a-z|A-Z|0-9)[\w .,;:]*)\]")
"""Classes with several characters. Others may have a single one, as ``[^\\x00-`b-\\U0010ffff]`` has."""
_EMPTY = re.compile(r"(?<=[(|:>])(?=[|)])|[\^$]")
"""Empty alternatives, and anchors."""
_CLASSES = frozenset("wWdDsSpP")


class RegexParts(NamedTuple):
    """The cost of a regular expression.

    :param milliseconds: estimated CPU time.
    :param forced: most characters of a text without alternatives.
    """

    milliseconds: float
    forced: int


def regex_parts(pattern: str) -> RegexParts:
    """Return the cost of a regular expression that is within `constraints.check_regex_bounds`."""
    classes = optional = 0
    groups = [_Group()]
    for part in _REGEX_PART.finditer(pattern):
        text = part[0]
        if text in ("?", "*", "+") or part["count"]:
            least = int(part[2] or 0) if part["count"] else int(text == "+")
            optional += not least
            groups[-1].repeat_last(least)
        elif text[0] == "(":
            groups.append(_Group())
        elif text == ")" and len(groups) > 1:
            inner = groups.pop()
            groups[-1].add(inner.longest())
        elif text == "|":
            groups[-1].end_branch()
        else:
            classes += (text[0] == "[") or (text[0] == "\\" and text[1:2] in _CLASSES)
            groups[-1].add(int(_OPEN_CLASS.fullmatch(text) is None))
    cost = _CHARACTER * len(pattern) + _CLASS * classes + _UNICODE * bool(_MANY.search(pattern))
    optional += len(_EMPTY.findall(pattern))
    cost += _OPTIONAL * optional + _OPTIONALS * optional**2
    return RegexParts(cost, sum(group.longest() for group in groups))


class _Group:
    """A group of a regular expression, and the most characters of a text in it without alternatives."""

    def __init__(self) -> None:
        self._branches = self._sum = self._optional = self._last = 0

    def add(self, forced: int) -> None:
        """Add a part that follows the others."""
        self._sum += forced
        self._last = forced

    def repeat_last(self, least: int) -> None:
        """Repeat the last part. If it can be missing, it is a text of its own, because its beginning is an alternative."""
        self._sum += self._last * (least - 1)
        self._optional = max(self._optional, 0 if least else self._last)
        self._last *= least

    def end_branch(self) -> None:
        """Begin an alternative."""
        self._branches, self._sum, self._optional = self.longest(), 0, 0

    def longest(self) -> int:
        """Return the most characters."""
        return max(self._branches, self._sum + self._optional)


def schema_costs(schema: Mapping[str, Any]) -> dict[str, float]:
    """Return the estimated milliseconds of one subschema by keyword, without the subschemas in it.

    :param schema: a subschema whose keywords have values of the right types.
    """
    costs = {"subschemas": SUBSCHEMA}
    for key, value in schema.items():
        if key in _NUMBERS:
            costs[key] = _SQUARED_DIGIT * len(_digits(value)) ** 2
        elif key == "multipleOf":
            costs[key] = _MULTIPLE * int(_digits(value))
        elif key == "format":
            costs[key] = _FORMATS.get(value, max(_FORMATS.values()))
        elif key == "pattern":
            costs[key] = _PATTERN + regex_parts(value).milliseconds
        elif key == "minItems":
            costs[key] = _ITEM * value
        elif key == "maxItems":
            costs[key] = _OPTIONAL_ITEM * max(value - schema.get("minItems", 0), 0)
        elif key in ("enum", "const"):
            costs[key] = sum(_value_cost(item) for item in (value if key == "enum" else [value]))
        elif key == "properties":
            costs["names of properties"] = BYTE * sum(map(len, value))
    return costs


def plain_cost(schema: Any) -> float:
    """Return the estimated milliseconds of a schema whose references have no other keywords beside them."""
    return BASE + sum(sum(schema_costs(each).values()) for each in _subschemas(schema))


def forced_text(schema: Mapping[str, Any]) -> int:
    """Return the most characters that one subschema, without the subschemas in it, permits without alternatives."""
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    longest = max((len(json.dumps(value)) for value in values), default=4)
    if "pattern" in schema:
        longest = max(longest, regex_parts(schema["pattern"]).forced)
    return longest + 20 * bool(_BOUNDED & schema.keys())


def is_fixed(schema: Mapping[str, Any]) -> bool:
    """Return whether a subschema without other subschemas in it may permit a single text only."""
    if "enum" in schema and schema.keys() - _ANNOTATIONS <= {"type", "enum"}:
        kinds = schema.get("type", "string")
        texts = {value for value in schema["enum"] if isinstance(value, str)}
        return kinds != "string" or len(texts) < 2
    return (
        bool({"enum", "const", "pattern"} & schema.keys())
        or schema.get("type") in ("null", ["null"])
        or 0 in (schema.get("maxLength"), schema.get("maxItems"))
        or _is_narrow(schema)
    )


def _is_narrow(schema: Mapping[str, Any]) -> bool:
    lows = [schema[key] for key in ("minimum", "exclusiveMinimum") if key in schema]
    highs = [schema[key] for key in ("maximum", "exclusiveMaximum") if key in schema]
    if not lows or not highs:
        return False
    step = 2 * schema["multipleOf"] if "multipleOf" in schema else "integer" in schema.get("type", "integer")
    return bool(min(highs) - max(lows) < step * (1 + len({"exclusiveMinimum", "exclusiveMaximum"} & schema.keys())))


def _subschemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(schema, list):
        for item in schema:
            yield from _subschemas(item)
    elif isinstance(schema, dict):
        yield schema
        for key in ("properties", "$defs"):
            yield from _subschemas(list(schema.get(key, {}).values()))
        for key in ("items", "anyOf"):
            yield from _subschemas(schema.get(key))


def _value_cost(value: Any) -> float:
    if isinstance(value, dict):
        return PART_OF_VALUE + sum(_value_cost(item) + PART_OF_VALUE + BYTE * len(key) for key, item in value.items())
    if isinstance(value, list):
        return PART_OF_VALUE + sum(_value_cost(item) + PART_OF_VALUE for item in value)
    return TEXT_VALUE + BYTE * len(value) if isinstance(value, str) else _NUMBER_VALUE + _DIGIT_OF_VALUE * len(str(value))


def _digits(number: float) -> str:
    """Return the digits of a number, without sign, point and exponent."""
    return f"{Decimal(repr(number)).normalize():f}".lstrip("-").replace(".", "")
