"""vllm-plugin-FL, a platform of vLLM for the chips of many vendors: whether it runs models, its settings and its log.

The plugin registers operators of FlagGems itself. If a plugin raises an exception, vLLM only logs a line and uses its own
platform. A process keeps its first platform. The names of environment variables and the format of the log are those of the
plugin's sources in August 2026.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

_PLATFORMS = "vllm.platform_plugins"
_GROUPS = (
    _PLATFORMS,
    "vllm.general_plugins",
    "vllm.io_processor_plugins",
    "vllm.stat_logger_plugins",
    "vllm.endpoint_plugins",
)
"""vLLM's groups of plugins. VLLM_PLUGINS selects plugins from all of them."""
NAME = "vllm-plugin-FL"
DISTRIBUTIONS = ("vllm-plugin-fl",)
"""Names of its distributions."""
LOG_VARIABLE = "FLAGGEMS_ENABLE_OPLIST_PATH"

_PACKAGE = "vllm_fl"
_CALLED = re.compile(r"^\[DEBUG\] (?:flag_gems\.(?:\w+\.)*(\w+): |vllm_fl\.dispatch\.ops\.(\w+): default\.flagos$)", re.MULTILINE)
"""Lines of the log. Lines of FlagGems name the function. Lines of the plugin name the layer of vLLM that FlagGems computes."""
_CHIP = "import torch; print(torch.get_device_module().get_device_name(0))"
_CHIP_TIMEOUT = 120.0


def platform_names() -> list[str]:
    """Return vLLM's names for the plugin's platforms, or no names if the plugin is not installed."""
    return sorted(point.name for point in _points() if point.group == _PLATFORMS)


def _points() -> list[metadata.EntryPoint]:
    return [point for point in _all_points() if _is_own(point)]


def _is_own(point: metadata.EntryPoint) -> bool:
    return re.split(r"[.:]", point.value)[0] == _PACKAGE


def _all_points() -> list[metadata.EntryPoint]:
    found = metadata.entry_points()  # Called once for all groups, because each call reads every distribution.
    return [point for group in _GROUPS for point in found.select(group=group)]


def active_platform() -> str:
    """Return the name of the plugin's platform if it runs models in this process, or an empty string if another platform does.

    Imports vLLM if the plugin is installed.

    :raises Exception: any exception of the platform's import, for example because it is for another version of vLLM.
    """
    own = platform_names()
    if not own:
        return ""
    from vllm.platforms import current_platform

    return own[0] if type(current_platform).__module__.partition(".")[0] == _PACKAGE else ""


def obstacle() -> str:
    """Return why the installed plugin does not run models in this process, or an empty string if it does.

    Imports vLLM, and the plugin if vLLM has not loaded it.
    """
    try:
        if active_platform():
            return ""
    except Exception as error:
        return _describe(error)
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and not set(platform_names()) & set(allowed.split(",")):
        return f"VLLM_PLUGINS = {allowed!r} in the environment does not include it"
    for point in _points():
        if point.group != _PLATFORMS:
            continue
        try:
            found = point.load()()
        except Exception as error:
            return _describe(error)
        if found is None:
            return "it found no chip that it supports"
    return "vLLM selected another platform"


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def environment(
    wanted: bool, flag_gems: bool = False, include: Sequence[str] = (), exclude: Sequence[str] = (), log: str = ""
) -> dict[str, str | None]:
    """Return environment variables for vLLM and the plugin. A variable with the value None must be unset.

    If the plugin is not installed, all values are None.

    :param wanted: whether the plugin's platform may run models. If not, vLLM does not load the plugin.
    :param flag_gems: whether the plugin registers operators of FlagGems. If not, its platform runs native operators.
    :param include: the only operators to use; empty: all except ``exclude``. If both are empty, the plugin selects operators.
    :param log: file for the operators that are called, or empty if the plugin decides.
    """
    points = _all_points()
    own = {point.name for point in points if _is_own(point)}
    others = {point.name for point in points} - own
    selects = wanted and flag_gems and bool(own)
    return {
        "VLLM_PLUGINS": None if wanted or not own else ",".join(sorted(others)),
        "USE_FLAGGEMS": "0" if wanted and own and not flag_gems else None,
        "VLLM_FL_FLAGOS_WHITELIST": (",".join(include) or None) if selects else None,
        "VLLM_FL_FLAGOS_BLACKLIST": (",".join(exclude) or None) if selects and not include else None,
        LOG_VARIABLE: log or None if selects else None,
    }


def called(log: Path) -> tuple[str, ...]:
    """Return the functions of FlagGems and the layers of vLLM that the log lists as called, in alphabetical order."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()  # No operator was called yet.
    return tuple(sorted({one or other for one, other in _CALLED.findall(text)}))


def registered() -> list[str]:
    """Return the functions of FlagGems that the plugin has registered. To be called in a worker."""
    gems = sys.modules.get("flag_gems")
    registrar = getattr(gems, "current_work_registrar", None)
    return [] if registrar is None else sorted({str(name) for name in registrar.get_all_ops()})


def chip() -> str:
    """Return the accelerator's name according to PyTorch, or an empty string if unknown.

    The plugin's platform reports only the vendor's name. PyTorch runs in a separate process, because it would allocate memory
    on the accelerator.
    """
    try:
        asked = subprocess.run([sys.executable, "-c", _CHIP], capture_output=True, text=True, timeout=_CHIP_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = asked.stdout.strip().splitlines()
    return lines[-1].strip() if asked.returncode == 0 and lines else ""
