"""Parameters: the table, the node that declares them, the parameter file and the documentation agree."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
import yaml
from rcl_interfaces.srv import DescribeParameters, ListParameters
from rclpy.parameter import Parameter as RosParameter
from ros_rig import Rig, rig, scripted
from test_ros_program import start

from robobrain_ros.engine.http.options import ServerOptions
from robobrain_ros.engine.options import SERVER_PREFIX, EngineOptions, option_fields, public_name
from robobrain_ros.ros.engine_setup import checked_options
from robobrain_ros.ros.node import RoboBrainNode
from robobrain_ros.ros.parameters.documents import to_markdown, to_yaml
from robobrain_ros.ros.parameters.parameter import Applies, Parameter
from robobrain_ros.ros.parameters.standing import standing_query_parameters
from robobrain_ros.ros.parameters.table import camera_parameters, table


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    with scripted("[(10, 10)]", standing_queries=["mugs"], standing_query__mugs__instruction="mugs") as (it, _):
        yield it


def test_the_parameter_file_is_written_from_the_table(repository: Path) -> None:
    text = (repository / "config" / "robobrain.yaml").read_text(encoding="utf-8")
    assert text == to_yaml(), "run: python scripts/doc_tables.py"


def test_the_parameter_file_holds_every_default() -> None:
    values = yaml.safe_load(to_yaml())["/**"]["ros__parameters"]
    for group in ("engine", "flagos", "openai_server"):
        values |= {f"{group}.{name}": value for name, value in values.pop(group).items()}
    for parameter in (*table(), *camera_parameters("camera")):
        if parameter.default != []:
            assert values.pop(parameter.name) == parameter.default
    assert not values


def test_the_documentation_is_written_from_the_table(repository: Path) -> None:
    text = (repository / "docs" / "reference" / "parameters.md").read_text(encoding="utf-8")
    assert text.endswith(to_markdown()), "run: python scripts/doc_tables.py"


def test_every_option_of_the_engine_is_a_parameter_with_its_bounds() -> None:
    by_name = {parameter.name: parameter for parameter in table()}
    options = [(public_name(keyword), field) for keyword, field in option_fields().items()]
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
        ("marker_lifetime", 1e-11, "marker_lifetime is 1e-11; it must be 0, or 0.001 to 1000000000."),
        ("max_tokens", "many", "Wrong parameter type, expected"),
        ("autostart", False, "read-only"),
        ("cameras", ["front"], "unconfigured"),
        ("engine.dtype", "float16", "unconfigured"),
    ],
)
def test_a_wrong_value_is_rejected_with_a_sentence(shared: Rig, name: str, value: Any, part: str) -> None:
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
def test_an_unconfigured_node_rejects_wrong_values_and_accepts_valid_ones(name: str, value: Any) -> None:
    with rig(autostart=False) as it:
        assert not it.set_parameter(name, value).successful
        assert it.set_parameter("cameras", ["front", "wrist"]).successful
        assert it.set_parameter("engine.dtype", "float32").successful


@pytest.mark.parametrize(("given", "meant"), [(True, "on"), (False, "off"), ("on", "on"), ("auto", "auto")])
def test_what_yaml_makes_of_on_and_off_is_understood(given: Any, meant: str) -> None:
    """``mode: on`` in a file, ``-p flagos.mode:=on`` and ``ros2 param set`` give booleans."""
    with rig(lambda: pytest.fail("no engine is needed"), autostart=False, flagos__mode=given) as it:
        assert it.node._settings.engine_options().flagos.mode == meant
        assert it.set_parameter("flagos.mode", meant != "on").successful
        assert it.node._settings.engine_options().flagos.mode == ("off" if meant == "on" else "on")
        refused = it.set_parameter("flagos.mode", 5)
        assert not refused.successful
        assert refused.reason == "flagos.mode is 5; it must be one of auto, on, off."
        assert not it.set_parameter("flagos.mode", None).successful, "ros2 param delete"
        assert it.node.has_parameter("flagos.mode")


CHOICES = [it for it in (*table(), *camera_parameters("camera"), *standing_query_parameters("mugs")) if it.choices]


@pytest.fixture(scope="module")
def unconfigured() -> Iterator[Rig]:
    with rig(lambda: pytest.fail("no engine is needed"), autostart=False, standing_queries=["mugs"]) as it:
        yield it


def test_the_reason_quotes_a_long_value_in_short(unconfigured: Rig) -> None:
    for parameter in CHOICES:
        result = unconfigured.set_parameter(parameter.name, "x" * 100_000)
        assert not result.successful
        assert result.reason.startswith(f"{parameter.name} is 'xxx")
        assert len(result.reason) < 400


def test_a_model_of_a_name_that_no_file_system_takes_is_reported_when_it_is_loaded() -> None:
    assert checked_options(EngineOptions.of(model="x" * 300), None, print).model == "x" * 300


@pytest.mark.parametrize("parameter", CHOICES, ids=lambda it: it.name)
@pytest.mark.parametrize("value", [True, False])
def test_a_boolean_of_yaml_is_a_choice_or_named(unconfigured: Rig, parameter: Parameter, value: bool) -> None:
    """``camera.rectified: yes`` and ``model_can_think: no`` are accepted; a boolean that matches no choice is named."""
    before = unconfigured.node._settings[parameter.name]
    meanings = {"on", "yes", "true"} if value else {"off", "no", "false"}
    result = unconfigured.set_parameter(parameter.name, value)
    assert result.successful == bool(meanings & set(parameter.choices))
    if result.successful:
        assert unconfigured.node._settings[parameter.name] in meanings
        assert unconfigured.set_parameter(parameter.name, before).successful
    else:
        read = "true: YAML reads yes, on and true" if value else "false: YAML reads no, off and false"
        made = f"{read} without quotes as {str(value).lower()}"
        assert result.reason == f"{parameter.name} is {made}; it must be {parameter.allowed}."
        assert unconfigured.node._settings[parameter.name] == before


@pytest.mark.parametrize(("name", "value"), [("model_can_think", False), ("camera.rectified", True), ("flagos.mode", True)])
def test_a_boolean_of_yaml_is_understood_in_a_file(name: str, value: bool, tmp_path: Path) -> None:
    """The file is read by ROS's own parser, with the spellings that people use."""
    path = tmp_path / "file.yaml"
    word = {"flagos.mode": "on"}.get(name, "yes" if value else "no")
    path.write_text(f"/**:\n  ros__parameters:\n    {name}: {word}\n    autostart: false\n")
    context = rclpy.context.Context()
    rclpy.init(args=["--ros-args", "--params-file", str(path)], context=context)
    node = RoboBrainNode(namespace="/in_a_file", context=context)
    try:
        assert node._settings[name] == word
        assert node.get_parameter(name).value is value
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "target_frame",
            True,
            "target_frame is true: YAML reads yes, on and true without quotes as true; it must be text.",
        ),
        ("engine.model", 7, "engine.model is 7; it must be text. YAML reads it as a number. Put text in quotes"),
        ("standing_query.mugs.instruction", 0.5, "standing_query.mugs.instruction is 0.5; it must be text."),
        ("image_reliability", 1, "image_reliability is 1; it must be one of auto, best_effort, reliable."),
        ("model_can_think", ["yes"], "model_can_think is a list; it must be one of auto, yes, no."),
        ("robots_file", None, "robots_file has no value; it must be text."),
    ],
)
def test_another_type_than_text_is_named_with_the_cure(unconfigured: Rig, name: str, value: Any, said: str) -> None:
    before = unconfigured.node._settings[name]
    result = unconfigured.set_parameter(name, value)
    assert not result.successful
    assert result.reason.startswith(said)
    assert unconfigured.node._settings[name] == before


def test_a_wrong_boolean_at_the_start_ends_the_program_with_the_sentence() -> None:
    process = start("-p", "image_reliability:=yes")
    _, errors = process.communicate(timeout=60.0)
    assert process.returncode == 1
    assert "image_reliability is true: YAML reads yes, on and true without quotes as true; it must be one of auto" in errors
    assert "Traceback" not in errors


def test_the_nodes_own_values_can_be_set_again_while_it_is_active(shared: Rig) -> None:
    """`ros2 param load` does this with the node's own dump, in which an empty list has no type."""
    names = shared.call(ListParameters, "list_parameters", ListParameters.Request()).result.names
    for name in names:
        value = shared.parameter(name)
        if value == []:
            value = RosParameter(name, RosParameter.Type.BOOL_ARRAY, []).value
        result = shared.set_parameter(name, value)
        assert result.successful, f"{name}: {result.reason}"
    assert not shared.set_parameter("max_queued", 5).successful
    assert not shared.set_parameter("autostart", False).successful
    assert shared.parameter("max_queued") == 32


def test_a_whole_number_is_taken_for_a_floating_point_parameter(shared: Rig) -> None:
    """As `ros2 param set /robobrain max_image_age 2` sends it."""
    before = shared.parameter("max_image_age")
    assert shared.set_parameter("max_image_age", 3).successful
    assert shared.parameter("max_image_age") == 3.0
    assert "out of range" in shared.set_parameter("max_image_age", -1).reason
    assert not shared.set_parameter("max_tokens", 10.0).successful
    assert shared.set_parameter("max_image_age", before).successful


def test_a_misspelt_parameter_of_a_standing_query_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    wrong: dict[str, Any] = {"standing_query__bowl__tsk": "point", "standing_query__later__rat": 1.0}
    right: dict[str, Any] = {"standing_query__later__instruction": "bowls", "standing_query__bowl__instruction": "bowls"}
    with rig(autostart=False, standing_queries=["bowl"], **wrong, **right) as it:
        it.node.trigger_configure()
    log = capfd.readouterr().err
    assert "standing_query.bowl.tsk, standing_query.later.rat" in log
    assert "instruction" not in log
