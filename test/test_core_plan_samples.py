"""Random plans that satisfy the schemas of random requests: the plans that `check_feasible` rejects."""

import json
from collections.abc import Callable, Iterator

import pytest
from plan_requests import random_request
from plan_sampler import PlanSampler, parse, random_request_with_hands, shares_an_order

from robobrain_ros.core.plans import schema as plan_schema
from robobrain_ros.core.plans.feasibility import check_feasible
from robobrain_ros.core.plans.hands import ObjectLimit, kept_objects, object_limit
from robobrain_ros.core.plans.orders import numbered
from robobrain_ros.core.plans.request import Place, PlanMode, PlanRequest, Robot, Skill, SkillEffect
from robobrain_ros.core.plans.schema import PlanForm, TextBounds, plan_form
from robobrain_ros.core.query import PlanStep

WHAT = '{"type": "object", "properties": {"what": {"type": "string", "format": "object"}}}'
PICK = Skill("pick", "", WHAT, SkillEffect.GRASPS, "what")
PUT = Skill("put", "", WHAT, SkillEffect.RELEASES, "what")
WAIT = Skill("wait")
SCENE = (Place("table", ("mug", "bowl")),)


@pytest.fixture(autouse=True)
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_schema, "BOUNDS", (TextBounds(6, 4, 3),))


def samples(make: Callable[[int], PlanRequest], count: int) -> Iterator[tuple[PlanForm, str]]:
    sampler = PlanSampler()
    for seed in range(count):
        form = plan_form(make(seed), 8000)
        yield form, sampler.write(form)


def test_no_random_plan_is_infeasible() -> None:
    shared = 0
    for form, text in samples(random_request, 150):
        steps = parse(form, text).steps
        shared += shares_an_order(text)
        assert len({(step.robot, step.order) for step in steps}) == len(steps)
        assert sorted({step.order for step in steps}) == list(range(1, max((step.order for step in steps), default=0) + 1))
        check_feasible(steps, form.request)
    assert shared, "no text has steps of one robot with the same order, so the test shows nothing"


def test_no_random_plan_of_one_step_is_infeasible_for_the_robots_hands() -> None:
    used = set()
    for form, text in samples(lambda seed: random_request_with_hands(seed, 1), 150):
        steps = parse(form, text).steps
        check_feasible(steps, form.request)
        effects = {(robot.name, skill.name): skill.effect for robot in form.request.robots for skill in robot.skills}
        used |= {effects[step.robot, step.skill] for step in steps}
    assert used == set(SkillEffect)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("a1 b1 a2", "a1 b1 a2"),
        ("a1 b1 a1", "a1 b1 a2"),
        ("a1 a1 b1 b2", "a1 a2 b2 b3"),
        ("a2 a2 a2 b2 b2", "a1 a2 a3 b3 b4"),
        ("b7 a3 a3", "a1 a2 b3"),
        ("-1 -1 a1 a1", "-1 -1 a1 a2"),
    ],
)
def test_a_robot_does_one_step_at_a_time_and_different_robots_stay_parallel(written: str, expected: str) -> None:
    """Each step is a robot and its order. The robot ``-`` has no name."""
    steps = [PlanStep(int(it[1:]), "", it[0].strip("-"), f"{number}") for number, it in enumerate(written.split())]
    found = numbered(steps)
    assert " ".join(f"{step.robot or '-'}{step.order}" for step in found) == expected
    for robot in {step.robot for step in steps}:
        mine = [step for step in steps if step.robot == robot]
        assert [it.skill for it in found if it.robot == robot] == [it.skill for it in sorted(mine, key=lambda it: it.order)]


@pytest.mark.parametrize(
    ("holding", "skills", "other", "most_steps", "limits"),
    [
        ("", (PICK, PUT), "", 1, (ObjectLimit(), None)),
        ("", (PICK, PUT), "", 2, (ObjectLimit(), ObjectLimit())),
        ("", (PUT,), "", 9, (None,)),
        ("", (PICK, WAIT), "bowl", 9, (ObjectLimit(never=frozenset({"bowl"})), ObjectLimit())),
        ("mug", (PICK, PUT), "", 1, (None, ObjectLimit(only="mug"))),
        ("mug", (PICK, PUT), "", 2, (ObjectLimit(), ObjectLimit(only="mug"))),
        ("mug", (PICK, PUT), "", 3, (ObjectLimit(), ObjectLimit())),
        ("mug", (PICK,), "", 9, (None,)),
        ("mug", (PUT,), "", 9, (ObjectLimit(only="mug"),)),
        ("something", (PUT,), "", 9, (ObjectLimit(),)),
    ],
)
def test_a_skill_that_no_plan_can_contain_has_no_limit(
    holding: str, skills: tuple[Skill, ...], other: str, most_steps: int, limits: tuple[ObjectLimit | None, ...]
) -> None:
    robot = Robot("arm", skills=skills, holding=holding)
    request = PlanRequest((robot, Robot("other", skills=(WAIT,), holding=other)), SCENE)
    kept = kept_objects(request, most_steps)
    assert tuple(object_limit(robot, skill, kept, most_steps) for skill in skills) == limits


@pytest.mark.parametrize(
    ("what", "allowed"),
    [
        ({"type": "string", "format": "object"}, ["mug"]),
        ({"type": "string"}, ["mug"]),
        ({"enum": ["bowl", "mug", 3]}, ["mug"]),
        ({"anyOf": [{"type": "null"}, {"type": "string", "format": "object"}]}, ["mug"]),
    ],
)
def test_the_next_step_releases_the_object_in_the_hand(what: object, allowed: list[str]) -> None:
    put = Skill("put", "", json.dumps({"type": "object", "properties": {"what": what}}), SkillEffect.RELEASES, "what")
    request = PlanRequest((Robot("arm", skills=(PICK, put), holding="mug"),), SCENE, mode=PlanMode.NEXT_STEP)
    sampler, form = PlanSampler(), plan_form(request, 8000)
    steps = [step for _ in range(20) for step in parse(form, sampler.write(form)).steps]
    assert {(step.skill, json.loads(step.arguments)["what"]) for step in steps} == {("put", it) for it in allowed}
