"""Choice of operators by measurement: with the stand-in for FlagGems in a real engine, and the decisions alone."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from flagos_rig import stand_in
from random_checkpoint import make_random_checkpoint

from robobrain_ros.cli import tune_flagos
from robobrain_ros.cli.operator_tuner import Questions, Settings, State, Tuner, measure
from robobrain_ros.cli.operator_verdicts import OperatorVerdict, table
from robobrain_ros.cli.tune_flagos import parse_options, tune
from robobrain_ros.core.imaging import PixelBudget
from robobrain_ros.core.profiles import profile_for
from robobrain_ros.engine.base import DEFAULT_MAX_PIXELS, EngineHealth, EngineInfo, Generation, ProgressCallback
from robobrain_ros.engine.embedded.checkpoint import read_checkpoint
from robobrain_ros.engine.embedded.measuring import MeasuredGeneration
from robobrain_ros.engine.flagos import decision, tune_file
from robobrain_ros.engine.flagos.by_shape import own_table
from robobrain_ros.engine.flagos.choice import Operators
from robobrain_ros.engine.flagos.intervals import interval_of_median
from robobrain_ros.engine.flagos.tune_file import Key
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError, EngineFailedError


@pytest.mark.thorough
@pytest.mark.timeout(900)  # Two engines are started, one after the other.
def test_the_right_and_quick_operator_is_kept_and_auto_uses_it(tmp_path: Path) -> None:
    """One operator is faster than PyTorch's, one is slower, one is wrong, and one ends the engine."""
    model = make_random_checkpoint(tmp_path / "checkpoint")
    behaviour = {"argmax": "native slow", "gelu": "slow", "embedding": "wrong", "gems_silu_and_mul": "crash"}
    options = EngineOptions.of(model=str(model), flagos_mode="on", flagos_tune_file=str(tmp_path / "flagos.json"))
    said: list[str] = []
    with stand_in(tmp_path, behaviour):
        tuned = asyncio.run(tune(options, Settings(pairs=4, scenes=1, tokens=6, size=(224, 224)), said.append, minutes=60.0))
        auto = decision.choose(
            EngineOptions.of(model=str(model), flagos_tune_file=options.flagos.tune_file), read_checkpoint(model, local=True)
        )
    words = {str(row["name"]): str(row["word"]) for row in tuned.table}
    assert words["argmax"] == "not slower"
    assert words["gelu"] == "slower"
    assert words["embedding"].startswith("wrong: ")
    assert words["gems_silu_and_mul"] == "crashes: its process died while it ran"
    assert words[f"{len(tuned.operators)} together"] == "not slower"
    assert tuned.operators[0] == "argmax"
    assert set(tuned.operators) <= {"argmax", "silu"}
    assert (auto.operators, auto.include) == (Operators.OURS, tuned.operators)
    assert any(line.startswith("flagos.mode auto will use argmax") for line in said)
    assert any("Matrix products by shape are not measured: vLLM does not run on an NVIDIA GPU here." in line for line in said)
    assert not (tmp_path / "flagos.json.state").exists()


def test_where_nothing_can_be_measured_the_program_states_the_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision, "installed", lambda: False)
    with pytest.raises(EngineConfigError, match="FlagGems cannot be measured here: flag-gems is not installed") as caught:
        asyncio.run(tune(EngineOptions.of(model=str(tmp_path)), Settings(), print))
    assert "Matrix products by shape cannot be measured here: vLLM does not run on an NVIDIA GPU here." in caught.value.message


@pytest.mark.parametrize(
    ("count", "index"),
    [(1, 0), (4, 0), (6, 0), (10, 1), (20, 5), (100, 39)],
)
def test_the_interval_of_a_median(count: int, index: int) -> None:
    """The expected ranks are those of published tables of the sign test."""
    values = [float(value) for value in range(count)]
    assert interval_of_median(values[::-1]) == (values[index], values[count - 1 - index])


def verdict(name: str, total: float, fault: str = "") -> OperatorVerdict:
    return OperatorVerdict(name, fault, 0.0, total, total, total, total - 0.05, total + 0.05)


class ScriptedTuner(Tuner):
    """A tuner with scripted results: each operator has a speed, and several have their mean. A speed of 0 stops the run."""

    def __init__(self, speeds: dict[str, float]) -> None:
        self.speeds = speeds
        self.crashed: dict[str, str] = {}
        self.judged: list[str] = []

    async def called(self, candidates: object) -> list[str]:
        return sorted(self.speeds)

    async def judge(self, names: object, title: str, pairs: int) -> OperatorVerdict:
        assert isinstance(names, list)
        self.judged.append("+".join(names))
        speeds = [self.speeds[name] for name in names]
        if 0.0 in speeds:
            raise KeyboardInterrupt
        return verdict(title, sum(speeds) / len(speeds))


class AnsweringEngine:
    """An engine that writes two tokens, with or without a constraint. The test defines the effect of the active operators."""

    def __init__(self, effects: dict[str, Callable[[MeasuredGeneration], MeasuredGeneration]]) -> None:
        self.effects = effects
        self.names: Sequence[str] = ()

    async def start(self, progress: ProgressCallback) -> EngineInfo:
        return EngineInfo(model="it", model_type="qwen2_5_vl", engine="a test's", cell=28)

    def health(self) -> EngineHealth:
        return EngineHealth("ready", "")

    async def use_flagos(self, names: Sequence[str]) -> None:
        self.names = names

    async def measure(self, generation: Generation, probabilities: bool = False) -> MeasuredGeneration:
        written = MeasuredGeneration((3, 4), (-0.1, -0.2), 1.0, 2.0)
        for name in self.names if generation.constraint else ():
            written = self.effects[name](written)
        return written


@pytest.mark.parametrize(
    ("effect", "fault"),
    [
        (lambda written: replace(written, tokens=(3,), probabilities=(-0.1,), broken=True), "wrong: forbidden token at 2"),
        (lambda written: replace(written, tokens=(3, 4, 5)), "wrong: other token at 3"),
        (lambda written: replace(written, probabilities=(-0.1, -0.4)), "wrong: log-probability off by 0.2"),
        (lambda written: written, ""),
    ],
)
def test_answers_that_are_held_to_a_form_are_compared_too(
    effect: Callable[[MeasuredGeneration], MeasuredGeneration], fault: str
) -> None:
    settings = Settings(pairs=1, scenes=1, size=(224, 224))
    budget = PixelBudget.within(DEFAULT_MAX_PIXELS, 0, 0, 28)
    made: Any = AnsweringEngine({"argmax": effect})
    tuner = Tuner(lambda choice: made, lambda info: Questions(settings, profile_for("qwen2_5_vl"), budget), settings, print)

    async def judge() -> OperatorVerdict:
        await tuner.start()
        return await tuner.judge(["argmax"], "argmax", 1)

    assert asyncio.run(judge()).fault == fault


KEY = Key("chip", "driver", "model", "settings", "versions")


def resumed(path: Path) -> State:
    return State.resume(path, KEY, Settings(), ["a", "b", "c"])


def test_the_slower_half_is_dropped_until_the_whole_is_not_slower(tmp_path: Path) -> None:
    tuner = ScriptedTuner({"a": 0.96, "b": 1.02, "c": 0.9, "d": 0.97})
    names, verdicts = asyncio.run(measure(tuner, resumed(tmp_path / "state"), tmp_path / "state", Settings(), print))
    # c is certainly slower. Of the others, a and d are dropped at once.
    assert tuner.judged == ["a", "b", "c", "d", "b+d+a", "b"]
    assert names == ["b"]
    assert [(one.name, one.word) for one in verdicts] == [
        ("a", "not slower"), ("b", "not slower"), ("c", "slower"), ("d", "not slower"),
        ("3 together", "slower"), ("1 together", "not slower"),
    ]  # fmt: skip


def test_none_is_used_where_all_together_stay_slower(tmp_path: Path) -> None:
    tuner = ScriptedTuner({"a": 0.96})
    names, verdicts = asyncio.run(measure(tuner, resumed(tmp_path / "state"), tmp_path / "state", Settings(), print))
    assert names == []
    assert [(one.name, one.word) for one in verdicts] == [("a", "not slower"), ("1 together", "slower")]


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(measure(ScriptedTuner({"a": 1.1, "b": 0.0, "c": 1.2}), resumed(path), path, Settings(), print))
    tuner = ScriptedTuner({"a": 1.1, "b": 1.3, "c": 1.2})
    names, _ = asyncio.run(measure(tuner, resumed(path), path, Settings(), print))
    assert tuner.judged == ["b", "c", "b+c+a"]
    assert names == ["a", "b", "c"]


def test_operators_without_time_are_not_used_and_the_same_command_continues(tmp_path: Path) -> None:
    path = tmp_path / "state"
    tuner, said = ScriptedTuner({"a": 1.1, "b": 1.2}), list[str]()
    state = resumed(path)
    names, _ = asyncio.run(measure(tuner, state, path, Settings(), said.append, lambda _: len(tuner.judged) < 1))
    assert tuner.judged == ["a"]
    assert names == [], "the operators were not measured together"
    assert any("No time was left for 1 operators" in line for line in said)
    assert not state.complete
    again = resumed(path)
    names, _ = asyncio.run(measure(tuner, again, path, Settings(), said.append))
    assert tuner.judged == ["a", "b", "b+a"]
    assert names == ["a", "b"]
    assert again.complete


def test_the_next_measurement_must_fit_into_the_remaining_time(tmp_path: Path) -> None:
    """A measurement that begins too late would take the time of the comparison of complete engines."""
    path, asked = tmp_path / "state", list[float]()

    def has_time(seconds: float) -> bool:
        asked.append(seconds)
        return True

    asyncio.run(measure(ScriptedTuner({"a": 1.1, "b": 1.2}), resumed(path), path, Settings(), print, has_time))
    first, second, together = asked
    assert first == 0.0, "no measurement shows yet how long one takes"
    assert 0.0 < second < together


def test_without_candidates_nothing_is_measured(tmp_path: Path) -> None:
    path, said = tmp_path / "state", list[str]()
    tuner = ScriptedTuner({"a": 1.1})
    state = State.resume(path, KEY, Settings(), [])
    assert asyncio.run(measure(tuner, state, path, Settings(), said.append)) == ([], [])
    assert said == ["FlagGems' operators are not measured: no operator is selected."]
    assert state.complete


def test_an_engine_that_fails_without_operators_ends_the_run_with_its_message() -> None:
    class Failing(AnsweringEngine):
        flagos_failure, started = None, False

        async def measure(self, generation: Generation, probabilities: bool = False) -> MeasuredGeneration:
            if self.started:
                raise EngineFailedError("The process ended.")
            return await super().measure(generation, probabilities)

    made: Any = Failing({})
    settings = Settings(pairs=1, scenes=1, size=(224, 224))
    budget = PixelBudget.within(DEFAULT_MAX_PIXELS, 0, 0, 28)
    tuner = Tuner(lambda choice: made, lambda info: Questions(settings, profile_for("qwen2_5_vl"), budget), settings, print)

    async def find() -> list[str]:
        await tuner.start()
        made.started = True
        return await tuner.called([])

    with pytest.raises(EngineFailedError, match=r"^The process ended\.$"):
        asyncio.run(find())


@pytest.mark.parametrize("obstacle", ["the parent is a file", "the tune file is a folder", "the folder of the tables is a file"])
def test_a_file_that_cannot_be_written_ends_the_program_before_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    path = tmp_path / "folder" / "flagos.json"
    if obstacle == "the parent is a file":
        path.parent.touch()
    elif obstacle == "the tune file is a folder":
        path.mkdir(parents=True)
    else:
        path.parent.mkdir()
        own_table.folder_for(path).touch()

    def measurable(options: EngineOptions) -> None:
        raise AssertionError("the file is checked first")

    monkeypatch.setattr(tune_flagos, "measurable", measurable)
    options = EngineOptions.of(model=str(tmp_path), flagos_tune_file=str(path))
    with pytest.raises(EngineConfigError, match=f"The result cannot be written to {path} .* Set another --tune-file"):
        asyncio.run(tune(options, Settings(), print))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"key": 1}', None])
def test_a_state_of_another_measurement_or_a_damaged_one_is_begun_anew(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "state"
    if content is None:
        state = resumed(path)
        state.called = ["a"]
        path.write_text(json.dumps({**asdict(state), "settings": {"pairs": 99}}))
    else:
        path.write_text(content)
    assert resumed(path).called == []


def test_the_table_shows_each_operator_in_one_line() -> None:
    lines = table([verdict("argmax", 1.1), verdict("gelu", 0.5), OperatorVerdict("cat", "wrong: other token at 3")]).splitlines()
    assert len({len(line.rstrip()) <= 100 for line in lines}) == 1
    assert lines[1].split()[0] == "argmax"
    assert lines[1].endswith("not slower")
    assert lines[2].endswith("slower")
    assert lines[3].endswith("wrong: other token at 3")


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    options = parse_options(["--pairs", "3", "--size", "1280x720", "--engine", "max_num_seqs=4"])
    assert (options.pairs, options.size[1], dict(options.engine)) == (3, ((1280, 720),), {"max_num_seqs": 4})
    assert options.minutes == 6.0
    for wrong in (
        ["--pairs", "0"],
        ["--minutes", "0"],
        ["--minutes", "nan"],
        ["--engine", "flagos_mode=off"],
        ["--engine", "nonsense=1"],
    ):
        with pytest.raises(SystemExit):
            parse_options(wrong)
    assert "NAME=VALUE" in capsys.readouterr().err


def test_the_default_file_is_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert tune_file.tune_file(EngineOptions()) == Path("/somewhere/robobrain_ros/flagos.json")
