"""The overlay draws the answer at the correct places, on images of any size."""

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robobrain_ros.core.overlay import PALETTE, Colour, draw
from robobrain_ros.core.query import Answer, Box, PlanStep, Point, Task
from robobrain_ros.errors import BadImageError

SIZES = [(320, 240), (640, 480), (1920, 1080), (480, 640), (3840, 2160)]
GRAY = 128


def gray(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), GRAY, np.uint8)


def changed(image: np.ndarray) -> np.ndarray:
    return np.any(image != GRAY, axis=2)


def coloured(image: np.ndarray, colour: Colour) -> np.ndarray:
    return np.all(np.abs(image.astype(int) - colour) < 12, axis=2)


def centre_of(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(columns.mean()), float(rows.mean())


@pytest.mark.parametrize(("width", "height"), [(64, 48), *SIZES])
def test_a_point_is_drawn_about_its_place_and_the_image_itself_stays(width: int, height: int) -> None:
    image = gray(width, height)
    place = (0.3 * width, 0.6 * height)
    drawn = draw(image, Answer(Task.POINT, "", points=(Point(*place),)))
    assert (drawn.shape, drawn.dtype) == (image.shape, np.uint8)
    assert not changed(image).any()
    assert centre_of(changed(drawn)) == pytest.approx(place, abs=1)
    assert coloured(drawn, PALETTE.point).any()
    # The drawing is large enough to be visible, and covers little of the image.
    assert 0.0003 < changed(drawn).mean() < 0.05


def test_several_points_have_numbers_and_a_clamped_one_no_dot() -> None:
    one, two = Point(200, 240), Point(440, 240)
    numbered = draw(gray(640, 480), Answer(Task.POINT, "", points=(one, two)))
    bare = draw(draw(gray(640, 480), Answer(Task.POINT, "", points=(one,))), Answer(Task.POINT, "", points=(two,)))
    assert coloured(numbered, PALETTE.text).sum() > coloured(bare, PALETTE.text).sum()
    clamped = draw(gray(640, 480), Answer(Task.POINT, "", points=(Point(200, 240, clamped=True),)))
    assert coloured(bare, PALETTE.point)[240, 200]
    assert not changed(clamped)[240, 200]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_box_is_drawn_along_its_borders(width: int, height: int) -> None:
    box = Box(0.25 * width, 0.25 * height, 0.75 * width, 0.5 * height)
    drawn = draw(gray(width, height), Answer(Task.GROUND, "", boxes=(box,)))
    rows, columns = np.nonzero(coloured(drawn, PALETTE.box))
    borders = columns.min(), rows.min(), columns.max(), rows.max()
    assert borders == pytest.approx((box.u_min, box.v_min, box.u_max, box.v_max), abs=max(3, width / 200))


def test_labels_are_written_and_what_the_box_holds_stays_visible() -> None:
    box = Box(200, 200, 400, 300)
    plain = draw(gray(640, 480), Answer(Task.GROUND, "", boxes=(box,)))
    labelled = draw(gray(640, 480), Answer(Task.GROUND, "", boxes=(Box(200, 200, 400, 300, label="red mug"),)))
    assert coloured(labelled, PALETTE.text).sum() > coloured(plain, PALETTE.text).sum()
    assert np.abs(labelled[210:290, 210:390].astype(int) - GRAY).max() < 30


def test_a_trajectory_runs_from_its_start_to_its_end() -> None:
    waypoints = tuple(Point(u, v) for u, v in [(100, 400), (300, 100), (540, 380)])
    drawn = draw(gray(640, 480), Answer(Task.TRAJECTORY, "", waypoints=waypoints))
    assert coloured(drawn, PALETTE.start)[390:411, 90:111].any()
    assert not coloured(drawn, PALETTE.start)[:, 250:].any()
    # The head is behind its tip, which is the last waypoint.
    assert centre_of(coloured(drawn, PALETTE.end)) == pytest.approx((535, 373), abs=10)
    on_the_way = changed(drawn)
    assert all(on_the_way[round(400 - 300 * part), round(100 + 200 * part)] for part in np.linspace(0.1, 1, 20))


def test_the_captions_band_leaves_the_side_where_the_answer_lies() -> None:
    for v, at_the_top in ((450, True), (30, False)):
        drawn = draw(gray(640, 480), Answer(Task.POINT, "", points=(Point(320, v),)), instruction="the red mug")
        band = np.flatnonzero(changed(drawn)[:, 600])
        assert 20 < len(band) < 60
        assert (band[0] == 0) if at_the_top else (band[-1] == 479)
        assert coloured(drawn, PALETTE.text)[band].any()
        assert coloured(drawn, PALETTE.point)[v, 320]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_plans_and_answers_in_words_take_at_most_half_of_the_image(width: int, height: int) -> None:
    plan = Answer(Task.PLAN, "", steps=tuple(PlanStep(number, "pick up the mug " * 5, "arm") for number in range(1, 40)))
    words = Answer(Task.ASK, "The mug stands on the table. " * 50)
    for answer in (plan, words):
        drawn = draw(gray(width, height), answer, instruction="what next?")
        assert 0.3 < changed(drawn).any(axis=1).mean() <= 0.51
        assert not changed(drawn)[: height // 2 - 5].any()
        assert coloured(drawn, PALETTE.text).any()


def test_short_words_take_little_room_and_hold_the_instruction() -> None:
    short = draw(gray(640, 480), Answer(Task.ASK, "Two."))
    asked = draw(gray(640, 480), Answer(Task.ASK, "Two."), instruction="How many mugs?")
    assert 0 < changed(short).any(axis=1).mean() < 0.1
    assert changed(asked).any(axis=1).sum() > changed(short).any(axis=1).sum()


def test_an_empty_answer_draws_nothing() -> None:
    assert not changed(draw(gray(64, 64), Answer(Task.POINT, "[]"))).any()


COORDINATES = st.one_of(st.floats(-50, 500), st.floats(-1e12, 1e12))
POINTS = st.lists(st.builds(Point, COORDINATES, COORDINATES, clamped=st.booleans(), label=st.text(max_size=30)), max_size=6).map(
    tuple
)
BOXES = st.lists(
    st.tuples(COORDINATES, COORDINATES, COORDINATES, COORDINATES, st.text(max_size=30)).map(
        lambda part: Box(
            min(part[0], part[2]), min(part[1], part[3]), max(part[0], part[2]), max(part[1], part[3]), label=part[4]
        )
    ),
    max_size=3,
).map(tuple)
STEPS = st.lists(st.builds(PlanStep, st.integers(1, 9), st.text(max_size=200), st.text(max_size=20)), max_size=9).map(tuple)
ANSWERS = st.builds(
    Answer, st.sampled_from(Task), st.text(max_size=300), points=POINTS, boxes=BOXES, waypoints=POINTS, steps=STEPS
)


@given(st.integers(1, 200), st.integers(1, 200), ANSWERS, st.text(max_size=100))
@settings(max_examples=300, deadline=None)
def test_anything_can_be_drawn_on_any_size(width: int, height: int, answer: Answer, instruction: str) -> None:
    drawn = draw(gray(width, height), answer, instruction=instruction)
    assert drawn.shape == (height, width, 3)


def test_views_and_read_only_images_are_accepted_and_others_rejected() -> None:
    view = gray(640, 480)[::2, ::-2]
    view.flags.writeable = False
    assert draw(view, Answer(Task.ASK, "Two.")).shape == (240, 320, 3)
    on_device: Any = cv2.UMat
    whole = gray(64, 64)
    refused: list[Any] = [whole[:, :, 0], whole.astype(np.float32), on_device(whole), np.zeros((0, 3, 3), np.uint8)]
    for broken in refused:
        with pytest.raises(BadImageError):
            draw(broken, Answer(Task.ASK, "Two."))


@pytest.mark.parametrize("text", ["\ud800", "a\ud83db", "a\0b"])
def test_half_characters_are_drawn_as_question_marks(text: str) -> None:
    """OpenCV 5 ends the process with a segmentation fault if a text contains them."""
    for answer in (Answer(Task.ASK, text), Answer(Task.POINT, "", points=(Point(9, 9, label=text),))):
        assert changed(draw(gray(640, 480), answer, instruction=text)).any()
