"""Check that each robot can do its steps one after the other. A JSON schema cannot express this."""

import json
from collections.abc import Sequence

from robobrain_ros.core.plans.hands import UNNAMED
from robobrain_ros.core.plans.request import PlanRequest, SkillEffect
from robobrain_ros.core.query import PlanStep
from robobrain_ros.errors import InfeasiblePlanError

MOST_REPEATS = 3
"""Most repetitions of the same steps. With more repetitions, the model probably failed to end the plan."""

_WHAT_TO_DO = "Request the plan again with this message as context.feedback."


def check_feasible(steps: Sequence[PlanStep], request: PlanRequest) -> None:
    """Check a plan.

    :param steps: the steps in ascending order. `core.plans.orders` numbers them so that a robot does one step at a time.
    :raises InfeasiblePlanError: the plan contradicts itself or the request. The message names the step.
    """
    _check_end(steps)
    _check_hands(steps, request)


def _check_end(steps: Sequence[PlanStep]) -> None:
    """Reject a plan in which a block of steps repeats more than `MOST_REPEATS` times in a row."""
    done = [(step.robot, step.skill, step.arguments) for step in steps]
    for period in range(1, len(done) // (MOST_REPEATS + 1) + 1):
        equal = 0
        for place in range(len(done) - period):
            equal = equal + 1 if done[place] == done[place + period] else 0
            if equal == period * MOST_REPEATS:
                first = place + period + 1 - (MOST_REPEATS + 1) * period + 1
                block = _block(steps[first - 1 : first - 1 + period])
                raise InfeasiblePlanError(f"From step {first} on, {block} repeats {MOST_REPEATS + 1} times. {_WHAT_TO_DO}")


def _block(steps: Sequence[PlanStep]) -> str:
    return " and ".join(dict.fromkeys(repr(step.skill) for step in steps))


def _check_hands(steps: Sequence[PlanStep], request: PlanRequest) -> None:
    """Check that a robot's hand is empty before it grasps, and that it releases only what it holds."""
    skills = {(robot.name, skill.name): skill for robot in request.robots for skill in robot.skills}
    holding = {robot.name: robot.holding for robot in request.robots}
    for number, step in enumerate(steps, 1):
        skill = skills[step.robot, step.skill]
        if skill.effect is SkillEffect.NONE:
            continue
        arguments = json.loads(step.arguments) if step.arguments else {}
        named, held = arguments.get(skill.object_argument), holding[step.robot]
        thing = "" if named is None else str(named)
        if skill.effect is SkillEffect.GRASPS:
            _check_grasp(f"In step {number} ({step.text!r})", step.robot, thing, holding)
            holding[step.robot] = thing or UNNAMED
        elif not held or (thing and held not in (thing, UNNAMED)):
            raise InfeasiblePlanError(
                f"In step {number} ({step.text!r}) robot {step.robot!r} releases {thing or UNNAMED!r}, but then it holds "
                f"{repr(held) if held else 'nothing'}. {_WHAT_TO_DO}"
            )
        else:
            holding[step.robot] = ""


def _check_grasp(step: str, robot: str, thing: str, holding: dict[str, str]) -> None:
    if holding[robot]:
        raise InfeasiblePlanError(
            f"{step} robot {robot!r} grasps {thing or UNNAMED!r}, but then it still holds {holding[robot]!r}. {_WHAT_TO_DO}"
        )
    other = next((name for name, held in holding.items() if thing and held == thing), "")
    if other:
        raise InfeasiblePlanError(f"{step} robot {robot!r} grasps {thing!r}, which robot {other!r} holds. {_WHAT_TO_DO}")
