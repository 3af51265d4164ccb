"""Answers without a grammar: repetitions, confidences, and sizes in prose."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robobrain_ros.core import AnswerParser, Task, parse_answer, profile_for
from robobrain_ros.core.query import ParsedAnswer, Point
from robobrain_ros.errors import UnparsableAnswerError

TWO, TWO_FIVE = profile_for("qwen2_5_vl"), profile_for("qwen3_vl")
BOX = '{"bbox_2d": [10, 20, 60, 70], "label": "mug"}'
SPATIAL = (Task.POINT, Task.AFFORDANCE, Task.TRAJECTORY, Task.GROUND)


def numbers(answer: ParsedAnswer) -> list[tuple[float, ...]]:
    found = [(point.u, point.v) for point in (*answer.points, *answer.waypoints)]
    return [*found, *((box.u_min, box.v_min, box.u_max, box.v_max) for box in answer.boxes)]


@pytest.mark.parametrize(
    ("task", "text", "expected"),
    [
        (Task.GROUND, f"[{', '.join([BOX] * 60)}]", [(10, 20, 60, 70)]),
        (Task.GROUND, f"[{', '.join([BOX] * 60)}, {BOX[:20]}", [(10, 20, 60, 70)]),
        (Task.GROUND, "[[60, 70, 10, 20], [10, 20, 60, 70], [1, 2, 3, 4]]", [(10, 20, 60, 70), (1, 2, 3, 4)]),
        (Task.GROUND, f"[{BOX}, {BOX.replace('mug', 'bowl')}]", [(10, 20, 60, 70), (10, 20, 60, 70)]),
        (Task.POINT, "[(120, 80), (1, 2), (120, 80.0), (120, 80)]", [(120, 80), (1, 2)]),
        (Task.TRAJECTORY, "[(1, 2), (1, 2), (30, 40), (1, 2), (1, 2)]", [(1, 2), (30, 40), (1, 2)]),
    ],
)
def test_exact_repetitions_count_once_and_a_trajectory_may_come_back(task: Task, text: str, expected: Any) -> None:
    assert numbers(parse_answer(task, text, TWO)) == expected


def test_a_third_number_is_depth_only_in_families_that_give_it() -> None:
    for task in (Task.POINT, Task.TRAJECTORY):
        (point,) = (lambda answer: answer.points + answer.waypoints)(parse_answer(task, "[[120, 80, 0.93]]", TWO))
        assert point == Point(120, 80, depth=None)
        (point,) = (lambda answer: answer.points + answer.waypoints)(parse_answer(task, "[[120, 80, 0.93]]", TWO_FIVE))
        assert point == Point(120, 80, depth=0.93)
    named = parse_answer(Task.POINT, '{"x": 120, "y": 80, "depth": 0.8}', TWO)
    assert named.points == (Point(120, 80, depth=0.8),), "a key says what it is"


SIZE = [
    "The image is (640, 480). ",
    "In the (640, 480) image: ",
    "Size: [640, 480]\n",
    "(The image is (640, 480).) ",
    "From (0, 0) to (640, 480): ",
]


@pytest.mark.parametrize("prose", SIZE)
@pytest.mark.parametrize("fence", ["{}", "```json\n{}\n```", "{} in the image of (640, 480)."])
@pytest.mark.parametrize(
    ("task", "text", "expected"),
    [
        (Task.POINT, "[(120, 80)]", [(120, 80)]),
        (Task.POINT, '[{"point_2d": [120, 80], "label": "mug"}]', [(120, 80)]),
        (Task.POINT, '{"x": 120, "y": 80}', [(120, 80)]),
        (Task.TRAJECTORY, '{"trajectory": [[1, 2], [3, 4]]}', [(1, 2), (3, 4)]),
        (Task.GROUND, "[10, 20, 60, 70]", [(10, 20, 60, 70)]),
        (Task.GROUND, f"[{BOX}]", [(10, 20, 60, 70)]),
        (Task.AFFORDANCE, "[(10, 20), (60, 70)]", [(10, 20, 60, 70)]),
        (Task.POINT, "[(0.25, 0.5)]", [(0.25, 0.5)]),
    ],
)
def test_sizes_in_prose_are_not_read_where_a_list_follows(prose: str, fence: str, task: Task, text: str, expected: Any) -> None:
    if prose.startswith("(") and task in (Task.GROUND, Task.AFFORDANCE):
        return  # A point within brackets can be a corner of a box.
    answer = parse_answer(task, prose + fence.format(text), TWO)
    assert numbers(answer) == expected
    assert answer.normalized == ("0.25" in text)


@pytest.mark.parametrize("task", SPATIAL)
def test_an_empty_list_after_a_size_means_nothing_found(task: Task) -> None:
    assert parse_answer(task, "The image is (640, 480). []", TWO).nothing_found


@pytest.mark.parametrize(
    ("task", "text", "expected"),
    [
        (Task.POINT, "The mug is at (120, 80), the bowl at [30, 40].", [(120, 80), (30, 40)]),
        (Task.POINT, "(10, 20), (30, 40)", [(10, 20), (30, 40)]),
        (Task.GROUND, "The box is (10, 20), (60, 70).", [(10, 20, 60, 70)]),
        (Task.GROUND, "From (10, 20) to (60, 70).", [(10, 20, 60, 70)]),
    ],
)
def test_without_a_list_prose_is_the_answer(task: Task, text: str, expected: Any) -> None:
    assert numbers(parse_answer(task, text, TWO)) == expected


PIECES = [
    "The image is ", "(640, 480)", "[640, 480]", ". ", ", ", "[", "]", "(", ")", "(1, 2)", "(1, 2, 0.5)", "[10, 20, 60, 70]",
    "[]", "(0.5, 0.25)", BOX, '{"x": 3, "y": 4}', "\n", " mug: ", "```json\n", "<think>", "</think>",
]  # fmt: skip


@given(
    st.sampled_from(SPATIAL),
    st.sampled_from((TWO, TWO_FIVE)),
    st.lists(st.sampled_from(PIECES), max_size=9),
    st.lists(st.integers(0, 150)),
)
@settings(max_examples=800, deadline=None)
def test_each_partial_answer_is_part_of_the_answer(task: Task, profile: Any, pieces: list[str], cuts: list[int]) -> None:
    """The parts have the order of the answer, wherever the text is cut. Parts that depend on the end of the text come last."""
    if task not in profile.tasks:
        return
    text = "".join(pieces)
    places = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    parser = AnswerParser(task, profile)
    early: list[Any] = []
    for start, end in pairwise(places):
        progress = parser.feed(text[start:end])
        if "</think>" in text[:end] and "</think>" not in text[:start]:
            early = []  # The earlier text was thinking.
        early += [*progress.points, *progress.waypoints, *progress.boxes]
    results: list[Any] = []
    for finish in (parser.finish, lambda: parse_answer(task, text, profile)):
        try:
            results.append(finish())
        except UnparsableAnswerError as error:
            results.append(error.message)
    assert results[0] == results[1]
    whole = results[0]
    if "think>" not in text and isinstance(whole, ParsedAnswer):
        for kind in (Point, type(None)):
            found = [it for it in early if isinstance(it, Point) == (kind is Point)]
            final = [*whole.points, *whole.waypoints] if kind is Point else [*whole.boxes]
            assert found == final[: len(found)]


@pytest.mark.parametrize("size", ["[640, 480]", "(640, 480)", '{"x": 640, "y": 480}', "[[640, 480]]", "[]"])
@pytest.mark.parametrize("key", ["size", "image_size", "Resolution"])
def test_a_size_in_an_object_is_no_coordinate(key: str, size: str) -> None:
    for text in (f'{{"points": [[10, 20]], "{key}": {size}}}', f'{{"{key}": {size}, "points": [[10, 20]]}}'):
        answer = parse_answer(Task.POINT, text, TWO)
        assert [(point.u, point.v) for point in answer.points] == [(10, 20)]
    only = f'{{"{key}": [640, 480]}}'
    with pytest.raises(UnparsableAnswerError):
        parse_answer(Task.POINT, only, TWO)


@pytest.mark.parametrize(
    "key", ["frame_size", "imageResolution", "color", "RGB", "scores", "confidence", "rotation_angle", "depth"]
)
def test_other_values_in_an_object_are_no_coordinates(key: str) -> None:
    for value in ("[1, 2]", '{"x": 1, "y": 2}', "(255, 0, 0)"):
        answer = parse_answer(Task.POINT, f'{{"point_2d": [10, 20], "{key}": {value}}}', TWO)
        assert numbers(answer) == [(10, 20)]
    assert numbers(parse_answer(Task.POINT, '{"resized_point": [10, 20]}', TWO)) == [(10, 20)]


@pytest.mark.parametrize("extent", ['"w": 50, "h": 40', '"width": 50, "height": 40'])
@pytest.mark.parametrize("task", SPATIAL)
def test_a_box_by_its_extent_is_no_point(task: Task, extent: str) -> None:
    """x and y can be its corner or its centre."""
    with pytest.raises(UnparsableAnswerError):
        parse_answer(task, f'{{"x": 10, "y": 20, {extent}}}', TWO)


@pytest.mark.parametrize(
    "prose",
    [
        "The image size is [640, 480] and the mug is at [120, 80].",
        "Resolution: (640, 480). The mug is at (120, 80).",
        "It has the dimensions of (640, 480) pixels. The mug: (120, 80)",
    ],
)
def test_a_size_that_prose_names_is_no_point(prose: str) -> None:
    assert numbers(parse_answer(Task.POINT, prose, TWO)) == [(120, 80)]
    assert numbers(parse_answer(Task.POINT, "By its size, the mug must be the one at (120, 80).", TWO)) == [(120, 80)]
