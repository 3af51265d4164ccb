"""examples/fetch_object.py: a tree with Nav2 and MoveIt. Their messages are stand-ins, and their servers record goals."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from depth_rig import looking, points_text
from rclpy.action import ActionServer
from ros_rig import LIMIT, Rig
from test_examples import example

from robobrain_ros.action import RunTask
from robobrain_ros.demo.world import make_scene

pytest.importorskip("py_trees", reason="py_trees is not installed: pip install py_trees")

STAND_IN = Path(__file__).resolve().parent / "stand_in_motion"
SCENE = make_scene(7)
THING = SCENE.objects[0]
ANSWERS = ("Yes, it is.", *[points_text(SCENE.objects[:1])] * 2)


@contextmanager
def servers(it: Rig, *failing: str) -> Iterator[list[Any]]:
    """Run the action servers of Nav2 and MoveIt, and yield the goals that they receive. The failing ones abort their goals."""
    goals: list[Any] = []

    def execute(handle: Any) -> RunTask.Result:
        goals.append(json.loads(handle.request.instruction))
        getattr(handle, "abort" if handle.request.task in failing else "succeed")()
        return RunTask.Result()

    namespace = it.client.get_namespace()
    names = ("navigate_to_pose", "move_action")
    running = [ActionServer(it.client, RunTask, f"{namespace}/{name}", execute_callback=execute) for name in names]
    try:
        yield goals
    finally:
        for server in running:
            server.destroy()


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STAND_IN), os.environ.get("PYTHONPATH", "")]))


@contextmanager
def seeing(*answers: str) -> Iterator[Rig]:
    """Run a node with a depth camera, whose engine gives these answers."""
    with looking(SCENE, *answers) as before:
        before.info()
        before.depth()
        before.image()
        yield before.it


def run(it: Rig) -> tuple[int, str]:
    """Run the example, and return its exit code and output."""
    with example(it, "fetch_object.py", THING.name) as process:
        it.until(lambda: process.poll() is not None, "the end of the example")
        assert process.stdout is not None
        return process.returncode, process.stdout.read()


@pytest.mark.timeout(3 * LIMIT)
def test_the_robot_drives_to_the_object_and_reaches_for_it() -> None:
    with seeing(*ANSWERS) as it, servers(it) as goals:
        code, output = run(it)
    assert code == 0, output
    drive, reach = goals
    position = drive["pose"]["pose"]["position"]
    (constraints,) = reach["request"]["goal_constraints"]
    target = constraints["position_constraints"][0]["constraint_region"]["primitive_poses"][0]["position"]
    assert 0.1 < target["z"] < 3.0
    assert math.hypot(position["x"], position["y"]) == pytest.approx(max(math.hypot(target["x"], target["y"]) - 0.7, 0.0))
    assert drive["pose"]["header"]["frame_id"] == "camera_optical"
    assert reach["request"]["group_name"] == "arm"


@pytest.mark.timeout(3 * LIMIT)
def test_a_failed_motion_and_a_missing_object_end_the_tree_with_the_reason() -> None:
    with seeing(*ANSWERS) as it, servers(it, "navigate") as goals:
        code, output = run(it)
        assert code == 1
        assert "drive: The goal was aborted" in output
        assert max(map(len, output.splitlines())) < 300
        assert len(goals) == 1
    with seeing("No.") as it, servers(it) as goals:
        code, output = run(it)
        assert code == 1
        assert "visible: The answer is no." in output
        assert goals == []
