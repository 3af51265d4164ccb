"""A parameter: its type, limits and choices, and the sentence about a wrong value."""

import math
import sys
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

from robobrain_ros.bounds.texts import shortened
from robobrain_ros.ros.limits import MOST_ITEMS, MOST_PARAMETER_TEXT

_LONGEST_QUOTE = 100
"""Characters of a value in a sentence."""

Value = bool | int | float | str | list[str]

_MEANINGS = {True: ("on", "yes", "true"), False: ("off", "no", "false")}
"""Choices for each boolean, because YAML reads these words without quotes as booleans."""
_WORDS = {True: "yes, on and true", False: "no, off and false"}


class Applies(str, Enum):
    """When a change of the value takes effect."""

    AT_ONCE = "at once"
    ON_CONFIGURE = "on configure"
    AT_START = "at start"


@dataclass(frozen=True)
class Parameter:
    """A parameter with the type of ``default``. The limits are inclusive. Without ``choices``, any value is allowed."""

    name: str
    default: Value
    description: str
    applies: Applies = Applies.ON_CONFIGURE
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Value, ...] = ()
    least: float | None = None
    """Smallest value above 0, for parameters in which 0 has a special meaning, or None if ``minimum`` is the limit."""
    longest: int = MOST_PARAMETER_TEXT
    """Maximum characters of a text."""

    @property
    def type_name(self) -> str:
        """The name of the type in the documentation of ROS 2."""
        names = {bool: "bool", int: "integer", float: "double", str: "string", list: "string array"}
        return names[type(self.default)]

    @property
    def allowed(self) -> str:
        """The allowed values as text, or an empty string if any value is allowed."""
        if self.choices:
            return "one of " + ", ".join(repr(choice) if choice == "" else str(choice) for choice in self.choices)
        if self.least is not None:
            return f"0, or {self.least:.12g} to {self.maximum:.12g}"
        if self.minimum is not None and self.maximum is not None:
            return f"{self.minimum:.12g} to {self.maximum:.12g}"
        if self.minimum is not None:
            return f"at least {self.minimum:.12g}"
        return "" if self.maximum is None else f"at most {self.maximum:.12g}"

    @property
    def is_text(self) -> bool:
        """Whether the value is a text. Its type is dynamic, so that `fault` can explain what YAML read."""
        return isinstance(self.default, str)

    def meant(self, value: Any) -> Any:
        """Return the choice that a boolean stands for if YAML read ``yes``, ``no``, ``on`` or ``off`` as a boolean."""
        if not isinstance(value, bool):
            return value
        return next((choice for choice in _MEANINGS[value] if choice in self.choices), value)

    def fault(self, value: Any) -> str:
        """Return a sentence about the fault of a value, or an empty string if it is valid. The type is checked only for text."""
        value = self.meant(value)
        if self.is_text and not isinstance(value, str):
            return self._fault_of_type(value)
        if isinstance(value, float) and not math.isfinite(value):
            return f"{self.name} is {value}; it must be a finite number."
        if self.choices and value not in self.choices:
            return f"{self.name} is {shortened(repr(value), _LONGEST_QUOTE)}; it must be {self.allowed}."
        if isinstance(value, str) and len(value) > self.longest:
            return f"{self.name} has {len(value)} characters; at most {self.longest} are allowed."
        if isinstance(self.default, list) and (len(value) > MOST_ITEMS or max(map(len, value), default=0) > MOST_PARAMETER_TEXT):
            return f"{self.name} has too many or too long items: at most {MOST_ITEMS} of {MOST_PARAMETER_TEXT} characters each."
        below = (self.minimum is not None and value < self.minimum) or (self.least is not None and 0 < value < self.least)
        above = self.maximum is not None and value > self.maximum
        return f"{self.name} is {value}; it must be {self.allowed}." if below or above else ""

    def _fault_of_type(self, value: Any) -> str:
        """Return a sentence about a value that YAML did not read as a text."""
        wanted = f"it must be {self.allowed}" if self.choices else "it must be text"
        quotes = f'Put text in quotes: `{self.name}: "..."` in a file, `-p \'{self.name}:="..."\'` on a command line.'
        if value is None:
            return f"{self.name} has no value; {wanted}."
        if isinstance(value, bool):
            read = str(value).lower()
            sentence = f"{self.name} is {read}: YAML reads {_WORDS[value]} without quotes as {read}; {wanted}."
            return sentence if self.choices else f"{sentence} {quotes}"
        if isinstance(value, int | float):
            return f"{self.name} is {value}; {wanted}." + ("" if self.choices else f" YAML reads it as a number. {quotes}")
        return f"{self.name} is a list; {wanted}."

    def descriptor(self) -> ParameterDescriptor:
        """Return the descriptor that ``ros2 param describe`` shows."""
        descriptor = ParameterDescriptor(
            description=f"{self.description} A change takes effect {self.applies.value}.",
            read_only=self.applies is Applies.AT_START,
            additional_constraints=self.allowed if self.choices else "",
            dynamic_typing=self.is_text,
        )
        if self.minimum is None and self.maximum is None:
            return descriptor
        if isinstance(self.default, float):
            lowest = -sys.float_info.max if self.minimum is None else float(self.minimum)
            highest = sys.float_info.max if self.maximum is None else float(self.maximum)
            descriptor.floating_point_range = [FloatingPointRange(from_value=lowest, to_value=highest)]
        else:
            smallest = -(2**63) if self.minimum is None else int(self.minimum)
            largest = 2**63 - 1 if self.maximum is None else int(self.maximum)
            descriptor.integer_range = [IntegerRange(from_value=smallest, to_value=largest)]
        return descriptor
