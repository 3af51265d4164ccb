"""Plans for robots over DDS: the context reaches the model, the answer is typed, and invalid contexts are rejected."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from action_msgs.msg import GoalStatus
from fakes import Script, ScriptedEngine
from rclpy.action import ActionClient
from ros_rig import Rig, rig, scripted
from test_ask import ask_it

from robobrain_ros.action import RunTask
from robobrain_ros.core.plans.request import (
    DoneStep,
    Place,
    PlanMode,
    PlanRequest,
    Robot,
    Skill,
    SkillEffect,
    StepOutcome,
)
from robobrain_ros.errors import BadRequestError
from robobrain_ros.msg import Outcome, PlanContext, QueryOptions
from robobrain_ros.msg import Plan as PlanMessage
from robobrain_ros.ros.messages.plans import to_plan_context, to_plan_request
from robobrain_ros.srv import Ask, MakePlan, SetStandingQuery

SCHEMA = json.dumps({"type": "object", "properties": {"object": {"type": "string", "format": "object"}}})
PICK = Skill("pick", "Grasps an object.", SCHEMA, SkillEffect.GRASPS, "object")
ARM = Robot("left_arm", "arm", "idle", (PICK, Skill("wait")), "at the table", ("table",))
REQUEST = PlanRequest(
    robots=(ARM,),
    scene=(Place("table", ("mug", "red block")),),
    done=(DoneStep("Pick the mug.", "left_arm", "pick", '{"object": "mug"}', StepOutcome.FAILED, "it slipped"),),
    feedback="The mug is wet.",
    max_steps=5,
    mode=PlanMode.REPLAN,
)


def step(order: int = 1, thing: str = "mug") -> dict[str, Any]:
    """Return a step of a plan as the model writes it."""
    who = {"subtask": f"Pick {thing}.", "robot_name": "left_arm", "skill": "pick"}
    return {**who, "arguments": {"object": thing}, "subtask_order": order}


def written(verdict: str = "plan", *steps: dict[str, Any]) -> str:
    """Return an answer as the model writes it."""
    said = {"reasoning_explanation": "Because.", "verdict": verdict}
    return json.dumps(said | ({"subtask_list": list(steps)} if verdict == "plan" else {}))


def plan(it: Rig, request: PlanRequest | PlanContext, task: str = "clear the table", **options: Any) -> MakePlan.Response:
    context = request if isinstance(request, PlanContext) else to_plan_context(request)
    return it.call(MakePlan, "plan", MakePlan.Request(task=task, context=context, options=QueryOptions(**options)))


class Unread(list[Any]):
    """A long list whose items must not be read."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("the items are read")


@pytest.mark.parametrize("field", ["robots", "scene", "done"])
def test_a_list_of_a_context_that_is_too_long_is_rejected_before_it_is_converted(field: str) -> None:
    context = PlanContext()
    setattr(context, f"_{field}", Unread([None] * 201))  # This skips the message's own check, which reads all items.
    with pytest.raises(BadRequestError, match=rf"^context\.{field}: there are 201"):
        to_plan_request(context)


def test_a_context_survives_the_conversion_to_a_message_and_back() -> None:
    assert to_plan_request(to_plan_context(REQUEST)) == REQUEST
    assert to_plan_request(PlanContext()) == PlanRequest()


def test_the_context_reaches_the_model_and_the_plan_has_skills_and_arguments() -> None:
    with scripted(written("plan", step())) as (it, engine):
        response = plan(it, REQUEST)
        (generation,) = engine.generations
    for known in ("left_arm", "pick", "red block", "it slipped", "The mug is wet.", "the rest of the task"):
        assert known in generation.user_text
    assert generation.constraint is not None
    assert '"left_arm"' in generation.constraint.json_schema
    assert response.outcome == Outcome(code=Outcome.OK)
    (first,) = response.plan.steps
    assert (first.order, first.robot, first.skill, first.text) == (1, "left_arm", "pick", "Pick mug.")
    assert json.loads(first.arguments) == {"object": "mug"}
    assert (response.plan.verdict, response.plan.reasoning) == (PlanMessage.VERDICT_PLAN, "Because.")
    assert json.loads(response.plan.roboos_json) == {"reasoning_explanation": "Because.", "subtask_list": [step()]}


@pytest.mark.parametrize(
    ("mode", "said", "verdict"),
    [
        (PlanMode.CHECK, "done", PlanMessage.VERDICT_DONE),
        (PlanMode.CHECK, "not done", PlanMessage.VERDICT_NOT_DONE),
        (PlanMode.REPLAN, "done", PlanMessage.VERDICT_DONE),
    ],
)
def test_a_verdict_without_steps_is_an_answer(mode: PlanMode, said: str, verdict: int) -> None:
    with scripted(written(said)) as (it, _):
        response = plan(it, replace(REQUEST, mode=mode))
    assert response.outcome.code == Outcome.OK
    assert (response.plan.verdict, list(response.plan.steps), response.plan.roboos_json) == (verdict, [], "")


def test_what_cannot_be_done_or_contradicts_itself_is_an_outcome_without_steps() -> None:
    twice = written("plan", step(1), step(2, "red block"))
    with scripted(written("impossible"), twice, twice[:-9]) as (it, _):
        impossible, infeasible, cut = (plan(it, replace(REQUEST, mode=PlanMode.NEW)) for _ in range(3))
    assert impossible.outcome.code == Outcome.NOTHING_FOUND
    assert "Because." in impossible.outcome.message
    assert infeasible.outcome.code == Outcome.INFEASIBLE_PLAN
    assert "In step 2" in infeasible.outcome.message
    assert infeasible.plan.report.raw_text == twice
    assert cut.outcome.code == Outcome.UNPARSABLE_ANSWER
    assert not any(response.plan.steps for response in (impossible, infeasible, cut))


def test_steps_are_fed_back_as_soon_as_each_is_complete() -> None:
    gate = asyncio.Event()
    text = written("plan", step(1), {**step(2), "skill": "wait", "arguments": {}})
    half = text.index("}, {") + 1
    with scripted(Script([text[:half], gate, text[half:]])) as (it, engine):
        client = ActionClient(it.client, RunTask, f"{it.name}/run_task")
        it.until(client.server_is_ready, "the action")
        fed: list[Any] = []
        goal = RunTask.Goal(task="plan", instruction="clear the table", context=to_plan_context(REQUEST))
        handle = it.answer(client.send_goal_async(goal, feedback_callback=lambda message: fed.append(message.feedback)))
        it.until(lambda: any(part.steps for part in fed), "the first step")
        assert engine.running
        it.on_loop(gate.set)
        outcome = it.answer(handle.get_result_async())
        it.until(lambda: len(fed[-1].steps) == 2, "the second step")
    assert outcome.status == GoalStatus.STATUS_SUCCEEDED
    assert fed[-1].steps == outcome.result.plan.steps
    assert 0 < outcome.result.plan.report.first_part_time < outcome.result.plan.report.total_time


def test_requests_and_standing_queries_without_robots_use_those_of_the_file(repository: Path) -> None:
    example = str(repository / "config" / "robots_example.yaml")
    with scripted(written("impossible"), robots_file=example) as (it, engine):
        plan(it, PlanContext())
        assert it.set_parameter("max_plan_steps", 3).successful
        plan(it, PlanContext())
        plan(it, PlanRequest(mode=PlanMode.NEXT_STEP))
        plan(it, PlanRequest(robots=(replace(ARM, name="right_arm"),)))
        query = SetStandingQuery.Request(name="tidy", enabled=True, task="plan", instruction="tidy up", rate=50.0)
        it.call(SetStandingQuery, "set_standing_query", query)
        it.until(lambda: len(engine.generations) == 5, "the standing query")
        elsewhere = plan(it, PlanRequest(scene=(Place("shelf"),)))
    texts = [generation.user_text for generation in engine.generations]
    assert ["carrier" in text for text in texts] == [True, True, True, False, True]
    most = [generation.constraint.json_schema for generation in engine.generations if generation.constraint]
    assert [('"maxItems": 16' in schema, '"maxItems": 3' in schema) for schema in most[:2]] == [(True, False), (False, True)]
    assert elsewhere.outcome.code == Outcome.BAD_REQUEST
    assert elsewhere.outcome.message.endswith("(The robots come from parameter robots_file.)")


def test_a_wrong_file_of_robots_keeps_the_node_unconfigured(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "robots.yaml"
    path.write_text("robots:\n  left_arm:\n    skills: [pick]\n")
    with rig(ScriptedEngine(["x"]), autostart=False, robots_file=str(path)) as it:
        it.node.trigger_configure()
        assert it.node.model.health().state == "stopped"
    assert f"Cannot configure: {path}:3: Robot left_arm has the skill 'pick'" in capfd.readouterr().err


def test_a_file_of_robots_in_the_home_folder_is_read(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell expands the ~ in a parameter file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "robots.yaml").write_bytes((repository / "config" / "robots_example.yaml").read_bytes())
    with scripted(written("impossible"), robots_file="~/robots.yaml") as (it, engine):
        plan(it, PlanContext())
    assert "carrier" in engine.generations[0].user_text


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Rig, ScriptedEngine]]:
    with scripted("Two.", max_image_age=0.0) as (it, engine):
        yield it, engine


def raw(**numbers: int) -> PlanContext:
    """Return a context with meaningless numbers."""
    context = to_plan_context(REQUEST)
    context.mode = numbers.get("mode", context.mode)
    context.robots[0].skills[1].effect = numbers.get("effect", 0)
    context.done[0].outcome = numbers.get("outcome", 0)
    return context


def with_skill(**changes: Any) -> PlanRequest:
    return replace(REQUEST, robots=(replace(ARM, skills=(PICK, replace(PICK, **{"name": "put"} | changes))),))


BAD = [
    (raw(mode=9), "context.mode", "MODE_CHECK (3)"),
    (raw(effect=7), "context.robots[0].skills[1].effect", "EFFECT_GRASPS (1)"),
    (raw(outcome=200), "context.done[0].outcome", "FAILED (1)"),
    (replace(REQUEST, robots=(ARM, ARM)), "context.robots[1].name", "left_arm"),
    (replace(REQUEST, robots=(replace(ARM, skills=()),)), "context.robots[0].skills", "no skills"),
    (replace(REQUEST, robots=(replace(ARM, name=""),)), "context.robots[0].name", "empty"),
    (replace(REQUEST, robots=(replace(ARM, name="arm\nleft"),)), "context.robots[0].name", "line break"),
    (replace(REQUEST, robots=(replace(ARM, name="x" * 10_000),)), "context.robots[0].name", "10000 characters"),
    (replace(REQUEST, mode=PlanMode.NEXT_STEP), "context.max_steps", "one step"),
    (replace(REQUEST, max_steps=2**32 - 1), "context.max_steps", "4294967295"),
    (with_skill(name="pick"), "context.robots[0].skills[1].name", "already"),
    (with_skill(arguments_schema="{"), "context.robots[0].skills[1].arguments_schema", "not JSON"),
    (with_skill(arguments_schema='{"type": "thing"}'), "context.robots[0].skills[1].arguments_schema", "not a JSON schema"),
    (with_skill(arguments_schema=" " * 10_000_000 + "{}"), "context.robots[0].skills[1].arguments_schema", "10000002 bytes"),
    (with_skill(object_argument="thing"), "context.robots[0].skills[1].object_argument", "not a property"),
    (replace(REQUEST, feedback="x" * 100_000), "context.feedback", "100000 characters"),
]


@pytest.mark.parametrize(("request_", "path", "said"), BAD, ids=[f"{path}: {said}" for _, path, said in BAD])
def test_bad_input_is_rejected_with_the_fields_path_and_the_reason(
    shared: tuple[Rig, ScriptedEngine], request_: PlanRequest | PlanContext, path: str, said: str
) -> None:
    it, engine = shared
    before = len(engine.generations)
    response = plan(it, request_)
    assert response.outcome.code == Outcome.BAD_REQUEST
    assert response.outcome.message.startswith(f"{path}: ")
    assert said in response.outcome.message
    assert len(response.outcome.message) < 1000
    assert len(engine.generations) == before


def test_an_unknown_camera_is_rejected(shared: tuple[Rig, ScriptedEngine]) -> None:
    response = plan(shared[0], REQUEST, camera="wrist")
    assert response.outcome.code == Outcome.BAD_REQUEST
    assert "There is no camera 'wrist'" in response.outcome.message


def test_names_with_quotes_are_names() -> None:
    name = 'the "left" arm\'s 🤖'
    with scripted(written("plan", {**step(), "robot_name": name})) as (it, _):
        response = plan(it, replace(REQUEST, robots=(replace(ARM, name=name),)))
    assert response.outcome.code == Outcome.OK, response.outcome.message
    assert response.plan.steps[0].robot == name
    assert json.loads(response.plan.roboos_json)["subtask_list"][0]["robot_name"] == name


def test_a_hundred_robots_with_a_hundred_skills_do_not_block_the_executor(shared: tuple[Rig, ScriptedEngine]) -> None:
    """The context is read outside the event loop, so that other requests are answered in the meantime."""
    it, _ = shared
    skills = tuple(replace(PICK, name=f"skill_{number}") for number in range(100))
    request = PlanRequest(robots=tuple(replace(ARM, name=f"arm_{number}", skills=skills) for number in range(100)))
    large = it.send(MakePlan, "plan", MakePlan.Request(task="clear the table", context=to_plan_context(request)))
    meanwhile = it.call(Ask, "ask", Ask.Request(question="How many?"))
    assert meanwhile.outcome.code == Outcome.OK
    response = it.answer(large)
    assert response.outcome.code in (Outcome.UNPARSABLE_ANSWER, Outcome.BAD_REQUEST)  # The script answers "Two."
    assert response.outcome.message


def test_the_program_ask_sends_robots_scene_and_history(repository: Path) -> None:
    example = str(repository / "config" / "robots_example.yaml")
    with scripted(written("plan", step()), max_image_age=0.0) as (it, engine):
        known = ("--robots", example, "--place", "table: mug", "--place", "tray:", "--failed", "pick the mug", "--replan")
        code, out, err = ask_it(it, "plan", "clear the table", *known, "--feedback", "it is wet", "--json")
        text = engine.generations[0].user_text
    assert code == 0, err
    said = json.loads(out)
    for words in ("carrier", "- table: mug", "pick the mug failed", "it is wet", "the rest of the task"):
        assert words in text
    assert (said["verdict"], said["steps"][0]["robot"], said["steps"][0]["skill"]) == ("plan", "left_arm", "pick")
    assert json.loads(said["roboos_json"])["subtask_list"] == [step()]


def test_a_plan_contains_its_behavior_tree() -> None:
    with scripted("1. Pick up the cup.\n2. Put the cup on the plate.") as (it, _):
        plan = it.call(MakePlan, "plan", MakePlan.Request(task="tidy up")).plan
    root = ElementTree.fromstring(plan.behavior_tree)
    assert root.get("BTCPP_format") == "4"
    assert [node.get("text") for node in root.iter("Action") if node.get("text")] == [step.text for step in plan.steps]
