"""Helpers of run.py and watching.py: a ROS client that publishes images and calls the node, and processes that always end."""

import argparse
import array
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from exchange import Asked, AwaitImage, Direct
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.errors import OutcomeCode
from robobrain_ros.msg import QueryOptions
from robobrain_ros.ros.process.transport_profile import profile_variable
from robobrain_ros.srv import Locate

HERE = Path(__file__).resolve().parent
LARGE = HERE.parent / "config" / "fastdds_large.xml"
"""Fast DDS profile whose shared memory has room for complete images."""
_PATIENCE = 30.0
"""Time limit in seconds for the end of a child process, and for the arrival of an image."""


def on_this_machine() -> None:
    """Send no messages to other machines, and large ones over shared memory, unless the environment selects something else."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault(profile_variable(), str(LARGE))


def add_node_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a program that starts a node."""
    parser.add_argument("--model", default=str(DEMO_MODEL), help="checkpoint: a folder, or a name on the hub")
    parser.add_argument("--timeout", type=float, default=120.0, help="time limit of an answer in seconds")
    parser.add_argument("--timeout-start", type=float, default=900.0, help="time limit for loading the model in seconds")


class BenchmarkError(Exception):
    """The measurement is impossible. The message states the reason."""


class Client(Node):
    """The node of a user: it publishes images, calls ~/point over DDS, and subscribes to the diagnostics."""

    def __init__(self, namespace: str, timeout: float, max_tokens: int) -> None:
        super().__init__("benchmark", namespace=namespace, start_parameter_services=False, enable_rosout=False)
        self.diagnostics: dict[str, dict[str, str]] = {}
        self._timeout = timeout
        self._options = QueryOptions(think=QueryOptions.THINK_OFF, timeout=timeout, max_tokens=max_tokens)
        self._images = self.create_publisher(Image, "camera/image", QoSProfile(depth=2))
        self._service = self.create_client(Locate, "robobrain/point")
        self.create_subscription(DiagnosticArray, "/diagnostics", self._read_diagnostics, 10)
        self._spinner = SingleThreadedExecutor()
        self._spinner.add_node(self)

    def _read_diagnostics(self, message: DiagnosticArray) -> None:
        own = f"{self.get_namespace().strip('/')}/robobrain: "
        for status in message.status:
            if status.name.startswith(own):
                values = {value.key: value.value for value in status.values}
                self.diagnostics[status.name.removeprefix(own)] = {"message": status.message, **values}

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Spin until the condition is true. Return False if the time limit passed."""
        end = time.monotonic() + seconds
        while not condition() and (left := end - time.monotonic()) > 0.0:
            self._spinner.spin_once(timeout_sec=min(left, 0.5))
        return condition()

    def wait_until_ready(self, process: "subprocess.Popen[bytes]", seconds: float) -> None:
        """Wait until the node has loaded its model.

        :raises BenchmarkError: it has not loaded the model in time.
        """

        def state() -> str:
            return "ended" if process.poll() is not None else self.diagnostics.get("engine", {}).get("state", "")

        self.wait(lambda: state() in ("ready", "failed", "ended"), seconds)
        if state() != "ready":
            told = self.diagnostics.get("engine", {}).get("message", "nothing was heard of it")
            raise BenchmarkError(f"The node was not ready within {seconds:.0f} s: {told}")
        if not self._service.wait_for_service(_PATIENCE):
            raise BenchmarkError("The node's service ~/point did not appear.")

    def show(self, image: npt.NDArray[np.uint8], arrived: "Callable[[int], bool]") -> None:
        """Publish a bgr8 image. Publish it again if it does not arrive.

        :param arrived: waits for the image with this stamp (nanoseconds).
        :raises BenchmarkError: it does not arrive.
        """
        height, width = image.shape[:2]
        message = Image(width=width, height=height, step=width * 3, encoding="bgr8")
        message.data = array.array("B", image.tobytes())
        for _ in range(5):
            now = self.get_clock().now()
            message.header.stamp = now.to_msg()
            self._images.publish(message)
            if arrived(now.nanoseconds):
                return
        raise BenchmarkError("No image arrives at the node.")

    def ask(self, text: str, count: int = 1) -> Asked:
        """Send this number of calls at once. Return the time from the first call to the arrival of the last response."""
        each: list[tuple[float, str, int]] = []
        request = Locate.Request(instruction=text, options=self._options)

        def note(began: float, future: Any) -> None:
            seconds, response = time.monotonic() - began, future.result()
            tokens = response.affordances.report.answer_tokens
            each.append((seconds, OutcomeCode(response.outcome.code).name, tokens))

        started = time.monotonic()
        for _ in range(count):
            began = time.monotonic()
            self._service.call_async(request).add_done_callback(lambda future, began=began: note(began, future))
        end = started + self._timeout + 10.0
        while len(each) < count:
            if time.monotonic() > end:
                raise BenchmarkError("The node does not answer.")
            self._spinner.spin_once(timeout_sec=1.0)
        return Asked(time.monotonic() - started, each)


class Hosted:
    """Connection to a process of host.py."""

    def __init__(self, process: "subprocess.Popen[bytes]", connection: "Connection[Any, Any]", direct: Direct) -> None:
        self.process = process
        self._connection = connection
        self._direct = direct

    def arrived(self, stamp: int) -> bool:
        """Wait until the image with this stamp has arrived."""
        return bool(self._command(AwaitImage(stamp, 2.0), 10.0))

    def ask(self, text: str, count: int = 1) -> Asked:
        """Call the engine of the node directly in its process."""
        answer = self._command(Direct(text, count, self._direct.timeout, self._direct.max_tokens), self._direct.timeout + 10.0)
        assert isinstance(answer, Asked)
        return answer

    def _command(self, command: object, timeout: float) -> object:
        try:
            self._connection.send(command)
            if self._connection.poll(timeout):
                return self._connection.recv()
        except (EOFError, OSError):
            pass
        raise BenchmarkError("The node's process has ended or does not respond.")


@contextmanager
def hosted(arguments: Sequence[str], log: Path, direct: Direct) -> Iterator[Hosted]:
    """Run a node with direct access to its engine, in a process, until the end of the block."""
    ours, theirs = socket.socketpair()
    number = theirs.fileno()
    with theirs, child([str(HERE / "host.py"), str(number), *arguments], log, pass_fds=(number,)) as process:
        theirs.close()
        # The socket is closed first. This ends the process.
        with Connection(ours.detach()) as connection:
            yield Hosted(process, connection, direct)


@contextmanager
def child(arguments: Sequence[str], log: Path, pass_fds: Sequence[int] = ()) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a Python program until the end of the block. It gets SIGINT, and is killed with its children if it does not end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
            start_new_session=True,  # Ctrl-C reaches only run.py, which ends its children in order.
        )
        try:
            yield process
        finally:
            end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a child, and wait until it and its own children have ended."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=_PATIENCE)
    _, alive = psutil.wait_procs(family, timeout=5.0)
    for survivor in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            survivor.kill()


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU seconds of a process, without its children."""
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def ros() -> Iterator[None]:
    """Initialize rclpy, and shut it down at the end of the block."""
    rclpy.init(signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    try:
        yield
    finally:
        rclpy.try_shutdown()
