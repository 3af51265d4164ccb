"""Plans for robots over DDS: what a stack tells reaches the model, what comes back is typed, what makes no sense is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import ScriptedEngine
from ros_rig import Rig, rig, scripted

from robobrain_ros.core.plan_request import (
    DoneStep,
    Place,
    PlanMode,
    PlanRequest,
    Robot,
    Skill,
    SkillEffect,
    StepOutcome,
)
from robobrain_ros.msg import Outcome, PlanContext, QueryOptions
from robobrain_ros.ros.plan_messages import to_plan_context, to_plan_request
from robobrain_ros.srv import MakePlan

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


def plan(it: Rig, request: PlanRequest | PlanContext, task: str = "clear the table", **options: Any) -> MakePlan.Response:
    context = request if isinstance(request, PlanContext) else to_plan_context(request)
    return it.call(MakePlan, "plan", MakePlan.Request(task=task, context=context, options=QueryOptions(**options)))


def test_a_context_means_the_same_as_message_and_in_the_core() -> None:
    assert to_plan_request(to_plan_context(REQUEST)) == REQUEST
    assert to_plan_request(PlanContext()) == PlanRequest()


def test_a_wrong_file_of_robots_keeps_the_node_unconfigured(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "robots.yaml"
    path.write_text("robots:\n  left_arm:\n    skills: [pick]\n")
    with rig(ScriptedEngine(["x"]), autostart=False, robots_file=str(path)) as it:
        it.node.trigger_configure()
        assert it.node.model.health().state == "stopped"
    assert f"Cannot configure: {path}:3: Robot left_arm has the skill 'pick'" in capfd.readouterr().err


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Rig, ScriptedEngine]]:
    with scripted("Two.", max_image_age=0.0) as (it, engine):
        yield it, engine


def raw(**numbers: int) -> PlanContext:
    """A context with numbers that have no meaning."""
    context = to_plan_context(REQUEST)
    context.mode = numbers.get("mode", context.mode)
    context.robots[0].skills[1].effect = numbers.get("effect", 0)
    context.done[0].outcome = numbers.get("outcome", 0)
    return context


BAD = [
    (raw(mode=9), "context.mode", "MODE_CHECK (3)"),
    (raw(effect=7), "context.robots[0].skills[1].effect", "EFFECT_GRASPS (1)"),
    (raw(outcome=200), "context.done[0].outcome", "FAILED (1)"),
]


@pytest.mark.parametrize(("request_", "path", "said"), BAD, ids=[f"{path}: {said}" for _, path, said in BAD])
def test_bad_input_is_refused_with_the_fields_path_and_the_reason(
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


def test_an_unknown_camera_is_refused(shared: tuple[Rig, ScriptedEngine]) -> None:
    response = plan(shared[0], REQUEST, camera="wrist")
    assert response.outcome.code == Outcome.BAD_REQUEST
    assert "There is no camera 'wrist'" in response.outcome.message
