"""Public benchmarks: read a folder of questions, ask a model, and score its answers."""

import asyncio
import io
import math
import os
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from robobrain_ros.core.brain import Brain
from robobrain_ros.core.grids import Grid, raw_answer, read_as
from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.query import Query, Report, RgbImage, Task
from robobrain_ros.core.query_checks import check_query
from robobrain_ros.engine.base import MOST_IMAGES
from robobrain_ros.errors import BadRequestError, EngineFailedError, RoboBrainError
from robobrain_ros.evaluation import benchmark_formats as formats
from robobrain_ros.evaluation.benchmark_instructions import letter_instruction, tokens_for, video_question
from robobrain_ros.evaluation.benchmark_item import (
    PUBLISHED,
    Benchmark,
    BenchmarkError,
    Clip,
    Item,
    json_object,
    path_inside,
    read_pixels,
    read_text,
    required,
)
from robobrain_ros.evaluation.benchmark_tables import tables_in
from robobrain_ros.evaluation.benchmark_videos import check_clips, read_frames
from robobrain_ros.evaluation.scoring import letter_of, score_item

__all__ = [
    "Benchmark",
    "BenchmarkError",
    "Item",
    "ItemResult",
    "ask_item",
    "json_object",
    "letter_of",
    "path_inside",
    "read_benchmark",
    "read_pixels",
    "read_text",
    "score_item",
]

_TIMEOUT = 600.0
_VSI_CHOICES = (
    "object_rel_direction_easy",
    "object_rel_direction_medium",
    "object_rel_direction_hard",
    "object_rel_distance",
    "route_planning",
    "obj_appearance_order",
)
_VSI_NUMBERS = ("object_abs_distance", "object_counting", "object_size_estimation", "room_size_estimation")
_FLAGEVAL_KINDS = {
    "point": "point",
    "multiple-choice": "choice",
    "yes-no": "yes-no",
    "numerical": "number",
    **dict.fromkeys(_VSI_CHOICES, "choice"),
    **dict.fromkeys(_VSI_NUMBERS, "number"),
}
"""Kinds of questions by ``question_type``. VSI-Bench has its own types in FlagEvalMM."""


def read_benchmark(folder: Path, name: str = "", protocol: str = PUBLISHED, limit: int = 0) -> Benchmark:
    """Read a benchmark's folder, and check all files of its questions, so that a missing file is found before the first question.

    docs/reference/benchmarks.md describes the formats. The files in the folder identify the format.

    :param folder: the folder, or a file of FlagEvalMM's form in it, such as data_tiny.json.
    :param name: name of the benchmark in reports. Empty: the name of the folder.
    :param protocol: `PUBLISHED`, or `FLAGEVAL` for the wording and the scores of FlagEvalMM.
    :param limit: number of questions. Only their images and videos are checked. 0: all.
    :raises BenchmarkError: the folder has no known format, or a file or field is missing or damaged.
    """
    listing = folder if folder.suffix == ".json" and os.path.isfile(folder) else None
    if listing is None and not os.path.isdir(folder):
        raise BenchmarkError(f"{folder} is not a folder.")
    reading = formats.Reading(folder if listing is None else folder.parent, protocol, name)
    if listing is None:
        _read(reading)
    else:
        _flageval(reading, listing)
    items, skipped = reading.items, dict(reading.skipped)
    if not items:
        raise BenchmarkError(f"{folder} has no question that can be scored here ({skipped or 'it is empty'}).")
    twice = [identity for identity, count in Counter(item.identity for item in items).items() if count > 1]
    if twice:
        raise BenchmarkError(f"{folder} has the question {twice[0]} twice.")
    items = items[: limit or None]
    for item in items:
        _check_texts(item)
        _check_images(item)
    check_clips(items)
    name = name or (folder.resolve().name if listing is None else listing.stem)
    return Benchmark(name, items, skipped, reading.name, reading.rule)


def _read(reading: formats.Reading) -> None:
    folder = reading.folder
    if (folder / "point_questions.jsonl").is_file():
        reading.name = "Where2Place"
        formats.where2place(reading)
    elif any(path.is_file() for path in (folder / "question.json", *folder.glob("*/question.json"))):
        reading.name = "RefSpatial-Bench"
        formats.refspatial(reading)
    elif (folder / "annotations.json").is_file():
        reading.name = "RoboSpatial-Home"
        formats.read_annotations(reading)
    elif (folder / "embspatial_bench.json").is_file():
        reading.name = "EmbSpatial-Bench"
        formats.embspatial(reading)
    elif (folder / "data.json").is_file():
        _flageval(reading, folder / "data.json")
    elif table := next(iter(sorted(folder.glob("*.tsv"))), None):
        reading.name = "VLMEvalKit"
        formats.vlmevalkit(reading, table)
    elif tables := tables_in(folder):
        formats.read_tables(reading, tables)
    elif plans := next(iter(sorted(folder.glob("*.json"))), None):
        reading.name = "EgoPlan-Bench2"
        formats.egoplan2(reading, plans)
    else:
        raise BenchmarkError(
            f"{folder} has neither a point_questions.jsonl (Where2Place) nor a data.json (FlagEvalMM) nor the files of another "
            "format of docs/reference/benchmarks.md."
        )


def _flageval(reading: formats.Reading, path: Path) -> None:
    """Read the form to which FlagEvalMM converts every benchmark, also EmbodiedVerse."""
    reading.name = "FlagEvalMM"
    for row, where in formats.json_rows(path):
        item, why = _flageval_item(reading, row, where)
        if item is None:
            reading.skipped[why] += 1
        else:
            reading.items.append(item)


def _flageval_item(reading: formats.Reading, row: dict[str, Any], where: str) -> tuple[Item | None, str]:
    folder = reading.folder
    said = str(row.get("question_type"))
    kind = _FLAGEVAL_KINDS.get(said)
    if kind is None:
        return None, said
    if row.get("video_path"):
        return _flageval_video(reading, row, where, kind, said), ""
    names = row.get("img_path")
    names = names if isinstance(names, list) else [names]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise BenchmarkError(f"{where} has no img_path.")
    if len(names) > MOST_IMAGES or (kind == "point" and len(names) > 1):
        return None, "too many images"
    identity = required(row, "question_id", where)
    text = re.sub(r"<image \d+>\s*", "", required(row, "question", where))
    images = tuple(path_inside(folder, name, where) for name in names)
    if kind == "point":
        mask = path_inside(folder, required(row, "mask_path", where), where)
        return Item(identity, kind, formats.without_point_format(text), images, mask=mask, graded=reading.flageval), ""
    if kind == "number":
        return Item(identity, kind, text, images, _number(row, where), category=said), ""
    answer = required(row, "answer", where).strip().strip("().").upper()
    if kind == "yes-no":
        if answer not in ("YES", "NO"):
            raise BenchmarkError(f"{where}: the answer {answer!r} is neither yes nor no.")
        return Item(identity, kind, text, images, answer.lower(), max_tokens=tokens_for(text)), ""
    options = _options(row, where)
    letters = formats.LETTERS[: len(options)] if options else formats.LETTERS
    if len(answer) != 1 or answer not in letters:
        raise BenchmarkError(f"{where}: the answer {answer!r} is not the letter of an option.")
    text = formats.with_missing_options(text, options)
    if not re.search(r"letter", text, re.IGNORECASE):
        text = f"{text}\n{letter_instruction(folder, reading.called, reading.flageval)}"
    return Item(identity, kind, text, images, answer, max_tokens=tokens_for(text)), ""


def _flageval_video(reading: formats.Reading, row: dict[str, Any], where: str, kind: str, said: str) -> Item:
    """Return a question about a video, such as those of VSI-Bench."""
    clip = Clip(path_inside(reading.folder, required(row, "video_path", where), where))
    identity, text = required(row, "question_id", where), required(row, "question", where)
    if kind == "number":
        item = Item(identity, kind, _asked(text, False, reading), (), _number(row, where), clip=clip, category=said)
        return replace(item, max_tokens=tokens_for(item.text))
    answer = required(row, "answer", where).strip().strip("().").upper()
    if kind != "choice" or len(answer) != 1 or answer not in formats.LETTERS:
        raise BenchmarkError(f"{where}: the answer {answer!r} is not the letter of an option.")
    options = _options(row, where)
    text = _asked(formats.with_missing_options(text, options), True, reading)
    return Item(identity, kind, text, (), answer, clip=clip, category=said, max_tokens=tokens_for(text))


def _asked(text: str, chosen: bool, reading: formats.Reading) -> str:
    """Return a question about a video with its instruction. The questions of EmbodiedVerse already have those of FlagEvalMM."""
    return text if tokens_for(text) > Item.max_tokens else video_question(text, chosen, reading.flageval)


def _options(row: dict[str, Any], where: str) -> list[Any]:
    options = row.get("options") or []
    if not isinstance(options, list):
        raise BenchmarkError(f"{where}: the options are not a list.")
    return options


def _number(row: dict[str, Any], where: str) -> str:
    answer = row.get("answer")
    try:
        value = float(answer) if isinstance(answer, str | int | float) and not isinstance(answer, bool) else None
    except ValueError:
        value = None
    if value is None or not math.isfinite(value):
        raise BenchmarkError(f"{where}: the answer {answer!r} is not a number.")
    return str(answer)


def _check_texts(item: Item) -> None:
    """Check that a model can be asked the question. Otherwise, it would end the evaluation hours later."""
    task = _task_of(item)
    images: list[Any] = [None] * (MOST_IMAGES if item.clip is not None else len(item.images))
    try:
        for text in filter(None, (item.text, item.target)):
            check_query(Query(task, text, images))
    except RoboBrainError as error:
        raise BenchmarkError(f"Question {item.identity}: {error.message}") from error


def _task_of(item: Item) -> Task:
    return Task.POINT if item.kind == "point" else Task.ASK


def _check_images(item: Item) -> None:
    from PIL import Image

    sizes = []
    for media in (*item.images, *([item.mask] if item.mask is not None else [])):
        what = "an image in the table" if isinstance(media, bytes) else media
        if isinstance(media, Path) and not os.path.isfile(media):  # Opening a named pipe would wait for a writer.
            raise BenchmarkError(f"Question {item.identity}: {what} cannot be read as an image (it is not a file).")
        try:
            with Image.open(io.BytesIO(media) if isinstance(media, bytes) else media) as image:
                sizes.append(image.size)
                image.draft("L", (1, 1))  # A JPEG is decoded at an eighth of its size, which also finds missing data.
                image.load()
        except Exception as error:  # The decoders of damaged images raise errors of many types.
            reason = "it is damaged" if isinstance(media, bytes) else error
            raise BenchmarkError(f"Question {item.identity}: {what} cannot be read as an image ({reason}).") from error
    if item.mask is not None and sizes[0] != sizes[-1]:
        raise BenchmarkError(f"Question {item.identity}: the mask is {sizes[-1]} pixels, its image {sizes[0]}.")


@dataclass(frozen=True)
class ItemResult:
    """The result of a question.

    :param score: from 0 to 1.
    :param text: the text of the answer, with its thinking.
    :param grids: the score with the coordinates read on each grid, by the name of the grid. Only for points.
    :param model_size: (width, height) of the first image after resizing for the model.
    """

    score: float
    text: str
    grids: dict[str, float] = field(default_factory=dict)
    model_size: tuple[int, int] = (0, 0)


async def ask_item(brain: Brain, item: Item, think: bool) -> ItemResult:
    """Ask one question and score the answer. An unreadable answer scores 0.

    The caller decides with the defaults of ``brain`` whether answers are constrained. A constrained answer fits the grid of the
    profile, whatever the model wanted to write, so its score on other grids means little.

    :raises EngineFailedError: the engine died, so there is no score.
    """
    images, times = await asyncio.to_thread(_load, item)
    task = _task_of(item)
    text = item.target if item.target and not brain.profile.name.startswith("robobrain") else item.text
    query = Query(task, text, images, think=think, timeout=_TIMEOUT, max_tokens=item.max_tokens, image_times=times)
    size = (images[0].shape[1], images[0].shape[0])
    try:
        answer = await brain.run(query)
    except (EngineFailedError, BadRequestError):
        raise
    except RoboBrainError as error:
        return ItemResult(0.0, error.raw_text)
    score = score_item(item, answer, size)
    return ItemResult(score, answer.report.raw_text, _on_grids(brain, item, answer.report, size), _model_size(answer.report))


def _load(item: Item) -> tuple[list[RgbImage], tuple[float, ...]]:
    """Return the images of a question. If they are the frames of a video, also their times."""
    if item.clip is None:
        return [read_pixels(media) for media in item.images], ()
    images, times = read_frames(item.clip, item.identity)
    return images, times if len(images) > 1 else ()


def _on_grids(brain: Brain, item: Item, report: Report, size: tuple[int, int]) -> dict[str, float]:
    """Return the score of an answer with points on each grid. Fractions are only read as fractions, and other numbers never."""
    if item.kind != "point":
        return {}
    parsed = raw_answer(Task.POINT, report.raw_text, brain.profile)
    if parsed is None:
        return {grid.value: 0.0 for grid in Grid}
    fitted = FittedSize(*size, *_model_size(report))
    return {
        grid.value: score_item(item, read_as(parsed, grid, fitted), size)
        if (grid is Grid.FRACTIONS) == parsed.normalized
        else 0.0
        for grid in Grid
    }


def _model_size(report: Report) -> tuple[int, int]:
    return next(iter(report.model_image_sizes), (0, 0))
