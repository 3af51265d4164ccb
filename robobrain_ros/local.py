"""RoboBrain without ROS, for notebooks and scripts::

    from robobrain_ros.core import Query, Task, draw, read_image
    from robobrain_ros.local import open_brain

    brain = await open_brain("BAAI/RoboBrain2.0-7B")            # or a checkpoint's folder
    image = read_image("table.jpg")
    answer = await brain.run(Query(Task.POINT, "the red mug", [image]))
    print(answer.points)                                        # in the image's pixels
    drawn = draw(image, answer, instruction="the red mug")    # an RGB array, for matplotlib's imshow
    await brain.close()

The engine starts processes of its own: a script (not a notebook) must do this under ``if __name__ == "__main__":``, in one
``asyncio.run``.
"""

from typing import Any

from robobrain_ros.core.brain import Brain
from robobrain_ros.core.profiles import profile_for
from robobrain_ros.core.query import Defaults
from robobrain_ros.engine import presets
from robobrain_ros.engine.base import LoadProgress, ProgressCallback


def _tell(progress: LoadProgress) -> None:
    print(progress.message, flush=True)


async def open_brain(
    model: str = "",
    *,
    can_think: bool | None = None,
    defaults: Defaults | None = None,
    progress: ProgressCallback = _tell,
    **engine_options: Any,
) -> Brain:
    """Load a model into this process, or, with ``kind="remote", urls=("http://gpu:9010/v1",)``, ask servers that have it.

    :param model: a folder with a checkpoint, a name on the hub, or a preset of `engine.presets`, such as "robobrain2.0-7b".
        A preset sets the options that are missing from ``engine_options``. With ``kind="remote"``: the servers' name of the
        model; empty: the name that they report.
    :param can_think: whether the checkpoint can think; None: as is known of it, or else as its family
        (see `Profile.with_thinking`).
    :param defaults: settings for everything that a query leaves open, such as ``Defaults(think=True)``.
    :param progress: hears what is being done meanwhile; by default it is printed.
    :param engine_options: options by keyword, see `engine.options`, such as ``gpu_memory_utilization=0.6``.
    :raises EngineConfigError: the model cannot be loaded; the message says what to do.
    :raises TypeError: there is no such option.
    """
    from robobrain_ros.engine.factory import make_engine

    options = presets.resolve_options({"model": model, **engine_options})
    can_think = presets.can_think(model) if can_think is None else can_think
    engine = make_engine(options)
    info = await engine.start(progress)
    try:
        profile = profile_for(info.model_type)
        if can_think is not None:
            profile = profile.with_thinking(can_think)
        return Brain(engine, profile, info=info, max_pixels=options.max_pixels, defaults=defaults)
    except BaseException:
        await engine.close()
        raise
