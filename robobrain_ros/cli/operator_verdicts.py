"""Whether an operator of FlagGems gives the native results and is not slower, from measured answers."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from robobrain_ros.engine.embedded.measuring import Measured


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
        return f"{self.word}, {self.total:.3f} times the native speed ({self.low:.3f} to {self.high:.3f})"


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


def find_fault(native: Measured, ours: Measured, bound: float) -> tuple[str, float]:
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
