"""Count how many disturbed tasks reach their goal with different monitors of the steps. The tables are in no training data::

    python -m robobrain_ros.evaluation.closed_loop --tasks 200 --monitor vision simulator none --model DIR
    python -m robobrain_ros.evaluation.closed_loop --tasks 200 --monitor vision simulator none --noise 0.1

The model plans and estimates the progress. With ``--noise``, the scores of the progress are the true ones with errors. Without
``--model``, the planner makes no errors, but it learns only from the monitor that a step has failed. The disturbed tasks have the
disturbances in ``--disturbances`` in turn.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from robobrain_ros.core.step_watch import StepLimits
from robobrain_ros.demo.arm import DISTURBANCES
from robobrain_ros.errors import BadRequestError
from robobrain_ros.evaluation.closed_loop_task import (
    LoopResult,
    LoopTask,
    ModelPlanner,
    Monitor,
    NoMonitor,
    Planner,
    SimulatorMonitor,
    TrustingPlanner,
    VisionMonitor,
)
from robobrain_ros.evaluation.evaluate import open_model, parse_size, positive, run_to_end
from robobrain_ros.evaluation.exam import FIRST_SEED, FIRST_TRAINING_SEED, Answers
from robobrain_ros.evaluation.metrics import wilson
from robobrain_ros.evaluation.outputs import check_outputs, write_output
from robobrain_ros.evaluation.simulated_scores import SimulatedScores

MONITORS = ("vision", "simulator", "none")
NO_DISTURBANCE = "none"


@dataclass(frozen=True)
class Row:
    """The results of the tasks with one monitor and one disturbance ("all": every disturbance).

    :param reached: number of tasks that reach their goal.
    :param claimed_wrongly: number of tasks that the planner reported as done, but that do not reach their goal.
    :param good: number of steps that worked. ``bad``: number of steps that did not. See `LoopResult`.
    :param plans: mean number of plan requests of a task. ``estimates``: mean number of estimates of the progress.
    """

    monitor: str
    disturbance: str
    tasks: int
    reached: int
    claimed_wrongly: int
    good: int
    false_alarms: int
    bad: int
    noticed: int
    plans: float
    estimates: float


async def run_tasks(
    tasks: Sequence[tuple[int, str]],
    monitor: str,
    options: argparse.Namespace,
    brain: Answers | None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[LoopResult]:
    """Run tasks with one monitor, several at once. Return their results in the same order.

    :param tasks: the seed and the disturbance of each task.
    :param brain: the model; None: planner and scores are simulated.
    """
    results: dict[int, LoopResult] = {}
    waiting = iter(enumerate(tasks))
    limits = limits_of(options)

    async def work() -> None:
        for number, (seed, disturbance) in waiting:
            task = await asyncio.to_thread(LoopTask, seed, disturbance, options.size[1][0])
            planner: Planner = ModelPlanner(brain) if brain is not None else TrustingPlanner(task.world, task.goal)
            results[number] = await task.run(planner, make_monitor(monitor, task, options, brain, limits))
            progress(len(results))

    workers = [asyncio.ensure_future(work()) for _ in range(min(options.at_once, len(tasks)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [results[number] for number in sorted(results)]


def make_monitor(name: str, task: LoopTask, options: argparse.Namespace, brain: Answers | None, limits: StepLimits) -> Monitor:
    """Return the monitor of a task."""
    if name == "none":
        return NoMonitor()
    if name == "simulator":
        return SimulatorMonitor()
    scores = brain if options.noise is None else SimulatedScores(options.noise, task.seed)
    assert scores is not None, "the options have a model or a noise"
    return VisionMonitor(scores, f"closed loop {task.seed}", limits, random.Random(task.seed))


def limits_of(options: argparse.Namespace) -> StepLimits:
    """Return the limits of the options."""
    return StepLimits(options.success, options.margin, options.regression, options.advance, options.confirmations)


def rows_of(monitor: str, results: Sequence[LoopResult]) -> list[Row]:
    """Return a row for each disturbance, and one for all disturbances. Tasks whose disturbance did not happen count too."""
    rows = []
    disturbances = list(dict.fromkeys(result.disturbance for result in results))
    for disturbance in disturbances:
        rows.append(
            _row(monitor, disturbance or NO_DISTURBANCE, [result for result in results if result.disturbance == disturbance])
        )
    disturbed = [result for result in results if result.disturbance]
    if len(disturbances) > 1 and disturbed:
        rows.append(_row(monitor, "all", disturbed))
    return rows


def _row(monitor: str, disturbance: str, results: Sequence[LoopResult]) -> Row:
    count = len(results)

    def total(name: str) -> int:
        return sum(int(getattr(result, name)) for result in results)

    wrong = sum(result.claimed and not result.reached for result in results)
    return Row(
        monitor,
        disturbance,
        count,
        reached=total("reached"),
        claimed_wrongly=wrong,
        good=total("good"),
        false_alarms=total("false_alarms"),
        bad=total("bad"),
        noticed=total("noticed"),
        plans=total("plans") / count,
        estimates=total("estimates") / count,
    )


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in text."""
    lines = [
        ("monitor", "disturbance", "tasks", "reach the goal", "95 % interval", "done, but wrong", "failed steps noticed",
         "false alarms", "plans", "estimates"),
    ]  # fmt: skip
    for row in rows:
        low, high = wilson(row.reached, row.tasks)
        lines.append((
            row.monitor, row.disturbance, str(row.tasks), f"{row.reached} ({100 * row.reached / row.tasks:.1f} %)",
            f"{100 * low:.1f} to {100 * high:.1f} %", str(row.claimed_wrongly), f"{row.noticed} of {row.bad}",
            f"{row.false_alarms} of {row.good}", f"{row.plans:.1f}", f"{row.estimates:.1f}",
        ))  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def tasks_of(options: argparse.Namespace) -> list[tuple[int, str]]:
    """Return the seeds and disturbances: first the disturbed tasks, with the disturbances in turn, then the undisturbed ones."""
    disturbances = [options.disturbances[index % len(options.disturbances)] for index in range(options.tasks)]
    return list(enumerate([*disturbances, *[""] * options.undisturbed], start=options.first_seed))


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m robobrain_ros.evaluation.closed_loop",
        description="Count how many disturbed tasks reach their goal, with different monitors of the steps.",
    )
    parser.add_argument(
        "--model",
        help="checkpoint, a folder or a name on the hub. It plans, and estimates the progress without --noise "
        "(default: a planner without errors)",
    )
    parser.add_argument(
        "--noise",
        type=float,
        help="true scores with errors of this standard deviation, such as 0.1 (default: the model's scores)",
    )
    parser.add_argument("--monitor", choices=MONITORS, nargs="+", default=list(MONITORS), help="monitors (default: all)")
    parser.add_argument("--tasks", type=positive, default=200, help="number of disturbed tasks (default: 200)")
    parser.add_argument("--undisturbed", type=int, default=0, help="number of tasks without a disturbance (default: 0)")
    disturbances = ("slip", "moved", "stopped")
    parser.add_argument(
        "--disturbances", choices=DISTURBANCES, nargs="+", default=list(disturbances), help=f"default: {' '.join(disturbances)}"
    )
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help=f"seed of the first task (default: {FIRST_SEED})")
    parser.add_argument("--size", type=parse_size, default=parse_size("640x480"), metavar="WxH", help="size of the images")
    limits = StepLimits()
    for name in ("success", "margin", "regression", "advance"):
        value = getattr(limits, name)
        parser.add_argument(f"--{name}", type=float, default=value, help=f"see core.step_watch (default: {value:g})")
    parser.add_argument("--confirmations", type=positive, default=limits.confirmations, help="default: %(default)s")
    parser.add_argument("--at-once", type=positive, default=8, help="tasks at the same time (default: 8)")
    parser.add_argument("--json", type=Path, help="file to write everything to")
    options = parser.parse_args(arguments)
    if "vision" in options.monitor and options.model is None and options.noise is None:
        parser.error("--monitor vision needs estimates: --model, or --noise for simulated scores")
    if options.noise is not None and not 0.0 <= options.noise <= 100.0:
        parser.error("--noise must be 0 to 100")
    if options.undisturbed < 0:
        parser.error("--undisturbed must not be negative")
    if not 0 <= options.first_seed <= FIRST_TRAINING_SEED - options.tasks - options.undisturbed:
        parser.error(f"the seeds must be below {FIRST_TRAINING_SEED}: models may have been trained on higher ones")
    try:
        limits_of(options)
    except BadRequestError as error:
        parser.error(error.message)
    return options


@contextlib.asynccontextmanager
async def _opened(options: argparse.Namespace) -> AsyncIterator[Answers | None]:
    if options.model is None:
        yield None
        return
    async with open_model(options.model, max_num_seqs=3 * options.at_once) as brain:
        yield brain


async def run(options: argparse.Namespace) -> None:
    """Load the model, run the tasks with each monitor, print the table and write the file."""
    check_outputs(options.json)
    tasks = tasks_of(options)
    found: dict[str, list[LoopResult]] = {}
    rows: list[Row] = []
    async with _opened(options) as brain:
        for monitor in options.monitor:
            began = time.monotonic()

            def progress(done: int, monitor: str = monitor, began: float = began) -> None:
                if done * 10 // len(tasks) > (done - 1) * 10 // len(tasks):
                    seconds = time.monotonic() - began
                    print(f"{monitor}: {done} of {len(tasks)} tasks, {seconds:.0f} s", file=sys.stderr, flush=True)

            found[monitor] = await run_tasks(tasks, monitor, options, brain, progress)
            rows += rows_of(monitor, found[monitor])
    print(table(rows), flush=True)
    if options.json is not None:
        names = ("model", "noise", "first_seed", "disturbances", "success", "margin", "regression", "advance", "confirmations")
        content = {name: getattr(options, name) for name in names} | {"size": options.size[0]}
        content |= {"rows": [asdict(row) for row in rows]}
        content |= {"tasks": {monitor: [asdict(result) for result in results] for monitor, results in found.items()}}
        write_output(options.json, json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Run the tasks with the options of the command line. See `run_to_end` for errors."""
    run_to_end(run(parse_options()))


if __name__ == "__main__":
    main()
