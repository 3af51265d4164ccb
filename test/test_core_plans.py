"""Plans for robots without an engine: requests, schemas, parsing, feasibility."""

import asyncio
import json
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from fakes import Script, ScriptedEngine
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from plan_requests import random_request

from robobrain_ros.core import AnswerParser, Brain, Query, Task, profile_for
from robobrain_ros.core.plans.checks import check_request
from robobrain_ros.core.plans.feasibility import check_feasible
from robobrain_ros.core.plans.patterns import safe_pattern
from robobrain_ros.core.plans.request import (
    DoneStep,
    Place,
    PlanMode,
    PlanRequest,
    PlanVerdict,
    Robot,
    Skill,
    SkillEffect,
    StepOutcome,
    relevant_history,
)
from robobrain_ros.core.plans.schema import BOUNDS, longest_text, plan_form
from robobrain_ros.core.query import Answer, PartialAnswer, PlanStep
from robobrain_ros.engine.base import EngineInfo
from robobrain_ros.errors import BadRequestError, InfeasiblePlanError, NothingFoundError, UnparsableAnswerError

PROFILE = profile_for("qwen2_5_vl")
WHAT = '{"type": "object", "properties": {"what": {"type": "string", "format": "object"}}}'
WHERE = WHAT[:-2] + ', "where": {"type": "string", "format": "place"}}}'
PICK = Skill("pick", "", WHAT, SkillEffect.GRASPS, "what")
PUT = Skill("put", "", WHERE, SkillEffect.RELEASES, "what")
TURN = Skill("turn", "", '{"type": "object", "properties": {"angle": {"type": "number", "minimum": -90, "maximum": 90}}}')
ARM = Robot("arm", skills=(PICK, PUT), reachable_places=("table",))
BASE = Robot('"base"', skills=(TURN, PICK))
SCENE = (Place("table", ("mug", "bowl")), Place("shelf"))
REQUEST = PlanRequest((ARM, BASE), SCENE, max_steps=6)


def step(robot: str, skill: str, order: int, **arguments: Any) -> dict[str, Any]:
    return {"subtask": f"{skill} it", "robot_name": robot, "skill": skill, "arguments": arguments, "subtask_order": order}


def plan(*steps: dict[str, Any], verdict: str = "plan", reasoning: str = "So it is.") -> str:
    content: dict[str, Any] = {"reasoning_explanation": reasoning, "verdict": verdict}
    if steps:
        content["subtask_list"] = list(steps)
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False)


GOOD = plan(
    step("arm", "pick", 2, what="mug"), step('"base"', "turn", 5, angle=-2.5), step("arm", "put", 5, what="mug", where="table")
)


def ask(
    text: str | Script, request: PlanRequest = REQUEST, on_partial: Any = None, **options: Any
) -> tuple[Answer, ScriptedEngine]:
    engine = ScriptedEngine([text])
    query = Query(Task.PLAN, "tidy up", [np.zeros((112, 112, 3), np.uint8)], plan=request)
    return asyncio.run(Brain(engine, PROFILE, **options).run(query, on_partial)), engine


def test_a_plan_is_typed_sorted_and_its_orders_have_no_gap() -> None:
    answer, engine = ask(GOOD)
    assert [(it.order, it.robot, it.skill, it.arguments) for it in answer.steps] == [
        (1, "arm", "pick", '{"what": "mug"}'),
        (2, '"base"', "turn", '{"angle": -2.5}'),
        (2, "arm", "put", '{"what": "mug", "where": "table"}'),
    ]
    assert (answer.verdict, answer.reasoning) == (PlanVerdict.PLAN, "So it is.")
    (generation,) = engine.generations
    assert generation.user_text == PROFILE.plan_prompt("tidy up", REQUEST)
    assert generation.constraint is not None
    assert "subtask_list" in generation.constraint.json_schema
    assert generation.stop == ()


@given(st.lists(st.integers(0, len(GOOD)), max_size=12))
@settings(max_examples=60, deadline=None)
def test_steps_come_as_soon_as_they_are_complete_however_the_text_is_cut(cuts: list[int]) -> None:
    parser = AnswerParser(Task.PLAN, PROFILE, plan_form=plan_form(REQUEST, 8000))
    places = sorted({0, *cuts, len(GOOD)})
    steps: list[PlanStep] = []
    for start, end in pairwise(places):
        steps += parser.feed(GOOD[start:end]).steps
        assert len(steps) == GOOD[:end].count(',"subtask_order":2}') + GOOD[:end].count(',"subtask_order":5}')
    assert [it.skill for it in steps] == ["pick", "turn", "put"]


def test_progress_gives_the_steps() -> None:
    pieces: list[PartialAnswer] = []
    half = GOOD.index('{"subtask":"turn')
    ask(Script([GOOD[:half], GOOD[half:]]), on_partial=pieces.append)
    assert [[it.skill for it in piece.steps] for piece in pieces] == [["pick"], ["turn", "put"]]


def test_names_that_look_like_tags_do_not_end_a_plan() -> None:
    text = plan(verdict="done", reasoning="a </answer> b <think>")
    assert ask(text, replace(REQUEST, mode=PlanMode.REPLAN))[0].reasoning == "a </answer> b <think>"


def test_impossible_has_a_reason_and_done_has_no_steps() -> None:
    with pytest.raises(NothingFoundError, match=r'^The model reports that ".+" is impossible. The model\'s reason: "No hands."$'):
        ask(plan(verdict="impossible", reasoning="No hands."))
    answer, _ = ask(plan(verdict="not done"), PlanRequest(mode=PlanMode.CHECK))
    assert (answer.verdict, answer.steps) == (PlanVerdict.NOT_DONE, ())


@pytest.mark.parametrize("mode", [PlanMode.REPLAN, PlanMode.NEXT_STEP])
def test_a_plan_without_robots_ignores_the_mode(mode: PlanMode) -> None:
    request = PlanRequest(scene=SCENE, done=(DoneStep(text="Take the cup"),), feedback="The mug is hot.")
    text = "1. Take the mug\n2. Put it down"
    (expected, engine_of_new), (answer, engine) = (ask(text, replace(request, mode=it)) for it in (PlanMode.NEW, mode))
    assert [it.text for it in answer.steps] == ["Take the mug", "Put it down"]
    assert (answer.steps, answer.verdict) == (expected.steps, PlanVerdict.PLAN)
    (first,), (second,) = engine_of_new.generations, engine.generations
    assert (second.user_text, second.constraint, second.max_tokens) == (first.user_text, first.constraint, first.max_tokens)


def test_without_robots_the_plan_is_in_words_and_the_prompt_contains_scene_and_feedback() -> None:
    answer, engine = ask("1. Take the mug\n2. Put it down", PlanRequest(scene=SCENE, feedback="The mug is hot."))
    assert [it.text for it in answer.steps] == ["Take the mug", "Put it down"]
    (generation,) = engine.generations
    assert generation.constraint is None
    assert "- table: mug, bowl" in generation.user_text
    assert "The mug is hot." in generation.user_text


@pytest.mark.parametrize("text", [GOOD[:-20], plan(step("arm", "turn", 1, angle=0)), plan(step("arm", "pick", 1, what="moon"))])
def test_an_incomplete_plan_or_one_that_violates_its_schema_is_an_error(text: str) -> None:
    with pytest.raises(UnparsableAnswerError) as caught:
        ask(Script([text], "length" if text != GOOD else "stop"))
    assert caught.value.raw_text == text


def test_small_budgets_shorten_the_texts_and_smaller_ones_are_rejected() -> None:
    wide, narrow = plan_form(REQUEST, 100_000), plan_form(REQUEST, 3000)
    assert wide.tokens > 3000 >= narrow.tokens
    with pytest.raises(BadRequestError, match=r"^context\.max_steps: a plan of 6 steps may take \d+ tokens"):
        plan_form(REQUEST, 1000)
    _, engine = ask(GOOD, info=EngineInfo("m", "qwen2_5_vl", "e", max_model_len=8192, cell=28, count_tokens=lambda text: 100))
    assert engine.generations[0].max_tokens == plan_form(REQUEST, 8192 - 100 - 16 - 64).tokens


@pytest.mark.parametrize("seed", range(40))
def test_no_text_is_longer_than_its_budget(seed: int) -> None:
    """A text with the longest value of each kind fits."""
    form = plan_form(random_request(seed), 100_000)
    assert len(form.text.encode()) < 256 * 1024
    Draft202012Validator.check_schema(form.schema)
    text = json.dumps({"reasoning_explanation": "語" * BOUNDS[0].reasoning, "verdict": "impossible"}, ensure_ascii=False)
    assert len(text.encode()) <= longest_text(form.schema)


def test_a_hundred_robots_share_their_skills_in_the_schema() -> None:
    skills = tuple(Skill(f"skill {i}", "", WHAT) for i in range(100))
    form = plan_form(PlanRequest(tuple(Robot(f"r{i}", skills=skills) for i in range(100)), SCENE, max_steps=2), 10_000)
    assert len(form.text) < 8000
    apart = tuple(
        Robot(f"r{i}", skills=tuple(Skill(f"s{k}", "", WHAT.replace("what", f"w{i}_{k}")) for k in range(100))) for i in range(3)
    )
    with pytest.raises(BadRequestError, match=r"^context\.robots: the robots have 300 skills that differ"):
        plan_form(PlanRequest(apart, SCENE), 10_000)


def test_numbers_with_the_same_bounds_share_their_definition() -> None:
    """Their definition has 2,700 values. A robot has many skills with the same kinds of numbers."""
    schemas = [{"type": "object", "properties": {f"{key}{at}": SPEED for key in "xyz"}} for at in range(100)]
    skills = tuple(Skill(f"skill {at}", "", json.dumps(schema)) for at, schema in enumerate(schemas))
    form = plan_form(PlanRequest((Robot("arm", skills=skills),), SCENE, max_steps=2), 100_000)
    assert len(form.text) < 200_000
    answer = {"x0": -0.5, "y0": 0.25, "z0": 1}
    plan = {"reasoning_explanation": "", "verdict": "plan", "subtask_list": [step("arm", "skill 0", 1, **answer)]}
    allowed = Draft202012Validator(json.loads(form.text))
    assert allowed.is_valid(plan)
    plan["subtask_list"][0]["arguments"]["x0"] = 1.5  # type: ignore[index]
    assert not allowed.is_valid(plan)


SPEED = {"type": "number", "minimum": -1, "maximum": 1}


def test_skills_whose_schemas_compile_slowly_are_rejected_with_the_reason() -> None:
    bounds = [{"type": "integer", "minimum": at - 10**12, "maximum": 10**12 - at} for at in range(10)]
    schemas = [{"type": "object", "properties": {f"a{at}_{number}": it for number, it in enumerate(bounds)}} for at in range(100)]
    skills = tuple(Skill(f"skill {at}", "", json.dumps(schema)) for at, schema in enumerate(schemas))
    with pytest.raises(BadRequestError, match=r"^context\.robots: compiling the schema of the plan would take about \d+ ms"):
        plan_form(PlanRequest((Robot("arm", skills=skills),), SCENE, max_steps=2), 100_000)


def skilled(**changes: Any) -> PlanRequest:
    return PlanRequest((replace(ARM, skills=(replace(PICK, **changes),)),), SCENE)


def schemed(schema: Any) -> PlanRequest:
    return skilled(
        arguments_schema=schema if isinstance(schema, str) else json.dumps(schema), effect=SkillEffect.NONE, object_argument=""
    )


def prop(**schema: Any) -> PlanRequest:
    return schemed({"type": "object", "properties": {"x": schema}})


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (PlanRequest((ARM, ARM), SCENE), r"context\.robots\[1\]\.name: 'arm' is already the name of context\.robots\[0\]"),
        (PlanRequest((Robot("arm"),)), r"context\.robots\[0\]\.skills: the robot has no skills"),
        (PlanRequest((replace(ARM, name=" "),)), r"context\.robots\[0\]\.name: the name is empty"),
        (PlanRequest((replace(ARM, name="a\nb"),)), r"context\.robots\[0\]\.name: .* line break"),
        (PlanRequest((replace(ARM, name="x" * 10_000),)), r"context\.robots\[0\]\.name: the text has 10000 characters"),
        (PlanRequest((replace(ARM, name="<think>"),)), r"context\.robots\[0\]\.name: .*angle brackets"),
        (PlanRequest((replace(ARM, skills=(PICK, PICK)),)), r"context\.robots\[0\]\.skills\[1\]\.name"),
        (PlanRequest((replace(ARM, reachable_places=("moon",)),), SCENE), r"context\.robots\[0\]\.reachable_places\[0\]"),
        (PlanRequest(tuple(replace(ARM, name=str(i)) for i in range(101))), r"context\.robots: there are 101"),
        (PlanRequest(scene=(*SCENE, SCENE[0])), r"context\.scene\[2\]\.name"),
        (PlanRequest(scene=(Place("t", ("x",) * 201),)), r"context\.scene\[0\]\.objects: the scene has more than"),
        (PlanRequest(done=(DoneStep(),)), r"context\.done\[0\]: text and skill are empty"),
        (PlanRequest(done=(DoneStep("x", arguments="[1]"),)), r"context\.done\[0\]\.arguments: the text is not a JSON object"),
        (PlanRequest(feedback="x" * 5000), r"context\.feedback: the text has 5000"),
        (PlanRequest((ARM,), max_steps=51), r"context\.max_steps: 51 is not within"),
        (PlanRequest((ARM,), max_steps=2, mode=PlanMode.NEXT_STEP), r"context\.max_steps: 2 contradicts mode NEXT_STEP"),
        (skilled(object_argument="which"), r"context\.robots\[0\]\.skills\[0\]\.object_argument: 'which' is not a property"),
        (skilled(object_argument="y" * 1_000_000), r".*\.object_argument: 'y{40}' is not a property"),
        (skilled(object_argument=""), r"context\.robots\[0\]\.skills\[0\]\.object_argument: a skill with an effect"),
        (schemed("{"), r"context\.robots\[0\]\.skills\[0\]\.arguments_schema: the text is not JSON"),
        (schemed("[1]"), r".*arguments_schema: the text is not the JSON schema of an object"),
        (schemed({"type": "objekt"}), r".*arguments_schema: type is not a JSON schema"),
        (schemed({"type": "object", "$defs": 5}), r".*arguments_schema: .*is not an object"),
        (schemed("[" * 5000), r".*arguments_schema: the text is not JSON"),
        (schemed(" " * 20_000 + "{}"), r".*arguments_schema: the text has 20002 bytes"),
        (schemed({"type": "string"}), r".*arguments_schema: the schema does not describe an object"),
        (prop(type="array", items={"type": "null"}, uniqueItems=True), r".*arguments_schema: x: uniqueItems cannot be enforced"),
        (prop(**{"not": {"type": "null"}}), r".*arguments_schema: x: the type is missing"),
        (prop(**{"$ref": "http://x/y"}), r".*arguments_schema: x: \$ref 'http://x/y' is not a definition"),
        (
            prop(type="string", pattern="a(?=b)"),
            r".*arguments_schema: x: the pattern contains a part that cannot be enforced \(assert\)",
        ),
        (prop(type="string", pattern="a*"), r".*arguments_schema: x: a repetition in the pattern has no bound"),
        (prop(type="string", format="email"), r".*arguments_schema: x: the format 'email' cannot be enforced"),
        (prop(type="integer", minimum=3, maximum=2), r".*arguments_schema: x: no number lies between"),
    ],
)
def test_bad_requests_are_rejected_with_the_fields_path(request_: PlanRequest, message: str) -> None:
    with pytest.raises(BadRequestError, match=f"^{message}"):
        check_request(request_)


def test_a_schema_that_refers_to_itself_is_rejected() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
    with pytest.raises(BadRequestError, match="refers to itself"):
        check_request(schemed({"$defs": {"node": node}, **node}))


def test_quotes_and_languages_survive() -> None:
    request = PlanRequest((Robot('der "große" Arm', skills=(Skill("贈る", "", WHAT),)),), (Place("Tisch", ("it's \\ here",)),))
    text = plan(step('der "große" Arm', "贈る", 1, what="it's \\ here"))
    answer, _ = ask(text, request)
    assert (answer.steps[0].robot, answer.steps[0].skill) == ('der "große" Arm', "贈る")
    assert json.loads(answer.steps[0].arguments) == {"what": "it's \\ here"}


@pytest.mark.parametrize("pattern", ["[A-Z]{2,4}", r"\d{1,3}\.\d", "left|right", "(a|b)c?", "^x$"])
def test_a_safe_pattern_matches_the_same_texts_as_the_users(pattern: str) -> None:
    for text in ("AB", "ABCDE", "12.5", "125", "left", "leftright", "ac", "b", "x", "xx", ""):
        assert bool(re.fullmatch(safe_pattern(pattern), text)) == bool(re.fullmatch(pattern, text))


def steps(*said: tuple[str, str, str]) -> list[PlanStep]:
    return [
        PlanStep(order, f"{skill} {what}", robot, skill, json.dumps({"what": what}))
        for order, (robot, skill, what) in enumerate(said, 1)
    ]


@pytest.mark.parametrize(
    ("plan_", "fault"),
    [
        (steps(("arm", "pick", "mug"), ("arm", "pick", "bowl")), "In step 2 .*'bowl', but then it still holds 'mug'"),
        (steps(("arm", "put", "mug")), "In step 1 .*holds nothing"),
        (steps(("arm", "pick", "mug"), ("arm", "put", "bowl")), "In step 2 .*holds 'mug'"),
        (steps(("arm", "pick", "mug"), ('"base"', "pick", "mug")), "In step 2 .*which robot 'arm' holds"),
        (steps(*[("arm", "pick", "mug"), ("arm", "put", "mug")] * 4), "From step 1 on, 'pick' and 'put' repeats 4 times"),
        (steps(*[('"base"', "turn", "")] * 4), "From step 1 on, 'turn' repeats 4 times"),
    ],
)
def test_a_fault_that_a_schema_cannot_express_is_named(plan_: list[PlanStep], fault: str) -> None:
    with pytest.raises(InfeasiblePlanError, match=fault):
        check_feasible(plan_, REQUEST)


def test_a_good_plan_passes_and_what_is_held_before_counts() -> None:
    check_feasible(steps(("arm", "pick", "mug"), ("arm", "put", "mug"), ('"base"', "pick", "mug")), REQUEST)
    holding = replace(REQUEST, robots=(replace(ARM, holding="mug"), BASE))
    check_feasible(steps(("arm", "put", "mug"), ("arm", "pick", "bowl")), holding)


def test_the_relevant_history_has_no_failure_before_a_success() -> None:
    slip = DoneStep("pick", outcome=StepOutcome.FAILED, observation="it slipped")
    moved = DoneStep("pick", outcome=StepOutcome.FAILED, observation="it was moved")
    canceled = DoneStep("pick", outcome=StepOutcome.CANCELED)
    pick, place = DoneStep("pick"), DoneStep("place")
    assert relevant_history([]) == ()
    assert relevant_history([slip, moved]) == (slip, moved)
    assert relevant_history([slip, pick, moved, place, canceled, slip]) == (pick, place, canceled, slip)
