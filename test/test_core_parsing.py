"""What models write is read as a person would read it, or refused with the fault; never guessed, never evaluated."""

import ast
import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from robobrain_ros.core.profiles import PROFILES, profile_for
from robobrain_ros.core.query import Box, ParsedAnswer, PlanStep, Point, Task
from robobrain_ros.core.reading.answers import AnswerParser, parse_answer
from robobrain_ros.core.reading.plan_json import find_plan_json, read_plan_json
from robobrain_ros.core.reading.refusals import REFUSALS
from robobrain_ros.errors import RoboBrainError, UnparsableAnswerError

TWO, TWO_FIVE = profile_for("qwen2_5_vl"), profile_for("qwen3_vl")


def points(*pairs: Any) -> tuple[Point, ...]:
    return tuple(Point(*pair) for pair in pairs)


def read(task: Task, text: str, profile=TWO, **options: bool) -> ParsedAnswer:
    return parse_answer(task, text, profile, **options)


# Answers that real models gave. RoboBrain 2.0-7B and 3B: the README of FlagOpen/RoboBrain2.0; 2.5: the figure of its README.
RECORDED = {
    "7B grounding": (TWO, Task.GROUND, "[0, 193, 226, 640]", (Box(0, 193, 226, 640),)),
    "7B affordance": (TWO, Task.AFFORDANCE, "[577, 224, 638, 310]", (Box(577, 224, 638, 310),)),
    "7B trajectory": (
        TWO,
        Task.TRAJECTORY,
        "[(137, 116), (169, 94), (208, 84), (228, 80)]",
        points((137, 116), (169, 94), (208, 84), (228, 80)),
    ),
    "7B pointing": (
        TWO,
        Task.POINT,
        "[(376, 309), (332, 357), (384, 335), (343, 296), (348, 327), "
        "(328, 346), (371, 322), (392, 303), (380, 324), (337, 295)]",
        points(
            *((376, 309), (332, 357), (384, 335), (343, 296), (348, 327)),
            *((328, 346), (371, 322), (392, 303), (380, 324), (337, 295)),
        ),
    ),
    "7B navigation": (
        TWO,
        Task.POINT,
        "[(318, 445), (293, 466), (307, 478), (277, 459), (320, 456), (304, 450)]",
        points((318, 445), (293, 466), (307, 478), (277, 459), (320, 456), (304, 450)),
    ),
    "3B grounding": (TWO, Task.GROUND, "[0, 194, 267, 632]", (Box(0, 194, 267, 632),)),
    "3B trajectory": (
        TWO,
        Task.TRAJECTORY,
        "[(145, 123), (176, 120), (198, 78), (224, 74)]",
        points((145, 123), (176, 120), (198, 78), (224, 74)),
    ),
    "2.5 trajectory": (
        TWO_FIVE,
        Task.TRAJECTORY,
        "[(240,684,0.986), (493,659,0.963)]",
        points((240, 684, 0.986), (493, 659, 0.963)),
    ),
    "2.5 integer depth": (TWO_FIVE, Task.TRAJECTORY, "[(100, 200, 1)]", points((100, 200, 1))),
    "box out of the image": (TWO, Task.AFFORDANCE, "[19, 300, 154, 476]", (Box(19, 300, 154, 476),)),
}


def parts_of(answer: ParsedAnswer) -> tuple[Point | Box | PlanStep, ...]:
    return answer.points + answer.boxes + answer.waypoints + answer.steps


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("wrapping", ["{}", "<answer>{}</answer>", "<think></think><answer>{}", "<think>(1, 2)\n</think>\n{}"])
def test_recorded_answers(name: str, wrapping: str) -> None:
    profile, task, text, expected = RECORDED[name]
    answer = read(task, wrapping.replace("{}", text), profile)
    assert parts_of(answer) == expected
    assert answer.text == text
    assert not answer.nothing_found
    assert not answer.normalized


def test_fractions_are_said_to_be_fractions() -> None:
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


def test_fractions_among_pixels_are_refused() -> None:
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
def test_half_a_box_is_no_point(text: str) -> None:
    with pytest.raises(UnparsableAnswerError, match="before the first coordinate is complete"):
        read(Task.AFFORDANCE, text, truncated=True)


def test_a_single_point_answers_an_affordance_but_not_a_grounding() -> None:
    assert read(Task.AFFORDANCE, "[(600, 250)]").points == points((600, 250))
    with pytest.raises(UnparsableAnswerError, match="a point where a box was asked for"):
        read(Task.GROUND, "[(600, 250)]")


def test_a_box_answers_pointing_but_no_trajectory() -> None:
    assert read(Task.POINT, "[577, 224, 638, 310]").boxes == (Box(577, 224, 638, 310),)
    with pytest.raises(UnparsableAnswerError, match="a box where waypoints were asked for"):
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
        ("[(376, 309), (332, b)]", "broken coordinate"),
        ("[(376, 309), (332)]", "broken coordinate"),
        ("[(376, 309), 332, 357]", "broken coordinate"),
        ("[(376, 309), (1, 2, 3, 4, 5)]", "broken coordinate"),
        ('[{"point_2d": [376, 309]}, {"point_2d": null}]', "broken coordinate"),
        ("[1, 2, 3, 4, 5, 6]", "list of 6 numbers"),
        ("[(" + "1" * 5000 + ", 5)]", "no bounds"),
        ("[(0." + "1" * 5000 + ", 5)]", "no bounds"),
        ("[(1e99, 5)]", "no bounds"),
        ("[(1e999, 5)]", "no bounds"),
        ("[(" + "1" * 5000, "no bounds"),
        ("[" * 40 + "1, 2" + "]" * 40, "nested"),
    ],
)
@pytest.mark.parametrize("task", [Task.POINT, Task.AFFORDANCE, Task.GROUND, Task.TRAJECTORY])
def test_faults_are_named_and_the_text_is_kept(task: Task, text: str, fault: str) -> None:
    with pytest.raises(UnparsableAnswerError, match=fault) as caught:
        read(task, text)
    assert caught.value.raw_text == text


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
def test_what_is_not_there_is_told_in_form(text: str) -> None:
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
def test_thinking_is_parted_from_the_answer(text: str, thinking: str, answer: str) -> None:
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


def steps(*texts: str) -> tuple[PlanStep, ...]:
    return tuple(PlanStep(order, text) for order, text in enumerate(texts, 1))


@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        ("1. Pick up the mug\n2. Place it on shelf 3.", ""),
        ("1) Pick up the mug\n2) Place it on shelf 3.", ""),
        ("Step 1: Pick up the mug\nStep 2: Place it on shelf 3.", ""),
        ("**Step 1:** Pick up the mug\n\n**Step 2:** Place it on shelf 3.", ""),
        ("### Step 1\nPick up the mug\n### Step 2\nPlace it on shelf 3.", ""),
        ("1. **Pick up the mug**\n2. Place it\n   on shelf 3.", ""),
        ("1. Pick up the mug\n1. Place it on shelf 3.", ""),
        ("1. Pick up the mug 2. Place it on shelf 3.", ""),
        ("Step 1: Pick up the mug Step 2: Place it on shelf 3.", ""),
        ("- Pick up the mug\n- Place it on shelf 3.", ""),
        ("* Pick up the mug\n* Place it on shelf 3.", ""),
        ("• Pick up the mug\n• Place it on shelf 3.", ""),
        ("```\n1. Pick up the mug\n2. Place it on shelf 3.\n```", ""),
        ('["Pick up the mug", "Place it on shelf 3."]', ""),
        ("First the mug must be free:\n1. Pick up the mug\n2. Place it on shelf 3.", "First the mug must be free:"),
        ("1. Pick up the mug\n2. Place it on shelf 3.\n\nThat is all.", "That is all."),
        ("Do this: 1. Pick up the mug 2. Place it on shelf 3.", "Do this:"),
        ("<think>1. look</think>1. Pick up the mug\n2. Place it on shelf 3.", ""),
    ],
)
def test_lists_of_steps(text: str, reasoning: str) -> None:
    plan = read(Task.PLAN, text)
    assert plan.steps == steps("Pick up the mug", "Place it on shelf 3.")
    assert plan.reasoning == reasoning


def test_plan_in_one_sentence() -> None:
    assert read(Task.PLAN, "Pick up the mug\nwith 2.5 N.").steps == steps("Pick up the mug with 2.5 N.")


def test_sub_points_belong_to_their_step() -> None:
    plan = read(Task.PLAN, "1. Pick up the mug:\n   - open the gripper\n   - close it\n2. Place it")
    assert plan.steps == steps("Pick up the mug: open the gripper close it", "Place it")


def test_numbers_within_a_step_are_no_steps() -> None:
    plan = read(Task.PLAN, "1. Drive to shelf 2. Wait there\n2. Grasp the box of 3. Then return")
    assert plan.steps == steps("Drive to shelf 2. Wait there", "Grasp the box of 3. Then return")


ROBOOS = {
    "reasoning_explanation": "The mug is in the robot's way.",
    "subtask_list": [
        {"robot_name": "arm_1", "subtask": 'Pick up the "red" mug', "subtask_order": 1},
        {"robot_name": "arm_2", "subtask": "Open the robot's drawer", "subtask_order": 1},
        {"robot_name": "arm_1", "subtask": "Put it in", "subtask_order": 2},
    ],
}
ROBOOS_STEPS = (
    PlanStep(1, 'Pick up the "red" mug', robot="arm_1"),
    PlanStep(1, "Open the robot's drawer", robot="arm_2"),
    PlanStep(2, "Put it in", robot="arm_1"),
)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROBOOS),
        f"```json\n{json.dumps(ROBOOS, indent=2)}\n```",
        f"```json\n{ROBOOS}\n```",
        str(ROBOOS),
        json.dumps(ROBOOS)[:-2] + ",],}",
        json.dumps(ROBOOS).replace(": 1}", ': "1"}').replace(": 2}", ': "7"}'),
        json.dumps({**ROBOOS, "subtask_list": ROBOOS["subtask_list"][::-1]}),
    ],
    ids=["json", "fenced", "fenced single quotes", "single quotes", "trailing commas", "orders as text", "descending"],
)  # fmt: skip
def test_roboos_json(text: str) -> None:
    plan = read(Task.PLAN, text)
    assert sorted(plan.steps, key=lambda step: (step.order, step.robot)) == list(ROBOOS_STEPS)
    assert [step.order for step in plan.steps] == [1, 1, 2]
    assert plan.reasoning == "The mug is in the robot's way."


def test_text_beside_json_is_reasoning() -> None:
    text = 'I will do this:\n```json\n{"subtask_list": [{"subtask": "Go"}]}\n```\nDone.'
    assert read(Task.PLAN, text).reasoning == "I will do this:\nDone."


@pytest.mark.parametrize("value", ["NaN", "[" * 970 + "]" * 970], ids=["NaN", "nested"])
def test_arguments_that_are_no_json_are_a_fault_of_the_answer(value: str) -> None:
    text = f'[{{"step": "Fetch it", "skill": "pick", "arguments": {{"v": {value}}}}}]'
    start = find_plan_json(text)
    assert start is not None

    def within(depth: int) -> None:
        """json writes deep values with more of Python's stack than it reads them with."""
        if depth:
            within(depth - 1)
        else:
            with contextlib.suppress(ValueError):
                assert "NaN" not in read_plan_json(text, start)[0][0].arguments

    for depth in range(0, 60, 5):
        within(depth)


def test_skills_and_their_arguments() -> None:
    text = '[{"step": "Fetch it", "skill": "pick", "arguments": {"object": "mug"}}, {"tool": "home"}]'
    assert read(Task.PLAN, text).steps == (
        PlanStep(1, "Fetch it", skill="pick", arguments='{"object": "mug"}'),
        PlanStep(2, "home", skill="home"),
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (json.dumps(ROBOOS)[:-30], "cut or malformed"),
        (str(ROBOOS)[:-30], "cut or malformed"),
        ('{"subtask_list": [{"robot_name": "arm_1"}]}', "step 1 has no text"),
        ('{"subtask_list": [{"subtask": "Go", "subtask_order": "first"}]}', "order of step 1"),
        ('{"subtask_list": [{"subtask": "Go", "subtask_order": ' + "9" * 9999 + "}]}", r"order of step 1|malformed"),
        ('{"subtask_list": [1]}', "step 1 is not text"),
        ('{"subtask_list": []}', "no steps"),
        ('{"answer": 1}', "no list of steps"),
        ("[" * 100_000 + '"', "no steps"),
        ("...", "no steps"),
        ("1. ...\n2. ...", "step 1 is empty"),
        ('{"subtask_list": ' + "[" * 100_000, "malformed"),
        ("1. Pick up the mug\n2.", "step 2 is empty"),
    ],
)
def test_broken_plans_are_refused(text: str, fault: str) -> None:
    with pytest.raises(UnparsableAnswerError, match=fault) as caught:
        read(Task.PLAN, text)
    assert caught.value.raw_text == text


@pytest.mark.parametrize("text", ["1. Pick up the mug\n2. Place it", "Pick up", json.dumps(ROBOOS)])
def test_half_a_plan_is_no_plan(text: str) -> None:
    with pytest.raises(UnparsableAnswerError, match="cut at the token limit"):
        read(Task.PLAN, text, truncated=True)
    # Behind the closing tag nothing is missing.
    assert read(Task.PLAN, f"<answer>{text}</answer> and", truncated=True).steps


def test_plan_may_be_refused_in_a_sentence() -> None:
    assert read(Task.PLAN, "There is no blue bowl on the table.").nothing_found
    assert read(Task.PLAN, "I cannot see a bowl.").nothing_found
    assert read(Task.PLAN, "None.").nothing_found
    assert not read(Task.PLAN, "1. Check that there is no mug\n2. Go").nothing_found
    assert read(Task.PLAN, "Check that there is no mug, then go.").steps


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
]
WORDS = ["1", "23", "-4", "0.5", ".", "1e9", "e", "x", "y", "label", "bbox_2d", "about ", "There is no ", "subtask_list"]
ITEMS = ["(1, 2)", "[3, 4, 5, 6]", "(0.1, 0.2)", '"label": "mug"', '{"x": 1, "y": 2}', "\\ud800"]
FRAGMENTS = st.sampled_from(TAGS + MARKS + WORDS + ITEMS)
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
@settings(max_examples=1500, deadline=None)
@example(Task.GROUND, TWO, "(1, 2), (3, 4)", [7], False, False)
def test_any_text_in_any_pieces_reads_as_in_one_or_is_refused(task, profile, text, cuts, thinking, truncated) -> None:
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


NUMBERS = st.one_of(st.integers(-9999, 9999), st.floats(-9999, 9999).map(lambda value: round(value, 3)))
DEPTHS = st.one_of(st.integers(0, 9), st.floats(0, 9).map(lambda value: round(value, 4)))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=12), st.booleans())
@settings(deadline=None)
def test_points_round_trip(pairs, square: bool) -> None:
    pairs.insert(0, (640, 480))  # Leaves no doubt that these are pixels.
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
    content = [{"robot_name": robot, "subtask": text, "subtask_order": order} for order, robot, text in items]
    text = json.dumps({"reasoning_explanation": "because", "subtask_list": content})
    plan = read(Task.PLAN, f"```json\n{text}\n```" if fenced else text)
    ranks = sorted({order for order, _, _ in items})
    expected = sorted(((ranks.index(order) + 1, robot, text) for order, robot, text in items), key=lambda step: step[0])
    assert [(step.order, step.robot, step.text) for step in plan.steps] == expected


BRACKETS = ["[", "(", "{", "{'", "{'a':", "[,", "[(1,2),", "(1,2),"]
LISTS = ["1.\n", "1. ", "- ", "*", "```json\n"]
ADVERSARIAL = [*BRACKETS, *LISTS, "<", "<think>", "</think>", "</answer> ", "1", "-1e", " ", "\n", "\\", '"', ", "]
ADVERSARIAL_JSON = ["[", "{'a':", "' ", ", ", '"', "\\", " ", "{'x': '\\'"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("task", "beginning", "unit"),
    [(task, "", unit) for task in (Task.GROUND, Task.PLAN) for unit in ADVERSARIAL]
    + [(Task.PLAN, '{"subtask_list": ', unit) for unit in ADVERSARIAL_JSON],
)
def test_a_megabyte_of_anything_is_read_in_linear_time(task: Task, beginning: str, unit: str) -> None:
    """Quadratic reading of a megabyte would take hours: the time limit is only there to end it."""
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
