"""Questions about unseen scenes of the tabletop world, and how a model's answers to them are scored.

Images are taken at the camera's size, and asked about as any image is: the brain fits them to the model. An answer that cannot be
read, or does not come, counts as wrong. Models are trained on seeds from `FIRST_TRAINING_SEED` upwards.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from robobrain_ros.core.plans.request import PlanMode
from robobrain_ros.core.query import Answer, Query, Task
from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.errors import OutcomeCode, RoboBrainError
from robobrain_ros.evaluation import plans
from robobrain_ros.evaluation.metrics import Assessment, assess, assess_refusal, chance_of
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
"""What can be scored: each task; what is asked for but missing, in any task; plans that a robot can run, at first, after a
failure, for what is missing, and how far it has got. And the kinds of questions that make it up, of the last four the modes."""

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
