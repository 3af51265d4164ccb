"""Find the distances above a surface that an instruction names, such as "1 to 5 cm above the bowl"."""

import re
from dataclasses import dataclass

LONGEST_INSTRUCTION = 8000
"""The module reads at most this many characters of an instruction."""

_UNITS = {"mm": 1e-3, "cm": 1e-2, "m": 1.0, "millimet": 1e-3, "centimet": 1e-2, "met": 1.0}
_NUMBER = r"([0-9]{1,6}(?:[.,][0-9]{1,6})?)"
_UNIT = r"(millimet|centimet|met|mm|cm|m)(?:(?<=met)(?:er|re)s?)?"
_DISTANCE = re.compile(
    rf"(?<![\w.,/+-]){_NUMBER} ?(?:{_UNIT} ?)?(?:(?:to|and|-|–) ?{_NUMBER} ?)?{_UNIT} (?:above|over)\b", re.IGNORECASE
)
_EXACT = 0.2
"""Tolerance of a single distance, as a share of it."""
_EXACT_LEAST = 0.01
"""Least tolerance of a single distance in metres."""


@dataclass(frozen=True)
class NamedDistance:
    """A range of heights above a surface in metres, and the words that name it."""

    low: float
    high: float
    words: str


def named_distances(instruction: str) -> tuple[NamedDistance, ...]:
    """Return the distances before the words "above" and "over". A single distance gets a tolerance of 20 %, at least 1 cm."""
    return tuple(_read(found) for found in _DISTANCE.finditer(" ".join(instruction[:LONGEST_INSTRUCTION].split())))


def _read(found: re.Match[str]) -> NamedDistance:
    first, own_unit, second, unit = found.groups()
    factor = _UNITS[unit.lower()]
    low = float(first.replace(",", ".")) * (_UNITS[own_unit.lower()] if own_unit and second else factor)
    if second is None:
        tolerance = max(low * _EXACT, _EXACT_LEAST)
        return NamedDistance(max(low - tolerance, 0.0), low + tolerance, found[0])
    high = float(second.replace(",", ".")) * factor
    return NamedDistance(min(low, high), max(low, high), found[0])
