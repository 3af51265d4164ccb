"""One disturbed task in a closed loop: plan, execute, check each step, and plan again after a failure. Without ROS."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from robobrain_ros.core.plans.request import DoneStep, PlanMode, PlanRequest, PlanVerdict, StepOutcome, relevant_history
from robobrain_ros.core.progress import Perspective, ProgressTracker, comparison
from robobrain_ros.core.query import PlanStep, Query, RgbImage, Task
from robobrain_ros.core.step_watch import StepLimits, StepWatch
from robobrain_ros.demo.layout import Layout
from robobrain_ros.demo.robot import MOST_PLANS, MOST_STEPS, World, known
from robobrain_ros.demo.simulator import Goal, Step
from robobrain_ros.demo.staged_arm import StagedArm
from robobrain_ros.demo.watched_arm import observation, watch_movements
from robobrain_ros.demo.world import make_scene, render_layout
from robobrain_ros.errors import InfeasiblePlanError, RoboBrainError, UnparsableAnswerError
from robobrain_ros.evaluation.exam import Answers
from robobrain_ros.evaluation.plans import remaining, task_about
from robobrain_ros.evaluation.simulated_scores import SimulatedScores

_MOST_FAILURES = 5
"""Successive estimates without a score after which a task ends."""
_TIMEOUT = 300.0
"""Seconds for an answer."""


@dataclass(frozen=True)
class LoopResult:
    """The result of a task.

    :param disturbance: the planned fault; empty: none.
    :param happened: whether the fault happened.
    :param reached: whether the goal is reached, in the simulator.
    :param claimed: whether the planner reported that the task is done.
    :param plans: number of plan requests.
    :param good: executed steps that worked, and ``false_alarms`` those of them that counted as failed.
    :param bad: executed steps that did not work, and ``noticed`` those of them that counted as failed.
    :param rejected: steps that the arm rejected.
    :param estimates: number of estimates of the progress.
    """

    seed: int
    task: str
    disturbance: str
    happened: bool
    reached: bool
    claimed: bool
    why: str
    plans: int
    good: int
    false_alarms: int
    bad: int
    noticed: int
    rejected: int
    estimates: int


class Planner(Protocol):
    """Plans the rest of a task."""

    async def plan(self, task: str, world: World, image_id: str, request: PlanRequest) -> tuple[PlanVerdict, Sequence[PlanStep]]:
        """Return the verdict and the steps.

        :param request: it contains all executed steps.
        :raises RoboBrainError: there is no plan.
        """
        ...


class ModelPlanner:
    """Plans with a model, from the image and the history."""

    def __init__(self, brain: Answers) -> None:
        self._brain = brain

    async def plan(self, task: str, world: World, image_id: str, request: PlanRequest) -> tuple[PlanVerdict, Sequence[PlanStep]]:
        """See `Planner`."""
        image = (await asyncio.to_thread(world.render)).image
        request = replace(request, done=relevant_history(request.done))
        answer = await self._brain.run(Query(Task.PLAN, task, [image], [image_id], plan=request, think=False, timeout=_TIMEOUT))
        return answer.verdict, answer.steps


class TrustingPlanner:
    """Plans without errors, but assumes that all steps worked that did not count as failed. After a failure, it knows the table.

    If the monitor misses a failed step, the task therefore ends without its goal.
    """

    def __init__(self, world: World, goal: Goal) -> None:
        self._world, self._goal = world, goal
        self._table, self._seen = world.table.copy(), 0

    async def plan(self, task: str, world: World, image_id: str, request: PlanRequest) -> tuple[PlanVerdict, Sequence[PlanStep]]:
        """See `Planner`."""
        for step in request.done[self._seen :]:
            if step.outcome is StepOutcome.SUCCEEDED:
                self._table.do(Step.read(step.skill, step.arguments))
            else:
                self._table = self._world.table.copy()
        self._seen = len(request.done)
        steps = remaining(self._table, self._goal)
        made = [PlanStep(order, step.text, "arm", step.skill, step.arguments) for order, step in enumerate(steps, start=1)]
        return (PlanVerdict.PLAN if made else PlanVerdict.DONE), made


class Monitor(Protocol):
    """Executes a step that has begun, and decides whether it worked."""

    estimates: int

    async def execute(self, arm: StagedArm, step: PlanStep) -> str:
        """Return the observation if the step counts as failed, otherwise an empty string."""
        ...


class NoMonitor:
    """No step fails."""

    estimates = 0

    async def execute(self, arm: StagedArm, step: PlanStep) -> str:
        """See `Monitor`."""
        for _ in arm.movements():
            pass
        return ""


class SimulatorMonitor:
    """The simulator's truth decides at the end of the step."""

    estimates = 0

    async def execute(self, arm: StagedArm, step: PlanStep) -> str:
        """See `Monitor`."""
        for _ in arm.movements():
            pass
        if arm.fault:
            arm.retreat()
        return known(arm.fault, Step.read(step.skill, step.arguments).object)


class VisionMonitor:
    """Estimates of the progress from images decide, as `core.step_watch` describes it.

    :param brain: answers comparisons.
    :param name: unique name of the task for its images.
    """

    def __init__(self, brain: Answers, name: str, limits: StepLimits, rng: random.Random) -> None:
        self._brain, self._name, self._limits, self._rng = brain, name, limits, rng
        self._images = 0
        self.estimates = 0

    async def execute(self, arm: StagedArm, step: PlanStep) -> str:
        """See `Monitor`."""
        start = await self._render(arm.world.layout, 0.0, "")
        comparisons = _Comparisons(self._brain, step.text, start, await self._render(arm.goal(), 1.0, ""))
        moving = watch_movements(arm, self._limits)
        next(moving)
        moment = self._images
        watch: StepWatch | None = None
        while watch is None:
            image = await self._render(arm.world.layout, arm.progress, f"{self._name} moment {moment}")
            progress = await comparisons.estimate(image)
            self.estimates += 1
            before = arm.world.layout
            try:
                moving.send(progress)
            except StopIteration as ended:
                watch = ended.value
            if arm.world.layout is not before:
                moment = self._images
        return observation(step, watch)

    async def _render(self, layout: Layout, progress: float, moment: str) -> tuple[RgbImage, str]:
        """Return a camera image with new noise, and its name."""
        self._images += 1
        image_id = f"{self._name} image {self._images}"
        if isinstance(self._brain, SimulatedScores):
            self._brain.add(image_id, progress, moment)
            return _BLANK, image_id
        noisy = replace(layout, noise_seed=self._rng.randrange(2**31 - 1))
        return (await asyncio.to_thread(render_layout, noisy))[0].image, image_id


_BLANK: RgbImage = np.zeros((8, 8, 3), np.uint8)


class _Comparisons:
    """Estimates the progress of one step."""

    def __init__(self, brain: Answers, step: str, start: tuple[RgbImage, str], end: tuple[RgbImage, str]) -> None:
        self._brain, self._step, self._start, self._end, self._previous = brain, step, start, end, start
        self._tracker = ProgressTracker()

    async def estimate(self, image: tuple[RgbImage, str]) -> float:
        """Compare an image with the previous one, the start and the end. Return the progress, 0 to 1."""
        befores = {Perspective.FORWARD: self._start, Perspective.BACKWARD: self._end}
        if self._previous is not self._start:
            befores[Perspective.INCREMENTAL] = self._previous
        for attempt in range(1, _MOST_FAILURES + 1):
            found = await asyncio.gather(*(self._score(before, image) for before in befores.values()), return_exceptions=True)
            scores = {kind: score for kind, score in zip(befores, found, strict=True) if isinstance(score, int)}
            other = next((error for error in found if isinstance(error, BaseException)), None)
            if other is not None and not isinstance(other, UnparsableAnswerError):
                raise other
            if scores or attempt == _MOST_FAILURES:
                break
        if not scores and other is not None:
            raise other
        if self._previous is self._start and Perspective.FORWARD in scores:
            scores[Perspective.INCREMENTAL] = scores[Perspective.FORWARD]
        self._previous = image
        return self._tracker.update(scores).progress

    async def _score(self, before: tuple[RgbImage, str], after: tuple[RgbImage, str]) -> int:
        images = comparison(self._start, self._end, [before], [after])
        shown, ids = [image for image, _ in images], [image_id for _, image_id in images]
        answer = await self._brain.run(Query(Task.PROGRESS, self._step, shown, ids, timeout=_TIMEOUT))
        assert answer.score is not None, "a comparison has a score"
        return answer.score


@dataclass
class _Counts:
    good: int = 0
    false_alarms: int = 0
    bad: int = 0
    noticed: int = 0
    rejected: int = 0


@dataclass
class LoopTask:
    """A task on its own table.

    :param disturbance: the fault that disturbs it, one of `demo.arm.DISTURBANCES`, or an empty string.
    """

    seed: int
    disturbance: str
    size: tuple[int, int]
    most_plans: int = MOST_PLANS
    counts: _Counts = field(default_factory=_Counts)

    def __post_init__(self) -> None:
        rng = random.Random(f"closed loop {self.seed}")
        scene = make_scene(self.seed, self.size)
        asked = task_about(scene, rng)
        assert asked.goal is not None, "the task is possible"
        self.text, self.goal = asked.text, asked.goal
        self.world = World(scene.layout, np.random.RandomState(rng.randrange(2**32)))
        picks = max(len(remaining(self.world.table, self.goal)) // 2, 1)
        calm = 2 * rng.randrange(picks) + (rng.randrange(2) if self.disturbance == "slip" and self.goal.relation != "held" else 0)
        self.arm = StagedArm(self.world, [self.disturbance] if self.disturbance else [], self.seed, calm)

    async def run(self, planner: Planner, monitor: Monitor) -> LoopResult:
        """Run the task until the planner reports that it is done, or the limit of plans is reached."""
        history: list[DoneStep] = []
        feedback, why, claimed, number = "", f"not done after {self.most_plans} plans", False, 0
        for number in range(1, self.most_plans + 1):
            mode = PlanMode.REPLAN if history else PlanMode.NEW
            request = PlanRequest((self.arm.describe(),), (), tuple(history), feedback, MOST_STEPS, mode)
            try:
                verdict, steps = await planner.plan(self.text, self.world, f"closed loop {self.seed} plan {number}", request)
            except InfeasiblePlanError as error:
                feedback = error.message
                continue
            except RoboBrainError as error:
                why = f"{error.code.name}: {error.message}"
                break
            if verdict is not PlanVerdict.PLAN:
                claimed = verdict is PlanVerdict.DONE
                why = verdict.value
                break
            feedback = ""
            await self._follow(steps, history, monitor)
        reached = self.world.table.holds(self.goal)
        counts = vars(self.counts)
        return LoopResult(
            self.seed,
            self.text,
            self.disturbance,
            self.arm.happened > 0,
            reached,
            claimed,
            why,
            number,
            **counts,
            estimates=monitor.estimates,
        )

    async def _follow(self, steps: Sequence[PlanStep], history: list[DoneStep], monitor: Monitor) -> None:
        for step in steps:
            seen = self.arm.begin(step)
            if seen:
                self.counts.rejected += 1
            else:
                seen = await monitor.execute(self.arm, step)
                self._count(bool(seen))
            outcome = StepOutcome.FAILED if seen else StepOutcome.SUCCEEDED
            history.append(DoneStep(step.text, step.robot, step.skill, step.arguments, outcome, seen))
            if seen:
                return

    def _count(self, failed: bool) -> None:
        if self.arm.fault:
            self.counts.bad += 1
            self.counts.noticed += failed
        else:
            self.counts.good += 1
            self.counts.false_alarms += failed
