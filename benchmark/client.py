"""The benchmark's other programs, as run.py sees them: a node that publishes and asks, and child processes that always end."""

import array
import contextlib
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

from robobrain_ros.errors import OutcomeCode
from robobrain_ros.msg import QueryOptions
from robobrain_ros.srv import Locate

HERE = Path(__file__).resolve().parent
LARGE = HERE.parent / "config" / "fastdds_large.xml"
"""Fast DDS with room in shared memory for whole images."""
_PATIENCE = 30.0
"""Seconds that a child may take to end, and an image to arrive."""


class BenchmarkError(Exception):
    """Nothing can be measured; the message says why."""


class Client(Node):
    """A user's node: publishes images, asks ~/point through DDS, listens to the diagnostics."""

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
        """Spin until the condition holds; gives whether it does."""
        end = time.monotonic() + seconds
        while not condition() and (left := end - time.monotonic()) > 0.0:
            self._spinner.spin_once(timeout_sec=min(left, 0.5))
        return condition()

    def wait_until_ready(self, process: "subprocess.Popen[bytes]", seconds: float) -> None:
        """Wait until the node has loaded its model.

        :raises BenchmarkError: it has not.
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
        """Publish a bgr8 image, again where it was lost on its way.

        :param arrived: waits for the image with that stamp (nanoseconds).
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
        raise BenchmarkError("No image reaches the node.")

    def ask(self, text: str, count: int = 1) -> Asked:
        """Ask that many times at once; times are those of this process, from the first call to the last answer's arrival."""
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
    """A host.py, seen from here."""

    def __init__(self, process: "subprocess.Popen[bytes]", connection: "Connection[Any, Any]", direct: Direct) -> None:
        self.process = process
        self._connection = connection
        self._direct = direct

    def arrived(self, stamp: int) -> bool:
        """Wait for the image with that stamp."""
        return bool(self._command(AwaitImage(stamp, 2.0), 10.0))

    def ask(self, text: str, count: int = 1) -> Asked:
        """Ask the node's own engine directly in its process."""
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
    """A node with direct access to its engine, in a process that ends with the block."""
    ours, theirs = socket.socketpair()
    number = theirs.fileno()
    with theirs, child([str(HERE / "host.py"), str(number), *arguments], log, pass_fds=(number,)) as process:
        theirs.close()
        # Closed first, and that ends the process.
        with Connection(ours.detach()) as connection:
            yield Hosted(process, connection, direct)


@contextmanager
def child(arguments: Sequence[str], log: Path, pass_fds: Sequence[int] = ()) -> Iterator["subprocess.Popen[bytes]"]:
    """A Python program that ends with the block: at SIGINT, or else by force, and what it has started with it."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
            start_new_session=True,  # Ctrl-C reaches run.py alone, which ends its children in order.
        )
        try:
            yield process
        finally:
            end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a child; returns when it and its own children are gone."""
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
    """CPU time that a process has used, without its children."""
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def ros() -> Iterator[None]:
    """rclpy, for the block."""
    rclpy.init(signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    try:
        yield
    finally:
        rclpy.try_shutdown()
