"""Random robots: requests are valid, true plans reach the goal and others do not, and words of the evaluation are unseen."""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from fakes import ScriptedEngine

from robobrain_ros.core import Brain, Task, profile_for
from robobrain_ros.core.plans.checks import check_request
from robobrain_ros.core.plans.feasibility import check_feasible
from robobrain_ros.core.plans.prompt import ARGUMENTS, SKILL, STEPS, plan_prompt
from robobrain_ros.core.plans.request import PlanMode, PlanRequest, PlanVerdict, SkillEffect
from robobrain_ros.core.plans.schema import plan_form
from robobrain_ros.core.plans.structured import StructuredPlanReader
from robobrain_ros.core.query import Answer
from robobrain_ros.demo.simulator import RELATIONS, Step, Table
from robobrain_ros.demo.world import make_scene
from robobrain_ros.engine.base import EngineInfo
from robobrain_ros.evaluation import plans, robot_words
from robobrain_ros.evaluation.exam import GROUPS, ROBOT_GROUPS, SITUATIONS, ExamQuestion, Scored, exam, score_all
from robobrain_ros.evaluation.plans import judge_plan
from robobrain_ros.evaluation.question import Question
from robobrain_ros.evaluation.robots import ONE, SEPARATE, TableRobot, held_out_names, make_robot, plain
from robobrain_ros.evaluation.score_table import rows_of

NAMES = ("red block", "blue block", "green bowl", "yellow ball", "purple mug")
ROOM = 14_000
"""Tokens of the demo model's context that remain after the prompt with an image."""
SEEDS = range(240)


def robots(unseen: bool, count: int = 400) -> list[TableRobot]:
    return [make_robot(random.Random(seed), NAMES, unseen) for seed in range(count)]


def asked(seed: int, mode: PlanMode = PlanMode.REPLAN) -> Question:
    """Return a question about a table, after some steps if the plan is not new. Half of the robots are for the evaluation."""
    rng = random.Random(seed)
    scene = make_scene(seed % 40, (112, 112))
    situation = plans.at_first(scene, rng, seed % 4 == 0) if mode is PlanMode.NEW else plans.midway(scene, rng)
    return situation.question(mode, rng, make_robot(rng, situation.world.table.names, seed % 2 == 0))


@cache
def planned() -> tuple[Question, ...]:
    """Return the questions whose true answer is a plan."""
    questions = tuple(question for question in map(asked, SEEDS) if question.verdict is PlanVerdict.PLAN)
    assert len(questions) > 100
    return questions


def request_of(question: Question) -> PlanRequest:
    assert question.plan is not None
    return question.plan


def read(question: Question, text: str) -> Answer:
    """Read an answer as the node does. It fails if the text does not match the schema of the request."""
    request = request_of(question)
    reader = StructuredPlanReader(plan_form(request, ROOM))
    reader.feed(text)
    plan = reader.finish()
    check_feasible(plan.steps, request)
    return Answer(Task.PLAN, text, steps=plan.steps, reasoning=plan.reasoning, verdict=plan.verdict)


def test_a_robot_depends_only_on_its_seed() -> None:
    assert robots(False, 30) == robots(False, 30)
    assert len({repr(robot.robot) for robot in robots(False)}) == 400


@pytest.mark.parametrize("unseen", [False, True])
def test_each_kind_of_robot_and_of_schema_occurs(unseen: bool) -> None:
    made = robots(unseen)
    assert {robot.kind for robot in made} == {ONE, SEPARATE}
    schemas = [json.loads(skill.arguments_schema or "{}") for robot in made for skill in robot.robot.skills]
    values = [value for schema in schemas for value in schema.get("properties", {}).values()]
    assert any(value.get("format") == "object" for value in values)
    assert any(set(NAMES) <= set(value.get("enum", ())) for value in values)
    assert {"type": "string"} in values
    assert any(len(schema.get("required", ())) < len(schema.get("properties", ())) for schema in schemas)
    orders = {tuple(schema["properties"]) for schema in schemas if "properties" in schema}
    assert any(tuple(reversed(order)) in orders for order in orders if len(order) > 1)
    effects = {skill.effect for robot in made for skill in robot.robot.skills}
    assert effects == set(SkillEffect)
    assert {len(robot.robot.skills) for robot in made} >= set(range(2, 8))
    assert any(not meaning.object for robot in made for meaning in robot.meanings.values() if meaning.action == "place")
    for robot in made:
        assert list(robot.meanings) == [skill.name for skill in robot.robot.skills]


@pytest.mark.parametrize("mode", list(PlanMode))
def test_requests_are_valid_and_true_answers_match_their_schema(mode: PlanMode) -> None:
    verdicts = set()
    for seed in SEEDS[:120]:
        question = asked(seed, mode)
        check_request(request_of(question))
        answer = read(question, question.words)
        verdicts.add(answer.verdict)
        assert judge_plan(question, answer) == (True, ""), question.words
        others = [verdict for verdict in PlanVerdict if verdict is not answer.verdict]
        assert not any(judge_plan(question, replace(answer, verdict=other))[0] for other in others)
    assert len(verdicts) > 1


def test_requests_are_with_and_without_a_scene_and_a_limit_of_steps() -> None:
    requests = [request_of(question) for question in planned()]
    assert {bool(request.scene) for request in requests} == {False, True}
    assert all(request.done for request in requests)
    assert any(request.feedback for request in requests)
    limits = {request.max_steps for request in requests}
    assert 0 in limits
    assert len(limits) > 5


def without_last(question: Question, answer: Answer) -> Answer:
    return replace(answer, steps=answer.steps[:-1])


def with_other_objects(question: Question, answer: Answer) -> Answer:
    """Exchange each object for another one on the table."""
    assert question.table is not None
    names = question.table.names
    text = answer.text
    for index, name in enumerate(names):
        text = text.replace(f'"{name}"', f'"<{(index + 1) % len(names)}>"')
    for index, name in enumerate(names):
        text = text.replace(f'"<{index}>"', f'"{name}"')
    steps = [item[ARGUMENTS] for item in json.loads(text)[STEPS]]
    changed = [replace(step, arguments=json.dumps(given)) for step, given in zip(answer.steps, steps, strict=True)]
    return replace(answer, steps=tuple(changed))


def with_pick_only(question: Question, answer: Answer) -> Answer:
    """Replace the skill of each step with the skill to pick."""
    assert question.robot is not None
    pick = next(name for name, meaning in question.robot.meanings.items() if meaning.action == "pick")
    return replace(answer, steps=(*answer.steps, replace(answer.steps[0], skill=pick, order=99)))


@pytest.mark.parametrize("wrong", [without_last, with_other_objects, with_pick_only])
def test_wrong_plans_do_not_reach_the_goal(wrong: Callable[[Question, Answer], Answer]) -> None:
    for question in planned():
        answer = read(question, question.words)
        assert not judge_plan(question, wrong(question, answer))[0], question.words


def test_a_wrong_relation_does_not_reach_the_goal() -> None:
    for robot in robots(False, 60):
        for relation in RELATIONS:
            table = Table(NAMES)
            skill, given = robot.call(Step("pick", "red block"))
            assert robot.do(table, skill, json.dumps(given)) == ""
            skill, given = robot.call(Step("place", "red block", relation, "green bowl"))
            meaning = robot.meanings[skill]
            if meaning.relation:
                assert robot.do(table.copy(), skill, json.dumps(given | {meaning.relation: "under"}))
            assert robot.do(table, skill, json.dumps(given)) == ""
            assert table.where == {"red block": (relation, "green bowl")}


def test_unneeded_skills_change_nothing_except_that_an_opened_gripper_drops_the_object() -> None:
    actions = set()
    for robot in robots(False):
        for name, meaning in robot.meanings.items():
            table = Table(NAMES, held="red block")
            if meaning.action in ("", "open"):
                actions.add(meaning.action)
                assert robot.do(table, name, "") == ""
                assert table == Table(NAMES, held="red block" if meaning.action == "" else "")
    assert actions == {"", "open"}


@pytest.mark.parametrize(("skill", "arguments"), [("fly", "{}"), ("pick", "[]")])
def test_unknown_skills_and_arguments_are_faults(skill: str, arguments: str) -> None:
    assert "no skill" in robots(False, 1)[0].do(Table(NAMES), skill, arguments)


def needed(robot: TableRobot) -> set[str]:
    """Return the names of the skills that plans need."""
    return {plain(name) for name, meaning in robot.meanings.items() if meaning.action in ("pick", "place")}


def test_words_of_the_evaluation_do_not_occur_in_training() -> None:
    held_out = held_out_names()
    trained, unseen = robots(False, 3000), robots(True)
    names = {plain(robot.robot.name) for robot in trained} | {name for robot in trained for name in needed(robot)}
    assert not names & held_out
    assert all(plain(robot.robot.name) in held_out for robot in unseen)
    assert all(needed(robot) & held_out for robot in unseen)
    assert not all(needed(robot) <= held_out for robot in unseen)
    lists = [value for value in vars(robot_words).values() if isinstance(value, robot_words.Words)]
    lists += [*robot_words.PLACE_BY_RELATION.values(), *robot_words.TEXTS_BY_RELATION.values()]
    for words in lists:
        assert not ({*map(plain, words.training)} & {*map(plain, words.held_out)}) - {""}


def test_descriptions_state_what_the_prompt_would_not_contain() -> None:
    """A prompt contains no schema, so the values of a relation are in the description, if they are other words than usual."""
    for robot in [*robots(False), *robots(True)]:
        prompt = plan_prompt("", PlanRequest((robot.robot,)))
        for skill in robot.robot.skills:
            values = robot.meanings[skill.name].values.values()
            if set(values) - set(RELATIONS):
                assert all(value in prompt for value in values)


INFO = EngineInfo("demo", "qwen2_5_vl", "scripted", min_pixels=43_904, max_pixels=86_240, cell=28)


def scored(questions: list[ExamQuestion], answers: list[str]) -> list[Scored]:
    brain = Brain(ScriptedEngine(answers), profile_for("qwen2_5_vl"), info=INFO)
    return asyncio.run(score_all(brain, iter(questions), at_once=1))


def test_the_evaluation_counts_plans_that_reach_the_goal_and_plans_that_can_be_executed() -> None:
    questions = list(exam(range(700, 706), ((320, 240),), tuple(ROBOT_GROUPS)))
    true = [one.question.words for one in questions]
    assert {one.question.plan.mode for one in questions if one.question.plan} == {PlanMode.NEW, PlanMode.REPLAN}
    first = [shortened(text) for text in true]
    refused = [plans.answer_json(PlanVerdict.IMPOSSIBLE, "", [])] * len(true)
    for answers, reached, executed in ((true, 1.0, 1.0), (first, None, 1.0), (refused, 0.0, 0.0), (["banana"], 0.0, 0.0)):
        rows = [row for row in rows_of(scored(questions, answers)) if row.group in ROBOT_GROUPS and not row.kind]
        assert [row.goal for row in rows] == [0.9, None] * 2
        assert [row.value for row in rows if row.goal is None] == [executed] * 2
        values = [row.value for row in rows if row.goal is not None]
        assert values == [reached] * 2 if reached is not None else max(values) < 1
        assert all(row.count == 6 for row in rows)


def shortened(text: str) -> str:
    """Return the answer with its first step only."""
    content = json.loads(text)
    content[STEPS] = content[STEPS][:1]
    assert content[STEPS][0][SKILL]
    return json.dumps(content)


def test_robots_are_asked_about_only_if_they_are_named() -> None:
    assert not set(GROUPS) & set(ROBOT_GROUPS)
    assert set(ROBOT_GROUPS) <= set(SITUATIONS)
    one, again = (list(exam(range(3), ((320, 240),), ("robots",))) for _ in range(2))
    assert [question.question for question in one] == [question.question for question in again]
