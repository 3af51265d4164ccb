"""The task progress: prompt, scores, perspectives, and the end of a watched task."""

import hashlib
import math
import re

import numpy as np
import pytest
from brain_rig import TWO, TWO_FIVE, ask
from fakes import ScriptedEngine
from hypothesis import given
from hypothesis import strategies as st

from robobrain_ros.core import Query, Task, parse_answer
from robobrain_ros.core.grammars import SCORE_PATTERN
from robobrain_ros.core.progress import IMAGES_OF_COMPARISON, VIEWS, Perspective, ProgressTracker, comparison
from robobrain_ros.core.watching import LEAST_GAIN, LEAST_REGRESSION, LEAST_STALL, TaskWatch, WatchLimits, WatchState
from robobrain_ros.engine.base import Constraint, EngineInfo
from robobrain_ros.errors import BadRequestError, UnparsableAnswerError

INCREMENTAL, FORWARD, BACKWARD = Perspective
SCORES = st.integers(-100, 100)
IMAGES = [np.full((240, 320, 3), shade, np.uint8) for shade in range(8)]
OFFICIAL = "23d766bd02353653ef79a7a99e1510b7a353e2fbf933efdf71b519d161406e4d"


def progress_query(text: str = "organize the table", **options) -> Query:
    return Query(Task.PROGRESS, text, **{"images": IMAGES, **options})


def test_the_prompt_is_the_official_one() -> None:
    # SHA-256 of SYSTEM_PROMPT.format(task="organize the table") in examples/inference.py of FlagOpen/Robo-Dopamine.
    for profile in (TWO, TWO_FIVE):
        texts = profile.prompt_texts(Task.PROGRESS, "organize the table")
        assert len(texts) == IMAGES_OF_COMPARISON + 1
        assert hashlib.sha256("<image>".join(texts).encode()).hexdigest() == OFFICIAL


def test_images_stand_at_their_places_in_the_prompt() -> None:
    engine = ScriptedEngine(["<score>+33%</score>"])
    ask(engine, progress_query())
    (generation,) = engine.generations
    places = [place if isinstance(place, int) else "text" for place in generation.interleaved(range(8))]
    assert places == ["text", 0, "text", 1, "text", 2, "text", 3, "text", 4, "text", 5, "text", 6, "text", 7, "text"]
    for name, before in zip(
        ("REFERENCE START", "REFERENCE END", *(f"BEFORE Robot {view.title()}" for view in VIEWS), "AFTER Robot Front"),
        generation.text_before_images,
        strict=False,
    ):
        assert name in before.splitlines()[-1], name


def test_a_task_with_an_image_slot_adds_no_place_for_an_image() -> None:
    engine = ScriptedEngine(["<score>0%</score>"])
    ask(engine, progress_query("put <image> into {task} {text}"))
    assert len(engine.generations[0].text_before_images) == 8
    assert engine.generations[0].text.count("put <image> into {task} {text}") == 2


def test_other_tasks_have_no_text_before_their_images() -> None:
    engine = ScriptedEngine(["two"])
    ask(engine, Query(Task.ASK, "How many mugs <image> are there?", IMAGES[:2]))
    generation = engine.generations[0]
    assert not generation.text_before_images
    assert list(generation.interleaved("ab")) == ["a", "b", "How many mugs <image> are there?"]


def test_images_have_at_most_the_pixels_of_the_training() -> None:
    engine = ScriptedEngine(["<score>0%</score>"])
    large = [np.zeros((720, 1280, 3), np.uint8)] * 8
    answer = ask(engine, progress_query(images=large))
    assert {width * height <= 76_800 for width, height in answer.report.model_image_sizes} == {True}
    ask(engine, Query(Task.ASK, "?", large[:1]))
    assert engine.generations[-1].images[0].size > 3 * 76_800


@pytest.mark.parametrize("profile", [TWO, TWO_FIVE])
def test_a_comparison_is_asked_once_without_tags_and_constrained(profile) -> None:
    engine = ScriptedEngine(["<score>-7%</score>"])
    answer = ask(engine, progress_query(), profile, think=True)
    assert answer.score == -7
    (generation,) = engine.generations
    assert (generation.assistant_prefix, generation.constraint) == ("", Constraint(regex=SCORE_PATTERN))
    assert not answer.report.think
    with pytest.raises(BadRequestError, match="think"):
        ask(engine, progress_query(think=True), profile)


def test_an_empty_answer_is_unreadable_and_not_zero() -> None:
    engine = ScriptedEngine([""])
    with pytest.raises(UnparsableAnswerError):
        ask(engine, progress_query())
    assert len(engine.generations) == 1


@pytest.mark.parametrize("count", [0, 1, 7, 9])
def test_a_comparison_has_eight_images(count: int) -> None:
    with pytest.raises(BadRequestError, match="exactly 8 images"):
        ask(ScriptedEngine(["<score>0%</score>"]), progress_query(images=(IMAGES * 2)[:count]))


@given(st.from_regex(re.compile(SCORE_PATTERN, re.ASCII), fullmatch=True))
def test_every_constrained_answer_is_read(text: str) -> None:
    score = parse_answer(Task.PROGRESS, text, TWO, constrained=True).score
    assert score is not None
    assert abs(score) <= 100
    assert text.removeprefix(" ") == f"<score>{f'{score:+d}' if score else '0'}%</score>"


@given(SCORES)
def test_every_score_can_be_written(score: int) -> None:
    assert re.fullmatch(SCORE_PATTERN, f"<score>{f'{score:+d}' if score else '0'}%</score>")


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<score>+33%</score>", 33),
        ("<score>33%</score>", 33),
        ("<score> -5 % </score>\n", -5),
        ("<think>closer</think><answer><score>+100%</score></answer>", 100),
        ("The arm moved. <score>0%</score>", 0),
        ("<score>+5%</score> <score>5%</score>", 5),
    ],
)
def test_scores_of_servers_without_grammars(text: str, score: int) -> None:
    assert parse_answer(Task.PROGRESS, text, TWO).score == score


@pytest.mark.parametrize(
    "text",
    ["+33%", "<score>+33</score>", "<score>+101%</score>", "<score>0.5%</score>", "<score>+33%", "<score></score>", "better",
     "<score>+5%</score><score>-5%</score>", "<score>١٠%</score>", "<think><score>+5%</score></think>no",
     "<score>+1000%</score>"],
)  # fmt: skip
def test_an_unreadable_score_is_never_zero(text: str) -> None:
    with pytest.raises(UnparsableAnswerError) as caught:
        parse_answer(Task.PROGRESS, text, TWO)
    assert caught.value.raw_text == text


def test_the_front_view_stands_in_for_missing_wrist_views() -> None:
    start, end, a, b, c, d = IMAGES[:6]
    assert [id(image) for image in comparison(start, end, [a], [b])] == [id(image) for image in (start, end, a, a, a, b, b, b)]
    assert [id(image) for image in comparison(start, end, [a, c], [b, d])] == list(map(id, (start, end, a, c, a, b, d, b)))


@pytest.mark.parametrize(("before", "after"), [(0, 0), (0, 1), (1, 2), (4, 4), (3, 2)])
def test_moments_with_wrong_views_are_rejected(before: int, after: int) -> None:
    with pytest.raises(BadRequestError, match="same number of views"):
        comparison(IMAGES[0], IMAGES[1], IMAGES[:before], IMAGES[:after])


def test_the_published_formulas() -> None:
    tracker = ProgressTracker()
    first = tracker.update({INCREMENTAL: 40, FORWARD: 40, BACKWARD: -60})
    assert first.progress == pytest.approx(0.4)
    assert first.uncertainty == pytest.approx(0.0)
    second = tracker.update({INCREMENTAL: 50, FORWARD: 60, BACKWARD: -20})
    assert second.by_perspective == pytest.approx({INCREMENTAL: 0.7, FORWARD: 0.6, BACKWARD: 0.8})
    assert (second.progress, second.change, second.uncertainty) == pytest.approx((0.7, 0.3, 0.2))
    third = tracker.update({INCREMENTAL: -50})
    assert third.progress == pytest.approx(0.35)
    assert math.isnan(third.uncertainty)


def test_the_fusion_is_the_median_so_the_first_progress_is_the_forward_one() -> None:
    tracker = ProgressTracker()
    first = tracker.update({INCREMENTAL: 40, FORWARD: 40, BACKWARD: -40})
    assert first.progress == pytest.approx(0.4)
    assert first.uncertainty == pytest.approx(0.2)
    assert tracker.update({INCREMENTAL: 0, FORWARD: 50, BACKWARD: -100}).progress == pytest.approx(0.4)
    assert tracker.update({FORWARD: 60, BACKWARD: -20}).progress == pytest.approx(0.7)
    assert ProgressTracker().update({INCREMENTAL: 30, BACKWARD: -50}).progress == pytest.approx(0.4)


@given(st.lists(st.dictionaries(st.sampled_from(Perspective), SCORES, min_size=1), min_size=1, max_size=30))
def test_progress_stays_a_part_of_the_task(updates) -> None:
    tracker, previous = ProgressTracker(), 0.0
    for scores in updates:
        estimate = tracker.update(scores)
        assert 0.0 <= estimate.progress <= 1.0
        assert estimate.change == estimate.progress - previous
        assert math.isnan(estimate.uncertainty) == (len(scores) == 1)
        assert all(0.0 <= value <= 1.0 for value in estimate.by_perspective.values())
        previous = estimate.progress


@pytest.mark.parametrize("scores", [{}, {FORWARD: 101}, {BACKWARD: -101}])
def test_impossible_scores_are_rejected(scores) -> None:
    with pytest.raises(ValueError, match="must be from"):
        ProgressTracker().update(scores)


def watched(limits: WatchLimits, *progress: float) -> list[WatchState]:
    watch = TaskWatch(limits, 0.0)
    return [watch.add(float(second), value) for second, value in enumerate(progress, start=1)]


RUNNING, SUCCEEDED, REGRESSED, STALLED = WatchState


def test_a_task_ends_when_successive_estimates_agree() -> None:
    limits = WatchLimits()
    assert watched(limits, 0.5, 0.96, 0.9, 0.97, 0.98) == [RUNNING] * 4 + [SUCCEEDED]
    assert watched(WatchLimits(confirmations=1), 0.5, 0.96) == [RUNNING, SUCCEEDED]
    assert watched(limits, 0.1, 0.2, 0.3, 0.1) == [RUNNING] * 3 + [REGRESSED]
    assert watched(WatchLimits(regression_confirmations=2), 0.1, 0.2, 0.3, 0.1, 0.3, 0.1, 0.05) == [RUNNING] * 6 + [REGRESSED]


def test_a_single_high_estimate_is_not_the_start_of_a_regression() -> None:
    """A second high estimate confirms the first one."""
    limits = WatchLimits()
    assert watched(limits, 0.1, 0.15, 0.6, 0.15, 0.15) == [RUNNING] * 5
    assert watched(limits, 0.9, 0.0, 0.0) == [RUNNING] * 3
    assert watched(limits, 0.6, 0.6, 0.3) == [RUNNING] * 2 + [REGRESSED]
    assert watched(limits, 0.5, 0.5, 0.4, 0.6, 0.4) == [RUNNING] * 5, "an estimate counts 0.1 more than the one before it"


def test_a_task_stalls_after_the_time_without_an_advance() -> None:
    limits = WatchLimits(stall=3.0)
    assert watched(limits, 0.5, 0.5, 0.51, 0.5, 0.5) == [RUNNING, RUNNING, RUNNING, STALLED, STALLED]
    assert watched(limits, 0.5, 0.5, 0.5 + LEAST_GAIN, 0.5, 0.5)[-1] is RUNNING
    watch = TaskWatch(limits, 10.0)
    assert [watch.at(12.9), watch.at(13.0)] == [RUNNING, STALLED]
    assert watched(WatchLimits(stall=0.0), *[0.5] * 50)[-1] is RUNNING


def test_a_task_that_is_almost_confirmed_does_not_stall() -> None:
    watch = TaskWatch(WatchLimits(stall=1.0), 0.0)
    watch.add(0.5, 0.95)
    assert watch.at(5.0) is RUNNING
    assert watch.add(5.0, 0.95) is SUCCEEDED


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40))
def test_the_peak_and_the_final_progress_are_those_of_the_estimates(progress: list[float]) -> None:
    watch = TaskWatch(WatchLimits(), 0.0)
    for second, value in enumerate(progress):
        watch.add(float(second), value)
    assert (watch.peak, watch.final) == (max(progress), progress[-1])


@pytest.mark.parametrize(
    ("limits", "field"),
    [({"success": 1e-11, "regression": 1e-12}, "success"), ({"success": 0.019}, "success"), ({"regression": 1e-11}, "regression"),
     ({"regression": 0.0099}, "regression"), ({"stall": 1e-11}, "stall"), ({"stall": 0.099}, "stall"),
     ({"success": 0.0}, "success"), ({"success": 1.1}, "success"), ({"success": math.nan}, "success"),
     ({"regression": 0.0}, "regression"), ({"regression": 0.95}, "regression"), ({"regression": math.nan}, "regression"),
     ({"success": 0.1}, "regression"), ({"stall": -1.0}, "stall"), ({"stall": math.inf}, "stall"), ({"stall": math.nan}, "stall"),
     ({"confirmations": 0}, "confirmations"), ({"regression_confirmations": 0}, "regression_confirmations")],
)  # fmt: skip
def test_contradictory_limits_are_rejected(limits, field: str) -> None:
    with pytest.raises(BadRequestError, match=rf"^{field} is"):
        WatchLimits(**limits)


def test_the_lower_bounds_are_allowed_also_as_float32() -> None:
    success, regression, stall = (float(np.float32(bound)) for bound in (LEAST_GAIN, LEAST_REGRESSION, LEAST_STALL))
    assert WatchLimits(success, regression, stall) == WatchLimits(success=success, regression=regression, stall=stall)
    WatchLimits(LEAST_GAIN, LEAST_REGRESSION, LEAST_STALL)


def test_a_text_for_each_image_is_required() -> None:
    engine = ScriptedEngine(["<score>0%</score>"])
    ask(engine, progress_query(), info=EngineInfo("", "qwen2_5_vl", ""))
    with pytest.raises(ValueError, match="zip"):
        list(engine.generations[0].interleaved("abc"))
