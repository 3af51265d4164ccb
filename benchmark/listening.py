"""The processes of images.py: `python listening.py send|robobrain|bare JSON`. The JSON contains the fields of `Streams`.

Each process runs until it is interrupted. Then it prints JSON: the stamps (nanoseconds) of the sent or received images, by topic.
"""

import array
import contextlib
import json
import signal
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from robobrain_ros.engine.base import EngineHealth, EngineInfo, Generation, ProgressCallback, TextDelta
from robobrain_ros.engine.memory import keep_buffers
from robobrain_ros.ros.cameras.arrivals import ArrivalStatistics
from robobrain_ros.ros.node import RoboBrainNode

NAMESPACE = "/robobrain_images"


@dataclass(frozen=True)
class Streams:
    """Cameras c0, c1, ... that send bgr8 images of this size at this rate."""

    count: int
    width: int
    height: int
    rate: float
    reliable: bool

    @property
    def topics(self) -> list[str]:
        """Names of the image topics."""
        return [f"{NAMESPACE}/c{number}/image" for number in range(self.count)]

    @property
    def qos(self) -> QoSProfile:
        """Quality of service of publishers and subscribers. The depth is typical of cameras."""
        reliability = ReliabilityPolicy.RELIABLE if self.reliable else ReliabilityPolicy.BEST_EFFORT
        return QoSProfile(depth=1, reliability=reliability)


class Sender(Node):
    """Publishes still images on all topics."""

    def __init__(self, streams: Streams) -> None:
        super().__init__("sender")
        self.stamps: dict[str, list[int]] = {topic: [] for topic in streams.topics}
        self._message = Image(width=streams.width, height=streams.height, step=streams.width * 3, encoding="bgr8")
        self._message.data = array.array("B", bytes(streams.width * streams.height * 3))
        self._outputs = {topic: self.create_publisher(Image, topic, streams.qos) for topic in streams.topics}
        self.create_timer(1.0 / streams.rate, self._publish)

    def _publish(self) -> None:
        for topic, publisher in self._outputs.items():
            now = self.get_clock().now()
            self._message.header.stamp = now.to_msg()
            publisher.publish(self._message)
            self.stamps[topic].append(now.nanoseconds)


class BareSubscribers(Node):
    """A minimal node: it stores the newest image of each topic, and counts the images."""

    def __init__(self, streams: Streams) -> None:
        super().__init__("bare_subscribers")
        self.stamps: dict[str, list[int]] = {topic: [] for topic in streams.topics}
        self.newest: dict[str, Image] = {}
        for topic in streams.topics:
            self.create_subscription(Image, topic, partial(self._keep, topic), streams.qos)

    def _keep(self, topic: str, message: Image) -> None:
        self.newest[topic] = message
        stamp = message.header.stamp
        self.stamps[topic].append(stamp.sec * 10**9 + stamp.nanosec)


class Noting(ArrivalStatistics):
    """Statistics that also store the stamps."""

    def __init__(self) -> None:
        super().__init__()
        self.stamps: list[int] = []

    def add(self, arrival: float, stamp: float, late: bool = False) -> None:
        """See `ArrivalStatistics.add`."""
        super().add(arrival, stamp, late)
        self.stamps.append(round(stamp * 1e9))


class IdleEngine:
    """An engine that is ready, and gets no requests."""

    async def start(self, progress: ProgressCallback) -> EngineInfo:
        """Become ready at once."""
        return EngineInfo(model="idle", model_type="qwen2_5_vl", engine="idle", cell=28)

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        """Write no text."""
        yield TextDelta("", 0, finish_reason="stop")

    async def abort(self, request_id: str) -> None:
        """Do nothing."""

    def health(self) -> EngineHealth:
        """Report the state ready."""
        return EngineHealth("ready", "")

    async def close(self) -> None:
        """Do nothing."""


def robobrain(streams: Streams) -> RoboBrainNode:
    """Start the node with all cameras, as the program does, and activate it."""
    keep_buffers()
    values = {
        "cameras": [topic.split("/")[-2] for topic in streams.topics],
        "warm_up": False,
        "grid_check": "off",
        "autostart": False,
    }
    parameters = [Parameter(name, value=value) for name, value in values.items()]
    node = RoboBrainNode(engine_factory=IdleEngine, namespace=NAMESPACE, parameter_overrides=parameters)
    node.trigger_configure()
    node.trigger_activate()
    for camera in node.cameras:
        camera.statistics = Noting()
    return node


def stamps_of(node: Any) -> dict[str, list[int]]:
    """Return the stamps that a node has sent or received."""
    if isinstance(node, RoboBrainNode):
        return {camera.topic: camera.statistics.stamps for camera in node.cameras if isinstance(camera.statistics, Noting)}
    return dict(node.stamps)


def main() -> None:
    """Run one of the three processes until SIGINT."""
    stop = []
    signal.signal(signal.SIGINT, lambda number, frame: stop.append(number))
    streams = Streams(**json.loads(sys.argv[2]))
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node: Any = {"send": Sender, "robobrain": robobrain, "bare": BareSubscribers}[sys.argv[1]](streams)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    with contextlib.suppress(ExternalShutdownException):
        while not stop:
            executor.spin_once(timeout_sec=0.2)
    stamps = stamps_of(node)
    node.destroy_node()
    executor.shutdown(timeout_sec=1.0)
    rclpy.try_shutdown()
    print(json.dumps(stamps), flush=True)


if __name__ == "__main__":
    main()
