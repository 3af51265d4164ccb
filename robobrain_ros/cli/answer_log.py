"""A file with the answers of an evaluation, so that an interrupted evaluation continues where it ended."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from robobrain_ros.bounds.files import UnreadableFileError, read_small_text
from robobrain_ros.cli.answer_json import Ended
from robobrain_ros.demo import DemoError
from robobrain_ros.evaluation.benchmark_item import Item
from robobrain_ros.evaluation.benchmarks import ItemResult

_LARGEST = 1 << 30
_BEGIN = '{"settings": '
_Key = tuple[str, str, bool, str, str]


class RowLog:
    """Reads and appends JSON Lines: the settings, then one row for each answer.

    :param path: the file. It is created if it does not exist.
    :param settings: everything whose answers must not be mixed. It must be JSON.
    :param what: the origin of the file, and ``unit`` what users name instead: "file" or "folder"; for messages.
    :raises DemoError: the file cannot be read or written, or it has the answers of an evaluation with other settings.
    """

    def __init__(
        self, path: Path, settings: dict[str, Any], what: str = "check_consistency --resume", unit: str = "file"
    ) -> None:
        self.path, self._what, self._unit = path, what, unit
        self.rows: list[dict[str, Any]] = []
        """The rows of earlier runs. Row number ``n`` is line ``n + 2`` of the file."""
        settings = json.loads(json.dumps(settings))
        existed = path.exists()
        complete = self._read(settings) if existed else 0
        try:
            self._file: IO[str] = path.open("r+" if existed else "w", encoding="utf-8")
            self._file.truncate(complete)  # The last line is incomplete if the program was killed.
            self._file.seek(complete)
        except OSError as error:
            raise DemoError(f"{path} cannot be written: {error.strerror}.") from error
        if not complete:
            self.write({"settings": settings})

    def write(self, row: dict[str, Any]) -> None:
        """Append a row.

        :raises DemoError: the disk is full.
        """
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            raise DemoError(f"{self.path} cannot be written: {error.strerror}.") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def wrong_line(self, number: int) -> DemoError:
        """Return the error for a line of the file that is none of this program's."""
        return DemoError(f"{self.path}, line {number} is not a line of {self._what}. Use another {self._unit}.")

    def _read(self, settings: dict[str, Any]) -> int:
        """Read the complete lines, and return their length in bytes."""
        path = self.path
        try:
            text = read_small_text(path, _LARGEST)
        except UnreadableFileError as error:
            raise DemoError(f"{path} cannot be read: {error}.") from error
        lines = text[: text.rfind("\n") + 1].split("\n")[:-1]
        if not lines and not (text.startswith(_BEGIN) or _BEGIN.startswith(text)):
            raise DemoError(f"{path} is not a file of {self._what}. Use another {self._unit}.")
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                if number > 1:
                    self.rows.append(row)
                    continue
                known = dict(row["settings"])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise self.wrong_line(number) from error
            changed = sorted(name for name in {*known, *settings} if known.get(name) != settings.get(name))
            if changed:
                raise DemoError(
                    f"{path} has answers of an evaluation with another value of {', '.join(changed)}. Use the same options, or "
                    f"another {self._unit}."
                )
        return len(text[: text.rfind("\n") + 1].encode())


class AnswerLog:
    """The results of an evaluation in a `RowLog`, by engine and question, and the ends of other requests.

    :param settings: everything that changes answers, such as the model and its profile.
    :raises DemoError: see `RowLog`.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._results: dict[_Key, ItemResult] = {}
        self._ended: dict[str, Ended] = {}
        self._log = RowLog(path, settings)
        for number, row in enumerate(self._log.rows, 2):
            try:
                if "request" in row:
                    self._ended[str(row["request"])] = Ended.from_json(row["end"])
                    continue
                key = row["column"], row["questions"], row["think"], row["id"], row["content"]
                self._results[key] = _result_of(row)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                raise self._log.wrong_line(number) from error

    def __len__(self) -> int:
        return len(self._results) + len(self._ended)

    def result(self, column: str, benchmark: str, think: bool, item: Item) -> ItemResult | None:
        """Return the result of a question of an engine, or None if exactly this question has not been asked."""
        return self._results.get((column, benchmark, think, item.identity, digest(item)))

    def add(self, column: str, benchmark: str, think: bool, item: Item, result: ItemResult) -> None:
        """Append a result.

        :raises DemoError: the disk is full.
        """
        content = digest(item)
        self._results[column, benchmark, think, item.identity, content] = result
        key = {"column": column, "questions": benchmark, "think": think, "id": item.identity, "content": content}
        self._log.write({**key, **asdict(result)})

    def end_of(self, request: str) -> Ended | None:
        """Return how a request ended, or None if it has not been asked. See `kept_requests.KeptRequests`."""
        return self._ended.get(request)

    def add_end(self, request: str, end: Ended) -> None:
        """Append the end of a request.

        :raises DemoError: the disk is full.
        """
        self._ended[request] = end
        self._log.write({"request": request, "end": end.to_json()})

    def close(self) -> None:
        """Close the file."""
        self._log.close()


def _result_of(row: dict[str, Any]) -> ItemResult:
    """Return the result in a row.

    :raises ValueError: a value is out of its range. For other faults, see `AnswerLog`.
    """
    width, height = map(int, row["model_size"])
    if not all(0.0 <= score <= 1.0 for score in (row["score"], *row["grids"].values())) or not isinstance(row["text"], str):
        raise ValueError
    return ItemResult(row["score"], row["text"], row["grids"], (width, height))


def digest(item: Item) -> str:
    """Return a short hash of a question, so that the answer to another question of the same id is not used.

    Of the image files, only the names and sizes count. Thus the folder can be moved.
    """
    files = [*item.images, item.mask, None if item.clip is None else item.clip.path]
    marks = [(file.name, file.stat().st_size) if isinstance(file, Path) else file for file in files]
    clip = None if item.clip is None else (item.clip.first, item.clip.last)
    content = repr((replace(item, images=(), mask=None, clip=None), marks, clip))
    return hashlib.sha256(content.encode("utf-8", "backslashreplace")).hexdigest()[:16]
