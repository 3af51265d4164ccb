"""Run a node and direct calls of its engine in one process, so that run.py can compare both.

run.py starts it: `python host.py FILE_DESCRIPTOR --ros-args ...`. Commands and responses are pickles on this socket.
"""

import asyncio
import itertools
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

import rclpy
from exchange import Asked, AwaitImage, Direct
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from robobrain_ros.core.query import Query, RgbImage, Task
from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.errors import RoboBrainError
from robobrain_ros.ros.cameras.images import Frame
from robobrain_ros.ros.messages.conversions import read_image_message
from robobrain_ros.ros.node import RoboBrainNode

_number = itertools.count()


class Host:
    """Spins the node in this thread, and waits for commands in another thread."""

    def __init__(self, node: RoboBrainNode, connection: "Connection[Any, Any]") -> None:
        self._node = node
        self._connection = connection
        self._arrival = threading.Condition()
        self._stamp = 0
        self._ended = threading.Event()

    def spin(self) -> None:
        """Spin until the other end of the socket is closed."""
        executor = SingleThreadedExecutor()
        executor.add_node(self._node)
        threading.Thread(target=self._serve, daemon=True).start()
        while not self._ended.is_set():
            executor.spin_once(timeout_sec=0.2)
            self._look()
        self._node.finish_requests(executor)
        executor.remove_node(self._node)

    def _look(self) -> None:
        """Run after each callback, because a new image may have arrived."""
        frame = self._frame()
        stamp = 0 if frame is None else _nanoseconds(frame)
        if stamp != self._stamp:
            with self._arrival:
                self._stamp = stamp
                self._arrival.notify_all()

    def _frame(self) -> Frame | None:
        return next((camera.newest for camera in self._node.cameras), None)

    def _serve(self) -> None:
        try:
            while True:
                self._connection.send(self._obey(self._connection.recv()))
        except (EOFError, OSError):
            pass  # The other process has ended.
        finally:
            self._ended.set()

    def _obey(self, command: object) -> object:
        if isinstance(command, AwaitImage):
            with self._arrival:
                return self._arrival.wait_for(lambda: self._stamp == command.stamp, command.timeout)
        assert isinstance(command, Direct)
        frame = self._frame()
        assert frame is not None, "asked before the first image"
        # Not part of the time of the direct call, because a Python caller has the image as an array.
        image = read_image_message(frame.message)
        return self._node.model.submit(self._ask(command, image)).result(timeout=command.timeout + 5.0)

    async def _ask(self, command: Direct, image: RgbImage) -> Asked:
        # Images have names, as in the node. Otherwise, vLLM would compute a hash. The names differ from those of the node, so
        # that no call finds the image of the other side in vLLM's caches. Calls at once share an image, as service calls do.
        name = f"direct {next(_number)}"
        began = time.monotonic()
        each = await asyncio.gather(*(self._ask_once(command, image, name) for _ in range(command.count)))
        return Asked(time.monotonic() - began, list(each))

    async def _ask_once(self, command: Direct, image: RgbImage, name: str) -> tuple[float, str, int]:
        query = Query(
            Task.POINT,
            command.text,
            [image],
            image_ids=[name],
            think=False,
            timeout=command.timeout,
            max_tokens=command.max_tokens,
        )
        began = time.monotonic()
        try:
            answer = await self._node.model.brain().run(query)
        except RoboBrainError as error:
            return time.monotonic() - began, error.code.name, 0 if error.report is None else error.report.answer_tokens
        return time.monotonic() - began, "OK", answer.report.answer_tokens


def _nanoseconds(frame: Frame) -> int:
    stamp = frame.header.stamp
    return int(stamp.sec * 10**9 + stamp.nanosec)


def main() -> None:
    """Run until the other end of the socket is closed."""
    # The thread ends when the socket is closed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = RoboBrainNode(default_model=DEMO_MODEL)
    try:
        Host(node, Connection(int(sys.argv[1]))).spin()
    except ExternalShutdownException:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
