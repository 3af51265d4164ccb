"""How far two answers to the same question about the same image agree. Agreement is not correctness: both can be wrong.

All coordinates are in pixels of the camera's image.
"""

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from statistics import mean
from typing import TypeVar

from robobrain_ros.core.query import AnswerContent, Box, PlanStep, Point, Task
from robobrain_ros.core.reading.yes_or_no import read_yes_or_no
from robobrain_ros.evaluation.metrics import LEAST_OVERLAP, frechet, overlap

TOLERANCE = 0.05
"""Largest distance between two points or trajectories that agree, relative to the diagonal of the image."""
_SAMPLES = 32
"""Points of a trajectory, evenly spaced along it, for the comparison with another one."""
_Place = tuple[float, float]
_One = TypeVar("_One")
_Other = TypeVar("_Other")


@dataclass(frozen=True)
class Agreement:
    """The agreement of two answers.

    :param share: share of the parts that agree, 0 to 1. Parts without a counterpart do not agree.
    :param closeness: a finer measure for sorting, 0 to 1, that also distinguishes answers with the same share.
    :param distances: pixels between the points that belong together, or the Fréchet distance of two trajectories.
    :param overlap: mean IoU of the bounding boxes; a box without a counterpart counts as 0. None: no boxes.
    :param same_word: whether both answers are yes or both are no. None: at least one of them is neither.
    """

    share: float
    closeness: float
    distances: tuple[float, ...] = ()
    overlap: float | None = None
    same_word: bool | None = None


def agreement(task: Task, one: AnswerContent, other: AnswerContent, size: tuple[int, int]) -> Agreement:
    """Compare two answers with content.

    Points agree within `TOLERANCE`, boxes with an IoU of at least `LEAST_OVERLAP`, trajectories with a Fréchet distance within
    `TOLERANCE`, plans with the same steps, and texts that are equal without case and punctuation or have the same yes or no.

    :param size: (width, height) of the image in pixels.
    """
    diagonal = math.hypot(*size)
    if task is Task.TRAJECTORY:
        return _of_trajectories(one.waypoints, other.waypoints, diagonal)
    if task is Task.PLAN:
        return _of_plans(one, other)
    if task.spatial:
        return _of_targets(one, other, diagonal)
    return _of_texts(one.text, other.text)


def _of_targets(one: AnswerContent, other: AnswerContent, diagonal: float) -> Agreement:
    """Compare points and boxes. A point, where the other answer has a box, agrees if it is in the box."""
    count = max(len(one.targets), len(other.targets))
    if count == 0:
        return Agreement(1.0, 1.0)
    points = _matched(one.points, other.points, _apart)
    boxes = _matched(one.boxes, other.boxes, lambda a, b: 1.0 - overlap(a, b))
    mixed = _mixed(one, other, points, boxes) + _mixed(other, one, _swapped(points), _swapped(boxes))
    distances = tuple(distance for _, _, distance in points)
    overlaps = [1.0 - rest for _, _, rest in boxes]
    agree = sum(distance <= TOLERANCE * diagonal for distance in distances)
    agree += sum(value >= LEAST_OVERLAP for value in overlaps) + sum(inside for inside, _ in mixed)
    near = sum(1.0 - min(distance / diagonal, 1.0) for distance in (*distances, *(apart for _, apart in mixed)))
    most_boxes = max(len(one.boxes), len(other.boxes))
    mean_overlap = sum(overlaps) / most_boxes if one.boxes and other.boxes else None
    return Agreement(agree / count, (near + sum(overlaps)) / count, distances, mean_overlap)


def _matched(one: Sequence[_One], other: Sequence[_Other], cost: Callable[[_One, _Other], float]) -> list[tuple[int, int, float]]:
    """Return pairs (index, index, cost). The pair with the lowest cost is formed first. Each part belongs to at most one pair."""
    costs = sorted((cost(a, b), i, j) for i, a in enumerate(one) for j, b in enumerate(other))
    pairs: list[tuple[int, int, float]] = []
    left, right = set(range(len(one))), set(range(len(other)))
    for value, i, j in costs:
        if i in left and j in right:
            left.remove(i)
            right.remove(j)
            pairs.append((i, j, value))
    return pairs


def _mixed(
    one: AnswerContent, other: AnswerContent, points: Sequence[tuple[int, int, float]], boxes: Sequence[tuple[int, int, float]]
) -> list[tuple[bool, float]]:
    """Match the points of one answer without a counterpart with the boxes of the other one without a counterpart.

    :returns: for each pair, whether the point is in the box, and the distance to its centre.
    """
    free = [point for index, point in enumerate(one.points) if index not in {i for i, _, _ in points}]
    open_boxes = [box for index, box in enumerate(other.boxes) if index not in {j for _, j, _ in boxes}]
    pairs = _matched(free, open_boxes, _from_centre)
    return [(_is_inside(free[i], open_boxes[j]), distance) for i, j, distance in pairs]


def _swapped(pairs: Sequence[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    return [(j, i, value) for i, j, value in pairs]


def _apart(one: Point, other: Point) -> float:
    return math.hypot(one.u - other.u, one.v - other.v)


def _from_centre(point: Point, box: Box) -> float:
    return math.hypot(point.u - (box.u_min + box.u_max) / 2, point.v - (box.v_min + box.v_max) / 2)


def _is_inside(point: Point, box: Box) -> bool:
    return box.u_min <= point.u <= box.u_max and box.v_min <= point.v <= box.v_max


def _of_trajectories(one: Sequence[Point], other: Sequence[Point], diagonal: float) -> Agreement:
    if not one or not other:
        same = not one and not other
        return Agreement(float(same), float(same))
    distance = frechet(resampled([(point.u, point.v) for point in one]), resampled([(point.u, point.v) for point in other]))
    return Agreement(float(distance <= TOLERANCE * diagonal), 1.0 - min(distance / diagonal, 1.0), (distance,))


def resampled(path: Sequence[_Place], count: int = _SAMPLES) -> list[_Place]:
    """Return ``count`` points that are evenly spaced along a path of at least one point, with its first and last point."""
    lengths = [0.0]
    for (u, v), (x, y) in pairwise(path):
        lengths.append(lengths[-1] + math.hypot(x - u, y - v))
    if lengths[-1] == 0.0:
        return [path[0]] * count
    found: list[_Place] = []
    segment = 0
    for number in range(count):
        wanted = lengths[-1] * number / (count - 1)
        while segment < len(path) - 2 and lengths[segment + 1] < wanted:
            segment += 1
        (u, v), (x, y) = path[segment], path[segment + 1]
        length = lengths[segment + 1] - lengths[segment]
        part = min(max((wanted - lengths[segment]) / length, 0.0), 1.0) if length else 0.0
        found.append((u + (x - u) * part, v + (y - v) * part))
    return found


def _of_plans(one: AnswerContent, other: AnswerContent) -> Agreement:
    """Compare the steps of two plans. Their closeness is the share of steps in common, in the same order."""
    ours, theirs = ([_step(step) for step in sorted(each.steps, key=lambda step: step.order)] for each in (one, other))
    same = ours == theirs and one.verdict is other.verdict
    common = SequenceMatcher(None, ours, theirs, autojunk=False).ratio()
    return Agreement(float(same), common if same else min(common, 0.999))


def _step(step: PlanStep) -> tuple[int, str, str]:
    """Return what distinguishes a step: its order, its robot, and its skill with arguments or its text."""
    action = f"{step.skill} {step.arguments}" if step.skill else step.text
    return step.order, normalized(step.robot), normalized(action)


def _of_texts(one: str, other: str) -> Agreement:
    words = read_yes_or_no(one), read_yes_or_no(other)
    same_word = None if None in words else words[0] == words[1]
    texts = normalized(one), normalized(other)
    same = texts[0] == texts[1] if same_word is None else same_word
    likeness = SequenceMatcher(None, texts[0].split(), texts[1].split(), autojunk=False).ratio()
    return Agreement(float(same), mean((float(same), likeness)), same_word=same_word)


def normalized(text: str) -> str:
    """Return a text without case, punctuation and repeated spaces. A text without letters and digits is only stripped."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    letters = "".join(letter if letter.isalnum() or unicodedata.category(letter).startswith("M") else " " for letter in plain)
    return " ".join(letters.split()) or text.strip()
