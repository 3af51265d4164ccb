"""Answers with plans: lists of steps, and JSON."""

import contextlib
import json

import pytest
from parsing_rig import ROBOOS, ROBOOS_STEPS, read, steps

from robobrain_ros.core.query import PlanStep, Task
from robobrain_ros.core.reading.plan_json import find_plan_json, read_plan_json
from robobrain_ros.errors import UnparsableAnswerError


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
        """Return a deeply nested value. json needs more of Python's stack to write it than to read it."""
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
def test_broken_plans_are_rejected(text: str, fault: str) -> None:
    with pytest.raises(UnparsableAnswerError, match=fault) as caught:
        read(Task.PLAN, text)
    assert caught.value.raw_text == text


@pytest.mark.parametrize("text", ["1. Pick up the mug\n2. Place it", "Pick up", json.dumps(ROBOOS)])
def test_an_incomplete_plan_is_an_error(text: str) -> None:
    with pytest.raises(UnparsableAnswerError, match="cut at the token limit"):
        read(Task.PLAN, text, truncated=True)
    # After the closing tag, no text can be missing.
    assert read(Task.PLAN, f"<answer>{text}</answer> and", truncated=True).steps


def test_plan_may_be_refused_in_a_sentence() -> None:
    assert read(Task.PLAN, "There is no blue bowl on the table.").nothing_found
    assert read(Task.PLAN, "I cannot see a bowl.").nothing_found
    assert read(Task.PLAN, "None.").nothing_found
    assert not read(Task.PLAN, "1. Check that there is no mug\n2. Go").nothing_found
    assert read(Task.PLAN, "Check that there is no mug, then go.").steps
