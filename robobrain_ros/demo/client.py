"""A client of the node robobrain, for programs of the demo."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray

from robobrain_ros.cli.progress import ProgressPrinter
from robobrain_ros.core.plans.request import PlanRequest
from robobrain_ros.core.query import Task
from robobrain_ros.demo import DemoError
from robobrain_ros.errors import RoboBrainError
from robobrain_ros.ros.client import TaskClient, query_options


class DemoClient(TaskClient):
    """Calls the services of the node ``robobrain`` in the same namespace, and reads its loading progress."""

    def __init__(self, name: str, namespace: str) -> None:
        super().__init__(name, namespace)
        self._state, self._progress = "", ""
        self.create_subscription(DiagnosticArray, "/diagnostics", self._read_diagnostics, 10)

    def _read_diagnostics(self, message: DiagnosticArray) -> None:
        engine = f"{self.get_namespace().strip('/')}/robobrain: engine"
        for status in message.status:
            if status.name == engine:
                self._state = next((value.value for value in status.values if value.key == "state"), "")
                self._progress = status.message

    def wait_until_ready(self, process: "subprocess.Popen[bytes]", timeout: float, progress: ProgressPrinter) -> None:
        """Wait until the model is loaded, and print the progress.

        :param process: the process of the node.
        :raises DemoError: the node could not start, or was not ready within ``timeout`` seconds.
        """
        end = time.monotonic() + timeout
        while self._state != "ready":
            rclpy.spin_once(self, timeout_sec=0.5)
            if process.poll() is not None or self._state == "failed":
                raise DemoError(f"The node could not start: {self._progress or 'it ended'}")
            if time.monotonic() > end:
                raise DemoError(f"The model was not ready after {timeout:.0f} s: {self._progress}")
            progress.update(self._progress)
        progress.finish()

    def ask_node(self, task: Task, text: str, think: bool, timeout: float, plan: PlanRequest | None = None) -> Any:
        """Call the service of a task, and return the response.

        :param plan: the context, for the task plan.
        :raises DemoError: no response arrived within ``timeout`` seconds.
        """
        try:
            self.wait_for_task(task, timeout)
            return self.ask(task, text, query_options(think=think, timeout=timeout), plan=plan)
        except RoboBrainError as error:
            raise DemoError(error.message) from error


@contextmanager
def running(module: str, namespace: str, log: Path, **parameters: object) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a node in its own process until the end of the ``with`` block. Its output is written to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["--ros-args", "-r", f"__ns:={namespace}"]
    for name, value in parameters.items():
        arguments += ["-p", f"{name}:={value}"]
    with log.open("wb") as output:
        # -P: do not import from the current folder. It may be the source folder, which has no built messages.
        command = [sys.executable, "-P", "-m", module, *arguments]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            _stop(process)


class LivePage:
    """The live view of the node ``robobrain`` in a namespace, in its own process.

    :param log: file for the errors of the process.
    :raises DemoError: it could not start.
    """

    def __init__(self, namespace: str, log: Path) -> None:
        command = [sys.executable, "-P", "-m", "robobrain_ros.live.main", "--node", f"{namespace}/robobrain", "--port", "0"]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        assert self._process.stdout is not None, "it is a pipe"
        line = self._process.stdout.readline().decode()
        if not line:
            lines = log.read_text(errors="replace").strip().splitlines() or ["it ended."]
            raise DemoError(f"The live view could not start: {lines[-1]}")
        self.address = line.split()[-1]

    @property
    def is_running(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the process."""
        _stop(self._process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=30.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=10.0)
