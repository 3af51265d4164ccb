"""RoboBrain without ROS, for notebooks and scripts::

    from robobrain_ros.core import Query, Task, draw, read_image
    from robobrain_ros.local import open_brain

    brain = await open_brain("BAAI/RoboBrain2.0-7B")            # or a checkpoint's folder
    image = read_image("table.jpg")
    answer = await brain.run(Query(Task.POINT, "the red mug", [image]))
    print(answer.points)                                        # in the image's pixels
    drawn = draw(image, answer, instruction="the red mug")    # an RGB array, for matplotlib's imshow
    await brain.close()

The engine starts processes that import the script again. Therefore a script needs ``if __name__ == "__main__":`` around
``asyncio.run``; a notebook does not. Use one ``asyncio.run`` for all calls.
"""

import logging
from functools import partial
from typing import Any

from robobrain_ros.core.brain import Brain
from robobrain_ros.core.grids import GridMode, check_grid, require_grid
from robobrain_ros.core.profiles import AUTO, check_origin, identify_model
from robobrain_ros.core.query import Defaults
from robobrain_ros.engine import presets
from robobrain_ros.engine.base import LoadProgress, ProgressCallback

_log = logging.getLogger(__name__)


def _print_message(progress: LoadProgress) -> None:
    print(progress.message, flush=True)


async def open_brain(
    model: str = "",
    *,
    model_profile: str = AUTO,
    grid_check: str = GridMode.WARN.value,
    can_think: bool | None = None,
    defaults: Defaults | None = None,
    progress: ProgressCallback = _print_message,
    **engine_options: Any,
) -> Brain:
    """Load a model in this process, or use servers with ``kind="remote", urls=("http://gpu:9010/v1",)``.

    :param model: a folder with a checkpoint, a name on the hub, or a preset of `engine.presets`, such as "robobrain2.0-7b".
        A preset sets the options that are missing from ``engine_options``. With ``kind="remote"``: the name of the model on the
        servers, or empty for the name that the servers report.
    :param model_profile: name of a model profile (docs/reference/models.md), or "auto" to identify the checkpoint by its name and
        its files. If these do not identify it, the profile is a guess, and a warning in the log states the alternatives.
    :param grid_check: "warn", "require" or "off": whether to check after loading that the model writes coordinates on the grid of
        its profile. "warn" logs a warning if it does not. "require" raises an error unless the result is right.
    :param can_think: whether the checkpoint was trained to think. None: the value for the model's name, or for its family if the
        name is unknown (see `Profile.with_thinking`).
    :param defaults: default values for queries, such as ``Defaults(think=True)``.
    :param progress: called with the progress of loading. By default, it is printed.
    :param engine_options: options by keyword, such as ``gpu_memory_utilization=0.6``. See `engine.options`.
    :raises EngineConfigError: the model cannot be loaded, or it fails the grid check. The message states what to do.
    :raises ValueError: there is no such ``grid_check``.
    :raises TypeError: there is no such option.
    """
    from robobrain_ros.engine.factory import make_engine

    mode = GridMode(grid_check)
    options = presets.resolve_options({"model": model, **engine_options})
    if can_think is None and model_profile == AUTO:
        can_think = presets.can_think(model)
    engine = make_engine(options, check_origin=partial(check_origin, chosen=model_profile))
    info = await engine.start(progress)
    try:
        found = identify_model(info, model_profile)
        if found.warning:
            _log.warning("%s", found.warning)
        profile = found.profile if can_think is None else found.profile.with_thinking(can_think)
        brain = Brain(engine, profile, info=info, max_pixels=options.max_pixels, defaults=defaults, identified_by=found.by)
        if mode is not GridMode.OFF:
            await _check(brain, mode, options.max_num_seqs)
        return brain
    except BaseException:
        await engine.close()
        raise


async def _check(brain: Brain, mode: GridMode, at_once: int) -> None:
    result = await check_grid(brain, at_once=at_once)
    if mode is GridMode.REQUIRE:
        require_grid(result)
    if result.suspicious:
        _log.warning("Grid check: %s", result)
