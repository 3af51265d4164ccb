"""The tour of `make demo`: starts the simulated camera and the node, calls the service of each task, and checks the answers.

Then a simulated arm executes plans of the node, and an object slips from its gripper once. The program is an ordinary ROS client:
it prints the responses that any node would get.
"""

import argparse
import os
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image

from robobrain_ros.cli.progress import ProgressPrinter
from robobrain_ros.core.query import Answer
from robobrain_ros.demo import DEMO_MODEL, DemoError
from robobrain_ros.demo.arm import Arm, SimulatedArm
from robobrain_ros.demo.client import DemoClient, LivePage, running
from robobrain_ros.demo.executor import MONITORS, Executor, WorldCamera
from robobrain_ros.demo.robot import World
from robobrain_ros.demo.simulator import Goal
from robobrain_ros.demo.staged_arm import StagedArm
from robobrain_ros.demo.watched_arm import WatchedArm
from robobrain_ros.demo.watcher import TaskWatcher
from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.errors import OutcomeCode, RoboBrainError
from robobrain_ros.evaluation.metrics import Assessment, assess, assess_refusal
from robobrain_ros.evaluation.question import Question
from robobrain_ros.evaluation.questions import ask_about
from robobrain_ros.ros.client import to_answer
from robobrain_ros.ros.limits import MOST_TIMEOUT
from robobrain_ros.ros.tasks import TASKS

SCENE_SEED = 12
SIZE = (640, 480)
TOUR = (
    ("point", 7), ("spots", 9), ("vacant", 9), ("afford", 7), ("ground", 0), ("reach", 11), ("put", 5), ("plan", 10),
    ("describe", 10), ("count", 12), ("exists", 10), ("where", 5), ("absent", 9),
)  # fmt: skip
"""Questions of the tour: kinds of `questions.KINDS_OF_QUESTIONS`, each with the seed of its wording."""
THINKING_TOUR = (("point", 2), ("plan", 3))
"""Questions with thinking, which follow at the end."""
ARM_TASK, ARM_GOAL = "put the yellow block into the green bowl", Goal("in", ("yellow block",), "green bowl")
"""Task of the arm, and the goal that is reached when the task is done."""
_DRAWING = 10.0
"""Seconds to wait for the image with the answer after the response."""
ON_SHEET = 8
"""Number of answers on the sheet. The first answers are those with something to draw."""


@dataclass(frozen=True)
class Row:
    """One question of the tour, and its result."""

    question: Question
    think: bool
    outcome: str
    answered: str
    verdict: Assessment
    seconds: float
    image: Image | None


class QuickstartClient(DemoClient):
    """A client that also receives the images with the answers drawn on them."""

    def __init__(self, namespace: str) -> None:
        super().__init__("quickstart", namespace)
        self._overlay: Image | None = None
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(Image, "robobrain/overlay", self._keep_overlay, latched)

    def _keep_overlay(self, message: Image) -> None:
        self._overlay = message

    def see_answer(self, question: Question, think: bool, timeout: float) -> tuple[Any, Image | None]:
        """Call a service. Return the response, and the image with the answer drawn on it if there is an answer."""
        self._overlay = None
        response = self.ask_node(question.task, question.text, think, timeout)
        if response.outcome.code not in (OutcomeCode.OK, OutcomeCode.NOTHING_FOUND):
            return response, None
        # The node draws in the background, so the image of the previous question may arrive now.
        stamp = TASKS[question.task].result_in(response).header.stamp
        end = time.monotonic() + _DRAWING
        while not self._shows(stamp) and time.monotonic() < end:
            rclpy.spin_once(self, timeout_sec=0.1)
        return response, self._overlay if self._shows(stamp) else None

    def _shows(self, stamp: Any) -> bool:
        return self._overlay is not None and self._overlay.header.stamp == stamp


def describe(answer: Answer) -> str:
    """Return the answer in a few words, for the table."""
    if answer.points or answer.waypoints:
        return " ".join(f"({point.u:.0f}, {point.v:.0f})" for point in answer.points or answer.waypoints)
    if answer.boxes:
        return " ".join(f"[{box.u_min:.0f}, {box.v_min:.0f}, {box.u_max:.0f}, {box.v_max:.0f}]" for box in answer.boxes)
    if answer.steps:
        return " ".join(f"{step.order}. {step.text}" for step in answer.steps)
    return answer.text


def tour(scene: Scene) -> list[tuple[Question, bool]]:
    """Return the questions of the tour, each with whether the model thinks first."""
    without = [(ask_about(scene, kind, random.Random(seed)), False) for kind, seed in TOUR]
    return without + [(ask_about(scene, kind, random.Random(seed)), True) for kind, seed in THINKING_TOUR]


def ask_all(client: QuickstartClient, scene: Scene, timeout: float) -> list[Row]:
    """Ask all questions of the tour, and print each row of the table when its answer arrives."""
    rows = []
    for question, think in tour(scene):
        began = time.monotonic()
        response, image = client.see_answer(question, think, timeout)
        seconds = time.monotonic() - began
        answer = to_answer(question.task, response)
        code = OutcomeCode(response.outcome.code)
        said = describe(answer) if code is OutcomeCode.OK else response.outcome.message
        row = Row(question, think, code.name, said, judge(scene, question, answer, code), seconds, image)
        print_row(row)
        rows.append(row)
    return rows


def judge(scene: Scene, question: Question, answer: Answer, code: OutcomeCode) -> Assessment:
    """Check whether a response is correct, with or without an answer."""
    if code is OutcomeCode.OK:
        return assess(scene, question, answer)
    if code is OutcomeCode.NOTHING_FOUND:
        return assess_refusal(question)
    return Assessment(False, f"{code.name} is no answer.", 0.0)


_COLUMNS = (("task", 11), ("asked", 42), ("answered", 60), ("right?", 7), ("s", 5))


def print_table_head() -> None:
    """Print the first two lines of the table."""
    print("  ".join(f"{name:<{width}}" for name, width in _COLUMNS))
    print("  ".join("-" * width for _, width in _COLUMNS))


def print_row(row: Row) -> None:
    """Print one row of the table. Long texts continue on further lines."""
    right = "yes" if row.verdict.right else "no"
    answered = row.answered if row.outcome in ("OK", "NOTHING_FOUND") else f"{row.outcome}: {row.answered}"
    task = row.question.task.value + ("+" if row.think else "")
    asked, said = textwrap.wrap(row.question.text, 42), textwrap.wrap(answered, 60, max_lines=8, placeholder=" ...")
    cells = [[task], asked, said, [right], [f"{row.seconds:.2f}"]]
    for line in range(max(len(cell) for cell in cells)):
        parts = [cell[line] if line < len(cell) else "" for cell in cells]
        print("  ".join(f"{part:<{width}}" for part, (_, width) in zip(parts, _COLUMNS, strict=True)).rstrip(), flush=True)


def save_images(rows: Sequence[Row], folder: Path) -> Path:
    """Save each image with its answer, and the first images together on one sheet. Return the path of the sheet."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for number, row in enumerate(rows, start=1):
        if row.image is None:
            continue
        image = np.frombuffer(row.image.data, np.uint8).reshape(row.image.height, row.image.width, 3)
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        write_png(folder / f"{number:02d}-{row.question.task.value}.png", bgr)
        drawn.append(bgr)
    sheet = folder / "sheet.png"
    write_png(sheet, contact_sheet(drawn[:ON_SHEET]))
    return sheet


def write_png(path: Path, bgr: npt.NDArray[Any]) -> None:
    """Write an image as PNG. cv2.imwrite would crash on a file name that is not UTF-8, and hide errors."""
    path.write_bytes(cv2.imencode(".png", bgr)[1].tobytes())


def contact_sheet(images: Sequence[npt.NDArray[Any]], columns: int = 4) -> npt.NDArray[Any]:
    """Arrange images of the same size in a grid, each at half of its size."""
    small = [cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for image in images]
    small += [np.full_like(small[0], 255)] * (-len(small) % columns)
    return np.vstack([np.hstack(small[start : start + columns]) for start in range(0, len(small), columns)])


def sum_up(rows: Sequence[Row], folder: Path) -> None:
    """Save the images, and print the number of correct answers."""
    sheet = save_images(rows, folder) if any(row.image for row in rows) else None
    print(f"\n{sum(row.verdict.right for row in rows)} of {len(rows)} answers are correct.")
    print(f"Images with the answers drawn on them: {sheet or 'none, because no answer could be read'}")


def close_the_loop(client: DemoClient, timeout: float, monitor: str) -> None:
    """Let the simulated arm execute plans of the node, with one slip. Print each plan and step, and publish the camera's images.

    :param monitor: what notices the slip, one of `executor.MONITORS`.
    :raises DemoError: the node does not answer.
    """
    world = World(make_scene(SCENE_SEED, SIZE).layout, np.random.RandomState(SCENE_SEED))
    print(f"\nTask of the arm: {ARM_TASK}. The first object that it grasps slips once. Monitor of the steps: {monitor}.")
    camera = WorldCamera(client, world)
    arm: Arm = SimulatedArm(world, ["slip"])
    if monitor == "vision":
        arm = WatchedArm(StagedArm(world, ["slip"], SCENE_SEED), TaskWatcher(client, timeout=timeout), report=print)
    try:
        ending = Executor(client, arm, timeout=timeout).run(ARM_TASK)
    except RoboBrainError as error:
        raise DemoError(error.message) from error
    finally:
        camera.close()
    truth = "holds" if world.table.holds(ARM_GOAL) else "does not hold"
    print(f"{'Done' if ending.done else 'Not done'}: {ending.why} In the simulated scene, the goal {truth}.")


def keep_page(page: LivePage, node: "subprocess.Popen[bytes]", namespace: str, folder: Path, size: dict[str, int]) -> None:
    """Publish the camera's images until the user presses Ctrl-C, or a process ends."""
    with running("robobrain_ros.demo.camera", namespace, folder / "camera.log", seed=SCENE_SEED, moving=True, **size):
        print(f"The page {page.address} goes on until you press Ctrl-C.", flush=True)
        while node.poll() is None and page.is_running:
            time.sleep(0.2)


def run(options: argparse.Namespace) -> int:
    """Run the tour. Return the exit status."""
    folder = options.output
    if not options.model:
        print("Model: the tabletop demo model. It knows only the demo's objects and does not replace RoboBrain.")
    namespace = f"/robobrain_demo_{os.getpid()}"
    scene = make_scene(SCENE_SEED, SIZE)
    model = options.model or str(DEMO_MODEL)
    size = {"width": SIZE[0], "height": SIZE[1]}
    with running("robobrain_ros.cli.robobrain", namespace, folder / "node.log", **{"engine.model": model}) as node:
        print(f"Starting the camera and the node. Their logs are in {folder}/.")
        client = QuickstartClient(namespace)
        page: LivePage | None = None
        try:
            if options.live:
                page = LivePage(namespace, folder / "live.log")
                print(f"Open {page.address} in a browser to see the images, the scene and the answers.")
            with running("robobrain_ros.demo.camera", namespace, folder / "camera.log", seed=SCENE_SEED, **size):
                client.wait_until_ready(node, options.timeout, ProgressPrinter())
                names = ", ".join(thing.name for thing in scene.objects)
                print(f"On the table: {names}. A + after a task: the model thinks first.\n")
                print_table_head()
                rows = ask_all(client, scene, options.timeout)
            sum_up(rows, folder)
            close_the_loop(client, options.timeout, options.monitor or ("simulator" if options.model else "vision"))
            if page is not None:
                keep_page(page, node, namespace, folder, size)
        finally:
            client.destroy_node()
            if page is not None:
                page.stop()
    return 0


def main() -> None:
    """Run the tour from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for images and logs")
    parser.add_argument("--model", default="", help="model: a folder, or a name on the hub (default: the tabletop demo model)")
    parser.add_argument(
        "--monitor",
        choices=MONITORS,
        help="what notices the failed steps of the arm: the simulator's truth, or ~/watch_task, with a model that was trained "
        "for comparisons (default: vision; simulator with --model)",
    )
    parser.add_argument("--live", action="store_true", help="also show everything on a page in the browser, until Ctrl-C")
    parser.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        help="time limit in seconds for loading and for each answer (default: %(default)g)",
    )
    options = parser.parse_args()
    if not 0.0 < options.timeout <= MOST_TIMEOUT:
        parser.error(f"--timeout must be above 0 and at most {MOST_TIMEOUT:g}")
    # Do not send messages to other machines.
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    rclpy.init()
    try:
        sys.exit(run(options))
    except DemoError as error:
        sys.exit(f"{error} See {options.output}/node.log.")
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit(130)
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
