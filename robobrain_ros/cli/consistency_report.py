"""The report of check_consistency: the scores of engines, also on other grids, and published scores."""

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev
from typing import Any

from robobrain_ros.evaluation.benchmarks import Benchmark, ItemResult
from robobrain_ros.evaluation.metrics import wilson
from robobrain_ros.evaluation.scoring import total

_Pairs = tuple[tuple[float, float] | None, tuple[float, float] | None]
_OF_2_0_32B: Mapping[str, _Pairs] = {
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
"""RoboBrain2.0-32B on an H100."""
_OF_2_5_8B: Mapping[str, _Pairs] = {
    "where2place": (None, (1.22, 0.11)),
    "blink": (None, (78.18, 77.6)),
    "cvbench": (None, (87.49, 86.47)),
    "robospatialhome": (None, (49.43, 51.71)),
    "embspatialbench": (None, (75.91, 75.8)),
    "allangles": (None, (48.36, 47.94)),
    "vsibench": (None, (38.34, 37.5)),
    "sat": (None, (69.33, 68.67)),
    "egoplanbench2": (None, (49.05, 48.45)),
    "erqa": (None, (41.25, 38.6)),
    "embodiedverse": (None, (44.32, 44.34)),
}
"""RoboBrain2.5-8B. Where2Place was scored on a wrong grid: others report 66.0 for these weights (arXiv 2606.20905, table 1)."""
PUBLISHED = {"RoboBrain2.0-32B": _OF_2_0_32B, "RoboBrain2.5-8B": _OF_2_5_8B}
"""Published scores in percent from the model cards at FlagRelease. Each benchmark has the scores (CUDA, FlagOS) with thinking,
and the scores (CUDA, FlagOS) without thinking."""
_FLAGEVAL_NAMES: Mapping[str, str] = {
    "blinkvalev": "blink",
    "cvbenchtest": "cvbench",
    "robospatialhomeall": "robospatialhome",
    "vsibenchtiny": "vsibench",
    "embodiedverseopensampled": "embodiedverse",
}
"""The names of FlagEvalMM, with which the model cards name the benchmarks, if they differ."""
_DEFAULT_MODEL = "RoboBrain2.0-32B"


@dataclass(frozen=True)
class Cell:
    """A score: a share or a mean of ``count`` values. ``low`` and ``high`` are its 95 % interval, or None if it is unknown.

    :param grid: name of the grid on which coordinates were read; empty if the answers have no coordinates.
    :param grids: the score with the coordinates read on each grid, by its name.
    """

    value: float
    count: int
    low: float | None = None
    high: float | None = None
    grid: str = ""
    grids: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" ({100 * self.low:.1f} to {100 * self.high:.1f})"
        return f"{100 * self.value:.2f}{interval}"

    @property
    def others(self) -> dict[str, float]:
        """The scores on the other grids."""
        return {name: value for name, value in self.grids.items() if name != self.grid}

    @property
    def better_grid(self) -> str:
        """The grid with the highest score, if it is another one and above the interval of the profile's grid; otherwise empty.

        Without the interval, grids that are nearly equal would differ by chance, such as pixels of 640x480 and of 644x476.
        """
        name = max(self.others, key=lambda name: self.grids[name], default="")
        own = self.grids.get(self.grid, self.value)
        return name if name and self.grids[name] > max(own, own if self.high is None else self.high) else ""


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


def benchmark_cells(benchmark: Benchmark, results: Mapping[str, ItemResult], grid: str) -> dict[str, Cell]:
    """Return the score of a benchmark, and that of its questions with points if there are others too, by measure.

    :param grid: name of the grid of the profile.
    """
    scores = {identity: result.score for identity, result in results.items()}
    value = total(benchmark.items, scores, benchmark.rule)
    # An unreadable answer has no scores on grids, and counts as 0.
    pointed = [item for item in benchmark.items if item.kind == "point" and item.identity in results]
    names = dict.fromkeys(name for item in pointed for name in results[item.identity].grids)
    grids = {name: mean(results[item.identity].grids.get(name, 0.0) for item in pointed) for name in names}
    whole = Cell(value, len(results), *wilson(value * len(results), len(results)))
    if not pointed:
        return {"score": whole}
    points = cell_of([results[item.identity] for item in pointed])
    points = Cell(points.value, points.count, points.low, points.high, grid, grids)
    return {"score": points} if len(pointed) == len(results) else {"score": whole, "points": points}


def difference(one: dict[str, ItemResult], other: dict[str, ItemResult]) -> str:
    """Return a text with the mean difference of scores of the same question, and the number of identical answers.

    The difference is in percentage points, with a 95 % interval.
    """
    changes = [100 * (other[identity].score - one[identity].score) for identity in one]
    same = sum(other[identity].text == one[identity].text for identity in one)
    half = 1.96 * stdev(changes) / math.sqrt(len(changes)) if len(changes) > 1 else math.nan
    return f"{mean(changes):+.2f} ± {half:.2f}, {same} of {len(changes)} answers the same"


def published_model(model: str) -> str:
    """Return the model whose published scores are shown next to those of ``model``."""
    plain = model.lower()
    return next((name for name in PUBLISHED if name.lower() in plain), _DEFAULT_MODEL)


def published(name: str, think: bool, model: str = _DEFAULT_MODEL) -> str:
    """Return the published scores of a model on a benchmark as text, or an empty string if none are known."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    plain = _FLAGEVAL_NAMES.get(plain, plain)
    scores = next((scores for known, scores in PUBLISHED[model].items() if plain in (known, f"{known}bench")), None)
    found = None if scores is None else scores[0 if think else 1]
    return "" if found is None else "{:.2f} -> {:.2f}".format(*found)


def table(native: Column, flagos: Column | None = None, model: str = _DEFAULT_MODEL) -> str:
    """Return the scores of the engines and the published scores as a text table, in percent.

    :param flagos: None: there is only one engine.
    :param model: the model of the published scores.
    """
    head = ["questions (figures in percent)", "of", native.title]
    with_grids = any(cell.grids for cell in native.cells.values())
    head += ["on other grids"] if with_grids else []
    head += [flagos.title] if flagos else []
    head += [f"published: {model}, CUDA -> FlagOS"]
    head += ["FlagOS - native"] if flagos else []
    lines = [head]
    for key, cell in native.cells.items():
        name, think, measure = key
        line = [f"{name}{', thinking' if think else ''}: {measure}", str(cell.count), str(cell)]
        line += [_on_other_grids(cell)] if with_grids else []
        other = flagos.cells.get(key) if flagos else None
        line += [str(other or "")] if flagos else []
        line += [published(name, think, model) if measure == "score" else ""]
        if flagos:
            both = measure == "score" and (name, think) in native.results and (name, think) in flagos.results
            line += [difference(native.results[name, think], flagos.results[name, think]) if both else ""]
        lines.append(line)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def _on_other_grids(cell: Cell) -> str:
    return ", ".join(f"{name}: {100 * value:.2f}" for name, value in cell.others.items())


def grid_warnings(columns: Sequence[Column]) -> list[str]:
    """Return a sentence for each score that is clearly higher on another grid than on that of the profile."""
    return [
        f"{column.title}: {name}{', thinking' if think else ''}: {measure} is {100 * cell.grids[cell.better_grid]:.2f} if the "
        f"coordinates are read as {cell.better_grid}, but {cell.value * 100:.2f} as {cell.grid}, the grid of the profile. "
        "The model probably belongs to another family: see --model-profile."
        for column in columns
        for (name, think, measure), cell in column.cells.items()
        if cell.better_grid
    ]


def as_json(options: argparse.Namespace, columns: Sequence[Column]) -> dict[str, Any]:
    """Return the content of the JSON file: the model, and the scores and answers of each engine."""
    return {
        "model": options.model,
        "protocol": options.protocol,
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
