"""Evaluate a node: images go to its camera topic, questions to its services."""

import asyncio
import os
import sys
import tempfile
import time
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import rclpy
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from robobrain_ros.cli.progress import ProgressPrinter
from robobrain_ros.core.query import Answer, Query, RgbImage, Task
from robobrain_ros.demo import DemoError
from robobrain_ros.demo.client import DemoClient, running
from robobrain_ros.demo.encodings import encode_image
from robobrain_ros.errors import OutcomeCode, error_of
from robobrain_ros.ros.client import to_answer
from robobrain_ros.ros.tasks import TASKS

_PATIENCE = 300.0
"""Time limit in seconds of a query without one."""
_MOST_TRIES = 50
"""Attempts at a question until the answer is about the published image, which may arrive after the question."""


class NodeBrain:
    """Answers queries as a `core.brain.Brain` does, one at a time."""

    def __init__(self, client: DemoClient) -> None:
        self._client = client
        self._publisher = client.create_publisher(Image, "camera/image", QoSProfile(depth=5))
        self._lock = asyncio.Lock()

    async def run(self, query: Query) -> Answer:
        """Publish the query's image, ask, and return the answer.

        :raises RoboBrainError: the node's outcome is not OK.
        """
        async with self._lock:
            return await asyncio.to_thread(self._run, query)

    def _run(self, query: Query) -> Answer:
        header = self._show(query.images[0])
        for _ in range(_MOST_TRIES):
            response = self._client.ask_node(query.task, query.text, bool(query.think), query.timeout or _PATIENCE, query.plan)
            if TASKS[query.task].result_in(response).header == header:
                return _answer(query.task, response)
        raise DemoError("The node did not answer about the newest image of its camera.")

    def _show(self, image: RgbImage) -> Any:
        height, width = image.shape[:2]
        data, step = encode_image(image, "bgr8")
        message = Image(width=width, height=height, encoding="bgr8", step=step, data=array("B", data.tobytes()))
        message.header.frame_id = "camera_optical_frame"
        message.header.stamp = self._client.get_clock().now().to_msg()
        end = time.monotonic() + 10.0
        while not self._publisher.get_subscription_count() and time.monotonic() < end:
            rclpy.spin_once(self._client, timeout_sec=0.1)
        self._publisher.publish(message)
        return message.header


def _answer(task: Task, response: Any) -> Answer:
    code = OutcomeCode(response.outcome.code)
    if code is not OutcomeCode.OK:
        raise error_of(code, response.outcome.message)
    return to_answer(task, response)


@asynccontextmanager
async def open_node(model: str, **engine: object) -> AsyncIterator[NodeBrain]:
    """Run a node in its own process until the end of the block.

    :param engine: parameters under ``engine.``.
    :raises DemoError: the node does not become ready.
    """
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    namespace = f"/evaluation_{os.getpid()}"
    parameters = {"engine.model": model, "max_image_age": 0.0, "image_reliability": "reliable"}
    parameters |= {f"engine.{name}": value for name, value in engine.items()}
    rclpy.init()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="robobrain_ros-") as folder,
            running("robobrain_ros.cli.robobrain", namespace, Path(folder) / "node.log", **parameters) as process,
        ):
            client = DemoClient("evaluation", namespace)
            try:
                client.wait_until_ready(process, 600.0, ProgressPrinter(sys.stderr))
                yield NodeBrain(client)
            finally:
                client.destroy_node()
    finally:
        rclpy.try_shutdown()
