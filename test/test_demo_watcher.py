"""The executor notices faults of the arm through ~/watch_task, without the simulator's truth, and plans again."""

import itertools
import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from fakes import ScriptedEngine
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import MultiThreadedExecutor
from ros_rig import LIMIT, image_message, rig

from robobrain_ros.action import WatchTask
from robobrain_ros.core.plans.request import PlanVerdict, StepOutcome
from robobrain_ros.core.query import PlanStep, RgbImage, Task
from robobrain_ros.demo import watcher as watcher_module
from robobrain_ros.demo.executor import Executor, TaskResult, WorldCamera
from robobrain_ros.demo.robot import World
from robobrain_ros.demo.simulator import Goal, Step
from robobrain_ros.demo.staged_arm import StagedArm
from robobrain_ros.demo.watched_arm import WatchedArm
from robobrain_ros.demo.watcher import TaskWatcher
from robobrain_ros.demo.world import make_scene
from robobrain_ros.engine.base import Generation, TextDelta
from robobrain_ros.errors import EngineFailedError, NotReadyError, OutcomeCode, RequestTimeoutError, RoboBrainError
from robobrain_ros.evaluation.plans import answer_json
from robobrain_ros.evaluation.rollouts import true_score
from robobrain_ros.ros import client as client_module
from robobrain_ros.ros.client import TaskClient

NAMES = ("red block", "green bowl", "yellow ball")
PICK, PUT = Step("pick", "red block"), Step("place", "red block", "in", "green bowl")
TASK, GOAL = "put the red block into the green bowl", Goal("in", ("red block",), "green bowl")
SIGMA = 5.0
"""Standard deviation of the errors of the scores, in percent."""


@pytest.fixture(scope="module", autouse=True)
def context() -> Iterator[None]:
    """Initialize the default context, which the executor's node uses."""
    rclpy.init()
    yield
    rclpy.try_shutdown()


def small(image: RgbImage) -> np.ndarray:
    return cv2.resize(image, (40, 30), interpolation=cv2.INTER_AREA).astype(float)


_numbers = itertools.count()


@dataclass
class OtherNode:
    """A server of watch_task that is not the node: it reports any progress, and accepts a goal when it is permitted."""

    progress: float = 0.5
    silent: bool = False
    permitted: Event = field(default_factory=Event)
    canceled: Event = field(default_factory=Event)
    leaving: Event = field(default_factory=Event)
    ended: Event = field(default_factory=Event)
    name: str = field(default_factory=lambda: f"other_{next(_numbers)}")

    def accept(self, request: Any) -> GoalResponse:
        self.permitted.wait(LIMIT)
        return GoalResponse.ACCEPT

    def cancel(self, handle: Any) -> CancelResponse:
        self.canceled.set()
        return CancelResponse.ACCEPT

    def execute(self, handle: Any) -> WatchTask.Result:
        feedback = WatchTask.Feedback()
        feedback.progress.progress = self.progress
        while not (self.canceled.wait(0.05) or self.leaving.is_set()):
            feedback.progress.header.stamp = self.node.get_clock().now().to_msg()
            if not self.silent:
                handle.publish_feedback(feedback)
        handle.abort()
        self.ended.set()
        return WatchTask.Result()

    @contextmanager
    def running(self) -> Iterator[None]:
        self.node = rclpy.create_node(self.name)
        server = ActionServer(
            self.node,
            WatchTask,
            f"{self.name}/watch_task",
            self.execute,
            goal_callback=self.accept,
            cancel_callback=self.cancel,
            callback_group=ReentrantCallbackGroup(),
        )
        executor = MultiThreadedExecutor(4)
        executor.add_node(self.node)
        thread = Thread(target=executor.spin, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.leaving.set()
            self.permitted.set()
            executor.shutdown(LIMIT)
            thread.join(LIMIT)
            server.destroy()
            self.node.destroy_node()


@contextmanager
def watching(other: OtherNode, timeout: float) -> Iterator[tuple[TaskClient, TaskWatcher]]:
    client = TaskClient(f"watcher_of_{other.name}", tasks=[])
    try:
        yield client, TaskWatcher(client, robobrain=other.name, timeout=timeout)
    finally:
        client.destroy_node()


@pytest.mark.parametrize("progress", [math.nan, -1.0, 1.5])
def test_a_progress_that_is_unknown_is_an_error(progress: float) -> None:
    other = OtherNode(progress)
    other.permitted.set()
    with other.running(), watching(other, LIMIT) as (_, watcher):
        watcher.begin("step", np.zeros((28, 28, 3), np.uint8))
        with pytest.raises(EngineFailedError, match="must be 0 to 1"):
            watcher.progress()
        watcher.end()


def test_a_goal_that_is_accepted_too_late_is_canceled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher_module, "CLIENT_GRACE", 0.1)
    other = OtherNode()
    with other.running(), watching(other, 0.1) as (client, watcher):
        client.spin_until(watcher._action.server_is_ready, LIMIT)
        with pytest.raises(RequestTimeoutError):
            watcher.begin("step", np.zeros((28, 28, 3), np.uint8))
        other.permitted.set()
        assert client.spin_until(other.canceled.is_set, LIMIT)
        assert client.spin_until(other.ended.is_set, LIMIT)


def test_a_node_that_ends_during_a_step_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_GONE", 0.1)
    other = OtherNode(silent=True)
    other.permitted.set()
    with other.running(), watching(other, LIMIT) as (_, watcher):
        watcher.begin("step", np.zeros((28, 28, 3), np.uint8))
        monkeypatch.setattr(watcher._action, "server_is_ready", lambda: False)
        with pytest.raises(NotReadyError, match="disappeared"):
            watcher.progress()


class SeenArm(StagedArm):
    """An arm that remembers the true progress for each image that its camera may take while the arm waits."""

    seen: list[tuple[np.ndarray, float]]

    def begin(self, step: PlanStep) -> str:
        self.seen = []
        return super().begin(step)

    def refresh(self) -> None:
        super().refresh()
        self.seen.append((small(self.world.render().image), self.progress))

    def progress_in(self, image: RgbImage) -> float:
        """Return the true progress that an image shows: that of the most similar one."""
        return min(self.seen, key=lambda seen: np.abs(seen[0] - small(image)).mean())[1] if self.seen else 0.0


class Engine(ScriptedEngine):
    """Plans from the history in the prompt, and scores comparisons with errors."""

    def __init__(self, arm: SeenArm) -> None:
        super().__init__([""])
        self._arm, self._rng = arm, np.random.RandomState(0)
        self.plans: list[str] = []
        self.comparisons = 0
        self.fault: Exception | None = None

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        if "REFERENCE START" in generation.user_text:
            self.comparisons += 1
            if self.fault is not None:
                raise self.fault
            text = self._score(generation)
        else:
            self.plans.append(generation.user_text)
            text = self._plan(generation.user_text)
        yield TextDelta(text, 5, prompt_tokens=900, finish_reason="stop")

    def _score(self, generation: Generation) -> str:
        start, end, before, after = (generation.images[place] for place in (0, 1, 2, 5))
        known = 0.0 if np.array_equal(before, start) else 1.0 if np.array_equal(before, end) else self._arm.progress_in(before)
        score = true_score(known, self._arm.progress_in(after)) + self._rng.normal(0.0, SIGMA)
        return f"<score>{round(min(max(score, -100.0), 100.0) / 5) * 5:+d}%</score>".replace("+0%", "0%")

    @staticmethod
    def _plan(prompt: str) -> str:
        if f"{PUT.text} succeeded" in prompt:
            return answer_json(PlanVerdict.DONE, "", [])
        return answer_json(PlanVerdict.PLAN, "", [PUT] if "holds the red block" in prompt else [PICK, PUT])


@dataclass
class Run:
    """An executed task."""

    ending: TaskResult
    engine: Engine
    world: World
    arm: SeenArm
    lines: list[str]


def run_task(*disturbances: str, seed: int = 0, calm: int = 0, fault: Exception | None = None) -> Run:
    """Execute the task with a node whose engine knows the true progress only from the images."""
    world = World(make_scene(3, (320, 240), names=NAMES).layout, np.random.RandomState(3))
    arm = SeenArm(world, disturbances, seed, calm)
    engine = Engine(arm)
    engine.fault = fault
    lines: list[str] = []
    with rig(engine) as it:
        it.until_ready()
        it.show(image_message())
        client = TaskClient("watching_executor", it.client.get_namespace(), tasks=[Task.PLAN])
        camera = WorldCamera(client, world)
        try:
            client.wait_for_task(Task.PLAN, LIMIT)
            watched = WatchedArm(arm, TaskWatcher(client, timeout=LIMIT, rate=20.0), report=lines.append)
            ending = Executor(client, watched, report=lines.append, timeout=LIMIT).run(TASK)
        finally:
            camera.close()
            client.destroy_node()
        it.until(lambda: it.node._endpoints.busy == 0, "the end of all watches")
    return Run(ending, engine, world, arm, lines)


@pytest.mark.parametrize(
    ("disturbance", "seed", "calm", "word"),
    [
        ("slip", 1, 0, "regressed"),
        pytest.param("moved", 0, 0, "stalled", marks=pytest.mark.thorough),
        pytest.param("stopped", 0, 1, "stalled", marks=pytest.mark.thorough),
    ],
)
def test_a_disturbance_is_seen_in_the_images_and_leads_to_a_new_plan(disturbance: str, seed: int, calm: int, word: str) -> None:
    run = run_task(disturbance, seed=seed, calm=calm)
    assert run.arm.happened == 1
    assert (run.ending.done, run.ending.plans) == (True, 3)
    assert run.world.table.holds(GOAL)
    outcomes = [step.outcome for step in run.ending.history]
    assert outcomes.count(StepOutcome.FAILED) == 1
    assert outcomes.index(StepOutcome.FAILED) == calm
    assert sum(f": {word}, because the progress" in line for line in run.lines) == 1
    assert f"failed: {run.ending.history[calm].observation}." in run.engine.plans[1]
    assert run.engine.comparisons >= 4


def test_a_task_without_a_disturbance_has_no_false_alarm() -> None:
    run = run_task()
    assert (run.ending.done, run.ending.plans) == (True, 2)
    assert run.world.table.holds(GOAL)
    assert sum("succeeded, because" in line for line in run.lines) == 2


def test_an_engine_that_cannot_compare_ends_the_task() -> None:
    with pytest.raises(RoboBrainError, match="out of order") as ended:
        run_task(fault=EngineFailedError("The engine is out of order."))
    assert ended.value.code is OutcomeCode.ENGINE_FAILED
