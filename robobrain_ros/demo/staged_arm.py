"""An arm of the simulated table that moves in stages and does not notice its own faults, so that a monitor must see them."""

import copy
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace

from robobrain_ros.core.plans.request import Robot
from robobrain_ros.core.query import PlanStep
from robobrain_ros.demo import rearrange
from robobrain_ros.demo.arm import GraspSource
from robobrain_ros.demo.grasping import fault_of
from robobrain_ros.demo.layout import Layout
from robobrain_ros.demo.motion import GRASPED, LOWERED, RELEASED, MovingArm
from robobrain_ros.demo.robot import MOVED, SLIPPED, STOPPED, World
from robobrain_ros.demo.simulator import Step

TAKEN = "somebody moved the {name}"
_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Ends of the movements on each of the two paths of a step."""
_MIDDLE = {"pick": GRASPED, "place": 0.5 * LOWERED}
"""Completed share of a step at which the arm waits for the first check: when it has grasped, and halfway to the place."""


class StagedArm:
    """Executes a step in small movements, and waits in its middle and at its end.

    After a fault, the arm goes on with its movements: it closes its gripper on nothing, or carries nothing to a place. The
    attributes ``fault`` and ``progress`` are the truth about the step, for simulated monitors and for evaluations.

    :param world: the table. The gripper is at its home position.
    :param disturbances: from `arm.DISTURBANCES`. Each one happens at a random moment of the first step that permits it, in this
        order.
    :param seed: seed of these moments.
    :param calm: number of steps without faults before the first fault.
    :param grasps: see `arm.SimulatedArm`. The arm does not notice that its fingers do not close on the object.
    """

    def __init__(
        self, world: World, disturbances: Iterable[str] = (), seed: int = 0, calm: int = 0, grasps: GraspSource | None = None
    ) -> None:
        self.world, self._disturbances, self._calm, self._grasps = world, list(disturbances), calm, grasps
        self._arm = MovingArm(world)
        self._open = world.layout.gripper[3]
        self._rng = random.Random(f"staged arm {seed}")
        self._step: Step | None = None
        self._missed = ""
        """Why the fingers do not close on the object of the step. Empty: they do."""
        self.fault = ""
        """Why the step has failed so far. Empty: it has not."""
        self.progress = 0.0
        """True progress of the step, 0 to 1."""
        self.happened = 0
        """Number of disturbances that have happened."""

    def describe(self) -> Robot:
        """See `arm.Arm`. A sensor of the gripper reports the held object."""
        return self.world.arm()

    def begin(self, step: PlanStep) -> str:
        """Prepare a step. Return the reason if the arm knows that it cannot execute it, otherwise an empty string."""
        try:
            what = Step.read(step.skill, step.arguments)
        except ValueError as error:
            return str(error)
        if fault := self._imagined(what).world.table.do(what):
            return fault
        self._step, self.fault, self.progress, self._missed = what, "", 0.0, ""
        if what.skill == "pick" and self._grasps is not None:
            grasp = self._grasps.find(what.object)
            if isinstance(grasp, str):
                return grasp
            self._missed = fault_of(self.world.layout, what.object, grasp)
        return ""

    def goal(self) -> Layout:
        """Return the table after the step, if it succeeds: the reference of its end."""
        assert self._step is not None, "a step has begun"
        imagined = self._imagined(self._step).world
        imagined.execute(self._step)
        return imagined.layout

    def movements(self) -> Iterator[bool]:
        """Execute the step. Yield False in its middle and True at its end, when the arm waits."""
        step = self._step
        assert step is not None, "a step has begun"
        intended = self._path(step)
        moving: Iterator[float] = iter(())
        disturbance, at, stopped = "", -1.0, False
        if self.world.table.copy().do(step):
            self.fault = f"the gripper does not hold the {step.object}"  # An earlier fault that nobody noticed.
        elif self._missed:
            self.fault = self._missed
        else:
            moving = self._arm.execute(step, _SHARES)
            disturbance, at = self._choose(step, [share for share, _ in intended])
        for share, gripper in intended:
            if not self.fault:
                self.progress = next(moving)
            elif not stopped:
                self.world.layout = replace(self.world.layout, gripper=gripper)
            if share == at:
                self._happen(disturbance, step)
                stopped = disturbance == "stopped"
            if abs(share - _MIDDLE[step.skill]) < 1e-6:
                yield False
        yield True

    def retreat(self) -> None:
        """Return to the home position with the held object, so that the camera sees the table."""
        for _ in self._arm.retreat((1.0,)):
            pass

    def refresh(self) -> None:
        """Change the noise of the next camera image, because no two images of a real camera have the same noise."""
        self.world.layout = replace(self.world.layout, noise_seed=self._rng.randrange(2**31 - 1))

    def _imagined(self, step: Step) -> MovingArm:
        """Return a copy of the arm in the state that it assumes: before a place step, its gripper holds the object."""
        arm = copy.deepcopy(self._arm)
        table = arm.world.table
        if step.skill == "place" and not table.held and step.object in table.names:
            table.do(Step("pick", step.object))
            arm.world.layout = rearrange.hold(arm.world.layout, step.object)
        return arm

    def _path(self, step: Step) -> list[tuple[float, tuple[float, float, float, float]]]:
        """Return the completed share after each movement, and the gripper with which the arm makes it without the object."""
        imagined = self._imagined(step)
        path = []
        for share in imagined.execute(step, _SHARES):
            x, y, z, half = imagined.world.layout.gripper
            closed = share >= GRASPED if step.skill == "pick" else share < RELEASED
            path.append((share, (x, y, z, self._open if closed else half)))
        return path

    def _choose(self, step: Step, shares: list[float]) -> tuple[str, float]:
        """Return the fault of this step, and the share after which it happens. Empty: none."""
        kind = self._disturbances[0] if self._disturbances and not self._calm else ""
        self._calm = max(self._calm - 1, 0)
        pick = step.skill == "pick"
        moments = {
            "slip": [share for share in shares if (GRASPED <= share < 1.0 if pick else share < LOWERED)],
            "moved": [share for share in shares if pick and share < GRASPED],
            # Later, a stop leaves the object in the gripper or at its place, as the step should.
            "stopped": [share for share in shares if share < (GRASPED if pick else LOWERED)],
            "taken": shares[-1:] if step.relation in ("in", "on") else [],
        }.get(kind, [])
        if not moments:
            return "", -1.0
        self._disturbances.pop(0)
        return kind, self._rng.choice(moments)

    def _happen(self, disturbance: str, step: Step) -> None:
        name = step.object
        self.happened += 1
        if disturbance == "slip" and self.world.table.held == name:
            self._arm.slip()
            self.fault, self.progress = SLIPPED.format(name=name), 0.0
        elif disturbance in ("moved", "taken"):
            self._arm.lay_aside(name)
            self.fault, self.progress = (MOVED if disturbance == "moved" else TAKEN).format(name=name), 0.0
        elif disturbance == "stopped":
            self.fault = STOPPED
