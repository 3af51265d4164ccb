"""Find the objects that a robot can grasp or release in any plan, so that the schema leaves out what no plan can contain."""

from collections.abc import Mapping
from dataclasses import dataclass

from robobrain_ros.core.plans.request import PlanRequest, Robot, Skill, SkillEffect

UNNAMED = "something"
"""Name of an object in the hand if the step names none. It equals every object."""


@dataclass(frozen=True)
class ObjectLimit:
    """The objects that a skill can have as its argument.

    :param only: the only object, or empty for any object.
    :param never: objects that the skill cannot have.
    """

    only: str = ""
    never: frozenset[str] = frozenset()

    def allows(self, name: str) -> bool:
        """Return whether the skill can have this object."""
        return name not in self.never and self.only in ("", name)


def kept_objects(request: PlanRequest, most_steps: int) -> dict[str, str]:
    """Return the objects that robots hold and cannot release before another step, by the robots' names."""
    return {robot.name: robot.holding for robot in request.robots if robot.holding and not _can_empty_hand(robot, most_steps)}


def object_limit(robot: Robot, skill: Skill, kept: Mapping[str, str], most_steps: int) -> ObjectLimit | None:
    """Return the limit of a skill's object, or None if no plan can contain the skill.

    For plans of one step, a step within the limit is always feasible. Longer plans have further rules between steps, which
    `core.plans.feasibility` checks.

    :param kept: see `kept_objects`.
    :param most_steps: most steps of the plan.
    """
    if skill.effect is SkillEffect.GRASPS:
        if robot.name in kept:
            return None
        return ObjectLimit(never=frozenset(kept.values()))
    if skill.effect is SkillEffect.RELEASES:
        grasps = _has(robot, SkillEffect.GRASPS)
        if not robot.holding:
            return ObjectLimit() if grasps and most_steps > 1 else None
        # Another object than the held one needs three steps: release, grasp, release.
        return ObjectLimit() if (grasps and most_steps > 2) or robot.holding == UNNAMED else ObjectLimit(only=robot.holding)
    return ObjectLimit()


def _can_empty_hand(robot: Robot, most_steps: int) -> bool:
    """Return whether the robot can release what it holds, and a further step can follow."""
    return most_steps > 1 and _has(robot, SkillEffect.RELEASES)


def _has(robot: Robot, effect: SkillEffect) -> bool:
    return any(skill.effect is effect for skill in robot.skills)
