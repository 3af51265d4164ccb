"""The ends of requests as JSON, so that an interrupted program continues with them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from robobrain_ros.core.plans.request import PlanVerdict
from robobrain_ros.core.query import Answer, AnswerContent, Box, PlanStep, Point, Report, Task
from robobrain_ros.errors import OutcomeCode, RoboBrainError, error_of

MODEL_ENDED = (
    OutcomeCode.OK, OutcomeCode.NOTHING_FOUND, OutcomeCode.UNPARSABLE_ANSWER, OutcomeCode.INFEASIBLE_PLAN,
)  # fmt: skip
"""Outcomes of requests that the model completed. Their latency counts."""
_PARTS: Mapping[str, type] = {"points": Point, "boxes": Box, "waypoints": Point, "steps": PlanStep}


def content_to_json(content: AnswerContent) -> dict[str, Any]:
    """Return the content of an answer as JSON, without empty fields."""
    plain = {name: value for name, value in asdict(content).items() if value not in ("", (), None)} if content else {}
    return plain | {"task": content.task.value, "verdict": content.verdict.value}


def content_from_json(row: Mapping[str, Any]) -> AnswerContent:
    """Return the content of an answer from JSON."""
    fields: dict[str, Any] = dict(row) | {"task": Task(row["task"]), "verdict": PlanVerdict(row["verdict"])}
    for name, kind in _PARTS.items():
        fields[name] = tuple(kind(**part) for part in row.get(name, ()))
    return AnswerContent(**fields)


@dataclass(frozen=True)
class Ended:
    """The end of a request that the model completed.

    :param content: the answer. None: ``code`` and ``message`` are those of the error.
    :param text: the unchanged text of the model.
    :param sizes: (width, height) of each image after resizing for the model.
    """

    code: OutcomeCode
    message: str
    content: AnswerContent | None
    text: str
    sizes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, end: Answer | RoboBrainError) -> "Ended | None":
        """Return the end of a request, or None if the model did not complete it."""
        if isinstance(end, RoboBrainError):
            sizes = () if end.report is None else tuple(end.report.model_image_sizes)
            return cls(end.code, end.message, None, end.raw_text, sizes) if end.code in MODEL_ENDED else None
        content = AnswerContent(**{name: getattr(end, name) for name in AnswerContent.__dataclass_fields__})
        return cls(OutcomeCode.OK, "", content, end.report.raw_text, tuple(end.report.model_image_sizes))

    def again(self) -> Answer:
        """Return the answer, with a report of its text and its sizes.

        :raises RoboBrainError: the request ended with this error.
        """
        report = Report(raw_text=self.text, model_image_sizes=list(self.sizes))
        if self.content is None:
            error = error_of(self.code, self.message)
            error.raw_text, error.report = self.text, report
            raise error
        return Answer(**vars(self.content), report=report)

    def to_json(self) -> dict[str, Any]:
        """Return the end as JSON."""
        content = None if self.content is None else content_to_json(self.content)
        return {"code": self.code.name, "message": self.message, "content": content, "text": self.text, "sizes": self.sizes}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Ended":
        """Return the end from JSON.

        :raises ValueError: a value is wrong. KeyError, TypeError, AttributeError: the JSON has another form.
        """
        content = None if row["content"] is None else content_from_json(row["content"])
        code, sizes = OutcomeCode[row["code"]], tuple((int(width), int(height)) for width, height in row["sizes"])
        if (
            code not in MODEL_ENDED
            or (content is None) == (code is OutcomeCode.OK)
            or not all(isinstance(row[name], str) for name in ("message", "text"))
        ):
            raise ValueError
        return cls(code, row["message"], content, row["text"], sizes)
