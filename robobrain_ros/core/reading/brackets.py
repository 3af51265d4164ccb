"""An open bracket of an answer: the numbers, keys and coordinates read in it so far."""

import re
from dataclasses import dataclass, field

from robobrain_ros.core.query import Box, Point
from robobrain_ros.core.reading.tokens import Token

_END_OF_THOUSANDS = re.compile("0[0-9]{2}")
"""The second part of a number such as 1,024. A whole number has no leading zeros."""

_OTHER_VALUE = re.compile(
    "wh|hw|colou?r|rgb|scores?|confidences?|angle|orientation|rotation|scale|time|timestamp|depth|distance|"
    ".*(size|resolution|dimensions?|shape|width|height)"
)
"""Words in keys of an object whose values are sizes, colours, scores or other values beside coordinates."""


def holds_no_coordinates(key: str) -> bool:
    """Whether the value of a key (lower case) of an object is not a coordinate."""
    return any(_OTHER_VALUE.fullmatch(word) for word in re.split("[^a-z]+", key))


@dataclass
class Bracket:
    """An open bracket and its content so far."""

    opening: str
    numbers: list[float] = field(default_factory=list)
    comma_read: bool = False
    """Whether a comma follows the last number."""
    separators: set[tuple[bool, bool]] = field(default_factory=set)
    """What stands between its numbers: whether a comma, and whether whitespace before the second number."""
    is_ambiguous: bool = False
    """Whether one of its numbers may be a part of a number with a thousands separator or a decimal comma."""
    only_numbers: bool = True
    """Whether it holds nothing but numbers, commas and brackets so far."""
    has_brackets: bool = False
    has_coordinates: bool = False
    has_broken_coordinates: bool = False
    is_other_value: bool = False
    """Whether it is the value of a key that holds no coordinates."""
    corners: list[Point] = field(default_factory=list)
    """Of a list: points that may be corners of a box."""
    unlabelled: list[Point | Box] = field(default_factory=list)
    """Of an object: coordinates in it. They get its label when it closes."""
    fields: dict[str, float] = field(default_factory=dict)
    """Of an object: its numbers by their keys."""
    has_keys: bool = False
    value_read: bool = False
    """Of an object: whether the number of the present key was read."""
    key: str | None = None
    """Of an object: the key of the value being read."""
    word: str | None = None
    """The last word or string. Before a colon it is a key."""
    label: str = ""

    def add_number(self, token: Token) -> None:
        """Read a number outside of an object. In ``(1,000, 2,000)`` and ``(0,5, 0,25)``, the separators differ."""
        if self.numbers:
            self.separators.add((self.comma_read, token.spaced))
            if self.comma_read and not token.spaced and _END_OF_THOUSANDS.fullmatch(token.text):
                self.is_ambiguous = True
        self.numbers.append(float(token.text))
        self.comma_read = False

    def add_value(self, token: Token) -> None:
        """Read a number in an object. In ``{"x": 1,000}`` and ``{"x": 1 000}``, the second number has no key of its own."""
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
