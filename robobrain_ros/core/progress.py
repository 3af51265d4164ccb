"""The progress of a robot's task, from scores with which a model compares two moments.

A comparison shows a model eight images and asks how much closer the robot came to the goal from one moment, *before*, to another,
*after*. The model answers with a score in percent. The meaning of the scores and the formulas are those of examples/inference.py
of FlagOpen/Robo-Dopamine:

- A positive score is the part of the remaining way that the robot covered: 50 means half of the way from *before* to the goal.
- A negative score is the part of the way from the start to *before* that was undone: -50 means half of that way.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from statistics import median
from typing import TypeVar

from robobrain_ros.errors import BadRequestError

VIEWS = ("front", "left wrist", "right wrist")
"""Cameras of one moment, in the order of the prompt."""
IMAGES_OF_COMPARISON = 2 + 2 * len(VIEWS)
"""Images of one comparison: start and end of the task as references, and two moments with three views each."""
FULL_SCORE = 100
"""The score of the whole way, in percent."""


class Perspective(str, Enum):
    """The moment *before* in a comparison with the newest moment.

    INCREMENTAL: the previous moment. FORWARD: the start of the task. BACKWARD: the end of the task, as the reference shows it.
    """

    INCREMENTAL = "incremental"
    FORWARD = "forward"
    BACKWARD = "backward"


_Image = TypeVar("_Image")


def comparison(
    reference_start: _Image, reference_end: _Image, before: Sequence[_Image], after: Sequence[_Image]
) -> tuple[_Image, ...]:
    """Return the images of a query of `Task.PROGRESS`, in the order of the prompt. They can have any type.

    :param reference_start: front view of the task's start, from this run or an earlier one.
    :param reference_end: front view of the completed task.
    :param before: one to three views of the earlier moment, in the order of `VIEWS`. The front view stands in for missing wrist
        views, as in the official code, which repeats the image of the goal in this way.
    :param after: the views of the later moment. The sizes of the images may differ.
    :raises BadRequestError: a moment has no view or more than three, or the moments have different numbers of views.
    """
    if not 1 <= len(before) <= len(VIEWS) or len(before) != len(after):
        raise BadRequestError(
            f"The earlier moment has {len(before)} views, and the later moment has {len(after)}. Both must have the same number "
            f"of views, 1 to {len(VIEWS)}: {', '.join(VIEWS)}."
        )
    return (reference_start, reference_end, *_three_views(before), *_three_views(after))


def _three_views(views: Sequence[_Image]) -> tuple[_Image, ...]:
    return (*views, *[views[0]] * (len(VIEWS) - len(views)))


def progress_after(before: float, score: float) -> float:
    """Return the progress at a moment, from the progress at an earlier moment and the score of their comparison.

    :param before: 0 to 1.
    :param score: -1 to 1.
    """
    return before + (score * (1.0 - before) if score >= 0.0 else score * before)


@dataclass(frozen=True)
class ProgressEstimate:
    """The progress at one moment. All values are parts of the whole task.

    :param progress: 0 (start) to 1 (completed): the median of the perspectives.
    :param change: difference to the previous estimate, -1 to 1.
    :param uncertainty: the largest difference between two perspectives, 0 to 1. NaN: there is only one perspective.
    :param by_perspective: the progress according to each perspective.
    """

    progress: float
    change: float
    uncertainty: float
    by_perspective: Mapping[Perspective, float] = field(hash=False)


class ProgressTracker:
    """Follows the progress of one run of a task, from 0.

    The perspectives have different errors. The errors of incremental scores add up over the run, and those of the others do not.
    The official code fuses the perspectives by their mean. The median hardly changes with a single wrong score. At the first
    moment, the incremental score is the forward one, and therefore the median: early in a task, the start is easier to compare
    with than the end.
    """

    def __init__(self) -> None:
        self._incremental = 0.0
        self._progress = 0.0

    @property
    def progress(self) -> float:
        """The newest progress, 0 to 1."""
        return self._progress

    def update(self, scores: Mapping[Perspective, int]) -> ProgressEstimate:
        """Add the scores of the newest moment, in percent.

        Without an incremental score, the next incremental score continues from the newest progress.

        :raises ValueError: there is no score, or a score is not from -100 to 100.
        """
        if not scores or any(not -FULL_SCORE <= score <= FULL_SCORE for score in scores.values()):
            raise ValueError(f"Each score must be from -{FULL_SCORE} to {FULL_SCORE} %, not {dict(scores)}.")
        values = {perspective: self._progress_of(perspective, score / FULL_SCORE) for perspective, score in scores.items()}
        progress = median(values.values())
        spread = max(values.values()) - min(values.values()) if len(values) > 1 else math.nan
        estimate = ProgressEstimate(progress, progress - self._progress, spread, values)
        self._progress = progress
        self._incremental = values.get(Perspective.INCREMENTAL, progress)
        return estimate

    def _progress_of(self, perspective: Perspective, score: float) -> float:
        if perspective is Perspective.FORWARD:
            progress = score
        elif perspective is Perspective.BACKWARD:
            progress = 1.0 + score
        else:
            progress = progress_after(self._incremental, score)
        return min(max(progress, 0.0), 1.0)
