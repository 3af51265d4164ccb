"""The engine's options as the node starts with them: completed, and checked as far as possible without loading anything."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from robobrain_ros.core.profiles import profile_for
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.engine.presets import with_known_model
from robobrain_ros.errors import EngineConfigError

NAME_A_MODEL = (
    "To name a real one: ros2 launch robobrain_ros robobrain.launch.py model:=BAAI/RoboBrain2.0-7B (or a checkpoint's folder); "
    "without launch, the parameter: --ros-args -p engine.model:=BAAI/RoboBrain2.0-7B"
)


def checked_options(options: EngineOptions, default_model: Path | None, warn: Callable[[str], object]) -> EngineOptions:
    """The options with the preset of their model, checked.

    :param default_model: the checkpoint to load where none is named; None: a model must be named.
    :param warn: called with a sentence when the default model is used.
    :raises EngineConfigError: an option is wrong, or no model is named and there is no default.
    """
    if options.kind == "remote":
        options.validate()
        return options
    if not options.model:
        if default_model is None or not (default_model / "config.json").is_file():
            raise EngineConfigError(f"No model is named. {NAME_A_MODEL}")
        warn(f"No model is named: loading the tabletop demo model, which knows only its tabletop world. {NAME_A_MODEL}")
        options = replace(options, model=str(default_model))
    options = with_known_model(options)
    options.validate()
    if (Path(options.model) / "config.json").is_file():
        profile_for(options.model)
    return options
