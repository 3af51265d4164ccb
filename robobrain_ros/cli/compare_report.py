"""The results of a comparison: the latency of each model, and the agreement of each pair of models."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import mean, median
from typing import Any

from robobrain_ros.bags.questions import Question
from robobrain_ros.cli.answer_json import content_to_json
from robobrain_ros.cli.compare_answers import StoredAnswer
from robobrain_ros.cli.compare_options import ComparedModel, Comparison
from robobrain_ros.core.query import Task
from robobrain_ros.errors import OutcomeCode
from robobrain_ros.evaluation.agreement import TOLERANCE, Agreement, agreement
from robobrain_ros.evaluation.metrics import LEAST_OVERLAP

NOT_CORRECTNESS = (
    "Agreement is not correctness: models that agree can be wrong together. Only answers with content are compared. An answer "
    "that nothing was found and an answer that cannot be read never count as agreement."
)
_MEASURES: Mapping[Task, str] = {
    Task.TRAJECTORY: f"Fréchet distance of at most {TOLERANCE:.0%} of the diagonal",
    Task.PLAN: "the same steps",
    Task.ASK: "the same text, or the same yes or no",
}
_OF_TARGETS = f"points within {TOLERANCE:.0%} of the diagonal, boxes with an IoU of at least {LEAST_OVERLAP:g}"
Pair = tuple[str, str]
"""The names of two models."""


def measure_of(task: Task) -> str:
    """Return what agreement means for a task."""
    return _MEASURES.get(task, _OF_TARGETS)


@dataclass(frozen=True)
class Selected:
    """A selected image of the bag.

    :param frame: its identity.
    :param seconds: its time since the start of the bag.
    :param stamp: its stamp in ns.
    :param questions: indices of the questions about it.
    """

    number: int
    frame: str
    camera: str
    seconds: float
    stamp: int
    questions: tuple[int, ...]


@dataclass(frozen=True)
class Latency:
    """Latency of requests in seconds: median and 95th percentile. NaN: unknown."""

    median: float
    p95: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Latency":
        """Return the latency of these requests."""
        ordered = sorted(values)
        if not ordered:
            return cls(math.nan, math.nan)
        return cls(median(ordered), ordered[math.ceil(0.95 * len(ordered)) - 1])

    def __str__(self) -> str:
        return "unknown" if math.isnan(self.median) else f"{self.median:.2f} s, {self.p95:.2f} s"


@dataclass(frozen=True)
class ModelResult:
    """The requests to one model.

    :param served: names of the model, the engine and the profile in the reports of the requests.
    :param outcomes: number of requests by outcome.
    :param total: latency of the requests that the model completed. ``first_token``: until the first token.
    :param at_once: largest numbers of requests at the same time.
    """

    model: ComparedModel
    served: tuple[str, str, str]
    outcomes: Counter[str]
    total: Latency
    first_token: Latency
    tokens: float
    at_once: tuple[int, ...]

    def counts(self) -> tuple[int, int, int, int]:
        """Return the number of answers, of answers that nothing was found, of unreadable answers and of failed requests."""
        answered, nothing, unreadable = (
            self.outcomes[code.name] for code in (OutcomeCode.OK, OutcomeCode.NOTHING_FOUND, OutcomeCode.UNPARSABLE_ANSWER)
        )
        return answered, nothing, unreadable, self.outcomes.total() - answered - nothing - unreadable


@dataclass(frozen=True)
class FrameResult:
    """The answers of all models to one question about one image.

    :param answers: by the name of the model.
    :param pairs: the agreement by pair. None: at most one of both answered.
    :param share: mean agreement of the pairs; 0 for a pair of which only one answered. None: no pair has an answer.
    """

    selected: Selected
    answers: Mapping[str, StoredAnswer]
    pairs: Mapping[Pair, Agreement | None]
    share: float | None
    closeness: float

    @property
    def order(self) -> tuple[float, float, int]:
        """The least agreement first. Images that no model answered are last."""
        return 2.0 if self.share is None else self.share, self.closeness, self.selected.number


@dataclass(frozen=True)
class PairResult:
    """The agreement of two models over several images.

    :param both: number of questions that both answered. ``only``: that only the first, and only the second answered.
    :param share: mean agreement of the questions that both answered. NaN: there are none.
    :param distance: median distance in pixels: of points that belong together, or of trajectories. NaN: there is none.
    :param overlap: mean IoU. NaN: no boxes.
    :param same_word: number of the same yes or no, of ``words`` questions that both answered with yes or no.
    """

    pair: Pair
    both: int
    only: tuple[int, int]
    neither: int
    share: float
    distance: float
    overlap: float
    same_word: int
    words: int

    def details(self) -> str:
        """Return the finer measures as text."""
        parts = [] if math.isnan(self.distance) else [f"median distance {self.distance:.1f} px"]
        parts += [] if math.isnan(self.overlap) else [f"mean IoU {self.overlap:.2f}"]
        parts += [f"yes or no: the same in {self.same_word} of {self.words}"] if self.words else []
        return ", ".join(parts)

    def share_text(self) -> str:
        """Return the agreement in percent."""
        return "-" if math.isnan(self.share) else f"{self.share:.0%}"


@dataclass(frozen=True)
class Results:
    """The results of a comparison.

    :param frames: by the index of the question, the least agreement first.
    :param questions: agreement by question and pair. ``tasks``: by task and pair.
    """

    comparison: Comparison
    models: list[ModelResult]
    frames: list[list[FrameResult]]
    questions: list[list[PairResult]]
    tasks: dict[Task, list[PairResult]]


def results_of(
    comparison: Comparison, selected: Sequence[Selected], answers: Mapping[tuple[str, int, str], StoredAnswer]
) -> Results:
    """Return the results.

    :param answers: by the name of the model, the index of the question and the frame.
    """
    names = [model.name for model in comparison.models]
    frames: list[list[FrameResult]] = []
    for index, question in enumerate(comparison.questions):
        own = [each for each in selected if index in each.questions]
        found = [_frame(question, each, {name: answers[name, index, each.frame] for name in names}) for each in own]
        frames.append(sorted(found, key=lambda frame: frame.order))
    pairs = list(combinations(names, 2))
    by_task: dict[Task, list[FrameResult]] = {}
    for question, own_frames in zip(comparison.questions, frames, strict=True):
        by_task.setdefault(question.task, []).extend(own_frames)
    return Results(
        comparison,
        [
            _model(model, [answer for (name, _, _), answer in answers.items() if name == model.name])
            for model in comparison.models
        ],
        frames,
        [[_pair(pair, own) for pair in pairs] for own in frames],
        {task: [_pair(pair, own) for pair in pairs] for task, own in by_task.items()},
    )


def _frame(question: Question, selected: Selected, answers: Mapping[str, StoredAnswer]) -> FrameResult:
    pairs: dict[Pair, Agreement | None] = {}
    shares, closeness = [], []
    for one, other in combinations(answers, 2):
        a, b = answers[one], answers[other]
        pairs[one, other] = None
        if a.content is not None and b.content is not None and a.is_answer and b.is_answer:
            found = pairs[one, other] = agreement(question.task, a.content, b.content, a.size)
            shares.append(found.share)
            closeness.append(found.closeness)
        elif a.is_answer or b.is_answer:
            shares.append(0.0)
            closeness.append(0.0)
    return FrameResult(selected, answers, pairs, mean(shares) if shares else None, mean(closeness) if closeness else 0.0)


def _pair(pair: Pair, frames: Sequence[FrameResult]) -> PairResult:
    found = [each for frame in frames if (each := frame.pairs[pair]) is not None]
    answered = [[frame.answers[name].is_answer for name in pair] for frame in frames]
    distances = [distance for each in found for distance in each.distances]
    overlaps = [each.overlap for each in found if each.overlap is not None]
    words = [each.same_word for each in found if each.same_word is not None]
    return PairResult(
        pair,
        len(found),
        (answered.count([True, False]), answered.count([False, True])),
        answered.count([False, False]),
        mean(each.share for each in found) if found else math.nan,
        median(distances) if distances else math.nan,
        mean(overlaps) if overlaps else math.nan,
        sum(words),
        len(words),
    )


def _model(model: ComparedModel, answers: Sequence[StoredAnswer]) -> ModelResult:
    ended = [answer for answer in answers if answer.model_ended]
    return ModelResult(
        model,
        next((answer.served for answer in reversed(answers) if answer.served[0]), ("", "", "")),
        Counter(answer.code for answer in answers),
        Latency.of([answer.seconds for answer in ended]),
        Latency.of([answer.first_token for answer in ended if answer.first_token]),
        mean(answer.tokens for answer in ended) if ended else math.nan,
        tuple(sorted({answer.at_once for answer in ended})),
    )


MODEL_HEAD = (
    "model", "answered", "nothing found", "unreadable", "failed", "latency: median, p95", "first token: median, p95", "tokens",
)  # fmt: skip
PAIR_HEAD = ("models", "both answered", "only first", "only second", "neither", "agreement", "details")


def model_row(result: ModelResult) -> list[str]:
    """Return the cells of `MODEL_HEAD`."""
    tokens = "unknown" if math.isnan(result.tokens) else f"{result.tokens:.0f}"
    return [result.model.name, *map(str, result.counts()), str(result.total), str(result.first_token), tokens]


def pair_row(result: PairResult) -> list[str]:
    """Return the cells of `PAIR_HEAD`."""
    counts = map(str, (result.both, *result.only, result.neither))
    return [" and ".join(result.pair), *counts, result.share_text(), result.details()]


def text_tables(results: Results) -> str:
    """Return the models, and the agreement for each question, as tables in text."""
    comparison = results.comparison
    agreements = [
        [comparison.title(question)[:40], *pair_row(pair)]
        for question, pairs in zip(comparison.questions, results.questions, strict=True)
        for pair in pairs
    ]
    tables = [[list(MODEL_HEAD), *map(model_row, results.models)], [["question", *PAIR_HEAD], *agreements]]
    return "\n\n".join(map(_text_table, tables))


def _text_table(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def to_json(results: Results) -> dict[str, Any]:
    """Return all results as JSON. Coordinates are in pixels of the camera's image, and times in seconds."""
    comparison = results.comparison
    return {
        "bag": str(comparison.source.path),
        "note": NOT_CORRECTNESS,
        "models": [_model_json(model) for model in results.models],
        "tasks": {task.value: [_pair_json(pair) for pair in pairs] for task, pairs in results.tasks.items()},
        "questions": [
            {
                "question": comparison.title(question),
                "task": question.task.value,
                "text": question.text,
                "agreement": [_pair_json(pair) for pair in pairs],
                "images": [_frame_json(frame) for frame in frames],
            }
            for question, pairs, frames in zip(comparison.questions, results.questions, results.frames, strict=True)
        ],
    }


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, 6)


def _model_json(result: ModelResult) -> dict[str, Any]:
    model, engine, profile = result.served
    return {
        "name": result.model.name, "where": result.model.where, "model": model, "engine": engine, "profile": profile,
        "options": {name: str(value) for name, value in result.model.engine.items()}, "outcomes": dict(result.outcomes),
        "latency": {name: _number(value) for name, value in asdict(result.total).items()},
        "first_token": {name: _number(value) for name, value in asdict(result.first_token).items()},
        "tokens": _number(result.tokens), "at_once": list(result.at_once),
    }  # fmt: skip


def _pair_json(result: PairResult) -> dict[str, Any]:
    return {
        "models": list(result.pair), "both_answered": result.both, "only_first": result.only[0], "only_second": result.only[1],
        "neither": result.neither, "agreement": _number(result.share), "median_distance": _number(result.distance),
        "mean_iou": _number(result.overlap), "same_yes_or_no": result.same_word, "yes_or_no": result.words,
    }  # fmt: skip


def _frame_json(frame: FrameResult) -> dict[str, Any]:
    return {
        "number": frame.selected.number, "camera": frame.selected.camera, "stamp": frame.selected.stamp,
        "seconds": round(frame.selected.seconds, 6), "agreement": _number(frame.share),
        "answers": {
            name: {
                "outcome": answer.code, "message": answer.message, "seconds": _number(answer.seconds),
                "first_token": _number(answer.first_token) or None, "text": answer.text,
                "content": None if answer.content is None else content_to_json(answer.content),
            }
            for name, answer in frame.answers.items()
        },
    }  # fmt: skip
