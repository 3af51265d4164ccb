"""The node applies the preset of its model to the engine parameters that were not set, and to no others."""

from typing import Any

import pytest
from fakes import ScriptedEngine
from lifecycle_msgs.msg import Transition
from rcl_interfaces.msg import Parameter
from rcl_interfaces.srv import GetParameters, ListParameters, SetParameters
from rclpy.parameter import parameter_value_to_python
from ros_rig import Rig, rig

from robobrain_ros.engine.options import EngineOptions


def options(it: Rig) -> EngineOptions:
    """Return the options with which the node would start its engine."""
    return it.node._settings.engine_options()  # type: ignore[no-any-return]


def dump(it: Rig) -> dict[str, Any]:
    """Return all parameters with their values, as `ros2 param dump` reads them."""
    names = it.call(ListParameters, "list_parameters", ListParameters.Request()).result.names
    values = it.call(GetParameters, "get_parameters", GetParameters.Request(names=names)).values
    return dict(zip(names, values, strict=True))


def load(it: Rig, dumped: dict[str, Any]) -> list[Any]:
    """Set all of these parameters, as `ros2 param load` does."""
    request = SetParameters.Request(parameters=[Parameter(name=name, value=value) for name, value in dumped.items()])
    return list(it.call(SetParameters, "set_parameters", request).results)


@pytest.mark.parametrize("value", [15, 16, 17])
def test_an_initial_value_overrides_the_preset_even_if_it_equals_the_default(value: int) -> None:
    with rig(autostart=False, engine__model="robobrain2.0-32b", engine__max_num_seqs=value) as it:
        assert options(it).max_num_seqs == value
        assert it.parameter("engine.max_num_seqs") == value


def test_a_parameter_that_is_not_set_shows_the_value_of_the_preset() -> None:
    with rig(autostart=False, engine__model="robobrain2.0-32b-fp8", engine__quantization="") as it:
        assert (options(it).model, options(it).embedded.quantization) == ("BAAI/RoboBrain2.0-32B", "fp8_per_tensor")
        assert it.parameter("engine.model") == "robobrain2.0-32b-fp8"
        assert it.parameter("engine.quantization") == "fp8_per_tensor"
        assert it.parameter("engine.max_num_seqs") == 8
        assert it.set_parameter("engine.model", "robobrain2.0-7b").successful
        assert (it.parameter("engine.quantization"), it.parameter("engine.max_num_seqs")) == ("", 16)


def test_setting_a_parameter_to_its_default_overrides_the_preset() -> None:
    with rig(autostart=False) as it:
        assert it.set_parameter("engine.max_num_seqs", 16).successful
        assert it.set_parameter("engine.model", "robobrain2.0-32b").successful
        assert options(it).max_num_seqs == 16


def test_a_misspelled_preset_is_reported_on_configure_and_can_be_corrected() -> None:
    with rig(autostart=False, engine__model="robobrain2.0-32c") as it:
        assert it.parameter("engine.max_num_seqs") == 16
        assert not it.transition(Transition.TRANSITION_CONFIGURE)
        assert it.set_parameter("engine.model", "robobrain2.0-32b").successful
        assert options(it).max_num_seqs == 8


def test_after_a_misspelled_preset_the_parameters_show_no_other_preset() -> None:
    with rig(autostart=False, engine__model="robobrain2.0-32b-fp8", engine__seed=3) as it:
        assert (it.parameter("engine.max_num_seqs"), it.parameter("engine.quantization")) == (8, "fp8_per_tensor")
        assert it.set_parameter("engine.model", "robobrain2.0-32c").successful
        assert (it.parameter("engine.max_num_seqs"), it.parameter("engine.quantization")) == (16, "")
        assert it.parameter("engine.seed") == 3


def test_a_node_with_the_dump_of_another_one_starts_the_same_engine() -> None:
    with rig(autostart=False, engine__model="robobrain2.0-32b-fp8", engine__seed=3) as it:
        wanted, dumped = options(it), dump(it)
    with rig(autostart=False) as it:
        results = load(it, dumped)
        assert [result.reason for result in results if not result.successful] == []
        assert options(it) == wanted
        assert {name: parameter_value_to_python(value) for name, value in dump(it).items()} == {
            name: parameter_value_to_python(value) for name, value in dumped.items()
        }


def test_a_configured_node_that_loads_its_own_dump_does_not_fix_the_presets_values() -> None:
    with rig(ScriptedEngine(["[(1, 1)]"]), engine__model="robobrain2.0-32b") as it:
        it.until_ready()
        assert all(result.successful for result in load(it, dump(it)))
        assert it.transition(Transition.TRANSITION_DEACTIVATE)
        assert it.transition(Transition.TRANSITION_CLEANUP)
        assert it.set_parameter("engine.model", "robobrain2.0-7b").successful
        assert options(it).max_num_seqs == 16
