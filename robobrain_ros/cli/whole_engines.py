"""Compare complete engines: native operators, and the operators and matrix products that tune_flagos selected."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from robobrain_ros.cli import engine_comparison as comparison
from robobrain_ros.cli.budget import Budget, Report
from robobrain_ros.cli.engine_comparison import AnswerTimes, Measure, Pair
from robobrain_ros.cli.operator_tuner import Questions, Settings, measure_all
from robobrain_ros.cli.operator_verdicts import OperatorVerdict, find_gross_fault
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.embedded.measuring import MeasuredGeneration
from robobrain_ros.engine.flagos.by_shape.table import ShapeTable

AT_ONCE = 8
"""Number of requests of the second comparison."""
_MOST_PAIRS, _MOST_PAIRS_AT_ONCE = 200, 16
_TIME_AT_ONCE = 20.0
"""Seconds of the budget for the second comparison."""
_VISIT = 12.0
"""Seconds of answers between the start and the end of an engine, if two engines do not fit on the GPU."""
_LEAST_ANSWERS, _MOST_ANSWERS, _ANSWERS_AT_ONCE = 8, 60, 3
"""Numbers of answers in this time."""


@dataclass(frozen=True)
class Combination:
    """What an engine uses of FlagOS.

    :param operators: names of FlagGems' operators.
    :param table: matrix products by shape, or None for none.
    """

    operators: tuple[str, ...] = ()
    table: ShapeTable | None = None

    @property
    def has_entries(self) -> bool:
        """Whether there are matrix products by shape."""
        return self.table is not None and bool(self.table.entries)

    @property
    def empty(self) -> bool:
        """Whether all operators are native."""
        return not self.operators and not self.has_entries

    def measured_with(self, requests: int) -> str:
        """Return the title of a comparison with this number of requests at a time."""
        return f"{self.title}, {requests} request{'s' if requests > 1 else ''}"

    @property
    def title(self) -> str:
        """The combination in a few words."""
        parts = [f"{len(self.operators)} operators"] if self.operators else []
        if self.table is not None and self.has_entries:
            parts.append(f"{len(self.table.entries)} shape classes")
        return " and ".join(parts) or "native operators"


class Side:
    """A started engine that answers questions with certain operators.

    :param operators: FlagGems' operators to use, or None if the engine has not imported FlagGems.
    """

    def __init__(self, engine: EmbeddedEngine, questions: Questions, operators: Sequence[str] | None) -> None:
        self.engine = engine
        self._questions = questions
        self._operators = operators

    async def use(self, operators: Sequence[str]) -> None:
        """Use these operators of FlagGems from now on."""
        if self._operators is not None:
            self._operators = operators
            await self.engine.use_flagos(operators)

    async def answers(self) -> list[MeasuredGeneration]:
        """Return the answers that are compared, after answers that compile kernels and fill caches."""
        await self.use(self._operators or ())
        await measure_all(self.engine, self._questions)
        await self.at_once(0)
        return await measure_all(self.engine, self._questions)

    async def one(self, index: int) -> AnswerTimes:
        """Measure one answer."""
        return await comparison.one_answer(self.engine, self._questions.long(index))

    async def at_once(self, index: int) -> AnswerTimes:
        """Measure several answers that are requested at the same time."""
        generations = [self._questions.long(index * AT_ONCE + each) for each in range(AT_ONCE)]
        return await comparison.answers_at_once(self.engine, generations)


@dataclass(frozen=True)
class Result:
    """The result of a comparison.

    :param kept: the combination that is correct and not slower; may be empty.
    :param verdicts: the comparisons, for the table.
    :param shapes_judged: whether the comparisons decide about the shape classes. They do not if an engine failed, or if the shape
        classes were only measured together with operators and nothing is kept.
    """

    kept: Combination
    verdicts: tuple[OperatorVerdict, ...]
    shapes_judged: bool = True


StartTuned = Callable[[Combination], Awaitable[Side]]
StartNative = Callable[[], Awaitable[Side]]


class WholeEngines:
    """Compares engines within the time limit.

    :param native_answers: the answers of the native engine to the compared questions.
    """

    def __init__(self, native_answers: Sequence[MeasuredGeneration], settings: Settings, budget: Budget, report: Report) -> None:
        self._native_answers = native_answers
        self._settings = settings
        self._budget = budget
        self._report = report

    async def together(self, native: Side, tuned: Side, combination: Combination) -> Result:
        """Compare two engines that are on the GPU at the same time, in the order A B B A.

        If the combination is slower, it is measured again without FlagGems' operators.
        """
        verdicts: list[OperatorVerdict] = []
        while not combination.empty:
            found = await self._compare(native, tuned, combination)
            verdicts += found
            if all(one.kept for one in found):
                break
            if not combination.operators or not combination.has_entries:
                return Result(Combination(), tuple(verdicts))
            combination = replace(combination, operators=())
            self._report(f"Measuring {combination.title} without the operators ...")
            await tuned.use(())
        return Result(combination, tuple(verdicts))

    async def _compare(self, native: Side, tuned: Side, combination: Combination) -> list[OperatorVerdict]:
        title = combination.measured_with(1)
        fault, difference = await self._fault(tuned)
        if fault:
            self._report(f"{title}: {fault}")
            return [OperatorVerdict(title, fault=fault, difference=difference)]
        pairs = await comparison.alternate(native.one, tuned.one, self._enough(_TIME_AT_ONCE, _MOST_PAIRS))
        one = comparison.verdict(title, pairs, difference, strict=True)
        self._tell(one, pairs)
        pairs = await comparison.alternate(native.at_once, tuned.at_once, self._enough(0.0, _MOST_PAIRS_AT_ONCE))
        several = comparison.verdict(combination.measured_with(AT_ONCE), pairs, difference)
        self._tell(several, pairs)
        return [one, several]

    async def _fault(self, tuned: Side) -> tuple[str, float]:
        """Return the fault in the tuned engine's answers, or an empty text; and the largest difference of a log-probability."""
        fault, difference = "", 0.0
        for theirs, own in zip(self._native_answers, await tuned.answers(), strict=True):
            wrong, distance = find_gross_fault(theirs, own, self._settings.bound)
            fault, difference = fault or wrong, max(difference, distance)
        return fault, difference

    def _enough(self, reserve: float, most: int) -> Callable[[Sequence[Pair]], bool]:
        """Return a function that states whether pairs suffice: the interval is narrow, or the time or number is used up."""

        def enough(pairs: Sequence[Pair]) -> bool:
            if not pairs:
                return False
            return len(pairs) >= most or comparison.width(pairs) < comparison.NARROW or not self._budget.has(reserve)

        return enough

    def _tell(self, found: OperatorVerdict, pairs: Sequence[Pair]) -> None:
        width = comparison.width(pairs)
        is_wide = width >= comparison.NARROW
        note = f"; the limit was reached before the interval was narrower than {comparison.NARROW:.0%}" if is_wide else ""
        self._report(f"{found.name}: {found.sentence}, {len(pairs)} pairs{note}")

    async def in_turns(
        self, native: Side, start_tuned: StartTuned, start_native: StartNative, combination: Combination
    ) -> Result:
        """Compare engines that do not fit on the GPU together: native, tuned, tuned, native, each started anew.

        :param native: the native engine that runs now. It is closed.
        """
        visits: list[_Visit] = []
        difference = 0.0
        for order in ("native", "tuned", "tuned", "native"):
            side = native if not visits else await (start_native() if order == "native" else start_tuned(combination))
            try:
                if order == "tuned":
                    fault, difference = await self._fault(side)
                    if fault:
                        self._report(f"{combination.title}: {fault}")
                        verdict = OperatorVerdict(combination.measured_with(1), fault=fault, difference=difference)
                        return self._in_turns(combination, (verdict,))
                elif visits:
                    await side.answers()
                visits.append(await self._visit(side))
            finally:
                await side.engine.close()
            self._report(f"Measured engine {len(visits)} of 4, {order}.")
        return self._result(visits, combination, difference)

    def _result(self, visits: Sequence["_Visit"], combination: Combination, difference: float) -> Result:
        """Compare the first two visits (native, tuned) and the last two (tuned, native)."""
        first, second, third, fourth = visits
        single = [*zip(first.single, second.single, strict=False), *zip(fourth.single, third.single, strict=False)]
        several = [*zip(first.several, second.several, strict=False), *zip(fourth.several, third.several, strict=False)]
        found = (
            comparison.verdict(combination.measured_with(1), single, difference, strict=True),
            comparison.verdict(combination.measured_with(AT_ONCE), several, difference),
        )
        for verdict, pairs in zip(found, (single, several), strict=True):
            self._tell(verdict, pairs)
        return self._in_turns(combination, found)

    def _in_turns(self, combination: Combination, found: tuple[OperatorVerdict, ...]) -> Result:
        if all(one.kept for one in found):
            return Result(combination, found)
        return Result(Combination(), found, shapes_judged=not (combination.operators and combination.has_entries))

    async def _visit(self, side: Side) -> "_Visit":
        end = self._budget.used + _VISIT

        async def measured(measure: Measure, least: int, most: int) -> list[AnswerTimes]:
            times: list[AnswerTimes] = []
            while len(times) < least or (len(times) < most and self._budget.used < end):
                times.append(await measure(len(times)))
            return times

        return _Visit(
            await measured(side.one, _LEAST_ANSWERS, _MOST_ANSWERS),
            await measured(side.at_once, _ANSWERS_AT_ONCE, _ANSWERS_AT_ONCE),
        )


@dataclass(frozen=True)
class _Visit:
    """The measurements of one engine between its start and its end."""

    single: list[AnswerTimes]
    several: list[AnswerTimes]
