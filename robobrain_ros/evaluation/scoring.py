"""Score answers to benchmarks' questions, and combine the scores of a benchmark."""

import re
from collections.abc import Mapping, Sequence
from statistics import mean

from robobrain_ros.core.query import Answer, Point
from robobrain_ros.evaluation.benchmark_item import Item, read_brightness, read_mask

_LEVELS = tuple(0.5 + 0.05 * step for step in range(10))
"""Levels of the mean relative accuracy of VSI-Bench."""
_DIRECTIONS = "object_rel_direction"
_MARKS = r"[\s:*_$(\[<>\"'`]*(?:\\(?:boxed|text|mathrm|mathbf)\{)*"
"""Characters before a letter or number: Markdown, brackets, quotation marks and LaTeX."""
_AFTER_ANSWER = re.compile(
    rf"(?i:\banswer)(?:\s+(?i:is))?{_MARKS}(?:(?i:option|choice){_MARKS})?([A-Z]\b|[a-z]\b(?!\s*[\w']))(?!')"
)
_FIRST_WORD = re.compile(rf"{_MARKS}(?:(?i:option|choice){_MARKS})?([B-HJ-Z]|[AI](?![ \t]+[a-z]))(?![\w'-])")
_AFTER_OPTION = re.compile(rf"(?:\b(?i:option|choice)(?:\s+is)?{_MARKS}|\\boxed\{{{_MARKS})([A-Z])\b")
_NUMBER = r"(-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|-?\.\d+)"


def score_item(item: Item, answer: Answer, size: tuple[int, int]) -> float:
    """Return the score of an answer from 0 to 1.

    For points: the share that is in the mask, or whether the first one is in the polygon. In a graded mask, each point counts as
    much as the mask is bright there. For numbers: the mean relative
    accuracy. Otherwise, whether the letter or the word is right.

    :param size: (width, height) of the image in pixels.
    """
    if item.polygon:
        first = next(iter(answer.points), None)
        return float(first is not None and not first.clamped and _inside(first, item.polygon, size))
    if item.mask is not None:
        mask = read_brightness(item) / 255 if item.graded else read_mask(item)
        hits = [0.0 if point.clamped else float(mask[round(point.v), round(point.u)]) for point in answer.points]
        return mean(hits) if hits else 0.0
    if item.kind == "number":
        return relative_accuracy(answer.text, float(item.answer))
    if item.kind == "choice":
        return float(letter_of(answer.text) == item.answer)
    if item.begins:
        return float(answer.text.strip().lower().startswith(item.answer))
    return float(_yes_or_no(answer.text) == item.answer)


def letter_of(text: str) -> str:
    """Return the option's letter: after the last "answer", as the first word, or after the last "option" or boxed in LaTeX.

    Empty: the answer has none. "A", "I" and, after "answer", small letters count only if no word follows, because they are words.
    """
    after = _AFTER_ANSWER.findall(text)
    if after:
        return str(after[-1]).upper()
    found = _FIRST_WORD.match(text)
    if found:
        return found.group(1)
    options = _AFTER_OPTION.findall(text)
    return str(options[-1]) if options else ""


def relative_accuracy(text: str, right: float) -> float:
    """Return the mean relative accuracy of the number in an answer: the share of the levels 0.50, 0.55 ... 0.95 that it reaches.

    The number is the last one after "answer", otherwise the first one.
    """
    after = re.findall(rf"answer(?:\s+is)?{_MARKS}(?:(?:about|approximately)\s+)?{_NUMBER}", text, re.IGNORECASE)
    found = after[-1:] or re.findall(_NUMBER, text)[:1]
    if not found:
        return 0.0
    number = float(found[0].replace(",", ""))
    if right == 0:
        return float(number == 0)
    error = abs(number - right) / abs(right)
    return mean(error <= 1 - level + 1e-9 for level in _LEVELS)


def _yes_or_no(text: str) -> str:
    words = re.findall(r"\b(yes|no)\b", text.lower())
    return str(words[-1]) if words else ""


def _inside(point: Point, polygon: Sequence[tuple[float, float]], size: tuple[int, int]) -> bool:
    """Return whether a point is in a polygon of fractions of the image: an odd number of edges is to the right of it."""
    x, y = (point.u + 0.5) / size[0], (point.v + 0.5) / size[1]
    inside = False
    for (x1, y1), (x2, y2) in zip(polygon, (*polygon[-1:], *polygon[:-1]), strict=True):
        if (y1 > y) != (y2 > y) and x < (x2 - x1) * (y - y1) / (y2 - y1) + x1:
            inside = not inside
    return inside


def total(items: Sequence[Item], scores: Mapping[str, float], rule: str) -> float:
    """Return the score of a benchmark.

    "mean": the mean of all questions. "cv-bench": the mean of 2D and 3D, and 2D is the mean of ADE20K and COCO. "vsi-bench": the
    mean of the kinds of questions; those about directions are one kind, with the mean of their three levels.

    :param scores: scores by the identity of the question. Questions without a score are left out.
    """
    by_category: dict[str, list[float]] = {}
    for item in items:
        if item.identity in scores:
            by_category.setdefault(item.category, []).append(scores[item.identity])
    means = {category: mean(values) for category, values in by_category.items()}
    if rule == "cv-bench":
        flat = [value for source, value in means.items() if source.upper().startswith(("ADE", "COCO"))]
        solid = [value for source, value in means.items() if not source.upper().startswith(("ADE", "COCO"))]
        return mean([mean(values) for values in (flat, solid) if values])
    if rule == "vsi-bench":
        directions = [value for kind, value in means.items() if kind.startswith(_DIRECTIONS)]
        others = [value for kind, value in means.items() if not kind.startswith(_DIRECTIONS)]
        return mean([*others, *([mean(directions)] if directions else [])])
    return mean(score for values in by_category.values() for score in values)
