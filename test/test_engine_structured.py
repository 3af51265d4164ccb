"""Output of an engine under a constraint: vLLM on the CPU with random weights, which have learned no JSON."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest
from constrained_engine import PROFILE, RunningEngine, check, generation
from plan_requests import random_request
from random_checkpoint import make_random_checkpoint

from robobrain_ros.core import Brain, Query, Task, parse_answer
from robobrain_ros.core.grammars import YES_OR_NO, coordinate_pattern
from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.plans import schema as plan_schema
from robobrain_ros.core.plans.request import Place, PlanMode, PlanRequest, PlanVerdict, Robot, Skill
from robobrain_ros.core.plans.schema import TextBounds, plan_form
from robobrain_ros.core.query import Defaults, Report
from robobrain_ros.core.reading.yes_or_no import confidence_in
from robobrain_ros.engine.base import MOST_CHOICES, Constraint, TextDelta
from robobrain_ros.errors import BadRequestError, InfeasiblePlanError, NothingFoundError


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    running = RunningEngine(str(make_random_checkpoint(tmp_path_factory.mktemp("checkpoint"))))
    yield running
    running.wait(running.embedded.close())
    assert running.loop.stop()


@pytest.mark.timeout(600)  # The engine starts within this test.
def test_each_random_request_gets_a_plan_of_its_form(engine: RunningEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_schema, "BOUNDS", (TextBounds(6, 4, 3),))
    forms = [plan_form(random_request(seed), 8000) for seed in range(100)]
    generations = [generation(Constraint(json_schema=form.text), form.tokens, f"task {i}") for i, form in enumerate(forms)]
    answers = engine.wait(engine.write_all(generations), 280.0)
    verdicts = [check(form, *answer) for form, answer in zip(forms, answers, strict=True)]
    assert set(verdicts) == set(PlanVerdict)


def test_a_brain_gives_a_plan_that_the_robots_can_run_or_says_why_not(engine: RunningEngine) -> None:
    schema = '{"type": "object", "properties": {"what": {"type": "string", "format": "object"}}}'
    robot = Robot("arm", skills=(Skill("look at", "", schema), Skill("wait")))
    request = PlanRequest((robot,), (Place("table", ("mug", "bowl")),), max_steps=4)
    brain = Brain(engine.embedded, PROFILE, info=engine.info)
    query = Query(Task.PLAN, "look around", [np.zeros((112, 112, 3), np.uint8)], plan=request, max_tokens=1)
    verdict, raw_text, report = engine.wait(outcome(brain, query))
    assert json.loads(raw_text)["verdict"] == verdict
    assert report.finish_reason == "stop"
    assert report.answer_tokens > 1


async def outcome(brain: Brain, query: Query) -> tuple[str, str, Report]:
    """Return the outcome. Random text may repeat itself, or state that the task is impossible."""
    try:
        answer = await brain.run(query)
    except (InfeasiblePlanError, NothingFoundError) as error:
        verdict = "plan" if isinstance(error, InfeasiblePlanError) else "impossible"
        return verdict, error.raw_text, error.report or Report()
    assert {step.robot for step in answer.steps} == {"arm"}
    return answer.verdict.value, answer.report.raw_text, answer.report


def test_a_plan_may_be_thought_about_freely_and_has_its_form_all_the_same(engine: RunningEngine) -> None:
    robot = Robot("arm", skills=(Skill("look around"), Skill("wait")))
    brain = Brain(engine.embedded, PROFILE, info=engine.info, defaults=Defaults(think_tokens=24))
    image = np.zeros((112, 112, 3), np.uint8)
    query = Query(Task.PLAN, "look around", [image], think=True, plan=PlanRequest((robot,), max_steps=2))
    verdict, raw_text, report = engine.wait(outcome(brain, query))
    thought, _, written = raw_text.partition("</think><answer>")
    assert thought
    assert 0 < report.thinking_tokens <= 24
    assert json.loads(written)["verdict"] == verdict


def test_a_check_needs_no_robots(engine: RunningEngine) -> None:
    brain = Brain(engine.embedded, PROFILE, info=engine.info)
    query = Query(Task.PLAN, "tidy up", [np.zeros((112, 112, 3), np.uint8)], plan=PlanRequest(mode=PlanMode.CHECK))
    answer = engine.wait(brain.run(query))
    assert answer.verdict in (PlanVerdict.DONE, PlanVerdict.NOT_DONE)
    assert answer.steps == ()


def test_a_text_follows_its_pattern(engine: RunningEngine) -> None:
    pattern = r"\[(\([0-9]{1,3}, [0-9]{1,3}\)(, \([0-9]{1,3}, [0-9]{1,3}\)){0,3})?\]"
    answers = engine.wait(engine.write_all([generation(Constraint(regex=pattern), 100) for _ in range(20)]))
    assert all(reason == "stop" and re.fullmatch(pattern, text) for text, _, reason in answers)


def test_a_character_of_several_tokens_is_streamed_whole(engine: RunningEngine) -> None:
    """In this vocabulary, each byte is a token."""
    characters = "é赤🥄"
    asked = [generation(Constraint(regex=f"[{characters}]{{6}}"), 100, f"go {number}") for number in range(4)]
    for text, tokens, reason in engine.wait(engine.write_all(asked)):
        assert reason == "stop"
        assert re.fullmatch(f"[{characters}]{{6}}", text)
        assert tokens >= 12


def test_a_plan_may_choose_among_a_hundred_skills_with_names_in_every_script(engine: RunningEngine) -> None:
    names = (
        "red block",
        "赤いブロック",
        "빨간 블록",
        "красный блок",
        "מכעב אדום",
        "مكعب أحمر",
        "लाल ब्लॉक",
        "Löffel",
        "robot 🤖",
        "cook 👩‍🍳",
    )
    schema = '{"type": "object", "properties": {"what": {"type": "string", "format": "object"}}, "required": ["what"]}'
    skills = tuple(Skill(f"{name} {number}", "", schema) for number in range(10) for name in names)
    form = plan_form(PlanRequest((Robot("arm", skills=skills),), (Place("table", names),), max_steps=2), 8000)
    asked = [generation(Constraint(json_schema=form.text), form.tokens, f"task {index}") for index in range(4)]
    for answer in engine.wait(engine.write_all(asked), 280.0):
        check(form, *answer)


@pytest.mark.parametrize(
    "constraint",
    [Constraint(regex="(unclosed"), Constraint(json_schema='{"type": "array", "uniqueItems": true}'), Constraint(regex="a(?=b)")],
    ids=["no pattern", "not enforced", "lookahead"],
)
def test_constraints_that_cannot_be_enforced_are_rejected_with_the_reason(engine: RunningEngine, constraint: Constraint) -> None:
    with pytest.raises(BadRequestError, match="cannot apply the constraint"):
        engine.wait(engine.write(generation(constraint, 10)))
    assert engine.wait(engine.write(generation(Constraint(regex="ab"), 10)))[0] == "ab"


@pytest.mark.parametrize("task", [Task.POINT, Task.GROUND])
def test_noise_gives_coordinates_within_the_image(engine: RunningEngine, task: Task) -> None:
    """Under the grammar, random weights write only valid coordinates, which are parsed. A truncated text is its start."""
    size = FittedSize(640, 480, 644, 476)
    pattern = coordinate_pattern(task, PROFILE, size)
    answers = engine.wait(engine.write_all([generation(Constraint(regex=pattern), 400, f"{task} {i}") for i in range(64)]))
    whole = [text for text, _, reason in answers if reason == "stop" and text]
    assert whole
    for text in whole:
        assert re.fullmatch(pattern, text)
        parse_answer(task, text, PROFILE, constrained=True)


@pytest.mark.parametrize("constraint", [Constraint(regex=YES_OR_NO), None])
def test_the_choices_are_the_likely_tokens_that_the_constraint_allows(
    engine: RunningEngine, constraint: Constraint | None
) -> None:
    async def write(number: int) -> list[TextDelta]:
        asked = replace(generation(constraint, 4, f"go {number}"), temperature=0.0, choices=MOST_CHOICES)
        async with aclosing(engine.embedded.generate(asked)) as stream:
            return [delta async for delta in stream]

    for deltas in (engine.wait(write(number)) for number in range(8)):
        assert all(len(delta.choices) == delta.tokens for delta in deltas)
        places = [place for delta in deltas for place in delta.choices]
        for place in places:
            logprobs = [choice.logprob for choice in place]
            assert 1 <= len(place) <= MOST_CHOICES + 1, "the written token may be an additional one"
            assert logprobs == sorted(logprobs, reverse=True)
            assert sum(map(math.exp, logprobs)) <= 1.001
        first = places[0]
        if constraint is None:
            assert len(first) >= MOST_CHOICES
            continue
        # All allowed tokens are listed, because there are fewer than the limit. The last one ends the empty answer.
        assert sum(math.exp(choice.logprob) for choice in first) == pytest.approx(1.0, abs=1e-3)
        words = {choice.text.lower() for choice in first if not choice.text.startswith("<|")}
        assert words <= {"y", "ye", "yes", "n", "no"}
        text = "".join(delta.text for delta in deltas)
        if text:
            confidence = confidence_in(text.lower() == "yes", first)
            assert confidence is not None
            assert 0.5 <= confidence <= 1.0


def test_no_choices_are_reported_unless_requested(engine: RunningEngine) -> None:
    async def write() -> list[TextDelta]:
        async with aclosing(engine.embedded.generate(generation(Constraint(regex="ab"), 10))) as stream:
            return [delta async for delta in stream]

    assert [delta.choices for delta in engine.wait(write()) if delta.choices] == []


def test_a_prompt_in_several_steps_takes_nothing_from_a_seeded_answer(engine: RunningEngine) -> None:
    """vLLM discards the samples of the first steps, which torch's CPU generators do not support; the engine used to end.

    Which prompts are computed in several steps also depends on other requests in the engine, and thus on the machine's speed.
    """
    long = "go " * 2000
    answers = engine.wait(engine.write_all([generation(Constraint(regex="[a-z]{8}"), 20, long) for _ in range(4)]))
    assert all(reason == "stop" and re.fullmatch("[a-z]{8}", text) for text, _, reason in answers)
    assert len({text for text, _, _ in answers}) > 1
