"""Parameters: the table, the node that declares it, the parameter file and the documentation are one."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rcl_interfaces.srv import DescribeParameters, ListParameters
from ros_rig import Rig, rig, scripted

from robobrain_ros.engine.options import SERVER_PREFIX, EngineOptions, ServerOptions, public_name
from robobrain_ros.ros.parameters import (
    Applies,
    camera_parameters,
    standing_query_parameters,
    table,
    to_markdown,
    to_yaml,
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    with scripted("[(10, 10)]", standing_queries=["mugs"], standing_query__mugs__instruction="mugs") as (it, _):
        yield it


def test_the_parameter_file_is_written_from_the_table(repository: Path) -> None:
    text = (repository / "config" / "robobrain.yaml").read_text(encoding="utf-8")
    assert text == to_yaml(), "run: python -m robobrain_ros.ros.parameters yaml > config/robobrain.yaml"


def test_the_parameter_file_holds_every_default() -> None:
    values = yaml.safe_load(to_yaml())["/**"]["ros__parameters"]
    for group in ("engine", "flagos", "openai_server"):
        values |= {f"{group}.{name}": value for name, value in values.pop(group).items()}
    for parameter in (*table(), *camera_parameters("camera")):
        if parameter.default != []:
            assert values.pop(parameter.name) == parameter.default
    assert not values


def test_the_documentation_is_written_from_the_table(repository: Path) -> None:
    text = (repository / "docs" / "parameters.md").read_text(encoding="utf-8")
    assert text.endswith(to_markdown()), (
        "put the output of: python -m robobrain_ros.ros.parameters markdown into docs/parameters.md"
    )


def test_every_option_of_the_engine_is_a_parameter_with_its_bounds() -> None:
    by_name = {parameter.name: parameter for parameter in table()}
    options = [(public_name(field.name), field) for field in dataclasses.fields(EngineOptions)]
    options += [(f"{SERVER_PREFIX}{field.name}", field) for field in dataclasses.fields(ServerOptions)]
    for name, field in options:
        parameter = by_name[name]
        assert parameter.default == (list(field.default) if isinstance(field.default, tuple) else field.default)
        assert parameter.description == field.metadata["description"]
        assert (parameter.minimum, parameter.maximum) == (field.metadata["minimum"], field.metadata["maximum"])


def test_the_node_declares_the_table_and_describes_it(shared: Rig) -> None:
    expected = {it.name: it for it in (*table(), *camera_parameters("camera"), *standing_query_parameters("mugs"))}
    names = set(shared.call(ListParameters, "list_parameters", ListParameters.Request()).result.names)
    own = {name for name in names if name != "use_sim_time" and not name.startswith(("start_type", "qos_overrides"))}
    assert own == set(expected)
    request = DescribeParameters.Request(names=sorted(expected))
    for descriptor in shared.call(DescribeParameters, "describe_parameters", request).descriptors:
        parameter = expected[descriptor.name]
        assert parameter.description in descriptor.description
        assert descriptor.read_only == (parameter.applies is Applies.AT_START)
        ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
        assert bool(ranges) == (parameter.minimum is not None or parameter.maximum is not None)
        if parameter.minimum is not None:
            assert ranges[0].from_value == parameter.minimum


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("max_tokens", 0, "max_tokens"),
        ("request_timeout", -1.0, "request_timeout"),
        ("request_timeout", math.nan, "request_timeout"),
        ("max_image_age", math.inf, ""),
        ("max_tokens", "many", "INTEGER"),
        ("autostart", False, "read-only"),
        ("cameras", ["front"], "unconfigured"),
        ("engine.dtype", "float16", "unconfigured"),
    ],
)
def test_a_wrong_value_is_refused_with_a_sentence(shared: Rig, name: str, value: Any, part: str) -> None:
    before = shared.parameter(name)
    result = shared.set_parameter(name, value)
    assert not result.successful
    assert part in result.reason.replace("read only", "read-only")
    assert shared.parameter(name) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("engine.dtype", "int3"),
        ("cameras", ["front camera"]),
        ("cameras", ["front", "front"]),
        ("cameras", ["engine"]),
        ("image_reliability", "sometimes"),
    ],
)
def test_an_unconfigured_node_refuses_wrong_values_and_takes_right_ones(name: str, value: Any) -> None:
    with rig(autostart=False) as it:
        assert not it.set_parameter(name, value).successful
        assert it.set_parameter("cameras", ["front", "wrist"]).successful
        assert it.set_parameter("engine.dtype", "float32").successful


@pytest.mark.parametrize(("given", "meant"), [(True, "on"), (False, "off"), ("on", "on"), ("auto", "auto")])
def test_what_yaml_makes_of_on_and_off_is_understood(given: Any, meant: str) -> None:
    """``mode: on`` in a file, ``-p flagos.mode:=on`` and ``ros2 param set`` give booleans."""
    with rig(lambda: pytest.fail("no engine is needed"), autostart=False, flagos__mode=given) as it:
        assert it.node._settings.engine_options().flagos_mode == meant
        assert it.set_parameter("flagos.mode", meant != "on").successful
        assert it.node._settings.engine_options().flagos_mode == ("off" if meant == "on" else "on")
        refused = it.set_parameter("flagos.mode", 5)
        assert not refused.successful
        assert refused.reason == "flagos.mode is 5; it must be one of auto, on, off."
        assert not it.set_parameter("flagos.mode", None).successful, "ros2 param delete"
        assert it.node.has_parameter("flagos.mode")
