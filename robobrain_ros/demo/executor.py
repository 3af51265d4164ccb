"""Execute plans of a running node with a simulated arm and simulated faults, and plan again after each failure.

To connect a robot of your own, start from examples/plan_and_execute.py, which needs only the messages. This program publishes
the images of its simulated table itself, so no other camera may publish them::

    ros2 run robobrain_ros demo_executor "put all balls into the bowl" --disturbances slip moved
"""

import argparse
import sys
import time
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import rclpy
from builtin_interfaces.msg import Time as TimeMessage
from rclpy.exceptions import NameValidationException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from robobrain_ros.cli.progress import ProgressPrinter
from robobrain_ros.core.plans.request import DoneStep, PlanMode, PlanRequest, PlanVerdict, StepOutcome, relevant_history
from robobrain_ros.core.query import Defaults, PlanStep, Task
from robobrain_ros.demo.approach_grasps import PASSING, ApproachGrasps
from robobrain_ros.demo.arm import DISTURBANCES, Arm, SimulatedArm, random_disturbances
from robobrain_ros.demo.camera import CameraSettings, SceneMessages
from robobrain_ros.demo.encodings import encode_image
from robobrain_ros.demo.layout import Layout
from robobrain_ros.demo.robot import MOST_PLANS, MOST_STEPS, World
from robobrain_ros.demo.staged_arm import StagedArm
from robobrain_ros.demo.watched_arm import WatchedArm
from robobrain_ros.demo.watcher import TaskWatcher
from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.errors import NotReadyError, OutcomeCode, RoboBrainError, StaleImageError, outcome_code
from robobrain_ros.ros.client import TaskClient, query_options, to_answer
from robobrain_ros.ros.limits import MOST_TIMEOUT
from robobrain_ros.ros.process.rcl_errors import explain

_MOST_TRIES = 20
"""Most repetitions of a request until its answer is about an image that was taken after the last step."""
_LOADING = 600.0
"""Longest time in seconds for which the executor waits until the model is loaded."""
_SETTLE = 0.5
"""Seconds until the arm stands still and the camera has taken an image of it."""
_APPEARANCE = 3.0
"""Seconds after which the waiting executor logs the names of the running nodes."""
_DISCOVERY = 1.0
"""Seconds in which another publisher of the camera's images appears, if there is one."""
_NAMES = 5.0
"""Seconds to wait until the name of its node is discovered, which may take longer on a busy computer."""
_UNNAMED = "_NODE_NAME_UNKNOWN_"
"""Name that rmw reports for a publisher whose node is not discovered yet."""
_PERIOD = 0.2
"""Seconds between two images of the simulated camera."""
MONITORS = ("simulator", "vision")
"""What decides whether a step failed."""


@dataclass(frozen=True)
class TaskResult:
    """The result of a task.

    :param done: whether the task is done, according to the model's answer about the last image.
    :param plans: number of plan requests.
    """

    done: bool
    why: str
    plans: int
    history: tuple[DoneStep, ...]


class Executor:
    """Runs tasks on one arm.

    :param client: client of the node robobrain.
    :param camera: the node's camera above the arm's table. Empty: its first camera.
    :param report: called with a line about each plan and each step.
    :param progress: called with a sentence while the node loads its model.
    :param check: called before and after each plan request. An exception ends the task.
    :param timeout: time limit of an answer in seconds.
    """

    def __init__(
        self,
        client: TaskClient,
        arm: Arm,
        *,
        camera: str = "",
        report: Callable[[str], None] = print,
        progress: Callable[[str], None] = lambda sentence: None,
        check: Callable[[], None] = lambda: None,
        most_plans: int = MOST_PLANS,
        most_steps: int = MOST_STEPS,
        timeout: float = Defaults.timeout,
    ) -> None:
        self._client, self._arm, self._camera = client, arm, camera
        self._report, self._progress, self._check, self._timeout = report, progress, check, timeout
        self._most_plans, self._most_steps = most_plans, most_steps
        self._moved_at = Time(clock_type=client.get_clock().clock_type)

    def run(self, task: str) -> TaskResult:
        """Request a plan, execute it and request the next one, until the task is done or the limit of requests is reached.

        :raises RoboBrainError: the node does not answer, or its answer is not about the newest image.
        """
        history: list[DoneStep] = []
        feedback = ""
        self._settle()
        for number in range(1, self._most_plans + 1):
            self._check()
            response = self._ask(task, history, feedback)
            self._check()
            code, why = outcome_code(response.outcome.code), response.outcome.message
            if code is OutcomeCode.INFEASIBLE_PLAN:
                self._report(f"Plan {number} is rejected: {why}")
                feedback = why
                continue
            if code is not OutcomeCode.OK:
                return TaskResult(False, f"{code.name}: {why}", number, tuple(history))
            answer = to_answer(Task.PLAN, response)
            if answer.verdict is PlanVerdict.DONE:
                return TaskResult(True, "The task is done.", number, tuple(history))
            self._report(f"Plan {number}: {', '.join(step.text for step in answer.steps)}.")
            feedback = ""
            self._follow(answer.steps, history)
        return TaskResult(False, f"The task is not done after {self._most_plans} plans.", self._most_plans, tuple(history))

    def _follow(self, steps: Iterable[PlanStep], history: list[DoneStep]) -> None:
        """Execute the steps one by one, up to the first failure. One arm cannot execute steps of the same order in parallel."""
        for step in steps:
            observation = self._arm.execute(step)
            outcome = StepOutcome.FAILED if observation else StepOutcome.SUCCEEDED
            history.append(DoneStep(step.text, step.robot, step.skill, step.arguments, outcome, observation))
            self._report(f"  {step.text}: {observation or 'done'}")
            if observation:
                break
        self._settle()

    def _settle(self) -> None:
        """Accept only newer images from now on. Wait until the arm stands still and the camera has taken an image of it."""
        self._moved_at = self._client.get_clock().now()
        self._client.spin_until(lambda: False, _SETTLE)

    def _ask(self, task: str, history: list[DoneStep], feedback: str) -> Any:
        """Request a plan from an image that was taken after the last step, or after the start of the task."""
        mode = PlanMode.REPLAN if history else PlanMode.NEW
        plan = PlanRequest((self._arm.describe(),), (), relevant_history(history), feedback, self._most_steps, mode)
        options = query_options(cameras=[self._camera] if self._camera else [], think=False, timeout=self._timeout)
        tries, end = 0, time.monotonic() + _LOADING
        while tries < _MOST_TRIES:
            response = self._client.ask(Task.PLAN, task, options, plan=plan)
            code, stamp = outcome_code(response.outcome.code), response.plan.header.stamp
            # A response that was rejected before the node took an image has no stamp. Otherwise, it has the stamp of the image.
            if code not in PASSING and (stamp == TimeMessage() or self._is_new(stamp)):
                return response
            if code is OutcomeCode.NOT_READY and time.monotonic() < end:
                self._progress(response.outcome.message)
            else:
                tries += 1
            self._client.spin_until(lambda: False, _SETTLE)
        if code in PASSING:
            return response
        raise StaleImageError(
            "No answer used an image from after the last step. Is the camera's clock synchronized with this computer?"
        )

    def _is_new(self, stamp: TimeMessage) -> bool:
        return bool(Time.from_msg(stamp, clock_type=self._moved_at.clock_type) >= self._moved_at)


class WorldCamera:
    """Publishes an image of the current world on ``<camera>/image``, several times a second while the node spins.

    :param measure: returns the depth in metres that a depth camera measures of a scene, float32, NaN where it measures nothing.
        The camera then publishes ``<camera>/depth`` and ``<camera>/camera_info`` too. None: it has no depth.
    """

    def __init__(
        self, node: Node, world: World, camera: str = "camera", measure: Callable[[Scene], npt.NDArray[np.float32]] | None = None
    ) -> None:
        self._node, self._world, self._clock = node, world, node.get_clock()
        self._measure = measure
        self.published = 0
        """Number of published images."""
        self._companions: list[tuple[Any, Any]] = []
        self._companion_publishers = (
            [node.create_publisher(CameraInfo, f"{camera}/camera_info", 5), node.create_publisher(Image, f"{camera}/depth", 5)]
            if measure
            else []
        )
        self._layout: Layout | None = None
        self._message = Image()
        # Large images, sent reliably: at depth 1, the next image would replace an image that is still being sent.
        self._publisher = node.create_publisher(Image, f"{camera}/image", 5)
        self._timer = node.create_timer(_PERIOD, self._publish)

    def close(self) -> None:
        """Stop publishing."""
        self._node.destroy_timer(self._timer)
        for publisher in (self._publisher, *self._companion_publishers):
            self._node.destroy_publisher(publisher)

    def _publish(self) -> None:
        if self._layout is not self._world.layout:
            self._layout = self._world.layout
            scene = self._world.render()
            image = scene.image
            if self._measure is not None:
                measured = SceneMessages(replace(scene, depth=self._measure(scene)), CameraSettings(depth_encoding="32FC1"))
                messages = (measured.camera_info, measured.depth)
                self._companions = list(zip(self._companion_publishers, messages, strict=True))
            data, step = encode_image(image, "rgb8")
            height, width = image.shape[:2]
            self._message = Image(height=height, width=width, encoding="rgb8", step=step, data=array("B", data.tobytes()))
        self._message.header = Header(stamp=self._clock.now().to_msg(), frame_id="camera_optical_frame")
        for publisher, message in self._companions:
            message.header = self._message.header
            publisher.publish(message)
        self._publisher.publish(self._message)
        self.published += 1


def wait_for_node(client: TaskClient, seconds: float) -> None:
    """Wait for the node. After some time, log the names of the running nodes.

    :raises NotReadyError: the node does not appear within the time limit.
    """
    try:
        client.wait_for_task(Task.PLAN, min(_APPEARANCE, seconds))
    except NotReadyError as error:
        print(f"{error.message} {_who_runs(client)}", file=sys.stderr, flush=True)
        try:
            client.wait_for_task(Task.PLAN, max(seconds - _APPEARANCE, 0.0))
        except NotReadyError:
            raise NotReadyError(f"The node did not appear within {seconds:g} s. {_who_runs(client)}") from error


def other_cameras(client: TaskClient, camera: str, seconds: float = _DISCOVERY) -> list[str]:
    """Return the full names of the other nodes that publish ``<camera>/image``, while this node publishes it too.

    :param seconds: time to wait for the discovery of another publisher.
    """
    topic = client.resolve_topic_name(f"{camera}/image")

    def publishers() -> list[str]:
        found = client.get_publishers_info_by_topic(topic)
        return [f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in found]

    if client.spin_until(lambda: len(publishers()) > 1, seconds):
        client.spin_until(lambda: not any(_UNNAMED in name for name in publishers()), _NAMES)
    names = publishers()
    if client.get_fully_qualified_name() in names:
        names.remove(client.get_fully_qualified_name())
    return ["an unknown node" if _UNNAMED in name else name for name in names]


def end_if_shared(client: TaskClient, camera: str, seconds: float) -> None:
    """End the program if another node publishes ``<camera>/image``.

    :param seconds: see `other_cameras`.
    :raises SystemExit: another node publishes it.
    """
    if others := other_cameras(client, camera, seconds):
        sys.exit(
            f"This program publishes {camera}/image itself, but {', '.join(others)} publishes it too. Plans could be about the "
            "wrong image. Stop the other publisher, or choose another camera of the node with --camera."
        )


def _who_runs(client: TaskClient) -> str:
    nodes = client.running_nodes()
    if nodes:
        return f"Running nodes: {', '.join(nodes)}. Choose one with --robobrain."
    return "No node robobrain is running in this ROS domain. Start it: ros2 launch robobrain_ros robobrain.launch.py"


def main() -> None:
    """Run a task on the simulated table from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help='task of the arm, such as "put the red ball into the bowl"')
    parser.add_argument("--seed", type=int, default=12, help="seed of the scene (default: 12)")
    parser.add_argument("--disturbances", choices=DISTURBANCES, nargs="*", default=[], help="what goes wrong, in this order")
    parser.add_argument(
        "--disturbance-seed", type=int, help="seed of one to three random disturbances, instead of --disturbances"
    )
    parser.add_argument(
        "--grasp",
        choices=("approach", "simulator"),
        default="approach",
        help="where the arm grasps. approach: at the poses of ~/approach, for which the node needs the parameter "
        "<camera>.use_depth. simulator: at the simulator's points, which need no depth (default: approach)",
    )
    parser.add_argument(
        "--monitor",
        choices=MONITORS,
        default="vision",
        help="what decides whether a step failed. vision: ~/watch_task, with a model that was trained for comparisons, such as "
        "the demo model. simulator: the simulator's truth (default: vision)",
    )
    parser.add_argument("--camera", default="camera", help="name of the node's camera (default: camera)")
    parser.add_argument("--robobrain", default="robobrain", help="name of the node to ask (default: robobrain)")
    parser.add_argument(
        "--timeout", type=float, default=Defaults.timeout, help="seconds to wait for each answer (default: %(default)g)"
    )
    options = parser.parse_args(rclpy.utilities.remove_ros_args(sys.argv)[1:])
    if not 0.0 < options.timeout <= MOST_TIMEOUT:
        parser.error(f"--timeout must be above 0 and at most {MOST_TIMEOUT:g}")
    printer = ProgressPrinter()

    def report(line: str) -> None:
        printer.finish()
        print(line, flush=True)

    world = World(make_scene(options.seed).layout, np.random.RandomState(options.seed % 2**32))
    try:
        try:
            rclpy.init()
            client = TaskClient("demo_executor", robobrain=options.robobrain, tasks=[Task.PLAN])
        except RuntimeError as error:  # From rcl.
            sys.exit(f"demo_executor: {explain(error)}")
        approaching = options.grasp == "approach"
        camera = WorldCamera(client, world, options.camera, (lambda scene: scene.depth) if approaching else None)  # noqa: F841
        node: dict[str, Any] = {"robobrain": options.robobrain, "camera": options.camera, "timeout": options.timeout}
        grasps = ApproachGrasps(client, world, **node, report=report) if approaching else None
        wait_for_node(client, options.timeout)
        end_if_shared(client, options.camera, _DISCOVERY)
        print(f"On the table: {', '.join(world.table.names)}.")
        seed = options.disturbance_seed
        disturbances = options.disturbances if seed is None else random_disturbances(seed)
        arm: Arm = SimulatedArm(world, disturbances, grasps)
        if options.monitor == "vision":
            staged = StagedArm(world, disturbances, options.seed, grasps=grasps)
            arm = WatchedArm(staged, TaskWatcher(client, **node), report=report)
        # On a busy machine, discovery takes longer than _DISCOVERY, and another camera can also start later.
        check = partial(end_if_shared, client, options.camera, 0.0)
        executor = Executor(
            client, arm, camera=options.camera, report=report, progress=printer.update, check=check, timeout=options.timeout
        )
        ending = executor.run(options.task)
        report(f"{'Done' if ending.done else 'Not done'}, after {ending.plans} plans: {ending.why}")
        report("True state of the table: " + "; ".join(f"{place.name}: {', '.join(place.objects)}" for place in world.places()))
        sys.exit(0 if ending.done else 1)
    except RoboBrainError as error:
        sys.exit(error.message)
    except NameValidationException:
        sys.exit(f"--robobrain {options.robobrain!r} or --camera {options.camera!r} is not a valid name.")
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit(130)
    finally:
        printer.finish()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
