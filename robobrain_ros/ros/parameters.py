"""The parameters of the node: the one table they are declared, checked, documented and written to config/ from.

python -m robobrain_ros.ros.parameters yaml > config/robobrain.yaml
python -m robobrain_ros.ros.parameters markdown     # the table of docs/reference/parameters.md
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import yaml
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from robobrain_ros.core.plans.checks import DEFAULT_MAX_STEPS, MOST_STEPS
from robobrain_ros.core.query import Defaults, Task
from robobrain_ros.engine.options import OPTION_PREFIXES, SERVER_PREFIX, EngineOptions, ServerOptions, public_name
from robobrain_ros.ros.limits import (
    LEAST_RATE,
    MOST_CAMERAS,
    MOST_ITEMS,
    MOST_NAME,
    MOST_PARAMETER_TEXT,
    MOST_QUERIES,
    MOST_RATE,
    MOST_TIMEOUT,
    MOST_TOKENS,
)

STANDING_PREFIX = "standing_query."

Value = bool | int | float | str | list[str]


_MEANINGS = {True: ("on", "yes", "true"), False: ("off", "no", "false")}
"""Choices for each boolean: YAML reads these words as booleans where they have no quotes."""
_WORDS = {True: "yes, on and true", False: "no, off and false"}


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
    least: float | None = None
    """Smallest value above 0, for parameters where 0 has a special meaning; None: ``minimum`` alone is the bound."""

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
        if self.least is not None:
            return f"0, or {self.least:.12g} to {self.maximum:.12g}"
        if self.minimum is not None and self.maximum is not None:
            return f"{self.minimum:.12g} to {self.maximum:.12g}"
        if self.minimum is not None:
            return f"at least {self.minimum:.12g}"
        return "" if self.maximum is None else f"at most {self.maximum:.12g}"

    @property
    def is_text(self) -> bool:
        """Whether the value is a text. ROS may set such a parameter to another type; `fault` then explains what YAML read."""
        return isinstance(self.default, str)

    def meant(self, value: Any) -> Any:
        """Return the choice that a boolean means, where YAML read ``yes``, ``no``, ``on`` or ``off`` as a boolean."""
        if not isinstance(value, bool):
            return value
        return next((choice for choice in _MEANINGS[value] if choice in self.choices), value)

    def fault(self, value: Any) -> str:
        """A sentence about what is wrong with a value, empty: nothing. Types are checked for text parameters only."""
        value = self.meant(value)
        if self.is_text and not isinstance(value, str):
            return self._fault_of_type(value)
        if isinstance(value, float) and not math.isfinite(value):
            return f"{self.name} is {value}; it must be a finite number."
        if self.choices and value not in self.choices:
            return f"{self.name} is {value!r}; it must be {self.allowed}."
        if isinstance(value, str) and len(value) > MOST_PARAMETER_TEXT:
            return f"{self.name} has {len(value)} characters; at most {MOST_PARAMETER_TEXT} are allowed."
        if isinstance(self.default, list) and (len(value) > MOST_ITEMS or max(map(len, value), default=0) > MOST_PARAMETER_TEXT):
            return f"{self.name} has {len(value)} items; at most {MOST_ITEMS}, of {MOST_PARAMETER_TEXT} characters, are allowed."
        below = (self.minimum is not None and value < self.minimum) or (self.least is not None and 0 < value < self.least)
        above = self.maximum is not None and value > self.maximum
        return f"{self.name} is {value}; it must be {self.allowed}." if below or above else ""

    def _fault_of_type(self, value: Any) -> str:
        """A sentence about a value that is not a text, because YAML read it as something else."""
        wanted = f"it must be {self.allowed}" if self.choices else "it must be text"
        quotes = f"Put text in quotes: `{self.name}: \"...\"` in a file, `-p '{self.name}:=\"...\"'` on a command line."
        if value is None:
            return f"{self.name} has no value; {wanted}."
        if isinstance(value, bool):
            read = str(value).lower()
            said = f"{self.name} is {read}: YAML reads {_WORDS[value]} without quotes as {read}; {wanted}."
            return said if self.choices else f"{said} {quotes}"
        if isinstance(value, int | float):
            return f"{self.name} is {value}; {wanted}." + ("" if self.choices else f" YAML reads it as a number. {quotes}")
        return f"{self.name} is a list; {wanted}."

    def descriptor(self) -> ParameterDescriptor:
        """The descriptor that ``ros2 param describe`` shows."""
        descriptor = ParameterDescriptor(
            description=f"{self.description} A change acts {self.applies.value}.",
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


_NODE_PARAMETERS = (
    Parameter(
        "autostart", True, "Configure and activate by itself; false: wait for a lifecycle manager.", applies=Applies.AT_START
    ),
    Parameter(
        "cameras", ["camera"], "Names of the cameras; each is read from the topics <name>/image or <name>/image/compressed."
    ),
    Parameter(
        "image_reliability",
        "auto",
        "Reliability of the camera subscriptions. auto: as the publishers'. best_effort loses many large images.",
        choices=("auto", "best_effort", "reliable"),
    ),
    Parameter(
        "max_image_age",
        2.0,
        "Seconds between an image's stamp and a request beyond which the image is refused as STALE_IMAGE. 0: never.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=1e9,
    ),
    Parameter(
        "sync_tolerance",
        0.01,
        "Seconds between an image's stamp and that of its depth image; depth that differs more is not used.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=10.0,
    ),
    Parameter(
        "target_frame",
        "",
        "Frame of all positions, by tf2 at the image's stamp. Empty: the image's own optical frame.",
    ),
    Parameter(
        "transform_timeout",
        0.2,
        "Seconds that an answer waits for its image's depth image, camera_info and transform.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=60.0,
    ),
    Parameter(
        "request_timeout",
        Defaults.timeout,
        "Seconds a request may take where it does not say itself.",
        applies=Applies.AT_ONCE,
        minimum=0.01,
        maximum=MOST_TIMEOUT,
    ),
    Parameter(
        "max_tokens",
        Defaults.max_tokens,
        "Tokens an answer may have where the request does not say itself, thinking not counted.",
        applies=Applies.AT_ONCE,
        minimum=1,
        maximum=MOST_TOKENS,
    ),
    Parameter(
        "think",
        False,
        "Think first, which costs seconds, where the request does not say itself and the model was trained to.",
        applies=Applies.AT_ONCE,
    ),
    Parameter(
        "think_tokens",
        Defaults.think_tokens,
        "Tokens the model may think; then it is made to answer.",
        applies=Applies.AT_ONCE,
        minimum=1,
        maximum=MOST_TOKENS,
    ),
    Parameter(
        "constrain_coordinates",
        Defaults.constrain_coordinates,
        "Let the model answer spatial tasks by lists of coordinates within the image alone, [] where nothing is found; its "
        "thinking stays free. A remote server must know structured outputs, as vLLM's does; others may ignore or refuse it.",
        applies=Applies.AT_ONCE,
    ),
    Parameter(
        "model_can_think",
        "auto",
        "Whether the checkpoint was trained to think. auto: as is known of its name, else as its family; its files do not say.",
        choices=("auto", "yes", "no"),
    ),
    Parameter(
        "max_queued",
        32,
        "Requests that may wait while engine.max_num_seqs others are worked on; the next one is refused as BUSY.",
        minimum=0,
        maximum=100000,
    ),
    Parameter(
        "marker_ray_length",
        0.5,
        "Metres of the rays on ~/markers that stand for what has no depth. 0: it is not shown.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=1000.0,
    ),
    Parameter(
        "marker_lifetime",
        30.0,
        "Seconds that an answer stays on ~/markers unless a newer one to its query supersedes it. 0: until then.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=1e9,
    ),
    Parameter(
        "overlay_thinking",
        False,
        "Write what the model thought on ~/overlay, too, as far as there is room.",
        applies=Applies.AT_ONCE,
    ),
    Parameter(
        "robots_file",
        "",
        "File with the robots that plans are made for where a request names none, as config/robots_example.yaml. A relative path "
        "starts at the node's working directory. Empty: none.",
    ),
    Parameter(
        "max_plan_steps",
        DEFAULT_MAX_STEPS,
        "Most steps of a plan where the request does not say itself.",
        applies=Applies.AT_ONCE,
        minimum=1,
        maximum=MOST_STEPS,
    ),
    Parameter("warm_up", True, "Run each task once after loading, so that the first request is as quick as the later ones."),
    Parameter(
        "standing_queries",
        [],
        f"Names of the standing queries set from the beginning; each is described by {STANDING_PREFIX}<name>.*",
    ),
)


def camera_parameters(camera: str) -> tuple[Parameter, ...]:
    """The parameters that each camera has."""
    return (
        Parameter(
            f"{camera}.transport",
            "raw",
            f"raw: sensor_msgs/Image on {camera}/image; compressed: sensor_msgs/CompressedImage on {camera}/image/compressed.",
            choices=("raw", "compressed"),
        ),
        Parameter(
            f"{camera}.reliability",
            "",
            "Reliability of this camera's subscriptions, as of image_reliability. Empty: as that says.",
            choices=("", "auto", "best_effort", "reliable"),
        ),
        Parameter(
            f"{camera}.queue",
            1,
            "Images that may wait to be received. Only the newest is asked about: more than 1 helps none but the statistics.",
            minimum=1,
            maximum=100,
        ),
        Parameter(
            f"{camera}.late_after",
            0.2,
            "Seconds between an image's stamp and its arrival from which on it counts as late in /diagnostics.",
            minimum=0.0,
            maximum=3600.0,
        ),
        Parameter(
            f"{camera}.max_pixels",
            0,
            "Pixels an image of this camera may have in the model's eyes, where fewer than engine.max_pixels. 0: as many.",
            applies=Applies.AT_ONCE,
            minimum=0,
            maximum=12845056,
        ),
        Parameter(
            f"{camera}.use_depth",
            False,
            f"Give positions by the depth image on {camera}/depth (aligned to the image) and the lens on {camera}/camera_info; "
            "asked about is the newest image that has both.",
        ),
        Parameter(
            f"{camera}.min_depth",
            0.0,
            "Smallest depth in metres that counts as measured, in depth images and in the model's own depths.",
            applies=Applies.AT_ONCE,
            minimum=0.0,
            maximum=10000.0,
        ),
        Parameter(
            f"{camera}.max_depth",
            20.0,
            "Depths of this value in metres or more count as not measured. If the driver clamps, set the depth at which it "
            "clamps.",
            applies=Applies.AT_ONCE,
            minimum=0.01,
            maximum=10000.0,
        ),
        Parameter(
            f"{camera}.detect_depth_clamp",
            True,
            "Leave out the depth at which a driver clamps: many pixels hold exactly the largest depth of the image, and it is a "
            "whole number of metres from 4 m on, or 4095, 8191, ... mm. Set false for simulations without noise.",
            applies=Applies.AT_ONCE,
        ),
        Parameter(
            f"{camera}.depth_transport",
            "auto",
            f"raw: sensor_msgs/Image on {camera}/depth. compressed: sensor_msgs/CompressedImage (compressedDepth, or 16-bit PNG) "
            f"on {camera}/depth/compressedDepth. auto: the type that is published on these two topics.",
            choices=("auto", "raw", "compressed"),
        ),
        Parameter(
            f"{camera}.rectified",
            "auto",
            "Whether images are rectified: P of camera_info describes them, not K and D. auto: if rect is in the topic's name.",
            choices=("auto", "yes", "no"),
        ),
        Parameter(
            f"{camera}.bit_depth",
            0,
            "Bits that the sensor uses in 16-bit images: 0 is black, 2^bit_depth - 1 is white. 0 scales each image by its own "
            "samples (docs/reference/interfaces.md).",
            minimum=0,
            maximum=16,
        ),
        Parameter(
            f"{camera}.swap_red_blue",
            False,
            "Exchange red and blue of this camera's images. Set true where the publisher writes them in the wrong order.",
        ),
    )


def standing_query_parameters(name: str) -> tuple[Parameter, ...]:
    """The parameters that each standing query of the parameter ``standing_queries`` has."""
    prefix = f"{STANDING_PREFIX}{name}."
    return (
        Parameter(f"{prefix}task", Task.POINT.value, "What is asked for.", choices=tuple(task.value for task in Task)),
        Parameter(f"{prefix}instruction", "", "The instruction or question."),
        Parameter(
            f"{prefix}rate",
            1.0,
            "Most requests per second. 0 asks on each new image.",
            minimum=0.0,
            maximum=MOST_RATE,
            least=LEAST_RATE,
        ),
        Parameter(f"{prefix}camera", "", "Name of the camera. Empty: the first of them."),
        Parameter(
            f"{prefix}cameras", [], "Names of several cameras instead, for plan and ask. Asked when the first has a new image."
        ),
    )


def engine_parameters() -> tuple[Parameter, ...]:
    """One parameter for each field of `EngineOptions`."""
    return tuple(_option_parameter(public_name(field.name), field) for field in dataclasses.fields(EngineOptions))


def server_parameters() -> tuple[Parameter, ...]:
    """One parameter for each field of `ServerOptions`."""
    return tuple(_option_parameter(_server_name(field.name), field) for field in dataclasses.fields(ServerOptions))


def _server_name(option: str) -> str:
    return f"{SERVER_PREFIX}{option}"


def _option_parameter(name: str, field: "dataclasses.Field[Any]") -> Parameter:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if isinstance(default, tuple | list):
        default = list(default)
    assert isinstance(default, bool | int | float | str | list), f"{name} has no default that ROS can hold"
    return Parameter(
        name,
        default,
        field.metadata["description"],
        minimum=field.metadata.get("minimum"),
        maximum=field.metadata.get("maximum"),
        choices=tuple(field.metadata.get("choices", ())),
    )


def table() -> tuple[Parameter, ...]:
    """Every parameter whose name is fixed, the node's first."""
    return _NODE_PARAMETERS + engine_parameters() + server_parameters()


class Parameters:
    """The declared parameters of a node.

    Declares the table, with the parameters of each camera and standing query named in it, and refuses wrong values with a
    sentence. A parameter that acts on configure can be set only while ``configured()`` is false.

    :raises rclpy.exceptions.ParameterException: an initial value (command line, parameter file) is of a wrong type or refused.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._declared: dict[str, Parameter] = {}
        self.configured = False
        node.add_on_set_parameters_callback(self._check)
        self._declare(table())
        self.declare_named()

    def __getitem__(self, name: str) -> Any:
        """The present value."""
        value = self._declared[name].meant(self._node.get_parameter(name).value)
        # [""] is how ROS users write an empty list: [] has no type on a command line and in parameter files.
        return [item for item in value if item] if isinstance(self._declared[name].default, list) else value

    def declare_named(self) -> None:
        """Declare what belongs to the cameras and standing queries that are named now; called again on each configure."""
        for camera in self["cameras"]:
            self._declare(camera_parameters(camera))
        for name in self["standing_queries"]:
            self._declare(standing_query_parameters(name))

    def unknown(self) -> list[str]:
        """Names that were given values on the command line or in a file and that no parameter has: misspelt ones, most often.

        Standing queries that are described but not named among ``standing_queries`` are left out where each of their parameters
        is known: they wait to be named.
        """
        # rclpy tells this nowhere else; a version without it warns of nothing.
        given = getattr(self._node, "_parameter_overrides", {})
        return sorted(name for name in given if not self._node.has_parameter(name) and not _describes_a_query(name))

    def engine_options(self) -> EngineOptions:
        """The engine's parameters as its options, not validated."""
        return EngineOptions(**self._options(EngineOptions, public_name))

    def server_options(self) -> ServerOptions:
        """The parameters of the engine's HTTP server as its options, not validated."""
        return ServerOptions(**self._options(ServerOptions, _server_name))

    def _options(self, kind: type[Any], name_of: Callable[[str], str]) -> dict[str, Any]:
        values = {field.name: self[name_of(field.name)] for field in dataclasses.fields(kind)}
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    def _declare(self, parameters: Iterable[Parameter]) -> None:
        for parameter in parameters:
            if parameter.name in self._declared:
                continue
            self._declared[parameter.name] = parameter
            # An empty list has no type of its own.
            default: Any = RosParameter.Type.STRING_ARRAY if parameter.default == [] else parameter.default
            value = self._node.declare_parameter(parameter.name, default, parameter.descriptor()).value
            if value is None:
                self._node.set_parameters([RosParameter(parameter.name, RosParameter.Type.STRING_ARRAY, [])])

    def _check(self, changes: Sequence[RosParameter]) -> SetParametersResult:
        for change in changes:
            reason = self._fault(change)
            if reason:
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    def _changes(self, change: RosParameter) -> bool:
        """Whether it gives a declared parameter another value."""
        if not self._node.has_parameter(change.name):
            return False
        parameter, present = self._declared[change.name], self._node.get_parameter(change.name).value
        if isinstance(parameter.default, list):
            return list(present or []) != list(change.value)
        return bool(parameter.meant(present) != parameter.meant(change.value))

    def _fault(self, change: RosParameter) -> str:
        parameter = self._declared.get(change.name)
        # rclpy itself refuses to take the value from a parameter, but from those that may have another type.
        if parameter is None or (change.value is None and not parameter.is_text):
            return ""
        if self.configured and parameter.applies is Applies.ON_CONFIGURE and self._changes(change):
            return f"{change.name} can be set only while the node is unconfigured; deactivate and clean it up first."
        fault = parameter.fault(change.value)
        if not fault and change.name in ("cameras", "standing_queries"):
            fault = _name_fault(change.name, list(change.value))
        return fault


def changed_only(node: Node, changes: Sequence[RosParameter]) -> list[RosParameter]:
    """Leave out read-only parameters whose value does not change, because rclpy rejects any change of them.

    An empty list has no type in YAML. It becomes a list of strings where the parameter is one.
    """
    wanted = []
    for change in changes:
        if node.has_parameter(change.name):
            present = node.get_parameter(change.name)
            if present.type_ is RosParameter.Type.STRING_ARRAY and _is_empty_list(change):
                change = RosParameter(change.name, RosParameter.Type.STRING_ARRAY, [])
            if change.value == present.value and node.describe_parameter(change.name).read_only:
                continue
        wanted.append(change)
    return wanted


def _is_empty_list(change: RosParameter) -> bool:
    return change.type_.name.endswith("_ARRAY") and len(change.value) == 0


def _describes_a_query(name: str) -> bool:
    """Whether a parameter of that name describes a standing query."""
    query = name.removeprefix(STANDING_PREFIX).rpartition(".")[0]
    return name.startswith(STANDING_PREFIX) and name in {it.name for it in standing_query_parameters(query)}


def _name_fault(parameter: str, names: list[str]) -> str:
    """What is wrong with a list of names, as a sentence; empty: nothing."""
    names = [name for name in names if name]
    most = MOST_CAMERAS if parameter == "cameras" else MOST_QUERIES
    if len(names) > most:
        return f"{parameter} holds {len(names)} names; at most {most} are allowed."
    for name in names:
        if len(name) > MOST_NAME:
            return f"{parameter} holds a name of {len(name)} characters; at most {MOST_NAME} are allowed."
        # Such a name is part of topic and parameter names.
        if not name.isascii() or not name.isidentifier():
            return f"{parameter} holds {name!r}; a name is letters, digits and _, beginning with a letter."
    if len(set(names)) < len(names):
        return f"{parameter} holds a name twice: {', '.join(names)}."
    taken = [name for name in names if parameter == "cameras" and f"{name}." in (*OPTION_PREFIXES, STANDING_PREFIX)]
    return f"A camera cannot be called {taken[0]!r}; call it something else." if taken else ""


def to_yaml() -> str:
    """The contents of config/robobrain.yaml: every parameter with its default, commented."""
    lines = [
        "# Every parameter of the node with its default, written by `python -m robobrain_ros.ros.parameters yaml`.",
        "# Copy it and keep what you change. /**: for every node that reads this file, whatever its name and namespace.",
        "/**:",
        "  ros__parameters:",
    ]
    for parameter in (*_NODE_PARAMETERS, *camera_parameters("camera")):
        lines += _yaml_entry(parameter.name, parameter, "    ")
    for prefix in OPTION_PREFIXES:
        lines.append(f"    {prefix.rstrip('.')}:")
        for parameter in (*engine_parameters(), *server_parameters()):
            if parameter.name.startswith(prefix):
                lines += _yaml_entry(parameter.name.removeprefix(prefix), parameter, "      ")
    lines.append('    # A standing query, once "red_mug" is among standing_queries:')
    for parameter in standing_query_parameters("red_mug"):
        lines.append(f"    # {parameter.name}: {_yaml_value(parameter.default)}  # {parameter.description}")
    return "\n".join(lines) + "\n"


def _yaml_entry(key: str, parameter: Parameter, indent: str) -> list[str]:
    allowed = f" [{parameter.allowed}]" if parameter.allowed else ""
    comment = f"{indent}# {parameter.description}{allowed}"
    if parameter.default == []:
        # A parameter file cannot hold an empty list everywhere: it has no type there.
        return [comment, f"{indent}# {key}: []"]
    return [comment, f"{indent}{key}: {_yaml_value(parameter.default)}"]


def _yaml_value(value: Value) -> str:
    if isinstance(value, float):
        return repr(value)
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...").replace("'", '"')


def to_markdown() -> str:
    """The table of docs/reference/parameters.md."""
    lines = ["| parameter | type | default | allowed | acts | description |", "|---|---|---|---|---|---|"]
    named = (*camera_parameters("<camera>"), *standing_query_parameters("<name>"))
    for parameter in (*_NODE_PARAMETERS, *named, *engine_parameters(), *server_parameters()):
        default = _yaml_value(parameter.default)
        cells = (f"`{parameter.name}`", parameter.type_name, f"`{default}`", parameter.allowed, parameter.applies.value)
        description = parameter.description.replace("<", "&lt;")
        lines.append("| " + " | ".join((*cells, description)).replace("|  |", "| |") + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    writers = {"yaml": to_yaml, "markdown": to_markdown}
    if len(sys.argv) != 2 or sys.argv[1] not in writers:
        sys.exit(f"usage: python -m robobrain_ros.ros.parameters {'|'.join(writers)}")
    sys.stdout.write(writers[sys.argv[1]]())
