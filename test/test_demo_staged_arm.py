"""The arm that moves in stages: it waits twice in each step, and goes on after a fault that it does not notice."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from robobrain_ros.core.query import PlanStep
from robobrain_ros.demo import rearrange
from robobrain_ros.demo.arm import GraspSource
from robobrain_ros.demo.grasping import Grasp, own_grasp
from robobrain_ros.demo.layout import Layout
from robobrain_ros.demo.robot import MOVED, SLIPPED, STOPPED, World
from robobrain_ros.demo.simulator import Goal, Step
from robobrain_ros.demo.staged_arm import StagedArm
from robobrain_ros.demo.world import make_scene

NAMES = ("red block", "green bowl", "yellow ball")
PICK, PUT = Step("pick", "red block"), Step("place", "red block", "in", "green bowl")
GOAL = Goal("in", ("red block",), "green bowl")


def make_arm(*disturbances: str, seed: int = 0, calm: int = 0, grasps: GraspSource | None = None) -> StagedArm:
    world = World(make_scene(3, (320, 240), names=NAMES).layout, np.random.RandomState(3))
    return StagedArm(world, disturbances, seed, calm, grasps)


class OwnGrasps:
    """The simulator's own grasps, moved to the side by some metres. With ``reason``, there is no grasp."""

    def __init__(self, layout: Layout, aside: float = 0.0, reason: str = "") -> None:
        self._layout, self._aside, self._reason = layout, aside, reason

    def find(self, name: str) -> Grasp | str:
        grasp = own_grasp(self._layout, name)
        return self._reason or replace(grasp, tip=grasp.tip + np.array([self._aside, 0.0, 0.0]))


def as_plan(step: Step) -> PlanStep:
    return PlanStep(1, step.text, "arm", step.skill, step.arguments)


def execute(arm: StagedArm, step: Step) -> list[tuple[bool, float]]:
    """Execute a step to its end. Return each moment, with the true progress."""
    assert arm.begin(as_plan(step)) == ""
    return [(at_end, arm.progress) for at_end in arm.movements()]


def test_without_disturbance_the_table_is_that_of_the_immediate_execution() -> None:
    arm, world = make_arm(), make_arm().world
    for step, middle in ((PICK, 0.6), (PUT, 0.4)):
        assert arm.begin(as_plan(step)) == ""
        goal = arm.goal()
        assert execute(arm, step) == [(False, pytest.approx(middle)), (True, pytest.approx(1.0))]
        assert world.execute(step) == arm.fault == ""
        assert arm.world.layout == world.layout == goal
    assert arm.world.table.holds(GOAL)


def test_an_arm_whose_fingers_miss_the_object_closes_on_nothing_and_does_not_notice_it() -> None:
    layout = make_arm().world.layout
    assert execute(make_arm(grasps=OwnGrasps(layout)), PICK)[-1] == (True, pytest.approx(1.0))
    arm = make_arm(grasps=OwnGrasps(layout, aside=0.3))
    assert execute(arm, PICK) == [(False, 0.0), (True, 0.0)]
    assert (arm.world.table.held, arm.fault) == ("", "the fingers do not close on the red block")
    arm.retreat()
    assert arm.world.layout == layout
    assert make_arm(grasps=OwnGrasps(layout, reason="there is no grasp")).begin(as_plan(PICK)) == "there is no grasp"


@pytest.mark.parametrize(("disturbance", "fault"), [("slip", SLIPPED), ("moved", MOVED), ("stopped", STOPPED)])
@pytest.mark.parametrize("seed", range(6))
def test_a_fault_in_a_pick_leaves_the_gripper_empty(disturbance: str, fault: str, seed: int) -> None:
    arm = make_arm(disturbance, seed=seed)
    home = arm.world.layout.gripper
    moments = execute(arm, PICK)
    assert [at_end for at_end, _ in moments] == [False, True]
    assert moments[-1][1] < 0.6
    assert arm.fault == fault.format(name="red block")
    assert arm.world.table.held == ""
    assert (arm.world.layout.gripper == home) == (disturbance != "stopped"), "an arm that did not stop has made all movements"
    assert rearrange.find(arm.world.layout, "red block").z == 0.0
    arm.retreat()
    assert arm.world.layout.gripper == home
    assert execute(arm, PICK)[-1] == (True, pytest.approx(1.0))
    assert arm.happened == 1


@pytest.mark.parametrize("disturbance", ["slip", "stopped", "taken"])
@pytest.mark.parametrize("seed", range(6))
def test_a_fault_in_a_place_does_not_reach_the_place(disturbance: str, seed: int) -> None:
    arm = make_arm(disturbance, seed=seed, calm=1)
    execute(arm, PICK)
    assert arm.fault == ""
    execute(arm, PUT)
    assert arm.fault
    assert arm.progress < 0.8
    assert arm.world.table.held == ("red block" if disturbance == "stopped" else "")
    assert not arm.world.table.holds(GOAL)


def test_a_slip_that_nobody_noticed_lets_the_arm_place_nothing() -> None:
    arm = make_arm("slip")
    execute(arm, PICK)
    lying = rearrange.find(arm.world.layout, "red block")
    bowl = copy.copy(rearrange.find(arm.world.layout, "green bowl"))
    assert execute(arm, PUT) == [(False, 0.0), (True, 0.0)]
    assert arm.fault == "the gripper does not hold the red block"
    assert rearrange.find(arm.world.layout, "red block") == lying
    assert rearrange.find(arm.world.layout, "green bowl") == bowl


@pytest.mark.parametrize(
    "step", [PlanStep(1, "Sing"), as_plan(Step("pick", "red mug")), as_plan(Step("place", "red block", "in", "yellow ball"))]
)
def test_a_step_that_the_arm_knows_to_be_impossible_is_rejected(step: PlanStep) -> None:
    assert make_arm().begin(step)
