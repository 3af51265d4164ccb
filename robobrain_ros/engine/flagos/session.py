"""Operators of FlagOS in the workers of one engine: settings of the workers, their reports, and failures."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from robobrain_ros.engine.flagos import plugin, recovery, tune_file
from robobrain_ros.engine.flagos.by_shape import own_table, report
from robobrain_ros.engine.flagos.by_shape.report import TableReport
from robobrain_ros.engine.flagos.choice import Choice, Operators
from robobrain_ros.engine.flagos.ledger import VARIABLE, Failure, LedgerReader, WorkerEntry
from robobrain_ros.engine.options import EngineOptions

_FIRST_ANSWERS = 16
"""If an engine dies for an unknown reason within this number of answers, FlagOS counts as the cause."""
_PARTS = {
    "flag-gems": ("flag-gems",),
    "flagtree": ("flagtree",),
    "flagcx": ("flagcx", "flagcx-torch"),
    plugin.NAME: plugin.DISTRIBUTIONS,
}
"""Parts of FlagOS, and the names of their distributions."""


class Session:
    """Operators of FlagOS in the workers of one engine.

    :param recovers: whether later engines of this process do not use operators that failed in this one.
    """

    def __init__(self, choice: Choice, options: EngineOptions, *, recovers: bool = True) -> None:
        self.choice = choice
        self.recovers = recovers
        self._options = options
        needs_folder = choice.uses_flaggems or choice.by_shape
        self._folder = Path(tempfile.mkdtemp(prefix="robobrain_ros-flagos-")) if needs_folder else None
        ours = choice.operators is Operators.OURS
        self._reader = LedgerReader(self._folder) if self._folder is not None and ours else None
        self._known_tables: list[TableReport] = []
        self.registered_by_plugin: tuple[str, ...] = ()
        """Operators that vllm-plugin-FL has registered, once a worker has reported them."""

    def environment(self) -> dict[str, str | None]:
        """Return environment variables for the workers. A variable with the value None must be unset."""
        choice = self.choice
        ours = {VARIABLE: json.dumps(self._settings()) if choice.operators is Operators.OURS else None}
        ours[report.VARIABLE] = str(self._folder) if choice.by_shape else None
        ours[own_table.VARIABLE] = str(own_table.folder_for(tune_file.tune_file(self._options))) if choice.by_shape else None
        by_plugin = choice.operators is Operators.PLUGIN
        log = str(self._called_log or "")
        return ours | plugin.environment(bool(choice.platform), by_plugin, choice.include or (), choice.exclude, log)

    @property
    def _called_log(self) -> Path | None:
        """The log of operators at their first call, which FlagGems writes for vllm-plugin-FL."""
        by_plugin = self.choice.operators is Operators.PLUGIN
        return self._folder / "called.log" if self._folder is not None and by_plugin else None

    def _settings(self) -> dict[str, Any]:
        include = None if self.choice.include is None else list(self.choice.include)
        log_folder = tune_file.tune_file(self._options).parent if self._options.flagos.record else None
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
        """Whether the operators are registered after the model is loaded.

        A wrong operator during loading makes tables of the model wrong, such as the rotary positions. They stay wrong, and
        nothing shows which operator was the cause. With CUDA graphs, the operators are registered earlier, because vLLM captures
        the graphs while it starts, unless the choice is `Choice.late`.
        """
        return self.choice.operators is Operators.OURS and (self.choice.late or not self.choice.graphs)

    @property
    def entries(self) -> list[WorkerEntry]:
        """The entries of all workers."""
        return [] if self._reader is None else self._reader.entries()

    @property
    def registered(self) -> bool:
        """Whether operators that this package selected are registered."""
        return any(entry.registered for entry in self.entries)

    @property
    def active(self) -> bool:
        """Whether operators of FlagOS are in use, selected by this package or by vllm-plugin-FL."""
        return self.registered or bool(self.registered_by_plugin) or self._table_in_use

    @property
    def _tables(self) -> list[TableReport]:
        """The workers' reports about their tables of matrix products. They do not change after the models are loaded."""
        if self._folder is None or not self.choice.by_shape:
            return []
        if not self._known_tables:
            tables = report.read(self._folder)
            self._known_tables = tables if all(table.details for table in tables) else []
            return tables
        return self._known_tables

    @property
    def _table_in_use(self) -> bool:
        return any(table.in_use for table in self._tables)

    @property
    def operators(self) -> tuple[str, ...]:
        """Operators in use, for /diagnostics: FlagGems' operators that have run, and operators with shapes in a table."""
        by_shape = {name for table in self._tables for name in table.operators}
        return (*self.called, *(f"{name} by shape" for name in sorted(by_shape)))

    @property
    def called(self) -> tuple[str, ...]:
        """Operators of FlagGems that have run so far."""
        if self._called_log is not None:
            return plugin.called(self._called_log)
        return () if self._reader is None else self._reader.called()

    @property
    def warning(self) -> str:
        """A sentence about a setting that could not be fulfilled, or an empty string if there is none."""
        error = next((entry.error for entry in self.entries if entry.error), "")
        if error:
            return f"FlagGems cannot be used ({error}). The engine runs native operators. Set flagos.mode to off to hide this."
        return self.choice.warning

    def failure(self, how: str) -> Failure | None:
        """Return the failure of FlagOS in an engine that failed, or None if no operators of FlagOS were active."""
        if self.choice.operators is Operators.PLUGIN:
            return Failure("", how)
        if not self.active:
            return None
        found = None if self._reader is None else self._reader.failure()
        return found or Failure("", how)

    def note_failed_start(self, failure: Failure) -> None:
        """Record a failure during the start, so that later engines do not use the operator."""
        recovery.remember(self._options.model, failure)

    def note_death(self, ended_generations: int) -> None:
        """Record the failure of an engine that died, if FlagOS can be the cause.

        :param ended_generations: number of generations that have ended in this engine.
        """
        failure = self.failure("its process died")
        if self.recovers and failure is not None and (failure.operator or ended_generations < _FIRST_ANSWERS):
            recovery.remember(self._options.model, failure)

    def note_failed_answer(self) -> bool:
        """Let later engines run without FlagOS, because this engine is alive but failed to answer a request.

        :returns: whether FlagOS is active, so that the engine must restart.
        """
        if not self.recovers or not self.active:
            return False
        recovery.remember(self._options.model, Failure("", "it could not answer a request"))
        return True

    def details(self) -> dict[str, str]:
        """Return keys and values for ``/diagnostics``."""
        choice = self.choice
        values = {"flagos": choice.why, "flagos_parts": _installed_parts(), "flagos_platform": choice.platform}
        entries = self.entries
        if entries:
            entry = entries[0]
            values |= {
                "flagos_vendor": entry.vendor,
                "flagos_registered": ", ".join(entry.registered),
                "flagos_fused": "; ".join(f"{layer}: {who}" for layer, who in sorted(entry.fused.items())),
                "flagos_log": ", ".join(entry.log for entry in entries if entry.log),
            }
        if self.registered_by_plugin:
            values |= {"flagos_registered": ", ".join(self.registered_by_plugin), "flagos_log": str(self._called_log)}
        for table in self._tables[:1]:  # All workers have the same GPU and the same part of the model.
            values |= table.details
        return {name: value for name, value in values.items() if value}

    def release(self) -> None:
        """Remove the files."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = self._reader = None


def _installed_parts() -> str:
    """Return the installed parts of FlagOS with their versions, as text for /diagnostics."""
    return ", ".join(f"{part} {tune_file.version_of(*names) or 'no'}" for part, names in _PARTS.items())
