"""Scores of a model on the tabletop world, over scenes that no model was trained on::

    python -m robobrain_ros.evaluation.evaluate --model robobrain_ros/demo/model --scenes 500 --json scores.json

With ``--constrain both``, what it costs or brings to hold answers to lists of coordinates.

Images are taken at the camera's size, and asked about as any image is: the brain fits them to the model. An answer that
cannot be read, or does not come, counts as wrong. Models are trained on seeds from `FIRST_TRAINING_SEED` upwards.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from robobrain_ros.core.brain import Brain
from robobrain_ros.core.plans.request import PlanMode
from robobrain_ros.core.query import Answer, Query, Task
from robobrain_ros.demo import DemoError
from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.errors import OutcomeCode, RoboBrainError
from robobrain_ros.evaluation import plans
from robobrain_ros.evaluation.metrics import LEAST_OVERLAP, Assessment, assess, assess_refusal, chance_of, wilson
from robobrain_ros.evaluation.questions import KINDS_BY_TASK, Question, ask_about

FIRST_TRAINING_SEED = 1_000_000_000
"""Seeds of scenes for training begin here; those of scores end here."""
FIRST_SEED = 500_000_000
"""Far from the small seeds of examples and of scores while training."""

ABSENT = "absent"
GROUPS: dict[str, tuple[str, ...]] = {task.value: kinds for task, kinds in KINDS_BY_TASK.items()}
GROUPS["point"] = (*KINDS_BY_TASK[Task.POINT], "gripper")
GROUPS[ABSENT] = ("absent", "absent", "absent", "absent", "strange")
GROUPS |= {"robot_plan": (PlanMode.NEW.name,), "replan": (PlanMode.REPLAN.name,), "impossible": (PlanMode.NEW.name,)}
GROUPS["progress"] = (PlanMode.CHECK.name, PlanMode.REPLAN.name, PlanMode.NEXT_STEP.name)
"""What can be scored: each task; what is asked for but not there, in any task; plans that a robot can run, at first, after a
failure, for what is not there, and how far it has got. And the kinds of questions that make it up, of the last four the modes."""

CAMERAS = ((640, 480), (1280, 720), (848, 480), (424, 240), (480, 640), (480, 480), (1280, 1024))
"""Sizes of usual cameras' images, which "mixed" takes in turn. Seven, so that every kind of question meets every size."""

SITUATIONS: dict[str, Callable[[Scene, random.Random], plans.Situation]] = {
    "robot_plan": plans.at_first,
    "replan": plans.after_failure,
    "impossible": lambda scene, rng: plans.at_first(scene, rng, absent=True),
    "progress": plans.midway,
}
"""How the table of a group is made, where it is not the scene alone."""

ON_THINGS = ("point", "spots")
"""Kinds of questions whose points must lie on a thing."""


class Answers(Protocol):
    """What can be evaluated: a `core.brain.Brain`, or what asks one elsewhere."""

    async def run(self, query: Query) -> Answer:
        """See `core.brain.Brain.run`."""
        ...


@dataclass(frozen=True)
class ExamQuestion:
    """A question about a scene, as part of a group, one of `GROUPS`."""

    scene: Scene
    image_name: str
    group: str
    question: Question


@dataclass(frozen=True)
class Scored:
    """What became of a question.

    :param code: how the request ended; OK and NOTHING_FOUND are answers.
    :param points: how many points the answer to a pointing question has; 1 where none came, for it missed.
    :param chance: see `metrics.chance_of`.
    """

    group: str
    kind: str
    code: OutcomeCode
    verdict: Assessment
    points: int
    chance: float
    absent: bool

    @property
    def answered(self) -> bool:
        """Whether an answer came that could be read."""
        return self.code in (OutcomeCode.OK, OutcomeCode.NOTHING_FOUND)


def questions_about(scene: Scene, seed: int, groups: Sequence[str], number: int = 1) -> list[ExamQuestion]:
    """So many questions of each group about the scene of a seed, always the same ones; seeds in a row take all kinds in turn.

    Some are about the table after some steps.
    """
    questions = []
    name = f"tabletop {seed} {scene.width}x{scene.height}"
    for group in groups:
        kinds = GROUPS[group]
        for index in range(number):
            rng = random.Random(f"{seed} {group} {index}")
            if group in SITUATIONS:
                situation = SITUATIONS[group](scene, rng)
                question = situation.question(PlanMode[kinds[(seed + index) % len(kinds)]], rng)
                questions.append(ExamQuestion(situation.world.look(), f"{name} {group} {index}", group, question))
                continue
            question = ask_about(scene, kinds[(seed + index) % len(kinds)], rng)
            while not question.text.strip():
                # An empty question is among the strange ones; it is refused before any model sees it.
                question = ask_about(scene, question.kind, rng)
            questions.append(ExamQuestion(scene, name, group, question))
    return questions


def exam(
    seeds: Sequence[int], sizes: Sequence[tuple[int, int]], groups: Sequence[str], number: int = 1
) -> Iterator[ExamQuestion]:
    """All questions about the scenes of some seeds, which take the sizes in turn; each scene is rendered when it is reached.

    :raises ValueError: a seed is one of training's.
    """
    for index, seed in enumerate(seeds):
        if not 0 <= seed < FIRST_TRAINING_SEED:
            raise ValueError(f"The scene of seed {seed} may have been trained on; scores take seeds below {FIRST_TRAINING_SEED}.")
        width, height = sizes[index % len(sizes)]
        scene = make_scene(seed, (width, height))
        yield from questions_about(scene, seed, groups, number)


async def score(brain: Answers, asked: ExamQuestion, think: bool, timeout: float) -> Scored:
    """Ask one question and score the answer, or the failure."""
    scene, question = asked.scene, asked.question
    query = Query(
        question.task, question.text, [scene.image], [asked.image_name], think=think, timeout=timeout, plan=question.plan
    )
    points = 1
    try:
        answer = await brain.run(query)
        code, verdict = OutcomeCode.OK, assess(scene, question, answer)
        points = max(1, len(answer.points))
    except RoboBrainError as error:
        code = error.code
        verdict = assess_refusal(question) if code is OutcomeCode.NOTHING_FOUND else Assessment(False, str(error), 0.0)
    return Scored(asked.group, _kind(asked), code, verdict, points, chance_of(scene, question), question.absent)


def _kind(asked: ExamQuestion) -> str:
    """Of the question; of affordances, which are all asked alike, of the thing: its handle, its rim, or all of it."""
    if asked.group != Task.AFFORDANCE.value:
        return asked.question.kind
    return next(thing.kind for thing in asked.scene.objects if thing.id == asked.question.targets[0])


async def score_all(
    brain: Answers,
    questions: Iterator[ExamQuestion],
    think: bool = False,
    *,
    at_once: int = 16,
    timeout: float = 300.0,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Scored]:
    """Ask all questions, several at once, and score the answers.

    :param timeout: seconds a request may take.
    :param progress: called after each answer with how many there are.
    """
    room = asyncio.Semaphore(at_once)
    scores: list[Scored] = []

    async def one(asked: ExamQuestion) -> None:
        try:
            scores.append(await score(brain, asked, think, timeout))
        finally:
            room.release()
        progress(len(scores))

    running: set[asyncio.Task[None]] = set()
    try:
        # Rendering takes long enough to hold up the answers that are being streamed.
        while (asked := await asyncio.to_thread(next, questions, None)) is not None:
            await room.acquire()
            for task in [task for task in running if task.done()]:
                running.remove(task)
                task.result()
            running.add(asyncio.ensure_future(one(asked)))
        await asyncio.gather(*running)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return scores


@dataclass(frozen=True)
class Row:
    """A line of the result.

    :param group: one of `GROUPS`, or "all".
    :param kind: of question; empty: all of the group's.
    :param measure: what was measured.
    :param value: a share, or a mean.
    :param count: how many questions (or points) it is of.
    :param low: of the share's 95 % interval (Wilson), as ``high``; None for means.
    :param chance: what random points would reach; None where that says nothing.
    :param goal: the least that it should be; None: no goal.
    """

    group: str
    kind: str
    measure: str
    value: float
    count: int
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    goal: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        return None if self.goal is None else self.value >= self.goal


def share_row(group: str, kind: str, measure: str, right: int, count: int, **more: float | None) -> Row:
    """A row for a share, with its interval."""
    low, high = wilson(right, count)
    return Row(group, kind, measure, right / count, count, low, high, **more)


def rows_of(scores: Sequence[Scored]) -> list[Row]:
    """What the scores come to: for each group its measures, then the same of each kind of question; last, of all answers."""
    rows: list[Row] = []
    for group in GROUPS:
        own = [scored for scored in scores if scored.group == group]
        kinds = sorted({scored.kind for scored in own})
        if own:
            rows += _rows_of_group(group, own)
        if len(kinds) > 1:
            rows += [row for kind in kinds for row in _rows_of_kind(group, kind, [one for one in own if one.kind == kind])]
    return rows + _rows_of_all(scores)


def _rows_of_group(group: str, scores: Sequence[Scored]) -> list[Row]:
    if group == "point":
        on_things = [scored for scored in scores if scored.kind in ON_THINGS]
        return [*_points(group, "", on_things, goal=0.97), _right(group, "", scores)]
    if group in ("ground", "affordance"):
        return _boxes(group, "", scores, goal=0.97 if group == "ground" else 0.9)
    if group == "trajectory":
        return [
            *_trajectories(group, "", scores, goal=0.95),
            _right(group, "", scores, "ends on the target, starts at the gripper"),
        ]
    if group in ("plan", "robot_plan", "replan"):
        return [_right(group, "", scores, "reaches the goal in the simulator", goal=0.95)]
    return [_right(group, "", scores, "refused" if group in (ABSENT, "impossible") else "right")]


def _rows_of_kind(group: str, kind: str, scores: Sequence[Scored]) -> list[Row]:
    if group == "point":
        return _points(group, kind, scores, "points on the free table between" if kind == "vacant" else "points on the target")
    if group == "affordance":
        return _boxes(group, kind, scores)
    if group == "trajectory":
        return _trajectories(group, kind, scores)
    return [_right(group, kind, scores, "refused" if group == ABSENT else "right")]


def _rows_of_all(scores: Sequence[Scored]) -> list[Row]:
    rows = []
    present = [scored for scored in scores if not scored.absent]
    if present:
        refused = sum(scored.code is OutcomeCode.NOTHING_FOUND for scored in present)
        rows.append(share_row("all", "", "present, yet refused (less is better)", refused, len(present)))
    written = [scored for scored in scores if scored.answered or scored.code is OutcomeCode.UNPARSABLE_ANSWER]
    if written:
        read = sum(scored.answered for scored in written)
        rows.append(share_row("all", "", "answers that can be read", read, len(written), goal=0.995))
    return rows


def _right(group: str, kind: str, scores: Sequence[Scored], measure: str = "right", goal: float | None = None) -> Row:
    return share_row(group, kind, measure, sum(scored.verdict.right for scored in scores), len(scores), goal=goal)


def _points(
    group: str, kind: str, scores: Sequence[Scored], measure: str = "points on the thing", goal: float | None = None
) -> list[Row]:
    count = sum(scored.points for scored in scores)
    if not count:
        return []
    share = sum(scored.verdict.score * scored.points for scored in scores) / count
    chance = sum(scored.chance * scored.points for scored in scores) / count
    # Points of one answer hit or miss together: the interval is that of as many answers.
    low, high = wilson(share * len(scores), len(scores))
    return [Row(group, kind, measure, share, count, low, high, chance or None, goal)]


def _boxes(group: str, kind: str, scores: Sequence[Scored], goal: float | None = None) -> list[Row]:
    mean = sum(scored.verdict.score for scored in scores) / len(scores)
    return [_right(group, kind, scores, f"IoU above {LEAST_OVERLAP}", goal), Row(group, kind, "mean IoU", mean, len(scores))]


def _trajectories(group: str, kind: str, scores: Sequence[Scored], goal: float | None = None) -> list[Row]:
    chance = sum(scored.chance for scored in scores) / len(scores)
    ends = sum(scored.verdict.score == 1.0 for scored in scores)
    rows = [share_row(group, kind, "ends on the target", ends, len(scores), chance=chance, goal=goal)]
    distances = [scored.verdict.frechet for scored in scores if scored.verdict.frechet is not None]
    if distances:
        mean = sum(distances) / len(distances)
        rows.append(Row(group, kind, "mean Fréchet distance, parts of the image", mean, len(distances)))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows for people."""
    lines = [("what", "share or mean", "95 % interval", "of", "by chance", "goal")]
    for row in rows:
        interval = "" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}"
        goal = "" if row.goal is None else f"{row.goal:g} {'met' if row.met else 'missed'}"
        name = f"  {row.kind}: {row.measure}" if row.kind else f"{row.group}: {row.measure}"
        chance = "" if row.chance is None else f"{row.chance:.3f}"
        lines.append((name, f"{row.value:.3f}", interval, str(row.count), chance, goal))
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    lines.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


@dataclass(frozen=True)
class Part:
    """One round of the evaluation: images of one size, or of mixed ones, with or without thinking.

    :param constrain: whether answers were held to lists of coordinates; None: as whoever answers has it by default.
    :param codes: how many requests ended how.
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
        """A line for people."""
        count = sum(self.codes.values())
        ends = ", ".join(f"{name} {number}" for name, number in self.codes.items())
        mind = "with" if self.think else "without"
        held = {None: "", False: ", coordinates free", True: ", coordinates constrained"}[self.constrain]
        return f"{self.size}, {mind} thinking{held}: {self.scenes} scenes, {count} questions in {self.seconds:.0f} s ({ends})"

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {**asdict(self), "rows": [{**asdict(row), "met": row.met} for row in self.rows]}


def parse_size(text: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Return the name of a size, "640x480" or "mixed", and the sizes to take in turn.

    :raises argparse.ArgumentTypeError: it is neither.
    """
    if text == "mixed":
        return text, CAMERAS
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 112):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; say mixed, or such as 640x480, each side at least 112.")
    return text, ((int(width), int(height)),)


_CHOICES: dict[str | None, list[bool | None]] = {None: [None], "no": [False], "yes": [True], "both": [False, True]}


async def evaluate(brain: Answers, options: argparse.Namespace) -> list[Part]:
    """All rounds that the options ask for, with their tables on the standard output as they come."""
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
    """Tells on the standard error how far a round is, twenty times."""

    def __init__(self, size: str, think: bool, total: int) -> None:
        self._name = f"{size}{' thinking' if think else ''}"
        self._total = total
        self._began = time.monotonic()

    def __call__(self, done: int) -> None:
        if done * 20 // self._total > (done - 1) * 20 // self._total:
            rate = done / (time.monotonic() - self._began)
            print(f"{self._name}: {done} of {self._total} answers, {rate:.1f} per second", file=sys.stderr, flush=True)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m robobrain_ros.evaluation.evaluate", description="Score a model on the tabletop world, on unseen scenes."
    )
    parser.add_argument("--model", required=True, help="checkpoint: a folder, or a name on the hub")
    parser.add_argument("--scenes", type=_positive, default=500, help="how many scenes (default: 500)")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help=f"seed of the first scene (default: {FIRST_SEED})")
    parser.add_argument(
        "--sizes", type=parse_size, nargs="+", default=[parse_size("640x480")], metavar="WxH", help="of the images; or: mixed"
    )
    parser.add_argument("--think", choices=("no", "yes", "both"), default="no", help="before answering (default: no)")
    parser.add_argument(
        "--constrain", choices=("no", "yes", "both"), help="answers to lists of coordinates (default: as the brain or node does)"
    )
    parser.add_argument("--tasks", choices=tuple(GROUPS), nargs="+", default=list(GROUPS), metavar="TASK", help=", ".join(GROUPS))
    parser.add_argument("--questions-per-scene", type=_positive, default=1, help="of each task (default: 1)")
    parser.add_argument("--at-once", type=_positive, default=16, help="requests at the same time (default: 16)")
    parser.add_argument("--max-pixels", type=_positive, help="of the image in the model's eyes (default: the engine's)")
    parser.add_argument("--gpu-memory-utilization", type=float, help="share of the GPU's memory (default: the engine's)")
    parser.add_argument(
        "--over-ros", action="store_true", help="through the topic of a camera and the services of a node, one at a time"
    )
    parser.add_argument("--json", type=Path, help="file to write everything to")
    options = parser.parse_args(arguments)
    if options.over_ros and options.constrain:
        parser.error("over ROS the node's parameter constrain_coordinates decides, not --constrain")
    if not 0 <= options.first_seed <= FIRST_TRAINING_SEED - options.scenes:
        parser.error(f"the scenes' seeds must lie below {FIRST_TRAINING_SEED}: those above may have been trained on")
    return options


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


async def run(options: argparse.Namespace) -> None:
    """Load the model, evaluate it, write the file."""
    given = {
        name: getattr(options, name) for name in ("max_pixels", "gpu_memory_utilization") if getattr(options, name) is not None
    }
    if options.over_ros:
        from robobrain_ros.evaluation.over_ros import open_node

        async with open_node(options.model, **given) as node:
            parts, engine = await evaluate(node, options), "a node's"
    else:
        async with _brain(options, given) as brain:
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
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@contextlib.asynccontextmanager
async def _brain(options: argparse.Namespace, given: dict[str, Any]) -> AsyncIterator[Brain]:
    from robobrain_ros.local import open_brain

    # What the engine tells while it starts is progress; the standard output is for the tables.
    with contextlib.redirect_stdout(sys.stderr):
        brain = await open_brain(options.model, max_num_seqs=options.at_once, **given)
    try:
        yield brain
    finally:
        await brain.close()


def main() -> None:
    """Evaluate as the command line says; an error of the model's or the engine's is one sentence."""
    options = parse_options()
    try:
        asyncio.run(run(options))
    except (RoboBrainError, DemoError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
