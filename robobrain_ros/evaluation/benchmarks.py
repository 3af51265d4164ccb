"""Public benchmarks: read a folder of questions, ask a model, and score its answers."""

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt

from robobrain_ros.bounds.files import UnreadableFileError, read_small_text
from robobrain_ros.bounds.json_text import parse_json
from robobrain_ros.core.brain import Brain
from robobrain_ros.core.query import Answer, Query, Task
from robobrain_ros.demo import DemoError
from robobrain_ros.engine.base import MOST_IMAGES
from robobrain_ros.errors import BadRequestError, EngineFailedError, RoboBrainError

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ANSWER_BY_LETTER = "Answer with the option's letter from the given choices directly."
"""FlagEval's instruction for All-Angles, EgoPlan-Bench2, CV-Bench and EmbSpatial-Bench."""
_FORMAT_OF_POINTS = re.compile(r"\s*Your (?:answer should be formatted|task is to identify specific points).*", re.DOTALL)
"""Format instructions for points in the benchmarks' questions. Those of the model family's profile replace them."""
_TIMEOUT = 600.0
_LARGEST_FILE = 1 << 30
"""Maximum size in bytes of a benchmark's list of questions."""


class BenchmarkError(DemoError):
    """A benchmark's folder cannot be used. The message names the file and the fault."""


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
    """Questions of one folder. ``skipped`` counts the questions of kinds that cannot be scored here."""

    name: str
    items: list[Item]
    skipped: dict[str, int] = field(default_factory=dict)


def read_benchmark(folder: Path, name: str = "") -> Benchmark:
    """Read and check all files of a benchmark's folder, so that a missing file is found before the first question. Two forms:

    - Where2Place as on the hub: ``point_questions.jsonl``, a JSON object a line with ``question_id``, ``image``, ``text``;
      images in ``images/``, and masks of the same names in ``masks/``.
    - FlagEvalMM's form, to which it converts every benchmark, also EmbodiedVerse: ``data.json``, a list of objects
      with ``question_id``, ``question``, ``img_path`` (one, or a list), ``question_type``, ``answer``, perhaps ``options``; for
      points ``mask_path``. Paths are relative to the folder.

    :raises BenchmarkError: the folder has neither form, or a file or field is missing or damaged.
    """
    if not folder.is_dir():
        raise BenchmarkError(f"{folder} is not a folder.")
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
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            rows.append((json_object(line, f"{path}, line {number}"), f"{path}, line {number}"))
    return rows


def read_text(path: Path) -> str:
    """Return the text of a benchmark's file.

    :raises BenchmarkError: the file cannot be read.
    """
    try:
        return read_small_text(path, _LARGEST_FILE)
    except UnreadableFileError as error:
        raise BenchmarkError(f"{path} cannot be read: {error}.") from error


def json_object(line: str, where: str) -> dict[str, Any]:
    """Return the JSON object in a text.

    :param where: the file, and the line if the text is one line of the file, for the error message.
    :raises BenchmarkError: the text is not a JSON object.
    """
    try:
        row = parse_json(line)
    except ValueError as error:
        raise BenchmarkError(f"{where} is not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise BenchmarkError(f"{where} is not a JSON object.")
    return row


def _where2place(folder: Path, row: dict[str, Any], where: str) -> Item:
    identity, name, text = (_field(row, field, where) for field in ("question_id", "image", "text"))
    image = path_inside(folder / "images", name, where)
    mask = next((path for path in _same_stem(path_inside(folder / "masks", name, where)) if path.is_file()), None)
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


def path_inside(folder: Path, name: str, where: str) -> Path:
    """Return a path below the folder. A benchmark must not read other files.

    :raises BenchmarkError: the name is absolute or contains "..".
    """
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise BenchmarkError(f"{where}: {name} leads out of the folder.")
    return folder / relative


def _flageval(folder: Path) -> tuple[list[Item], "Counter[str]"]:
    path = folder / "data.json"
    try:
        rows = parse_json(read_text(path))
    except ValueError as error:
        raise BenchmarkError(f"{path} is not JSON: {error}.") from error
    if not isinstance(rows, list):
        raise BenchmarkError(f"{path} does not contain a list of questions.")
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
    images = tuple(path_inside(folder, name, where) for name in names)
    if kind == "point":
        mask = path_inside(folder, _field(row, "mask_path", where), where)
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
    """Return the question with its lettered options and the instruction for the answer, as FlagEvalMM writes them."""
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
class ItemResult:
    """ItemResult of a question: its score from 0 to 1, and the text of the answer."""

    score: float
    text: str


async def ask_item(brain: Brain, item: Item, think: bool) -> ItemResult:
    """Ask one question and score the answer. An unreadable answer scores 0.

    :raises EngineFailedError: the engine died, so there is no score.
    """
    images = [await asyncio.to_thread(read_pixels, path) for path in item.images]
    task = Task.POINT if item.kind == "point" else Task.ASK
    try:
        answer = await brain.run(Query(task, item.text, images, think=think, timeout=_TIMEOUT))
    except (EngineFailedError, BadRequestError):
        raise
    except RoboBrainError as error:
        return ItemResult(0.0, error.raw_text)
    return ItemResult(score_item(item, answer), answer.report.raw_text)


def read_pixels(path: Path) -> npt.NDArray[np.uint8]:
    """Return an image as RGB (height, width, 3)."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def score_item(item: Item, answer: Answer) -> float:
    """Return the share of the points that are in the mask, or 1 for the right letter or word."""
    if item.mask is not None:
        from PIL import Image

        with Image.open(item.mask) as image:
            mask = np.asarray(image.convert("L")) > 127
        hits = [
            not point.clamped  # The model's own point was outside of the image.
            and 0 <= round(point.v) < mask.shape[0]
            and 0 <= round(point.u) < mask.shape[1]
            and bool(mask[round(point.v), round(point.u)])
            for point in answer.points
        ]
        return mean(hits) if hits else 0.0
    given = letter_of(answer.text) if item.kind == "choice" else _yes_or_no(answer.text)
    return float(given == item.answer)


def letter_of(text: str) -> str:
    """Return the option's letter: after the last "answer", alone, or at the beginning. Empty: the answer has none."""
    after = re.findall(r"answer(?:\s+is)?\s*:?\s*\**\s*\(?([A-Z])\b", text, re.IGNORECASE)
    if after:
        return str(after[-1]).upper()
    found = re.match(r"\s*\**\(?([A-Z])(?:[).:,]|\*|\s*$)", text)
    return found.group(1) if found else ""


def _yes_or_no(text: str) -> str:
    words = re.findall(r"\b(yes|no)\b", text.lower())
    return str(words[-1]) if words else ""
