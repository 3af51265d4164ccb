"""Ask a loaded model for targets at known positions, and judge on which grid it answers."""

import asyncio
import time
from dataclasses import replace
from enum import Enum

from robobrain_ros.core.brain import Brain
from robobrain_ros.core.grids.grid import grid_of, raw_answer
from robobrain_ros.core.grids.targets import MAX_PIXELS, ROUNDS, TargetImage
from robobrain_ros.core.grids.verdict import GridCheck, GridVerdict, TargetAnswer, judge
from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.query import Query, RgbImage, Task
from robobrain_ros.errors import EngineConfigError, EngineFailedError, RoboBrainError

TIME_LIMIT = 60.0
"""Seconds after which a check ends with the answers so far."""
_MAX_TOKENS = 200
"""Token limit of an answer without its thinking. Coordinates of truncated answers count."""
_TASKS = {
    Task.POINT: "the {target}",
    Task.GROUND: "the {target}",
    Task.AFFORDANCE: "touch the {target}",
    Task.TRAJECTORY: "move to the {target}",
}
"""The question for a target. The first task that the family supports is used."""


class GridMode(str, Enum):
    """What a failed grid check causes. The value is that of the parameter ``grid_check``."""

    OFF = "off"
    WARN = "warn"
    REQUIRE = "require"


async def check_grid(brain: Brain, *, at_once: int = 4, time_limit: float = TIME_LIMIT) -> GridCheck:
    """Ask for targets at known positions, and judge on which grid the model answers.

    A model that answers clearly gets 4 questions, other models up to 12. The answers are not constrained to the profile's grid.
    Failed requests, refusals and texts that cannot be read count as answers without coordinates.

    :param at_once: number of requests at the same time.
    :param time_limit: seconds after which the check ends with the answers so far.
    :raises EngineFailedError: the engine died.
    """
    own, name = grid_of(brain.profile), brain.profile.name
    task = next((task for task in _TASKS if task in brain.profile.tasks), None)
    if task is None:
        return GridCheck(GridVerdict.NO_COORDINATES, name, own)
    free = brain.with_defaults(constrain_coordinates=False)
    room, deadline = asyncio.Semaphore(at_once), time.monotonic() + time_limit
    images = {id(image): image.render() for image, _ in ROUNDS[0]}

    async def one(image: TargetImage, target: str) -> TargetAnswer:
        async with room:
            left = deadline - time.monotonic()
            if left <= 0:
                return TargetAnswer(image, target, fault=f"The check did not end within {time_limit:g} s.")
            return await _ask(free, task, image, target, images[id(image)], left)

    answers: list[TargetAnswer] = []
    for number, questions in enumerate(ROUNDS, 1):
        answers += await asyncio.gather(*(one(image, target) for image, target in questions))
        result = judge(answers, own, name, last=number == len(ROUNDS) or time.monotonic() >= deadline)
        if result is not None:
            break
    assert result is not None, "the last round always has a result"
    health = brain.engine.health()
    if health.state == "failed":
        raise EngineFailedError(health.message)
    return result


def require_grid(result: GridCheck) -> None:
    """Reject a model whose grid check has another result than required.

    :raises EngineConfigError: the grid is wrong, or the check has no clear result.
    """
    if not result.acceptable:
        raise EngineConfigError(f"grid_check is require, and the grid check of the model is {result}")


async def _ask(brain: Brain, task: Task, image: TargetImage, target: str, pixels: RgbImage, timeout: float) -> TargetAnswer:
    answer = TargetAnswer(image, target)
    text = _TASKS[task].replace("{target}", target)
    query = Query(task, text, [pixels], think=False, timeout=timeout, max_tokens=_MAX_TOKENS, max_pixels=[MAX_PIXELS])
    try:
        report = (await brain.run(query)).report
    except RoboBrainError as error:
        return replace(answer, fault=error.message)
    (size,) = report.model_image_sizes
    return replace(answer, size=FittedSize(*image.size, *size), parsed=raw_answer(task, report.raw_text, brain.profile))
