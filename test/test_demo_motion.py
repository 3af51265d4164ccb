"""The arm moves in small steps. The held object moves with it. The end of a step is that of the immediate execution."""

from dataclasses import replace

import numpy as np
import pytest

from robobrain_ros.demo import rearrange
from robobrain_ros.demo.motion import GRASPED, LOWERED, MovingArm
from robobrain_ros.demo.robot import World
from robobrain_ros.demo.simulator import Step
from robobrain_ros.demo.world import GRIPPER, make_scene

NAMES = ("red block", "blue block", "green bowl", "yellow ball", "purple mug")
SHARES = (0.5, 1.0)
STEPS = (
    Step("pick", "red block"),
    Step("place", "red block", "in", "green bowl"),
    Step("pick", "yellow ball"),
    Step("place", "yellow ball", "in", "green bowl"),
    Step("pick", "purple mug"),
    Step("place", "purple mug", "on", "blue block"),
)
BOWL = (Step("pick", "green bowl"), Step("place", "green bowl", "beside", "purple mug"))


def new_arm(seed: int = 3) -> MovingArm:
    return MovingArm(World(make_scene(seed, names=NAMES).layout, np.random.RandomState(seed)))


def execute(arm: MovingArm, *steps: Step) -> None:
    for step in steps:
        assert list(arm.execute(step, SHARES))[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("steps", [STEPS, BOWL])
def test_the_end_of_each_step_is_that_of_the_immediate_execution(steps: tuple[Step, ...]) -> None:
    arm, at_once = new_arm(), new_arm().world
    for step in steps:
        execute(arm, step)
        assert at_once.execute(step) == ""
        assert arm.world.table == at_once.table, step
        assert arm.world.layout == at_once.layout, step


def test_the_completed_share_increases() -> None:
    arm = new_arm()
    for step in STEPS[:2]:
        shares = list(arm.execute(step, SHARES))
        assert shares == sorted(set(shares))


def test_the_held_object_moves_with_the_gripper() -> None:
    arm = new_arm()
    execute(arm, STEPS[0])
    seen = set()
    for share in arm.execute(STEPS[1], (0.25, 0.5, 1.0)):
        if share < LOWERED:
            thing, (x, y, z, _) = rearrange.find(arm.world.layout, "red block"), arm.world.layout.gripper
            assert (thing.x, thing.y) == (x, y)
            assert thing.z < z < thing.z + thing.height + 0.02
            seen.add((x, y, z))
    assert len(seen) == 2


def test_the_gripper_is_open_until_it_is_at_the_object() -> None:
    arm = new_arm()
    for share in arm.execute(STEPS[0], SHARES):
        assert (arm.world.table.held == "red block") == (share >= GRASPED)


def test_what_slips_lies_on_the_table_and_the_gripper_stays() -> None:
    arm = new_arm()
    execute(arm, STEPS[0])
    before = arm.world.layout.gripper[:3]
    arm.slip()
    thing = rearrange.find(arm.world.layout, "red block")
    assert thing.z == 0.0
    assert arm.world.table.held == ""
    assert arm.world.layout.gripper[:3] == before
    scene = arm.world.render()
    assert scene.find("red block") is not None
    assert (scene.mask == GRIPPER).any()


def test_an_object_that_a_person_moves_lies_elsewhere_on_the_table() -> None:
    arm = new_arm()
    execute(arm, *STEPS[:2])
    before = rearrange.find(arm.world.layout, "red block")
    arm.lay_aside("red block")
    after = rearrange.find(arm.world.layout, "red block")
    assert after.z == 0.0
    assert (after.x, after.y) != (before.x, before.y)
    assert "red block" not in arm.world.table.where


def test_the_arm_returns_home() -> None:
    arm = new_arm()
    home = arm.world.layout.gripper
    movements = arm.execute(STEPS[0], SHARES)
    next(movements)
    assert arm.world.layout.gripper[:3] != home[:3]
    assert list(arm.retreat(SHARES)) == list(SHARES)
    assert arm.world.layout.gripper == home
    assert replace(arm.world.layout, gripper=home) == new_arm().world.layout


def test_an_impossible_step_is_an_error_and_moves_nothing() -> None:
    arm = new_arm()
    before = arm.world.layout
    with pytest.raises(ValueError, match="does not hold the red block"):
        arm.execute(STEPS[1], SHARES)
    assert arm.world.layout is before
