"""Choose FlagGems' operators by measurement, on this machine, with this model::

    ros2 run robobrain_ros tune_flagos --model BAAI/RoboBrain2.0-7B
    python -m robobrain_ros.cli.tune_flagos --model BAAI/RoboBrain2.0-7B      # without ROS

Each operator that the model calls is put into a running engine and taken out again, in turn with PyTorch's own. Kept is what
gives the same tokens, about the same log-probabilities, and is not slower; then what was kept is measured together, and the worst
is dropped until the whole is not slower. The result is what ``flagos.mode: auto`` reads. An interrupted run is continued by the
next.
"""

import argparse
import asyncio
import itertools
import json
import logging
import math
import os
import sys
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from robobrain_ros.core.grammars import coordinate_pattern
from robobrain_ros.core.imaging import PixelBudget, fit_image
from robobrain_ros.core.profiles import Profile, profile_for
from robobrain_ros.core.query import Task
from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.demo.world import make_scene
from robobrain_ros.engine.base import Constraint, EngineInfo, Generation
from robobrain_ros.engine.embedded.checkpoint import find_checkpoint
from robobrain_ros.engine.embedded.engine import EmbeddedEngine, Written
from robobrain_ros.engine.flagos import tune_file as flagos_tuning
from robobrain_ros.engine.flagos.choice import Choice, graphs_are_possible, refuse_where_impossible
from robobrain_ros.engine.flagos.ledger import write_atomically
from robobrain_ros.engine.flagos.operators import LEFT_OUT, known_operators
from robobrain_ros.engine.flagos.tune_file import Key, Tuned
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError, EngineFailedError, RoboBrainError
from robobrain_ros.evaluation.evaluate import FIRST_SEED, parse_size, questions_about

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
class OperatorVerdict:
    """What was found of an operator, or of several together. Ratios are native time over FlagGems': above 1, FlagGems is faster.

    :param name: the operator's; or how many together.
    :param fault: what is wrong with it; empty: it is right.
    :param difference: largest of the log-probabilities' differences.
    :param prefill: ratio of the times to the first token, ``decode`` of the rest, ``total`` of both; medians of pairs.
    :param low: of the interval of ``total`` that holds the true median with 95 % (or as near as the pairs allow), as ``high``.
    :param strict: ``total`` itself decides, not its interval: what is used is not to be slower.
    """

    name: str
    fault: str = ""
    difference: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    total: float = 0.0
    low: float = 0.0
    high: float = 0.0
    strict: bool = False

    @property
    def kept(self) -> bool:
        """Whether it is right, and not shown to be slower."""
        return not self.fault and (self.total if self.strict else self.high) >= 1.0

    @property
    def word(self) -> str:
        """For the table."""
        return self.fault or ("not slower" if self.kept else "slower")

    @property
    def sentence(self) -> str:
        """For who watches."""
        if self.fault:
            return self.fault
        return f"{self.word}, {self.total:.3f} times native's speed ({self.low:.3f} to {self.high:.3f})"


def interval_of_median(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Two of the values between which the median of what they are drawn from lies with this confidence (from the binomial
    distribution); the least and the largest where there are too few for it."""
    ordered = sorted(values)
    count = len(ordered)
    outside, below, term = 0, 0.0, 0.5**count
    while outside < count // 2:
        below += term
        if 2 * below > 1 - confidence:
            break
        outside += 1
        term *= (count - outside + 1) / outside
    index = max(outside - 1, 0)
    return ordered[index], ordered[count - 1 - index]


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
        self._native: list[Written] = []
        self.crashed: dict[str, str] = {}
        """Operators that have ended an engine, and how."""

    async def start(self) -> None:
        """Start an engine with no operator of FlagGems in it, and let it answer natively."""
        self._say("Starting the engine ...")
        engine = self._make_engine(Choice(True, "tune_flagos measures.", include=()))
        self._engine = engine
        info = await engine.start(lambda progress: None)
        if warning := engine.health().warning:
            raise EngineConfigError(warning)
        self._questions = self._questions or self._questions_for(info)
        await self._answers(())  # The first answers compile and fill caches.
        self._native = await self._answers(())
        faults = [
            _fault(one, other, self._settings.bound)[0] for one, other in zip(self._native, await self._answers(()), strict=True)
        ]
        steady = [not fault for fault in faults]
        if not any(steady):
            raise EngineFailedError("Native operators do not give the same answer twice here; nothing can be compared with them.")
        if not all(steady):
            self._say(
                f"Native operators answer {steady.count(False)} of {len(steady)} questions otherwise the second time; left out."
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
                    f"{error.message} Which operator did it is not known; leave out some by --exclude."
                ) from error
            operator = operator or names[0]
            self.crashed[operator] = failure.how if failure is not None else error.message
            self._say(f"  {operator} ends the engine ({self.crashed[operator]}).")
            if len(self.crashed) > _MOST_CRASHES:
                raise EngineFailedError(
                    f"{len(self.crashed)} operators have ended the engine; FlagGems does not work here."
                ) from error
        await self.close()
        await self.start()
        return None

    async def _compare(self, names: Sequence[str], title: str, pairs: int) -> OperatorVerdict:
        fault, difference = "", 0.0
        answers = await self._answers(names)
        for index in self._steady:
            wrong, distance = _fault(self._native[index], answers[index], self._settings.bound)
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

    async def _answers(self, names: Sequence[str]) -> list[Written]:
        assert self._engine is not None
        assert self._questions is not None
        await self._engine.use_flagos(names)
        return await _write_all(self._engine, self._questions)

    async def _time(self, names: Sequence[str], index: int) -> Written:
        assert self._engine is not None
        assert self._questions is not None
        await self._engine.use_flagos(names)
        return await self._engine.write(self._questions.timed(index))


async def _write_all(engine: EmbeddedEngine, questions: Questions) -> list[Written]:
    return [await engine.write(generation, probabilities=True) for generation in questions.compared()]


def _fault(native: Written, ours: Written, bound: float) -> tuple[str, float]:
    """What differs too much between two answers, and by how much their log-probabilities differ."""
    if ours.broken:
        return f"wrong: forbidden token at {len(ours.tokens) + 1}", float("inf")
    if native.tokens != ours.tokens:
        pairs = itertools.zip_longest(native.tokens, ours.tokens)
        place = next(place for place, (one, other) in enumerate(pairs, 1) if one != other)
        return f"wrong: other token at {place}", float("inf")
    differences = [abs(one - other) for one, other in zip(native.probabilities, ours.probabilities, strict=True)]
    difference = max(differences, default=0.0)
    if not difference <= bound:  # So that NaN is a fault, too.
        return f"wrong: log-probability off by {difference:.3g}", difference
    return "", difference


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
        say(f"Looking which of {len(state.candidates)} operators the model calls ...")
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
        say(f"  {kept[0].name} is dropped.")
        kept = kept[1:]
    return [], verdicts


def choose_way(*ways: Sequence[float]) -> tuple[bool, bool]:
    """Whether FlagGems is used, and whether with CUDA graphs, from the times of whole answers.

    :param ways: native, FlagGems eagerly, FlagGems with graphs, native again; empty: it did not work, or not rightly.
    """
    before, eager, graphs, after = (median(times) if times else math.inf for times in ways)
    best, native = min(eager, graphs), min(before, after)
    return best <= native, best <= native and graphs < eager


def table(verdicts: Sequence[OperatorVerdict]) -> str:
    """The verdicts for people."""
    lines = [("operator", "log-prob. off", "prefill", "decode", "total", "95 % interval", "")]
    for verdict in verdicts:
        difference = "" if verdict.fault.startswith("crash") else f"{verdict.difference:.3g}"
        times = [f"x{ratio:.3f}" if not verdict.fault else "" for ratio in (verdict.prefill, verdict.decode, verdict.total)]
        interval = "" if verdict.fault else f"{verdict.low:.3f} to {verdict.high:.3f}"
        lines.append((verdict.name, difference, times[0], times[1], times[2], interval, verdict.word))
    widths = [max(len(line[column]) for line in lines) for column in range(7)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


async def tune(options: EngineOptions, settings: Settings, say: Say) -> Tuned:
    """Measure, and write the tune file.

    :raises RoboBrainError: it cannot be measured here; the message says why.
    """
    options.validate()
    # vLLM is imported before an engine starts, which would tell it so.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", options.log_level.upper())
    refuse_where_impossible(options)
    checkpoint = await asyncio.to_thread(find_checkpoint, options, lambda progress: None)
    key = await asyncio.to_thread(flagos_tuning.key_of, options, checkpoint)
    path = flagos_tuning.tune_file(options)
    state_path = path.with_name(f"{path.name}.state")
    state = State.resume(state_path, key, settings, _candidates(options))
    if state.called:
        say(f"Going on with an interrupted run: {len(state.verdicts)} of {len(state.called)} operators are measured.")

    def questions(info: EngineInfo) -> Questions:
        profile = profile_for(info.model_type)
        return Questions(settings, profile, PixelBudget.within(options.max_pixels, info.min_pixels, info.max_pixels, info.cell))

    def engine(choice: Choice) -> EmbeddedEngine:
        return EmbeddedEngine(options, choice=choice)

    tuner = Tuner(engine, questions, settings, say)
    try:
        await tuner.start()
        operators, verdicts = await measure(tuner, state, state_path, settings, say)
    finally:
        await tuner.close()
    graphs = False
    if operators and graphs_are_possible(options):
        use, graphs = await _with_graphs(engine, questions, operators, settings, say)
        operators = operators if use else []
    tuned = Tuned(key, tuple(operators), graphs, [{**asdict(verdict), "word": verdict.word} for verdict in verdicts])
    flagos_tuning.write(path, tuned)
    state_path.unlink(missing_ok=True)
    say(f"\n{table(verdicts)}\n")
    how = "with CUDA graphs" if graphs else "eagerly"
    say(f"flagos.mode auto will use {', '.join(operators)}, {how}." if operators else "flagos.mode auto will use none.")
    say(f"Written to {path}.")
    return tuned


def _candidates(options: EngineOptions) -> list[str]:
    known = sorted(known_operators())
    named = options.flagos_include or [name for name in known if name not in LEFT_OUT]
    return [name for name in named if name not in options.flagos_exclude]


async def _with_graphs(
    make_engine: EngineMaker, questions: Callable[[EngineInfo], Questions], operators: Sequence[str], settings: Settings, say: Say
) -> tuple[bool, bool]:
    """Measure whole engines, as they would run: native with CUDA graphs, FlagGems without and with them, and native once more.

    Two starts of one and the same engine differ, by a tenth on an H100: FlagGems has to be as fast as the faster native one.
    """
    ways = {
        "native with CUDA graphs": Choice(False, "tune_flagos measures."),
        "FlagGems, eager": Choice(True, "tune_flagos measures.", tuple(operators)),
        "FlagGems with CUDA graphs": Choice(True, "tune_flagos measures.", tuple(operators), graphs=True),
        "native once more": Choice(False, "tune_flagos measures."),
    }
    times: list[list[float]] = []
    native: list[Written] = []
    for title, choice in ways.items():
        engine = make_engine(choice)
        try:
            asked = questions(await engine.start(lambda progress: None))
            answers = await _write_all(engine, asked)
            native = native or answers
            wrong = [
                fault for one, other in zip(native, answers, strict=True) if (fault := _fault(one, other, settings.bound)[0])
            ]
            written = [await engine.write(asked.timed(index)) for index in range(2 * settings.pairs)]
            times.append([] if wrong else [one.total for one in written])
            say(f"{title}: {median(one.total for one in written) * 1000:.1f} ms{', ' + wrong[0] if wrong else ''}")
        except RoboBrainError as error:
            if not native:
                raise
            times.append([])
            say(f"{title}: {error.message}")
        finally:
            await engine.close()
    return choose_way(*times)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="tune_flagos", description="Choose FlagGems' operators by measurement, on this machine."
    )
    parser.add_argument(
        "--model", default=str(DEMO_MODEL), help="a folder, or a name on the hub (default: the tabletop demo model)"
    )
    parser.add_argument("--include", nargs="+", default=[], metavar="OPERATOR", help="measure only these operators")
    parser.add_argument("--exclude", nargs="+", default=[], metavar="OPERATOR", help="measure all but these")
    parser.add_argument("--tune-file", default="", help="file to write (default: where flagos.mode auto looks)")
    parser.add_argument("--pairs", type=int, default=Settings.pairs, help="times that each is timed (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=Settings.scenes, help="tabletop scenes (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=Settings.tokens, help="length of the answers (default: %(default)s)")
    parser.add_argument("--size", type=parse_size, default=parse_size("640x480"), help="of the images (default: 640x480)")
    parser.add_argument("--bound", type=float, default=Settings.bound, help="of log-probabilities (default: %(default)s)")
    parser.add_argument(
        "--engine", type=engine_option, action="append", default=[], metavar="NAME=VALUE", help="an option of the engine"
    )
    parser.add_argument("--list", action="store_true", help="say which operators the installed FlagGems has, and end")
    options = parser.parse_args(arguments)
    if min(options.pairs, options.scenes) < 1 or options.tokens < 2:
        parser.error("--pairs and --scenes must be at least 1, --tokens at least 2")
    return options


def engine_option(text: str) -> tuple[str, Any]:
    """``NAME=VALUE`` of the command line, one of the engine's options; the value is YAML."""
    import yaml

    name, separator, value = text.partition("=")
    own = name == "model" or (name.startswith("flagos_") and name != "flagos_platform")
    if not separator or name not in EngineOptions.__dataclass_fields__ or own:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE with the name of an engine option")
    return name, yaml.safe_load(value)


def main() -> None:
    """Tune as the command line says; what cannot be done is one sentence."""
    given = parse_options()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if given.list:
        print("\n".join(sorted(known_operators())) or "FlagGems is not installed in this Python.")
        return
    options = EngineOptions(
        model=given.model,
        flagos_mode="on",
        flagos_include=tuple(given.include),
        flagos_exclude=tuple(given.exclude),
        flagos_tune_file=given.tune_file,
    )
    settings = Settings(given.pairs, given.scenes, given.tokens, given.size[1][0], given.bound)
    try:
        options = replace(options, **dict(given.engine))
        asyncio.run(tune(options, settings, lambda line: print(line, flush=True)))
    except RoboBrainError as error:
        sys.exit(error.message)
    except KeyboardInterrupt:
        sys.exit("Interrupted; what was measured is kept, and the same command goes on from there.")


if __name__ == "__main__":
    main()
