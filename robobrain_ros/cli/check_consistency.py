"""Whether FlagOS changes answers: the same questions to the same model, with native operators and with FlagGems'::

    ros2 run robobrain_ros check_consistency --model BAAI/RoboBrain2.0-7B --benchmark ~/Where2Place --think both
    python -m robobrain_ros.cli.check_consistency --model ...      # without ROS

Asked are questions about the tabletop world, and those of benchmark folders in the two public forms that `read_benchmark` knows.
Both columns have 95 % intervals; the third is what was published for RoboBrain2.0-32B, on its card at FlagRelease.
"""

import argparse
import asyncio
import contextlib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from statistics import mean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt

from robobrain_ros.bounds.files import UnreadableFileError, read_small_text
from robobrain_ros.cli.tune_flagos import engine_option
from robobrain_ros.core.brain import Brain
from robobrain_ros.core.query import Answer, Query, Task
from robobrain_ros.demo import DEMO_MODEL, DemoError
from robobrain_ros.engine.base import MOST_IMAGES
from robobrain_ros.errors import BadRequestError, EngineFailedError, RoboBrainError
from robobrain_ros.evaluation.evaluate import FIRST_SEED, GROUPS, exam, rows_of, score_all
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

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ANSWER_BY_LETTER = "Answer with the option's letter from the given choices directly."
"""As FlagEval asks All-Angles, EgoPlan-Bench2, CV-Bench and EmbSpatial-Bench."""
_FORMAT_OF_POINTS = re.compile(r"\s*Your (?:answer should be formatted|task is to identify specific points).*", re.DOTALL)
"""What the benchmarks append on how to write points; a model family's own words, of its profile, take its place."""
_TIMEOUT = 600.0
_LARGEST_FILE = 1 << 30
"""Bytes of a benchmark's list of questions."""


class BenchmarkError(DemoError):
    """A benchmark's folder cannot be used; the message names the file and what is wrong."""


@dataclass(frozen=True)
class Item:
    """A question of a benchmark.

    :param kind: "point" (``mask`` says where), "choice" (``answer`` is the option's letter) or "yes-no".
    """

    identity: str
    kind: str
    text: str
    images: tuple[Path, ...]
    answer: str = ""
    mask: Path | None = None


@dataclass(frozen=True)
class Benchmark:
    """Questions of one folder; ``skipped`` counts those of kinds that cannot be scored here."""

    name: str
    items: list[Item]
    skipped: dict[str, int] = field(default_factory=dict)


def read_benchmark(folder: Path, name: str = "") -> Benchmark:
    """Read a benchmark's folder, all of it, so that nothing is missing after hours of asking. Two forms are known:

    - Where2Place as on the hub: ``point_questions.jsonl``, a JSON object a line with ``question_id``, ``image``, ``text``;
      images in ``images/``, and masks of the same names in ``masks/``.
    - FlagEval's own, into which its FlagEvalMM turns every benchmark, EmbodiedVerse included: ``data.json``, a list of objects
      with ``question_id``, ``question``, ``img_path`` (one, or a list), ``question_type``, ``answer``, perhaps ``options``; for
      points ``mask_path``. Paths are relative to the folder.

    :raises BenchmarkError: it is in neither form, or something of it is missing or broken.
    """
    if not folder.is_dir():
        raise BenchmarkError(f"{folder} is no folder.")
    if (folder / "point_questions.jsonl").is_file():
        items, skipped = (
            [_where2place(folder, row, where) for row, where in _rows(folder / "point_questions.jsonl")],
            Counter[str](),
        )
    elif (folder / "data.json").is_file():
        items, skipped = _flageval(folder)
    else:
        raise BenchmarkError(f"{folder} has neither a point_questions.jsonl (Where2Place) nor a data.json (FlagEvalMM).")
    if not items:
        raise BenchmarkError(f"{folder} has no question that can be scored here ({dict(skipped) or 'it is empty'}).")
    twice = [identity for identity, count in Counter(item.identity for item in items).items() if count > 1]
    if twice:
        raise BenchmarkError(f"{folder} has the question {twice[0]} twice.")
    for item in items:
        _check_images(item)
    return Benchmark(name or folder.resolve().name, items, dict(skipped))


def _rows(path: Path) -> list[tuple[dict[str, Any], str]]:
    rows = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if line.strip():
            rows.append((_object(line, f"{path}, line {number}"), f"{path}, line {number}"))
    return rows


def _text(path: Path) -> str:
    try:
        return read_small_text(path, _LARGEST_FILE)
    except UnreadableFileError as error:
        raise BenchmarkError(f"{path} cannot be read: {error}.") from error


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BenchmarkError(f"{where} is not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise BenchmarkError(f"{where} is not a JSON object.")
    return row


def _where2place(folder: Path, row: dict[str, Any], where: str) -> Item:
    identity, name, text = (_field(row, field, where) for field in ("question_id", "image", "text"))
    image = _inside(folder / "images", name, where)
    mask = next((path for path in _same_stem(_inside(folder / "masks", name, where)) if path.is_file()), None)
    if mask is None:
        raise BenchmarkError(f"{where}: masks/ has no mask of the name {name}.")
    return Item(identity, "point", _FORMAT_OF_POINTS.sub("", text).strip(), (image,), mask=mask)


def _same_stem(path: Path) -> list[Path]:
    return [path, *(path.with_suffix(suffix) for suffix in (".png", ".jpg", ".jpeg"))]


def _field(row: dict[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise BenchmarkError(f"{where} has no {name}.")
    return str(value)


def _inside(folder: Path, name: str, where: str) -> Path:
    """A path below the folder; a benchmark may not read what lies elsewhere."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise BenchmarkError(f"{where}: {name} leads out of the folder.")
    return folder / relative


def _flageval(folder: Path) -> tuple[list[Item], "Counter[str]"]:
    path = folder / "data.json"
    try:
        rows = json.loads(_text(path))
    except ValueError as error:
        raise BenchmarkError(f"{path} is not JSON: {error}.") from error
    if not isinstance(rows, list):
        raise BenchmarkError(f"{path} does not hold a list of questions.")
    items: list[Item] = []
    skipped: Counter[str] = Counter()
    for number, row in enumerate(rows, 1):
        where = f"{path}, question {number}"
        if not isinstance(row, dict):
            raise BenchmarkError(f"{where} is not a JSON object.")
        item, why = _flageval_item(folder, row, where)
        if item is None:
            skipped[why] += 1
        else:
            items.append(item)
    return items, skipped


def _flageval_item(folder: Path, row: dict[str, Any], where: str) -> tuple[Item | None, str]:
    kind = {"point": "point", "multiple-choice": "choice", "yes-no": "yes-no"}.get(str(row.get("question_type")))
    if kind is None:
        return None, str(row.get("question_type"))
    if row.get("video_path"):
        return None, "video"
    names = row.get("img_path")
    names = names if isinstance(names, list) else [names]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise BenchmarkError(f"{where} has no img_path.")
    if len(names) > MOST_IMAGES or (kind == "point" and len(names) > 1):
        return None, "too many images"
    identity = _field(row, "question_id", where)
    text = re.sub(r"<image \d+>\s*", "", _field(row, "question", where))
    images = tuple(_inside(folder, name, where) for name in names)
    if kind == "point":
        mask = _inside(folder, _field(row, "mask_path", where), where)
        return Item(identity, kind, _FORMAT_OF_POINTS.sub("", text).strip(), images, mask=mask), ""
    answer = _field(row, "answer", where).strip().strip("().").upper()
    if kind == "yes-no":
        if answer not in ("YES", "NO"):
            raise BenchmarkError(f"{where}: the answer {answer!r} is neither yes nor no.")
        return Item(identity, kind, text, images, answer.lower()), ""
    options = row.get("options") or []
    letters = _LETTERS[: len(options)] if options else _LETTERS
    if len(answer) != 1 or answer not in letters:
        raise BenchmarkError(f"{where}: the answer {answer!r} is not the letter of an option.")
    return Item(identity, kind, _with_options(text, options), images, answer), ""


def _with_options(text: str, options: Sequence[Any]) -> str:
    """The question with its options, each with its letter, as FlagEvalMM writes them, and how to answer."""
    missing = [option for option in options if str(option) not in text]
    if missing:
        text = "\n".join([text, *(f"{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=False))])
    asks = re.search(r"letter", text, re.IGNORECASE)
    return text if asks else f"{text}\n{_ANSWER_BY_LETTER}"


def _check_images(item: Item) -> None:
    from PIL import Image, UnidentifiedImageError

    sizes = []
    for path in (*item.images, *([item.mask] if item.mask is not None else [])):
        try:
            with Image.open(path) as image:
                sizes.append(image.size)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise BenchmarkError(f"Question {item.identity}: {path} cannot be read as an image ({error}).") from error
    if item.mask is not None and sizes[0] != sizes[-1]:
        raise BenchmarkError(f"Question {item.identity}: the mask is {sizes[-1]} pixels, its image {sizes[0]}.")


@dataclass(frozen=True)
class Result:
    """What became of a question: its score from 0 to 1, and the model's words."""

    score: float
    said: str


async def ask_item(brain: Brain, item: Item, think: bool) -> Result:
    """Ask one question and score the answer; one that cannot be read scores 0.

    :raises EngineFailedError: the engine has died; a score would say nothing.
    """
    images = [await asyncio.to_thread(_pixels, path) for path in item.images]
    task = Task.POINT if item.kind == "point" else Task.ASK
    try:
        answer = await brain.run(Query(task, item.text, images, think=think, timeout=_TIMEOUT))
    except (EngineFailedError, BadRequestError):
        raise
    except RoboBrainError as error:
        return Result(0.0, error.raw_text)
    return Result(score_item(item, answer), answer.report.raw_text)


def _pixels(path: Path) -> npt.NDArray[np.uint8]:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def score_item(item: Item, answer: Answer) -> float:
    """The score: of points, the share of them in the mask, out of the image 0; else 1 for the right letter or word."""
    if item.mask is not None:
        from PIL import Image

        with Image.open(item.mask) as image:
            mask = np.asarray(image.convert("L")) > 127
        hits = [
            not point.clamped  # The model's own point lay out of the image.
            and 0 <= round(point.v) < mask.shape[0]
            and 0 <= round(point.u) < mask.shape[1]
            and bool(mask[round(point.v), round(point.u)])
            for point in answer.points
        ]
        return mean(hits) if hits else 0.0
    said = letter_of(answer.text) if item.kind == "choice" else _yes_or_no(answer.text)
    return float(said == item.answer)


def letter_of(text: str) -> str:
    """The option's letter in an answer: after the last "answer", or alone, or at the beginning; empty: none."""
    after = re.findall(r"answer(?:\s+is)?\s*:?\s*\**\s*\(?([A-Z])\b", text, re.IGNORECASE)
    if after:
        return str(after[-1]).upper()
    found = re.match(r"\s*\**\(?([A-Z])(?:[).:,]|\*|\s*$)", text)
    return found.group(1) if found else ""


def _yes_or_no(text: str) -> str:
    words = re.findall(r"\b(yes|no)\b", text.lower())
    return str(words[-1]) if words else ""


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


async def fill(column: Column, brain: Brain, benchmarks: Sequence[Benchmark], options: argparse.Namespace) -> None:
    """Ask one engine everything."""
    for think in {"no": [False], "yes": [True], "both": [False, True]}[options.think]:
        if think and not brain.profile.can_think:
            _say(f"This {brain.profile.family} checkpoint was not trained to think; the questions with thinking are left out.")
            continue
        if options.scenes:
            questions = exam(range(FIRST_SEED, FIRST_SEED + options.scenes), [(640, 480)], list(GROUPS))
            for row in rows_of(await score_all(brain, questions, think, at_once=options.at_once)):
                if not row.kind:
                    column.cells["tabletop", think, f"{row.group}: {row.measure}"] = Cell(row.value, row.count, row.low, row.high)
        for benchmark in benchmarks:
            results = await _ask_all(brain, benchmark.items, think, options.at_once)
            column.results[benchmark.name, think] = results
            column.cells[benchmark.name, think, "score"] = cell_of(list(results.values()))
            _say(f"{column.title}: {benchmark.name}{', thinking' if think else ''}: {len(results)} answers")


async def _ask_all(brain: Brain, items: Sequence[Item], think: bool, at_once: int) -> dict[str, Result]:
    room = asyncio.Semaphore(at_once)

    async def one(item: Item) -> tuple[str, Result]:
        async with room:
            return item.identity, await ask_item(brain, item, think)

    tasks = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return dict(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextlib.asynccontextmanager
async def _brain(options: argparse.Namespace, images: int, **flagos: Any) -> AsyncIterator[Brain]:
    from robobrain_ros.local import open_brain

    given = {"max_num_seqs": options.at_once, "max_images": max(4, images), **dict(options.engine), **flagos}
    with contextlib.redirect_stdout(sys.stderr):
        brain = await open_brain(options.model, **given)
    try:
        yield brain
    finally:
        await brain.close()


async def run(options: argparse.Namespace) -> None:
    """Ask both engines, one after the other, print the table, write the file."""
    benchmarks = await asyncio.to_thread(_read_all, options)
    images = max((len(item.images) for benchmark in benchmarks for item in benchmark.items), default=1)
    columns = []
    for title, mode in (("native", "off"), ("FlagOS", options.mode)):
        named = {} if mode == "off" else {"flagos_include": tuple(options.include), "flagos_exclude": tuple(options.exclude)}
        async with _brain(options, images, flagos_mode=mode, **named) as brain:
            active = brain.engine.health().flagos_active
            column = Column(title if mode == "off" or active else "FlagOS (ran native!)")
            _say(f"{column.title}: {brain.info.engine}. {brain.info.details.get('flagos', '')}")
            await fill(column, brain, benchmarks, options)
            if warning := brain.engine.health().warning:
                _say(warning)
            columns.append(column)
    print(table(*columns), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(_as_json(options, columns), indent=1) + "\n", encoding="utf-8")


def _read_all(options: argparse.Namespace) -> list[Benchmark]:
    """The benchmarks that the command line names, as far as they are asked."""
    benchmarks = []
    for name, folder in options.benchmark:
        benchmark = read_benchmark(Path(folder).expanduser(), name)
        for kind, count in benchmark.skipped.items():
            _say(f"{benchmark.name}: {count} questions are left out ({kind}).")
        items = benchmark.items[: options.limit] if options.limit else benchmark.items
        benchmarks.append(Benchmark(benchmark.name, items, benchmark.skipped))
    return benchmarks


def _as_json(options: argparse.Namespace, columns: Sequence[Column]) -> dict[str, Any]:
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


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="check_consistency", description="Ask a model the same with native operators and with FlagGems', and compare."
    )
    parser.add_argument(
        "--model", default=str(DEMO_MODEL), help="a folder, or a name on the hub (default: the tabletop demo model)"
    )
    parser.add_argument(
        "--benchmark", type=_named_folder, action="append", default=[], metavar="[NAME=]FOLDER", help="can be given several times"
    )
    parser.add_argument("--scenes", type=_count, default=50, help="tabletop scenes; 0: none (default: %(default)s)")
    parser.add_argument("--limit", type=_count, default=0, help="questions of each benchmark (default: all)")
    parser.add_argument("--think", choices=("no", "yes", "both"), default="no", help="before answering (default: no)")
    parser.add_argument("--mode", choices=("auto", "on"), default="auto", help="flagos.mode of the second column (default: auto)")
    parser.add_argument("--include", nargs="+", default=[], metavar="OPERATOR", help="flagos.include")
    parser.add_argument("--exclude", nargs="+", default=[], metavar="OPERATOR", help="flagos.exclude")
    parser.add_argument("--at-once", type=_count, default=16, help="requests at the same time (default: %(default)s)")
    parser.add_argument(
        "--engine", type=engine_option, action="append", default=[], metavar="NAME=VALUE", help="an engine's option"
    )
    parser.add_argument("--json", type=Path, help="file to write everything to")
    options = parser.parse_args(arguments)
    if not options.scenes and not options.benchmark:
        parser.error("there is nothing to ask: --scenes is 0, and no --benchmark is given")
    if not options.at_once:
        parser.error("--at-once must be at least 1")
    return options


def _named_folder(text: str) -> tuple[str, str]:
    name, separator, folder = text.partition("=")
    return (name, folder) if separator else ("", text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)


def main() -> None:
    """Compare as the command line says; what cannot be done is one sentence."""
    try:
        asyncio.run(run(parse_options()))
    except (RoboBrainError, DemoError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted.")


if __name__ == "__main__":
    main()
