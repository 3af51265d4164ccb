"""Decide from measured answers whether an operator of FlagGems is correct and not slower than the native one."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from robobrain_ros.engine.embedded.measuring import MeasuredGeneration


@dataclass(frozen=True)
class OperatorVerdict:
    """The measured comparison of one operator, or of several together, with native operators.

    A ratio is the native time divided by FlagGems' time: above 1, FlagGems is faster. Each ratio is the median of all pairs.

    :param name: name of the operator, or a title for several operators.
    :param fault: the fault in the results, or empty if they are correct.
    :param difference: largest difference of a log-probability.
    :param prefill: ratio of the times to the first token.
    :param decode: ratio of the times from the first token on.
    :param total: ratio of the times of whole answers.
    :param low: lower end of the 95 % interval of ``total``. With few pairs, the confidence is lower.
    :param high: upper end of this interval.
    :param strict: whether operators are kept only if ``total`` is at least 1. Otherwise, they are kept if ``high`` is.
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
        """Whether the results are correct and the measurements do not show that FlagGems is slower."""
        return not self.fault and (self.total if self.strict else self.high) >= 1.0

    @property
    def word(self) -> str:
        """The verdict in one or two words, for the table."""
        return self.fault or ("not slower" if self.kept else "slower")

    @property
    def sentence(self) -> str:
        """The verdict with its numbers, for the progress output."""
        if self.fault:
            return self.fault
        return f"{self.word}, {self.total:.3f} times the native speed ({self.low:.3f} to {self.high:.3f})"


def find_fault(native: MeasuredGeneration, ours: MeasuredGeneration, bound: float) -> tuple[str, float]:
    """Compare two answers.

    :param bound: largest allowed difference of a token's log-probability.
    :returns: the fault in the second answer, empty if there is none, and the largest difference of a log-probability.
    """
    if ours.broken:
        return f"wrong: forbidden token at {len(ours.tokens) + 1}", float("inf")
    if native.tokens != ours.tokens:
        pairs = itertools.zip_longest(native.tokens, ours.tokens)
        place = next(place for place, (one, other) in enumerate(pairs, 1) if one != other)
        return f"wrong: other token at {place}", float("inf")
    differences = [abs(one - other) for one, other in zip(native.probabilities, ours.probabilities, strict=True)]
    difference = max(differences, default=0.0)
    if not difference <= bound:  # This also holds for NaN, in contrast to "difference > bound".
        return f"wrong: log-probability off by {difference:.3g}", difference
    return "", difference


def find_gross_fault(native: MeasuredGeneration, ours: MeasuredGeneration, bound: float) -> tuple[str, float]:
    """Compare answers of two engines whose rounding errors may differ, as with matrix products by shape.

    Where two tokens are about equally probable, rounding decides. Therefore the answers may differ after a token that has about
    the same log-probability in both answers.

    :param bound: largest allowed difference of a token's log-probability, up to and including the first different token.
    :returns: as `find_fault`.
    """
    if ours.broken and not native.broken:
        return f"wrong: forbidden token at {len(ours.tokens) + 1}", float("inf")
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(native.tokens, ours.tokens, strict=False)))
    compared = zip(native.probabilities[: same + 1], ours.probabilities[: same + 1], strict=False)
    difference = max((abs(one - other) for one, other in compared), default=0.0)
    if not difference <= bound:
        return f"wrong: log-probability off by {difference:.3g}", difference
    return "", difference


def table(verdicts: Sequence[OperatorVerdict]) -> str:
    """Return the verdicts as a text table."""
    lines = [("operator", "log-prob. off", "prefill", "decode", "total", "95 % interval", "")]
    for verdict in verdicts:
        difference = "" if verdict.fault.startswith("crash") else f"{verdict.difference:.3g}"
        times = [f"x{ratio:.3f}" if not verdict.fault else "" for ratio in (verdict.prefill, verdict.decode, verdict.total)]
        interval = "" if verdict.fault else f"{verdict.low:.3f} to {verdict.high:.3f}"
        lines.append((verdict.name, difference, times[0], times[1], times[2], interval, verdict.word))
    widths = [max(len(line[column]) for line in lines) for column in range(7)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
