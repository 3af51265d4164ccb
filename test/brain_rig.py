"""Run queries on a brain with a scripted engine."""

import asyncio
from typing import Any

import numpy as np
import pytest
from fakes import ScriptedEngine

from robobrain_ros.core import Brain, Defaults, Query, Task, profile_for
from robobrain_ros.core.query import Answer, Point

TWO, TWO_FIVE = profile_for("qwen2_5_vl"), profile_for("qwen3_vl")
IMAGE = np.zeros((240, 424, 3), np.uint8)
# RoboBrain 2.0 resizes 424x240 to 420x252.
SCALE_U, SCALE_V = 424 / 420, 240 / 252


def seen(x: float, y: float) -> Point:
    """Return the place in IMAGE of a point that RoboBrain 2.0 writes as (x, y)."""
    nearly: Any = pytest.approx
    return Point(nearly((x + 0.5) * SCALE_U - 0.5), nearly((y + 0.5) * SCALE_V - 0.5))


def ask(engine: ScriptedEngine, query: Query, profile=TWO, on_partial=None, info=None, **defaults: Any) -> Answer:
    return asyncio.run(Brain(engine, profile, info=info, defaults=Defaults(**defaults)).run(query, on_partial))


def query(task: Task = Task.POINT, text: str = "the mug", **options: Any) -> Query:
    return Query(task, text, **{"images": [IMAGE], **options})
