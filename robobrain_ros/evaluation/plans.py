"""Questions for plans on the tabletop: new plans, plans after some steps and failures, next steps, and checks.

The robot is the demo's arm, or a random one (`evaluation.robots`).

The answers are JSON as `core.plan_prompt` describes it, compact. The true plan is the shortest one: pick and place each
object in turn, the held object first.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from robobrain_ros.core.plans.prompt import ARGUMENTS, ORDER, REASONING, ROBOT, SKILL, STEPS, TEXT, VERDICT
from robobrain_ros.core.plans.request import DoneStep, PlanMode, PlanRequest, PlanVerdict, StepOutcome
from robobrain_ros.core.query import Answer, Task
from robobrain_ros.demo.robot import ARM, MOST_STEPS, MOVED, SLIPPED, World, done
from robobrain_ros.demo.simulator import Goal, Step, Table
from robobrain_ros.demo.world import Scene
from robobrain_ros.evaluation.question import Question
from robobrain_ros.evaluation.questions import ask_about, enumeration
from robobrain_ros.evaluation.robots import TableRobot

KINDS = {
    PlanMode.NEW: "plan new",
    PlanMode.REPLAN: "plan again",
    PlanMode.NEXT_STEP: "next step",
    PlanMode.CHECK: "check",
}
"""Names of the kinds of questions."""

_SHARE_OF_SLIPS = 0.2
_SHARE_OF_MOVES = 0.12
_SHARE_WITH_SCENE = 0.3
_SHARE_WITH_SCENE_OF_ROBOTS = 0.5
_SHARE_WITH_MAX_STEPS = 0.5
_FEEDBACK = ("The {name} was moved.", "Somebody moved the {name}.", "The {name} lies on the table again.")


@dataclass(frozen=True)
class Situation:
    """A world after some steps to a goal.

    :param asked: the task, a question of `questions.ask_about` for a plan in words.
    :param feedback: text about a change in the world; empty: none.
    """

    world: World
    asked: Question
    done: tuple[DoneStep, ...] = ()
    feedback: str = ""

    @property
    def failed(self) -> bool:
        """Whether a step failed or feedback reports a change, and steps remain."""
        wrong = bool(self.feedback) or any(step.outcome is not StepOutcome.SUCCEEDED for step in self.done)
        return wrong and self.asked.goal is not None and bool(remaining(self.world.table, self.asked.goal))

    def question(self, mode: PlanMode, rng: random.Random, robot: TableRobot | None = None) -> Question:
        """Return the question of a mode, with its true answer. A random share of the requests lists the objects of the scene.

        :param robot: the robot of the request; None: the demo's arm. Requests for a robot have no ``max_steps``, or a random
            one that is enough.
        """
        world, asked = self.world, self.asked
        verdict, reasoning, steps = _truth(mode, asked, world)
        request = self._request(mode, rng) if robot is None else self._request_for(robot, mode, len(steps), rng)
        return replace(
            asked,
            kind=KINDS[mode],
            words=answer_json(verdict, reasoning, steps, robot),
            thought=reasoning,
            plan=request,
            verdict=verdict,
            table=world.table.copy(),
            robot=robot,
        )

    def _request(self, mode: PlanMode, rng: random.Random) -> PlanRequest:
        scene = self.world.places() if rng.random() < _SHARE_WITH_SCENE else ()
        most = MOST_STEPS if mode in (PlanMode.NEW, PlanMode.REPLAN) else 0
        return PlanRequest((self.world.arm(),), scene, self.done, self.feedback, most, mode)

    def _request_for(self, robot: TableRobot, mode: PlanMode, needed: int, rng: random.Random) -> PlanRequest:
        scene = self.world.places() if rng.random() < _SHARE_WITH_SCENE_OF_ROBOTS else ()
        limited = mode in (PlanMode.NEW, PlanMode.REPLAN) and rng.random() < _SHARE_WITH_MAX_STEPS
        most = max(2, needed) + rng.randrange(8) if limited else 0
        described = robot.holding(self.world.table.held)
        history = tuple(robot.done(step) for step in self.done)
        return PlanRequest((described,), scene, history, self.feedback, most, mode)


def remaining(table: Table, goal: Goal) -> list[Step]:
    """Return the remaining steps: first for the held object, then for each object in the goal's order."""
    held = table.held
    if goal.relation == "held":
        return [] if held in goal.things else [*_put_aside(held, goal.things[0]), Step("pick", goal.things[0])]
    steps = [] if held in goal.things else _put_aside(held, goal.place)
    for thing in sorted(goal.things, key=lambda thing: thing != held):
        if table.where.get(thing) == (goal.relation, goal.place):
            continue
        if thing != held:
            steps.append(Step("pick", thing))
        steps.append(Step("place", thing, goal.relation, goal.place))
    return steps


def _put_aside(held: str, place: str) -> list[Step]:
    return [Step("place", held, "beside", place)] if held else []


def judge_plan(question: Question, answer: Answer) -> tuple[bool, str]:
    """Return whether the answer has the true verdict and its steps lead to the goal, and if not, the reason."""
    if answer.verdict is not question.verdict:
        return False, f'the verdict is "{answer.verdict.value}", but the correct verdict is "{question.verdict.value}"'
    if question.verdict is not PlanVerdict.PLAN:
        return True, ""
    goal, table = question.goal, question.table
    if goal is None or table is None:
        return False, "there is nothing to plan"
    after, fault = execute_plan(question, answer)
    if fault:
        return False, fault
    if question.plan is not None and question.plan.mode is PlanMode.NEXT_STEP:
        nearer = len(answer.steps) == 1 and len(remaining(after, goal)) < len(remaining(table, goal))
        return nearer, "" if nearer else "the step does not lead to the goal"
    return (True, "") if after.holds(goal) else (False, "the goal is not reached after the last step")


def execute_plan(question: Question, answer: Answer) -> tuple[Table, str]:
    """Execute the steps of an answer. Return the table after them, and the reason of a failure, otherwise an empty string.

    :raises ValueError: the question has no table.
    """
    if question.table is None:
        raise ValueError("the question has no table")
    after = question.table.copy()
    for step in sorted(answer.steps, key=lambda step: step.order):
        try:
            if question.robot is None:
                fault = after.do(Step.read(step.skill, step.arguments))
            else:
                fault = question.robot.do(after, step.skill, step.arguments)
        except ValueError as error:
            fault = str(error)
        if fault:
            return after, fault
    return after, ""


def answer_json(verdict: PlanVerdict, reasoning: str, steps: Sequence[Step], robot: TableRobot | None = None) -> str:
    """Return the text of an answer. ``robot``: the robot of the steps; None: the demo's arm."""
    content: dict[str, object] = {REASONING: reasoning, VERDICT: verdict.value}
    if verdict is PlanVerdict.PLAN:
        content[STEPS] = [_step_json(step, number, robot) for number, step in enumerate(steps, start=1)]
    return json.dumps(content, separators=(",", ":"))


def _step_json(step: Step, number: int, robot: TableRobot | None) -> dict[str, object]:
    name, skill, arguments = ARM.name, step.skill, json.loads(step.arguments)
    if robot is not None:
        name, (skill, arguments) = robot.robot.name, robot.call(step)
    return {TEXT: step.text, ROBOT: name, SKILL: skill, ARGUMENTS: arguments, ORDER: number}


def _truth(mode: PlanMode, asked: Question, world: World) -> tuple[PlanVerdict, str, list[Step]]:
    goal, table = asked.goal, world.table
    if goal is None:
        return PlanVerdict.NOT_DONE if mode is PlanMode.CHECK else PlanVerdict.IMPOSSIBLE, asked.words, []
    things = sorted(goal.things, key=world.across)
    steps = remaining(table, replace(goal, things=tuple(things)))
    if not steps:
        return PlanVerdict.DONE, "Nothing is left to do.", []
    holds = f"The gripper holds the {table.held}. " if table.held else ""
    reasoning = f"{holds}Left to do: {enumeration(list(dict.fromkeys(step.object for step in steps)))}."
    if mode is PlanMode.CHECK:
        return PlanVerdict.NOT_DONE, reasoning, []
    return PlanVerdict.PLAN, reasoning, steps[:1] if mode is PlanMode.NEXT_STEP else steps


def task_about(scene: Scene, rng: random.Random, absent: bool = False) -> Question:
    """Return a possible task. ``absent``: a task with an object that is not on the table."""
    while True:
        asked = ask_about(scene, "absent" if absent else "plan", rng)
        if asked.task is Task.PLAN and (asked.goal is None) == absent:
            return asked


def at_first(scene: Scene, rng: random.Random, absent: bool = False) -> Situation:
    """Return a situation before the first step."""
    return Situation(World(scene.layout, _numpy(rng)), task_about(scene, rng, absent))


def midway(scene: Scene, rng: random.Random) -> Situation:
    """Return a situation after some steps, some of which may have failed. Objects may have been moved."""
    begun = at_first(scene, rng)
    history = tuple(_live(begun.world, begun.asked.goal, rng)) if begun.asked.goal else ()
    return replace(begun, done=history, feedback=_meddle(begun.world, rng))


def after_failure(scene: Scene, rng: random.Random) -> Situation:
    """Return a situation as `midway` does, but always after a failure or a move."""
    while not (situation := midway(scene, rng)).failed:
        pass
    return situation


def another(situation: Situation, scene: Scene, rng: random.Random) -> Situation | None:
    """Return another task in the same world, before its first step. None: its objects are not free."""
    asked, table = task_about(scene, rng), situation.world.table
    goal = asked.goal
    if goal is None or any(name in table.where for name in (*goal.things, goal.place)):
        return None
    if goal.place == table.held or not remaining(table, goal):
        return None
    return Situation(situation.world, asked)


def _live(world: World, goal: Goal, rng: random.Random) -> Iterator[DoneStep]:
    """Execute some of the steps to a goal."""
    stop = 0.12 if len(goal.things) > 1 else 0.3
    failures = 0
    while (steps := remaining(world.table, goal)) and failures < 3:
        step = _try(world, steps[0], rng)
        failures += step.outcome is not StepOutcome.SUCCEEDED
        yield step
        if rng.random() < (0.7 if step.observation else stop):
            break


def _try(world: World, step: Step, rng: random.Random) -> DoneStep:
    """Execute a step. Some steps fail at random."""
    chance = rng.random()
    if chance < _SHARE_OF_SLIPS:
        world.drop(step.object)
        return done(step, StepOutcome.FAILED, SLIPPED.format(name=step.object))
    if step.skill == "pick" and chance < _SHARE_OF_SLIPS + _SHARE_OF_MOVES:
        world.drop(step.object)
        return done(step, StepOutcome.FAILED, MOVED.format(name=step.object))
    fault = world.execute(step)
    return done(step, StepOutcome.FAILED, fault) if fault else done(step)


def _meddle(world: World, rng: random.Random) -> str:
    """Sometimes take an object out of a bowl or off a block. Return the feedback about it, which may be empty."""
    placed = [name for name, (relation, _) in world.table.where.items() if relation != "beside"]
    if not placed or rng.random() < 0.6:
        return ""
    world.drop(placed[-1])
    return rng.choice(_FEEDBACK).format(name=placed[-1]) if rng.random() < 0.4 else ""


def _numpy(rng: random.Random) -> np.random.RandomState:
    return np.random.RandomState(rng.randrange(2**32))
