"""Measure operators of FlagGems in a running engine, each alone and then together."""

import json
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robobrain_ros.cli import engine_comparison as comparison
from robobrain_ros.cli.budget import Report, StartProgress
from robobrain_ros.cli.engine_comparison import AnswerTimes, one_answer
from robobrain_ros.cli.operator_verdicts import OperatorVerdict, find_fault
from robobrain_ros.core.grammars import coordinate_pattern
from robobrain_ros.core.imaging import PixelBudget, fit_image
from robobrain_ros.core.profiles import AUTO, Profile
from robobrain_ros.core.query import Task
from robobrain_ros.demo.world import make_scene
from robobrain_ros.engine.base import Constraint, EngineInfo, Generation
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.embedded.measuring import MeasuredGeneration
from robobrain_ros.engine.flagos.choice import Choice, Operators
from robobrain_ros.engine.flagos.ledger import write_atomically
from robobrain_ros.engine.flagos.tune_file import Key
from robobrain_ros.errors import EngineConfigError, EngineFailedError
from robobrain_ros.evaluation.exam import FIRST_SEED, questions_about

_TASKS = (Task.POINT, Task.GROUND, Task.TRAJECTORY)
_CONSTRAINED_TOKENS = 32
_LONG_TOKENS = 64
"""Tokens of the answers that complete engines are compared with."""
_MOST_CRASHES = 20
"""Number of operators that may crash the engine before the run fails. Each crash needs a new engine."""
_TOGETHER = 2.0
"""Time to measure several operators together, relative to one: they get twice the number of pairs."""


@dataclass(frozen=True)
class Settings:
    """The amount of measurements.

    :param pairs: number of timed pairs, native and FlagGems, for each operator. Several operators together get twice this number.
    :param scenes: number of tabletop scenes. The program compares the answers to three questions about each scene, one for each
        task. It asks one of these questions a second time with a constraint, as the node does.
    :param tokens: tokens of each answer. Answers do not end earlier. Constrained answers have at most `_CONSTRAINED_TOKENS`.
    :param size: (width, height) of the images in pixels.
    :param bound: largest allowed difference of a token's log-probability.
    :param model_profile: see `core.profiles.identify`. The questions are worded for this family.
    """

    pairs: int = 6
    scenes: int = 2
    tokens: int = 24
    size: tuple[int, int] = (640, 480)
    bound: float = 0.1
    model_profile: str = AUTO


@dataclass(frozen=True)
class _Question:
    image: npt.NDArray[np.uint8]
    text: str
    constraint: Constraint


class Questions:
    """Questions about tabletop scenes. The image of each generation has a new name, so that no cache contains it."""

    def __init__(self, settings: Settings, profile: Profile, budget: PixelBudget) -> None:
        self._settings = settings
        self._unconstrained: list[_Question] = []
        self._constrained: list[_Question] = []
        self._prefix = profile.assistant_prefix(think=False)
        for seed in range(FIRST_SEED, FIRST_SEED + settings.scenes):
            scene = make_scene(seed, settings.size)
            fitted = fit_image(scene.image, budget)
            tasks = [task.value for task in _TASKS if task in profile.tasks]
            of_scene = [
                _Question(
                    fitted.image,
                    profile.prompt(asked.question.task, asked.question.text),
                    Constraint(regex=coordinate_pattern(asked.question.task, profile, fitted.size)),
                )
                for asked in questions_about(scene, seed, tasks)
            ]
            self._unconstrained += of_scene
            self._constrained += of_scene[:1]

    def compared(self) -> list[Generation]:
        """Return the generations whose answers are compared."""
        free = [self._generation(question, self._settings.tokens) for question in self._unconstrained]
        constrained = [self._generation(question, _CONSTRAINED_TOKENS, question.constraint) for question in self._constrained]
        return free + constrained

    def timed(self, index: int) -> Generation:
        """Return a generation whose time is measured."""
        return self._generation(self._unconstrained[index % len(self._unconstrained)], self._settings.tokens)

    def long(self, index: int) -> Generation:
        """Return a generation for the comparison of complete engines. It has more tokens than those of `timed`."""
        return self._generation(self._unconstrained[index % len(self._unconstrained)], _LONG_TOKENS)

    def _generation(self, question: _Question, tokens: int, constraint: Constraint | None = None) -> Generation:
        name = uuid.uuid4().hex
        return Generation(
            f"tune-{name}",
            question.text,
            [question.image],
            tokens,
            image_ids=[name],
            assistant_prefix=self._prefix,
            constraint=constraint,
        )


EngineMaker = Callable[[Choice], EmbeddedEngine]


class Tuner:
    """Measures operators in a running engine. If an operator crashes the engine, the tuner starts a new one.

    :param make_engine: creates an engine without starting it.
    :param choice: the operators of the engine, without FlagGems' operators in use. `native_choice` returns one.
    """

    def __init__(
        self,
        make_engine: EngineMaker,
        questions_for: Callable[[EngineInfo], Questions],
        settings: Settings,
        report: Report,
        choice: Choice | None = None,
    ) -> None:
        self._make_engine = make_engine
        self._questions_for = questions_for
        self._settings = settings
        self._report = report
        self._choice = choice or native_choice()
        self._engine: EmbeddedEngine | None = None
        self._questions: Questions | None = None
        self._native: list[MeasuredGeneration] = []
        self.crashed: dict[str, str] = {}
        """Operators that crashed an engine, and what happened."""

    @property
    def engine(self) -> EmbeddedEngine:
        """The started engine."""
        assert self._engine is not None
        return self._engine

    @property
    def questions(self) -> Questions:
        """The questions for the started engine."""
        assert self._questions is not None
        return self._questions

    @property
    def native_answers(self) -> list[MeasuredGeneration]:
        """The answers with native operators to the questions of `Questions.compared`."""
        return self._native

    async def start(self) -> None:
        """Start an engine without FlagGems' operators, and record its native answers."""
        self._report("Starting an engine with native operators ...")
        engine = self._make_engine(self._choice)
        self._engine = engine
        info = await engine.start(StartProgress(self._report))
        if warning := engine.health().warning:
            raise EngineConfigError(warning)
        self._questions = self._questions or self._questions_for(info)
        await self._answers(())  # The first answers compile kernels and fill caches.
        self._native = await self._answers(())
        faults = [
            find_fault(one, other, self._settings.bound)[0]
            for one, other in zip(self._native, await self._answers(()), strict=True)
        ]
        steady = [not fault for fault in faults]
        if not any(steady):
            raise EngineFailedError(
                "Native operators do not give the same answer twice on this machine. FlagGems cannot be compared with them."
            )
        if not all(steady):
            self._report(
                f"Native operators answered {steady.count(False)} of {len(steady)} questions differently the second time. "
                "These questions are skipped."
            )
        self._steady = [index for index, same in enumerate(steady) if same]

    async def close(self) -> None:
        """Close the engine."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            await engine.close()

    async def called(self, candidates: Sequence[str]) -> list[str]:
        """Return the operators that the model calls, including those that crash the engine."""
        names = list(candidates)

        async def find_called() -> list[str]:
            await self._answers(names)
            assert self._engine is not None
            return list(self._engine.health().flagos_operators)

        while True:
            found = await self._try(find_called, names)
            if found is not None:
                return sorted({*found, *self.crashed})
            names = [name for name in names if name not in self.crashed]

    async def judge(self, names: Sequence[str], title: str, pairs: int) -> OperatorVerdict:
        """Compare the results and times of operators with those of native operators."""

        async def compare() -> OperatorVerdict:
            return await self._compare(names, title, pairs)

        if crashed := [name for name in names if name in self.crashed]:
            return OperatorVerdict(title, fault=f"crashes: {self.crashed[crashed[0]]}")
        verdict = await self._try(compare, names)
        return verdict or OperatorVerdict(
            title, fault=f"crashes: {next(self.crashed[name] for name in names if name in self.crashed)}"
        )

    async def _try(self, work: Callable[[], Awaitable[Any]], names: Sequence[str]) -> Any:
        """Run ``work`` and return its result. If an operator crashes the engine, start a new engine and return None."""
        try:
            return await work()
        except EngineFailedError as error:
            if self._engine is None or not names:
                raise
            failure = self._engine.flagos_failure
            operator = failure.operator if failure is not None and failure.operator in names else ""
            if not operator and len(names) > 1:
                raise EngineFailedError(
                    f"{error.message} The operator that caused it is unknown. Exclude operators with --exclude."
                ) from error
            operator = operator or names[0]
            self.crashed[operator] = failure.how if failure is not None else error.message
            self._report(f"  {operator} crashes the engine ({self.crashed[operator]}).")
            if len(self.crashed) > _MOST_CRASHES:
                raise EngineFailedError(
                    f"{len(self.crashed)} operators crashed the engine. FlagGems does not work on this machine."
                ) from error
        await self.close()
        await self.start()
        return None

    async def _compare(self, names: Sequence[str], title: str, pairs: int) -> OperatorVerdict:
        fault, difference = "", 0.0
        answers = await self._answers(names)
        for index in self._steady:
            wrong, distance = find_fault(self._native[index], answers[index], self._settings.bound)
            fault, difference = fault or wrong, max(difference, distance)
        if fault:
            return OperatorVerdict(title, fault=fault, difference=difference)
        await self._time(names, 0)  # Autotuning of kernels for the remaining shapes must not be timed.
        timed = await comparison.alternate(
            lambda index: self._time((), index), lambda index: self._time(names, index), lambda found: len(found) >= pairs
        )
        return comparison.verdict(title, timed, difference)

    async def _answers(self, names: Sequence[str]) -> list[MeasuredGeneration]:
        await self._use(names)
        return await measure_all(self.engine, self.questions)

    async def _time(self, names: Sequence[str], index: int) -> AnswerTimes:
        await self._use(names)
        return await one_answer(self.engine, self.questions.timed(index))

    async def _use(self, names: Sequence[str]) -> None:
        if self._choice.uses_flaggems:
            await self.engine.use_flagos(names)


def native_choice(*, flaggems: bool = True, graphs: bool = False, tunes: bool = False) -> Choice:
    """Return the choice of an engine that starts with native operators.

    :param flaggems: whether its workers import FlagGems, so that operators can be selected while it runs.
    :param graphs: whether it has CUDA graphs, of native operators.
    :param tunes: whether its workers can measure matrix products.
    """
    operators = Operators.OURS if flaggems else Operators.NATIVE
    include = () if flaggems else None
    return Choice(operators, "tune_flagos measures.", include, graphs=graphs, late=flaggems and graphs, tunes=tunes)


async def measure_all(engine: EmbeddedEngine, questions: Questions) -> list[MeasuredGeneration]:
    """Measure the engine on each question whose answers are compared, with the log-probabilities of the tokens."""
    return [await engine.measure(generation, probabilities=True) for generation in questions.compared()]


@dataclass
class State:
    """The results of an unfinished run. They are in a file next to the tune file."""

    key: dict[str, Any]
    settings: dict[str, Any]
    candidates: list[str]
    called: list[str] = field(default_factory=list)
    crashed: dict[str, str] = field(default_factory=dict)
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether each called operator was measured."""
        return set(self.called) <= set(self.verdicts)

    @classmethod
    def resume(cls, path: Path, key: Key, settings: Settings, candidates: Sequence[str]) -> "State":
        """Return the state in the file if it belongs to the same measurement, otherwise a new state."""
        new = cls(asdict(key), {**asdict(settings), "size": list(settings.size)}, list(candidates))
        try:
            old = cls(**json.loads(path.read_text(encoding="utf-8")))
            for verdict in old.verdicts.values():
                OperatorVerdict(**verdict)
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return new
        return old if (old.key, old.settings, old.candidates) == (new.key, new.settings, new.candidates) else new

    def write(self, path: Path) -> None:
        """Write the state to the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(self), indent=1))


async def measure(
    tuner: Tuner, state: State, path: Path, settings: Settings, report: Report, has_time: Callable[[float], bool] = lambda _: True
) -> tuple[list[str], list[OperatorVerdict]]:
    """Measure each operator alone, and then the selected ones together.

    While the selected operators together are slower than native operators, the slower half of them is removed.

    :param path: file of the state, written after each operator.
    :param has_time: returns whether this number of seconds is left to measure. Operators that were not measured are not used.
    :returns: the operators to use, and the verdicts.
    """
    if not state.candidates:
        report("FlagGems' operators are not measured: no operator is selected.")
        return [], []
    tuner.crashed.update(state.crashed)
    if not state.called:
        report(f"Finding which of {len(state.candidates)} operators the model calls ...")
        state.called = await tuner.called([name for name in state.candidates if name not in tuner.crashed])
        state.crashed = dict(tuner.crashed)
        state.write(path)
    longest = 0.0
    for number, name in enumerate(state.called, 1):
        if name not in state.verdicts:
            if not has_time(longest):
                continue
            began = time.monotonic()
            state.verdicts[name] = asdict(await tuner.judge([name], name, settings.pairs))
            longest = max(longest, time.monotonic() - began)
            state.crashed = dict(tuner.crashed)
            state.write(path)
        verdict = OperatorVerdict(**state.verdicts[name])
        report(f"{number} of {len(state.called)}: {name}: {verdict.sentence}")
    verdicts = [OperatorVerdict(**state.verdicts[name]) for name in state.called if name in state.verdicts]
    if missing := len(state.called) - len(verdicts):
        report(f"No time was left for {missing} operators. They are not used. The same command continues with them.")
    names, found = await _select(tuner, verdicts, settings, report, lambda: has_time(_TOGETHER * longest))
    return names, [*verdicts, *found]


async def _select(
    tuner: Tuner, verdicts: Sequence[OperatorVerdict], settings: Settings, report: Report, has_time: Callable[[], bool]
) -> tuple[list[str], list[OperatorVerdict]]:
    """Return operators that together are not slower than native operators, and the comparisons that showed it."""
    kept = sorted((verdict for verdict in verdicts if verdict.kept), key=lambda verdict: verdict.total, reverse=True)
    found: list[OperatorVerdict] = []
    while kept:
        if not has_time():
            report("No time was left to measure the operators together. None is used.")
            break
        title = f"{len(kept)} together"
        together = replace(await tuner.judge([verdict.name for verdict in kept], title, 2 * settings.pairs), strict=True)
        found.append(together)
        report(f"{title}: {together.sentence}")
        if together.kept:
            return sorted(verdict.name for verdict in kept), found
        removed = kept[len(kept) // 2 :]
        report(f"  Removed: {', '.join(verdict.name for verdict in removed)}.")
        kept = kept[: len(kept) // 2]
    return [], found
