"""The report of check_consistency: the scores of two engines beside the published ones."""

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev
from typing import Any

from robobrain_ros.evaluation.benchmarks import Result
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
"""Scores of RoboBrain2.0-32B on an H100, CUDA and FlagOS, with thinking and without: its card at FlagRelease."""


@dataclass(frozen=True)
class Cell:
    """A share or a mean; the interval is None for means of what has no bounds."""

    value: float
    count: int
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" ({100 * self.low:.1f} to {100 * self.high:.1f})"
        return f"{100 * self.value:.2f}{interval}"


@dataclass
class Column:
    """The answers of one engine, by set of questions, with or without thinking, and measure."""

    title: str
    cells: dict[tuple[str, bool, str], Cell] = field(default_factory=dict)
    results: dict[tuple[str, bool], dict[str, Result]] = field(default_factory=dict)


def cell_of(results: Sequence[Result]) -> Cell:
    """The mean score, with Wilson's interval: for scores between 0 and 1 it is rather too wide."""
    value = mean(result.score for result in results)
    return Cell(value, len(results), *wilson(value * len(results), len(results)))


def difference(one: dict[str, Result], other: dict[str, Result]) -> str:
    """Mean of the differences, question by question, with a 95 % interval, and how many answers are the same to the letter."""
    changes = [100 * (other[identity].score - one[identity].score) for identity in one]
    same = sum(other[identity].said == one[identity].said for identity in one)
    half = 1.96 * stdev(changes) / math.sqrt(len(changes)) if len(changes) > 1 else math.nan
    return f"{mean(changes):+.2f} ± {half:.2f}, {same} of {len(changes)} answers the same"


def published(name: str, think: bool) -> str:
    """What RoboBrain2.0-32B reached on the benchmark; empty: it is none of those."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    found = next((scores for known, scores in PUBLISHED.items() if plain in (known, f"{known}bench")), None)
    return "" if found is None else "{:.2f} -> {:.2f}".format(*found[0 if think else 1])


def table(native: Column, flagos: Column) -> str:
    """Both columns, and the published one, for people. Figures in percent."""
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
    """The options, and each column with its answers, as they stand in the JSON file."""
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
