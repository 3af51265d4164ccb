"""Run a robobrain node and a client of it over real DDS, for tests."""

import gc
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from threading import Event, Thread
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from fakes import ScriptedEngine
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter, parameter_value_to_python
from sensor_msgs.msg import Image

from robobrain_ros import demo
from robobrain_ros.demo.encodings import encode_image
from robobrain_ros.engine import memory
from robobrain_ros.engine.base import Engine
from robobrain_ros.ros.node import RoboBrainNode
from robobrain_ros.ros.transforms import Tf2, TransformSource

LIMIT = 60.0
"""Seconds after which a test counts as hung."""

_COLLECT_EACH = 8
"""Number of rigs after which garbage is collected. A lifecycle node keeps its DDS participant until then, and DDS supports 32 on
a machine.
"""

_numbers = count()

# The nodes of many tests share this process. If their objects were exempt from garbage collection, ended nodes would keep their
# DDS participants.
setattr(memory, "settle_objects", lambda: None)  # noqa: B010 - mypy takes an assignment for a redefinition.


def image(width: int = 64, height: int = 48) -> np.ndarray:
    """An RGB image in which neighbouring pixels differ enough to detect exchanged pixels."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([columns * 255 // width, rows * 255 // height, (rows + columns) % 256], axis=2).astype(np.uint8)


def image_message(encoding: str = "rgb8", width: int = 64, height: int = 48, stamp: Time | None = None) -> Image:
    """Return `image` as a message with this stamp, or with the current time."""
    data, step = encode_image(image(width, height), encoding)
    message = Image(width=width, height=height, encoding=encoding, step=step, data=array("B", data.tobytes()))
    message.header.frame_id = "camera_optical"
    message.header.stamp = stamp or now()
    return message


def now() -> Time:
    """Return the system time as a stamp."""
    nanoseconds = time.time_ns()
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


@dataclass
class Rig:
    """The node under test, which spins in its own thread, and a client node, which spins while a test waits."""

    node: RoboBrainNode
    client: Any
    executor: SingleThreadedExecutor
    context: Any
    name: str
    clients: dict[str, Any] = field(default_factory=dict)

    def until(self, condition: Callable[[], Any], what: str = "what the test waits for", limit: float = LIMIT) -> Any:
        """Spin the client until the condition is true, and return its value."""
        end = time.monotonic() + limit
        while not (value := condition()):
            assert time.monotonic() < end, f"{what} has not come"
            self.executor.spin_once(timeout_sec=0.02)
        return value

    def send(self, service_type: Any, name: str, request: Any) -> Any:
        """Send a request to a service of the node, and return the future."""
        if name not in self.clients:
            self.clients[name] = self.client.create_client(service_type, f"{self.name}/{name}")
        client = self.clients[name]
        self.until(client.service_is_ready, f"the service {name}")
        return client.call_async(request)

    def call(self, service_type: Any, name: str, request: Any) -> Any:
        """Call a service of the node, and return the response."""
        return self.answer(self.send(service_type, name, request))

    def answer(self, future: Any) -> Any:
        """Wait for the result of a future."""
        self.until(future.done, "an answer")
        return future.result()

    def listen(self, message_type: Any, topic: str, qos: Any = 10) -> list[Any]:
        """Collect the messages of a topic."""
        messages: list[Any] = []
        self.client.create_subscription(message_type, topic, messages.append, qos)
        self.until(lambda: self.client.count_publishers(topic), f"a publisher of {topic}")
        return messages

    def show(self, message: Any, camera: str = "camera", suffix: str = "image") -> None:
        """Publish an image, and wait until the node has received it."""
        topic = f"{self.client.get_namespace().rstrip('/')}/{camera}/{suffix}"
        publisher = self.clients.setdefault(topic, None) or self.client.create_publisher(type(message), topic, 1)
        self.clients[topic] = publisher
        self.until(publisher.get_subscription_count, f"a subscription to {topic}")
        self.until(lambda: list(self.node.cameras), "open cameras")
        publisher.publish(message)

        def arrived() -> bool:
            newest = self.node.cameras[camera].newest
            return newest is not None and newest.message == message

        self.until(arrived, f"the image on {topic}")

    def transition(self, transition_id: int) -> bool:
        """Request a transition, and return whether it succeeded."""
        request = ChangeState.Request(transition=Transition(id=transition_id))
        return bool(self.call(ChangeState, "change_state", request).success)

    def parameter(self, name: str) -> Any:
        """Get a parameter through its service."""
        value = self.call(GetParameters, "get_parameters", GetParameters.Request(names=[name])).values[0]
        return parameter_value_to_python(value)

    def set_parameter(self, name: str, value: Any) -> Any:
        """Set a parameter through its service, and return the result with ``successful`` and ``reason``."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(SetParameters, "set_parameters", request).results[0]

    def until_ready(self, limit: float = LIMIT) -> None:
        """Wait until the model is loaded."""
        self.until(lambda: self.node.model.health().state == "ready", "the model", limit)

    def on_loop(self, work: Callable[[], Any]) -> None:
        """Call a function on the engine's loop. Events of asyncio need this."""

        async def run() -> None:
            work()

        self.node.model.submit(run()).result(LIMIT)


@contextmanager
def rig(
    engine: Engine | Callable[[], Engine] | None = None,
    *,
    namespace: str = "",
    remappings: Sequence[str] = (),
    transform_source: Callable[[Any], TransformSource] = Tf2,
    **parameters: Any,
) -> Iterator[Rig]:
    """Run a node with this engine in its own namespace.

    :param engine: an engine, or a factory of engines; None: the engine of the parameters.
    :param remappings: remappings of the node as on a command line, such as ``camera/image:=/front``.
    :param parameters: values by name, with __ instead of a dot. There is no warm-up and no grid check, because
        they would use the engine's scripts.
    """
    number = next(_numbers)
    if number % _COLLECT_EACH == 0:
        gc.collect()
    namespace = namespace or f"/test_{number}"
    context = rclpy.context.Context()
    rclpy.init(context=context, args=["--ros-args", *(part for each in remappings for part in ("-r", f"robobrain:{each}"))])
    values = {"warm_up": False, "grid_check": "off"} | {name.replace("__", "."): value for name, value in parameters.items()}
    factory = None if engine is None else (engine if callable(engine) else lambda: engine)
    node = RoboBrainNode(
        engine_factory=factory,
        default_model=demo.DEMO_MODEL,
        transform_source=transform_source,
        namespace=namespace,
        parameter_overrides=[Parameter(name, value=value) for name, value in values.items()],
        context=context,
    )
    client = rclpy.create_node("client", namespace=namespace, context=context)
    executor, node_executor = SingleThreadedExecutor(context=context), SingleThreadedExecutor(context=context)
    executor.add_node(client)
    node_executor.add_node(node)
    stop = Event()
    thread = Thread(target=_spin, args=(node_executor, stop), daemon=True)
    thread.start()
    try:
        yield Rig(node, client, executor, context, f"{namespace}/robobrain")
    finally:
        stop.set()
        thread.join(LIMIT)
        node.destroy_node()
        client.destroy_node()
        rclpy.shutdown(context=context)
        assert not thread.is_alive(), "the node's executor hangs"


@contextmanager
def scripted(*scripts: Any, **parameters: Any) -> Iterator[tuple[Rig, ScriptedEngine]]:
    """Run a ready node whose engine follows scripts, and publish an image for its camera."""
    engine = ScriptedEngine(list(scripts))
    with rig(engine, **parameters) as it:
        it.until_ready()
        it.show(image_message())
        yield it, engine


def show_always(it: Rig, cameras: Sequence[str] = ("camera",)) -> None:
    """Publish ten images a second on these cameras' topics while the rig's client spins."""
    namespace = it.client.get_namespace()
    publishers = [it.client.create_publisher(Image, f"{namespace}/{camera}/image", 5) for camera in cameras]

    def publish() -> None:
        for publisher in publishers:
            publisher.publish(image_message())

    it.client.create_timer(0.1, publish)
    it.until(lambda: list(it.node.cameras), "open cameras")  # The engine is ready before the node is active.
    it.until(lambda: all(it.node.cameras[camera].newest for camera in cameras), "images")


def _spin(executor: SingleThreadedExecutor, stop: Event) -> None:
    while not stop.is_set():
        executor.spin_once(timeout_sec=0.1)
