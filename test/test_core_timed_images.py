"""Images of different times: how they reach the engine, how many tokens they need, and which times are rejected."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from brain_rig import TWO, TWO_FIVE, ask
from fakes import ScriptedEngine

from robobrain_ros.core import Brain, Query, Task
from robobrain_ros.core.query import Answer
from robobrain_ros.core.timed_images import is_even, sentence
from robobrain_ros.engine.base import EngineInfo, Generation
from robobrain_ros.errors import BadImageError, BadRequestError

WITH_VIDEO = EngineInfo(model="scripted", model_type="qwen2_5_vl", engine="scripted", cell=28, takes_video=True)


def frames(count: int, height: int = 480, width: int = 640) -> list[np.ndarray]:
    return [np.full((height, width, 3), 10 * number, np.uint8) for number in range(count)]


def timed(times: Sequence[float], task: Task = Task.ASK, images: Sequence[np.ndarray] = (), **options: Any) -> Query:
    return Query(task, "What moved?", images or frames(len(times)), image_times=times, **options)


def generation(query: Query, info: EngineInfo | None = None, profile: Any = TWO) -> tuple[Generation, Answer]:
    engine = ScriptedEngine(["1. Wait." if query.task is Task.PLAN else "The cup."])
    answer = ask(engine, query, profile=profile, info=info)
    return engine.generations[-1], answer


@pytest.mark.parametrize("task", [Task.ASK, Task.PLAN])
def test_without_video_a_sentence_states_the_times(task: Task) -> None:
    found, _ = generation(timed([-3.0, -2.0, -0.25, 0.0], task))
    assert found.user_text.startswith("The images show one view over time. Seconds before the last image: 3, 2, 0.25, 0.\n")
    assert "What moved?" in found.user_text or "What moved" in found.user_text
    assert (len(found.images), found.video_times) == (4, ())


def test_images_of_one_time_keep_their_prompt() -> None:
    found, _ = generation(Query(Task.ASK, "What moved?", frames(3)))
    assert found.user_text == "What moved?"
    assert [image.shape for image in found.images] == [(476, 644, 3)] * 3


def test_with_video_the_engine_gets_the_times() -> None:
    found, answer = generation(timed([-3.0, -2.0, -1.0, 0.0]), WITH_VIDEO)
    assert found.user_text == "What moved?"
    assert found.video_times == [-3.0, -2.0, -1.0, 0.0]
    assert answer.report.model_image_sizes == [(644, 476)] * 4


@pytest.mark.parametrize(
    ("times", "images"),
    [
        ([-3.0, -2.9, -1.0, 0.0], frames(4)),  # Not evenly spaced.
        ([-2.0, -1.0, 0.0], [*frames(2), *frames(1, 240, 320)]),  # Of different sizes.
        ([0.0], frames(1)),
    ],
)
def test_images_that_are_no_video_stay_images(times: list[float], images: list[np.ndarray]) -> None:
    found, _ = generation(timed(times, images=images), WITH_VIDEO)
    assert found.video_times == ()
    assert found.user_text.startswith("The images show one view over time.")


@pytest.mark.parametrize(("profile", "model_type", "cell"), [(TWO, "qwen2_5_vl", 28), (TWO_FIVE, "qwen3_vl", 32)])
@pytest.mark.parametrize("takes_video", [False, True])
def test_eight_images_of_640x480_leave_256_of_2048_tokens(profile: Any, model_type: str, cell: int, takes_video: bool) -> None:
    info = replace(WITH_VIDEO, model_type=model_type, cell=cell, takes_video=takes_video, max_model_len=2048)
    found, _ = generation(timed([number - 7.0 for number in range(8)]), info, profile)
    tokens = [image.shape[0] * image.shape[1] // cell**2 for image in found.images]
    visual = sum(tokens) // 2 if takes_video else sum(tokens)
    assert len(tokens) == 8
    assert 1200 <= visual <= 2048 - 256


def test_a_camera_limit_still_applies() -> None:
    found, _ = generation(timed([-1.0, 0.0], max_pixels=[100 * 784] * 2), WITH_VIDEO)
    assert all(image.shape[0] * image.shape[1] <= 100 * 784 for image in found.images)


@pytest.mark.parametrize(
    ("times", "fault"),
    [
        ([-1.0, 0.0, 0.0], "must increase to 0"),
        ([0.0, -1.0, -2.0], "must increase to 0"),
        ([-3.0, -2.0, -1.0], "must increase to 0"),
        ([-1.0, 0.0], "2 values for 3 images"),
        ([-1.0, float("nan"), 0.0], "Each time must be from"),
        ([float("-inf"), -1.0, 0.0], "Each time must be from"),
        ([-1e9, -1.0, 0.0], "Each time must be from"),
        ([-1.0, 0.0, 1.0], "Each time must be from"),
    ],
)
def test_wrong_times_are_rejected(times: list[float], fault: str) -> None:
    with pytest.raises(BadRequestError, match=fault):
        generation(timed(times, images=frames(3)))


def test_spatial_tasks_take_no_times() -> None:
    with pytest.raises(BadRequestError, match="takes no images of different times"):
        generation(timed([0.0], Task.POINT, frames(1)))


def test_too_many_tokens_are_rejected_by_the_sizes_alone() -> None:
    """The images are never read: the query has none."""
    info = replace(WITH_VIDEO, max_model_len=300, takes_video=False)
    brain = Brain(ScriptedEngine(["no"]), TWO, info=info)
    query = Query(Task.ASK, "What moved?", (), image_times=[-1.0, 0.0])
    with pytest.raises(BadRequestError, match=r"2 images need 782 visual tokens.*the model has 300"):
        brain.check_times_fit(query, [(640, 480)] * 2)
    with pytest.raises(BadImageError, match="empty"):
        brain.check_times_fit(query, [(640, 0)] * 2)
    with pytest.raises(BadRequestError, match="782 visual tokens"):
        asyncio.run(brain.run(timed([-1.0, 0.0])))


@pytest.mark.parametrize(
    ("times", "even"),
    [
        ([-1.0, 0.0], True),
        ([-2.0, -1.0, 0.0], True),
        ([-2.0, -1.2, 0.0], True),  # A camera's period off its place.
        ([-2.0, -1.3, 0.0], False),
        ([0.0], False),
    ],
)
def test_evenly_spaced(times: list[float], even: bool) -> None:
    assert is_even(times) is even


def test_the_sentence_rounds_to_hundredths() -> None:
    assert sentence([-10.0, -0.3333, 0.0]).endswith(": 10, 0.33, 0.")
