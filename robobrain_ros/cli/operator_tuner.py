"""Measures operators of FlagGems in a running engine, one by one and then together."""

import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from robobrain_ros.cli.operator_verdicts import OperatorVerdict, find_fault, interval_of_median
from robobrain_ros.core.grammars import coordinate_pattern
from robobrain_ros.core.imaging import PixelBudget, fit_image
from robobrain_ros.core.profiles import Profile
from robobrain_ros.core.query import Task
from robobrain_ros.demo.world import make_scene
from robobrain_ros.engine.base import Constraint, EngineInfo, Generation
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.embedded.measuring import Measured
from robobrain_ros.engine.flagos.choice import Choice, Operators
from robobrain_ros.engine.flagos.ledger import write_atomically
from robobrain_ros.engine.flagos.tune_file import Key
from robobrain_ros.errors import EngineConfigError, EngineFailedError
from robobrain_ros.evaluation.exam import FIRST_SEED, questions_about

_TASKS = (Task.POINT, Task.GROUND, Task.TRAJECTORY)
_HELD_TOKENS = 32
_MOST_CRASHES = 20
"""Operators that may end the engine until the run gives up: each costs a new engine."""


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    :param pairs: times that native and FlagGems are timed in turn, for each operator; twice as often for all together.
    :param scenes: tabletop scenes, a question of each of three tasks about each, and one of them once more with the answer held
        to its form, as the node asks; these answers are compared.
    :param tokens: length of each answer, ends ignored; where it is held to a form, `_HELD_TOKENS` at most.
    :param size: (width, height) of the camera's images, in pixels.
    :param bound: most that a token's log-probability may differ.
    """

    pairs: int = 10
    scenes: int = 4
    tokens: int = 24
    size: tuple[int, int] = (640, 480)
    bound: float = 0.1


@dataclass(frozen=True)
class _Asked:
    image: npt.NDArray[np.uint8]
    text: str
    form: Constraint


class Questions:
    """Questions about tabletop scenes, as generations that no cache has seen."""

    def __init__(self, settings: Settings, profile: Profile, budget: PixelBudget) -> None:
        self._settings = settings
        self._asked: list[_Asked] = []
        self._held: list[_Asked] = []
        self._prefix = profile.assistant_prefix(think=False)
        for seed in range(FIRST_SEED, FIRST_SEED + settings.scenes):
            scene = make_scene(seed, settings.size)
            fitted = fit_image(scene.image, budget)
            tasks = [task.value for task in _TASKS if task in profile.tasks]
            of_scene = [
                _Asked(
                    fitted.image,
                    profile.prompt(asked.question.task, asked.question.text),
                    Constraint(regex=coordinate_pattern(asked.question.task, profile, fitted.size)),
                )
                for asked in questions_about(scene, seed, tasks)
            ]
            self._asked += of_scene
            self._held += of_scene[:1]

    def compared(self) -> list[Generation]:
        """All whose answers are compared; images have a new name each time, so that nothing of them is taken from a cache."""
        free = [self._generation(asked, self._settings.tokens) for asked in self._asked]
        return free + [self._generation(asked, _HELD_TOKENS, asked.form) for asked in self._held]

    def timed(self, index: int) -> Generation:
        """One that is timed."""
        return self._generation(self._asked[index % len(self._asked)], self._settings.tokens)

    def _generation(self, asked: _Asked, tokens: int, form: Constraint | None = None) -> Generation:
        name = uuid.uuid4().hex
        return Generation(f"tune-{name}", asked.text, [asked.image], tokens, [name], self._prefix, constraint=form)


Say = Callable[[str], None]
EngineMaker = Callable[[Choice], EmbeddedEngine]


class Tuner:
    """Measures operators in a running engine, which is built again when one of them ends it.

    :param make_engine: makes an engine that is not started.
    """

    def __init__(
        self, make_engine: EngineMaker, questions_for: Callable[[EngineInfo], Questions], settings: Settings, say: Say
    ) -> None:
        self._make_engine = make_engine
        self._questions_for = questions_for
        self._settings = settings
        self._say = say
        self._engine: EmbeddedEngine | None = None
        self._questions: Questions | None = None
        self._native: list[Measured] = []
        self.crashed: dict[str, str] = {}
        """Operators that have ended an engine, and how."""

    async def start(self) -> None:
        """Start an engine with no operator of FlagGems in it, and let it answer natively."""
        self._say("Starting the engine ...")
        engine = self._make_engine(Choice(Operators.OURS, "tune_flagos measures.", include=()))
        self._engine = engine
        info = await engine.start(lambda progress: None)
        if warning := engine.health().warning:
            raise EngineConfigError(warning)
        self._questions = self._questions or self._questions_for(info)
        await self._answers(())  # The first answers compile and fill caches.
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
            self._say(
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
        """Which of the operators the model calls; those that end the engine are among them, and in ``crashed``."""
        names = list(candidates)

        async def look() -> list[str]:
            await self._answers(names)
            assert self._engine is not None
            return list(self._engine.health().flagos_operators)

        while True:
            found = await self._surviving(look, names)
            if found is not None:
                return sorted({*found, *self.crashed})
            names = [name for name in names if name not in self.crashed]

    async def judge(self, names: Sequence[str], title: str, pairs: int) -> OperatorVerdict:
        """Compare operators with native ones: results, and times in turn."""

        async def compare() -> OperatorVerdict:
            return await self._compare(names, title, pairs)

        if crashed := [name for name in names if name in self.crashed]:
            return OperatorVerdict(title, fault=f"crashes: {self.crashed[crashed[0]]}")
        verdict = await self._surviving(compare, names)
        return verdict or OperatorVerdict(
            title, fault=f"crashes: {next(self.crashed[name] for name in names if name in self.crashed)}"
        )

    async def _surviving(self, work: Callable[[], Awaitable[Any]], names: Sequence[str]) -> Any:
        """Do something with operators; None: one of them has ended the engine, and there is another engine."""
        try:
            return await work()
        except EngineFailedError as error:
            if self._engine is None:
                raise
            failure = self._engine.flagos_failure
            operator = failure.operator if failure is not None and failure.operator in names else ""
            if not operator and len(names) > 1:
                raise EngineFailedError(
                    f"{error.message} The operator that caused it is unknown. Exclude operators with --exclude."
                ) from error
            operator = operator or names[0]
            self.crashed[operator] = failure.how if failure is not None else error.message
            self._say(f"  {operator} crashes the engine ({self.crashed[operator]}).")
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
        ratios: list[tuple[float, float, float]] = []
        await self._time(names, 0)  # Where kernels are chosen by trying, that was done above for most shapes.
        for pair in range(pairs):
            first, second = ((), names) if pair % 2 == 0 else (names, ())
            one, other = await self._time(first, pair), await self._time(second, pair)
            native, ours = (one, other) if pair % 2 == 0 else (other, one)
            ratios.append(
                (native.prefill / ours.prefill, native.decode / ours.decode, native.total / ours.total),
            )
        prefill, decode, total = (median(ratio[part] for ratio in ratios) for part in range(3))
        low, high = interval_of_median([ratio[2] for ratio in ratios])
        return OperatorVerdict(title, "", difference, prefill, decode, total, low, high)

    async def _answers(self, names: Sequence[str]) -> list[Measured]:
        assert self._engine is not None
        assert self._questions is not None
        await self._engine.use_flagos(names)
        return await measure_all(self._engine, self._questions)

    async def _time(self, names: Sequence[str], index: int) -> Measured:
        assert self._engine is not None
        assert self._questions is not None
        await self._engine.use_flagos(names)
        return await self._engine.measure(self._questions.timed(index))


async def measure_all(engine: EmbeddedEngine, questions: Questions) -> list[Measured]:
    """Measure the engine on each question that is compared, with the probabilities of its tokens."""
    return [await engine.measure(generation, probabilities=True) for generation in questions.compared()]


@dataclass
class State:
    """What an interrupted run has found, in a file beside the tune file."""

    key: dict[str, Any]
    settings: dict[str, Any]
    candidates: list[str]
    called: list[str] = field(default_factory=list)
    crashed: dict[str, str] = field(default_factory=dict)
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def resume(cls, path: Path, key: Key, settings: Settings, candidates: Sequence[str]) -> "State":
        """What the file holds, if it is of the same measurement; else a new one."""
        new = cls(asdict(key), {**asdict(settings), "size": list(settings.size)}, list(candidates))
        try:
            old = cls(**json.loads(path.read_text(encoding="utf-8")))
            for verdict in old.verdicts.values():
                OperatorVerdict(**verdict)
        except (OSError, ValueError, TypeError, AttributeError):
            return new
        return old if (old.key, old.settings, old.candidates) == (new.key, new.settings, new.candidates) else new

    def write(self, path: Path) -> None:
        """Write the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(self), indent=1))


async def measure(
    tuner: Tuner, state: State, path: Path, settings: Settings, say: Say
) -> tuple[list[str], list[OperatorVerdict]]:
    """Judge each operator, then those that are kept together; gives the operators to use, and all verdicts.

    :param path: of the state's file, written after each step.
    """
    tuner.crashed.update(state.crashed)
    if not state.called:
        say(f"Finding which of {len(state.candidates)} operators the model calls ...")
        state.called = await tuner.called([name for name in state.candidates if name not in tuner.crashed])
        state.crashed = dict(tuner.crashed)
        state.write(path)
    for number, name in enumerate(state.called, 1):
        if name not in state.verdicts:
            state.verdicts[name] = asdict(await tuner.judge([name], name, settings.pairs))
            state.crashed = dict(tuner.crashed)
            state.write(path)
        verdict = OperatorVerdict(**state.verdicts[name])
        say(f"{number} of {len(state.called)}: {name}: {verdict.sentence}")
    verdicts = [OperatorVerdict(**state.verdicts[name]) for name in state.called]
    kept = sorted((verdict for verdict in verdicts if verdict.kept), key=lambda verdict: verdict.total)
    while kept:
        title = f"{len(kept)} together"
        together = replace(await tuner.judge([verdict.name for verdict in kept], title, 2 * settings.pairs), strict=True)
        verdicts.append(together)
        say(f"{title}: {together.sentence}")
        if together.kept:
            return sorted(verdict.name for verdict in kept), verdicts
        say(f"  {kept[0].name} is removed.")
        kept = kept[1:]
    return [], verdicts
