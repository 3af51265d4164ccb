"""Check a plan request. An invalid request is rejected with the path of the field and the reason."""

from collections.abc import Iterable, Sequence
from typing import Any

from robobrain_ros.bounds.control_tokens import reject_control_tokens
from robobrain_ros.bounds.json_text import parse_json
from robobrain_ros.core.plans.argument_schema import Schema, is_like_a_token, is_printable, read_schema
from robobrain_ros.core.plans.request import DoneStep, Place, PlanMode, PlanRequest, Robot, Skill, SkillEffect, StepOutcome
from robobrain_ros.errors import BadRequestError

DEFAULT_MAX_STEPS = 16
MOST_STEPS = 50
MOST_ROBOTS = 100
MOST_SKILLS = 100
"""Most skills of one robot."""
MOST_PLACES = 100
MOST_OBJECTS = 200
"""Most objects in the whole scene."""
MOST_DONE = 200
LONGEST_NAME = 100
LONGEST_TEXT = 1000
"""Most characters of a description, a state, an observation, or the text of a done step."""
LONGEST_FEEDBACK = 4000

ArgumentSchemas = dict[str, Schema]
"""The result of `read_schema` for each schema, by the schema's JSON text."""


def check_request(request: PlanRequest) -> ArgumentSchemas:
    """Check a plan request.

    :returns: the schemas of the skills' arguments.
    :raises BadRequestError: the request is invalid. The message begins with the field's path in ``robobrain_ros/srv/MakePlan``.
    """
    schemas: ArgumentSchemas = {}
    _check_mode(request)
    check_counts(request)
    _unique("context.robots", [robot.name for robot in request.robots])
    places = [place.name for place in request.scene]
    for number, robot in enumerate(request.robots):
        _check_robot(f"context.robots[{number}]", robot, places, schemas)
    _check_scene(request.scene, places)
    for number, step in enumerate(request.done):
        _check_done(f"context.done[{number}]", step)
    _text("context.feedback", request.feedback, LONGEST_FEEDBACK, lines=True)
    return schemas


def check_counts(request: Any) -> None:
    """Check the lengths of all lists, and read no more items than are allowed.

    :param request: a `PlanRequest`, or a message with the same fields.
    :raises BadRequestError: a list is too long. The message begins with the field's path.
    """
    _count("context.robots", request.robots, MOST_ROBOTS)
    for number, robot in enumerate(request.robots):
        _count(f"context.robots[{number}].skills", robot.skills, MOST_SKILLS)
        _count(f"context.robots[{number}].reachable_places", robot.reachable_places, MOST_PLACES)
    _count("context.scene", request.scene, MOST_PLACES)
    objects = 0
    for number, place in enumerate(request.scene):
        objects += len(place.objects)
        if objects > MOST_OBJECTS:
            raise BadRequestError(
                f"context.scene[{number}].objects: the scene has more than {MOST_OBJECTS} objects. Remove some."
            )
    _count("context.done", request.done, MOST_DONE)


def _check_mode(request: PlanRequest) -> None:
    if request.mode not in list(PlanMode):
        known = ", ".join(f"{mode.name} ({mode.value})" for mode in PlanMode)
        raise BadRequestError(f"context.mode: {request.mode} is unknown. Known modes are {known}.")
    if not 0 <= request.max_steps <= MOST_STEPS:
        raise BadRequestError(f"context.max_steps: {request.max_steps} is not within 0 to {MOST_STEPS}. 0 is the default.")
    if request.mode is PlanMode.NEXT_STEP and request.max_steps > 1:
        raise BadRequestError(
            f"context.max_steps: {request.max_steps} contradicts mode NEXT_STEP, which plans one step. Set it to 0."
        )


def _check_robot(path: str, robot: Robot, places: Sequence[str], schemas: ArgumentSchemas) -> None:
    _name(f"{path}.name", robot.name)
    for field in ("type", "state", "position"):
        _text(f"{path}.{field}", getattr(robot, field), LONGEST_TEXT)
    if robot.holding:
        _name(f"{path}.holding", robot.holding)
    if not robot.skills:
        raise BadRequestError(f"{path}.skills: the robot has no skills, so no plan can use it. Add skills, or remove the robot.")
    _unique(f"{path}.skills", [skill.name for skill in robot.skills])
    for number, skill in enumerate(robot.skills):
        _check_skill(f"{path}.skills[{number}]", skill, schemas)
    for number, place in enumerate(robot.reachable_places):
        _name(f"{path}.reachable_places[{number}]", place)
        if places and place not in places:
            raise BadRequestError(
                f"{path}.reachable_places[{number}]: {place!r} is not a place in context.scene. Correct one of them."
            )


def _check_skill(path: str, skill: Skill, schemas: ArgumentSchemas) -> None:
    _name(f"{path}.name", skill.name)
    _text(f"{path}.description", skill.description, LONGEST_TEXT)
    if skill.arguments_schema not in schemas:
        try:
            schemas[skill.arguments_schema] = read_schema(skill.arguments_schema)
        except ValueError as error:
            raise BadRequestError(f"{path}.arguments_schema: {error}.") from error
    properties = schemas[skill.arguments_schema]["properties"]
    if skill.effect not in list(SkillEffect):
        raise BadRequestError(
            f"{path}.effect: {skill.effect} is unknown. Known effects are 0 (none), 1 (grasps) and 2 (releases)."
        )
    if skill.effect and not skill.object_argument:
        raise BadRequestError(
            f"{path}.object_argument: a skill with an effect needs it. Set it to the argument that names the object."
        )
    if skill.object_argument and not skill.effect:
        raise BadRequestError(f"{path}.effect: object_argument is set, but effect is not. Set it to 1 (grasps) or 2 (releases).")
    if skill.object_argument and skill.object_argument not in properties:
        raise BadRequestError(
            f"{path}.object_argument: {skill.object_argument[:40]!r} is not a property in arguments_schema. Correct one of them."
        )


def _check_scene(scene: Sequence[Place], places: Sequence[str]) -> None:
    _unique("context.scene", places)
    for number, place in enumerate(scene):
        _name(f"context.scene[{number}].name", place.name)
        for index, name in enumerate(place.objects):
            _name(f"context.scene[{number}].objects[{index}]", name)


def _check_done(path: str, step: DoneStep) -> None:
    for field in ("text", "robot", "skill", "arguments", "observation"):
        _text(f"{path}.{field}", getattr(step, field), LONGEST_TEXT, lines=True)
    if not step.text.strip() and not step.skill.strip():
        raise BadRequestError(f"{path}: text and skill are empty. Set one of them.")
    if step.outcome not in list(StepOutcome):
        raise BadRequestError(
            f"{path}.outcome: {step.outcome} is unknown. Known outcomes are 0 (succeeded), 1 (failed) and 2 (canceled)."
        )
    if step.arguments and not _is_object(step.arguments):
        raise BadRequestError(f"{path}.arguments: the text is not a JSON object.")


def _is_object(text: str) -> bool:
    try:
        return isinstance(parse_json(text), dict)
    except ValueError:
        return False


def _count(path: str, items: Sequence[object], most: int) -> None:
    if len(items) > most:
        raise BadRequestError(f"{path}: there are {len(items)}; at most {most} are allowed. Remove some.")


def _unique(path: str, names: Iterable[str]) -> None:
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        if name in seen:
            raise BadRequestError(
                f"{path}[{number}].name: {name[:60]!r} is already the name of {path}[{seen[name]}]. Rename one of them."
            )
        seen[name] = number


def _name(path: str, name: str) -> None:
    if not name.strip():
        raise BadRequestError(f"{path}: the name is empty. Set one.")
    _text(path, name, LONGEST_NAME)
    if is_like_a_token(name):
        raise BadRequestError(f"{path}: {name[:40]!r} contains a word in <angle brackets>, as control tokens have. Rename it.")


def _text(path: str, text: str, longest: int, lines: bool = False) -> None:
    """Check a text.

    :param lines: line breaks are allowed.
    """
    if len(text) > longest:
        raise BadRequestError(f"{path}: the text has {len(text)} characters; at most {longest} are allowed. Shorten it.")
    if not is_printable(" ".join(text.split()) if lines else text, longest):
        raise BadRequestError(f"{path}: {text[:40]!r} contains a line break, a control character or a lone surrogate. Remove it.")
    reject_control_tokens(path, text)
