"""Generate config/robobrain.yaml and the table of docs/reference/parameters.md from the table of parameters."""

import yaml

from robobrain_ros.engine.options import OPTION_PREFIXES
from robobrain_ros.ros.parameters.motion import MOTION_PARAMETERS
from robobrain_ros.ros.parameters.parameter import Parameter, Value
from robobrain_ros.ros.parameters.standing import standing_query_parameters
from robobrain_ros.ros.parameters.table import NODE_PARAMETERS, camera_parameters, engine_parameters, server_parameters
from robobrain_ros.ros.parameters.task_models import own_parameters


def to_yaml() -> str:
    """Return the contents of config/robobrain.yaml: every parameter with its default and a comment."""
    lines = [
        "# Every parameter of the node with its default, written by `python scripts/doc_tables.py`.",
        "# Copy it and keep only the lines that you change: every line here takes precedence over the preset of engine.model.",
        "# /**: these values apply to every node that reads this file, with any name and namespace.",
        "/**:",
        "  ros__parameters:",
    ]
    for parameter in (*NODE_PARAMETERS, *MOTION_PARAMETERS, *camera_parameters("camera")):
        lines += _yaml_entry(parameter.name, parameter, "    ")
    for prefix in OPTION_PREFIXES:
        lines.append(f"    {prefix.rstrip('.')}:")
        for parameter in (*engine_parameters(), *server_parameters()):
            if parameter.name.startswith(prefix):
                lines += _yaml_entry(parameter.name.removeprefix(prefix), parameter, "      ")
    lines.append('    # Parameters of a standing query. They take effect if standing_queries contains its name, "red_mug":')
    for parameter in standing_query_parameters("red_mug"):
        lines.append(f"    # {parameter.name}: {_yaml_value(parameter.default)}  # {parameter.description}")
    lines.append(
        "    # Parameters of a model for single tasks. It also has those of an engine, such as task_model.planner.engine.model."
    )
    lines.append('    # They take effect if task_models contains its name, "planner":')
    for parameter in own_parameters("planner"):
        lines.append(f"    # {parameter.name}: {_yaml_value(parameter.default)}  # {parameter.description}")
    return "\n".join(lines) + "\n"


def _yaml_entry(key: str, parameter: Parameter, indent: str) -> list[str]:
    allowed = f" [{parameter.allowed}]" if parameter.allowed else ""
    comment = f"{indent}# {parameter.description}{allowed}"
    if parameter.default == []:
        # In a parameter file, an empty list has no type, so some versions of ROS reject it.
        return [comment, f"{indent}# {key}: []"]
    return [comment, f"{indent}{key}: {_yaml_value(parameter.default)}"]


def _yaml_value(value: Value) -> str:
    if isinstance(value, float):
        return repr(value)
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...").replace("'", '"')


def to_markdown() -> str:
    """Return the table of docs/reference/parameters.md."""
    lines = ["| parameter | type | default | allowed | takes effect | description |", "|---|---|---|---|---|---|"]
    named = (*camera_parameters("<camera>"), *standing_query_parameters("<name>"), *own_parameters("<name>"))
    for parameter in (*NODE_PARAMETERS, *MOTION_PARAMETERS, *named, *engine_parameters(), *server_parameters()):
        default = _yaml_value(parameter.default)
        cells = (f"`{parameter.name}`", parameter.type_name, f"`{default}`", parameter.allowed, parameter.applies.value)
        description = parameter.description.replace("<", "&lt;")
        lines.append("| " + " | ".join((*cells, description)).replace("|  |", "| |") + " |")
    return "\n".join(lines) + "\n"
