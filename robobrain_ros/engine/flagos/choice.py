"""FlagOS around an engine: which of FlagGems' operators go into vLLM's workers, what became of them, and what else is installed.

FlagGems is imported in the workers only (`engine.flagos_worker`). Here it is decided what they shall use; when an operator fails,
the engine is built again without it, and when that does not help, without any.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robobrain_ros.engine import environment
from robobrain_ros.engine.embedded.checkpoint import Checkpoint
from robobrain_ros.engine.flagos import plugin as flagos_plugin
from robobrain_ros.engine.flagos import tune_file as flagos_tuning
from robobrain_ros.engine.flagos.ledger import VARIABLE, Entry, Failure, LedgerReader
from robobrain_ros.engine.flagos.operators import installed, known_operators, refuse_unknown_operators
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError

WORKER_EXTENSION = "robobrain_ros.engine.flagos.worker.FlagosExtension"
"""By name: importing it here would bring FlagGems into this process."""
FIRST_ANSWERS = 16
"""While an engine has given no more answers than these, its death for no known reason is taken to be FlagGems'."""

_MOST_FAILURES = 2
"""Operators that may fail one after the other until none is used."""
_PARTS = {
    "flag-gems": ("flag-gems",),
    "flagtree": ("flagtree",),
    "flagcx": ("flagcx", "flagcx-torch"),
    flagos_plugin.NAME: flagos_plugin.DISTRIBUTIONS,
}
"""Parts of FlagOS, and the distributions that they come in."""

_failures: dict[str, list[Failure]] = {}
"""What has failed in this process, for each model."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What an engine shall do with FlagGems.

    :param active: whether its operators go in.
    :param why: a sentence.
    :param include: names to use; None: all but ``exclude`` and what is left out anyway.
    :param graphs: CUDA graphs may be used with them.
    :param warning: what does not work as it was asked for.
    :param platform: the name of vllm-plugin-FL's platform, where that runs the model.
    :param by_platform: that brings FlagGems' operators in, by its own choice but for ``include`` and ``exclude``.
    """

    active: bool
    why: str
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    graphs: bool = False
    warning: str = ""
    platform: str = ""
    by_platform: bool = False

    @property
    def with_flagos(self) -> bool:
        """Whether FlagGems' operators are to be used, whoever brings them in."""
        return self.active or self.by_platform


NATIVE = Choice(False, "FlagGems is not asked for.")


def refuse_where_impossible(options: EngineOptions) -> None:
    """See to it that FlagGems can be brought in. Imports vLLM.

    :raises EngineConfigError: it cannot; or a name is unknown.
    """
    check_names(options)
    _find_platform(options)
    if obstacle := _obstacle(options):
        raise EngineConfigError(f"FlagGems cannot be measured here: {obstacle}.")


def check_names(options: EngineOptions) -> None:
    """Refuse operators that FlagGems does not have.

    :raises EngineConfigError: with the nearest name.
    """
    if options.flagos_mode == "off":
        return
    known = known_operators()
    refuse_unknown_operators("flagos.include", options.flagos_include, known)
    refuse_unknown_operators("flagos.exclude", options.flagos_exclude, known)


def choose(options: EngineOptions, checkpoint: Checkpoint) -> Choice:
    """Decide what to do. Imports vLLM where there is something to decide.

    :raises EngineConfigError: ``flagos.mode`` is on and it cannot be; or the tune file or vllm-plugin-FL was demanded in vain.
    """
    platform, warning = _find_platform(options)
    choice = _choose(options, checkpoint, platform)
    if choice.with_flagos:
        choice = _after_failures(choice, _failures.get(options.model, []), eagerly=options.flagos_mode == "on")
    return replace(choice, platform=platform, warning=" ".join(filter(None, (warning, choice.warning))))


def _find_platform(options: EngineOptions) -> tuple[str, str]:
    """The name of vllm-plugin-FL's platform where that runs the model in this process, and what is not as it could be.

    :raises EngineConfigError: it runs it, or does not, against ``flagos.platform``.
    """
    installed_names = flagos_plugin.names()
    wanted = options.flagos_platform
    if not installed_names:
        if wanted == "fl":
            raise EngineConfigError("flagos.platform is fl, but vllm-plugin-FL is not installed here; install it, or say auto.")
        return "", ""
    environment.put(flagos_plugin.environment(wanted=wanted != "vllm"))
    if wanted == "vllm":
        if flagos_plugin.in_charge():
            raise EngineConfigError(
                "flagos.platform is vllm, but vllm-plugin-FL's platform is in charge of this process, by VLLM_PLUGINS in the "
                "environment or an engine before this one: unset that, or start the process again."
            )
        return "", ""
    obstacle = flagos_plugin.obstacle()
    if not obstacle:
        return installed_names[0], ""
    version = flagos_tuning.version_of(*flagos_plugin.DISTRIBUTIONS)
    cannot = f"vLLM cannot use vllm-plugin-FL {version} ({obstacle})"
    advice = "install what it needs, or the one for this vLLM, or set flagos.platform to vllm."
    if wanted == "fl":
        raise EngineConfigError(f"flagos.platform is fl, but {cannot}: {advice}")
    # Kept out for good: half of it may have been imported, and vLLM would ask it again.
    environment.put(flagos_plugin.environment(wanted=False))
    return "", f"{cannot}, and its own platform runs the model: {advice}"


def on_platform(choice: Choice, options: EngineOptions) -> Choice:
    """A choice that was made without asking which platform runs the model.

    :raises EngineConfigError: another than ``flagos.platform`` says.
    """
    return replace(choice, platform=_find_platform(options)[0])


def _choose(options: EngineOptions, checkpoint: Checkpoint, platform: str) -> Choice:
    """On vllm-plugin-FL's platform, or, where that is empty, on vLLM's own. FlagGems may be the only one to have an operator for
    the plugin's chip, so that the plugin chooses as long as nothing was measured.

    :raises EngineConfigError: ``flagos.mode`` is on and it cannot be.
    """
    if options.flagos_mode == "off":
        return Choice(False, "flagos.mode is off.")
    if options.flagos_mode == "on":
        return _left_to_platform(options) if platform else _on(options)
    try:
        return _measured(options, checkpoint)
    except EngineConfigError as error:
        return _left_to_platform(options, error.message) if platform else Choice(False, f"Native operators: {error.message}")


def _left_to_platform(options: EngineOptions, because: str = "") -> Choice:
    end = f": {because}" if because else "."
    why = f"vllm-plugin-FL's platform runs the model, with its own choice of FlagGems' operators{end}"
    return Choice(False, why, options.flagos_include or None, options.flagos_exclude, by_platform=True)


def _on(options: EngineOptions) -> Choice:
    if obstacle := _obstacle(options):
        raise EngineConfigError(f"flagos.mode is on, but {obstacle}; or set flagos.mode to auto or off.")
    which = f"{len(options.flagos_include)} named" if options.flagos_include else "all but those left out"
    why = f"flagos.mode is on: {which}, not measured here."
    return Choice(True, why, options.flagos_include or None, options.flagos_exclude, graphs=graphs_are_possible(options))


def graphs_are_possible(options: EngineOptions) -> bool:
    """Whether an engine can have CUDA graphs here. Imports vLLM."""
    from vllm.platforms import current_platform

    return not (options.enforce_eager or current_platform.is_cpu())


def _obstacle(options: EngineOptions) -> str:
    """Why FlagGems cannot be used here, and what to do about it; empty: nothing is known to be in the way."""
    if not installed():
        return "flag-gems is not installed in this Python: pip install --no-deps -r requirements/flagos.txt"
    if options.nnodes > 1:
        return "the model is spread over several machines, whose workers are not told: run it on one"
    from vllm.platforms import current_platform

    # FlagGems' own variable names a maker whose chip it would not find by itself.
    if current_platform.is_cpu() and not os.environ.get("GEMS_VENDOR"):
        return "vLLM runs on the CPU here, and FlagGems needs an accelerator: install vLLM for it"
    return ""


def _measured(options: EngineOptions, checkpoint: Checkpoint) -> Choice:
    """The operators of the tune file.

    :raises EngineConfigError: FlagGems cannot be used, or the file has none that were measured here.
    """
    if obstacle := _obstacle(options):
        raise EngineConfigError(f"{obstacle}.")
    path = flagos_tuning.tune_file(options)
    tuned = flagos_tuning.find(path, flagos_tuning.key_of(options, checkpoint))
    named = options.flagos_include
    operators = tuple(name for name in tuned.operators if name not in options.flagos_exclude and (not named or name in named))
    if not operators:
        return Choice(False, f"Native operators: tune_flagos found none that is right and not slower here ({path}).")
    return Choice(True, f"{len(operators)} operators that were measured here ({path}).", operators, graphs=tuned.graphs)


def _after_failures(choice: Choice, failures: list[Failure], *, eagerly: bool) -> Choice:
    """Without CUDA graphs, without the operators that have failed in this process, or without any.

    :param eagerly: they are wanted without CUDA graphs, too, which is much slower.
    """
    unnamed = next((failure for failure in failures if not failure.operator), None)
    if eagerly and choice.graphs and unnamed is not None:
        # Which operator it is cannot be tried out in what was captured.
        left = [failure for failure in failures if failure is not unnamed]
        warning = (
            f"FlagGems failed with CUDA graphs ({unnamed.how}), and its operators run without them, slowly: leave out operators "
            "by flagos.exclude, or run tune_flagos."
        )
        choice = _after_failures(replace(choice, graphs=False), left, eagerly=False)
        return replace(choice, warning=choice.warning or warning)
    if not failures:
        return choice
    last = failures[-1]
    names = [failure.operator for failure in failures]
    if "" in names or len(names) > _MOST_FAILURES:
        warning = (
            f"FlagGems is not used any more, as {last.operator or 'the engine'} failed with it ({last.how}): "
            "leave out operators by flagos.exclude, or run tune_flagos."
        )
        return Choice(False, "Native operators, after failures with FlagGems.", warning=warning)
    warning = (
        f"FlagGems' operator {last.operator} failed ({last.how}): PyTorch's own is used instead of {', '.join(names)}; "
        "name it in flagos.exclude, or run tune_flagos."
    )
    include = None if choice.include is None else tuple(name for name in choice.include if name not in names)
    active = choice.active and include != ()
    return replace(choice, include=include, exclude=(*choice.exclude, *names), warning=warning, active=active)


def remember(model: str, failure: Failure) -> None:
    """Let the engines that this process builds from now on leave out what has failed."""
    _log.warning("FlagGems: %s failed (%s); the engine is built again.", failure.operator or "the engine", failure.how)
    _failures.setdefault(model, []).append(failure)


async def find_culprit(names: Sequence[str], fail: Callable[[Sequence[str]], Awaitable[bool]]) -> str:
    """The operator that it fails with, found by halves; empty: it fails with none of them alone, or without any, too."""
    if await fail(()):
        return ""
    suspects = list(names)
    while len(suspects) > 1:
        middle = len(suspects) // 2
        halves = suspects[:middle], suspects[middle:]
        failing = [half for half in halves if await fail(half)]
        if not failing:
            return ""
        suspects = failing[0]
    return suspects[0] if suspects and await fail(suspects) else ""


def installed_parts() -> str:
    """What of FlagOS is installed, with versions, for people."""
    return ", ".join(f"{part} {flagos_tuning.version_of(*names) or 'no'}" for part, names in _PARTS.items())


class Workers:
    """FlagGems in the workers of one engine: what they are told, and what they have written."""

    def __init__(self, choice: Choice, options: EngineOptions) -> None:
        self.choice = choice
        self._options = options
        self._folder = Path(tempfile.mkdtemp(prefix="robobrain_ros-flagos-")) if choice.with_flagos else None
        self._reader = LedgerReader(self._folder) if self._folder is not None and choice.active else None
        self.registered: tuple[str, ...] = ()
        """What vllm-plugin-FL has registered, once a worker has said it."""

    def environment(self) -> dict[str, str | None]:
        """Environment variables for the workers; None: not to be set."""
        choice = self.choice
        told = {VARIABLE: json.dumps(self._told()) if choice.active else None}
        log = str(self._called_log or "")
        return told | flagos_plugin.environment(
            bool(choice.platform), choice.by_platform, choice.include or (), choice.exclude, log
        )

    @property
    def _called_log(self) -> Path | None:
        """What vllm-plugin-FL lets FlagGems write: operators, when they are first called."""
        return self._folder / "called.log" if self._folder is not None and self.choice.by_platform else None

    def _told(self) -> dict[str, Any]:
        include = None if self.choice.include is None else list(self.choice.include)
        log_folder = flagos_tuning.tune_file(self._options).parent if self._options.flagos_record else None
        if log_folder is not None:
            log_folder.mkdir(parents=True, exist_ok=True)
        return {
            "include": include,
            "exclude": list(self.choice.exclude),
            "folder": str(self._folder),
            "log_folder": str(log_folder or ""),
            "deferred": self.deferred,
        }

    @property
    def deferred(self) -> bool:
        """Whether the operators come in when the model is loaded, rather than before: an operator that is wrong then spoils the
        model's tables for good, and nothing tells which it was. CUDA graphs, which are captured while vLLM starts, need them
        before.
        """
        return self.choice.active and not self.choice.graphs

    @property
    def entries(self) -> list[Entry]:
        """What the workers have written."""
        return [] if self._reader is None else self._reader.entries()

    @property
    def active(self) -> bool:
        """Whether operators of this package's choice are registered in them."""
        return any(entry.registered for entry in self.entries)

    @property
    def flagos_active(self) -> bool:
        """Whether FlagGems' operators are in use, whoever has chosen them."""
        return self.active or bool(self.registered)

    @property
    def called(self) -> tuple[str, ...]:
        """Operators that have run so far."""
        if self._called_log is not None:
            return flagos_plugin.called(self._called_log)
        return () if self._reader is None else self._reader.called()

    @property
    def warning(self) -> str:
        """What does not work as it was asked for; empty: all does."""
        error = next((entry.error for entry in self.entries if entry.error), "")
        if error:
            return f"FlagGems cannot be used ({error}): the engine runs native operators; flagos.mode off is silent about it."
        return self.choice.warning

    def failure(self, how: str) -> Failure | None:
        """What failed, when the engine has; None: FlagGems was not in it."""
        if self.choice.by_platform:
            return Failure("", how)
        if not self.active or self._reader is None:
            return None
        return self._reader.failure() or Failure("", how)

    def details(self) -> dict[str, str]:
        """For diagnostics."""
        choice = self.choice
        said = {"flagos": choice.why, "flagos_parts": installed_parts(), "flagos_platform": choice.platform}
        entries = self.entries
        if entries:
            entry = entries[0]
            said |= {
                "flagos_vendor": entry.vendor,
                "flagos_registered": ", ".join(entry.registered),
                "flagos_fused": "; ".join(f"{layer}: {who}" for layer, who in sorted(entry.fused.items())),
                "flagos_log": ", ".join(entry.log for entry in entries if entry.log),
            }
        if self.registered:
            said |= {"flagos_registered": ", ".join(self.registered), "flagos_log": str(self._called_log)}
        return {name: value for name, value in said.items() if value}

    def release(self) -> None:
        """Remove the files."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = self._reader = None
