"""Intervals of medians and of ratios, without assumptions about the distribution."""

from collections.abc import Sequence


def interval_of_median(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return two of the values. The true median lies between them with this confidence, by the binomial distribution.

    If there are too few values for this confidence, return the smallest and the largest value.
    """
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
