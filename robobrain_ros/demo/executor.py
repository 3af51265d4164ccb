"""An executor that closes the loop: it asks ~/plan, runs the steps one by one, and asks again with what happened.

To connect a robot of your own, start from examples/plan_and_execute.py, which needs the messages only. This program runs the
tabletop world, with faults, beside a running node::

    ros2 run robobrain_ros demo_executor "put all balls into the bowl" --troubles slip moved
"""

import argparse
import random
import sys
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import rclpy
from builtin_interfaces.msg import Time as TimeMessage
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from robobrain_ros.core.plans.request import DoneStep, PlanMode, PlanRequest, PlanVerdict, Robot, StepOutcome
from robobrain_ros.core.query import Defaults, PlanStep, Task
from robobrain_ros.demo.encodings import encode_image
from robobrain_ros.demo.layout import Layout
from robobrain_ros.demo.robot import MOST_STEPS, MOVED, SLIPPED, World
from robobrain_ros.demo.simulator import Step
from robobrain_ros.demo.world import make_scene
from robobrain_ros.errors import NotReadyError, OutcomeCode, RoboBrainError, StaleImageError
from robobrain_ros.ros.client import TaskClient, query_options, to_answer

MOST_PLANS = 8
"""So often a plan is asked for, the last word that nothing is left to do included."""
_MOST_TRIES = 20
"""So often the same is asked until the answer is about an image taken after the last step."""
_SETTLE = 0.5
"""Seconds in which an arm comes to rest, and its camera sees it."""
_APPEARANCE = 3.0
"""Seconds of waiting after which the executor logs the names of the nodes that run."""
_PERIOD = 0.2
"""Seconds between two images of the simulated camera."""
_PASSING = (OutcomeCode.BUSY, OutcomeCode.NO_IMAGE, OutcomeCode.STALE_IMAGE, OutcomeCode.NOT_READY)
"""What the next try may find otherwise."""

TROUBLES = ("slip", "moved", "taken")


class Arm(Protocol):
    """What the executor needs of a robot."""

    def describe(self) -> Robot:
        """Its name, skills and what it holds now, as the planner is told."""
        ...

    def execute(self, step: PlanStep) -> str:
        """Do a step, to its end; gives what was observed where it failed, else nothing."""
        ...


@dataclass(frozen=True)
class Ending:
    """How a task ended.

    :param done: whether nothing is left to do, as the model sees it in the last image.
    :param plans: how often it was asked for a plan.
    """

    done: bool
    why: str
    plans: int
    history: tuple[DoneStep, ...]


class Executor:
    """Runs tasks on one arm.

    :param client: asks the node robobrain.
    :param camera: the node's camera that looks at the arm's table; empty: its first one.
    :param tell: gets a line about each plan and each step.
    :param timeout: seconds that an answer may take.
    """

    def __init__(
        self,
        client: TaskClient,
        arm: Arm,
        *,
        camera: str = "",
        tell: Callable[[str], None] = print,
        most_plans: int = MOST_PLANS,
        most_steps: int = MOST_STEPS,
        timeout: float = Defaults.timeout,
    ) -> None:
        self._client, self._arm, self._camera = client, arm, camera
        self._tell, self._timeout = tell, timeout
        self._most_plans, self._most_steps = most_plans, most_steps
        self._moved_at = Time(clock_type=client.get_clock().clock_type)

    def run(self, task: str) -> Ending:
        """Plan, do, look and plan again, until nothing is left to do or the patience ends.

        :raises RoboBrainError: the node does not answer, or not about the newest image.
        """
        history: list[DoneStep] = []
        feedback = ""
        self._settle()
        for number in range(1, self._most_plans + 1):
            response = self._ask(task, history, feedback)
            code, why = OutcomeCode(response.outcome.code), response.outcome.message
            if code is OutcomeCode.INFEASIBLE_PLAN:
                self._tell(f"Plan {number} is rejected: {why}")
                feedback = why
                continue
            if code is not OutcomeCode.OK:
                return Ending(False, f"{code.name}: {why}", number, tuple(history))
            answer = to_answer(Task.PLAN, response)
            if answer.verdict is PlanVerdict.DONE:
                return Ending(True, "The task is done.", number, tuple(history))
            self._tell(f"Plan {number}: {', '.join(step.text for step in answer.steps)}.")
            feedback = ""
            self._follow(answer.steps, history)
        return Ending(False, f"The task is not done after {self._most_plans} plans.", self._most_plans, tuple(history))

    def _follow(self, steps: Iterable[PlanStep], history: list[DoneStep]) -> None:
        """Do the steps up to the first that fails. Steps of equal order might run in parallel; one arm does them in turn."""
        for step in steps:
            observation = self._arm.execute(step)
            outcome = StepOutcome.FAILED if observation else StepOutcome.SUCCEEDED
            history.append(DoneStep(step.text, step.robot, step.skill, step.arguments, outcome, observation))
            self._tell(f"  {step.text}: {observation or 'done'}")
            if observation:
                break
        self._settle()

    def _settle(self) -> None:
        """No older image counts from now on; the arm comes to rest, and the camera sees it."""
        self._moved_at = self._client.get_clock().now()
        self._client.spin_until(lambda: False, _SETTLE)

    def _ask(self, task: str, history: list[DoneStep], feedback: str) -> Any:
        """Ask for a plan from an image that was taken after the last step, or after the task began."""
        mode = PlanMode.REPLAN if history else PlanMode.NEW
        plan = PlanRequest((self._arm.describe(),), (), tuple(history), feedback, self._most_steps, mode)
        options = query_options(cameras=[self._camera] if self._camera else [], think=False, timeout=self._timeout)
        for _ in range(_MOST_TRIES):
            response = self._client.ask(Task.PLAN, task, options, plan=plan)
            code, stamp = OutcomeCode(response.outcome.code), response.plan.header.stamp
            # What was refused before an image was taken has no stamp; a refusal for what is in one has that image's.
            if code not in _PASSING and (stamp == TimeMessage() or self._is_new(stamp)):
                return response
            self._client.spin_until(lambda: False, _SETTLE)
        if code in _PASSING:
            return response
        raise StaleImageError(
            "No answer used an image from after the last step. Is the camera's clock synchronized with this computer?"
        )

    def _is_new(self, stamp: TimeMessage) -> bool:
        return bool(Time.from_msg(stamp, clock_type=self._moved_at.clock_type) >= self._moved_at)


class SimulatedArm:
    """The tabletop's arm, which has troubles.

    :param troubles: of `TROUBLES`, in this order, each at the first step that allows it: a thing slips from the gripper; a thing
        is not where it was seen, because somebody moved it; somebody takes out again what was put somewhere.
    """

    def __init__(self, world: World, troubles: Iterable[str] = ()) -> None:
        self.world, self._troubles = world, list(troubles)

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
        if not fault and self._has_trouble("slip"):
            self.world.drop(what.object)
            return SLIPPED.format(name=what.object)
        if not fault and what.skill == "pick" and self._has_trouble("moved"):
            self.world.drop(what.object)
            return MOVED.format(name=what.object)
        fault = self.world.execute(what)
        if not fault and what.relation in ("in", "on") and self._has_trouble("taken"):
            # Nobody tells the arm: only the image shows it.
            self.world.drop(what.object)
        return fault

    def _has_trouble(self, kind: str) -> bool:
        if self._troubles[:1] != [kind]:
            return False
        self._troubles.pop(0)
        return True


class WorldCamera:
    """Shows the world as it is now on ``<camera>/image``, some times a second while the node spins."""

    def __init__(self, node: Node, world: World, camera: str = "camera") -> None:
        self._node, self._world, self._clock = node, world, node.get_clock()
        self._layout: Layout | None = None
        self._message = Image()
        # Large and reliable: at depth 1, the next image would replace one that is still being sent.
        self._publisher = node.create_publisher(Image, f"{camera}/image", 5)
        self._timer = node.create_timer(_PERIOD, self._publish)

    def close(self) -> None:
        """Show nothing any more."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)

    def _publish(self) -> None:
        if self._layout is not self._world.layout:
            self._layout = self._world.layout
            image = self._world.look().image
            data, step = encode_image(image, "rgb8")
            height, width = image.shape[:2]
            self._message = Image(height=height, width=width, encoding="rgb8", step=step, data=array("B", data.tobytes()))
        self._message.header = Header(stamp=self._clock.now().to_msg(), frame_id="camera_optical_frame")
        self._publisher.publish(self._message)


def random_troubles(seed: int) -> list[str]:
    """One to three troubles, always the same ones."""
    rng = random.Random(seed)
    return rng.choices(TROUBLES, k=rng.randint(1, 3))


def wait_for_node(client: TaskClient, seconds: float) -> None:
    """Wait for the node; after a while, name the nodes that run.

    :raises NotReadyError: it does not appear within so many seconds.
    """
    try:
        client.wait_for_task(Task.PLAN, min(_APPEARANCE, seconds))
    except NotReadyError as error:
        print(f"{error.message} {_who_runs(client)}", file=sys.stderr, flush=True)
        try:
            client.wait_for_task(Task.PLAN, max(seconds - _APPEARANCE, 0.0))
        except NotReadyError:
            raise NotReadyError(f"The node did not appear within {seconds:g} s. {_who_runs(client)}") from error


def _who_runs(client: TaskClient) -> str:
    nodes = client.running_nodes()
    if nodes:
        return f"Running nodes: {', '.join(nodes)}. Choose one with --robobrain."
    return "No node robobrain is running in this ROS domain. Start it: ros2 launch robobrain_ros robobrain.launch.py"


def main() -> None:
    """Run a task on the tabletop world from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help='task of the arm, such as "put the red ball into the bowl"')
    parser.add_argument("--seed", type=int, default=12, help="seed of the scene (default: 12)")
    parser.add_argument("--troubles", choices=TROUBLES, nargs="*", default=[], help="faults that occur, in this order")
    parser.add_argument("--trouble-seed", type=int, help="seed of one to three random faults, instead of --troubles")
    parser.add_argument("--camera", default="camera", help="name of the node's camera (default: camera)")
    parser.add_argument("--robobrain", default="robobrain", help="name of the node to ask (default: robobrain)")
    parser.add_argument(
        "--timeout", type=float, default=Defaults.timeout, help="seconds to wait for each answer (default: %(default)g)"
    )
    options = parser.parse_args(rclpy.utilities.remove_ros_args(sys.argv)[1:])
    rclpy.init()
    world = World(make_scene(options.seed).layout, np.random.RandomState(options.seed))
    try:
        client = TaskClient("demo_executor", robobrain=options.robobrain, tasks=[Task.PLAN])
        camera = WorldCamera(client, world, options.camera)  # noqa: F841
        wait_for_node(client, options.timeout)
        print(f"On the table: {', '.join(world.table.names)}.")
        seed = options.trouble_seed
        arm = SimulatedArm(world, options.troubles if seed is None else random_troubles(seed))
        ending = Executor(client, arm, camera=options.camera, timeout=options.timeout).run(options.task)
        print(f"{'Done' if ending.done else 'Not done'}, after {ending.plans} plans: {ending.why}")
        print("True state of the table: " + "; ".join(f"{place.name}: {', '.join(place.objects)}" for place in world.places()))
        sys.exit(0 if ending.done else 1)
    except RoboBrainError as error:
        sys.exit(error.message)
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit(130)
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
