"""What a schema cannot say of a plan: that each robot can do its steps one after the other."""

import json
from collections.abc import Sequence

from robobrain_ros.core.plans.request import PlanRequest, SkillEffect
from robobrain_ros.core.query import PlanStep
from robobrain_ros.errors import InfeasiblePlanError

MOST_REPEATS = 3
"""How often the same steps may follow each other; once more is taken for a model that found no end."""


def check_feasible(steps: Sequence[PlanStep], request: PlanRequest) -> None:
    """Check a plan, its steps in ascending order.

    :raises InfeasiblePlanError: it contradicts itself or what the request says of the robots; the message names the step.
    """
    _check_orders(steps)
    _check_end(steps)
    _check_hands(steps, request)


def _check_orders(steps: Sequence[PlanStep]) -> None:
    seen: dict[tuple[str, int], int] = {}
    for number, step in enumerate(steps, 1):
        before = seen.setdefault((step.robot, step.order), number)
        if before != number:
            raise InfeasiblePlanError(
                f"Steps {before} and {number} are both for robot {step.robot!r} at order {step.order}; it cannot do both at once."
            )


def _check_end(steps: Sequence[PlanStep]) -> None:
    """The same block of steps over and over: no model means that."""
    done = [(step.robot, step.skill, step.arguments) for step in steps]
    for period in range(1, len(done) // (MOST_REPEATS + 1) + 1):
        equal = 0
        for place in range(len(done) - period):
            equal = equal + 1 if done[place] == done[place + period] else 0
            if equal == period * MOST_REPEATS:
                first = place + period + 1 - (MOST_REPEATS + 1) * period + 1
                block = _block(steps[first - 1 : first - 1 + period])
                raise InfeasiblePlanError(f"From step {first} on, {block} comes {MOST_REPEATS + 1} times; the plan finds no end.")


def _block(steps: Sequence[PlanStep]) -> str:
    return " and ".join(dict.fromkeys(repr(step.skill) for step in steps))


def _check_hands(steps: Sequence[PlanStep], request: PlanRequest) -> None:
    """Follow what each robot holds, step by step."""
    skills = {(robot.name, skill.name): skill for robot in request.robots for skill in robot.skills}
    holding = {robot.name: robot.holding for robot in request.robots}
    for number, step in enumerate(steps, 1):
        skill = skills[step.robot, step.skill]
        if skill.effect is SkillEffect.NONE:
            continue
        arguments = json.loads(step.arguments) if step.arguments else {}
        thing, held = str(arguments.get(skill.object_argument, "")), holding[step.robot]
        if skill.effect is SkillEffect.GRASPS:
            _check_grasp(f"Step {number} ({step.text!r})", step.robot, thing, holding)
            holding[step.robot] = thing or "something"
        elif not held or (thing and held not in (thing, "something")):
            raise InfeasiblePlanError(
                f"Step {number} ({step.text!r}) lets robot {step.robot!r} release {thing or 'something'!r}, but it holds "
                f"{repr(held) if held else 'nothing'} then."
            )
        else:
            holding[step.robot] = ""


def _check_grasp(step: str, robot: str, thing: str, holding: dict[str, str]) -> None:
    if holding[robot]:
        raise InfeasiblePlanError(
            f"{step} lets robot {robot!r} grasp {thing or 'something'!r}, but it still holds {holding[robot]!r} then."
        )
    other = next((name for name, held in holding.items() if thing and held == thing), "")
    if other:
        raise InfeasiblePlanError(f"{step} lets robot {robot!r} grasp {thing!r}, which robot {other!r} holds then.")
