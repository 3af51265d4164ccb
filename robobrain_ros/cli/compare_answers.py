"""The answers of a comparison, and the file that keeps them, so that an interrupted comparison continues where it ended."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from robobrain_ros.cli.answer_json import MODEL_ENDED, content_from_json, content_to_json
from robobrain_ros.cli.answer_log import RowLog
from robobrain_ros.core.query import Answer, AnswerContent, Report
from robobrain_ros.errors import OutcomeCode

Key = tuple[str, str, str, str]
"""Name and digest of the model, digest of the question, and frame."""


@dataclass(frozen=True)
class StoredAnswer:
    """The end of one question about one image, asked to one model.

    :param code: name of the `OutcomeCode`.
    :param content: the answer in pixels of the camera's image. None: there is none.
    :param text: the unchanged text of the model.
    :param size: (width, height) of the image in pixels; (0, 0): it was not decoded.
    :param seconds: latency of the request. ``first_token``: until the first token; 0: unknown.
    :param tokens: tokens that the model wrote.
    :param at_once: largest number of requests at the same time.
    :param served: names of the model, the engine and the profile in the report of the request.
    """

    code: str
    message: str = ""
    content: AnswerContent | None = None
    text: str = ""
    size: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    first_token: float = 0.0
    tokens: int = 0
    at_once: int = 1
    think: bool = False
    served: tuple[str, str, str] = ("", "", "")

    @property
    def is_answer(self) -> bool:
        """Whether the answer has content."""
        return self.code == OutcomeCode.OK.name and self.content is not None

    @property
    def model_ended(self) -> bool:
        """Whether the model completed the request."""
        return self.code in [code.name for code in MODEL_ENDED]

    def to_json(self) -> dict[str, Any]:
        """Return the answer as JSON."""
        return asdict(self) | {"content": None if self.content is None else content_to_json(self.content)}


def stored(answer: Answer, size: tuple[int, int], at_once: int) -> StoredAnswer:
    """Return an answer to store."""
    known = {name: getattr(answer, name) for name in AnswerContent.__dataclass_fields__}
    content = AnswerContent(**known | {"thinking": ""})
    return StoredAnswer(OutcomeCode.OK.name, "", content, size=size, at_once=at_once, **measured(answer.report))


def measured(report: Report | None) -> dict[str, Any]:
    """Return what a report adds to a stored answer."""
    if report is None:
        return {}
    return {
        "text": report.raw_text, "seconds": report.total_time, "first_token": report.first_token_time,
        "tokens": report.answer_tokens + report.thinking_tokens, "think": report.think,
        "served": (report.model, report.engine, report.profile),
    }  # fmt: skip


@dataclass
class CompareLog:
    """The answers in a folder.

    :param path: the file.
    :param settings: what identifies the bag.
    :raises DemoError: see `RowLog`.
    """

    path: Path
    settings: dict[str, Any]
    answers: dict[Key, StoredAnswer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists() and not self.path.stat().st_size:
            self.path.unlink()
        self._log = RowLog(self.path, self.settings, "a comparison with check_consistency --bag", "folder")
        for number, row in enumerate(self._log.rows, 2):
            try:
                self.answers[tuple(row["key"])] = _from_row(row["answer"])
            except (KeyError, TypeError, ValueError) as error:
                raise self._log.wrong_line(number) from error

    def add(self, key: Key, answer: StoredAnswer) -> None:
        """Append an answer.

        :raises DemoError: the disk is full.
        """
        self.answers[key] = answer
        self._log.write({"key": list(key), "answer": answer.to_json()})

    def close(self) -> None:
        """Close the file."""
        self._log.close()


def _from_row(row: Mapping[str, Any]) -> StoredAnswer:
    content = None if row["content"] is None else content_from_json(row["content"])
    width, height = row["size"]
    model, engine, profile = row["served"]
    answer = StoredAnswer(**dict(row) | {"content": content, "size": (width, height), "served": (model, engine, profile)})
    texts = (answer.code, answer.message, answer.text, *answer.served)
    numbers = (answer.seconds, answer.first_token, answer.tokens, width, height)
    if not all(isinstance(text, str) for text in texts) or not all(map(math.isfinite, numbers)):
        raise ValueError("A text or a number of the answer is wrong.")
    return answer
