"""Convert plan contexts from and to messages."""

from collections.abc import Sequence
from enum import IntEnum
from typing import TypeVar

from robobrain_ros.bounds.texts import clean
from robobrain_ros.core.messages.answers import verdicts
from robobrain_ros.core.plans.checks import check_counts
from robobrain_ros.core.plans.request import (
    DoneStep,
    Place,
    PlanMode,
    PlanRequest,
    Robot,
    Skill,
    SkillEffect,
    StepOutcome,
)
from robobrain_ros.errors import BadRequestError
from robobrain_ros.msg import DoneStep as DoneStepMessage
from robobrain_ros.msg import Place as PlaceMessage
from robobrain_ros.msg import Plan, PlanContext
from robobrain_ros.msg import Robot as RobotMessage
from robobrain_ros.msg import Skill as SkillMessage

VERDICTS = verdicts(Plan)
"""Constants of the verdicts in the message. For an impossible task, the outcome is NOTHING_FOUND."""

_PREFIXES: dict[type[IntEnum], str] = {PlanMode: "MODE_", SkillEffect: "EFFECT_", StepOutcome: ""}
"""Prefixes of an enumeration's constants in its message."""

Number = TypeVar("Number", bound=IntEnum)


def to_plan_request(context: PlanContext) -> PlanRequest:
    """Convert a context to the core's plan request. Only the numbers and the lengths of the lists are checked here.

    :raises BadRequestError: a number is unknown, or a list is too long. The message begins with the field's path.
    """
    check_counts(context)
    return PlanRequest(
        robots=tuple(_robot(robot, f"context.robots[{index}]") for index, robot in enumerate(context.robots)),
        scene=tuple(Place(place.name, tuple(place.objects)) for place in context.scene),
        done=tuple(_done_step(step, f"context.done[{index}]") for index, step in enumerate(context.done)),
        feedback=context.feedback,
        max_steps=context.max_steps,
        mode=_member(PlanMode, context.mode, "context.mode"),
    )


def to_plan_context(request: PlanRequest) -> PlanContext:
    """Convert a plan request to a context; for clients."""
    return PlanContext(
        mode=int(request.mode),
        robots=[_robot_message(robot) for robot in request.robots],
        scene=[PlaceMessage(name=clean(place.name), objects=_cleaned(place.objects)) for place in request.scene],
        done=[_done_message(step) for step in request.done],
        feedback=clean(request.feedback),
        max_steps=request.max_steps,
    )


def skill_count(context: PlanContext) -> int:
    """Return the number of skills of all robots. The time for converting a context is proportional to it."""
    return sum(len(robot.skills) for robot in context.robots)


def _robot(message: RobotMessage, path: str) -> Robot:
    return Robot(
        name=message.name,
        type=message.type,
        state=message.state,
        skills=tuple(_skill(skill, f"{path}.skills[{index}]") for index, skill in enumerate(message.skills)),
        position=message.position,
        reachable_places=tuple(message.reachable_places),
        holding=message.holding,
    )


def _skill(message: SkillMessage, path: str) -> Skill:
    return Skill(
        name=message.name,
        description=message.description,
        arguments_schema=message.arguments_schema,
        effect=_member(SkillEffect, message.effect, f"{path}.effect"),
        object_argument=message.object_argument,
    )


def _done_step(message: DoneStepMessage, path: str) -> DoneStep:
    return DoneStep(
        text=message.text,
        robot=message.robot,
        skill=message.skill,
        arguments=message.arguments,
        outcome=_member(StepOutcome, message.outcome, f"{path}.outcome"),
        observation=message.observation,
    )


def _member(kind: type[Number], value: int, path: str) -> Number:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(f"{_PREFIXES[kind]}{member.name} ({member.value})" for member in kind)
        raise BadRequestError(f"{path}: {value} is unknown. Known values are {known}.") from None


def _robot_message(robot: Robot) -> RobotMessage:
    return RobotMessage(
        name=clean(robot.name),
        type=clean(robot.type),
        state=clean(robot.state),
        skills=[_skill_message(skill) for skill in robot.skills],
        position=clean(robot.position),
        reachable_places=_cleaned(robot.reachable_places),
        holding=clean(robot.holding),
    )


def _skill_message(skill: Skill) -> SkillMessage:
    return SkillMessage(
        name=clean(skill.name),
        description=clean(skill.description),
        arguments_schema=clean(skill.arguments_schema),
        effect=int(skill.effect),
        object_argument=clean(skill.object_argument),
    )


def _done_message(step: DoneStep) -> DoneStepMessage:
    return DoneStepMessage(
        text=clean(step.text),
        robot=clean(step.robot),
        skill=clean(step.skill),
        arguments=clean(step.arguments),
        outcome=int(step.outcome),
        observation=clean(step.observation),
    )


def _cleaned(texts: Sequence[str]) -> list[str]:
    return [clean(text) for text in texts]
