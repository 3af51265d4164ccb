"""The questions of public benchmarks, and the files that they consist of."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from robobrain_ros.bounds.files import UnreadableFileError, read_small_text
from robobrain_ros.bounds.json_text import parse_json
from robobrain_ros.bounds.texts import one_line, shortened
from robobrain_ros.demo import DemoError

PUBLISHED, FLAGEVAL = "published", "flageval"
"""Protocols: that of a benchmark's authors, and that of FlagEvalMM where it differs."""
Media = Path | bytes
"""An image file, or its content."""
_LONGEST_MESSAGE = 1000
"""Characters of a message, because files can have names and values of any length."""
_LARGEST_FILE = 1 << 30
"""Maximum size in bytes of a benchmark's list of questions."""


class BenchmarkError(DemoError):
    """A benchmark's folder cannot be used. The message names the file and the fault, in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(shortened(one_line(message), _LONGEST_MESSAGE))


@dataclass(frozen=True)
class Clip:
    """A part of a video. ``first`` and ``last`` are the numbers of its frames from 0; ``last`` is None for the end."""

    path: Path
    first: int = 0
    last: int | None = None


@dataclass(frozen=True)
class Item:
    """A question of a benchmark.

    :param kind: "point" (``mask`` or ``polygon`` says where), "choice" (``answer`` is the option's letter), "yes-no" or "number".
    :param answer: the right answer of the other kinds than "point".
    :param mask: the image's pixels above ``mask_level`` are right.
    :param graded: whether a point counts as much as the mask is bright there, from 0 to 1, as in FlagEvalMM.
    :param polygon: corners as fractions of the width and of the height. The first point of the answer must be inside. It takes
        precedence over the mask.
    :param target: a description of the object, with which families other than RoboBrain are asked. Empty: ``text``.
    :param category: kind of the question within the benchmark.
    :param max_tokens: token limit of the answer.
    :param begins: whether a yes-no answer must begin with the right word. False: the last yes or no counts.
    """

    identity: str
    kind: str
    text: str
    images: tuple[Media, ...]
    answer: str = ""
    mask: Media | None = None
    mask_level: int = 127
    graded: bool = False
    polygon: tuple[tuple[float, float], ...] = ()
    clip: Clip | None = None
    target: str = ""
    category: str = ""
    max_tokens: int = 512
    begins: bool = False


@dataclass(frozen=True)
class Benchmark:
    """Questions of one folder.

    :param skipped: number of questions by the reason why they cannot be scored here.
    :param format: name of the format of the folder.
    :param rule: how scores become the benchmark's score: "mean", "cv-bench" or "vsi-bench", see `scoring.total`.
    """

    name: str
    items: list[Item]
    skipped: dict[str, int] = field(default_factory=dict)
    format: str = ""
    rule: str = "mean"


def read_text(path: Path) -> str:
    """Return the text of a benchmark's file.

    :raises BenchmarkError: the file cannot be read.
    """
    try:
        return read_small_text(path, _LARGEST_FILE)
    except UnreadableFileError as error:
        raise BenchmarkError(f"{path} cannot be read: {error}.") from error


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    :raises BenchmarkError: the file cannot be read, or is not JSON.
    """
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise BenchmarkError(f"{path} is not JSON: {error}.") from error


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


def json_lines(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the JSON object of each line, and its place for messages.

    :raises BenchmarkError: see `json_object`.
    """
    # str.splitlines would also split at characters that texts can contain, such as U+2028.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield json_object(line, f"{path}, line {number}"), f"{path}, line {number}"


def required(row: dict[str, Any], name: str, where: str) -> str:
    """Return the text or the whole number of a field.

    :raises BenchmarkError: the field is missing or empty, or has another type.
    """
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


def media(value: Any, folder: Path, where: str, name: str) -> Media:
    """Return the image in a field of a row: the path of a file, or the content as in the hub's Parquet files.

    :raises BenchmarkError: the field has no image.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if isinstance(value, str) and value.strip():
        return path_inside(folder, value, where)
    raise BenchmarkError(f"{where} has no {name}.")


def read_pixels(image: Media) -> npt.NDArray[np.uint8]:
    """Return an image as RGB (height, width, 3)."""
    from PIL import Image

    with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
        return np.asarray(opened.convert("RGB"))


def read_mask(item: Item) -> npt.NDArray[np.bool_]:
    """Return the mask of a question with a mask: (height, width), true where a point is right."""
    return read_brightness(item) > item.mask_level


def read_brightness(item: Item) -> npt.NDArray[np.uint8]:
    """Return the brightness of the mask of a question with a mask: (height, width), 0 to 255."""
    from PIL import Image

    assert item.mask is not None, "the question has a mask"
    with Image.open(io.BytesIO(item.mask) if isinstance(item.mask, bytes) else item.mask) as opened:
        return np.asarray(opened.convert("L"))
