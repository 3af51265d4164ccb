"""The agreement of two answers to the same question."""

import math
from typing import Any

import pytest

from robobrain_ros.core.query import AnswerContent, Box, PlanStep, Point, Task
from robobrain_ros.evaluation.agreement import agreement, normalized, resampled

SIZE = (600, 800)
"""The diagonal is 1000 pixels, so points agree up to 50 pixels apart."""


def points(*places: tuple[float, float]) -> AnswerContent:
    return AnswerContent(Task.POINT, points=tuple(Point(u, v) for u, v in places))


def boxes(*corners: tuple[float, float, float, float]) -> AnswerContent:
    return AnswerContent(Task.GROUND, boxes=tuple(Box(*each) for each in corners))


def way(*places: tuple[float, float]) -> AnswerContent:
    return AnswerContent(Task.TRAJECTORY, waypoints=tuple(Point(u, v) for u, v in places))


def text(words: str) -> AnswerContent:
    return AnswerContent(Task.ASK, text=words)


def plan(*steps: str, **more: Any) -> AnswerContent:
    return AnswerContent(Task.PLAN, steps=tuple(PlanStep(number, step) for number, step in enumerate(steps, 1)), **more)


def test_points_agree_within_five_percent_of_the_diagonal() -> None:
    near = agreement(Task.POINT, points((100, 100)), points((130, 140)), SIZE)
    assert (near.share, near.distances) == (1.0, (50.0,))
    far = agreement(Task.POINT, points((100, 100)), points((130, 141)), SIZE)
    assert far.share == 0.0
    assert far.distances[0] > 50.0


def test_points_are_matched_in_any_order_and_each_only_once() -> None:
    found = agreement(Task.POINT, points((0, 0), (500, 0)), points((500, 3), (0, 4)), SIZE)
    assert (found.share, sorted(found.distances)) == (1.0, [3.0, 4.0])
    # Both points of the first answer are near to the only point of the other one.
    found = agreement(Task.POINT, points((0, 0), (10, 0)), points((0, 4)), SIZE)
    assert (found.share, found.distances) == (0.5, (4.0,))


@pytest.mark.parametrize(("one", "other"), [(points((1, 1)), points((1, 1), (300, 300))), (points(), points((1, 1)))])
def test_a_point_without_a_counterpart_does_not_agree(one: AnswerContent, other: AnswerContent) -> None:
    found, back = agreement(Task.POINT, one, other, SIZE), agreement(Task.POINT, other, one, SIZE)
    assert found == back
    assert found.share == len(one.points) / 2


def test_boxes_agree_by_their_overlap() -> None:
    found = agreement(Task.GROUND, boxes((0, 0, 99, 99), (200, 200, 299, 299)), boxes((200, 200, 299, 299)), SIZE)
    assert (found.share, found.overlap) == (0.5, 0.5)
    half = agreement(Task.GROUND, boxes((0, 0, 99, 99)), boxes((50, 0, 149, 99)), SIZE)
    assert half.share == 0.0
    assert half.overlap == pytest.approx(1 / 3)


@pytest.mark.parametrize(("place", "share"), [((50, 50), 1.0), ((100, 50), 1.0), ((101, 50), 0.0)])
def test_a_point_agrees_with_the_box_that_it_is_in(place: tuple[int, int], share: float) -> None:
    """RoboBrain 2.5 answers affordances with points, and RoboBrain 2.0 with boxes."""
    found = agreement(Task.AFFORDANCE, points(place), boxes((0, 0, 100, 100)), SIZE)
    assert (found.share, found.distances, found.overlap) == (share, (), None)
    assert agreement(Task.AFFORDANCE, boxes((0, 0, 100, 100)), points(place), SIZE) == found


def test_trajectories_are_compared_along_their_whole_length() -> None:
    few, many = way((0, 0), (300, 0)), way(*((u, 0) for u in range(0, 301, 10)))
    found = agreement(Task.TRAJECTORY, few, many, SIZE)
    assert found.share == 1.0
    assert found.distances[0] == pytest.approx(0.0, abs=1e-9)
    shifted = agreement(Task.TRAJECTORY, few, way((0, 30), (300, 30)), SIZE)
    assert (shifted.share, shifted.distances[0]) == (1.0, pytest.approx(30.0))
    backwards = agreement(Task.TRAJECTORY, few, way((300, 0), (0, 0)), SIZE)
    assert (backwards.share, backwards.distances[0]) == (0.0, pytest.approx(300.0))


def test_resampling_keeps_both_ends_and_the_corners() -> None:
    found = resampled([(0, 0), (30, 0), (30, 30)], 5)
    assert found == [(0, 0), (15, 0), (30, 0), (30, 15), (30, 30)]
    assert resampled([(7, 8), (7, 8)], 3) == [(7, 8)] * 3
    assert resampled([(7, 8)], 2) == [(7, 8)] * 2


def test_a_trajectory_of_one_place_has_the_distance_to_the_far_end() -> None:
    assert agreement(Task.TRAJECTORY, way((0, 0)), way((0, 0), (300, 400)), SIZE).distances[0] == pytest.approx(500.0)
    assert agreement(Task.TRAJECTORY, way(), way((0, 0)), SIZE).share == 0.0


@pytest.mark.parametrize(
    ("one", "other", "share", "same_word"),
    [
        ("Yes.", "yes, there is a mug", 1.0, True),
        ("Yes.", "No, it is a bowl.", 0.0, False),
        ("Two mugs.", "two  MUGS", 1.0, None),
        ("Two mugs.", "Three mugs.", 0.0, None),
        ("Yes.", "Maybe.", 0.0, None),
        ("杯子。", "杯子", 1.0, None),
        ("?!", "!?", 0.0, None),
    ],
)
def test_texts_agree_without_case_and_punctuation_and_by_yes_and_no(
    one: str, other: str, share: float, same_word: bool | None
) -> None:
    found = agreement(Task.ASK, text(one), text(other), SIZE)
    assert (found.share, found.same_word) == (share, same_word)


def test_the_closer_of_two_wrong_texts_is_known() -> None:
    near = agreement(Task.ASK, text("a red mug and a bowl"), text("a red mug and a plate"), SIZE)
    far = agreement(Task.ASK, text("a red mug and a bowl"), text("nothing at all"), SIZE)
    assert far.closeness < near.closeness < 1.0


def test_plans_agree_if_all_steps_are_the_same() -> None:
    same = agreement(Task.PLAN, plan("Reach for the mug.", "Grasp the mug"), plan("reach for the mug", "grasp the mug."), SIZE)
    assert (same.share, same.closeness) == (1.0, 1.0)
    other = agreement(Task.PLAN, plan("Reach.", "Grasp."), plan("Reach.", "Push."), SIZE)
    assert (other.share, other.closeness) == (0.0, 0.5)
    assert agreement(Task.PLAN, plan("Reach.", "Grasp."), plan("Grasp.", "Reach."), SIZE).share == 0.0


def test_steps_of_robots_are_compared_by_their_skills() -> None:
    def skills(robot: str, wording: str, arguments: str = "mug") -> AnswerContent:
        return AnswerContent(Task.PLAN, steps=(PlanStep(1, wording, robot, "grasp", arguments),))

    assert agreement(Task.PLAN, skills("arm", "Grasp the mug"), skills("arm", "Take it"), SIZE).share == 1.0
    assert agreement(Task.PLAN, skills("arm", "Grasp the mug"), skills("left arm", "Grasp the mug"), SIZE).share == 0.0
    assert agreement(Task.PLAN, skills("arm", "Grasp"), skills("arm", "Grasp", "bowl"), SIZE).share == 0.0


def test_normalized_text() -> None:
    assert normalized("  The  red-mug, №1! ") == "the red mug no1"
    assert normalized("...") == "..."
    assert math.isclose(len(normalized("é" * 3)), 3)
