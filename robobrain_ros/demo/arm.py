"""The arm of the simulated table, with faults."""

import random
from collections.abc import Iterable
from typing import Protocol

from robobrain_ros.core.plans.request import Robot
from robobrain_ros.core.query import PlanStep
from robobrain_ros.demo.grasping import Grasp, fault_of
from robobrain_ros.demo.robot import MOVED, SLIPPED, STOPPED, World, known
from robobrain_ros.demo.simulator import Step

DISTURBANCES = ("slip", "moved", "stopped", "taken")


class Arm(Protocol):
    """The interface of a robot for the executor."""

    def describe(self) -> Robot:
        """Return the robot for the plan request: its name, its skills and what it holds."""
        ...

    def execute(self, step: PlanStep) -> str:
        """Execute a step to its end. Return the observation if the step failed, otherwise an empty string."""
        ...


class GraspSource(Protocol):
    """Decides where the arm grasps an object."""

    def find(self, name: str) -> Grasp | str:
        """Return the grasp of the object with this name, or why there is none."""
        ...


class SimulatedArm:
    """The arm of the simulated table, with faults.

    :param disturbances: from `DISTURBANCES`. Each one happens at the first step that permits it, in this order. ``slip``: an
        object slips from the gripper. ``moved``: a person moves an object before the arm grasps it. ``stopped``: the arm stops
        during a step. ``taken``: a person removes an object from the place where the arm put it.
    :param grasps: where the arm grasps. It then holds an object only if its fingers close on the object there. None: it holds
        every object.
    """

    def __init__(self, world: World, disturbances: Iterable[str] = (), grasps: GraspSource | None = None) -> None:
        self.world, self._disturbances, self._grasps = world, list(disturbances), grasps

    def describe(self) -> Robot:
        """See `Arm`."""
        return self.world.arm()

    def execute(self, step: PlanStep) -> str:
        """See `Arm`."""
        try:
            what = Step.read(step.skill, step.arguments)
        except ValueError as error:
            return str(error)
        fault = self.world.table.copy().do(what)
        if not fault and what.skill == "pick" and (missed := self._missed(what.object)):
            return missed
        if not fault and self._has_disturbance("slip"):
            self.world.drop(what.object)
            return SLIPPED.format(name=what.object)
        if not fault and what.skill == "pick" and self._has_disturbance("moved"):
            self.world.drop(what.object)
            return MOVED.format(name=what.object)
        if not fault and self._has_disturbance("stopped"):
            return known(STOPPED, what.object)
        fault = self.world.execute(what)
        if not fault and what.relation in ("in", "on") and self._has_disturbance("taken"):
            # The arm does not know this. Only the image shows it.
            self.world.drop(what.object)
        return fault

    def _missed(self, name: str) -> str:
        """Return why the gripper cannot hold an object, or an empty string if it can."""
        grasp = self._grasps.find(name) if self._grasps is not None else ""
        return grasp if isinstance(grasp, str) else fault_of(self.world.layout, name, grasp)

    def _has_disturbance(self, kind: str) -> bool:
        if self._disturbances[:1] != [kind]:
            return False
        self._disturbances.pop(0)
        return True


def random_disturbances(seed: int) -> list[str]:
    """Return one to three faults. The same seed gives the same faults."""
    rng = random.Random(seed)
    return rng.choices(DISTURBANCES, k=rng.randint(1, 3))
