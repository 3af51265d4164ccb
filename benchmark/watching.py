"""Measure what watching a task costs: how much slower the requests of clients become, and how many estimates the engine makes::

    python benchmark/watching.py

A camera of the tabletop demo sends 640x480 images at 10 Hz. A client calls ~/point, one call after the other, in blocks that
alternate between without a watch and with a watch of ~/watch_task. The watch has a goal image, so each estimate has three
comparisons. Results: docs/results/node.md.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import figures
import psutil
from client import BenchmarkError, Client, add_node_options, child, cpu_seconds, on_this_machine, ros
from figures import Comparison, Goal, compare, quantile
from rclpy.action import ActionClient
from rclpy.qos import qos_profile_sensor_data
from run import describe_machine
from sensor_msgs.msg import Image

from robobrain_ros.action import WatchTask

TASK = "put the purple mug in the green bowl"
QUESTION = "the purple mug"
GOAL_RATE, GOAL_RATIO = 2.0, 1.15
"""At this number of estimates per second, the median of a call may become this many times as long."""
_UNMEASURED = 5
"""Calls at the start of each block that are not measured."""
_PATIENCE = 60.0


class Watcher(Client):
    """A client that can also watch a task."""

    def __init__(self, namespace: str, timeout: float) -> None:
        super().__init__(namespace, timeout, 128)
        self._action = ActionClient(self, WatchTask, "robobrain/watch_task")
        self._image: Image | None = None
        self.create_subscription(Image, "camera/image", self._keep, qos_profile_sensor_data)

    def _keep(self, message: Image) -> None:
        self._image = message

    def start(self, rate: float) -> Any:
        """Start a watch that does not decide anything, and return its handle after the first estimate."""
        if not self.wait(lambda: self._image is not None and self._action.server_is_ready(), _PATIENCE):
            raise BenchmarkError("There is no camera image, or no action ~/watch_task.")
        goal = WatchTask.Goal(task=TASK, rate=rate, success=1.0, regression=0.999, confirmations=255, timeout=3600.0)
        goal.reference_end = self._image
        feedback: list[Any] = []
        handle = self._wait(self._action.send_goal_async(goal, feedback_callback=feedback.append))
        if not handle.accepted or not self.wait(lambda: bool(feedback), _PATIENCE):
            raise BenchmarkError("The watch makes no estimate.")
        return handle

    def end(self, handle: Any) -> WatchTask.Result:
        """Cancel a watch and return its result."""
        result = handle.get_result_async()
        self._wait(handle.cancel_goal_async())
        return self._wait(result).result

    def _wait(self, future: Any) -> Any:
        if not self.wait(future.done, _PATIENCE):
            raise BenchmarkError("The node does not answer.")
        return future.result()

    def calls(self, count: int) -> list[float]:
        """Call ~/point this number of times. Return the seconds of each call after the first ones."""
        seconds = [self.ask(QUESTION).seconds for _ in range(_UNMEASURED + count)]
        return seconds[_UNMEASURED:]


def compare_rate(
    client: Watcher, cpu: Callable[[], float], rate: float, options: argparse.Namespace
) -> tuple[Comparison, dict[str, Any]]:
    """Compare calls with and without a watch at a rate, in the order A B B A.

    :param cpu: returns the CPU seconds of the node and its engine.
    """
    watched: list[float] = []
    alone: list[float] = []
    estimates = skipped = 0
    lasted = used = 0.0
    for block in range(options.blocks):
        for watching in (False, True) if block % 2 else (True, False):
            if not watching:
                alone += client.calls(options.calls)
                continue
            handle = client.start(rate)
            began, before = time.monotonic(), cpu()
            watched += client.calls(options.calls)
            lasted, used = lasted + time.monotonic() - began, used + cpu() - before
            result = client.end(handle)
            estimates, skipped = estimates + result.estimates, skipped + result.skipped
    goal = Goal(GOAL_RATIO) if rate == GOAL_RATE else None
    line = compare(f"call while watching at {rate:g} Hz, p50", watched, alone, quantile(0.5), "ms", goal=goal, scale=1000.0)
    about = {"rate": rate, "estimates": estimates, "skipped": skipped, "seconds": lasted, "cpu_cores": used / lasted}
    return line, {**about, "watched": watched, "alone": alone}


def measure(options: argparse.Namespace, folder: Path) -> tuple[list[Comparison], list[dict[str, Any]]]:
    """Start the node and the camera, and compare the calls at each rate."""
    namespace = f"/robobrain_watching_{os.getpid()}"
    in_namespace = ["--ros-args", "-r", f"__ns:={namespace}"]
    lines, rows = [], []
    with ExitStack() as stack:
        client = Watcher(namespace, options.timeout)
        stack.callback(client.destroy_node)
        arguments = ["-P", "-m", "robobrain_ros.cli.robobrain", *in_namespace, "-p", f"engine.model:={options.model}"]
        node = stack.enter_context(child(arguments, folder / "node.log"))
        stack.enter_context(child(["-P", "-m", "robobrain_ros.demo.camera", *in_namespace], folder / "camera.log"))
        figures.tell("Starting the node ...")
        client.wait_until_ready(node, options.timeout_start)
        process = psutil.Process(node.pid)
        family = [process, *process.children(recursive=True)]
        for rate in options.rates:
            figures.tell(f"Watching at {rate:g} Hz ...")
            line, row = compare_rate(client, lambda: sum(map(cpu_seconds, family)), rate, options)
            lines.append(line)
            rows.append(row)
    return lines, rows


def load_table(rows: list[dict[str, Any]]) -> str:
    """Return what the watches did while the client called, as a table."""
    head = ("wanted estimates per second", "reached", "skipped", "CPU, cores")
    cells = [
        (f"{row['rate']:g}", f"{row['estimates'] / row['seconds']:.2f}", str(row["skipped"]), f"{row['cpu_cores']:.2f}")
        for row in rows
    ]
    return figures.plain_table([head, *cells])


def read_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_node_options(parser)
    parser.add_argument("--rates", nargs="+", type=float, default=[0.5, 1.0, GOAL_RATE], help="estimates per second")
    parser.add_argument("--blocks", type=int, default=6, help="pairs of blocks for each rate")
    parser.add_argument("--calls", type=int, default=40, help="measured calls in a block")
    parser.add_argument("--output", type=Path, default=Path("log/watching.json"), help="file for the JSON")
    return parser.parse_args()


def main() -> None:
    """Measure, print the tables, and write the JSON file."""
    options = read_arguments()
    on_this_machine()
    folder = Path(tempfile.mkdtemp(prefix="robobrain_ros-watching-"))
    try:
        with ros():
            about = {**describe_machine(), "command": " ".join(sys.argv), "model": options.model}
            lines, rows = measure(options, folder)
    except BenchmarkError as error:
        sys.exit(f"{error} The programs' logs are in {folder}.")
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"{figures.table(lines, ('watching', 'alone'))}\n\n{load_table(rows)}")
    figures.write(options.output, lines, {"rates": rows}, about)
    figures.tell(f"All measurements are in {options.output}.")


if __name__ == "__main__":
    main()
