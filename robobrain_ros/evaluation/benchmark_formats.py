"""Readers of the public formats of benchmarks. docs/reference/benchmarks.md names the source of each format.

A reader returns questions, and counts those that cannot be scored here. Instructions about the form of coordinates are removed
from questions, because the prompt of the model's family has its own.
"""

import ast
import base64
import math
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robobrain_ros.engine.base import MOST_IMAGES
from robobrain_ros.evaluation.benchmark_instructions import (
    DIRECT,
    LAST_LINE,
    STEPS,
    YES_NO_LINE,
    tokens_for,
    video_question,
)
from robobrain_ros.evaluation.benchmark_item import (
    FLAGEVAL,
    PUBLISHED,
    BenchmarkError,
    Clip,
    Item,
    json_lines,
    media,
    path_inside,
    read_json,
    required,
)
from robobrain_ros.evaluation.benchmark_tables import Row, Table, selected, tab_separated

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ONLY_LETTER = " Please answer directly with only the letter of the correct option and nothing else."
_EGOPLAN = (
    "Select the best answer to the following multiple-choice question based on the video. Respond with only the letter (A, B, C, "
    "or D) of the correct option.\n\nConsidering the progress shown in the video and my current observation in the last frame, "
    "what action should I take next in order to {goal}?\n\n{choices}"
)
_FORMAT_OF_POINTS = re.compile(r"\s*Your (?:answer should be formatted|task is to identify specific points).*", re.DOTALL)
_YES_NO = re.compile(r"\s*Answer yes or no\.?", re.IGNORECASE)
_CHOICE_TYPES = ("object_rel_", "route_planning", "obj_appearance_order")


@dataclass
class Reading:
    """The questions of a folder while it is read.

    :param called: name of the benchmark as the user states it, or empty.
    :param name: name of the format.
    """

    folder: Path
    protocol: str = PUBLISHED
    called: str = ""
    name: str = ""
    rule: str = "mean"

    def __post_init__(self) -> None:
        self.items: list[Item] = []
        self.skipped: Counter[str] = Counter()

    @property
    def flageval(self) -> bool:
        """Whether the questions are worded and scored as by FlagEvalMM."""
        return self.protocol == FLAGEVAL


def where2place(reading: Reading) -> None:
    """Read Where2Place, and point-in-mask sets in its form."""
    for row, where in json_lines(reading.folder / "point_questions.jsonl"):
        identity, name, text = (required(row, field, where) for field in ("question_id", "image", "text"))
        image = path_inside(reading.folder / "images", name, where)
        mask = path_inside(reading.folder / "masks", name, where)
        same = (mask, *(mask.with_suffix(suffix) for suffix in (".png", ".jpg", ".jpeg")))
        found = next((path for path in same if os.path.isfile(path)), None)
        if found is None:
            raise BenchmarkError(f"{where}: masks/ has no mask of the name {name}.")
        text = without_point_format(text)
        reading.items.append(Item(identity, "point", text, (image,), mask=found, graded=reading.flageval))


def refspatial(reading: Reading) -> None:
    """Read the raw folders of RefSpatial-Bench: Location, Placement and Unseen, or one of them."""
    folders = [folder for folder in (reading.folder, *sorted(reading.folder.iterdir())) if (folder / "question.json").is_file()]
    for folder in folders:
        for row, where in json_rows(folder / "question.json"):
            image = path_inside(folder, required(row, "rgb_path", where), where)
            mask = path_inside(folder, required(row, "mask_path", where), where)
            identity = f"{folder.name.lower()}_{required(row, 'id', where)}"
            _add_refspatial(reading, row, where, identity, folder.name.lower(), image, mask)


def refspatial_tables(reading: Reading, tables: Sequence[Table]) -> None:
    """Read the Parquet files of RefSpatial-Bench."""
    for table in tables:
        split = re.split(r"[-.]", table.path.name)[0].lower()
        for row, where in table.rows():
            image, mask = (media(row.get(name), reading.folder, where, name) for name in ("image", "mask"))
            _add_refspatial(reading, row, where, f"{split}_{required(row, 'id', where)}", split, image, mask)


def _add_refspatial(reading: Reading, row: dict[str, Any], where: str, identity: str, split: str, image: Any, mask: Any) -> None:
    prompt, target = required(row, "prompt", where), required(row, "object", where)
    reading.items.append(Item(identity, "point", prompt, (image,), mask=mask, mask_level=0, target=target, category=split))


def robospatial(reading: Reading, rows: Iterable[Row]) -> None:
    """Read RoboSpatial-Home: the files of its download program, or the Parquet files of the hub."""
    numbers: Counter[str] = Counter()
    for row, where in rows:
        category, question, answer = (required(row, name, where) for name in ("category", "question", "answer"))
        identity = f"{category}_{numbers[category]}"
        numbers[category] += 1
        image = media(row.get("img"), reading.folder, where, "img")
        if answer.strip().lower() in ("yes", "no"):
            text = f"{_YES_NO.sub('', question)}\n{YES_NO_LINE}" if reading.flageval else question
            said = answer.strip().lower()
            # After an explanation, the answer is in the last line.
            item = Item(identity, "yes-no", text, (image,), said, category=category, begins=not reading.flageval)
            reading.items.append(replace(item, max_tokens=tokens_for(text)))
            continue
        text = without_point_format(question)
        if reading.flageval:
            mask = media(row.get("mask"), reading.folder, where, "mask")
            reading.items.append(Item(identity, "point", text, (image,), mask=mask, category=category, graded=True))
        else:
            reading.items.append(Item(identity, "point", text, (image,), polygon=_polygon(answer, where), category=category))


def _polygon(text: str, where: str) -> tuple[tuple[float, float], ...]:
    try:
        corners = tuple((float(x), float(y)) for x, y in ast.literal_eval(text))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError) as error:
        raise BenchmarkError(f"{where}: the answer is neither yes, nor no, nor a list of points.") from error
    if not all(math.isfinite(value) for corner in corners for value in corner):
        raise BenchmarkError(f"{where}: the answer has a number that is too large.")
    if len(corners) < 3:
        raise BenchmarkError(f"{where}: the answer has {len(corners)} points instead of the corners of a polygon.")
    return corners


def embspatial(reading: Reading) -> None:
    """Read embspatial_bench.json."""
    for row, where in json_rows(reading.folder / "embspatial_bench.json"):
        image = _decoded(row.get("image"), where)
        options, answer = row.get("answer_options"), row.get("answer")
        if not isinstance(options, list) or type(answer) is not int or not 0 <= answer < len(options):
            raise BenchmarkError(f"{where}: the answer {answer!r} is not the number of one of the answer_options.")
        text = with_options(required(row, "question", where), options)
        category = str(row.get("relation", ""))
        reading.items.append(
            Item(required(row, "question_id", where), "choice", f"{text}\n{DIRECT}", (image,), LETTERS[answer], category=category)
        )


def erqa(reading: Reading, rows: Iterable[Row]) -> None:
    """Read ERQA in the Parquet form of FlagEval/ERQA. All images come before the question."""
    for row, where in rows:
        question = required(row, "question", where)
        text = f"{question.replace(_ONLY_LETTER, '')}\n{STEPS}" if reading.flageval else question
        _choice(reading, row, where, text, row.get("images"), str(row.get("question_type", "")), "question_id")


def blink(reading: Reading, rows: Iterable[Row]) -> None:
    """Read BLINK (split val; the answers of the split test are not published)."""
    for row, where in rows:
        images = [row[name] for name in ("image_1", "image_2", "image_3", "image_4") if row.get(name) is not None]
        prompt = required(row, "prompt", where)
        text = f"{prompt}\n{LAST_LINE if reading.flageval else DIRECT}"
        _choice(reading, row, where, text, images, str(row.get("sub_task", "")), "idx")


def cv_bench(reading: Reading, rows: Iterable[Row]) -> None:
    """Read CV-Bench: its Parquet files, or test_2d.jsonl and test_3d.jsonl with the folder img."""
    reading.rule = "cv-bench"
    for row, where in rows:
        image = row.get("image")
        if image is None:
            name = required(row, "filename", where)
            image = name if os.path.isfile(reading.folder / name) else f"img/{name}"
        text = f"{required(row, 'prompt', where)}\n{DIRECT}"
        _choice(reading, row, where, text, [image], required(row, "source", where), "idx")


def sat(reading: Reading, rows: Iterable[Row]) -> None:
    """Read SAT. Its authors ask to shuffle the options. FlagEvalMM keeps their order."""
    for number, (row, where) in enumerate(rows):
        options, right = row.get("answers"), row.get("correct_answer")
        if not isinstance(options, list) or right not in options:
            raise BenchmarkError(f"{where}: the correct_answer {right!r} is not one of the answers.")
        options = [str(option) for option in options]
        if not reading.flageval:
            random.Random(f"SAT {number}").shuffle(options)
        text = f"{with_options(required(row, 'question', where), options)}\n{STEPS if reading.flageval else DIRECT}"
        changed = {**row, "answer": LETTERS[options.index(str(right))], "question_id": row.get("question_id", number)}
        images = row.get("image_bytes", row.get("images"))
        _choice(reading, changed, where, text, images, str(row.get("question_type", "")), "question_id")


def vsi_bench(reading: Reading, rows: Iterable[Row]) -> None:
    """Read VSI-Bench, with the videos in arkitscenes/, scannet/ and scannetpp/."""
    reading.rule = "mean" if reading.flageval else "vsi-bench"
    for row, where in rows:
        identity, kind, question, right = (
            required(row, name, where) for name in ("id", "question_type", "question", "ground_truth")
        )
        video = path_inside(reading.folder, f"{required(row, 'dataset', where)}/{required(row, 'scene_name', where)}.mp4", where)
        chosen = kind.startswith(_CHOICE_TYPES)
        options = row.get("options")
        if chosen and (not isinstance(options, list) or not options):
            raise BenchmarkError(f"{where} has no options.")
        if chosen:
            question = f"{question}\nOptions:\n" + "\n".join(map(str, options or []))
        text = video_question(question, chosen, reading.flageval)
        if not chosen and _number(right) is None:
            raise BenchmarkError(f"{where}: the ground_truth {right!r} is not a number.")
        answer = _letter(right, where) if chosen else right.strip()
        item = Item(identity, "choice" if chosen else "number", text, (), answer, clip=Clip(video), category=kind)
        reading.items.append(replace(item, max_tokens=tokens_for(text)))


def egoplan2(reading: Reading, path: Path) -> None:
    """Read EgoPlan-Bench2: its JSON file with Ego4D's videos (v1_288p/ or the folder), or with one clip for each question."""
    for row, where in json_rows(path):
        identity, goal, right = (required(row, name, where) for name in ("sample_id", "task_goal", "golden_choice_idx"))
        choices = "\n".join(f"{letter}. {required(row, f'choice_{letter.lower()}', where)}" for letter in "ABCD")
        text = _EGOPLAN.replace("{goal}", goal).replace("{choices}", choices)
        if reading.flageval:
            text = f"{text}\n{DIRECT}"
        clip = _ego_clip(reading.folder, row, identity, where)
        reading.items.append(
            Item(identity, "choice", text, (), _letter(right, where, "ABCD"), clip=clip, category=str(row.get("domain", "")))
        )


def _ego_clip(folder: Path, row: dict[str, Any], identity: str, where: str) -> Clip:
    cut = path_inside(folder, f"{identity}.mp4", where)
    if os.path.isfile(cut):
        return Clip(cut)
    name = f"{identity.split('_')[0]}.mp4"
    whole = next((path for path in (folder / "v1_288p" / name, folder / name) if os.path.isfile(path)), folder / "v1_288p" / name)
    first, last = row.get("task_start_frame"), row.get("current_observation_frame")
    if type(first) is not int or type(last) is not int:
        raise BenchmarkError(f"{where} has no task_start_frame or no current_observation_frame.")
    return Clip(whole, first, last)


def vlmevalkit(reading: Reading, path: Path) -> None:
    """Read a table of VLMEvalKit with questions of multiple choice, such as that of All-Angles-Bench."""
    for row, where in tab_separated(path):
        images = _image_list(reading.folder, row, where)
        options = [f"{letter}. {row[letter]}" for letter in LETTERS[:8] if row.get(letter)]  # An option can be missing.
        hint = f"Hint: {row['hint']}\n" if row.get("hint") else ""
        text = "\n".join([hint + required(row, "question", where), *options, DIRECT])
        _choice(reading, row, where, text, images, str(row.get("category") or ""), "index")


def _image_list(folder: Path, row: dict[str, Any], where: str) -> list[Any]:
    """Return the images of a row of VLMEvalKit: paths in ``image_path``, or base64 in ``image``; one, or a list as text."""

    def several(text: str) -> list[str]:
        try:
            return [str(each) for each in ast.literal_eval(text)] if text.startswith("[") else [text]
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
            raise BenchmarkError(f"{where}: the list of images cannot be read.") from error

    if row.get("image_path"):
        return several(row["image_path"])
    return [_decoded(text, where) for text in several(required(row, "image", where))]


def _choice(reading: Reading, row: dict[str, Any], where: str, text: str, images: Any, category: str, identity: str) -> None:
    """Add a question of multiple choice whose ``answer`` is a letter such as "B" or "(B)"."""
    right = required(row, "answer", where)
    if right.strip().lower() == "hidden":
        reading.skipped["its answer is not published"] += 1
        return
    answer = _letter(right, where)
    if not isinstance(images, list) or not images:
        raise BenchmarkError(f"{where} has no images.")
    if len(images) > MOST_IMAGES:
        reading.skipped["too many images"] += 1
        return
    found = tuple(media(image, reading.folder, where, "image") for image in images)
    key = required({identity: row.get(identity)}, identity, where)
    reading.items.append(
        Item(
            f"{category}_{key}" if identity == "idx" else key,
            "choice",
            text,
            found,
            answer,
            category=category,
            max_tokens=tokens_for(text),
        )
    )


def _letter(text: str, where: str, letters: str = LETTERS) -> str:
    """Return the letter of an answer such as "b" or "(B)".

    :raises BenchmarkError: it is none of the letters.
    """
    letter = text.strip().strip("().").upper()
    if len(letter) != 1 or letter not in letters:
        raise BenchmarkError(f"{where}: the answer {letter!r} is not the letter of an option.")
    return letter


def with_options(text: str, options: Sequence[Any]) -> str:
    """Return the question with its lettered options."""
    return "\n".join([text, *(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))])


def with_missing_options(text: str, options: Sequence[Any]) -> str:
    """Return the question with its lettered options, unless it has them already."""

    def has(letter: str, option: str) -> bool:
        lettered = re.match(rf"\(?{letter}[.):]", option) is not None
        before = "" if lettered else rf"{letter}[.):]\s*"
        return re.search(rf"(?<!\w){before}{re.escape(option)}", text) is not None

    complete = all(has(letter, str(option)) for letter, option in zip(LETTERS, options, strict=False))
    return text if complete else with_options(text, options)


def without_point_format(text: str) -> str:
    """Return a question without the instruction about the form of points."""
    return _FORMAT_OF_POINTS.sub("", text).strip()


def json_rows(path: Path) -> Iterable[Row]:
    """Return the questions of a JSON list, each with its place for messages.

    :raises BenchmarkError: the file is no list of JSON objects.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise BenchmarkError(f"{path} does not contain a list of questions.")
    for number, row in enumerate(content, 1):
        where = f"{path}, question {number}"
        if not isinstance(row, dict):
            raise BenchmarkError(f"{where} is not a JSON object.")
        yield row, where


def _decoded(text: Any, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) and text else _no_image(where)
    except ValueError as error:
        raise BenchmarkError(f"{where}: the image is not base64.") from error


def _no_image(where: str) -> bytes:
    raise BenchmarkError(f"{where} has no image.")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


_TABLES: tuple[tuple[str, frozenset[str], str, Callable[[Reading, Iterable[Row]], None]], ...] = (
    ("VSI-Bench", frozenset({"scene_name", "question_type", "ground_truth"}), "", vsi_bench),
    ("CV-Bench", frozenset({"prompt", "source", "filename"}), "", cv_bench),
    ("BLINK", frozenset({"prompt", "sub_task", "image_1"}), "val", blink),
    ("SAT", frozenset({"answers", "correct_answer"}), "test", sat),
    ("ERQA", frozenset({"question", "images", "visual_indices"}), "test", erqa),
    ("RoboSpatial-Home", frozenset({"category", "question", "answer", "img"}), "", robospatial),
)
"""Format, columns that only its tables have, the split in the names of its files, and reader."""


def read_tables(reading: Reading, tables: Sequence[Table]) -> None:
    """Read the tables of a folder, whose columns identify the benchmark.

    :raises BenchmarkError: no benchmark has such columns, or a row is damaged.
    """
    columns = tables[0].columns
    if columns >= {"prompt", "suffix", "mask", "object"}:
        reading.name = "RefSpatial-Bench"
        refspatial_tables(reading, tables)
        return
    for name, needed, split, read in _TABLES:
        if needed <= columns:
            reading.name = name
            chosen = selected(tables, split) if split else list(tables)
            read(reading, (row for table in chosen for row in table.rows()))
            return
    raise BenchmarkError(f"{tables[0].path} has the columns {', '.join(sorted(columns))}, which no known benchmark has.")


def read_annotations(reading: Reading) -> None:
    """Read annotations.json, which the download program of RoboSpatial-Home writes."""
    robospatial(reading, json_rows(reading.folder / "annotations.json"))
