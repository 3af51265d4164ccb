"""Regular expressions with a bounded length: validated patterns of users, and patterns for free text."""

import importlib
import re
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# Python's parser of regular expressions. Python 3.11 changed its name.
_parser: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")

FREE = r" !#-\[\]-~\u00a0-\ud7ff\uf900-\ufffd"
"""Characters that need no escape in a JSON string: no quotes, backslashes or control characters. Each has at most `MOST_BYTES`
bytes in UTF-8."""

MOST_BYTES = 3
LONGEST_PATTERN = 200
LONGEST_MATCH = 200
"""Most characters of a text that matches a user's pattern."""

_SPECIAL = frozenset(r"\^$.|?*+()[]{}-")
_FREE_RANGES = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E), (0xA0, 0xD7FF), (0xF900, 0xFFFD))
"""The ranges of `FREE`."""
_BEGINNINGS = frozenset({"AT_BEGINNING", "AT_BEGINNING_STRING"})
_ENDS = frozenset({"AT_END", "AT_END_STRING"})
_ANCHORS = {"AT_BEGINNING": "^", "AT_BEGINNING_STRING": r"\A", "AT_END": "$", "AT_END_STRING": r"\Z", "AT_BOUNDARY": r"\b"}
_CATEGORIES = {"CATEGORY_DIGIT": "0-9", "CATEGORY_WORD": "A-Za-z0-9_"}


def free_text(least: int, most: int, blank_start: bool = True) -> str:
    """Return a pattern for free text of ``least`` to ``most`` characters.

    :param blank_start: the text may begin with a blank. If False, ``least`` must be 1.
    """
    if blank_start:
        return f"^[{FREE}]{{{least},{most}}}$"
    return f"^[{FREE[1:].replace('u00a0', 'u00a1')}][{FREE}]{{0,{most - 1}}}$"


def longest_match(pattern: str) -> int:
    """Return the number of characters of the longest text that matches the pattern."""
    width: int = _parser.parse(pattern).getwidth()[1]
    return width


def safe_pattern(pattern: str) -> str:
    r"""Rewrite a user's pattern for a JSON string so that Python and grammar engines interpret it in the same way.

    The whole text must match the pattern. As in JSON Schema, ``\d`` is 0 to 9, and ``\w`` is an ASCII letter, a digit or ``_``.
    Anchors are allowed only where they have no effect: at the beginning or the end of the pattern or of one of its alternatives.

    :raises ValueError: the text is not a pattern, has no bounds, or cannot be enforced. The message names the part.
    """
    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"the pattern has {len(pattern)} characters; at most {LONGEST_PATTERN} are allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            tokens = _parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    except FutureWarning as warning:  # Other languages interpret [[:alpha:]] and [a-z&&[b]] differently than Python does.
        raise ValueError(
            f"the pattern {pattern!r} has several meanings ({warning}); escape [ and doubled signs in classes"
        ) from None
    if tokens.state.flags & ~re.UNICODE:
        raise ValueError(f"the pattern {pattern!r} sets flags, which cannot be enforced; remove them")
    safe = f"^{_written(tokens, _Place(first=True, last=True))}$"
    longest = longest_match(safe)
    if longest > LONGEST_MATCH:
        raise ValueError(
            f"the pattern {pattern!r} allows texts of more than {LONGEST_MATCH} characters; bound its repetitions, as in {{0,20}}"
        )
    return safe


@dataclass(frozen=True)
class _Place:
    """The place of a part in a pattern: whether it is the first or last part, and whether it is in a repetition."""

    first: bool = False
    last: bool = False
    repeated: bool = False


def _written(tokens: Iterable[tuple[Any, Any]], place: _Place) -> str:
    parts = [(str(kind), value) for kind, value in tokens]
    begin = next((at for at, part in enumerate(parts) if not _is_anchor(part, _BEGINNINGS)), len(parts))
    end = next((at for at in range(len(parts), 0, -1) if not _is_anchor(parts[at - 1], _ENDS)), 0)
    written = []
    for at, (kind, value) in enumerate(parts):
        first, last = place.first and at <= begin, place.last and at >= end - 1
        if _is_anchor((kind, value), _BEGINNINGS) and first:
            continue  # The anchor has no effect, because the whole text must match.
        if _is_anchor((kind, value), _ENDS) and last:
            continue
        written.append(_one(kind, value, _Place(first, last, place.repeated)))
    return "".join(written)


def _is_anchor(part: tuple[str, Any], kinds: frozenset[str]) -> bool:
    return part[0] == "AT" and str(part[1]) in kinds


def _one(kind: str, value: Any, place: _Place) -> str:
    if kind == "LITERAL":
        return _literal(value)
    if kind == "IN":
        return f"[{''.join(_member(str(what), it) for what, it in value)}]"
    if kind == "BRANCH":
        return f"({'|'.join(_written(branch, place) for branch in value[1])})"
    if kind == "SUBPATTERN":
        _, added, removed, content = value
        if added or removed:
            raise ValueError("a group in the pattern sets flags, which cannot be enforced; write out what it matches")
        return f"({_written(content, place)})"
    if kind == "MAX_REPEAT" and not place.repeated:
        least, most, what = value
        if most > LONGEST_MATCH:
            raise ValueError(f"a repetition in the pattern has no bound below {LONGEST_MATCH}; bound it, as in {{0,20}}")
        return f"({_written(what, _Place(repeated=True))}){{{least},{most}}}"
    if kind == "AT":
        raise ValueError(
            f"the pattern contains a part that cannot be enforced ({_ANCHORS.get(str(value), 'an anchor')} in its middle); "
            "the whole text must match the pattern, so leave it out"
        )
    what = "a repetition within a repetition" if kind == "MAX_REPEAT" else kind.lower().replace("_", " ")
    raise ValueError(
        f"the pattern contains a part that cannot be enforced ({what}); use classes of characters and bounded repetitions"
    )


def _member(kind: str, value: Any) -> str:
    if kind == "LITERAL":
        return _literal(value)
    if kind == "RANGE":
        low, high = value
        if low <= ord('"') <= high or low <= ord("\\") <= high:
            raise ValueError("a class in the pattern contains a quote or a backslash, which JSON must escape; remove it")
        if not any(start <= low and high <= end for start, end in _FREE_RANGES):
            raise ValueError(f"a class in the pattern spans control characters: {_literal(low)}-{_literal(high)}; name its parts")
        return f"{_literal(low)}-{_literal(high)}"
    if kind == "CATEGORY" and str(value) in _CATEGORIES:
        return _CATEGORIES[str(value)]
    raise ValueError("a class in the pattern is negated or open; list the allowed characters")


def _literal(code: int) -> str:
    character = chr(code)
    if not re.fullmatch(f"[{FREE}]", character):
        raise ValueError(f"the pattern contains the character {character!r}, which JSON must escape; remove it")
    return f"\\{character}" if character in _SPECIAL else character


def matches(pattern: str, text: str) -> bool:
    """Return whether the whole text matches a pattern of `safe_pattern` or `free_text`, in bounded time.

    Python's own matcher tries all combinations of alternatives. For ``(x|xx){66}``, this may take years.
    """
    if "(" not in pattern:
        return re.fullmatch(pattern, text) is not None
    return len(text) in _ends(_parser.parse(pattern), text, {0})


def _ends(tokens: Iterable[tuple[Any, Any]], text: str, starts: set[int]) -> set[int]:
    """Return the places where a match that begins at one of ``starts`` can end."""
    for kind, value in tokens:
        if str(kind) != "AT":  # The only anchors are at the ends of the whole pattern.
            starts = _ends_of_one(str(kind), value, text, starts)
    return starts


def _ends_of_one(kind: str, value: Any, text: str, starts: set[int]) -> set[int]:
    if kind == "BRANCH":
        return set().union(*(_ends(branch, text, starts) for branch in value[1]))
    if kind == "SUBPATTERN":
        return _ends(value[3], text, starts)
    if kind == "MAX_REPEAT":
        return _ends_of_repeat(value, text, starts)
    return {start + 1 for start in starts if start < len(text) and _fits(kind, value, ord(text[start]))}


def _ends_of_repeat(value: Any, text: str, starts: set[int]) -> set[int]:
    least, most, what = value
    found = set(starts) if least == 0 else set()
    for count in range(1, most + 1):
        starts = _ends(what, text, starts)
        if not starts or (count > least and starts <= found):
            break
        if count >= least:
            found |= starts
    return found


def _fits(kind: str, value: Any, code: int) -> bool:
    if kind == "LITERAL":
        return bool(code == value)
    if kind == "RANGE":
        return bool(value[0] <= code <= value[1])
    return any(_fits(str(member), it, code) for member, it in value)
