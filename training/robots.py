"""Questions about plans for random robots (`evaluation.robots`) for training, and the scores of unseen ones.

The constant parts of their prompts and answers become tokens. Then a name has the same tokens in the list of skills and in the
answer, so the model can copy it.
"""

import random
from collections.abc import Sequence
from typing import Any

from robobrain_ros.core.plans.feasibility import check_feasible
from robobrain_ros.core.plans.prompt import ARGUMENTS, ROBOT, SKILL
from robobrain_ros.core.plans.request import PlanMode
from robobrain_ros.core.plans.schema import plan_form
from robobrain_ros.core.plans.structured import StructuredPlanReader
from robobrain_ros.core.query import Answer, Task
from robobrain_ros.demo.world import Scene
from robobrain_ros.errors import InfeasiblePlanError
from robobrain_ros.evaluation import plans
from robobrain_ros.evaluation.exam import FIRST_TRAINING_SEED, ROBOT_GROUPS, SITUATIONS
from robobrain_ros.evaluation.plans import judge_plan
from robobrain_ros.evaluation.question import Question
from robobrain_ros.evaluation.robots import make_robot
from training.batches import SHARE_OF_THINKING, Example, Packer, model_image, view
from training.score import answer_all

MOST_TOKENS = 448
"""Most tokens of a question with its answer. It limits the length of a row."""
LONGEST_ANSWER = 320
ROOM = 12_000
"""Tokens for the longest plan of a schema, as in the node: the context without the prompt."""
_SHARE_OF_ABSENT = 0.1
_MODES = (PlanMode.NEW, PlanMode.NEW, PlanMode.REPLAN, PlanMode.REPLAN, PlanMode.NEXT_STEP, PlanMode.CHECK)
"""Modes of the questions about a table after some steps. New plans are for another task."""


def new_tokens() -> list[str]:
    """Return the constant parts of the prompts and answers of all robots. Each becomes one token."""
    return ["Robot ", "\n- ", f'","{ROBOT}":"', f'","{SKILL}":"', f'","{ARGUMENTS}":{{"', '":"', '","']


def first_examples(packer: Packer, scene: Scene, rng: random.Random, count: int) -> list[Example]:
    """Return questions about a table on which nothing was moved. Some ask about missing objects."""
    made: list[Example] = []
    while len(made) < count:
        situation = plans.at_first(scene, rng, rng.random() < _SHARE_OF_ABSENT)
        made += _examples(packer, situation, PlanMode.NEW, rng)
    return made


def later_examples(packer: Packer, situation: plans.Situation, scene: Scene, rng: random.Random, count: int) -> list[Example]:
    """Return questions about a table after some steps.

    :param scene: the table before these steps.
    """
    made: list[Example] = []
    while len(made) < count:
        mode = rng.choice(_MODES)
        other = plans.another(situation, scene, rng) if mode is PlanMode.NEW else None
        made += _examples(packer, other or situation, mode if other else rng.choice(_MODES[2:]), rng)
    return made


def _examples(packer: Packer, situation: plans.Situation, mode: PlanMode, rng: random.Random) -> list[Example]:
    """Return a question about a random robot. The list is empty if the question has too many tokens."""
    robot = make_robot(rng, situation.world.table.names)
    example = Example(situation.question(mode, rng, robot), rng.random() < SHARE_OF_THINKING)
    return [example] if tokens_of(packer, example) <= MOST_TOKENS else []


def tokens_of(packer: Packer, example: Example) -> int:
    """Return the number of tokens of a question about a plan with its answer."""
    question = example.question
    written = question.words + (question.thought if example.think else "")
    return len(packer.prompt(example)) + len(packer.encode(written))


def evaluate(
    model: Any, packer: Packer, count: int, device: str = "cpu", chunk: int = 32, groups: Sequence[str] = tuple(ROBOT_GROUPS)
) -> dict[str, float]:
    """Return the share of plans that reach the goal, for robots and scenes that are not used for training.

    The answers are generated without a constraint. An answer that does not match the schema of the request is wrong.
    """
    results: dict[str, float] = {}
    for group in groups:
        mode, right = PlanMode[ROBOT_GROUPS[group][0]], 0
        rng = random.Random(f"evaluate {group}")
        for first in range(0, count, chunk):
            views, examples = [], []
            for index in range(first, min(count, first + chunk)):
                scene, size, _ = view(FIRST_TRAINING_SEED // 4 + index, (640, 480), 2.0)
                situation = SITUATIONS[group](scene, rng)
                robot = make_robot(rng, situation.world.table.names, unseen=True)
                now = situation.world.render()
                views.append((now, size, model_image(now, size)))
                examples.append(Example(situation.question(mode, rng, robot), False))
            texts = answer_all(model, packer, views, examples, device, LONGEST_ANSWER)
            right += sum(
                reaches_goal(example.question, text.removesuffix("</answer>"))
                for text, example in zip(texts, examples, strict=True)
            )
        results[f"{group}: reaches the goal"] = round(right / count, 3)
    return results


def reaches_goal(question: Question, text: str) -> bool:
    """Return whether an answer is right. The checks are those of the node."""
    if question.plan is None:
        raise ValueError("the question has no plan request")
    reader = StructuredPlanReader(plan_form(question.plan, ROOM))
    reader.feed(text)
    try:
        plan = reader.finish()
        check_feasible(plan.steps, question.plan)
    except (ValueError, InfeasiblePlanError):
        return False
    answer = Answer(Task.PLAN, text, steps=plan.steps, reasoning=plan.reasoning, verdict=plan.verdict)
    return judge_plan(question, answer)[0]
