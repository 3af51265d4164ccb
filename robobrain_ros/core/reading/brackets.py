"""The state of an open bracket in an answer: the numbers, keys and coordinates read so far."""

import re
from dataclasses import dataclass, field

from robobrain_ros.core.query import Box, Point
from robobrain_ros.core.reading.tokens import Token

_END_OF_THOUSANDS = re.compile("0[0-9]{2}")
"""The digits after the separator of a number such as 1,024. A separate number would have no leading zero."""

_OTHER_VALUE = re.compile(
    "wh|hw|colou?r|rgb|scores?|confidences?|angle|orientation|rotation|scale|time|timestamp|depth|distance|"
    ".*(size|resolution|dimensions?|shape|width|height)"
)
"""Words in the keys of an object whose values are not coordinates but sizes, colours, scores or the like."""


def holds_no_coordinates(key: str) -> bool:
    """Return whether the value of an object's key (in lower case) is not a coordinate."""
    return any(_OTHER_VALUE.fullmatch(word) for word in re.split("[^a-z]+", key))


@dataclass
class Bracket:
    """An open bracket and its content so far."""

    opening: str
    numbers: list[float] = field(default_factory=list)
    comma_read: bool = False
    """Whether a comma follows the last number."""
    separators: set[tuple[bool, bool]] = field(default_factory=set)
    """The separators between its numbers. Each is (comma present, whitespace before the second number)."""
    is_ambiguous: bool = False
    """Whether one of its numbers may be part of a number with a thousands separator or a decimal comma."""
    only_numbers: bool = True
    """Whether it contains nothing but numbers, commas and brackets so far."""
    has_brackets: bool = False
    has_coordinates: bool = False
    has_broken_coordinates: bool = False
    is_other_value: bool = False
    """Whether it is the value of a key whose value is not a coordinate."""
    corners: list[Point] = field(default_factory=list)
    """In a list: points that may be corners of a box."""
    unlabelled: list[Point | Box] = field(default_factory=list)
    """In an object: the coordinates. They get the object's label when the bracket closes."""
    fields: dict[str, float] = field(default_factory=dict)
    """In an object: the numbers by their keys."""
    has_keys: bool = False
    value_read: bool = False
    """In an object: whether the number of the current key was read."""
    key: str | None = None
    """In an object: the key of the current value."""
    word: str | None = None
    """The last word or string. If a colon follows, it is a key."""
    label: str = ""

    def add_number(self, token: Token) -> None:
        """Add a number outside of an object. In ``(1,000, 2,000)`` and ``(0,5, 0,25)``, the separators differ."""
        if self.numbers:
            self.separators.add((self.comma_read, token.spaced))
            if self.comma_read and not token.spaced and _END_OF_THOUSANDS.fullmatch(token.text):
                self.is_ambiguous = True
        self.numbers.append(float(token.text))
        self.comma_read = False

    def add_value(self, token: Token) -> None:
        """Add a number in an object. In ``{"x": 1,000}`` and ``{"x": 1 000}``, the second number has no key of its own."""
        if self.key is not None and not self.value_read:
            self.fields[self.key] = float(token.text)
            self.value_read = True
        elif self.has_keys:
            self.is_ambiguous = True

    def read_colon(self) -> None:
        """Make the last word or string of an object the key of the next value."""
        self.only_numbers = False
        if self.is_object and self.word is not None:
            self.key, self.word = self.word.strip().lower(), None
            self.has_keys = True
            self.value_read = False

    @property
    def is_object(self) -> bool:
        """Whether it is an object with keys and values."""
        return self.opening == "{"
