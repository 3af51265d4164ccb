"""The report of check_consistency: the scores of two engines, and published scores."""

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev
from typing import Any

from robobrain_ros.evaluation.benchmarks import ItemResult
from robobrain_ros.evaluation.metrics import wilson

PUBLISHED = {
    "where2place": ((69.58, 70.25), (73.59, 72.58)),
    "blink": ((72.83, 70.52), (68.35, 71.68)),
    "cvbench": ((83.19, 83.27), (83.92, 84.19)),
    "robospatialhome": ((68.77, 71.46), (72.43, 71.17)),
    "embspatialbench": ((74.31, 73.65), (78.57, 78.38)),
    "allangles": ((50.84, 49.44), (50.14, 49.62)),
    "vsibench": ((42.69, 40.43), (39.82, 39.72)),
    "sat": ((86.67, 85.33), (76.67, 75.33)),
    "egoplanbench2": ((51.78, 48.83), (57.23, 56.93)),
    "erqa": ((44.50, 43.00), (40.25, 42.00)),
}
"""Published scores in percent of RoboBrain2.0-32B on an H100, from its model card at FlagRelease. Each benchmark has the scores
(CUDA, FlagOS) with thinking, and the scores (CUDA, FlagOS) without thinking."""


@dataclass(frozen=True)
class Cell:
    """A score: a share or a mean of ``count`` values. ``low`` and ``high`` are its 95 % interval, or None if it is unknown."""

    value: float
    count: int
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" ({100 * self.low:.1f} to {100 * self.high:.1f})"
        return f"{100 * self.value:.2f}{interval}"


@dataclass
class Column:
    """The scores and answers of one engine.

    :param title: heading of the column.
    :param cells: scores by the key (questions, with thinking, measure).
    :param results: answers by the key (questions, with thinking), and then by the id of the question.
    """

    title: str
    cells: dict[tuple[str, bool, str], Cell] = field(default_factory=dict)
    results: dict[tuple[str, bool], dict[str, ItemResult]] = field(default_factory=dict)


def cell_of(results: Sequence[ItemResult]) -> Cell:
    """Return the mean score with Wilson's interval. For scores between 0 and 1, the interval is wider than necessary."""
    value = mean(result.score for result in results)
    return Cell(value, len(results), *wilson(value * len(results), len(results)))


def difference(one: dict[str, ItemResult], other: dict[str, ItemResult]) -> str:
    """Return a text with the mean difference of scores of the same question, and the number of identical answers.

    The difference is in percentage points, with a 95 % interval.
    """
    changes = [100 * (other[identity].score - one[identity].score) for identity in one]
    same = sum(other[identity].text == one[identity].text for identity in one)
    half = 1.96 * stdev(changes) / math.sqrt(len(changes)) if len(changes) > 1 else math.nan
    return f"{mean(changes):+.2f} ± {half:.2f}, {same} of {len(changes)} answers the same"


def published(name: str, think: bool) -> str:
    """Return the published scores of RoboBrain2.0-32B on a benchmark as text, or an empty string if none are known."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    found = next((scores for known, scores in PUBLISHED.items() if plain in (known, f"{known}bench")), None)
    return "" if found is None else "{:.2f} -> {:.2f}".format(*found[0 if think else 1])


def table(native: Column, flagos: Column) -> str:
    """Return the scores of both engines and the published scores as a text table, in percent."""
    lines = [
        ("questions (figures in percent)", "of", native.title, flagos.title, "published: 32B, CUDA -> FlagOS", "FlagOS - native")
    ]
    for key, cell in native.cells.items():
        name, think, measure = key
        other = flagos.cells.get(key)
        title = f"{name}{', thinking' if think else ''}: {measure}"
        both = (name, think) in native.results and (name, think) in flagos.results
        apart = difference(native.results[name, think], flagos.results[name, think]) if both else ""
        lines.append((title, str(cell.count), str(cell), str(other or ""), published(name, think), apart))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def as_json(options: argparse.Namespace, columns: Sequence[Column]) -> dict[str, Any]:
    """Return the content of the JSON file: the model, and the scores and answers of each engine."""
    return {
        "model": options.model,
        "columns": [
            {
                "title": column.title,
                "cells": [
                    {"questions": name, "think": think, "measure": measure, **asdict(cell)}
                    for (name, think, measure), cell in column.cells.items()
                ],
                "answers": [
                    {"questions": name, "think": think, "id": identity, **asdict(result)}
                    for (name, think), results in column.results.items()
                    for identity, result in results.items()
                ],
            }
            for column in columns
        ],
    }
