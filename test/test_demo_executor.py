"""The executor: it reacts to the result of each step, uses the newest image, and gives up after a limit."""

import asyncio
import itertools
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rclpy
from fakes import ScriptedEngine
from ros_rig import LIMIT, image_message, rig
from sensor_msgs.msg import Image

from robobrain_ros.core.plans.request import PlanVerdict, StepOutcome
from robobrain_ros.core.query import PlanStep, Task
from robobrain_ros.demo.arm import SimulatedArm
from robobrain_ros.demo.executor import Executor, WorldCamera, other_cameras, wait_for_node
from robobrain_ros.demo.robot import World
from robobrain_ros.demo.simulator import Goal, Step
from robobrain_ros.demo.world import make_scene
from robobrain_ros.engine.base import Generation, TextDelta
from robobrain_ros.errors import NotReadyError
from robobrain_ros.evaluation.plans import answer_json
from robobrain_ros.ros.client import TaskClient

NAMES = ("red block", "green bowl", "yellow ball")
PICK, PUT = Step("pick", "red block"), Step("place", "red block", "in", "green bowl")
TASK, GOAL = "put the red block into the green bowl", Goal("in", ("red block",), "green bowl")
PLAN = answer_json(PlanVerdict.PLAN, "", [PICK, PUT])
DONE = answer_json(PlanVerdict.DONE, "Nothing is left to do.", [])


def make_world() -> World:
    """Return a small image of three objects."""
    return World(make_scene(3, (320, 240), names=NAMES).layout, np.random.RandomState(3))


def as_plan(step: Step, order: int = 1) -> PlanStep:
    """Return a step as the service sends it."""
    return PlanStep(order, step.text, "arm", step.skill, step.arguments)


@pytest.fixture(scope="module", autouse=True)
def context() -> Iterator[None]:
    """Initialize the default context, which the executor's node uses as a user's node does."""
    rclpy.init()
    yield
    rclpy.try_shutdown()


class Planner(ScriptedEngine):
    """An engine whose answer depends only on the prompt, because a request may be repeated until a new image arrives."""

    def __init__(self, answer: str) -> None:
        super().__init__([answer])
        self.answer = answer
        self.asked: dict[str, Generation] = {}

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        self.asked[generation.user_text] = generation
        self._next = iter([DONE if f"{PUT.text} succeeded." in generation.user_text else self.answer])
        async for delta in super().generate(generation):
            yield delta


@contextmanager
def executing(
    world: World, answer: str = PLAN, disturbances: tuple[str, ...] = (), **options: Any
) -> Iterator[tuple[Executor, Planner]]:
    """Run an executor with a node whose engine gives this answer until the last step has succeeded. It has an old image."""
    engine = Planner(answer)
    with rig(engine) as it:
        it.until_ready()
        it.show(image_message())
        client = TaskClient("executor", it.client.get_namespace(), tasks=[Task.PLAN])
        camera = WorldCamera(client, world)
        try:
            client.wait_for_task(Task.PLAN, 30.0)
            yield Executor(client, SimulatedArm(world, disturbances), report=lambda line: None, timeout=30.0, **options), engine
        finally:
            camera.close()
            client.destroy_node()


def test_a_task_without_disturbance_needs_one_plan_and_the_last_word() -> None:
    world = make_world()
    with executing(world) as (executor, _):
        ending = executor.run(TASK)
    assert (ending.done, ending.plans) == (True, 2)
    assert world.table.holds(GOAL)
    assert [step.outcome for step in ending.history] == [StepOutcome.SUCCEEDED] * 2


def test_the_executor_waits_while_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reports the progress, and these requests do not count as tries."""
    monkeypatch.setattr("robobrain_ros.demo.executor._MOST_TRIES", 4)
    world, sentences = make_world(), list[str]()
    engine = Planner(PLAN)
    engine.start_gate = asyncio.Event()
    with rig(engine) as it:

        def progress(sentence: str) -> None:
            sentences.append(sentence)
            if len(sentences) == 5 and engine.start_gate is not None:
                it.on_loop(engine.start_gate.set)

        client = TaskClient("executor", it.client.get_namespace(), tasks=[Task.PLAN])
        camera = WorldCamera(client, world)
        try:
            client.wait_for_task(Task.PLAN, 30.0)
            executor = Executor(client, SimulatedArm(world), report=lambda line: None, progress=progress, timeout=30.0)
            ending = executor.run(TASK)
        finally:
            camera.close()
            client.destroy_node()
    assert ending.done
    assert sentences[0].startswith("The model is not ready")


def test_no_plan_is_made_from_an_image_older_than_the_task() -> None:
    world = make_world()
    with executing(world) as (executor, engine):
        executor.run(TASK)
    first, last = (generation.images[0] for generation in engine.asked.values())
    assert first.shape == last.shape


def test_after_a_slip_the_planner_is_told_and_shown_what_happened() -> None:
    world = make_world()
    with executing(world, disturbances=("slip",)) as (executor, engine):
        ending = executor.run(TASK)
    assert (ending.done, ending.plans) == (True, 3)
    assert world.table.holds(GOAL)
    assert [step.outcome for step in ending.history] == [StepOutcome.FAILED, StepOutcome.SUCCEEDED, StepOutcome.SUCCEEDED]
    first, second, last = engine.asked.values()
    assert "What are the steps to complete the task?" in first.user_text
    assert "1. Pick up the red block failed: the red block slipped and lies on the table." in second.user_text
    assert "the rest of the task" in second.user_text
    assert "2. Place the red block in the green bowl succeeded." in last.user_text
    assert "slipped" not in last.user_text, "a failure that was overcome is not part of the request"
    assert not np.array_equal(first.images[0], second.images[0])
    assert not np.array_equal(second.images[0], last.images[0])


def test_it_gives_up_after_so_many_plans() -> None:
    world = make_world()
    with executing(world, answer_json(PlanVerdict.PLAN, "", [PICK]), most_plans=3) as (executor, _):
        ending = executor.run(TASK)
    assert (ending.done, ending.plans) == (False, 3)
    assert "3 plans" in ending.why
    assert not world.table.holds(GOAL)


def test_what_cannot_be_done_ends_at_once() -> None:
    impossible = answer_json(PlanVerdict.IMPOSSIBLE, "There is no red mug on the table.", [])
    with executing(make_world(), impossible) as (executor, _):
        ending = executor.run("pick up the red mug")
    assert (ending.done, ending.plans, ending.history) == (False, 1, ())
    assert "There is no red mug" in ending.why


def test_a_thing_that_was_moved_is_not_where_it_was() -> None:
    arm = SimulatedArm(make_world(), ("moved",))
    assert arm.execute(as_plan(PICK)) == "the red block is not where it was"
    assert arm.describe().holding == ""
    assert arm.execute(as_plan(PICK)) == ""
    assert arm.describe().holding == "red block"


def test_what_is_taken_out_again_is_seen_by_the_camera_only() -> None:
    world = make_world()
    arm = SimulatedArm(world, ("taken",))
    assert [arm.execute(as_plan(step)) for step in (PICK, PUT)] == ["", ""]
    assert not world.table.holds(GOAL)


@pytest.mark.parametrize("step", [PlanStep(1, "Sing"), PlanStep(1, "Fly", "arm", "fly", "{}"), as_plan(PUT)])
def test_what_the_arm_cannot_do_is_observed(step: PlanStep) -> None:
    assert SimulatedArm(make_world()).execute(step)


def test_another_publisher_of_the_cameras_images_is_found() -> None:
    client = TaskClient("lonely_executor", "/two_cameras", tasks=[])
    camera = WorldCamera(client, make_world())
    assert other_cameras(client, "camera") == []
    other = rclpy.create_node("driver", namespace="/two_cameras")
    other.create_publisher(Image, "camera/image", 1)
    assert other_cameras(client, "camera") == ["/two_cameras/driver"]
    other.destroy_node()
    camera.close()
    client.destroy_node()


def test_a_camera_that_starts_during_the_task_ends_it() -> None:
    world, checks = make_world(), itertools.count(1)

    def end_after_the_first_plan() -> None:
        if next(checks) == 2:
            raise SystemExit("Another node publishes the images.")

    with executing(world, check=end_after_the_first_plan) as (executor, engine), pytest.raises(SystemExit):
        executor.run(TASK)
    assert len(engine.asked) == 1
    assert not world.table.holds(GOAL)


@pytest.mark.parametrize(("rounds", "name"), [(3, "/robot/driver"), (10**9, "an unknown node")])
def test_the_name_of_another_publisher_is_awaited(monkeypatch: pytest.MonkeyPatch, rounds: int, name: str) -> None:
    """DDS announces the publisher before its node: the name is unknown at first."""
    client = TaskClient("patient_executor", "/late_name", tasks=[])
    asked = itertools.count()

    def publishers(topic: str) -> list[SimpleNamespace]:
        known = next(asked) >= rounds
        other = ("driver", "/robot") if known else ("_NODE_NAME_UNKNOWN_", "_NODE_NAMESPACE_UNKNOWN_")
        own = (client.get_name(), client.get_namespace())
        return [SimpleNamespace(node_name=node, node_namespace=namespace) for node, namespace in (own, other)]

    monkeypatch.setattr(client, "get_publishers_info_by_topic", publishers)
    assert other_cameras(client, "camera") == [name]
    client.destroy_node()


def test_a_node_of_another_name_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    """The executor waits for the node robobrain without a namespace. The running node has a namespace."""
    with rig(ScriptedEngine(["[]"])) as it:
        it.until_ready()
        client = TaskClient("lost_executor", robobrain="/nowhere/robobrain", tasks=[Task.PLAN])
        client.spin_until(client.running_nodes, LIMIT)
        with pytest.raises(NotReadyError) as ended:
            wait_for_node(client, 0.5)
        client.destroy_node()
    assert it.name in ended.value.message
    assert "Choose one with --robobrain." in ended.value.message
    assert it.name in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seed", "-1", "--timeout", "0.1"], "The node did not appear within 0.1 s."),
        (["--robobrain", "a b"], "--robobrain 'a b' or --camera 'camera' is not a valid name."),
        (["--timeout", "nan"], "--timeout must be above 0"),
    ],
)
def test_a_wrong_option_of_the_program_is_one_sentence(arguments: list[str], words: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "robobrain_ros.demo.executor", TASK, *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert ended.returncode in (1, 2)
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
