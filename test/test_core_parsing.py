"""Answers of models are parsed as a person would read them, or rejected with the fault. Nothing is guessed or evaluated."""

import pytest
from parsing_rig import RECORDED, TWO, TWO_FIVE, parts_of, points, read

from robobrain_ros.core.query import Box, PlanStep, Point, Task
from robobrain_ros.core.reading.answers import AnswerParser
from robobrain_ros.core.reading.refusals import REFUSALS
from robobrain_ros.errors import UnparsableAnswerError


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("wrapping", ["{}", "<answer>{}</answer>", "<think></think><answer>{}", "<think>(1, 2)\n</think>\n{}"])
def test_recorded_answers(name: str, wrapping: str) -> None:
    profile, task, text, expected = RECORDED[name]
    answer = read(task, wrapping.replace("{}", text), profile)
    assert parts_of(answer) == expected
    assert answer.text == text
    assert not answer.nothing_found
    assert not answer.normalized


def test_fractions_are_marked_as_normalized() -> None:
    answer = read(Task.POINT, "[[0.781, 0.305], [0.5, 1], [0, 0]]")
    assert answer.points == points((0.781, 0.305), (0.5, 1), (0, 0))
    assert answer.normalized
    assert read(Task.GROUND, "[0.1, 0.2, 1.0, 0.9]").normalized
    assert read(Task.TRAJECTORY, "[(0.5, 0.25, 1.2)]", TWO_FIVE).normalized


@pytest.mark.parametrize(
    "text", ["[(1, 1)]", "[(0, 0), (1, 0)]", "[(0.0, 0.0), (100.0, 20.0)]", "[(137.5, 0.5)]", "[(-0.5, 0.5)]"]
)
def test_whole_or_large_coordinates_are_no_fractions(text: str) -> None:
    assert not read(Task.POINT, text).normalized


def test_fractions_among_pixels_are_rejected() -> None:
    with pytest.raises(UnparsableAnswerError, match="mixes fractions"):
        read(Task.POINT, "[(0.5, 0.5), (320, 240)]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[376, 309], [332, 357]]", points((376, 309), (332, 357))),
        ("[(376, 309), [332, 357]]", points((376, 309), (332, 357))),
        ("((376, 309), (332, 357))", points((376, 309), (332, 357))),
        ("(376, 309)", points((376, 309))),
        ("[376, 309]", points((376, 309))),
        ("[[376, 309)", points((376, 309))),
        ("376, 309", points((376, 309))),
        ("(376.5, 309.25)", points((376.5, 309.25))),
        ("[(-12, 30), (+4, -.5)]", points((-12, 30), (4, -0.5))),
        ("[(1e2, 2.5E+1)]", points((100, 25))),
        ("（376，309）", points((376, 309))),
        ("(−376, 309)", points((-376, 309))),
        ("{the robot's mug: (376, 309)}", points((376, 309))),
        ("The mug is at (376, 309).", points((376, 309))),
        ("The 2 mugs (both red) are at (376, 309) and (332, 357).", points((376, 309), (332, 357))),
        ("It is about 3, 4 steps away, at (376, 309).", points((376, 309))),
        ("1. (376, 309)\n2) (332, 357)", points((376, 309), (332, 357))),
        ("As [(x1, y1), (x2, y2), ...]: [(376, 309)]", points((376, 309))),
        ("[(376, 309), (332, 357), ...]", points((376, 309), (332, 357))),
        ("the mug (left: [376, 309]", points((376, 309))),
        ("(3 mugs, one at [376, 309])", points((376, 309))),
        ('{"x": 376, "y": 309}', points((376, 309))),
        ("{'x': 376, 'y': 309}", points((376, 309))),
        ("[{x: 376, y: 309}, {x: 332, y: 357}]", points((376, 309), (332, 357))),
        ('{"point": {"x": 376, "y": 309}}', points((376, 309))),
        ('{"x": 376, "y": 309, "depth": 0.8}', points((376, 309, 0.8))),
        ('{"points": [[376, 309], [332, 357]]}', points((376, 309), (332, 357))),
        ("```json\n[\n  [376, 309],\n  [332, 357]\n]\n```", points((376, 309), (332, 357))),
    ],
)
def test_forms_of_points(text: str, expected: tuple[Point, ...]) -> None:
    assert read(Task.POINT, text).points == expected
    assert read(Task.TRAJECTORY, text).waypoints == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(577, 224), (638, 310)", (Box(577, 224, 638, 310),)),
        ("(577,224),(638,310)", (Box(577, 224, 638, 310),)),
        ("[(577, 224), (638, 310)]", (Box(577, 224, 638, 310),)),
        ("[[577, 224], [638, 310]]", (Box(577, 224, 638, 310),)),
        ("[[577, 224], [638, 310]", (Box(577, 224, 638, 310),)),
        ("from (577, 224) to (638, 310)", (Box(577, 224, 638, 310),)),
        ("<box>(577,224),(638,310)</box><box>(1,2),(3,4)</box>", (Box(577, 224, 638, 310), Box(1, 2, 3, 4))),
        ("[[[577, 224], [638, 310]], [[1, 2], [3, 4]]]", (Box(577, 224, 638, 310), Box(1, 2, 3, 4))),
        ("[[577, 224, 638, 310], [1, 2, 3, 4]]", (Box(577, 224, 638, 310), Box(1, 2, 3, 4))),
        ("[638, 310, 577, 224]", (Box(577, 224, 638, 310),)),
        ("(638, 224), (577, 310)", (Box(577, 224, 638, 310),)),
        ("577, 224, 638, 310", (Box(577, 224, 638, 310),)),
        ('{"x1": 577, "y1": 224, "x2": 638, "y2": 310}', (Box(577, 224, 638, 310),)),
        ('{"bbox": {"x_min": 577, "y_min": 224, "x_max": 638, "y_max": 310}}', (Box(577, 224, 638, 310),)),
    ],
)
def test_forms_of_boxes(text: str, expected: tuple[Box, ...]) -> None:
    assert read(Task.GROUND, text).boxes == expected
    assert read(Task.AFFORDANCE, text).boxes == expected


def test_fenced_json_with_labels() -> None:
    boxes = """```json
[
    {"bbox_2d": [1, 2, 3, 4], "label": "the \\"red\\" (big) mug"},
    {"label": "Sch\\u00fcssel", "bbox_2d": [5, 6, 7, 8]}
]
```"""
    assert read(Task.GROUND, boxes).boxes == (Box(1, 2, 3, 4, label='the "red" (big) mug'), Box(5, 6, 7, 8, label="Schüssel"))
    marks = '```json\n[{"point_2d": [376, 309], "label": "mug [1, 2]"}, {"point_2d": [1, 2]}]\n```'
    assert read(Task.POINT, marks).points == (Point(376, 309, label="mug [1, 2]"), Point(1, 2))


JSON_BOXES = '```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "mug"}, {"bbox_2d": [5, 6, 7, 8], "label": "bowl"}]\n```'


@pytest.mark.parametrize("end", range(len(JSON_BOXES)))
def test_json_cut_anywhere_gives_its_complete_items_or_an_error(end: int) -> None:
    text = JSON_BOXES[:end]
    complete = [(1, 2, 3, 4)] * ("4]" in text) + [(5, 6, 7, 8)] * ("8]" in text)
    if complete:
        boxes = read(Task.GROUND, text, truncated=True).boxes
        assert [(box.u_min, box.v_min, box.u_max, box.v_max) for box in boxes] == complete
    else:
        with pytest.raises(UnparsableAnswerError):
            read(Task.GROUND, text, truncated=True)


@pytest.mark.parametrize("end", range(len("[(137, 116), (169, 94), (208, 84)]")))
def test_list_cut_anywhere_never_gives_a_half_number(end: int) -> None:
    text = "[(137, 116), (169, 94), (208, 84)]"[:end]
    complete = points((137, 116), (169, 94), (208, 84))[: text.count(")")]
    if complete:
        assert read(Task.TRAJECTORY, text, truncated=True).waypoints == complete
    else:
        with pytest.raises(UnparsableAnswerError):
            read(Task.TRAJECTORY, text, truncated=True)


def test_bare_numbers_cut_at_the_limit_are_not_trusted() -> None:
    assert read(Task.POINT, "376, 309").points == points((376, 309))
    with pytest.raises(UnparsableAnswerError, match="before the first coordinate is complete"):
        read(Task.POINT, "376, 30", truncated=True)


@pytest.mark.parametrize("text", ["(577, 224), (638", "(577, 224),", "[(577, 224), (638", "from (577, 224) to (638"])
def test_an_incomplete_box_is_not_read_as_a_point(text: str) -> None:
    with pytest.raises(UnparsableAnswerError, match="before the first coordinate is complete"):
        read(Task.AFFORDANCE, text, truncated=True)


def test_a_single_point_answers_an_affordance_but_not_a_grounding() -> None:
    assert read(Task.AFFORDANCE, "[(600, 250)]").points == points((600, 250))
    with pytest.raises(UnparsableAnswerError, match="a point instead of a bounding box"):
        read(Task.GROUND, "[(600, 250)]")


def test_a_box_answers_pointing_but_no_trajectory() -> None:
    assert read(Task.POINT, "[577, 224, 638, 310]").boxes == (Box(577, 224, 638, 310),)
    with pytest.raises(UnparsableAnswerError, match="a bounding box instead of waypoints"):
        read(Task.TRAJECTORY, "[577, 224, 638, 310]")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("<think></think>", "empty"),
        ("<think></think><answer></answer>", "empty"),
        ("<think>the mug is at (1, 2)</think>", "answered nothing"),
        ("<think>the mug is at (1, 2)", "answered nothing"),
        ("The mug stands on the table.", "no coordinates"),
        ("about 3, 4", "no coordinates"),
        ("(about 3, 4)", "no coordinates"),
        ("(see 3, 4)", "no coordinates"),
        ("(12)", "no coordinates"),
        ("[(x1, y1), (x2, y2)]", "no coordinates"),
        ("[(nan, inf)]", "no coordinates"),
        ("[(376", "before the first coordinate is complete"),
        ("[(376, 309), (332, b)]", "malformed"),
        ("[(376, 309), (332)]", "malformed"),
        ("[(376, 309), 332, 357]", "malformed"),
        ("[(376, 309), (1, 2, 3, 4, 5)]", "malformed"),
        ('[{"point_2d": [376, 309]}, {"point_2d": null}]', "malformed"),
        ("[1, 2, 3, 4, 5, 6]", "list of 6 numbers"),
        ("[(" + "1" * 5000 + ", 5)]", "too long or too large"),
        ("[(0." + "1" * 5000 + ", 5)]", "too long or too large"),
        ("[(1e99, 5)]", "too long or too large"),
        ("[(1e999, 5)]", "too long or too large"),
        ("[(" + "1" * 5000, "too long or too large"),
        ("[" * 40 + "1, 2" + "]" * 40, "nested"),
    ],
)
@pytest.mark.parametrize("task", [Task.POINT, Task.AFFORDANCE, Task.GROUND, Task.TRAJECTORY])
def test_faults_are_named_and_the_text_is_kept(task: Task, text: str, fault: str) -> None:
    with pytest.raises(UnparsableAnswerError, match=fault) as caught:
        read(task, text)
    assert caught.value.raw_text == text


@pytest.mark.parametrize(
    "text",
    [
        "[(1,000, 2,000)]",
        "[(1,000, 500)]",
        "[(500, 1,024)]",
        "[(1,000)]",
        "[(1,024,2,048)]",
        "[(0,5, 0,25)]",
        "[(10,5, 20,25, 30,5, 40,75)]",
        "[1,100, 1,200, 1,300, 1,400]",
        "[10,20, 30, 40]",
        "[(1 000, 2 000)]",
        "[(1\u202f000, 2\u202f000)]",
        "[(120, 80), (1,000, 2,000)]",
        "（1，000， 2，000）",
        "1,000, 2,000",
        "The mug is at (1,000, 2,000).",
        "The mug is at (1,000, 2,000), the bowl at (120, 80).",
        '{"x": 1,000, "y": 2,000}',
        '{"x": 0,5, "y": 0,25}',
        '{"x": 1 000, "y": 2 000}',
        '{"x1": 1,000, "y1": 20, "x2": 2,000, "y2": 40}',
        '[{"bbox_2d": [1,000, 20, 2,000, 40], "label": "mug"}]',
        '{"point_2d": [1,000, 2,000]}',
        '{"x": 120, "y": 80, "depth": 0,8}',
    ],
)
@pytest.mark.parametrize("task", [Task.POINT, Task.AFFORDANCE, Task.GROUND, Task.TRAJECTORY])
def test_separators_within_numbers_are_rejected(task: Task, text: str) -> None:
    """A person reads (1,000, 2,000) as one point. A program could read it as a box."""
    with pytest.raises(UnparsableAnswerError):
        read(task, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[(376,309), (332,357)]", points((376, 309), (332, 357))),
        ("[(376,309),(332, 357)]", points((376, 309), (332, 357))),
        ("[(376 309), (332 357)]", points((376, 309), (332, 357))),
        ("[(376 , 309)]", points((376, 309))),
        ("[\n  376,\n  309\n]", points((376, 309))),
        ("[(376, 009)]", points((376, 9))),
        ("The image has (1,920, 1,080) pixels: [(376, 309)]", points((376, 309))),
        ("[(376, 309)] in the image of (1,920, 1,080).", points((376, 309))),
        ('{"size": [1,920, 1,080], "point": [376, 309]}', points((376, 309))),
        ('{"x": 376, "y": 309, "label": "1,000"}', (Point(376, 309, label="1,000"),)),
    ],
)
def test_separators_between_numbers_and_in_other_text_are_no_fault(text: str, expected: tuple[Point, ...]) -> None:
    assert read(Task.POINT, text).points == expected


def test_an_empty_list_after_a_size_with_thousands_separators_means_nothing_found() -> None:
    assert read(Task.POINT, "The image is (1,920, 1,080). []").nothing_found


def test_complete_points_count_before_a_number_that_runs_away_until_the_limit() -> None:
    assert read(Task.POINT, "[(376, 309), (" + "3" * 5000, truncated=True).points == points((376, 309))


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "()",
        "[ ]",
        "[[]]",
        "```json\n[]\n```",
        "<answer>[]</answer>",
        "None",
        "none.",
        "There is no red mug in the picture.",
        "There isn’t any mug here",
        "The mug is not visible (it may be behind the bowl).",
        "I can't see a mug.",
        *(f"Well, {phrase}it." for phrase in REFUSALS),
    ],
)
def test_nothing_found_is_read_from_the_answers_form(text: str) -> None:
    for task in (Task.POINT, Task.GROUND, Task.TRAJECTORY):
        answer = read(task, text)
        assert answer.nothing_found
        assert not parts_of(answer)


def test_coordinates_win_over_a_refusing_phrase() -> None:
    answer = read(Task.POINT, "There is no blue mug; the red one is at (376, 309).")
    assert answer.points == points((376, 309))
    assert not answer.nothing_found


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("man ... </think><think>Two people ...</think>A parent and ...", "man ... \nTwo people ...", "A parent and ..."),
        ("Two men sit on the ground.</", "", "Two men sit on the ground."),
        ("Two men sit on the ground.</answ", "", "Two men sit on the ground."),
        ("Two men sit on the ground.<", "", "Two men sit on the ground."),
        ("<think>hm</think><answer>Two men</answer>", "hm", "Two men"),
        ("<THINK>hm</THINK><Answer>Two men</ANSWER>", "hm", "Two men"),
        ("<think>hm</think>Two men", "hm", "Two men"),
        ("hm</think>Two men", "hm", "Two men"),
        ("hm<answer>Two men", "hm", "Two men"),
        ("<think></think><answer>Two men", "", "Two men"),
        ("<answer><answer>Two men</answer></answer>", "", "Two men"),
        ("</answer><answer>Two men</answer> and <answer>more</answer>", "", "Two men"),
        ("Two men<think>hm", "hm", "Two men"),
        ("Two <b>men</b> & 1 < 2", "", "Two <b>men</b> & 1 < 2"),
        ("a <thin> line", "", "a <thin> line"),
    ],
)  # fmt: skip
def test_thinking_is_separated_from_the_answer(text: str, thinking: str, answer: str) -> None:
    parsed = read(Task.ASK, text)
    assert (parsed.thinking, parsed.text) == (thinking, answer)


def test_thinking_opened_in_the_prompt() -> None:
    parsed = read(Task.POINT, "maybe (1, 2)</think><answer>(376, 309)", thinking=True)
    assert (parsed.thinking, parsed.points) == ("maybe (1, 2)", points((376, 309)))
    with pytest.raises(UnparsableAnswerError, match="still thinking"):
        read(Task.POINT, "maybe (1, 2)", thinking=True, truncated=True)


@pytest.mark.parametrize(
    "text",
    [
        "<think>it is at (1, 2)</think>[(376, 309)]",
        "it is at (1, 2)</think>[(376, 309)]",
        "<think>(1, 2)</think><think>(3, 4)</think>[(376, 309)]",
        "so: (1, 2)<answer>[(376, 309)]</answer>(5, 6)",
        "[(1, 2), (3</think>[(376, 309)]",
        '{"label": "</think>[(376, 309)]',
    ],
)
def test_results_are_never_read_from_thinking(text: str) -> None:
    assert read(Task.POINT, text).points == points((376, 309))


def test_points_come_as_soon_as_they_are_complete() -> None:
    parser = AnswerParser(Task.TRAJECTORY, TWO)
    given_so_far = [parser.feed(piece).waypoints for piece in ["[(13", "7, 116", ")", ", (169, 94), (20", "8, 84)", "]"]]
    assert given_so_far == [(), (), points((137, 116)), points((169, 94)), points((208, 84)), ()]
    assert parser.finish().waypoints == points((137, 116), (169, 94), (208, 84))


def test_boxes_come_with_their_label_and_steps_with_the_next_ones_beginning() -> None:
    parser = AnswerParser(Task.GROUND, TWO)
    pieces = ['[{"bbox_2d": [1, 2, 3, 4]', ', "label": "mug"', "}", "]"]
    assert [parser.feed(piece).boxes for piece in pieces] == [(), (), (Box(1, 2, 3, 4, label="mug"),), ()]

    parser = AnswerParser(Task.PLAN, TWO)
    pieces = ["1. Pick", " up\n2", ". Place\n", "3. Go\n", "\nDone"]
    assert [parser.feed(piece).steps for piece in pieces] == [(), (), (PlanStep(1, "Pick up"),), (PlanStep(2, "Place"),), ()]


def test_progress_shows_text_without_tags() -> None:
    parser = AnswerParser(Task.ASK, TWO, thinking=True)
    seen = [parser.feed(piece) for piece in ["it is", " re", "d</th", "ink><ans", "wer>Re", "d.</", "answer>"]]
    assert [(progress.text, progress.thinking) for progress in seen] == [
        ("it is", True), (" re", True), ("d", True), ("", False), ("Re", False), ("d.", False), ("", False)
    ]  # fmt: skip
