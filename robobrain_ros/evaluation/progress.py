"""Score a model's estimates of progress on rollouts of the tabletop world that no model was trained on::

    python -m robobrain_ros.evaluation.progress --model robobrain_ros/demo/model --rollouts 500 --json progress.json

Each frame is compared with the previous frame, the start and the end, as `core.progress` describes it. The references are the
first frame, and the image of the completed task. The front view stands in for the missing wrist views.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robobrain_ros.core.progress import Perspective, ProgressTracker, comparison
from robobrain_ros.core.query import Query, RgbImage, Task
from robobrain_ros.demo import DemoError
from robobrain_ros.demo.world import render_layout
from robobrain_ros.errors import OutcomeCode, RoboBrainError
from robobrain_ros.evaluation.evaluate import open_model, parse_size, positive
from robobrain_ros.evaluation.exam import FIRST_SEED, FIRST_TRAINING_SEED, Answers
from robobrain_ros.evaluation.metrics import wilson
from robobrain_ros.evaluation.rollouts import Event, Rollout, make_rollout

FUSION = "fusion"
"""Name of the mean of the perspectives."""
SUCCESS = 0.9
"""Progress of the last frame from which a rollout counts as successful."""
REGRESSION = 0.2
"""Decrease of the progress below its peak that counts as a regression."""
FRAMES_TO_DETECT = 2
"""Frames in which a slip must be detected: the first one that shows it, and the next one."""


@dataclass(frozen=True)
class Course:
    """The estimates of a rollout.

    :param truth: true progress of each frame, 0 to 1.
    :param estimates: estimated progress of each frame for each perspective and `FUSION`. The first frame is the start: 0.
    :param codes: number of requests by outcome code.
    """

    truth: tuple[float, ...]
    estimates: dict[str, tuple[float, ...]]
    succeeded: bool
    slip: int | None
    """Index of the first frame after a slip; None: nothing slips."""
    disturbed: bool
    codes: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class Row:
    """A measured value. ``low`` and ``high`` limit the 95 % interval (Wilson) of a share; None for means."""

    measure: str
    value: float
    count: int
    low: float | None = None
    high: float | None = None


@dataclass
class _Estimates:
    tracker: ProgressTracker = field(default_factory=ProgressTracker)
    by_name: dict[str, list[float]] = field(default_factory=lambda: {name: [0.0] for name in names()})
    codes: Counter[str] = field(default_factory=Counter)


def names() -> list[str]:
    """Return the names of the estimates: each perspective, and `FUSION`."""
    return [*(perspective.value for perspective in Perspective), FUSION]


async def follow(brain: Answers, rollout: Rollout, name: str, timeout: float = 300.0) -> Course:
    """Estimate the progress of each frame of a rollout.

    A comparison without a readable answer is omitted. If a frame has none, its progress is that of the previous frame.

    :param name: a unique name for the rollout's images.
    """
    began = time.monotonic()
    images = [await asyncio.to_thread(frame.image) for frame in rollout.frames]
    end = render_layout(rollout.end)[0].image
    made = _Estimates()

    async def score(before: int, after: int) -> int | None:
        shown = comparison(images[0], end, [_image(images, end, before)], [images[after]])
        ids = [f"{name} {index}" for index in (0, -1, before, before, before, after, after, after)]
        try:
            answer = await brain.run(Query(Task.PROGRESS, rollout.task, shown, ids, timeout=timeout))
        except RoboBrainError as error:
            made.codes[error.code.name] += 1
            return None
        made.codes[OutcomeCode.OK.name] += 1
        return answer.score

    for index in range(1, len(images)):
        befores = {Perspective.INCREMENTAL: index - 1, Perspective.FORWARD: 0, Perspective.BACKWARD: -1}
        scores = await asyncio.gather(*(score(before, index) for before in befores.values()))
        read = {perspective: value for perspective, value in zip(befores, scores, strict=True) if value is not None}
        values = {name: track[-1] for name, track in made.by_name.items()}
        if read:
            estimate = made.tracker.update(read)
            values |= {perspective.value: value for perspective, value in estimate.by_perspective.items()}
            values[FUSION] = estimate.progress
        for key, value in values.items():
            made.by_name[key].append(value)
    return Course(
        tuple(frame.progress for frame in rollout.frames),
        {key: tuple(track) for key, track in made.by_name.items()},
        rollout.succeeded,
        rollout.first(Event.SLIP),
        any(frame.event is not None for frame in rollout.frames),
        dict(made.codes),
        time.monotonic() - began,
    )


def _image(images: Sequence[RgbImage], end: RgbImage, index: int) -> RgbImage:
    return end if index < 0 else images[index]


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Spearman's rank correlation, -1 to 1. Equal values share their mean rank. 0 if all values of one side are equal."""
    ranks = [_ranks(values) - (len(values) - 1) / 2.0 for values in (one, other)]
    norm = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum()) / norm if norm > 0.0 else 0.0


def _ranks(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    array = np.asarray(values, np.float64)
    below = (array[None, :] < array[:, None]).sum(1)
    same = (array[None, :] == array[:, None]).sum(1)
    return np.asarray(below + (same - 1) / 2.0, np.float64)


def first_alarm(progress: Sequence[float], regression: float) -> int | None:
    """Return the first frame whose progress is lower than an earlier peak by ``regression``; None: there is none."""
    peak = 0.0
    for index, value in enumerate(progress):
        peak = max(peak, value)
        if peak - value >= regression - 1e-9:
            return index
    return None


def detects(course: Course, name: str, regression: float) -> bool:
    """Return whether a slip is detected in time, and not before it happens."""
    alarm = first_alarm(course.estimates[name], regression)
    return course.slip is not None and alarm is not None and course.slip <= alarm < course.slip + FRAMES_TO_DETECT


def rows_of(courses: Sequence[Course], success: float = SUCCESS, regression: float = REGRESSION) -> list[Row]:
    """Return the measures of all rollouts."""
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
    slips = [course for course in courses if course.slip is not None]
    rows.append(_share("slips detected within 2 frames", [detects(course, FUSION, regression) for course in slips]))
    calm = [course for course in courses if not course.disturbed]
    alarms = [first_alarm(course.estimates[FUSION], regression) is not None for course in calm]
    rows.append(_share("false alarms in rollouts without events", alarms))
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
    return {**settings, "rows": [asdict(row) for row in rows], "courses": [asdict(course) for course in courses]}


async def follow_all(
    brain: Answers, rollouts: Iterator[tuple[int, Rollout]], at_once: int, progress: Callable[[int], None] = lambda done: None
) -> list[Course]:
    """Follow rollouts, several at once.

    :param rollouts: seeds and rollouts.
    :param progress: called with the number of completed rollouts.
    """
    courses: list[Course] = []

    lock = asyncio.Lock()  # A generator cannot run in two threads at the same time.

    async def work() -> None:
        while True:
            async with lock:
                item = await asyncio.to_thread(next, rollouts, None)
            if item is None:
                return
            seed, rollout = item
            courses.append(await follow(brain, rollout, f"rollout {seed}"))
            progress(len(courses))

    await asyncio.gather(*(work() for _ in range(at_once)))
    return courses


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m robobrain_ros.evaluation.progress",
        description="Score estimates of progress on unseen rollouts.",
    )
    parser.add_argument("--model", required=True, help="checkpoint: a folder, or a name on the hub")
    parser.add_argument("--rollouts", type=positive, default=500, help="number of rollouts (default: 500)")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help=f"seed of the first rollout (default: {FIRST_SEED})")
    parser.add_argument(
        "--size", type=parse_size, default=parse_size("640x480"), metavar="WxH", help="size of the images, or mixed"
    )
    parser.add_argument("--success", type=float, default=SUCCESS, help="progress of a completed task (default: %(default)g)")
    parser.add_argument(
        "--regression",
        type=float,
        default=REGRESSION,
        help="decrease of the progress that is an alarm (default: %(default)g)",
    )
    parser.add_argument("--at-once", type=positive, default=4, help="rollouts at the same time (default: 4)")
    parser.add_argument("--json", type=Path, help="file to write everything to")
    options = parser.parse_args(arguments)
    if not 0 <= options.first_seed <= FIRST_TRAINING_SEED - options.rollouts:
        parser.error(f"the rollouts' seeds must lie below {FIRST_TRAINING_SEED}: those above may have been trained on")
    return options


async def run(options: argparse.Namespace) -> None:
    """Load the model, evaluate it, print the table and write the file."""
    _, sizes = options.size
    seeds = range(options.first_seed, options.first_seed + options.rollouts)
    rollouts = ((seed, make_rollout(seed, size)) for seed, size in zip(seeds, itertools.cycle(sizes), strict=False))
    began = time.monotonic()

    def progress(done: int) -> None:
        if done * 20 // options.rollouts > (done - 1) * 20 // options.rollouts:
            print(f"{done} of {options.rollouts} rollouts, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    async with contextlib.AsyncExitStack() as stack:
        brain = await stack.enter_async_context(open_model(options.model, max_num_seqs=3 * options.at_once))
        courses = await follow_all(brain, rollouts, options.at_once, progress)
    rows = rows_of(courses, options.success, options.regression)
    print(f"{len(courses)} rollouts in {time.monotonic() - began:.0f} s\n\n{table(rows)}", flush=True)
    if options.json is not None:
        settings = {name: getattr(options, name) for name in ("model", "first_seed", "success", "regression")}
        options.json.write_text(json.dumps(content(settings, rows, courses), indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Evaluate with the options of the command line. Exit with one sentence if the model or the engine fails."""
    options = parse_options()
    try:
        asyncio.run(run(options))
    except (RoboBrainError, DemoError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
