"""The comparison of complete engines, and the measurement of shape classes by calls to a worker, with scripted times."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from shape_entries import GPU, entry

from robobrain_ros.cli import engine_comparison as comparison
from robobrain_ros.cli import shape_tuner, tune_flagos, tuning_run
from robobrain_ros.cli.budget import Budget
from robobrain_ros.cli.engine_comparison import AnswerTimes
from robobrain_ros.cli.operator_tuner import Settings
from robobrain_ros.cli.operator_verdicts import find_gross_fault
from robobrain_ros.cli.shape_tuner import MeasuredShapes, ShapeTuner
from robobrain_ros.cli.tuning_run import Outcome, TuningRun
from robobrain_ros.cli.whole_engines import Combination, Result, Side, WholeEngines
from robobrain_ros.engine.embedded.measuring import MeasuredGeneration
from robobrain_ros.engine.flagos.by_shape import own_table, table
from robobrain_ros.engine.flagos.by_shape.shape_measurement import CountedShape, MeasuredShape, ShapeRequest, WorkerShapes
from robobrain_ros.engine.flagos.by_shape.table import AUTOTUNED, ShapeClass, ShapeEntry, ShapeTable, Weights
from robobrain_ros.engine.flagos.decision import Measurable
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError, EngineFailedError


class Clock:
    """A clock that the measurements move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_budget_counts_down_and_lines_show_it() -> None:
    clock, lines = Clock(), list[str]()
    budget = Budget(360.0, clock)
    clock.now = 85.4
    budget.reporter(lines.append)("half way")
    assert lines == ["[  85 s,  275 s left] half way"]
    assert budget.has(274.0)
    assert not budget.has(275.0)
    clock.now = 400.0
    budget.reporter(lines.append)("late")
    assert lines[-1] == "[ 400 s,    0 s left] late"


def answer(*tokens: int, at: float = -1.0, broken: bool = False) -> MeasuredGeneration:
    return MeasuredGeneration(tokens, (at,) * len(tokens), 0.1, 1.0, broken)


@pytest.mark.parametrize(
    ("native", "ours", "fault"),
    [
        (answer(1, 2), answer(1, 2), ""),
        (answer(1, 2, 3), answer(1, 9, 8), ""),
        (answer(1, 2), answer(1, 2, at=-1.3), "wrong: log-probability off by 0.3"),
        (answer(1, 2), answer(7, 8, at=-1.3), "wrong: log-probability off by 0.3"),
        (answer(1, 2), answer(1, at=float("nan")), "wrong: log-probability off by nan"),
        (answer(1, 2), answer(1, broken=True), "wrong: forbidden token at 2"),
        (answer(1, broken=True), answer(1, broken=True), ""),
    ],
)
def test_answers_may_differ_where_rounding_decides(native: MeasuredGeneration, ours: MeasuredGeneration, fault: str) -> None:
    assert find_gross_fault(native, ours, 0.1)[0] == fault


class FakeEngine:
    def __init__(self) -> None:
        self.closed = False
        self.used: list[Sequence[str]] = []

    async def use_flagos(self, names: Sequence[str]) -> None:
        self.used.append(tuple(names))

    async def close(self) -> None:
        self.closed = True


class FakeSide(Side):
    """An engine whose answers take scripted seconds. Each answer moves the clock."""

    def __init__(
        self, name: str, clock: Clock, log: list[str], seconds: Callable[["FakeSide"], float], tokens: tuple[int, ...] = (1, 2)
    ) -> None:
        engine: Any = FakeEngine()
        questions: Any = None
        super().__init__(engine, questions, ())
        self.name, self.clock, self.log, self.seconds, self.tokens = name, clock, log, seconds, tokens

    @property
    def operators(self) -> tuple[str, ...]:
        return tuple(self._operators or ())

    async def answers(self) -> list[MeasuredGeneration]:
        return [answer(*self.tokens, at=-1.0 if self.tokens == (1, 2) else -2.0)]

    async def one(self, index: int) -> AnswerTimes:
        self.log.append(self.name)
        seconds = self.seconds(self)
        self.clock.now += seconds
        return AnswerTimes(0.1, seconds)

    async def at_once(self, index: int) -> AnswerTimes:
        self.log.append(f"{self.name} 8")
        self.clock.now += 8.0 * self.seconds(self)
        return AnswerTimes(0.1, 8.0 * self.seconds(self))


TABLE = ShapeTable(GPU, "2", "3", (entry(),))


class Comparison:
    """A comparison with scripted engines.

    :param tuned: the seconds of the tuned engine's answer. A native one takes 1 s.
    """

    def __init__(self, tuned: Callable[[FakeSide], float], seconds: float = 3600.0, tokens: tuple[int, ...] = (1, 2)) -> None:
        self.clock, self.log, self.lines = Clock(), list[str](), list[str]()
        self.budget = Budget(seconds, self.clock)
        self.native = FakeSide("A", self.clock, self.log, lambda side: 1.0)
        self.tuned = FakeSide("B", self.clock, self.log, tuned, tokens)
        self.engines = WholeEngines([answer(1, 2)], Settings(), self.budget, self.lines.append)

    def together(self, combination: Combination) -> Result:
        asyncio.run(self.tuned.use(combination.operators))
        return asyncio.run(self.engines.together(self.native, self.tuned, combination))


def test_a_faster_combination_is_kept_after_pairs_in_the_order_a_b_b_a() -> None:
    run = Comparison(lambda side: 0.9)
    wanted = Combination(("silu",), TABLE)
    result = run.together(wanted)
    assert result.kept == wanted
    assert [verdict.word for verdict in result.verdicts] == ["not slower", "not slower"]
    assert run.log[:8] == ["A", "B", "B", "A", "A", "B", "B", "A"]
    assert len(run.log) == 2 * 8 + 2 * 8, "the interval is narrow after the fewest pairs"
    assert run.log[-1] == "A 8"
    assert result.verdicts[0].total == pytest.approx(1 / 0.9)
    assert "1 request: not slower, 1.111 times the native speed" in run.lines[0]


def test_without_slow_operators_the_table_is_measured_again_and_kept() -> None:
    run = Comparison(lambda side: 1.1 if side.operators else 0.9)
    result = run.together(Combination(("silu",), TABLE))
    assert result.kept == Combination((), TABLE)
    assert [verdict.word for verdict in result.verdicts] == ["slower", "slower", "not slower", "not slower"]


@pytest.mark.parametrize("wanted", [Combination(("silu",)), Combination((), TABLE), Combination(("silu",), TABLE)])
def test_a_slower_combination_is_not_kept(wanted: Combination) -> None:
    result = Comparison(lambda side: 1.1).together(wanted)
    assert result.kept.empty
    assert {verdict.word for verdict in result.verdicts} == {"slower"}


def test_a_wrong_combination_is_not_kept_and_not_timed() -> None:
    run = Comparison(lambda side: 0.5, tokens=(7, 8))
    result = run.together(Combination((), TABLE))
    assert result.kept.empty
    assert result.verdicts[0].word == "wrong: log-probability off by 1"
    assert run.log == []


def test_wide_intervals_are_measured_until_the_time_limit_and_named() -> None:
    speeds = iter([0.8, 1.0] * 1000)
    run = Comparison(lambda side: next(speeds), seconds=60.0)
    run.together(Combination((), TABLE))
    assert run.budget.left < 20.0
    assert "the limit was reached before the interval was narrower than 2%" in run.lines[0]
    assert comparison.width([(AnswerTimes(0.1, 1.0), AnswerTimes(0.1, 1.0))] * 7) == float("inf"), "too few pairs"


def test_engines_that_do_not_fit_together_are_started_in_turns() -> None:
    run = Comparison(lambda side: 0.9)
    started: list[FakeSide] = []

    async def start_tuned(combination: Combination) -> Side:
        started.append(FakeSide("B", run.clock, run.log, lambda side: 0.9))
        return started[-1]

    async def start_native() -> Side:
        started.append(FakeSide("A", run.clock, run.log, lambda side: 1.0))
        return started[-1]

    wanted = Combination((), TABLE)
    result = asyncio.run(run.engines.in_turns(run.native, start_tuned, start_native, wanted))
    assert [side.name for side in started] == ["B", "B", "A"]
    engines: list[Any] = [run.native.engine, *(side.engine for side in started)]
    assert all(engine.closed for engine in engines)
    assert result.kept == wanted
    assert result.verdicts[0].total == pytest.approx(1 / 0.9)
    order = [name for name, before in zip(run.log, ["", *run.log], strict=False) if name != before and "8" not in name]
    assert order == ["A", "B", "B", "A"], "eight answers at once separate two starts"


def test_a_wrong_engine_in_turns_ends_the_comparison() -> None:
    run = Comparison(lambda side: 0.9)
    wrong = FakeSide("B", run.clock, run.log, lambda side: 0.9, tokens=(7, 8))

    async def start_tuned(combination: Combination) -> Side:
        return wrong

    async def start_native() -> Side:
        raise AssertionError("not needed")

    result = asyncio.run(run.engines.in_turns(run.native, start_tuned, start_native, Combination((), TABLE)))
    assert result.kept.empty
    assert result.shapes_judged, "the shape classes alone are wrong"
    engine: Any = wrong.engine
    assert engine.closed


@pytest.mark.parametrize(
    ("wanted", "judged"),
    [(Combination(("silu",)), True), (Combination((), TABLE), True), (Combination(("silu",), TABLE), False)],
)
@pytest.mark.parametrize("tokens", [(1, 2), (7, 8)])
def test_in_turns_a_slower_or_wrong_selection_judges_shapes_only_without_operators(
    wanted: Combination, judged: bool, tokens: tuple[int, ...]
) -> None:
    run = Comparison(lambda side: 1.1)

    async def start_tuned(combination: Combination) -> Side:
        return FakeSide("B", run.clock, run.log, lambda side: 1.1, tokens)

    async def start_native() -> Side:
        return FakeSide("A", run.clock, run.log, lambda side: 1.0)

    result = asyncio.run(run.engines.in_turns(run.native, start_tuned, start_native, wanted))
    assert result.kept.empty
    assert result.shapes_judged == judged


class ComparedRun:
    """A run that compares complete engines in turns, after the last measurement has left an operator in use.

    :param start: starts the tuned engine.
    """

    def __init__(self, patch: pytest.MonkeyPatch, start: Callable[[], Side]) -> None:
        clock, log = Clock(), list[str]()
        self.used_at_answers: list[Sequence[str]] = []
        self.engine: Any = FakeEngine()
        self.engine.used.append(("silu",))

        def native(engine: Any, questions: Any, operators: Sequence[str] | None) -> Side:
            side = FakeSide("A", clock, log, self._seconds)
            side.engine, side._operators = engine, operators
            return side

        async def tuned(wanted: Combination) -> Side:
            return start()

        async def another_native() -> Side:
            return FakeSide("A", clock, log, lambda side: 1.0)

        patch.setattr(tuning_run, "Side", native)
        patch.setattr(tuning_run, "_Starter", lambda *given: SimpleNamespace(tuned=tuned, native=another_native))
        self.said: list[str] = []
        options = EngineOptions.of(model="some/model")
        self.run = TuningRun(options, Settings(), Measurable("", "", True), Budget(3600.0, clock), self.said.append)

    def _seconds(self, side: FakeSide) -> float:
        self.used_at_answers.append(self.engine.used[-1])
        return 1.0

    def compare(self, wanted: Combination) -> Result:
        tuner: Any = SimpleNamespace(engine=self.engine, questions=None, native_answers=[answer(1, 2)])
        return asyncio.run(self.run._compare(tuner, wanted))


def tuned_side() -> Side:
    return FakeSide("B", Clock(), [], lambda side: 0.9)


def test_the_native_engine_of_a_comparison_in_turns_uses_no_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = ComparedRun(monkeypatch, tuned_side)
    wanted = Combination(("silu",), TABLE)
    assert compared.compare(wanted).kept == wanted
    assert compared.used_at_answers
    assert set(compared.used_at_answers) == {()}


@pytest.mark.parametrize(
    "error", [EngineFailedError("The process ended."), tuning_run.TableNotUsedError("The engine does not use the table.")]
)
@pytest.mark.parametrize(("wanted", "judged"), [(Combination((), TABLE), False), (Combination(("silu",)), True)])
def test_an_engine_that_fails_does_not_judge_its_shape_classes(
    monkeypatch: pytest.MonkeyPatch, error: Exception, wanted: Combination, judged: bool
) -> None:
    def fail() -> Side:
        raise error

    compared = ComparedRun(monkeypatch, fail)
    result = compared.compare(wanted)
    assert result.kept.empty
    assert result.shapes_judged == judged
    assert str(error) in compared.said[-1]


@pytest.mark.parametrize("judged", [False, True])
def test_only_judged_shape_classes_replace_the_packages_table(tmp_path: Path, judged: bool) -> None:
    tune_file, package, versions = tmp_path / "flagos.json", tmp_path / "package", ("2.11.0", "3.6.0")
    table.write(table.table_file(GPU, package), TABLE)
    weights = (Weights("bfloat16", 32, 48),)
    measured_here = dict(zip(("torch", "triton"), versions, strict=True))
    shapes = MeasuredShapes(ShapeTable(GPU, "2", "3", (entry(),), measured_here, weights))
    said: list[str] = []
    tune_flagos._save_shapes(Outcome(Combination(), shapes, [], judged), tune_file, said.append)

    def found() -> tuple[ShapeEntry, ...]:
        return own_table.entries_for(GPU, versions, "bfloat16", [(32, 48)], own_table.folder_for(tune_file), package).entries

    if judged:
        assert "will use 0 shape classes" in said[-1]
        with pytest.raises(EngineConfigError, match="found no matrix product that is correct and faster"):
            found()
    else:
        assert "The matrix products stay as they are" in said[-1]
        assert found() == TABLE.entries


HEAD, LAYER = ("mm", 64, 4096, 1), ("addmm", 64, 32, 28)


def counted(rows: int, of: tuple[str, int, int, int]) -> CountedShape:
    operator, k, n, count = of
    return CountedShape(ShapeClass(operator, "bfloat16", rows, k, n), count)


class Worker:
    """A worker with scripted measurements. Each moves the clock by one second."""

    def __init__(self, clock: Clock, shapes: Sequence[CountedShape], device: str = "NVIDIA H200") -> None:
        self.clock, self.shapes, self.device = clock, shapes, device
        self.requests: list[ShapeRequest] = []
        self.flag_gems_us = 9.0

    async def call(self, method: str, *values: Any, timeout: float = 60.0) -> list[Any]:
        if method == "shape_classes":
            return [WorkerShapes(self.device, "2.11.0", "3.6.0", tuple(self.shapes)).values]
        assert method == "measure_shape"
        request = ShapeRequest.of(*values)
        assert timeout > request.seconds
        self.requests.append(request)
        self.clock.now += 1.0
        return [self._measured(request).values]

    def _measured(self, request: ShapeRequest) -> MeasuredShape:
        shape = request.shape
        if shape.k * shape.n < 4000 and shape.rows > 1:
            return MeasuredShape(None, 10.0, 10.0, 1.0, 0.9, 1.1, len(request.launches))
        by_gems = request.flag_gems and self.flag_gems_us < 8.0
        implementation, launch = ("flag_gems", AUTOTUNED) if by_gems else ("skinny", request.launches[-1])
        us = self.flag_gems_us if by_gems else 8.0
        made = ShapeEntry(shape.operator, shape.dtype, shape.rows, shape.k, shape.n, implementation, launch, 10.0, us)
        return MeasuredShape(made, 10.0, us, 10.0 / us, 1.0, 2.0, len(request.launches))


def measured(worker: Worker, seconds: float = 1000.0, reserve: float = 0.0, **given: bool) -> tuple[MeasuredShapes, list[str]]:
    lines: list[str] = []
    tuner = ShapeTuner(worker.call, lines.append, flag_gems=given.get("flag_gems", False))
    return asyncio.run(tuner.run(Budget(seconds, worker.clock), reserve)), lines


SHAPES = [counted(rows, of) for rows in (16, 8, 1) for of in (HEAD, LAYER)]


def test_faster_shape_classes_get_entries_and_all_weights_count_as_measured() -> None:
    worker = Worker(Clock(), SHAPES)
    result, lines = measured(worker)
    assert [(request.shape.rows, request.shape.n) for request in worker.requests] == [
        (1, 4096), (1, 32), (8, 4096), (8, 32), (16, 4096), (16, 32),
    ]  # fmt: skip
    assert {(made.rows, made.n) for made in result.table.entries} == {(1, 4096), (8, 4096), (16, 4096), (1, 32)}
    assert {(weights.k, weights.n) for weights in result.table.weights} == {(64, 4096), (64, 32)}
    assert (result.table.device, result.table.torch, result.table.measured["torch"]) == ("NVIDIA H200", "2", "2.11.0")
    assert worker.requests[1].launches[0] == worker.requests[0].launches[-1], "the launch that has won is preferred"
    assert not any(request.neighbours for request in worker.requests), "the package's table has launches for this GPU"
    assert "1 of 6: mm bfloat16 1x64x4096: 8.0 µs, 10.0 µs with PyTorch, 1.250 times the native speed" in lines[1]
    assert len(result.rows) == 6


def test_on_an_unknown_gpu_neighbours_are_tried() -> None:
    worker = Worker(Clock(), SHAPES, "Other GPU")
    measured(worker)
    assert all(request.neighbours for request in worker.requests)


def test_shape_classes_without_time_keep_the_packages_entries() -> None:
    shipped = table.read(table.table_file("NVIDIA H200")).entries
    sizes = [known for known in shipped if known.operator == "mm" and known.dtype == "bfloat16" and known.rows in (1, 8)][:6]
    worker = Worker(Clock(), [CountedShape(known.shape, 1) for known in sizes])
    result, lines = measured(worker, seconds=12.5, reserve=10.0)
    assert len(worker.requests) == 3
    assert len(result.missing) == 3
    assert {known for known in result.table.entries if known in shipped} >= {
        known for known in sizes if CountedShape(known.shape, 1) in result.missing
    }
    assert "No time was left for 3 shape classes" in lines[-1]


@pytest.mark.parametrize(("us", "implementation"), [(7.0, "flag_gems"), (9.0, "skinny")])
def test_flaggems_gets_an_entry_where_it_is_fastest(us: float, implementation: str) -> None:
    worker = Worker(Clock(), [counted(1, HEAD)])
    worker.flag_gems_us = us
    result, lines = measured(worker, flag_gems=True)
    assert [made.implementation for made in result.table.entries] == [implementation]
    assert f"tried for 1 shape classes, and are the fastest for {int(us == 7.0)}" in lines[-1]


def test_flaggems_is_not_tried_without_time_for_its_first_product() -> None:
    worker = Worker(Clock(), [counted(1, HEAD)])
    _, lines = measured(worker, seconds=60.0, flag_gems=True)
    assert len(worker.requests) == 1
    assert "tried for 0 shape classes" in lines[-1]


def test_a_worker_that_does_not_reply_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape_tuner, "_REPLY_TIME", 0.01)

    async def call(method: str, *values: Any, timeout: float = 60.0) -> list[Any]:
        return await asyncio.Event().wait() and []

    worker: Any = Worker(Clock(), [])
    worker.call = call
    with pytest.raises(EngineFailedError, match="did not reply within 0 s"):
        measured(worker)


def test_an_engine_without_shape_classes_is_named() -> None:
    with pytest.raises(EngineConfigError, match="calls no matrix products of at most 16 rows"):
        measured(Worker(Clock(), []))
