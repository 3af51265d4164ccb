"""Rollouts: the arm of the tabletop world executes a task in small movements, with and without failures. Each frame has its true
progress.

The true progress depends on the shortest plan for the rest of the task, see `plans.remaining`. It is the share of the plan's
steps that are done. Within a step, it grows with the movement (`demo.motion`). If an object slips, or a person takes it away, its
steps are no longer done, and the progress decreases.
"""

import copy
import random
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np

from robobrain_ros.core.query import RgbImage, Task
from robobrain_ros.demo.layout import Layout
from robobrain_ros.demo.motion import GRASPED, LOWERED, MovingArm
from robobrain_ros.demo.robot import World
from robobrain_ros.demo.simulator import Goal, Step
from robobrain_ros.demo.world import Scene, make_scene, render_layout
from robobrain_ros.evaluation.plans import remaining
from robobrain_ros.evaluation.questions import ask_about

MOST_FRAMES = 64
"""No step of the arm begins after this number of frames. The longest plan has ten steps of three movements. The steps of a
short plan have up to seven."""


class Disturbance(str, Enum):
    """What disturbs a rollout.

    SLIP: the held object falls. MOVED: a person moves the object before the arm grasps it. TAKEN: a person takes an object from
    the place where the arm put it. UNDONE: the arm itself takes it away again. STOPPED: the arm stops and does not go on.
    """

    SLIP = "slip"
    MOVED = "moved"
    TAKEN = "taken"
    UNDONE = "undone"
    STOPPED = "stopped"


SHARES: dict[Disturbance | None, float] = {
    None: 0.4,
    Disturbance.SLIP: 0.28,
    Disturbance.MOVED: 0.08,
    Disturbance.TAKEN: 0.08,
    Disturbance.UNDONE: 0.08,
    Disturbance.STOPPED: 0.08,
}
"""Shares of the disturbances among random rollouts. A disturbance that the task does not permit does not happen."""
_CHANCE = 0.35
"""Probability of the disturbance at each frame that permits it."""
_SHARE_OF_STEPS = 0.25
"""Share of the tasks that consist of one step of the arm, such as "Pick up the red ball"."""
_SHARE_OF_ENDS = 0.5
"""Share of the rollouts that end soon after the disturbance. In the others, the arm tries again."""


@dataclass(frozen=True)
class Frame:
    """One moment of a rollout.

    :param progress: the true progress, 0 to 1.
    :param object: name of the object that the arm handles, or handles next; at the end, the last one.
    :param disturbance: a disturbance that this frame shows for the first time.
    """

    layout: Layout
    progress: float
    object: str
    disturbance: Disturbance | None = None

    def scene(self) -> Scene:
        """Render the frame with its ground truth."""
        return render_layout(self.layout)[0]

    def image(self) -> RgbImage:
        """Render the frame: RGB, (height, width, 3), uint8."""
        return self.scene().image


@dataclass(frozen=True)
class Rollout:
    """The execution of a task.

    :param task: the task as text.
    :param goal: the goal of the task.
    :param frames: at least two. The first one shows the start of the task.
    :param end: the table after the task, as the shortest plan leaves it, whether this rollout succeeds or not.
    """

    task: str
    goal: Goal
    frames: tuple[Frame, ...]
    end: Layout

    @property
    def succeeded(self) -> bool:
        """Whether the last frame shows the completed task."""
        return self.frames[-1].progress == 1.0

    def first(self, disturbance: Disturbance) -> int | None:
        """Return the index of the first frame with this disturbance; None: it does not occur."""
        return next((index for index, frame in enumerate(self.frames) if frame.disturbance is disturbance), None)


def make_rollout(seed: int, size: tuple[int, int] = (640, 480), disturbance: Disturbance | str | None = "random") -> Rollout:
    """Return the rollout of a seed. The same arguments give the same rollout.

    :param size: (width, height) of the images in pixels.
    :param disturbance: None: none; "random": one with the frequencies of `SHARES`.
    """
    rng = random.Random(f"rollout {seed}")
    scene = make_scene(seed, size)
    if isinstance(disturbance, str) and not isinstance(disturbance, Disturbance):
        disturbance = rng.choices(list(SHARES), weights=list(SHARES.values()))[0]
    world = World(scene.layout, np.random.RandomState(rng.randrange(2**32)))
    arm = MovingArm(world)
    task, goal = _single_step(scene, world, rng) if rng.random() < _SHARE_OF_STEPS else _task(scene, rng)
    goal = replace(goal, things=tuple(sorted(goal.things, key=world.across)))
    recorder = _Recorder(arm, goal, rng, disturbance)
    end = recorder.end()
    recorder.run()
    return Rollout(task, goal, tuple(recorder.frames), end)


def _task(scene: Scene, rng: random.Random) -> tuple[str, Goal]:
    while True:
        asked = ask_about(scene, "plan", rng)
        if asked.task is Task.PLAN and asked.goal is not None:
            return asked.text, asked.goal


def _single_step(scene: Scene, world: World, rng: random.Random) -> tuple[str, Goal]:
    """Return a step of the arm as a task. Before a place step, the gripper holds the object."""
    _, goal = _task(scene, rng)
    thing = goal.things[0]
    if goal.relation == "held" or rng.random() < 0.5:
        return Step("pick", thing).text, Goal("held", (thing,))
    world.execute(Step("pick", thing))
    return Step("place", thing, goal.relation, goal.place).text, replace(goal, things=(thing,))


@dataclass
class _Recorder:
    """Executes a task and records its frames."""

    arm: MovingArm
    goal: Goal
    rng: random.Random
    planned: Disturbance | None
    """The disturbance that has not happened yet."""
    frames: list[Frame] = field(default_factory=list)

    def __post_init__(self) -> None:
        steps = remaining(self.arm.world.table, self.goal)
        self._total, self._object = len(steps), steps[0].object
        self._paths = 3 if self._total <= 2 else 2 if self._total <= 4 else 1

    def end(self) -> Layout:
        """Return the table after the shortest plan. The rollout itself does not change."""
        world = copy.deepcopy(self.arm.world)
        for step in remaining(world.table, self.goal):
            world.execute(step)
        return self._noisy(world.layout)

    def run(self) -> None:
        """Record all frames."""
        self._add(self._progress())
        while (steps := remaining(self.arm.world.table, self.goal)) and len(self.frames) < MOST_FRAMES:
            if not self._follow(steps[0], len(steps)):
                self._rest()
                return
        self._rest()

    def _follow(self, step: Step, left: int) -> bool:
        """Execute a step. Return whether the arm goes on afterwards."""
        for share in self.arm.execute(step, self._shares()):
            self._add(self._progress(left - share))
            if self._happens(step, share):
                return self._disturb(step)
        if (
            self.planned in (Disturbance.TAKEN, Disturbance.UNDONE)
            and step.relation in ("in", "on")
            and self.rng.random() < 2 * _CHANCE
        ):
            return self._undo(step)
        return True

    def _happens(self, step: Step, share: float) -> bool:
        """Return whether the planned disturbance happens in this moment of a step."""
        held = bool(self.arm.world.table.held)
        possible = {
            Disturbance.SLIP: held and (share >= GRASPED if step.skill == "pick" else share < LOWERED),
            Disturbance.MOVED: step.skill == "pick" and not held,
            Disturbance.STOPPED: share < 1.0,
        }
        return self.planned is not None and possible.get(self.planned, False) and self.rng.random() < _CHANCE

    def _disturb(self, step: Step) -> bool:
        disturbance, self.planned = self.planned, None
        if disturbance is Disturbance.STOPPED:
            self._add(self.frames[-1].progress, disturbance)
            return False
        if disturbance is Disturbance.SLIP:
            self.arm.slip()
        else:
            self.arm.lay_aside(step.object)
        self._add(self._progress(), disturbance)
        return self._go_on()

    def _undo(self, step: Step) -> bool:
        """Take an object away from its place."""
        disturbance, self.planned = self.planned, None
        if disturbance is Disturbance.TAKEN:
            self.arm.lay_aside(step.object)
            self._add(self._progress(), disturbance)
            return self._go_on()
        progress = self._progress()
        for done, back in enumerate((Step("pick", step.object), Step("place", step.object, "beside", step.place))):
            for _ in self.arm.execute(back, self._shares()):
                before, progress = progress, self._progress()
                self._add(progress, disturbance if not done and progress < before else None)
        return self._go_on()

    def _go_on(self) -> bool:
        for _ in self.arm.retreat(self._shares()[-2:]):
            self._add(self._progress())
        return self.rng.random() >= _SHARE_OF_ENDS

    def _rest(self) -> None:
        """The arm does not move any more."""
        for _ in range(self.rng.randint(1, 2)):
            self._add(self.frames[-1].progress)

    def _progress(self, left: float | None = None) -> float:
        """Return the progress. ``left``: number of steps that remain; None: those of the table."""
        if left is None:
            left = len(remaining(self.arm.world.table, self.goal))
        return min(max(1.0 - left / self._total, 0.0), 1.0)

    def _add(self, progress: float, disturbance: Disturbance | None = None) -> None:
        steps = remaining(self.arm.world.table, self.goal)
        if steps and progress < 1.0:
            self._object = steps[0].object
        self.frames.append(Frame(self._noisy(self.arm.world.layout), progress, self._object, disturbance))

    def _noisy(self, layout: Layout) -> Layout:
        """Return the layout with another noise of the sensor, because no two images of a camera have the same."""
        return replace(layout, noise_seed=self.rng.randrange(2**31 - 1))

    def _shares(self) -> list[float]:
        """Return the ends of the movements on a path."""
        number = self._paths
        inner = [(index + self.rng.uniform(-0.3, 0.3)) / number for index in range(1, number)]
        return [*inner, 1.0]


def true_score(before: float, after: float) -> int:
    """Return the true score of a comparison of two moments, from their true progress: whole percent, -100 to 100.

    An improvement is relative to the rest of the way, and a regression is relative to the way so far.
    """
    way = 1.0 - before if after >= before else before
    return round(100.0 * (after - before) / way) if way > 0.0 else 0
