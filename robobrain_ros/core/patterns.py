"""Regular expressions that bound text: those of users, checked, and the class of characters that free text is made of."""

import importlib
import re
import sys
from collections.abc import Iterable
from typing import Any

# Python's own parser of patterns, under the name that it has since 3.11.
_parser: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")

FREE = r" !#-\[\]-~\u00a0-\ud7ff\uf900-\ufffd"
"""Every character of every living language that a JSON string holds as it is: no quote, no backslash, no control character. Each
has at most `MOST_BYTES` in UTF-8."""

MOST_BYTES = 3
LONGEST_PATTERN = 200
LONGEST_MATCH = 200
"""Characters of a text that a user's pattern may ask for."""

_SPECIAL = frozenset(r"\^$.|?*+()[]{}-")
_CATEGORIES = {"CATEGORY_DIGIT": "0-9", "CATEGORY_WORD": "A-Za-z0-9_"}


def free_text(least: int, most: int, blank_start: bool = True) -> str:
    """A pattern for free text of so many characters.

    :param blank_start: it may begin with a blank, or be nothing but blanks; otherwise ``least`` must be 1.
    """
    if blank_start:
        return f"^[{FREE}]{{{least},{most}}}$"
    return f"^[{FREE[1:].replace('u00a0', 'u00a1')}][{FREE}]{{0,{most - 1}}}$"


def longest_match(pattern: str) -> int:
    """Characters that a text of this pattern may have at most."""
    width: int = _parser.parse(pattern).getwidth()[1]
    return width


def safe_pattern(pattern: str) -> str:
    """A user's pattern for a JSON string, in words that Python and grammars understand alike; the whole text must match it.

    :raises ValueError: it is no pattern, has no bounds, or holds what a grammar cannot enforce; the message says what.
    """
    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"the pattern has {len(pattern)} characters; at most {LONGEST_PATTERN} are allowed")
    try:
        tokens = _parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    if tokens.state.flags & ~re.UNICODE:
        raise ValueError(f"the pattern {pattern!r} sets flags, which cannot be enforced")
    safe = f"^{_written(tokens)}$"
    longest = longest_match(safe)
    if longest > LONGEST_MATCH:
        raise ValueError(
            f"the pattern {pattern!r} allows texts of more than {LONGEST_MATCH} characters; bound its repetitions, as in {{0,20}}"
        )
    return safe


def _written(tokens: Iterable[tuple[Any, Any]], repeated: bool = False) -> str:
    return "".join(_one(str(kind), value, repeated) for kind, value in tokens)


def _one(kind: str, value: Any, repeated: bool) -> str:
    if kind == "LITERAL":
        return _literal(value)
    if kind == "IN":
        return f"[{''.join(_member(str(what), it) for what, it in value)}]"
    if kind == "AT" and str(value) in ("AT_BEGINNING", "AT_END") and not repeated:
        return ""  # The whole text must match anyway.
    if kind == "BRANCH":
        return f"({'|'.join(_written(branch, repeated) for branch in value[1])})"
    if kind == "SUBPATTERN":
        return f"({_written(value[3], repeated)})"
    if kind == "MAX_REPEAT" and not repeated:
        least, most, what = value
        if most > LONGEST_MATCH:
            raise ValueError(f"a repetition in the pattern has no bound below {LONGEST_MATCH}; bound it, as in {{0,20}}")
        return f"({_written(what, repeated=True)}){{{least},{most}}}"
    what = "a repetition within a repetition" if kind == "MAX_REPEAT" else kind.lower().replace("_", " ")
    raise ValueError(f"the pattern holds what cannot be enforced ({what}); use classes of characters and bounded repetitions")


def _member(kind: str, value: Any) -> str:
    if kind == "LITERAL":
        return _literal(value)
    if kind == "RANGE":
        low, high = value
        if low <= ord('"') <= high or low <= ord("\\") <= high:
            raise ValueError("a class in the pattern holds a quote or a backslash, which JSON would have to escape")
        return f"{_literal(low)}-{_literal(high)}"
    if kind == "CATEGORY" and str(value) in _CATEGORIES:
        return _CATEGORIES[str(value)]
    raise ValueError("a class in the pattern is negated or open; name the characters that it allows")


def _literal(code: int) -> str:
    character = chr(code)
    if not re.fullmatch(f"[{FREE}]", character):
        raise ValueError(f"the pattern holds the character {character!r}, which JSON would have to escape")
    return f"\\{character}" if character in _SPECIAL else character
