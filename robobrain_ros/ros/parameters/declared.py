"""Declare the parameters of the node, read their values, and check each change."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from robobrain_ros.bounds.texts import shortened
from robobrain_ros.core.query import Task
from robobrain_ros.engine.http.options import ServerOptions
from robobrain_ros.engine.options import OPTION_PREFIXES, EngineOptions
from robobrain_ros.errors import BadRequestError, EngineConfigError
from robobrain_ros.ros.limits import MOST_CAMERAS, MOST_NAME, MOST_QUERIES, MOST_TASK_MODELS
from robobrain_ros.ros.parameters.explicit import ExplicitOptions
from robobrain_ros.ros.parameters.parameter import Applies, Parameter
from robobrain_ros.ros.parameters.standing import STANDING_PREFIX, standing_query_parameters
from robobrain_ros.ros.parameters.table import camera_parameters, server_name, table
from robobrain_ros.ros.parameters.task_models import TASK_MODEL_PREFIX, parsed_tasks, prefix_of, task_model_parameters

_MOST_NAMES = {"cameras": MOST_CAMERAS, "standing_queries": MOST_QUERIES, "task_models": MOST_TASK_MODELS}
"""The parameters with names that have their own parameters, and the maximum number of names."""
_LONGEST_LIST = 1000
"""Maximum characters of the list of unknown parameters in the log."""


class Parameters:
    """The declared parameters of a node.

    Declares the parameters of the table, and those of each camera, standing query and task model. Rejects wrong values with a
    sentence. While ``configured`` is true, parameters that take effect on configure cannot be changed.

    :raises rclpy.exceptions.ParameterException: an initial value (command line, parameter file) has a wrong type or is rejected.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._declared: dict[str, Parameter] = {}
        self._explicit: dict[str, ExplicitOptions] = {}
        """The explicitly set engine parameters by the prefix of the model; the main model has none."""
        self.configured = False
        node.add_on_set_parameters_callback(self._check)
        self._declare(table())
        self._track("")
        self.declare_named()
        node.add_post_set_parameters_callback(self._note_explicit)

    def __getitem__(self, name: str) -> Any:
        """Return the current value of a parameter."""
        value = self._declared[name].meant(self._node.get_parameter(name).value)
        # ROS users write [""] for an empty list, because [] has no type on a command line and in parameter files.
        return [item for item in value if item] if isinstance(self._declared[name].default, list) else value

    def declare_named(self) -> None:
        """Declare the parameters of everything that the parameters name now, such as cameras; called on each configure."""
        for camera in self["cameras"]:
            self._declare(camera_parameters(camera))
        for name in self["standing_queries"]:
            self._declare(standing_query_parameters(name))
        for name in self["task_models"]:
            self._declare(task_model_parameters(name))
            self._track(prefix_of(name))

    def _track(self, prefix: str) -> None:
        if prefix not in self._explicit:
            self._explicit[prefix] = ExplicitOptions(self._node, self._overrides, self.__getitem__, prefix)

    def task_models(self) -> dict[str, frozenset[Task]]:
        """Return the tasks of each model of the parameter ``task_models``, by the name of the model.

        :raises EngineConfigError: a model has no tasks, a task does not exist, or two models serve the same task.
        """
        served: dict[str, frozenset[Task]] = {}
        for name in self["task_models"]:
            tasks = parsed_tasks(name, self[f"{prefix_of(name)}tasks"])
            for other, taken in served.items():
                if both := sorted(task.value for task in tasks & taken):
                    raise EngineConfigError(f"task_models: {other} and {name} both serve {', '.join(both)}. Remove it from one.")
            served[name] = tasks
        return served

    def prefix_for(self, task: Task) -> str:
        """Return the prefix of the engine parameters of the model that serves a task; empty for the main model."""
        names = (name for name in self["task_models"] if task.value in self[f"{prefix_of(name)}tasks"])
        return next(map(prefix_of, names), "")

    def unknown(self) -> str:
        """List names that the command line or a parameter file sets, but that are no parameters, such as misspelled names.

        The result does not contain valid parameters of a standing query or model that is missing from ``standing_queries`` or
        ``task_models``. They take effect when the name is added there.
        """
        unknown = (name for name in self._overrides if not self._node.has_parameter(name))
        names = [name for name in unknown if not _describes_a_query(name) and not _describes_a_model(name)]
        return shortened(", ".join(sorted(names)), _LONGEST_LIST)

    def engine_options(self, prefix: str = "") -> EngineOptions:
        """Return the engine's options, not validated: explicitly set parameters, then the model's preset, then defaults.

        :param prefix: prefix of the model's parameters; empty for the main model.
        :raises EngineConfigError: ``engine.model`` is a misspelled preset.
        """
        return self._explicit[prefix].resolve()

    def server_options(self) -> ServerOptions:
        """Return the options of the engine's HTTP server, not validated."""
        values: dict[str, Any] = {}
        for field in dataclasses.fields(ServerOptions):
            value = self[server_name(field.name)]
            values[field.name] = tuple(value) if isinstance(value, list) else value
        return ServerOptions(**values)

    @property
    def _overrides(self) -> Iterable[str]:
        """Names that the command line and parameter files set. rclpy has no public access to them."""
        return getattr(self._node, "_parameter_overrides", {})

    def _note_explicit(self, changes: Sequence[RosParameter]) -> None:
        # A configured node accepts engine parameters only if they do not change, as when `ros2 param load` loads its own dump.
        if not self.configured:
            for explicit in self._explicit.values():
                explicit.note(change.name for change in changes)

    def _declare(self, parameters: Iterable[Parameter]) -> None:
        for parameter in parameters:
            if parameter.name in self._declared:
                continue
            self._declared[parameter.name] = parameter
            # An empty list has no element type.
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
        """Return whether a change modifies the value of a declared parameter."""
        if not self._node.has_parameter(change.name):
            return False
        parameter, present = self._declared[change.name], self._node.get_parameter(change.name).value
        if isinstance(parameter.default, list):
            return list(present or []) != list(change.value)
        return bool(parameter.meant(present) != parameter.meant(change.value))

    def _fault(self, change: RosParameter) -> str:
        parameter = self._declared.get(change.name)
        # rclpy itself rejects a missing value, except for parameters with dynamic typing.
        if parameter is None or (change.value is None and not parameter.is_text):
            return ""
        if self.configured and parameter.applies is Applies.ON_CONFIGURE and self._changes(change):
            return f"{change.name} can be set only while the node is unconfigured. Deactivate and clean up the node first."
        fault = parameter.fault(change.value)
        if not fault and change.name in _MOST_NAMES:
            fault = _name_fault(change.name, list(change.value))
        return fault


def known_changes(node: Node, changes: Sequence[RosParameter]) -> list[RosParameter]:
    """Return the changes with converted types, without read-only parameters whose value does not change.

    rclpy rejects every change of a read-only parameter, even to its current value. In YAML, an empty list has no type, so it is
    converted to the type of the parameter. A whole number is converted for a parameter of type double
    (``ros2 param set ... max_image_age 2``).

    :raises BadRequestError: the node has no such parameter.
    """
    wanted = []
    for change in changes:
        if not node.has_parameter(change.name):
            raise BadRequestError(f"The node has no parameter {change.name[:MOST_NAME]!r}.")
        present = node.get_parameter(change.name)
        if present.type_ is RosParameter.Type.STRING_ARRAY and _is_empty_list(change):
            change = RosParameter(change.name, RosParameter.Type.STRING_ARRAY, [])
        if present.type_ is RosParameter.Type.DOUBLE and change.type_ is RosParameter.Type.INTEGER:
            change = RosParameter(change.name, RosParameter.Type.DOUBLE, float(change.value))
        if change.value != present.value or not node.describe_parameter(change.name).read_only:
            wanted.append(change)
    return wanted


def _is_empty_list(change: RosParameter) -> bool:
    return change.type_.name.endswith("_ARRAY") and len(change.value) == 0


def _describes_a_query(name: str) -> bool:
    """Return whether a parameter with this name can describe a standing query."""
    query = name.removeprefix(STANDING_PREFIX).rpartition(".")[0]
    return name.startswith(STANDING_PREFIX) and name in {it.name for it in standing_query_parameters(query)}


def _describes_a_model(name: str) -> bool:
    """Return whether a parameter with this name can describe a model for single tasks."""
    model = name.removeprefix(TASK_MODEL_PREFIX).partition(".")[0]
    return name.startswith(TASK_MODEL_PREFIX) and name in {it.name for it in task_model_parameters(model)}


def _name_fault(parameter: str, names: list[str]) -> str:
    """Return a sentence about the fault in a list of names, or an empty string if there is no fault."""
    names = [name for name in names if name]
    most = _MOST_NAMES[parameter]
    if len(names) > most:
        return f"{parameter} contains {len(names)} names; at most {most} are allowed."
    for name in names:
        if len(name) > MOST_NAME:
            return f"{parameter} contains a name of {len(name)} characters; at most {MOST_NAME} are allowed."
        # The name is part of topic and parameter names.
        if not name.isascii() or not name.isidentifier():
            return f"{parameter} contains {name!r}. A name has only letters, digits and _, and begins with a letter or _."
    if len(set(names)) < len(names):
        return f"{parameter} contains a name twice: {', '.join(names)}."
    prefixes = (*OPTION_PREFIXES, STANDING_PREFIX, TASK_MODEL_PREFIX) if parameter == "cameras" else ()
    taken = [name for name in names if f"{name}." in prefixes]
    return f"cameras contains {taken[0]!r}, which is a prefix of other parameters. Choose another name." if taken else ""
