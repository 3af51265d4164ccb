"""Questions about unseen scenes of the tabletop world, and the scores of a model's answers.

Images have the camera's size, and the brain fits them to the model, as in the node. A missing or unreadable answer is wrong.
Models are trained on seeds from `FIRST_TRAINING_SEED` upwards.
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
from robobrain_ros.evaluation.question import Question
from robobrain_ros.evaluation.questions import KINDS_BY_TASK, ask_about
from robobrain_ros.evaluation.robots import make_robot

FIRST_TRAINING_SEED = 1_000_000_000
"""First seed of the scenes for training. Scores use smaller seeds."""
FIRST_SEED = 500_000_000
"""First seed for scores. Examples and scores during training use small seeds."""

ABSENT = "absent"
GROUPS: dict[str, tuple[str, ...]] = {task.value: kinds for task, kinds in KINDS_BY_TASK.items()}
GROUPS["point"] = (*KINDS_BY_TASK[Task.POINT], "gripper")
GROUPS[ABSENT] = ("absent", "absent", "absent", "absent", "strange")
GROUPS |= {"robot_plan": (PlanMode.NEW.name,), "replan": (PlanMode.REPLAN.name,), "impossible": (PlanMode.NEW.name,)}
GROUPS["progress"] = (PlanMode.CHECK.name, PlanMode.REPLAN.name, PlanMode.NEXT_STEP.name)
"""Groups of questions and their kinds: each task; objects that are missing, in any task; plans for a robot: new ones, after a
failure, for missing objects, and about progress. The kinds of the four groups of plans are modes."""

ROBOT_GROUPS: dict[str, tuple[str, ...]] = {"robots": (PlanMode.NEW.name,), "robots_replan": (PlanMode.REPLAN.name,)}
"""Groups of plans for random robots that no model was trained on (`evaluation.robots`), and their modes: new plans, and plans
after a failure. Questions are for these groups only if they are named."""

CAMERAS = ((640, 480), (1280, 720), (848, 480), (424, 240), (480, 640), (480, 480), (1280, 1024))
"""Common image sizes, which "mixed" uses in turn. With seven sizes, each kind of question is asked at each size."""

SITUATIONS: dict[str, Callable[[Scene, random.Random], plans.Situation]] = {
    "robot_plan": plans.at_first,
    "replan": plans.after_failure,
    "impossible": lambda scene, rng: plans.at_first(scene, rng, absent=True),
    "progress": plans.midway,
    "robots": plans.at_first,
    "robots_replan": plans.after_failure,
}
"""Groups whose table differs from the scene, and the functions that prepare it."""

ON_THINGS = ("point", "spots")
"""Kinds of questions whose points must lie on an object."""


class Answers(Protocol):
    """What can be evaluated: a `core.brain.Brain`, or a client of one."""

    async def run(self, query: Query) -> Answer:
        """See `core.brain.Brain.run`."""
        ...


@dataclass(frozen=True)
class ExamQuestion:
    """A question about a scene, with its group, one of `GROUPS` or `ROBOT_GROUPS`."""

    scene: Scene
    image_name: str
    group: str
    question: Question


@dataclass(frozen=True)
class Scored:
    """Result of a question.

    :param code: outcome of the request; OK and NOTHING_FOUND are answers.
    :param points: number of points in the answer to a pointing question; 1 if it has none, which counts as a miss.
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
        """Whether there is a readable answer."""
        return self.code in (OutcomeCode.OK, OutcomeCode.NOTHING_FOUND)


def questions_about(scene: Scene, seed: int, groups: Sequence[str], number: int = 1) -> list[ExamQuestion]:
    """Return questions of each group about a scene. They depend on the seed only, and consecutive seeds use all kinds in turn.

    Some questions are about the table after some steps.

    :param number: questions of each group.
    """
    questions = []
    name = f"tabletop {seed} {scene.width}x{scene.height}"
    for group in groups:
        kinds = (GROUPS | ROBOT_GROUPS)[group]
        for index in range(number):
            rng = random.Random(f"{seed} {group} {index}")
            if group in SITUATIONS:
                situation = SITUATIONS[group](scene, rng)
                robot = make_robot(rng, situation.world.table.names, unseen=True) if group in ROBOT_GROUPS else None
                question = situation.question(PlanMode[kinds[(seed + index) % len(kinds)]], rng, robot)
                questions.append(ExamQuestion(situation.world.render(), f"{name} {group} {index}", group, question))
                continue
            question = ask_about(scene, kinds[(seed + index) % len(kinds)], rng)
            while not question.text.strip():
                # Strange questions include an empty one, which is rejected before it reaches the model.
                question = ask_about(scene, question.kind, rng)
            questions.append(ExamQuestion(scene, name, group, question))
    return questions


def exam(
    seeds: Sequence[int], sizes: Sequence[tuple[int, int]], groups: Sequence[str], number: int = 1
) -> Iterator[ExamQuestion]:
    """Yield all questions about the scenes of the seeds, which use the sizes in turn. Each scene is rendered when its turn comes.

    :raises ValueError: a seed belongs to the training.
    """
    for index, seed in enumerate(seeds):
        if not 0 <= seed < FIRST_TRAINING_SEED:
            raise ValueError(f"A model may have been trained on the scene of seed {seed}. Use seeds below {FIRST_TRAINING_SEED}.")
        width, height = sizes[index % len(sizes)]
        scene = make_scene(seed, (width, height))
        yield from questions_about(scene, seed, groups, number)


async def score(brain: Answers, asked: ExamQuestion, think: bool, timeout: float) -> Scored:
    """Ask one question and score the answer. Errors score 0, except NOTHING_FOUND for an object that is not there."""
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
    """Return the kind of the question: for affordances that of the object, and for random robots that of the robot."""
    if asked.question.robot is not None:
        return asked.question.robot.kind
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

    :param timeout: time limit of a request in seconds.
    :param progress: called after each answer with the number of answers so far.
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
        # Rendering in the event loop would delay the streamed answers.
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
