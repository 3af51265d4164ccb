"""One run of tune_flagos: an engine whose operators and shape classes are measured, and the comparison of complete engines."""

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from robobrain_ros.cli.budget import Budget, Report, StartProgress
from robobrain_ros.cli.operator_tuner import Questions, Settings, State, Tuner, measure, native_choice
from robobrain_ros.cli.operator_verdicts import OperatorVerdict
from robobrain_ros.cli.shape_tuner import MeasuredShapes, ShapeTuner
from robobrain_ros.cli.whole_engines import Combination, Result, Side, WholeEngines
from robobrain_ros.core.imaging import PixelBudget
from robobrain_ros.core.profiles import identify_model
from robobrain_ros.engine.base import EngineInfo
from robobrain_ros.engine.embedded.checkpoint import Checkpoint
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.flagos.by_shape import own_table
from robobrain_ros.engine.flagos.choice import Choice, Operators
from robobrain_ros.engine.flagos.decision import Measurable
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError, EngineFailedError

_ANSWERS_TIME = 40.0
"""Seconds for the answers of two complete engines."""
_SHARE_OF_SHAPES = 0.5
"""Part of the time for operators and shapes that the shapes may use, if both are measured."""
_ROOM = 8.0
"""GiB of GPU memory that an engine needs in addition to its weights."""
_RESTART = 0.7
"""Time of a later start of an engine, relative to the first one. Later starts use the caches of compiled kernels."""
_GB = 1e9 / 2**30


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    :param kept: what `auto` may use.
    :param shapes: the measured shape classes, or None if none were measured.
    :param verdicts: the comparisons of operators and of engines.
    :param shapes_judged: whether the comparison of engines decided about the shape classes. If not, their table stays as it is.
    """

    kept: Combination
    shapes: MeasuredShapes | None
    verdicts: list[OperatorVerdict]
    shapes_judged: bool = True


def both_fit(options: EngineOptions, checkpoint: Checkpoint, memory: float) -> bool:
    """Return whether two engines with this model fit on a GPU.

    :param memory: memory of the GPU in GiB.
    """
    per_gpu = checkpoint.gigabytes * _GB / max(1, options.embedded.gpus)
    return 2.0 * (per_gpu + _ROOM) <= memory * options.embedded.gpu_memory_utilization


def gpu_memory() -> float:
    """Return the memory of the GPU in GiB; 0: unknown. Imports vLLM."""
    from vllm.platforms import current_platform

    try:
        return float(current_platform.get_device_total_memory()) / 2**30
    except Exception:  # Some platforms do not implement it, each with another exception.
        return 0.0


class TableNotUsedError(EngineConfigError):
    """The engine does not use the measured table. The message has the reason."""


@dataclass
class TuningRun:
    """Measures within a time limit.

    :param can: what can be measured.
    :param share: share of the configured GPU memory of each engine: below 1, two engines fit on the GPU.
    """

    options: EngineOptions
    settings: Settings
    can: Measurable
    budget: Budget
    report: Report
    share: float = 1.0
    _started_in: float = field(default=0.0, init=False)

    async def run(self, state: State, state_path: Path) -> Outcome:
        """Measure everything.

        :param state: results of an interrupted run. Its file is kept up to date.
        :raises RoboBrainError: measuring is impossible, or the time limit is too short.
        """
        tuner = Tuner(self._engine, self._questions, self.settings, self.report, self._choice)
        try:
            await self._start(tuner)
            shapes = await self._shapes(tuner)
            names, verdicts = await self._operators(tuner, state, state_path, needed=shapes is None)
            wanted = Combination(tuple(names), shapes.table if shapes is not None else None)
            if not self.can.graphs or wanted.empty:
                return Outcome(wanted, shapes, verdicts)
            result = await self._compare(tuner, wanted)
            return Outcome(result.kept, shapes, [*verdicts, *result.verdicts], result.shapes_judged)
        finally:
            await tuner.close()

    @property
    def _has_flaggems(self) -> bool:
        return not self.can.operators_obstacle

    @property
    def _choice(self) -> Choice:
        return native_choice(flaggems=self._has_flaggems, graphs=self.can.graphs, tunes=not self.can.shapes_obstacle)

    def _engine(self, choice: Choice) -> EmbeddedEngine:
        return EmbeddedEngine(self.shared(self.options), choice=choice)

    def shared(self, options: EngineOptions) -> EngineOptions:
        """Return the options of an engine with its share of the GPU memory."""
        if self.share == 1.0:
            return options
        return options.changed(gpu_memory_utilization=options.embedded.gpu_memory_utilization * self.share)

    def _questions(self, info: EngineInfo) -> Questions:
        pixels = PixelBudget.within(self.options.max_pixels, info.min_pixels, info.max_pixels, info.cell)
        return Questions(self.settings, identify_model(info, self.settings.model_profile).profile, pixels)

    async def _start(self, tuner: Tuner) -> None:
        """Start the engine. If it cannot start with a part of the GPU's memory, start it with all of it."""
        began = self.budget.used
        try:
            await tuner.start()
        except EngineConfigError as error:
            if self.share == 1.0:
                raise
            self.report(f"The engine does not start with half of the GPU's memory, so it gets all of it: {error.message}")
            await tuner.close()
            self.share, began = 1.0, self.budget.used
            await tuner.start()
        self._started_in = self.budget.used - began
        self.report(f"The engine started and answered in {self._started_in:.0f} s.")

    @property
    def _comparison_time(self) -> float:
        """Seconds that the comparison of complete engines needs."""
        if not self.can.graphs:
            return 0.0
        starts = 1 if self.share < 1.0 else 3
        return starts * _RESTART * self._started_in + _ANSWERS_TIME * (1 if self.share < 1.0 else 2)

    def _has_time_before_the_comparison(self, seconds: float) -> bool:
        return self.budget.has(self._comparison_time + seconds)

    async def _shapes(self, tuner: Tuner) -> MeasuredShapes | None:
        if self.can.shapes_obstacle:
            self.report(f"Matrix products by shape are not measured: {self.can.shapes_obstacle}.")
            return None
        spare = max(0.0, self.budget.left - self._comparison_time)
        reserve = self._comparison_time + (spare * (1.0 - _SHARE_OF_SHAPES) if self._has_flaggems else 0.0)
        shapes = ShapeTuner(tuner.engine.call_workers, self.report, flag_gems=self._has_flaggems)
        try:
            return await shapes.run(self.budget, reserve)
        except EngineConfigError as error:
            self.report(error.message)
        except EngineFailedError as error:
            self.report(f"Measuring matrix products ended the engine: {error.message} They stay as they are.")
            await tuner.close()
            await tuner.start()
        return None

    async def _operators(
        self, tuner: Tuner, state: State, path: Path, *, needed: bool
    ) -> tuple[list[str], list[OperatorVerdict]]:
        """Measure FlagGems' operators.

        :param needed: whether a failure ends the run.
        """
        if not self._has_flaggems:
            self.report(f"FlagGems' operators are not measured: {self.can.operators_obstacle}.")
            return [], []
        try:
            return await measure(tuner, state, path, self.settings, self.report, self._has_time_before_the_comparison)
        except EngineFailedError as error:
            if needed:
                raise
            self.report(f"FlagGems' operators are not used: {error.message}")
            await tuner.close()
            await tuner.start()
            return [], []

    async def _compare(self, tuner: Tuner, wanted: Combination) -> Result:
        """Compare complete engines.

        :raises RoboBrainError: there is not enough time, or an engine does not start.
        """
        if not self.budget.has(self._comparison_time):
            minutes = (self.budget.used + self._comparison_time) / 60 + 1
            raise EngineConfigError(
                f"The time limit of {self.budget.seconds / 60:.0f} minutes is too short to compare complete engines. Nothing was "
                f"changed. Run the same command with --minutes {minutes:.0f}; it continues with the measured operators."
            )
        engines = WholeEngines(tuner.native_answers, self.settings, self.budget, self.report)
        native = Side(tuner.engine, tuner.questions, () if self._has_flaggems else None)
        with tempfile.TemporaryDirectory(prefix="robobrain_ros-tune-") as folder:
            starter = _Starter(self, tuner.questions, Path(folder))
            try:
                await native.use(())  # The last measurement of operators may have left some in use.
                if self.share < 1.0:
                    return await self._together(engines, native, starter, wanted)
                return await engines.in_turns(native, starter.tuned, starter.native, wanted)
            except TableNotUsedError as error:
                return self._not_kept(wanted, f"not used: {error.message}")
            except EngineConfigError:  # An engine does not start, which says nothing about the combination.
                raise
            except EngineFailedError as error:
                return self._not_kept(wanted, f"the engine failed: {error.message}")

    def _not_kept(self, wanted: Combination, why: str) -> Result:
        self.report(f"{wanted.title}: {why}")
        verdict = OperatorVerdict(wanted.measured_with(1), fault=why[:200])
        return Result(Combination(), (verdict,), shapes_judged=not wanted.has_entries)

    async def _together(self, engines: WholeEngines, native: Side, starter: "_Starter", wanted: Combination) -> Result:
        self.report(f"Starting a second engine with {wanted.title} ...")
        try:
            tuned = await starter.tuned(wanted)
        except TableNotUsedError:
            raise
        except EngineConfigError as error:
            self.share = 1.0
            if not self.budget.has(self._comparison_time):
                raise
            self.report(f"The second engine does not start beside the first, so the engines run in turns: {error.message}")
            return await engines.in_turns(native, starter.tuned, starter.native, wanted)
        try:
            return await engines.together(native, tuned, wanted)
        finally:
            await tuned.engine.close()


@dataclass(frozen=True)
class _Starter:
    """Starts engines for the comparison.

    :param folder: folder for the table of the tuned engine.
    """

    run: TuningRun
    questions: Questions
    folder: Path

    async def native(self) -> Side:
        """Start an engine with native operators."""
        side, _ = await self._start(native_choice(flaggems=False), self.run.options, None)
        return side

    async def tuned(self, wanted: Combination) -> Side:
        """Start an engine with a combination.

        :raises TableNotUsedError: it does not use the table.
        :raises RoboBrainError: it does not start.
        """
        options = self.run.options.changed(flagos_tune_file=str(self.folder / "flagos.json"))
        if wanted.table is not None:
            own_table.save(wanted.table, own_table.folder_for(Path(options.flagos.tune_file)))
        names = wanted.operators
        operators = Operators.OURS if names else Operators.NATIVE
        choice = Choice(
            operators, "tune_flagos measures.", names or None, graphs=True, late=bool(names), by_shape=wanted.has_entries
        )
        side, info = await self._start(choice, options, names or None)
        if wanted.has_entries and "flagos_shapes_in_use" not in info.details:
            await side.engine.close()
            raise TableNotUsedError(info.details.get("flagos_shapes", "The engine does not use the table."))
        return side

    async def _start(self, choice: Choice, options: EngineOptions, operators: Sequence[str] | None) -> tuple[Side, EngineInfo]:
        engine = EmbeddedEngine(self.run.shared(options), choice=choice)
        limit = max(1.0, self.run.budget.left)
        try:
            info = await asyncio.wait_for(engine.start(StartProgress(self.run.report)), limit)
        except asyncio.TimeoutError as error:
            await engine.close()
            raise EngineConfigError(f"The engine did not start within the {limit:.0f} s that were left.") from error
        except BaseException:
            await engine.close()
            raise
        return Side(engine, self.questions, operators), info
