"""Measure how often the demo's arm completes tasks if it grasps at the poses of ~/approach: `python benchmark/grasps.py`.

Results: docs/results/approach_poses.md. Needs a built package. Each task is a random task of the simulated table. The arm
executes the true plan. A pick succeeds if a gripper with two fingers holds the object (`demo.grasping`). The depth has the noise,
steps and holes of the tests.

The table compares three arms. The first one grasps at the simulator's own grasp points. The others grasp at the poses of
~/approach, for the true bounding boxes and for those that the demo model finds.
"""

import argparse
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rclpy
from figures import plain_table

sys.path.append(str(Path(__file__).resolve().parent.parent / "test"))

from depth_camera import measure

from robobrain_ros.cli.progress import ProgressPrinter
from robobrain_ros.core.query import PlanStep, Task
from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.demo.approach_grasps import ApproachGrasps, by_name, by_true_box
from robobrain_ros.demo.arm import GraspSource, SimulatedArm
from robobrain_ros.demo.client import DemoClient, running
from robobrain_ros.demo.executor import WorldCamera
from robobrain_ros.demo.grasping import Grasp, own_grasp
from robobrain_ros.demo.layout import COLOURS
from robobrain_ros.demo.robot import World
from robobrain_ros.demo.simulator import Goal
from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.evaluation.plans import remaining, task_about

FIRST = 6000
"""First seed. The method's constants were chosen with smaller seeds, and the demo model was trained with others."""
ARMS = ("simulator", "true box", "model")
SETTLE = 0.6
"""Seconds until the node has received the first images of another camera, after they were published."""
NAMESPACE = "/benchmark_grasps"


class OwnGrasps:
    """The simulator's own grasps. See `arm.GraspSource`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def find(self, name: str) -> Grasp | str:
        """See `arm.GraspSource`."""
        return own_grasp(self._world.layout, name)


@dataclass
class Count:
    """Numbers of one arm: completed tasks, picks and successful picks by kind, and reasons of failures."""

    done: int = 0
    picks: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)


def noisy(scene: Scene) -> npt.NDArray[np.float32]:
    """Return the depth in metres that the depth camera measures, NaN where it measures nothing."""
    millimetres = measure(scene.depth, scene.intrinsics.fx, scene.layout.noise_seed % 2**31).astype(np.float32)
    return np.where(millimetres > 0.0, millimetres * np.float32(1e-3), np.float32(np.nan))


def has_published(camera: WorldCamera) -> bool:
    return camera.published >= 2


def run(arm: SimulatedArm, goal: Goal, count: Count) -> None:
    """Execute the true plan up to the first failure."""
    for number, step in enumerate(remaining(arm.world.table, goal), start=1):
        fault = arm.execute(PlanStep(number, step.text, "arm", step.skill, step.arguments))
        if step.skill == "pick":
            kind = step.object.split()[-1]
            count.picks[kind] += 1
            count.held[kind] += not fault
        if fault:
            count.reasons[" ".join(word for word in fault.split() if word not in COLOURS)] += 1
            return
    count.done += arm.world.table.holds(goal)


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=200, help="number of tasks (default: 200)")
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=ARMS, help="arms to compare (default: all)")
    options = parser.parse_args()
    rclpy.init()
    counts = {arm: Count() for arm in options.arms}
    parameters = {"camera.use_depth": True, "engine.model": DEMO_MODEL, "warm_up": False, "transform_timeout": 1.0}
    with running("robobrain_ros.cli.robobrain", NAMESPACE, Path("build/benchmark_grasps.log"), **parameters) as process:
        client = DemoClient("grasps", NAMESPACE)
        client.wait_until_ready(process, 300.0, ProgressPrinter())
        client.wait_for_task(Task.GROUND, 30.0)
        for number in range(options.tasks):
            scene = make_scene(FIRST + number)
            goal = task_about(scene, random.Random(number)).goal
            assert goal is not None, "the task is possible"
            for arm in options.arms:
                world = World(scene.layout, np.random.RandomState(number))
                camera = WorldCamera(client, world, measure=noisy)
                # Each task has another camera. Until its first camera_info arrives, the node uses the older one.
                if arm != "simulator":
                    client.spin_until(partial(has_published, camera), 60.0)
                    client.spin_until(lambda: False, SETTLE)
                grasps: GraspSource = OwnGrasps(world)
                if arm != "simulator":
                    grasps = ApproachGrasps(client, world, by_name if arm == "model" else by_true_box)
                run(SimulatedArm(world, grasps=grasps), goal, counts[arm])
                camera.close()
            if number % 20 == 19:
                print(f"{number + 1} tasks: " + ", ".join(f"{arm} {count.done}" for arm, count in counts.items()), flush=True)
        client.destroy_node()
    rclpy.try_shutdown()
    report(counts, options.tasks)


def report(counts: dict[str, Count], tasks: int) -> None:
    """Print the tables."""
    kinds = sorted({kind for count in counts.values() for kind in count.picks})
    rows: list[tuple[str, ...]] = [("grasp points", "tasks done", *(f"{kind}s held" for kind in kinds))]
    for arm, count in counts.items():
        rows.append((arm, f"{count.done} of {tasks}", *(f"{count.held[kind]} of {count.picks[kind]}" for kind in kinds)))
    print(plain_table(rows))
    print()
    reasons: list[tuple[str, ...]] = [("grasp points", "reason", "picks")]
    for arm, count in counts.items():
        reasons += [(arm, reason, str(number)) for reason, number in count.reasons.most_common()]
    print(plain_table(reasons))


if __name__ == "__main__":
    main()
