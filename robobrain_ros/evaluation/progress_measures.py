"""Measures of estimated progress: correlation with the true progress, success or failure, detected slips, and false alarms."""

import argparse
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from robobrain_ros.core.progress import Perspective, ProgressTracker
from robobrain_ros.core.watching import TaskWatch, WatchLimits, WatchState
from robobrain_ros.errors import BadRequestError, OutcomeCode
from robobrain_ros.evaluation.metrics import wilson
from robobrain_ros.evaluation.rollouts import Disturbance, Rollout

Scores = Mapping[Perspective, int]
"""The scores of a frame in percent, by perspective. A comparison without a readable answer is missing."""

FUSION = "fusion"
"""Name of the median of the perspectives."""
SUCCESS = 0.9
"""Progress of the last frame from which a rollout counts as successful."""
ALARM = WatchLimits(success=1.0)
"""What counts as an alarm: the default limits of `core.watching` for a regression. A success does not end a rollout."""
FRAMES_TO_DETECT = 2
"""Frames in which a slip must be detected: the first one that shows it, and the next one. More confirmations need more frames."""


def add_alarm_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command line that say what counts as an alarm."""
    parser.add_argument(
        "--regression",
        type=float,
        default=ALARM.regression,
        help="decrease of the progress that is an alarm (default: %(default)g)",
    )
    parser.add_argument(
        "--regression-confirmations",
        type=int,
        choices=range(1, 6),
        default=ALARM.regression_confirmations,
        help="successive images that must show this decrease (default: %(default)s)",
    )


def alarm_of(parser: argparse.ArgumentParser, options: argparse.Namespace) -> WatchLimits:
    """Return the limits of the options. A wrong one ends the program, as an error of the command line."""
    try:
        return replace(ALARM, regression=options.regression, regression_confirmations=options.regression_confirmations)
    except BadRequestError as error:
        parser.error(error.message)


@dataclass(frozen=True)
class Course:
    """The estimates of a rollout.

    :param truth: true progress of each frame, 0 to 1.
    :param disturbances: for each frame, the disturbance that it shows for the first time, or None.
    :param estimates: estimated progress of each frame for each perspective and `FUSION`. The first frame is the start: 0.
    :param codes: number of requests by outcome code.
    :param seconds: time to render the rollout and to estimate its progress.
    """

    task: str
    truth: tuple[float, ...]
    disturbances: tuple[Disturbance | None, ...]
    estimates: dict[str, tuple[float, ...]]
    codes: dict[str, int]
    seconds: float = 0.0

    @property
    def succeeded(self) -> bool:
        """Whether the last frame shows the completed task."""
        return self.truth[-1] == 1.0

    @property
    def slip(self) -> int | None:
        """Index of the first frame after a slip; None: nothing slips."""
        return self.disturbances.index(Disturbance.SLIP) if Disturbance.SLIP in self.disturbances else None

    @property
    def disturbed(self) -> bool:
        """Whether a disturbance occurs."""
        return any(disturbance is not None for disturbance in self.disturbances)


def course_of(rollout: Rollout, scores: Sequence[Scores], codes: Mapping[str, int] | None = None, seconds: float = 0.0) -> Course:
    """Return the estimates of a rollout.

    If a frame has no scores, its progress is that of the previous frame.

    :param scores: those of each frame after the first one.
    :param codes: outcome codes of the requests; None: each score is a successful request.
    """
    tracker = ProgressTracker()
    tracks = {name: [0.0] for name in names()}
    for read in scores:
        values = {name: track[-1] for name, track in tracks.items()}
        if read:
            estimate = tracker.update(read)
            values |= {perspective.value: value for perspective, value in estimate.by_perspective.items()}
            values[FUSION] = estimate.progress
        for name, track in tracks.items():
            track.append(values[name])
    return Course(
        rollout.task,
        tuple(frame.progress for frame in rollout.frames),
        tuple(frame.disturbance for frame in rollout.frames),
        {name: tuple(track) for name, track in tracks.items()},
        {OutcomeCode.OK.name: sum(map(len, scores))} if codes is None else dict(codes),
        seconds,
    )


@dataclass(frozen=True)
class Row:
    """A measured value. ``low`` and ``high`` limit the 95 % interval (Wilson) of a share; None for means."""

    measure: str
    value: float
    count: int
    low: float | None = None
    high: float | None = None


def names() -> list[str]:
    """Return the names of the estimates: each perspective, and `FUSION`."""
    return [*(perspective.value for perspective in Perspective), FUSION]


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Spearman's rank correlation, -1 to 1. Equal values share their mean rank. 0 if all values of one side are equal."""
    ranks = [_ranks(values) - (len(values) - 1) / 2.0 for values in (one, other)]
    norm = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum()) / norm if norm > 0.0 else 0.0


def _ranks(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    _, group, same = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    return np.asarray((same.cumsum() - same + (same - 1) / 2.0)[group], np.float64)


def first_alarm(progress: Sequence[float], limits: WatchLimits = ALARM) -> int | None:
    """Return the first frame at which the progress has regressed; None: at no frame."""
    watch = TaskWatch(limits, 0.0)
    states = [watch.add(float(index), value) for index, value in enumerate(progress)]
    return states.index(WatchState.REGRESSED) if WatchState.REGRESSED in states else None


def detects(course: Course, progress: Sequence[float], limits: WatchLimits = ALARM) -> bool:
    """Return whether a progress shows the course's slip in time, and not before it happens."""
    alarm = first_alarm(progress, limits)
    return course.slip is not None and alarm is not None and course.slip <= alarm < course.slip + _frames_to_detect(limits)


def _frames_to_detect(limits: WatchLimits) -> int:
    return max(FRAMES_TO_DETECT, limits.regression_confirmations)


def rows_of(courses: Sequence[Course], success: float = SUCCESS, limits: WatchLimits = ALARM) -> list[Row]:
    """Return the measures of all rollouts. ``limits``: what counts as an alarm."""
    rows = []
    for name in names():
        inner = [rank_correlation(course.truth, course.estimates[name]) for course in courses]
        rows.append(Row(f"{name}: rank correlation with the true progress, mean of rollouts", _mean(inner), len(courses)))
    for name in names():
        truth = [value for course in courses for value in course.truth]
        estimates = [value for course in courses for value in course.estimates[name]]
        rows.append(Row(f"{name}: rank correlation over all frames", rank_correlation(truth, estimates), len(truth)))
        off = [abs(one - other) for one, other in zip(truth, estimates, strict=True)]
        rows.append(Row(f"{name}: mean error of the progress", _mean(off), len(truth)))
    right = [(course.estimates[FUSION][-1] >= success) == course.succeeded for course in courses]
    rows.append(_share("success or failure at the end: right", right))
    for wanted, text in ((True, "succeeded"), (False, "failed")):
        own = [value for value, course in zip(right, courses, strict=True) if course.succeeded is wanted]
        rows.append(_share(f"rollouts that {text}: right", own))
    # In a task with many steps, a slip can undo less than the limit. Then it is no regression.
    slips = [course for course in courses if detects(course, course.truth, limits)]
    found = [detects(course, course.estimates[FUSION], limits) for course in slips]
    frames = _frames_to_detect(limits)
    rows.append(_share(f"slips that undo at least {limits.regression:g}: detected within {frames} frames", found))
    calm = [course for course in courses if not course.disturbed]
    alarms = [first_alarm(course.estimates[FUSION], limits) is not None for course in calm]
    rows.append(_share("false alarms in rollouts without disturbances", alarms))
    requests = Counter[str]()
    for course in courses:
        requests.update(course.codes)
    total = sum(requests.values())
    rows.append(_share("answers that can be read", [True] * requests["OK"] + [False] * (total - requests["OK"])))
    return rows


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _share(measure: str, hits: Sequence[bool]) -> Row:
    return Row(measure, _mean(hits), len(hits), *wilson(sum(hits), len(hits)))


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in text."""
    lines = [("measure", "value", "95 % interval", "of")]
    for row in rows:
        interval = "" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}"
        lines.append((row.measure, f"{row.value:.3f}", interval, str(row.count)))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def content(settings: dict[str, Any], rows: Sequence[Row], courses: Sequence[Course]) -> dict[str, Any]:
    """Return the content of the file: the settings, the measures, and the estimates of all rollouts."""
    shown = [asdict(row) | ({"value": None} if math.isnan(row.value) else {}) for row in rows]  # JSON has no NaN.
    return {**settings, "rows": shown, "courses": [asdict(course) for course in courses]}
