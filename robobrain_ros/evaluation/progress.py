"""Score a model's estimates of progress on rollouts of the tabletop world that no model was trained on::

    python -m robobrain_ros.evaluation.progress --model robobrain_ros/demo/model --rollouts 500 --json progress.json
    python -m robobrain_ros.evaluation.progress --model robobrain_ros/demo/model --rollouts 1 --plot progress.png

With ``--noise 0.1`` in place of ``--model``, the scores are the true ones with errors of 10 % (`evaluation.simulated_scores`).

Each frame is compared with the previous frame, the start and the end, as `core.progress` describes it. The references are the
first frame, and the image of the completed task. The front view stands in for the missing wrist views.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from robobrain_ros.core.progress import Perspective, comparison
from robobrain_ros.core.query import Query, Task
from robobrain_ros.demo.world import render_layout
from robobrain_ros.errors import BadRequestError, EngineFailedError, OutcomeCode, RoboBrainError, UnsupportedTaskError
from robobrain_ros.evaluation.evaluate import open_model, parse_size, positive, run_to_end
from robobrain_ros.evaluation.exam import FIRST_SEED, FIRST_TRAINING_SEED, Answers
from robobrain_ros.evaluation.outputs import check_outputs, write_output
from robobrain_ros.evaluation.progress_measures import (
    SUCCESS,
    Course,
    Scores,
    add_alarm_options,
    alarm_of,
    content,
    course_of,
    rows_of,
    table,
)
from robobrain_ros.evaluation.progress_plot import MOST_PANELS, plot
from robobrain_ros.evaluation.rollouts import Disturbance, Rollout, make_rollout
from robobrain_ros.evaluation.simulated_scores import SimulatedScores

_PLOTS = (".png", ".jpg", ".pdf", ".svg")
"""Ends of the file names of plots."""

DISTURBANCES: dict[str, Disturbance | str | None] = {
    "random": "random",
    "none": None,
    **{kind.value: kind for kind in Disturbance},
}
"""Names of the disturbances on the command line."""


async def follow(brain: Answers, rollout: Rollout, name: str, timeout: float = 300.0) -> Course:
    """Estimate the progress of each frame of a rollout.

    :param name: a unique name for the rollout's images.
    :param timeout: seconds for a comparison.
    :raises RoboBrainError: the engine failed, or the model cannot answer such questions.
    """
    began = time.monotonic()
    images = [await asyncio.to_thread(frame.image) for frame in rollout.frames]
    end = (await asyncio.to_thread(render_layout, rollout.end))[0].image
    codes: Counter[str] = Counter()

    async def score(before: int, after: int) -> int | None:
        shown = comparison(images[0], end, [end if before < 0 else images[before]], [images[after]])
        ids = [f"{name} {index}" for index in (0, -1, before, before, before, after, after, after)]
        try:
            answer = await brain.run(Query(Task.PROGRESS, rollout.task, shown, ids, timeout=timeout))
        except (EngineFailedError, BadRequestError, UnsupportedTaskError):
            raise  # The other comparisons would also fail.
        except RoboBrainError as error:
            codes[error.code.name] += 1
            return None
        codes[OutcomeCode.OK.name] += 1
        return answer.score

    scores: list[Scores] = []
    for index in range(1, len(images)):
        befores = {Perspective.INCREMENTAL: index - 1, Perspective.FORWARD: 0, Perspective.BACKWARD: -1}
        values = await asyncio.gather(*(score(before, index) for before in befores.values()))
        scores.append({perspective: value for perspective, value in zip(befores, values, strict=True) if value is not None})
    return course_of(rollout, scores, codes, time.monotonic() - began)


async def follow_all(
    brain: Answers, rollouts: Iterator[tuple[int, Rollout]], at_once: int, progress: Callable[[int], None] = lambda done: None
) -> list[Course]:
    """Follow rollouts, several at once. Return their estimates in the same order.

    :param rollouts: seeds and rollouts.
    :param progress: called with the number of completed rollouts.
    """
    numbered = enumerate(rollouts)
    courses: dict[int, Course] = {}
    lock = asyncio.Lock()  # A generator cannot run in two threads at the same time.

    async def work() -> None:
        while True:
            async with lock:
                item = await asyncio.to_thread(next, numbered, None)
            if item is None:
                return
            number, (seed, rollout) = item
            courses[number] = await follow(brain, rollout, f"rollout {seed}")
            progress(len(courses))

    tasks = [asyncio.ensure_future(work()) for _ in range(at_once)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [courses[number] for number in sorted(courses)]


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m robobrain_ros.evaluation.progress",
        description="Score estimates of progress on unseen rollouts.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="checkpoint: a folder, or a name on the hub")
    source.add_argument("--noise", type=float, help="simulated scores: standard deviation of their errors, 0 to 1")
    parser.add_argument("--rollouts", type=positive, default=500, help="number of rollouts (default: 500)")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help=f"seed of the first rollout (default: {FIRST_SEED})")
    parser.add_argument(
        "--size", type=parse_size, default=parse_size("640x480"), metavar="WxH", help="size of the images, or mixed"
    )
    parser.add_argument("--success", type=float, default=SUCCESS, help="progress of a completed task (default: %(default)g)")
    add_alarm_options(parser)
    parser.add_argument(
        "--disturbance",
        choices=tuple(DISTURBANCES),
        default="random",
        help="what disturbs the rollouts (default: %(default)s)",
    )
    parser.add_argument("--at-once", type=positive, default=4, help="rollouts at the same time (default: 4)")
    parser.add_argument("--json", type=Path, help="file to write everything to")
    parser.add_argument("--plot", type=Path, help=f"image file for a plot of the first {MOST_PANELS} rollouts at most")
    options = parser.parse_args(arguments)
    if options.plot is not None and find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib")
    if options.plot is not None and options.plot.suffix.lower() not in _PLOTS:
        parser.error(f"--plot needs a file name that ends with {', '.join(_PLOTS)}")
    if options.noise is not None and not 0.0 <= options.noise <= 1.0:
        parser.error("--noise must be 0 to 1")
    if not 0 <= options.first_seed <= FIRST_TRAINING_SEED - options.rollouts:
        parser.error(f"the rollouts' seeds must lie below {FIRST_TRAINING_SEED}: those above may have been trained on")
    options.alarm = alarm_of(parser, options)
    return options


async def run(options: argparse.Namespace) -> None:
    """Load the model, evaluate it, print the table and write the file."""
    check_outputs(options.json, options.plot)
    _, sizes = options.size
    seeds = range(options.first_seed, options.first_seed + options.rollouts)
    disturbance = DISTURBANCES[options.disturbance]
    rollouts: Iterator[tuple[int, Rollout]]
    rollouts = ((seed, make_rollout(seed, size, disturbance)) for seed, size in zip(seeds, itertools.cycle(sizes), strict=False))
    began = time.monotonic()

    def progress(done: int) -> None:
        if done * 20 // options.rollouts > (done - 1) * 20 // options.rollouts:
            print(f"{done} of {options.rollouts} rollouts, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    async with contextlib.AsyncExitStack() as stack:
        brain: Answers
        if options.noise is not None:
            brain = SimulatedScores(options.noise)
            rollouts = brain.add_rollouts(rollouts)
        else:
            brain = await stack.enter_async_context(open_model(options.model, max_num_seqs=3 * options.at_once))
        courses = await follow_all(brain, rollouts, min(options.at_once, options.rollouts), progress)
    rows = rows_of(courses, options.success, options.alarm)
    print(f"{len(courses)} rollouts in {time.monotonic() - began:.0f} s\n\n{table(rows)}", flush=True)
    if options.json is not None:
        settings = {"size": options.size[0]}
        names = ("model", "noise", "first_seed", "disturbance", "success", "regression", "regression_confirmations")
        settings |= {name: getattr(options, name) for name in names}
        write_output(options.json, json.dumps(content(settings, rows, courses), indent=1) + "\n")
    if options.plot is not None:
        plot(courses, options.plot, options.alarm)


def main() -> None:
    """Evaluate with the options of the command line. See `run_to_end` for errors."""
    run_to_end(run(parse_options()))


if __name__ == "__main__":
    main()
