"""Compare the node with its own engine and with a minimal subscriber: `make bench`.

Results: docs/results/node.md.
"""

import argparse
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import figures
import numpy as np
import numpy.typing as npt
import psutil
import rclpy
from client import HERE, BenchmarkError, Client, Hosted, add_node_options, child, cpu_seconds, hosted, on_this_machine, ros
from exchange import Asked, Direct
from figures import Comparison, Goal, compare, mean, quantile

from robobrain_ros.demo.world import make_scene
from robobrain_ros.evaluation.questions import ask_about

PARTS = ("call", "throughput", "cache", "stream")
CALL_SIZE = (1280, 720)
STREAM_SIZE = (1920, 1080)
STREAM_RATE = 30.0
AT_ONCE = 8
WINDOW = 5.0
"""Length in seconds of one measurement of CPU time."""
_SETTLING = 5.0
"""Seconds that are not measured after a stream starts or a process becomes ready."""
_UNMEASURED = 5
"""Rounds at the start of each part that are not measured."""


@dataclass
class Measured:
    """The results so far."""

    lines: list[Comparison] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


class Images:
    """A scene with different noise in each image. The images look alike to the model, but are new for every cache."""

    def __init__(self, seed: int) -> None:
        self.scene = make_scene(seed, CALL_SIZE)
        self._noise = np.random.default_rng(seed)
        self._dimmed = np.minimum(np.ascontiguousarray(self.scene.image[:, :, ::-1]), 251)

    def next(self) -> npt.NDArray[np.uint8]:
        """Return a new bgr8 image."""
        return self._dimmed + self._noise.integers(0, 5, self._dimmed.shape, np.uint8)

    def questions(self, count: int) -> list[str]:
        """Return different questions for points in the scene."""
        found: dict[str, None] = {}
        dice = random.Random(0)
        for _ in range(1000):
            found.setdefault(ask_about(self.scene, "point", dice).text)
            if len(found) == count:
                return list(found)
        raise BenchmarkError("The scene has too few objects for the questions.")


def measure_calls(client: Client, node: Hosted, options: argparse.Namespace, measured: Measured) -> None:
    """Compare a service call with a direct call, alternately, about the same new image."""
    images = Images(options.seed)
    (question,) = images.questions(1)
    service, direct = _in_turns(client, node, images, question, 1, options.pairs)
    ours, theirs = _seconds(service), _seconds(direct)
    measured.samples["call"] = {"node": ours, "direct": theirs, "question": question, **_outcomes(service, direct)}
    measured.lines += [
        compare("service call, p50", ours, theirs, quantile(0.5), "ms", goal=Goal(1.05), scale=1000.0),
        compare("service call, p95", ours, theirs, quantile(0.95), "ms", scale=1000.0),
    ]


def measure_throughput(client: Client, node: Hosted, options: argparse.Namespace, measured: Measured) -> None:
    """Compare eight service calls at once with eight direct calls, alternately."""
    images = Images(options.seed)
    (question,) = images.questions(1)
    service, direct = _in_turns(client, node, images, question, AT_ONCE, options.rounds)
    ours, theirs = _seconds(service), _seconds(direct)
    measured.samples["throughput"] = {"node": ours, "direct": theirs, "question": question, **_outcomes(service, direct)}
    goal = Goal(0.95, at_least=True)
    measured.lines.append(
        compare(f"{AT_ONCE} calls at once", ours, theirs, quantile(0.5), "calls/s", goal=goal, per=float(AT_ONCE))
    )


def _in_turns(
    client: Client, node: Hosted, images: Images, question: str, count: int, rounds: int
) -> tuple[list[Asked], list[Asked]]:
    """Send service calls and direct calls one after the other, in alternating order."""
    sides: list[tuple[Callable[[str, int], Asked], list[Asked]]] = [(client.ask, []), (node.ask, [])]
    service, direct = sides[0][1], sides[1][1]
    for number in range(-_UNMEASURED, rounds):
        client.show(images.next(), node.arrived)
        for ask, results in sides if number % 2 else reversed(sides):
            result = ask(question, count)
            if number >= 0:
                results.append(result)
    return service, direct


def measure_cache(client: Client, node: Hosted, options: argparse.Namespace, measured: Measured) -> None:
    """Compare the second question about an image with the first question, both through the service."""
    images = Images(options.seed)
    questions = images.questions(2)
    first: list[Asked] = []
    second: list[Asked] = []
    for number in range(-_UNMEASURED, options.pairs):
        client.show(images.next(), node.arrived)
        # Each question is the first one in every second round.
        asked = [client.ask(text) for text in (questions if number % 2 else reversed(questions))]
        if number >= 0:
            first.append(asked[0])
            second.append(asked[1])
    later, earlier = _seconds(second), _seconds(first)
    measured.samples["cache"] = {"second": later, "first": earlier, "questions": questions, **_outcomes(second, first)}
    measured.lines.append(compare("second question, p50", later, earlier, quantile(0.5), "ms", scale=1000.0))


def _seconds(asked: Sequence[Asked]) -> list[float]:
    return [one.seconds for one in asked]


def _outcomes(*sides: Sequence[Asked]) -> dict[str, Any]:
    """Return the outcomes of the calls of each side and the tokens of an answer, which show whether both did the same work."""
    names = ("node", "compared")
    outcomes: dict[str, dict[str, int]] = {name: {} for name in names}
    tokens = {}
    for name, asked in zip(names, sides, strict=True):
        each = [one for round_ in asked for one in round_.each]
        for _, outcome, _ in each:
            outcomes[name][outcome] = outcomes[name].get(outcome, 0) + 1
        tokens[name] = median(count for _, _, count in each)
        good = {"OK", "NOTHING_FOUND", "UNPARSABLE_ANSWER"}  # The content of the answer does not matter.
        if bad := outcomes[name].keys() - good:
            raise BenchmarkError(f"Calls ended with {', '.join(sorted(bad))}, so a comparison is impossible.")
    return {"outcomes": outcomes, "answer_tokens": tokens}


def measure_stream(options: argparse.Namespace, measured: Measured, folder: Path) -> None:
    """Compare the CPU time of an idle node, to which a camera streams, with that of a minimal subscriber to the same topic.

    Both run at the same time.
    """
    namespace = f"/robobrain_stream_{os.getpid()}"
    topic = f"{namespace}/camera/image"
    ros_arguments = ["--ros-args", "-r", f"__ns:={namespace}", "-p", f"engine.model:={options.model}"]
    with ExitStack() as stack:
        client = Client(namespace, options.timeout, options.max_tokens)
        stack.callback(client.destroy_node)
        node = stack.enter_context(child(["-P", "-m", "robobrain_ros.cli.robobrain", *ros_arguments], folder / "stream_node.log"))
        bare = stack.enter_context(child([str(HERE / "subscriber.py"), topic], folder / "stream_bare.log"))
        figures.tell("Starting a node to stream to ...")
        client.wait_until_ready(node, options.timeout_start)
        watched = [psutil.Process(node.pid), psutil.Process(bare.pid)]
        children = watched[0].children(recursive=True)
        windows = max(round(options.seconds / WINDOW), 2)
        client.wait(lambda: False, _SETTLING)
        figures.tell(f"CPU time without a stream, {windows * WINDOW:.0f} s ...")
        quiet = _cpu(client, [*watched, *children], windows)
        publisher = [str(HERE / "publisher.py"), topic, *map(str, STREAM_SIZE), str(STREAM_RATE)]
        camera = stack.enter_context(child(publisher, folder / "stream_camera.log"))

        def received() -> int:
            return int(client.diagnostics.get("camera camera", {}).get("received", "0"))

        if not client.wait(lambda: received() > 0 or camera.poll() is not None, 30.0) or camera.poll() is not None:
            raise BenchmarkError("The images of the stream do not arrive at the node.")
        client.wait(lambda: False, _SETTLING)
        figures.tell(f"CPU time with {STREAM_SIZE[0]}x{STREAM_SIZE[1]} at {STREAM_RATE:.0f} Hz, {windows * WINDOW:.0f} s ...")
        before, began = received(), time.monotonic()
        busy = _cpu(client, [*watched, *children], windows)
        rate = (received() - before) / (time.monotonic() - began)
    measured.samples["stream"] = {"with_stream": busy, "without": quiet, "images_per_second": rate}
    ours, theirs = ([window[index] / WINDOW for window in busy] for index in (0, 1))
    measured.lines.append(compare("CPU with stream", ours, theirs, mean, "% core", goal=Goal(1.10), scale=100.0))
    alone = [np.mean([window[index] for window in quiet]) / WINDOW for index in (0, 1)]
    engine = np.mean([sum(window[2:]) for window in busy]) / WINDOW
    measured.about["stream"] = (
        f"The node received {rate:.1f} images per second. Without a stream, the node took {alone[0]:.2%} of a core and the bare "
        f"subscriber {alone[1]:.2%}; the engine's own processes took {engine:.2%}."
    )


def _cpu(client: Client, processes: Sequence[psutil.Process], windows: int) -> list[list[float]]:
    """Return the CPU seconds of each process in each window."""
    rows = []
    before = [cpu_seconds(process) for process in processes]
    end = time.monotonic()
    for _ in range(windows):
        end += WINDOW
        client.wait(lambda: False, end - time.monotonic())
        now = [cpu_seconds(process) for process in processes]
        rows.append([after - earlier for after, earlier in zip(now, before, strict=True)])
        before = now
    return rows


def measure_hosted(options: argparse.Namespace, measured: Measured, folder: Path) -> None:
    """Measure the parts that need the node and direct calls in one process."""
    namespace = f"/robobrain_bench_{os.getpid()}"
    arguments = ["--ros-args", "-r", f"__ns:={namespace}", "-p", f"engine.model:={options.model}", "-p", "max_image_age:=0.0"]
    parts = {"call": measure_calls, "throughput": measure_throughput, "cache": measure_cache}
    with ExitStack() as stack:
        client = Client(namespace, options.timeout, options.max_tokens)
        stack.callback(client.destroy_node)
        node = stack.enter_context(hosted(arguments, folder / "host.log", Direct("", 1, options.timeout, options.max_tokens)))
        figures.tell("Starting the node ...")
        client.wait_until_ready(node.process, options.timeout_start)
        measured.about["engine"] = client.diagnostics["engine"].get("engine", "")
        for name in (name for name in parts if name in options.only):
            figures.tell(f"Measuring: {name} ...")
            parts[name](client, node, options, measured)


def describe_machine() -> dict[str, Any]:
    """Return the machine and the versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "ros": os.environ.get("ROS_DISTRO", "") or f"rclpy {version('ros-rclpy')} from PyPI",
        "middleware": rclpy.get_rmw_implementation_identifier(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def read_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_node_options(parser)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    parser.add_argument("--pairs", type=int, default=200, help="pairs of calls")
    parser.add_argument("--rounds", type=int, default=50, help=f"pairs of rounds of {AT_ONCE} calls at once")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds for the CPU time with a stream, and without")
    parser.add_argument("--max-tokens", type=int, default=128, help="token limit of an answer")
    parser.add_argument("--seed", type=int, default=12, help="seed of the scene and its noise")
    parser.add_argument("--output", type=Path, default=Path("log/benchmark.json"), help="file for the JSON")
    return parser.parse_args()


def run(options: argparse.Namespace) -> Measured:
    """Measure the selected parts. The logs of the child processes are kept only if something fails."""
    measured = Measured()
    folder = Path(tempfile.mkdtemp(prefix="robobrain_ros-bench-"))
    with ros():
        measured.about = {**describe_machine(), "command": " ".join(sys.argv), "model": options.model}
        try:
            if set(options.only) - {"stream"}:
                measure_hosted(options, measured, folder)
            if "stream" in options.only:
                measure_stream(options, measured, folder)
        except BenchmarkError as error:
            sys.exit(f"{error} The programs' logs are in {folder}.")
    for log in folder.iterdir():
        log.unlink()
    folder.rmdir()
    return measured


def main() -> None:
    """Measure, print the table, and write the JSON file."""
    options = read_arguments()
    on_this_machine()
    try:
        measured = run(options)
    except KeyboardInterrupt:
        sys.exit(130)
    print(figures.table(measured.lines))
    if note := measured.about.get("stream"):
        print(f"\n{note}")
    figures.write(options.output, measured.lines, measured.samples, measured.about)
    figures.tell(f"All measurements are in {options.output}.")


if __name__ == "__main__":
    main()
