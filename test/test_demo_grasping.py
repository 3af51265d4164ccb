"""The gripper of the simulated table, and the arm that grasps at the poses of ~/approach."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import rclpy
from fakes import ScriptedEngine
from ros_rig import rig

from robobrain_ros.core.query import PlanStep, Task
from robobrain_ros.demo.approach_grasps import ApproachGrasps, by_true_box
from robobrain_ros.demo.arm import SimulatedArm
from robobrain_ros.demo.executor import WorldCamera
from robobrain_ros.demo.grasping import GRIPPER, Grasp, fault_of, own_grasp
from robobrain_ros.demo.rearrange import find
from robobrain_ros.demo.robot import World
from robobrain_ros.demo.world import make_scene
from robobrain_ros.ros.client import TaskClient

SCENE = make_scene(3, names=("red block", "yellow ball", "blue mug", "green bowl"))


@pytest.mark.parametrize("name", ["red block", "yellow ball", "blue mug", "green bowl"])
def test_the_simulators_own_grasp_holds_each_object_and_a_wrong_one_does_not(name: str) -> None:
    grasp = own_grasp(SCENE.layout, name)
    assert fault_of(SCENE.layout, name, grasp) == ""
    away = replace(grasp, tip=grasp.tip + np.array([0.0, 0.0, 0.3]))
    assert fault_of(SCENE.layout, name, away) == f"the fingers do not close on the {name}"
    deep = replace(grasp, tip=grasp.tip * (1.0, 1.0, 0.0) - (0.0, 0.0, 0.01))
    assert fault_of(SCENE.layout, name, deep) == "the gripper hits the table"


def test_a_gripper_that_touches_an_object_or_closes_on_an_edge_fails() -> None:
    grasp = own_grasp(SCENE.layout, "red block")
    narrow = replace(grasp, opening=0.5 * find(SCENE.layout, "red block").radius)
    assert fault_of(SCENE.layout, "red block", narrow) == "the gripper hits the red block"
    x, y, z = grasp.axes.T
    turned = Grasp(grasp.tip, np.column_stack(((x - y) / np.sqrt(2.0), (x + y) / np.sqrt(2.0), z)), GRIPPER.opening)
    assert fault_of(SCENE.layout, "red block", turned) in (
        "the red block slips from the fingers",
        "the gripper hits the red block",
    )


@pytest.fixture
def context() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.try_shutdown()


def test_the_arm_holds_what_its_fingers_hold_at_the_approach_pose(context: None) -> None:
    """After the pick, the object is not on the table, so the next request needs a newer image."""
    world = World(SCENE.layout, np.random.RandomState(3))
    with rig(ScriptedEngine(["[]"]), camera__use_depth=True, transform_timeout=5.0) as it:
        it.until_ready()
        client = TaskClient("arm", it.client.get_namespace(), tasks=[Task.GROUND])
        camera = WorldCamera(client, world, measure=lambda scene: scene.depth)
        try:
            client.wait_for_task(Task.GROUND, 30.0)
            arm = SimulatedArm(world, grasps=ApproachGrasps(client, world, by_true_box, timeout=30.0))
            held = arm.execute(PlanStep(1, "", "arm", "pick", '{"object": "yellow ball"}'))
            again = arm.execute(PlanStep(1, "", "arm", "pick", '{"object": "red block"}'))
            put = arm.execute(
                PlanStep(2, "", "arm", "place", '{"object": "yellow ball", "relation": "beside", "place": "blue mug"}')
            )
            it.set_parameter("gripper_opening", 0.02)
            small = arm.execute(PlanStep(3, "", "arm", "pick", '{"object": "green bowl"}'))
            it.set_parameter("gripper_opening", 0.1)
            bowl = arm.execute(PlanStep(3, "", "arm", "pick", '{"object": "green bowl"}'))
        finally:
            camera.close()
            client.destroy_node()
    assert (held, put) == ("", "")
    assert again == "the gripper holds the yellow ball already"
    assert (small, bowl) == ("the gripper does not fit around the green bowl", "")
    assert world.table.held == "green bowl"
