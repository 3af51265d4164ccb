"""The parameters of the node: the one table they are declared, checked, documented and written to config/ from.

    python -m robobrain_ros.ros.parameters yaml > config/robobrain.yaml
    python -m robobrain_ros.ros.parameters markdown     # the table of docs/parameters.md
"""

import dataclasses
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import yaml
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from robobrain_ros.core.brain import DEFAULT_MAX_TOKENS, DEFAULT_THINK_TOKENS, DEFAULT_TIMEOUT
from robobrain_ros.core.query import Task
from robobrain_ros.engine.options import EngineOptions

ENGINE_PREFIX = "engine."
STANDING_PREFIX = "standing_query."

Value = bool | int | float | str | list[str]


class Applies(str, Enum):
    """When a changed value begins to count."""

    AT_ONCE = "at once"
    ON_CONFIGURE = "on configure"
    AT_START = "at start"


@dataclass(frozen=True)
class Parameter:
    """A parameter; its type is that of ``default``. Bounds are inclusive; ``choices`` empty: any value."""

    name: str
    default: Value
    description: str
    applies: Applies = Applies.ON_CONFIGURE
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Value, ...] = ()

    @property
    def type_name(self) -> str:
        """The type as ROS 2's documentation calls it."""
        names = {bool: "bool", int: "integer", float: "double", str: "string", list: "string array"}
        return names[type(self.default)]

    @property
    def allowed(self) -> str:
        """The allowed values in words; empty: any."""
        if self.choices:
            return "one of " + ", ".join(repr(choice) if choice == "" else str(choice) for choice in self.choices)
        if self.minimum is not None and self.maximum is not None:
            return f"{self.minimum:g} to {self.maximum:g}"
        if self.minimum is not None:
            return f"at least {self.minimum:g}"
        return "" if self.maximum is None else f"at most {self.maximum:g}"

    def fault(self, value: Any) -> str:
        """What is wrong with a value of the right type, as a sentence; empty: nothing."""
        if isinstance(value, float) and not math.isfinite(value):
            return f"{self.name} is {value}; it must be a finite number."
        if self.choices and value not in self.choices:
            return f"{self.name} is {value!r}; it must be {self.allowed}."
        below = self.minimum is not None and value < self.minimum
        above = self.maximum is not None and value > self.maximum
        return f"{self.name} is {value}; it must be {self.allowed}." if below or above else ""

    def descriptor(self) -> ParameterDescriptor:
        """The descriptor that ``ros2 param describe`` shows."""
        descriptor = ParameterDescriptor(
            description=f"{self.description} A change acts {self.applies.value}.",
            read_only=self.applies is Applies.AT_START,
            additional_constraints=self.allowed if self.choices else "",
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


_NODE_PARAMETERS = (
    Parameter(
        "autostart", True, "Configure and activate by itself; false: wait for a lifecycle manager.", applies=Applies.AT_START
    ),
    Parameter("cameras", ["camera"], "Names of the cameras; each is read from the topics <name>/image or <name>/image/compressed."),
    Parameter(
        "image_reliability",
        "best_effort",
        "Reliability of the camera subscriptions; reliable helps where large pictures lose frames, with a reliable publisher.",
        choices=("best_effort", "reliable"),
    ),
    Parameter(
        "max_image_age",
        2.0,
        "Seconds between a picture's stamp and a request beyond which the picture is refused as STALE_IMAGE. 0: never.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
    ),
    Parameter(
        "request_timeout",
        DEFAULT_TIMEOUT,
        "Seconds a request may take where it does not say itself.",
        applies=Applies.AT_ONCE,
        minimum=0.01,
        maximum=3600.0,
    ),
    Parameter(
        "max_tokens",
        DEFAULT_MAX_TOKENS,
        "Tokens an answer may have where the request does not say itself, thinking not counted.",
        applies=Applies.AT_ONCE,
        minimum=1,
        maximum=32768,
    ),
    Parameter(
        "think",
        False,
        "Think first, which costs seconds, where the request does not say itself and the model was trained to.",
        applies=Applies.AT_ONCE,
    ),
    Parameter(
        "think_tokens",
        DEFAULT_THINK_TOKENS,
        "Tokens the model may think; then it is made to answer.",
        applies=Applies.AT_ONCE,
        minimum=1,
        maximum=32768,
    ),
    Parameter(
        "model_can_think",
        "auto",
        "Whether the checkpoint was trained to think. auto: as its family; RoboBrain 2.0 3B was not, which its files do not say.",
        choices=("auto", "yes", "no"),
    ),
    Parameter("max_running", 8, "Requests that the engine works on at the same time.", minimum=1, maximum=1024),
    Parameter("max_queued", 32, "Requests that may wait beside those; the next one is refused as BUSY.", minimum=0, maximum=100000),
    Parameter("warm_up", True, "Run each task once after loading, so that the first request is as quick as the later ones."),
    Parameter(
        "standing_queries",
        [],
        f"Names of the standing queries set from the beginning; each is described by {STANDING_PREFIX}<name>.*",
    ),
)
