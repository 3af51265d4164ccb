"""Properties of the parser: independence of pieces, round trips, linear time, and no evaluation."""

import ast
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from parsing_rig import RECORDED, TWO, TWO_FIVE, points, read

from robobrain_ros.core.profiles import PROFILES
from robobrain_ros.core.query import ParsedAnswer, Task
from robobrain_ros.core.reading.answers import AnswerParser
from robobrain_ros.core.reading.free_plans import FreePlanReader
from robobrain_ros.errors import RoboBrainError

TAGS = ["<think>", "</think>", "<answer>", "</answer>", "</thi", "<"]
MARKS = [
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    ",",
    ", ",
    ":",
    '"',
    "'",
    "\\",
    "\n",
    " ",
    "（",
    "\u200b",
    "```json\n",
    "1. ",
    "- ",
    "Step 2: ",
    "<area>",
    "</area>",
    "<frame 3>:",
    "<object>",
    "</object>",
    "<point>",
]
WORDS = ["1", "23", "-4", "0.5", ".", "1e9", "e", "x", "y", "label", "bbox_2d", "about ", "There is no ", "subtask_list"]
SCORES = ["<score>+40%</score>", "<score>", "%</score>"]
ITEMS = [
    "(1, 2)",
    "[3, 4, 5, 6]",
    "(0.1, 0.2)",
    '"label": "mug"',
    '{"x": 1, "y": 2}',
    "\\ud800",
]
FRAGMENTS = st.sampled_from(TAGS + MARKS + WORDS + ITEMS + SCORES)
TEXTS = st.one_of(st.lists(FRAGMENTS, max_size=30).map("".join), st.text(max_size=200))
TASKS = st.sampled_from(list(Task))
FAMILIES = st.sampled_from(PROFILES)


def outcome(task: Task, profile, pieces: list[str], thinking: bool, truncated: bool) -> ParsedAnswer | str:
    parser = AnswerParser(task, profile, thinking=thinking)
    for piece in pieces:
        parser.feed(piece)
    try:
        return parser.finish(truncated=truncated)
    except RoboBrainError as error:
        return f"{error.message} {error.raw_text}"


@given(TASKS, FAMILIES, TEXTS, st.lists(st.integers(0, 250), max_size=8), st.booleans(), st.booleans())
@settings(max_examples=500, deadline=None)
@example(Task.GROUND, TWO, "(1, 2), (3, 4)", [7], False, False)
def test_any_text_in_any_pieces_reads_as_in_one_or_is_rejected(task, profile, text, cuts, thinking, truncated) -> None:
    profile = profile if task in profile.tasks else TWO
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    whole = outcome(task, profile, [text], thinking, truncated)
    assert outcome(task, profile, pieces, thinking, truncated) == whole
    assert outcome(task, profile, list(text), thinking, truncated) == whole


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_answers_are_given_piecewise_in_order_and_once(name: str) -> None:
    profile, task, text, expected = RECORDED[name]
    parser = AnswerParser(task, profile)
    progress = [parser.feed(character) for character in text]
    assert tuple(part for piece in progress for part in piece.points + piece.boxes + piece.waypoints) == expected


@given(st.text("12.) \n\tab*-:#step", max_size=60))
@settings(max_examples=400, deadline=None)
@example("1. a\n" + " " * 100 + "2. b")
@example("1. a\n2.\n5 b\n3. c")
def test_the_steps_of_a_list_are_given_once_wherever_the_text_is_cut(text: str) -> None:
    piecewise, whole = FreePlanReader(), FreePlanReader()
    given_piecewise = [step for character in text for step in piecewise.feed(character)]
    assert given_piecewise == whole.feed(text)
    try:
        plan = whole.finish()
    except ValueError:
        return
    if len(given_piecewise) > 0:
        assert plan.steps[: len(given_piecewise)] == tuple(given_piecewise)


def test_a_step_is_given_when_the_next_one_begins() -> None:
    reader = FreePlanReader()
    pieces = ["1. Reach\n", "2.", " ", "G", "rasp\n3.", "5 cm above", "\n3. L", "ift"]
    given_steps = [[step.text for step in reader.feed(piece)] for piece in pieces]
    assert given_steps == [[], [], [], ["Reach"], [], [], ["Grasp 3.5 cm above"], []]
    assert [step.text for step in reader.finish().steps] == ["Reach", "Grasp 3.5 cm above", "Lift"]


NUMBERS = st.one_of(st.integers(-9999, 9999), st.floats(-9999, 9999).map(lambda value: round(value, 3)))
DEPTHS = st.one_of(st.integers(0, 9), st.floats(0, 9).map(lambda value: round(value, 4)))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=12), st.booleans())
@settings(deadline=None)
def test_points_round_trip(pairs, square: bool) -> None:
    pairs.insert(0, (640, 480))  # With this point, all coordinates are certainly pixels.
    text = str([list(pair) for pair in pairs] if square else pairs)
    assert read(Task.POINT, text).points == tuple(dict.fromkeys(points(*pairs)))


@given(st.lists(st.tuples(NUMBERS, NUMBERS, DEPTHS), min_size=1, max_size=12))
@settings(deadline=None)
def test_waypoints_with_depth_round_trip(triples) -> None:
    triples.insert(0, (640, 480, 1))
    moved = [point for point, _ in itertools.groupby(points(*triples))]
    assert list(read(Task.TRAJECTORY, str(triples), TWO_FIVE).waypoints) == moved


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=5), st.text(max_size=20))
@settings(deadline=None)
def test_labelled_boxes_round_trip(boxes, label: str) -> None:
    boxes.insert(0, (640, 480, 10, 20))
    text = json.dumps([{"bbox_2d": list(box), "label": label} for box in boxes])
    found = read(Task.GROUND, text).boxes
    sorted_corners = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes]
    assert [(box.u_min, box.v_min, box.u_max, box.v_max) for box in found] == list(dict.fromkeys(sorted_corners))
    assert {box.label for box in found} == {label}


VISIBLE = st.characters(codec="utf-8", exclude_categories=("C", "Z"))
SENTENCES = st.text(VISIBLE, min_size=1, max_size=40).map(lambda text: f"do {text}")


@given(st.lists(st.tuples(st.integers(1, 3), SENTENCES, SENTENCES), min_size=1, max_size=6), st.booleans())
@settings(deadline=None)
def test_roboos_plans_round_trip(items, fenced: bool) -> None:
    items = [(order, f"{robot} {number}", text) for number, (order, robot, text) in enumerate(items)]  # Different robots.
    content = [{"robot_name": robot, "subtask": text, "subtask_order": order} for order, robot, text in items]
    text = json.dumps({"reasoning_explanation": "because", "subtask_list": content})
    plan = read(Task.PLAN, f"```json\n{text}\n```" if fenced else text)
    ranks = sorted({order for order, _, _ in items})
    expected = sorted(((ranks.index(order) + 1, robot, text) for order, robot, text in items), key=lambda step: step[0])
    assert [(step.order, step.robot, step.text) for step in plan.steps] == expected


BRACKETS = ["[", "(", "{", "{'", "{'a':", "[,", "[(1,2),", "(1,2),"]
SCORES = ["<score>", "</score>", "<score>+5%</score>", "<score>+5%</score", "<score> "]
LISTS = ["1.\n", "1. ", "- ", "*", "```json\n"]
ADVERSARIAL = [*BRACKETS, *LISTS, "<", "<think>", "</think>", "</answer> ", "1", "-1e", " ", "\n", "\\", '"', ", "]
ADVERSARIAL_JSON = ["[", "{'a':", "' ", ", ", '"', "\\", " ", "{'x': '\\'"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("task", "beginning", "unit"),
    [(task, "", unit) for task in (Task.GROUND, Task.PLAN) for unit in ADVERSARIAL]
    + [(Task.PLAN, '{"subtask_list": ', unit) for unit in ADVERSARIAL_JSON]
    + [(Task.PROGRESS, "", unit) for unit in SCORES],
)
def test_a_megabyte_of_anything_is_read_in_linear_time(task: Task, beginning: str, unit: str) -> None:
    """A parser with quadratic time would need hours for a megabyte, and the test would exceed its time limit."""
    outcome(task, TWO, [beginning, unit * (1_000_000 // len(unit))], False, False)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("unit", ["[(1,2),", "1. go\n", "<think>", "</think>", "1", "</answer> ", "word "])
def test_a_long_answer_in_small_pieces_is_read_in_linear_time(unit: str) -> None:
    text = unit * (60_000 // len(unit))
    for task in (Task.GROUND, Task.PLAN, Task.ASK):
        outcome(task, TWO, [text[start : start + 2] for start in range(0, len(text), 2)], False, False)


def test_model_text_is_never_evaluated() -> None:
    import robobrain_ros.core as core

    for path in Path(core.__file__).parent.rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {call.id for call in calls if isinstance(call, ast.Name)}
        assert not names & {"eval", "exec", "compile", "__import__", "literal_eval"}, path.name
    for text in ("__import__('os').abort()", "[(__import__('os').abort(), 1)]", "{'x': exit(), 'y': 1}"):
        for task in Task:
            outcome(task, TWO, [text], False, False)
