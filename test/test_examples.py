"""The programs of examples/ run without changes. They import only messages and public Python names."""

import ast
import asyncio
import math
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import pytest
from depth_rig import in_model, looking
from fakes import Script, ScriptedEngine
from geometry_msgs.msg import PoseStamped
from processes import USUAL_SIGNALS
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_rig import LIMIT, Rig, rig, show_always

from robobrain_ros.core.plans.request import PlanVerdict
from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.demo.simulator import Step
from robobrain_ros.demo.world import make_scene
from robobrain_ros.engine.base import Generation, TextDelta
from robobrain_ros.evaluation.plans import answer_json
from robobrain_ros.ros.tasks import TASKS

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py"))
PUBLIC = {
    "robobrain_ros.msg",
    "robobrain_ros.srv",
    "robobrain_ros.action",
    "robobrain_ros.behaviours",
    "robobrain_ros.core",
    "robobrain_ros.errors",
    "robobrain_ros.local",
}
MOST_LINES = 100
PICK, PUT = Step("pick", "red block"), Step("place", "red block", "in", "green bowl")
PLAN = answer_json(PlanVerdict.PLAN, "", [PICK, PUT])
DONE = answer_json(PlanVerdict.DONE, "Nothing is left to do.", [])


@contextmanager
def example(it: Rig, name: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run an example in the namespace of the rig's node, and end it with the block."""
    ros = ["--ros-args", "-r", f"__ns:={it.client.get_namespace()}"]
    command = [*USUAL_SIGNALS, sys.executable, str(EXAMPLES / name), *arguments, *ros]
    domain = os.environ | {"ROS_DOMAIN_ID": str(it.context.get_domain_id())}
    with subprocess.Popen(command, env=domain, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def output_of(it: Rig, name: str, *arguments: str) -> str:
    """Return the output of an example, which must end with success."""
    with example(it, name, *arguments) as process:
        it.until(lambda: process.poll() is not None, f"the end of {name}")
        assert process.stdout is not None
        text = process.stdout.read()
    assert process.returncode == 0, text
    return text


class Planner(ScriptedEngine):
    """An engine whose plan depends only on the prompt. The example repeats its request until the image is new enough."""

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        self._next = iter([DONE if f"{PUT.text} succeeded." in generation.user_text else PLAN])
        async for delta in super().generate(generation):
            yield delta


class Slipping(ScriptedEngine):
    """An engine that sees the object lifted in the first four comparisons, and back on the table in the others."""

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        self._next = iter([f"<score>{'+80' if len(self.generations) < 4 else '-90'}%</score>"])
        async for delta in super().generate(generation):
            yield delta


@contextmanager
def ready(*scripts: str, engine: ScriptedEngine | None = None, **parameters: Any) -> Iterator[tuple[Rig, ScriptedEngine]]:
    """Return a ready node whose engine answers with these scripts, with running cameras."""
    engine = engine or ScriptedEngine(list(scripts))
    with rig(engine, **parameters) as it:
        it.until_ready()
        show_always(it, parameters.get("cameras", ("camera",)))
        yield it, engine


def test_there_is_an_example_for_each_kind_of_use() -> None:
    assert set(PROGRAMS) >= {
        "plan_and_execute.py",
        "point_to_pose.py",
        "several_cameras.py",
        "standing_query.py",
        "save_goal_image.py",
        "watch_step.py",
        "without_ros.py",
    }


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_is_short_and_imports_no_internals(name: str) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    imported = {str(node.module) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert {module for module in imported if module.startswith("robobrain_ros")} <= PUBLIC
    assert len(text.splitlines()) <= MOST_LINES


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_that_stops_waiting_leaves_no_request_in_the_engine(name: str) -> None:
    """The node does not notice when a service client stops waiting, so the request must contain its time limit."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    services = {"Approach", *(task.service_type.__name__ for task in TASKS.values())}
    requests = [call for call in calls if ast.unparse(call.func) in {f"{service}.Request" for service in services}]
    assert all("options" in {keyword.arg for keyword in call.keywords} for call in requests)
    options = [call for call in calls if ast.unparse(call.func) == "QueryOptions"]
    assert len(options) == len(requests)
    assert all("timeout" in {keyword.arg for keyword in call.keywords} for call in options)
    assert not requests or "TIMEOUT = LIMIT - " in text


def test_point_to_pose() -> None:
    scene = make_scene(7)
    left, top, right, bottom = scene.objects[0].box
    with looking(scene, str([*in_model(left, top), *in_model(right, bottom)]), camera__use_depth=True) as before:
        before.info()
        before.depth()
        before.image()
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        poses: list[PoseStamped] = []
        before.it.client.create_subscription(PoseStamped, "target_pose", poses.append, latched)
        with example(before.it, "point_to_pose.py", scene.objects[0].name, "camera_optical"):
            before.it.until(lambda: poses, "the pose")
    assert poses[0].header == before.header
    assert 0.1 < poses[0].pose.position.z < 3.0
    turn = poses[0].pose.orientation
    assert math.hypot(turn.x, turn.y, turn.z, turn.w) == pytest.approx(1.0)


def test_point_to_pose_reports_a_missing_pose() -> None:
    with ready("[10, 10, 20, 20]") as (it, _), example(it, "point_to_pose.py", "the mug", "base_link") as process:
        it.until(lambda: process.poll() is not None, "the end")
        assert process.stdout is not None
        assert "There is no approach pose" in process.stdout.read()
    assert process.returncode == 1


def test_plan_and_execute() -> None:
    with ready(engine=Planner([PLAN])) as (it, engine):
        output = output_of(it, "plan_and_execute.py", "put the red block into the green bowl", "red block", "green bowl")
    assert f"{PUT.text} succeeded." in engine.generations[-1].user_text
    steps = [line for line in output.splitlines() if line.startswith("arm: ")]
    assert [step.split()[1] for step in steps] == ["pick", "place"]
    assert "The task is done." in output


class Repeating(ScriptedEngine):
    """An engine that repeats its plan after the steps, but first makes a plan that the arm cannot execute."""

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        text = generation.user_text
        impossible = f"{PUT.text} succeeded." in text and "Feedback" not in text
        self._next = iter([answer_json(PlanVerdict.PLAN, "", [PUT]) if impossible else PLAN])
        async for delta in super().generate(generation):
            yield delta


def test_a_plan_without_effect_is_executed_at_most_twice() -> None:
    arguments = "put the red block into the green bowl", "red block", "green bowl"
    with ready(engine=Repeating([PLAN])) as (it, _), example(it, "plan_and_execute.py", *arguments) as process:
        it.until(lambda: process.poll() is not None, "the end")
        assert process.stdout is not None
        output = process.stdout.read()
    assert "executed twice" in output
    assert output.count("arm: ") == 4
    assert process.returncode == 1


def test_standing_query() -> None:
    with ready("[(10, 10)]") as (it, _):
        output = output_of(it, "standing_query.py", "the red mug")
    assert len(output.splitlines()) >= 10
    assert ": (" in output


def test_several_cameras() -> None:
    with ready("The mug is in the gripper.", cameras=["front", "wrist"]) as (it, engine):
        output = output_of(it, "several_cameras.py", "Where is the mug?", "front", "wrist")
    assert len(engine.generations[0].images) == 2
    assert "The mug is in the gripper." in output


def test_a_step_is_watched_with_a_saved_goal_image(tmp_path: Path) -> None:
    goal = tmp_path / "goal.png"
    with ready("<score>+100%</score>") as (it, engine):
        output_of(it, "save_goal_image.py", f"{it.client.get_namespace()}/camera/image", str(goal))
        output = output_of(it, "watch_step.py", "put the mug on the plate", "--goal", str(goal), "--rate", "20")
    _, reference_end, *_, after = engine.generations[0].images
    assert (reference_end == after).all(), "without a goal image, this image would be grey"
    assert output.splitlines()[-2].startswith("progress 1.00")
    assert output.splitlines()[-1] == "SUCCEEDED: progress 1.00, highest 1.00"


def test_a_failed_step_ends_the_watch_with_another_exit_code() -> None:
    arguments = "put the mug on the plate", "--rate", "20"
    with ready(engine=Slipping([""])) as (it, _), example(it, "watch_step.py", *arguments) as process:
        it.until(lambda: process.poll() is not None, "the end")
        assert process.stdout is not None
        assert "REGRESSED" in process.stdout.read()
    assert process.returncode == 1


def test_without_a_camera_no_goal_image_is_saved(tmp_path: Path) -> None:
    with ready("") as (it, _), example(it, "save_goal_image.py", "nothing", str(tmp_path / "goal.png")) as process:
        it.until(lambda: process.poll() is not None, "the end")
        assert process.stdout is not None
        assert "No image arrived on /" in process.stdout.read()
    assert process.returncode == 1
    assert not (tmp_path / "goal.png").exists()


@pytest.mark.parametrize("name", sorted({*PROGRAMS} - {"fetch_object.py"}))  # It imports messages that are not on PyPI.
def test_missing_arguments_get_a_usage_line(name: str) -> None:
    done = subprocess.run([sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"usage: {name}")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("plan_and_execute.py", ["put the mug on the plate", "mug", "plate"]),
        ("point_to_pose.py", ["the mug", "camera_optical"]),
        ("several_cameras.py", ["Where is the mug?", "camera"]),
        ("standing_query.py", ["the mug"]),
        ("watch_step.py", ["put the mug on the plate"]),
    ],
)
def test_ctrl_c_ends_an_example_without_a_traceback(name: str, arguments: list[str]) -> None:
    with ready(engine=ScriptedEngine([Script([asyncio.Event()])])) as (it, engine), example(it, name, *arguments) as process:
        it.until(lambda: engine.running, "its request in the engine")
        process.send_signal(signal.SIGINT)
        it.until(lambda: process.poll() is not None, "the end")
        assert process.stdout is not None
        assert "Traceback" not in process.stdout.read()
        if name == "standing_query.py":
            assert it.node._standing.names == []
    assert process.returncode == 130


@pytest.mark.timeout(5 * LIMIT)
def test_without_ros(tmp_path: Path) -> None:
    scene = make_scene(12)
    cv2.imwrite(str(tmp_path / "table.png"), cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR))
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "without_ros.py"), "table.png", scene.objects[0].name, str(DEMO_MODEL)],
        cwd=tmp_path, capture_output=True, text=True, timeout=4 * LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{scene.objects[0].name}: u=" in done.stdout
    drawn = cv2.imread(str(tmp_path / "answer.png"))
    assert drawn is not None
    assert drawn.shape == scene.image.shape
