"""Score a model on scenes of the tabletop world that no model was trained on::

    python -m robobrain_ros.evaluation.evaluate --model robobrain_ros/demo/model --scenes 500 --json scores.json

``--constrain both`` compares free answers with answers that are constrained to lists of coordinates. ``--tasks robots
robots_replan`` asks for plans for random robots that no model was trained on.

Images have the camera's size, and the brain fits them to the model, as in the node. A missing or unreadable answer is wrong.
Models are trained on seeds from `FIRST_TRAINING_SEED` upwards.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from robobrain_ros.core.brain import Brain
from robobrain_ros.demo import DemoError
from robobrain_ros.errors import RoboBrainError
from robobrain_ros.evaluation.exam import (
    CAMERAS,
    FIRST_SEED,
    FIRST_TRAINING_SEED,
    GROUPS,
    ROBOT_GROUPS,
    Answers,
    exam,
    score_all,
)
from robobrain_ros.evaluation.outputs import check_outputs, write_output
from robobrain_ros.evaluation.score_table import Row, rows_of, table


@dataclass(frozen=True)
class Part:
    """One round of the evaluation: images of one size or of mixed sizes, with or without thinking.

    :param constrain: whether answers were constrained to lists of coordinates; None: default of the brain or node.
    :param codes: number of requests by outcome code.
    """

    size: str
    think: bool
    constrain: bool | None
    scenes: int
    seconds: float
    codes: dict[str, int]
    rows: list[Row]

    @property
    def title(self) -> str:
        """The round in one line of text."""
        count = sum(self.codes.values())
        ends = ", ".join(f"{name} {number}" for name, number in self.codes.items())
        mind = "with" if self.think else "without"
        held = {None: "", False: ", coordinates free", True: ", coordinates constrained"}[self.constrain]
        return f"{self.size}, {mind} thinking{held}: {self.scenes} scenes, {count} questions in {self.seconds:.0f} s ({ends})"

    def as_json(self) -> dict[str, Any]:
        """Return the round as an object for JSON."""
        return {**asdict(self), "rows": [{**asdict(row), "met": row.met} for row in self.rows]}


def parse_size(text: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Return the name of a size, "640x480" or "mixed", and the sizes to use in turn.

    :raises argparse.ArgumentTypeError: the text is neither a size nor "mixed".
    """
    if text == "mixed":
        return text, CAMERAS
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 112):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size. Write mixed, or a size such as 640x480, each side at least 112."
        )
    return text, ((int(width), int(height)),)


_CHOICES: dict[str | None, list[bool | None]] = {None: [None], "no": [False], "yes": [True], "both": [False, True]}


async def evaluate(brain: Answers, options: argparse.Namespace) -> list[Part]:
    """Run the rounds of the options. Print the table of each round to the standard output when it ends."""
    parts = []
    seeds = range(options.first_seed, options.first_seed + options.scenes)
    total = options.scenes * len(options.tasks) * options.questions_per_scene
    rounds = itertools.product(_CHOICES[options.think], options.sizes, _CHOICES[options.constrain])
    for think, (name, sizes), constrain in rounds:
        if isinstance(brain, Brain) and constrain is not None:
            brain = brain.with_defaults(constrain_coordinates=constrain)
        began = time.monotonic()
        questions = exam(seeds, sizes, options.tasks, options.questions_per_scene)
        progress = _Progress(name, bool(think), total)
        scores = await score_all(brain, questions, bool(think), at_once=options.at_once, progress=progress)
        codes = dict(Counter(scored.code.name for scored in scores).most_common())
        seconds = time.monotonic() - began
        parts.append(Part(name, bool(think), constrain, options.scenes, seconds, codes, rows_of(scores)))
        print(f"\n{parts[-1].title}\n\n{table(parts[-1].rows)}", flush=True)
    return parts


class _Progress:
    """Prints the progress of a round to the standard error, twenty times."""

    def __init__(self, size: str, think: bool, total: int) -> None:
        self._name = f"{size}{' thinking' if think else ''}"
        self._total = total
        self._began = time.monotonic()

    def __call__(self, done: int) -> None:
        if done * 20 // self._total > (done - 1) * 20 // self._total:
            rate = done / (time.monotonic() - self._began)
            print(f"{self._name}: {done} of {self._total} answers, {rate:.1f} per second", file=sys.stderr, flush=True)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m robobrain_ros.evaluation.evaluate", description="Score a model on the tabletop world, on unseen scenes."
    )
    parser.add_argument("--model", required=True, help="checkpoint: a folder, or a name on the hub")
    parser.add_argument("--scenes", type=positive, default=500, help="number of scenes (default: 500)")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help=f"seed of the first scene (default: {FIRST_SEED})")
    parser.add_argument(
        "--sizes",
        type=parse_size,
        nargs="+",
        default=[parse_size("640x480")],
        metavar="WxH",
        help="sizes of the images, or mixed",
    )
    parser.add_argument(
        "--think", choices=("no", "yes", "both"), default="no", help="whether the model thinks before it answers (default: no)"
    )
    parser.add_argument(
        "--constrain",
        choices=("no", "yes", "both"),
        help="whether answers are constrained to lists of coordinates (default: that of the brain or node)",
    )
    groups = tuple(GROUPS | ROBOT_GROUPS)
    all_but = f"{', '.join(groups)} (default: all except {' and '.join(ROBOT_GROUPS)})"
    parser.add_argument("--tasks", choices=groups, nargs="+", default=list(GROUPS), metavar="TASK", help=all_but)
    parser.add_argument(
        "--questions-per-scene", type=positive, default=1, help="number of questions of each task and scene (default: 1)"
    )
    parser.add_argument("--at-once", type=positive, default=16, help="requests at the same time (default: 16)")
    parser.add_argument("--max-pixels", type=positive, help="pixel limit of the images (default: the engine's)")
    parser.add_argument("--gpu-memory-utilization", type=float, help="share of the GPU's memory (default: the engine's)")
    parser.add_argument(
        "--over-ros",
        action="store_true",
        help="send images to the camera topic of a node, and questions to its services, one at a time",
    )
    parser.add_argument("--json", type=Path, help="file to write everything to")
    options = parser.parse_args(arguments)
    if options.over_ros and options.constrain:
        parser.error("over ROS the node's parameter constrain_coordinates decides, not --constrain")
    if not 0 <= options.first_seed <= FIRST_TRAINING_SEED - options.scenes:
        parser.error(
            f"the seeds must be below {FIRST_TRAINING_SEED}, because models may have been trained on scenes with higher seeds"
        )
    return options


def positive(text: str) -> int:
    """Parse a positive whole number of the command line.

    :raises argparse.ArgumentTypeError: the text is none.
    """
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


async def run(options: argparse.Namespace) -> None:
    """Load the model, evaluate it, and write the file."""
    check_outputs(options.json)
    given = {
        name: getattr(options, name) for name in ("max_pixels", "gpu_memory_utilization") if getattr(options, name) is not None
    }
    if options.over_ros:
        from robobrain_ros.evaluation.over_ros import open_node

        async with open_node(options.model, **given) as node:
            parts, engine = await evaluate(node, options), "a node's"
    else:
        async with open_model(options.model, max_num_seqs=options.at_once, **given) as brain:
            parts, engine = await evaluate(brain, options), brain.info.engine
    if options.json is not None:
        content = {
            "model": options.model,
            "first_seed": options.first_seed,
            "questions_per_scene": options.questions_per_scene,
            "engine": engine,
            "over_ros": options.over_ros,
            "parts": [part.as_json() for part in parts],
        }
        write_output(options.json, json.dumps(content, indent=1) + "\n")


@contextlib.asynccontextmanager
async def open_model(model: str, **options: Any) -> AsyncIterator[Brain]:
    """Load a model, with options of the engine. The engine's own output goes to the standard error."""
    from robobrain_ros.local import open_brain

    # The engine prints progress while it starts. The standard output is for the tables.
    with contextlib.redirect_stdout(sys.stderr):
        brain = await open_brain(model, **options)
    try:
        yield brain
    finally:
        await brain.close()


def main() -> None:
    """Evaluate with the options of the command line. See `run_to_end` for errors."""
    run_to_end(run(parse_options()))


def run_to_end(evaluation: Coroutine[Any, Any, None]) -> None:
    """Run the evaluation of a program.

    :raises SystemExit: the model or the engine failed, or a file cannot be written. The program ends with one sentence. After
        Ctrl-C, the exit code is 130.
    """
    try:
        asyncio.run(evaluation)
    except (RoboBrainError, DemoError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
