"""Bounds of JSON schemas, regular expressions and grammars. Every engine can compile a constraint within these bounds quickly.

A grammar engine unrolls counts: ``"minItems": 1000000000`` takes 15 GB of memory. These checks use only the text and JSON values.
They compile nothing, and take less than a millisecond per 10 kB. All constraints of the node itself are within the bounds.
`core.plans.argument_schema` and `core.plans.patterns` have stricter bounds, because a plan must have a longest text.
"""

import json
import math
import re
from typing import Any

LARGEST_SCHEMA = 256 * 1024
"""Most bytes of a schema as JSON text."""
LONGEST_REGEX = 16 * 1024
LARGEST_GRAMMAR = 64 * 1024
DEEPEST = 64
"""Most levels of nested objects, lists, or groups of a regular expression."""
MOST_REPEATS = 4096
"""Most repetitions in a regular expression or a grammar. In a regular expression, nested counts are multiplied."""
MOST_REPEATS_IN_ALL = 64 * 1024
"""Largest sum of all counts in a regular expression."""

MOST_ITEMS = 10_000
LONGEST_STRING = 100_000

_COUNTS = {
    **dict.fromkeys(("minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains"), MOST_ITEMS),
    **dict.fromkeys(("minLength", "maxLength"), LONGEST_STRING),
}
_REGEX_KEYS = frozenset({"pattern", "regex"})
_GRAMMAR_KEYS = frozenset({"grammar", "ebnf", "lark"})
_EXTENDED = re.compile(r"\(\?[a-zA-Z-]*x")
_REGEX_PART = re.compile(
    r"\\[xuUpPkN]\{[^}]{0,64}\}|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|(?P<count>\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\})|[()]|.", re.DOTALL
)
_GRAMMAR_COUNT = re.compile(
    r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}|~\s*(\d+)(?:\s*\.\.\s*(\d+))?|\"(?:min|max)[A-Z]\w*\"\s*:\s*([-+.\w]+)"
)


def check_schema_bounds(schema: Any) -> None:
    """Check a JSON schema. A structural tag is checked in the same way.

    :param schema: the schema as JSON text, or parsed.
    :raises ValueError: the schema exceeds a bound, or has a number that is not finite. The message begins with the path.
    """
    try:
        text = schema if isinstance(schema, str) else json.dumps(schema, ensure_ascii=False)
        _within(len(text.encode("utf-8", "replace")), LARGEST_SCHEMA, "it", "bytes")
        value = json.loads(text, parse_constant=reject_constant) if isinstance(schema, str) else schema
    except (TypeError, RecursionError) as error:
        raise ValueError(f"it is not JSON, or it is nested too deeply: {str(error)[:200]}") from error
    _check_value(value, "", 0)


def check_regex_bounds(pattern: str) -> None:
    """Check a regular expression of any dialect.

    :raises ValueError: the expression is too long, is nested too deeply, or repeats too often.
    """
    _within(len(pattern), LONGEST_REGEX, "the regular expression", "characters")
    if _EXTENDED.search(pattern):
        raise ValueError("the regular expression sets the flag x, which hides its counts; write it without the flag")
    total = 0
    counts = [1]
    """For each open group, the largest product of counts within it."""
    last = 1
    for part in _REGEX_PART.finditer(pattern):
        if part[0] == "[":
            raise ValueError("the regular expression opens a class with [ and does not close it")
        if part[0] in ("?", "*", "+"):
            continue
        if part[0] == "(":
            _within(len(counts), DEEPEST, "the regular expression", "levels of groups")
            counts.append(1)
        elif part[0] == ")" and len(counts) > 1:
            last = counts.pop()
            counts[-1] = max(counts[-1], last)
            continue
        elif part["count"]:
            repeats = _largest(part[2], part[3])
            _within(repeats, MOST_REPEATS, "the regular expression", "repetitions")
            last *= max(repeats, 1)
            _within(last, MOST_REPEATS, "the regular expression", "repetitions, nested counts multiplied")
            counts[-1] = max(counts[-1], last)
            total += last
            _within(total, MOST_REPEATS_IN_ALL, "the regular expression", "repetitions in all")
            continue
        last = 1


def check_grammar_bounds(grammar: str) -> None:
    """Check a grammar in EBNF, GBNF or Lark, including the regular expressions and schemas in it.

    :raises ValueError: the grammar is too large or repeats too often.
    """
    _within(len(grammar.encode("utf-8", "replace")), LARGEST_GRAMMAR, "the grammar", "bytes")
    for found in _GRAMMAR_COUNT.finditer(grammar):
        try:
            count = max((float(number) for number in found.groups() if number), default=0.0)
        except ValueError:
            continue
        _within(count, MOST_REPEATS, "the grammar", "repetitions")


def _check_value(value: Any, path: str, depth: int) -> None:
    _within(depth, DEEPEST, _name(path), "levels")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{_name(path)}: the number is too large; write a finite number")
    if isinstance(value, list):
        for number, item in enumerate(value):
            _check_value(item, f"{path}[{number}]", depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            place = f"{path}.{key[:40]}"
            _check_keyword(key, item, place)
            _check_value(item, place, depth + 1)


def _check_keyword(key: str, value: Any, path: str) -> None:
    if key in _COUNTS and isinstance(value, int | float) and not isinstance(value, bool) and value > _COUNTS[key]:
        raise ValueError(f"{_name(path)}: the count is larger than {_COUNTS[key]}")
    try:
        if key in _REGEX_KEYS and isinstance(value, str):
            check_regex_bounds(value)
        if key in _GRAMMAR_KEYS and isinstance(value, str):
            check_grammar_bounds(value)
        if key == "patternProperties" and isinstance(value, dict):
            for pattern in value:
                check_regex_bounds(pattern)
    except ValueError as error:
        raise ValueError(f"{_name(path)}: {error}") from error


def _name(path: str) -> str:
    return path.removeprefix(".")[:200] or "it"


def _largest(least: str | None, most: str | None) -> int:
    """Return the larger of two counts. A count with very many digits is cut to 12 digits, which still exceeds all bounds."""
    return max(int((number or "0")[:12]) for number in (least, most))


def _within(count: float, most: int, what: str, unit: str) -> None:
    if not count <= most:
        raise ValueError(f"{what} has more than {most} {unit}")


def reject_constant(name: str) -> float:
    """Reject NaN and Infinity, which are not valid JSON. Pass it to Python's JSON parser as ``parse_constant``.

    :raises ValueError: always.
    """
    raise ValueError(f"{name} is not a number in JSON")
