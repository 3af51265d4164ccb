"""Decide which operators of FlagOS an engine uses, from the options, the tune file and the installed packages.

This module may import vLLM, but not FlagGems. Only vLLM's workers import FlagGems.
"""

import os
from dataclasses import dataclass, replace

from robobrain_ros.engine import environment
from robobrain_ros.engine.embedded.checkpoint import Checkpoint
from robobrain_ros.engine.flagos import plugin, tune_file
from robobrain_ros.engine.flagos.choice import MATRIX_PRODUCTS, Choice, Operators
from robobrain_ros.engine.flagos.operators import installed, known_operators, reject_unknown_operators
from robobrain_ros.engine.flagos.recovery import without_failures
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError


def choose(options: EngineOptions, checkpoint: Checkpoint, given: Choice | None = None) -> Choice:
    """Decide which operators of FlagOS an engine uses.

    :param given: an existing choice. Only the platform is added to it.
    :raises EngineConfigError: ``flagos.mode`` is on, but FlagGems cannot be used; or ``flagos.platform`` cannot be fulfilled.
    """
    platform, warning = _find_platform(options)
    if given is not None:
        return replace(given, platform=platform)
    choice = _choose(options, checkpoint, platform)
    choice = replace(choice, by_shape=_looks_for_table(options, choice, platform))
    if choice.uses_flaggems or choice.by_shape:
        choice = without_failures(choice, options.model, eagerly=options.flagos.mode == "on")
    return replace(choice, platform=platform, warning=" ".join(filter(None, (warning, choice.warning))))


def check_names(options: EngineOptions) -> None:
    """Check the names of operators in the options.

    :raises EngineConfigError: FlagGems has no such operator. The message has the nearest name.
    """
    if options.flagos.mode == "off":
        return
    known = known_operators()
    reject_unknown_operators("flagos.include", options.flagos.include, known)
    reject_unknown_operators("flagos.exclude", options.flagos.exclude, known)


@dataclass(frozen=True)
class Measurable:
    """What tune_flagos can measure here.

    :param operators_obstacle: why FlagGems' operators cannot be measured, and what to do, a clause; or empty.
    :param shapes_obstacle: why matrix products by shape cannot be measured, a clause; or empty.
    :param graphs: whether engines use CUDA graphs here.
    """

    operators_obstacle: str
    shapes_obstacle: str
    graphs: bool


def measurable(options: EngineOptions) -> Measurable:
    """Return what tune_flagos can measure here. Imports vLLM.

    :raises EngineConfigError: it can measure nothing, or an operator's name is unknown.
    """
    check_names(options)
    platform, _ = _find_platform(options)
    found = Measurable(_obstacle(options), _obstacle_to_shapes(options, platform), graphs_are_possible(options))
    if found.operators_obstacle and found.shapes_obstacle:
        raise EngineConfigError(
            f"FlagGems cannot be measured here: {found.operators_obstacle}. Matrix products by shape cannot be measured here: "
            f"{found.shapes_obstacle}."
        )
    return found


def graphs_are_possible(options: EngineOptions) -> bool:
    """Return whether an engine can use CUDA graphs here. Imports vLLM."""
    from vllm.platforms import current_platform

    return not (options.embedded.enforce_eager or current_platform.is_cpu())


def _looks_for_table(options: EngineOptions, choice: Choice, platform: str) -> bool:
    """Return whether the engine looks for a table of matrix products by shape.

    If tune_flagos selected FlagGems' matrix products, the engine uses these.
    """
    if options.flagos.mode != "auto" or set(MATRIX_PRODUCTS) & set(choice.include or ()):
        return False
    if choice.operators is Operators.OURS and not choice.graphs:
        return False
    return not _obstacle_to_shapes(options, platform)


def _obstacle_to_shapes(options: EngineOptions, platform: str) -> str:
    """Return why matrix products by shape are impossible or not wanted here, a clause, or an empty string."""
    include, exclude, names = set(options.flagos.include), set(options.flagos.exclude), set(MATRIX_PRODUCTS)
    if names & exclude or (include and not names & include):
        return "flagos.include or flagos.exclude selects PyTorch's matrix products"
    if platform:
        return "vllm-plugin-FL runs the model"
    if options.embedded.nnodes > 1:
        return "the model is spread over several machines"
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        return "vLLM does not run on an NVIDIA GPU here"
    return "" if graphs_are_possible(options) else "the engine runs without CUDA graphs (engine.enforce_eager)"


def _find_platform(options: EngineOptions) -> tuple[str, str]:
    """Return the name of vllm-plugin-FL's platform if it runs the model in this process, and a warning; empty: none.

    :raises EngineConfigError: ``flagos.platform`` requires the other platform.
    """
    installed_names = plugin.platform_names()
    wanted = options.flagos.platform
    if not installed_names:
        if wanted == "fl":
            raise EngineConfigError("flagos.platform is fl, but vllm-plugin-FL is not installed. Install it, or set auto.")
        return "", ""
    environment.set_variables(plugin.environment(wanted=wanted != "vllm"))
    if wanted == "vllm":
        if plugin.active_platform():
            raise EngineConfigError(
                "flagos.platform is vllm, but vllm-plugin-FL's platform is in charge of this process, because of VLLM_PLUGINS in "
                "the environment or an earlier engine. Unset VLLM_PLUGINS, or restart the process."
            )
        return "", ""
    obstacle = plugin.obstacle()
    if not obstacle:
        return installed_names[0], ""
    version = tune_file.version_of(*plugin.DISTRIBUTIONS)
    cannot = f"vLLM cannot use vllm-plugin-FL {version} ({obstacle})"
    advice = "Install what it needs, or the one for this vLLM, or set flagos.platform to vllm."
    if wanted == "fl":
        raise EngineConfigError(f"flagos.platform is fl, but {cannot}. {advice}")
    # The plugin stays disabled until this process ends. It may be partly imported, and vLLM would try to load it again.
    environment.set_variables(plugin.environment(wanted=False))
    return "", f"{cannot}. vLLM's own platform runs the model. {advice}"


def _choose(options: EngineOptions, checkpoint: Checkpoint, platform: str) -> Choice:
    """Choose the operators for vllm-plugin-FL's platform, or for vLLM's own if ``platform`` is empty.

    On the plugin's chip, some operators may exist only in FlagGems. Therefore the plugin selects the operators there, unless
    tune_flagos has measured some.

    :raises EngineConfigError: ``flagos.mode`` is on, but FlagGems cannot be used.
    """
    if options.flagos.mode == "off":
        return Choice(Operators.NATIVE, "flagos.mode is off.")
    if options.flagos.mode == "on":
        return _selected_by_plugin(options) if platform else _on(options)
    try:
        return _measured(options, checkpoint)
    except EngineConfigError as error:
        if platform:
            return _selected_by_plugin(options, error.message)
        return Choice(Operators.NATIVE, f"Native operators: {error.message}")


def _selected_by_plugin(options: EngineOptions, because: str = "") -> Choice:
    end = f": {because}" if because else "."
    why = f"vllm-plugin-FL's platform runs the model and selects FlagGems' operators itself{end}"
    return Choice(Operators.PLUGIN, why, options.flagos.include or None, options.flagos.exclude)


def _on(options: EngineOptions) -> Choice:
    if obstacle := _obstacle(options):
        raise EngineConfigError(f"flagos.mode is on, but {obstacle}. Or set flagos.mode to auto or off.")
    include = options.flagos.include or None
    which = f"the {len(include)} operators of flagos.include" if include else "all operators that are not excluded"
    why = f"flagos.mode is on: {which}, not measured here."
    return Choice(Operators.OURS, why, include, options.flagos.exclude, graphs=graphs_are_possible(options))


def _obstacle(options: EngineOptions) -> str:
    """Return why FlagGems cannot be used here, and what to do, or an empty string if no obstacle is known."""
    if not installed():
        return "flag-gems is not installed in this Python: pip install --no-deps -r requirements/flagos.txt"
    if options.embedded.nnodes > 1:
        return "the model is spread over several machines, which FlagGems does not support here: run it on one machine"
    from vllm.platforms import current_platform

    # FlagGems reads this variable: it names the vendor of a chip that FlagGems cannot detect.
    if current_platform.is_cpu() and not os.environ.get("GEMS_VENDOR"):
        return "vLLM runs on the CPU here, and FlagGems needs an accelerator: install vLLM for it"
    return ""


def _measured(options: EngineOptions, checkpoint: Checkpoint) -> Choice:
    """Choose the operators of the tune file.

    :raises EngineConfigError: FlagGems cannot be used, or the file has no operators that were measured here.
    """
    if obstacle := _obstacle(options):
        raise EngineConfigError(f"{obstacle}.")
    path = tune_file.tune_file(options)
    tuned = tune_file.find(path, tune_file.key_of(options, checkpoint))
    named = options.flagos.include
    operators = tuple(name for name in tuned.operators if name not in options.flagos.exclude and (not named or name in named))
    if not operators:
        why = f"Native operators: tune_flagos found no operator that is correct and not slower here ({path})."
        return Choice(Operators.NATIVE, why)
    why = f"{len(operators)} operators that were measured here ({path})."
    return Choice(Operators.OURS, why, operators, graphs=tuned.graphs, late=tuned.graphs)
