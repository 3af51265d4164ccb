"""Evaluate measurements: percentiles, ratios with intervals, a table and a JSON file. Does not use ROS."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 4000
"""Number of bootstrap samples for an interval."""

Statistic = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""Reduces the last axis of an array of samples."""


def tell(text: str) -> None:
    """Print progress to the standard error. The standard output is for the table."""
    print(text, file=sys.stderr, flush=True)


def quantile(fraction: float) -> Statistic:
    """Return the statistic for a quantile. 0.5 is the median."""
    return lambda samples: np.asarray(np.quantile(samples, fraction, axis=-1))


def mean(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The mean as a statistic, for quantities that add up."""
    return np.asarray(np.mean(samples, axis=-1))


@dataclass(frozen=True)
class Goal:
    """Goal for a ratio: at most ``limit``, or at least ``limit``."""

    limit: float
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:.2f}"

    def reached(self, ratio: float) -> bool:
        """Return whether a ratio reaches the goal."""
        return ratio >= self.limit if self.at_least else ratio <= self.limit


@dataclass(frozen=True)
class Comparison:
    """One row of the table: ``node`` and ``other`` in ``unit``, their ratio, and its 95 % interval."""

    name: str
    node: float
    other: float
    unit: str
    ratio: float
    low: float
    high: float
    count: int
    goal: Goal | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached. None: there is no goal."""
        return None if self.goal is None else self.goal.reached(self.ratio)


def compare(
    name: str,
    node: Sequence[float],
    other: Sequence[float],
    statistic: Statistic,
    unit: str,
    *,
    goal: Goal | None = None,
    scale: float = 1.0,
    per: float | None = None,
) -> Comparison:
    """Compare paired measurements by a statistic of each side. The bootstrap resamples pairs.

    :param scale: factor for the values in the table, such as 1000 for milliseconds.
    :param per: compare rates: the number of things that were done in each measured time. None: compare the values.
    :raises ValueError: the numbers of measurements differ or are 0, or a measurement is not positive.
    """
    if len(node) != len(other) or not len(node):
        raise ValueError(f"{name}: {len(node)} and {len(other)} measurements; the numbers must be equal and at least 1.")
    ours, theirs = np.asarray(node, np.float64), np.asarray(other, np.float64)
    if not (ours.min() > 0.0 and theirs.min() > 0.0):
        raise ValueError(f"{name}: a measurement is 0 or less, so there is no ratio.")

    def value(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        made = statistic(samples)
        return made if per is None else per / made

    ratio = float(value(ours) / value(theirs))
    # With a fixed seed, the same measurements give the same interval.
    chosen = np.random.default_rng(0).integers(0, len(ours), (RESAMPLES, len(ours)))
    ratios = value(ours[chosen]) / value(theirs[chosen])
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Comparison(
        name, float(value(ours)) * scale, float(value(theirs)) * scale, unit, ratio, float(low), float(high), len(ours), goal
    )


_GOALS = ("goal", "reached")


def table(comparisons: Sequence[Comparison], sides: tuple[str, str] = ("node", "compared")) -> str:
    """Return the comparisons as a table in Markdown. If there are no goals, it has no columns for goals.

    :param sides: titles of the two columns with the measured values.
    """
    head = ("measured", *sides, "unit", "ratio", "95 % interval", *_GOALS, "n")
    rows = [head, *(_cells(comparison) for comparison in comparisons)]
    if not any(comparison.goal for comparison in comparisons):
        rows = [tuple(cell for name, cell in zip(head, row, strict=True) if name not in _GOALS) for row in rows]
    return plain_table(rows)


def plain_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a table in Markdown with aligned columns. The first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _cells(comparison: Comparison) -> tuple[str, ...]:
    reached = {None: "", True: "yes", False: "no"}[comparison.reached]
    return (
        comparison.name,
        _number(comparison.node),
        _number(comparison.other),
        comparison.unit,
        f"{comparison.ratio:.3f}",
        f"{comparison.low:.3f} – {comparison.high:.3f}",
        "" if comparison.goal is None else str(comparison.goal),
        reached,
        str(comparison.count),
    )


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def write(path: Path, comparisons: Sequence[Comparison], samples: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write a JSON file with the rows of the table, all measurements, and the machine and command."""
    lines = [{**asdict(line), "goal": str(line.goal) if line.goal else None, "reached": line.reached} for line in comparisons]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"about": dict(about), "results": lines, "samples": dict(samples)}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
