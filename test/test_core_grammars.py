"""The grammars of spatial answers: every text that they allow is within bounds, and is parsed correctly."""

import itertools
import re
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robobrain_ros.core import Task, parse_answer, profile_for
from robobrain_ros.core.grammars import coordinate_pattern, number_up_to
from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.profiles.writing import MOST_POINTS, MOST_WAYPOINTS
from robobrain_ros.core.query import Box, Point
from robobrain_ros.errors import UnparsableAnswerError

TWO, TWO_FIVE = profile_for("qwen2_5_vl"), profile_for("qwen3_vl")
SIZES = st.builds(lambda width, height: FittedSize(640, 480, width * 28, height * 28), st.integers(1, 60), st.integers(1, 60))
SEPARATORS = st.sampled_from((", ", ","))


def number_and_bound() -> st.SearchStrategy[tuple[int, int]]:
    return st.integers(0, 12_000).flatmap(lambda most: st.tuples(st.integers(0, 2 * most + 20), st.just(most)))


@given(number_and_bound())
def test_a_number_matches_just_up_to_its_bound(pair: tuple[int, int]) -> None:
    number, most = pair
    pattern = number_up_to(most)
    assert bool(re.fullmatch(pattern, str(number))) == (number <= most)
    assert not re.fullmatch(pattern, f"0{number}")


@pytest.mark.parametrize("most", [0, 7, 9, 10, 99, 100, 101, 251, 643, 999, 1000])
def test_every_number_up_to_a_bound(most: int) -> None:
    pattern = re.compile(number_up_to(most))
    assert [number for number in range(11_000) if pattern.fullmatch(str(number))] == list(range(most + 1))


@st.composite
def points(draw: Any, task: Task, most: int) -> tuple[FittedSize, list[tuple[int, int]], str]:
    """Return an image's size, pixels inside and outside of it with equal frequency, and how a model writes them."""
    size, comma = draw(SIZES), draw(SEPARATORS)
    across, down = st.integers(0, size.model_width + 3), st.integers(0, size.model_height + 3)
    if draw(st.booleans()):
        across, down = st.integers(0, size.model_width - 1), st.integers(0, size.model_height - 1)
    pairs = draw(st.lists(st.tuples(across, down), min_size=1, max_size=most + 2))
    return size, pairs, "[" + comma.join(f"({x}{comma}{y})" for x, y in pairs) + "]"


@pytest.mark.parametrize(("task", "most"), [(Task.POINT, MOST_POINTS), (Task.TRAJECTORY, MOST_WAYPOINTS)])
def test_pixels_in_bounds_match_and_are_read_as_written(task: Task, most: int) -> None:
    @given(points(task, most))
    def check(drawn: tuple[FittedSize, list[tuple[int, int]], str]) -> None:
        size, pairs, text = drawn
        inside = all(x < size.model_width and y < size.model_height for x, y in pairs) and len(pairs) <= most
        assert bool(re.fullmatch(coordinate_pattern(task, TWO, size), text)) == inside
        parsed = parse_answer(task, text, TWO)
        written = [Point(x, y) for x, y in pairs]
        assert list(parsed.points) == (list(dict.fromkeys(written)) if task is Task.POINT else [])
        assert list(parsed.waypoints) == ([] if task is Task.POINT else [point for point, _ in groupby(written)])
        if inside and not parsed.normalized:
            mapped = [size.to_image(point, TWO.coordinates) for point in parsed.points + parsed.waypoints]
            assert not any(point.clamped for point in mapped)

    check()


@pytest.mark.parametrize("task", [Task.GROUND, Task.AFFORDANCE])
def test_boxes_in_bounds_match_and_are_read_as_written(task: Task) -> None:
    @given(SIZES, SEPARATORS, st.data())
    def check(size: FittedSize, comma: str, data: st.DataObject) -> None:
        beyond = data.draw(st.sampled_from((0, 2)))
        across, down = st.integers(0, size.model_width + beyond), st.integers(0, size.model_height + beyond)
        x1, y1, x2, y2 = data.draw(st.tuples(across, down, across, down))
        text = f"[{x1}{comma}{y1}{comma}{x2}{comma}{y2}]"
        inside = max(x1, x2) <= size.model_width and max(y1, y2) <= size.model_height
        assert bool(re.fullmatch(coordinate_pattern(task, TWO, size), text)) == inside
        (box,) = parse_answer(task, text, TWO).boxes
        assert box == Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        assert not inside or not size.box_to_image(box, TWO.coordinates).clamped

    check()


@given(
    SIZES,
    st.lists(st.tuples(st.integers(0, 1010), st.integers(0, 1010), st.integers(0, 110_000)), min_size=1, max_size=MOST_WAYPOINTS),
    st.sampled_from((0, 1, 2, 3)),
)
def test_thousandths_with_depths(size: FittedSize, waypoints: list[tuple[int, int, int]], decimals: int) -> None:
    """The depths are in millimetres, and are written in metres with this number of decimals."""
    depths = [f"{depth / 1000:.{decimals}f}" for _, _, depth in waypoints]
    pairs = zip(waypoints, depths, strict=True)
    text = "[" + ", ".join(f"({x}, {y}, {depth})" for (x, y, _), depth in pairs) + "]"
    inside = all(x <= 1000 and y <= 1000 and float(d) < 100 for (x, y, _), d in zip(waypoints, depths, strict=True))
    assert bool(re.fullmatch(coordinate_pattern(Task.TRAJECTORY, TWO_FIVE, size), text)) == inside
    read = parse_answer(Task.TRAJECTORY, text, TWO_FIVE).waypoints
    written = [Point(x, y, depth=float(d)) for (x, y, _), d in zip(waypoints, depths, strict=True)]
    assert list(read) == [point for point, _ in groupby(written)]


RECORDED = (
    (Task.GROUND, FittedSize(426, 640, 420, 644), "[0, 193, 226, 640]"),
    (Task.AFFORDANCE, FittedSize(640, 426, 644, 420), "[577, 224, 638, 310]"),
    (Task.TRAJECTORY, FittedSize(424, 240, 420, 252), "[(137, 116), (169, 94), (208, 84), (228, 80)]"),
    (Task.POINT, FittedSize(732, 1220, 728, 1232), "[(318, 445), (293, 466), (307, 478), (277, 459), (320, 456), (304, 450)]"),
)
"""Answers of RoboBrain2.0-7B."""


@pytest.mark.parametrize(("task", "size", "text"), RECORDED)
def test_recorded_answers_match(task: Task, size: FittedSize, text: str) -> None:
    assert re.fullmatch(coordinate_pattern(task, TWO, size), text)


@pytest.mark.parametrize("profile", [TWO, TWO_FIVE])
@pytest.mark.parametrize("task", [task for task in Task if task.spatial])
def test_the_pattern_matches_an_empty_list_and_nothing_but_lists(task: Task, profile: Any) -> None:
    pattern = coordinate_pattern(task, profile, FittedSize(640, 480, 644, 476))
    assert re.fullmatch(pattern, "[]")
    assert parse_answer(task, "[]", profile).nothing_found
    assert re.fullmatch(pattern, "")  # The answer of a checkpoint that cannot think.
    for text in ("[(1, 2)", "(1, 2)", "[(1.5, 2)]", "[(-1, 2)]", "[1, 2]", "[(1, 2), ]", "There is no mug.", "[[1, 2, 3, 4]]"):
        assert not re.fullmatch(pattern, text)


@pytest.mark.parametrize("commas", itertools.product((", ", ","), repeat=3))
def test_a_grammar_allows_any_blanks_and_its_answers_are_read(commas: tuple[str, str, str]) -> None:
    text = "[1" + "".join(f"{comma}{number}" for comma, number in zip(commas, (200, 2, 300), strict=True)) + "]"
    assert re.fullmatch(coordinate_pattern(Task.GROUND, TWO, FittedSize(640, 480, 644, 476)), text)
    assert parse_answer(Task.GROUND, text, TWO, constrained=True).boxes == (Box(1, 200, 2, 300),)


def test_a_server_that_ignores_the_grammar_is_noticed_where_numbers_have_separators() -> None:
    for text in ("[(1,000, 2,000)]", "[(0,5, 0,25)]"):
        with pytest.raises(UnparsableAnswerError):
            parse_answer(Task.POINT, text, TWO, constrained=True)


def test_two_five_points_where_two_gives_an_affordance_box() -> None:
    size = FittedSize(640, 480, 640, 480)
    pattern = coordinate_pattern(Task.AFFORDANCE, TWO_FIVE, size)
    assert re.fullmatch(pattern, "[(1000, 1000)]")
    assert not re.fullmatch(pattern, "[(1001, 0)]")
    assert not re.fullmatch(coordinate_pattern(Task.POINT, TWO_FIVE, size), "[(1, 2, 0.5)]")
