"""Compare the speed of two sets of operators: measure answers alternately, and compute the ratio with its interval."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median

from robobrain_ros.cli.operator_verdicts import OperatorVerdict
from robobrain_ros.engine.base import Generation
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.embedded.measuring import MeasuredGeneration
from robobrain_ros.engine.flagos.intervals import interval_of_median

NARROW = 0.02
"""Width of a ratio's 95 % interval, relative to the ratio, that is sufficient."""
_LEAST_PAIRS = 8
"""Number of pairs before an interval counts as narrow. With six pairs, the interval is that of the extremes."""


@dataclass(frozen=True)
class AnswerTimes:
    """The times of one answer, or of several at once, in seconds.

    :param prefill: until the first token; of several answers, until the last one has its first token.
    :param total: until the last token.
    """

    prefill: float
    total: float

    @property
    def decode(self) -> float:
        """From the first token to the last."""
        return self.total - self.prefill


Measure = Callable[[int], Awaitable[AnswerTimes]]
"""Measures the answers with this number."""
Pair = tuple[AnswerTimes, AnswerTimes]
"""Times with native operators and with those of FlagOS."""


async def alternate(native: Measure, ours: Measure, enough: Callable[[Sequence[Pair]], bool]) -> list[Pair]:
    """Measure pairs in alternating order (A B, B A) until there are enough. A machine that slows down affects both equally."""
    pairs: list[Pair] = []
    while not enough(pairs):
        index = len(pairs)
        if index % 2 == 0:
            theirs, own = await native(index), await ours(index)
        else:
            own, theirs = await ours(index), await native(index)
        pairs.append((theirs, own))
    return pairs


def ratios(pairs: Sequence[Pair]) -> list[float]:
    """Return the native time of whole answers divided by the other time, for each pair."""
    return [theirs.total / own.total for theirs, own in pairs]


def width(pairs: Sequence[Pair]) -> float:
    """Return the width of the 95 % interval of the median ratio, divided by the median; infinite for few pairs."""
    if len(pairs) < _LEAST_PAIRS:
        return float("inf")
    found = ratios(pairs)
    low, high = interval_of_median(found)
    return (high - low) / median(found)


def verdict(title: str, pairs: Sequence[Pair], difference: float = 0.0, *, strict: bool = False) -> OperatorVerdict:
    """Return the comparison of at least one pair. The parameters are those of `OperatorVerdict`."""
    prefill = median(theirs.prefill / own.prefill for theirs, own in pairs)
    decode = median(theirs.decode / own.decode for theirs, own in pairs)
    found = ratios(pairs)
    low, high = interval_of_median(found)
    return OperatorVerdict(title, "", difference, prefill, decode, median(found), low, high, strict)


async def one_answer(engine: EmbeddedEngine, generation: Generation) -> AnswerTimes:
    """Measure one answer."""
    measured = await engine.measure(generation)
    return AnswerTimes(measured.prefill, measured.total)


async def answers_at_once(engine: EmbeddedEngine, generations: Sequence[Generation]) -> AnswerTimes:
    """Measure answers that are requested at the same time."""
    began = time.monotonic()
    measured: list[MeasuredGeneration] = await asyncio.gather(*(engine.measure(generation) for generation in generations))
    return AnswerTimes(max(one.prefill for one in measured), time.monotonic() - began)
