"""The evaluation of progress: true scores give full marks, and a model that always gives the same score gets none."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from robobrain_ros.core.progress import Perspective
from robobrain_ros.core.query import Answer, Query, Task
from robobrain_ros.core.watching import WatchLimits
from robobrain_ros.errors import UnparsableAnswerError
from robobrain_ros.evaluation import progress
from robobrain_ros.evaluation.exam import FIRST_SEED, FIRST_TRAINING_SEED
from robobrain_ros.evaluation.progress import follow_all
from robobrain_ros.evaluation.progress_measures import (
    FUSION,
    Course,
    Row,
    content,
    detects,
    first_alarm,
    rank_correlation,
    rows_of,
    table,
)
from robobrain_ros.evaluation.rollouts import Disturbance, Rollout, make_rollout, true_score

SIZE = (224, 168)
SEEDS = range(1000, 1024)


class Judge:
    """Answers comparisons with a function of the true progress before and after."""

    def __init__(self, rollouts: Mapping[int, Rollout], score: Callable[[float, float], int | None]) -> None:
        self._rollouts, self._score = rollouts, score
        self.queries: list[Query] = []

    async def run(self, query: Query) -> Answer:
        self.queries.append(query)
        _, seed, before = query.image_ids[2].split()
        after = query.image_ids[5].split()[2]
        score = self._score(self._truth(int(seed), int(before)), self._truth(int(seed), int(after)))
        if score is None:
            raise UnparsableAnswerError("no score")
        return Answer(Task.PROGRESS, score=score)

    def _truth(self, seed: int, index: int) -> float:
        return 1.0 if index < 0 else self._rollouts[seed].frames[index].progress


ROLLOUTS = {seed: make_rollout(seed, SIZE) for seed in SEEDS}
FEW = dict(list(ROLLOUTS.items())[:8])


def courses(score: Callable[[float, float], int | None], rollouts: dict[int, Rollout] = ROLLOUTS) -> tuple[list[Course], Judge]:
    judge = Judge(rollouts, score)
    return asyncio.run(follow_all(judge, iter(rollouts.items()), at_once=2)), judge


@pytest.fixture(scope="module")
def true_courses() -> list[Course]:
    return courses(true_score)[0]


def value(rows: list[Row], start: str) -> float:
    return next(row.value for row in rows if row.measure.startswith(start))


def test_true_scores_give_the_true_progress(true_courses: list[Course]) -> None:
    assert [course.task for course in true_courses] == [rollout.task for rollout in ROLLOUTS.values()]
    for course in true_courses:
        # Scores are whole percentages. In the incremental perspective, the errors of rounding add up.
        for name in ("forward", "backward"):
            assert course.estimates[name] == pytest.approx(course.truth, abs=0.0051)
        assert course.estimates[FUSION] == pytest.approx(course.truth, abs=0.05)
    rows = rows_of(true_courses)
    for name in (*(perspective.value for perspective in Perspective), FUSION):
        assert value(rows, f"{name}: rank correlation with") > 0.97
    assert value(rows, "success or failure") == 1.0
    assert value(rows, "slips that undo") == 1.0
    assert value(rows, "false alarms") == 0.0
    assert value(rows, "answers that can be read") == 1.0


def test_a_constant_score_is_worth_nothing() -> None:
    rows = rows_of(courses(lambda before, after: 0, FEW)[0])
    assert value(rows, "forward: rank correlation with") == 0.0
    assert value(rows, "rollouts that succeeded") == 0.0
    assert value(rows, "slips that undo") == 0.0


def test_each_frame_is_compared_with_the_previous_one_the_start_and_the_end() -> None:
    rollout = ROLLOUTS[1000]
    _, judge = courses(true_score, {1000: rollout})
    assert len(judge.queries) == 3 * (len(rollout.frames) - 1)
    last = len(rollout.frames) - 1
    befores = {query.image_ids[2].split()[2] for query in judge.queries if query.image_ids[5].split()[2] == str(last)}
    assert befores == {str(last - 1), "0", "-1"}
    query = judge.queries[0]
    assert query.text == rollout.task
    assert len(query.images) == len(query.image_ids) == 8
    assert np.array_equal(query.images[0], rollout.frames[0].image())
    assert all(np.array_equal(query.images[5], image) for image in query.images[6:])


def test_unreadable_answers_are_counted_and_keep_the_previous_progress() -> None:
    made, _ = courses(lambda before, after: None, FEW)
    assert all(set(course.estimates[FUSION]) == {0.0} for course in made)
    assert value(rows_of(made), "answers that can be read") == 0.0
    assert all(set(course.codes) == {"UNPARSABLE_ANSWER"} for course in made)


def test_rank_correlation() -> None:
    assert rank_correlation([0, 1, 2, 3], [0.1, 0.2, 5.0, 9.0]) == pytest.approx(1.0)
    assert rank_correlation([0, 1, 2, 3], [3, 2, 1, 0]) == pytest.approx(-1.0)
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5).
    assert rank_correlation([0, 1, 1, 2], [0, 1, 2, 3]) == pytest.approx(4.5 / math.sqrt(22.5))
    assert rank_correlation([1, 1, 1], [0, 1, 2]) == 0.0


def test_an_alarm_is_a_regression_of_a_watched_task() -> None:
    assert first_alarm([0.0, 0.2, 0.3, 0.2, 0.15]) is None
    assert first_alarm([0.0, 0.2, 0.3, 0.2, 0.1, 0.1]) == 4
    assert first_alarm([0.0, 0.3, 0.5, 0.35, 0.5]) is None
    assert first_alarm([0.0, 1.0, 1.0, 0.5, 0.5]) == 3
    two = WatchLimits(success=1.0, regression_confirmations=2)
    assert first_alarm([0.0, 1.0, 1.0, 0.5, 1.0, 0.5, 1.0], two) is None
    assert first_alarm([0.0, 1.0, 1.0, 0.5, 0.5], two) == 4


@pytest.mark.parametrize(("begin", "detected"), [(2, False), (3, True), (4, True), (5, False)])
def test_a_slip_is_detected_in_its_first_two_frames(begin: int, detected: bool) -> None:
    estimates = tuple(0.5 if index < begin else 0.0 for index in range(7))
    disturbances = (None, None, None, Disturbance.SLIP, None, None, None)
    course = Course("task", (0.0,) * 7, disturbances, {FUSION: estimates}, {})
    assert detects(course, course.estimates[FUSION]) is detected


def test_more_confirmations_have_more_frames_to_detect_a_slip(true_courses: list[Course]) -> None:
    limits = [WatchLimits(success=1.0, regression_confirmations=number) for number in (2, 3)]
    two, three = (rows_of(true_courses, limits=limit) for limit in limits)
    assert value(two, "slips that undo at least 0.2: detected within 2 frames") == 1.0
    assert value(three, "slips that undo at least 0.2: detected within 3 frames") == 1.0


def test_the_rollouts_of_the_test_contain_slips_failures_and_successes() -> None:
    assert sum(rollout.first(Disturbance.SLIP) is not None for rollout in ROLLOUTS.values()) >= 3
    assert {rollout.succeeded for rollout in ROLLOUTS.values()} == {False, True}


def test_rollouts_of_the_training_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        progress.parse_options(["--model", "x", "--first-seed", str(FIRST_TRAINING_SEED)])
    assert "may have been trained on" in capsys.readouterr().err


def test_the_table_and_the_file_contain_all_measures(true_courses: list[Course]) -> None:
    rows = rows_of(true_courses)
    text = table(rows)
    assert all(row.measure in text for row in rows)
    written = json.loads(json.dumps(content({"model": "x"}, rows, true_courses)))
    assert len(written["rows"]) == len(rows)
    assert written["courses"][0]["task"] == true_courses[0].task


@pytest.mark.parametrize("count", [1, 3])
def test_the_command_writes_a_plot_of_the_rollouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    seeds = range(FIRST_SEED, FIRST_SEED + count)
    judge = Judge(
        {seed: make_rollout(seed, SIZE, Disturbance.SLIP) for seed in seeds}, lambda before, after: true_score(before, after) // 2
    )

    @asynccontextmanager
    async def open_model(model: str, **options: Any) -> AsyncIterator[Judge]:
        yield judge

    monkeypatch.setattr(progress, "open_model", open_model)
    image, file = tmp_path / "progress.png", tmp_path / "progress.json"
    size = f"{SIZE[0]}x{SIZE[1]}"
    given = ["--model", "scripted", "--rollouts", count, "--size", size, "--disturbance", "slip", "--plot", image, "--json", file]
    asyncio.run(progress.run(progress.parse_options([str(part) for part in given])))
    courses = json.loads(file.read_text(encoding="utf-8"))["courses"]
    assert "slip" in courses[0]["disturbances"]
    pixels = np.asarray(cv2.imread(str(image)), int)
    assert pixels.shape == ((340, 600, 3) if count == 1 else (680, 1200, 3))
    red = (pixels[..., 2] - pixels[..., :2].max(-1)) > 100  # The fusion.
    black = pixels.max(-1) < 60  # Axes and text.
    assert red.sum() > 300
    assert black.sum() > 300
    if count == 3:
        assert (pixels[340:, 600:] == 255).all()
        assert red[:340, 600:].any()
        assert red[340:, :600].any()


def test_simulated_scores_take_the_place_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    size = f"{SIZE[0]}x{SIZE[1]}"
    asyncio.run(progress.run(progress.parse_options(["--noise", "0", "--rollouts", "3", "--size", size])))
    assert "success or failure at the end: right" in capsys.readouterr().out
    for wrong in (
        ["--noise", "2"],
        ["--noise", "nan"],
        ["--noise", "0", "--plot", "x.exe"],
        ["--noise", "0.1", "--model", "x"],
        [],
    ):
        with pytest.raises(SystemExit):
            progress.parse_options(wrong)
