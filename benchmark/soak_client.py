"""The soak test's robot: a camera, a clock, and many open requests; each is entered in a ledger and taken out by its response."""

import random
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import rclpy.client
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import Image

from robobrain_ros.action import RunTask
from robobrain_ros.demo.world import make_scene
from robobrain_ros.errors import OutcomeCode
from robobrain_ros.msg import QueryOptions
from robobrain_ros.ros.tasks import TASKS
from robobrain_ros.srv import Ask, SetStandingQuery

SIZE = (640, 480)
"""(width, height) of the camera's image, pixels."""
FRAME_RATE = 5.0
CLOCK_RATE = 50.0
REQUEST_TIMEOUT = 30.0
"""Seconds that each request may take; the node's default is as long."""
PATIENCE = 15.0
"""Seconds beyond it after which a request counts as unanswered."""
RETRY = 0.25
"""Seconds that the client waits before it asks again when the node is not ready."""
_LATEST = 20
"""Late responses that are listed."""
MANY = QoSProfile(depth=1_000)

SERVICES: dict[str, tuple[Any, str]] = {it.name: (it.service_type, it.text_field) for it in TASKS.values()}
"""Of each service: its type, and the field of its request that holds the instruction."""


@dataclass
class Ledger:
    """What was sent and what came back. Latencies in seconds, of requests with the outcome OK."""

    sent: int = 0
    answered: int = 0
    unanswered: int = 0
    duplicates: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    latest: list[tuple[float, str, str]] = field(default_factory=list)
    """The `_LATEST` latest responses, the latest first: seconds after the request's deadline, request, outcome."""


@dataclass
class _Open:
    what: str
    sent: float
    timeout: float


class StampingExecutor(SingleThreadedExecutor):
    """Takes responses, and sets each future's ``received``: when the middleware received the response, by ``time.monotonic()``.

    A client's process also plays cameras and a clock, and on a busy computer it takes a response some time after it came.
    """

    def _take_client(self, client: Any) -> Any:
        with suppress(_rclpy.InvalidHandle), client.handle:
            header, response = client.handle.take_response(client.srv_type.Response)
            if header is None:
                return None
            waited = max(time.time() - header.received_timestamp * 1e-9, 0.0) if header.received_timestamp else 0.0
            received = time.monotonic() - waited
            return partial(self._deliver, client, header.request_id.sequence_number, response, received)
        return None

    async def _deliver(self, client: Any, sequence: int, response: Any, received: float) -> None:
        with suppress(KeyError):  # The request was cancelled, or this is a second response, which is counted elsewhere.
            future = client.get_pending_request(sequence)
            future.received = received
            future._set_executor(self)
            future.set_result(response)


class SoakClient:
    """The robot. Its clock is the node's (/clock): faults can make it jump.

    :param seed: of the mix of requests.
    """

    def __init__(self, namespace: str, seed: int) -> None:
        self.ledger = Ledger()
        self.diagnostics: dict[str, dict[str, str]] = {}
        self.camera_on = True
        self.lost: deque[str] = deque(maxlen=20)
        """The latest requests that had no response."""
        self.node = Node("soak", namespace=namespace, start_parameter_services=False)
        self._random = random.Random(seed)
        self._noise = np.random.default_rng(seed)
        self._now = 1_000.0
        self._open: dict[int, _Open] = {}
        self._not_before = 0.0
        self._scenes = [make_scene(number, SIZE) for number in (3, 7, 12, 21)]
        self._spinner = StampingExecutor()
        self._spinner.add_node(self.node)
        self._target = f"{namespace}/robobrain"
        self._connect()

    def _connect(self) -> None:
        node, target = self.node, self._target
        self._images = node.create_publisher(Image, "camera/image", QoSProfile(depth=2))
        self._clock = node.create_publisher(ClockMessage, "/clock", 10)
        self._services = {
            name: node.create_client(kind, f"{target}/{name}", qos_profile=MANY) for name, (kind, _) in SERVICES.items()
        }
        self._standing = node.create_client(SetStandingQuery, f"{target}/set_standing_query", qos_profile=MANY)
        self._parameters = node.create_client(SetParameters, f"{target}/set_parameters", qos_profile=MANY)
        self._change_state = node.create_client(ChangeState, f"{target}/change_state")
        self._action = ActionClient(
            node,
            RunTask,
            f"{target}/run_task",
            goal_service_qos_profile=MANY,
            result_service_qos_profile=MANY,
            cancel_service_qos_profile=MANY,
        )
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(1.0 / CLOCK_RATE, lambda: self.advance(1.0 / CLOCK_RATE), clock=steady)
        node.create_timer(1.0 / FRAME_RATE, self._show, clock=steady)

    # What the robot shows.

    def advance(self, seconds: float) -> None:
        """Let simulated time go on, or jump, by so many seconds."""
        self._now = max(self._now + seconds, 1.0)
        self._clock.publish(ClockMessage(clock=self._stamp()))

    def _stamp(self) -> Time:
        nanoseconds = int(self._now * 1e9)
        return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)

    def image(self) -> Image:
        """A tabletop scene under noise that is new each time, so that no cache knows it."""
        pixels = np.minimum(self._random.choice(self._scenes).image, 251)
        pixels = pixels + self._noise.integers(0, 5, pixels.shape, np.uint8)
        message = Image(width=SIZE[0], height=SIZE[1], encoding="rgb8", step=3 * SIZE[0], data=array("B", pixels.tobytes()))
        message.header.stamp, message.header.frame_id = self._stamp(), "camera_optical_frame"
        return message

    def _show(self) -> None:
        if self.camera_on:
            self._images.publish(self.image())

    # What the robot asks.

    @property
    def open_count(self) -> int:
        """Requests without a response so far."""
        return len(self._open)

    def fill(self, concurrency: int) -> None:
        """Send requests until so many are open; a node that was not ready is left alone for a moment."""
        while len(self._open) < concurrency and time.monotonic() >= self._not_before:
            self.send()

    def send(self) -> None:
        """Send one request of the mix: services, goals (some cancelled), standing queries."""
        dice = self._random.random()
        if dice < 0.70:
            self._call(self._random.choice(list(SERVICES)))
        elif dice < 0.95:
            self._send_goal(self._random.choice(list(SERVICES)))
        else:
            self._set_standing_query()

    def send_bad(self) -> None:
        """Send a request that the node must reject."""
        options = QueryOptions(timeout=REQUEST_TIMEOUT)
        image = self.image()
        image.data = image.data[:1000]
        broken: list[Callable[[], None]] = [
            lambda: setattr(options, "images", [image]),
            lambda: setattr(options, "timeout", float("nan")),
            lambda: setattr(options, "camera", "nope"),
            lambda: setattr(options, "think", 200),
        ]
        self._random.choice(broken)()
        self._call("point", options)

    def _entry(self, what: str, timeout: float) -> int:
        self.ledger.sent += 1
        self._open[self.ledger.sent] = _Open(what, time.monotonic(), timeout)
        return self.ledger.sent

    def _settle(self, key: int, outcome: str, done: Any = None) -> None:
        entry = self._open.pop(key, None)
        if entry is None:
            self.ledger.duplicates += 1
            return
        seconds = getattr(done, "received", time.monotonic()) - entry.sent
        self.ledger.answered += 1
        self.ledger.outcomes[outcome] += 1
        late = (seconds - entry.timeout, f"{entry.what}, timeout {entry.timeout:g} s, request {key}", outcome)
        self.ledger.latest = sorted([*self.ledger.latest, late], reverse=True)[:_LATEST]
        if outcome == "OK":
            self.ledger.latencies.append(seconds)
        if outcome in ("NOT_READY", "BUSY", "ENGINE_FAILED", "NO_IMAGE", "STALE_IMAGE"):
            self._not_before = time.monotonic() + RETRY

    def _options(self) -> QueryOptions:
        options = QueryOptions(timeout=REQUEST_TIMEOUT)
        if self._random.random() < 0.2:
            options.images = [self.image()]
        if self._random.random() < 0.05:
            options.timeout = self._random.choice([0.05, 0.3])
        return options

    def _text(self, task: str) -> str:
        name = self._random.choice([thing.name for scene in self._scenes for thing in scene.objects])
        texts = {
            "affordance": f"pick up the {name}",
            "trajectory": f"reach for the {name}",
            "plan": f"put the {name} on the plate",
            "ask": "What is on the table?",
        }
        return texts.get(task, f"the {name}")

    def _call(self, task: str, options: QueryOptions | None = None) -> None:
        kind, text_field = SERVICES[task]
        options = options or self._options()
        request = kind.Request(options=options)
        setattr(request, text_field, self._text(task))
        timeout = float(options.timeout) if options.timeout > 0.0 else REQUEST_TIMEOUT
        key = self._entry(task, timeout)
        future = self._services[task].call_async(request)
        future.add_done_callback(lambda done: self._settle(key, _outcome(done), done))

    def _send_goal(self, task: str) -> None:
        options = self._options()
        key = self._entry(f"goal {task}", float(options.timeout))
        cancel = self._random.random() < 0.2

        def accepted(future: Any) -> None:
            handle = future.result()
            if not handle.accepted:
                self._settle(key, "REJECTED")
                return
            handle.get_result_async().add_done_callback(
                lambda done: self._settle(key, OutcomeCode(done.result().result.outcome.code).name)
            )
            if cancel:
                handle.cancel_goal_async()

        goal = RunTask.Goal(task=task, instruction=self._text(task), options=options)
        self._action.send_goal_async(goal).add_done_callback(accepted)

    def _set_standing_query(self) -> None:
        request = SetStandingQuery.Request(
            name=f"q{self._random.randrange(3)}",
            enabled=self._random.random() < 0.5,
            task="point",
            instruction=self._text("point"),
            rate=self._random.choice([0.5, 2.0]),
        )
        key = self._entry("set_standing_query", REQUEST_TIMEOUT)
        future = self._standing.call_async(request)
        future.add_done_callback(lambda done: self._settle(key, _outcome(done), done))

    def clear_standing_queries(self) -> None:
        """Remove the standing queries of the mix."""
        for number in range(3):
            self._standing.call_async(SetStandingQuery.Request(name=f"q{number}", enabled=False))

    def set_parameter(self, name: str, value: Any) -> None:
        """Set a parameter of the node; its response counts as that of a request."""
        key = self._entry(f"parameter {name}", REQUEST_TIMEOUT)
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        self._parameters.call_async(request).add_done_callback(lambda done: self._settle(key, "PARAMETER", done))

    def change_state(self, transition: int) -> None:
        """Ask for a lifecycle transition; its response counts as that of a request."""
        key = self._entry(f"transition {transition}", REQUEST_TIMEOUT)
        request = ChangeState.Request()
        request.transition.id = transition
        self._change_state.call_async(request).add_done_callback(lambda done: self._settle(key, "TRANSITION", done))

    def probe(self) -> bool:
        """Ask once, beside the ledger; returns whether the answer is OK."""
        request = Ask.Request(question="What is on the table?", options=QueryOptions(timeout=REQUEST_TIMEOUT))
        future = self._services["ask"].call_async(request)
        self.wait(future.done, REQUEST_TIMEOUT + PATIENCE)
        return future.done() and _outcome(future) == "OK"

    # Spinning.

    def spin(self, seconds: float) -> None:
        """Take what comes for that long."""
        self.wait(lambda: False, seconds)

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Spin until the condition holds; returns whether it does."""
        end = time.monotonic() + seconds
        while not condition() and (left := end - time.monotonic()) > 0.0:
            self._spinner.spin_once(timeout_sec=min(left, 0.05))
            self._give_up()
        return condition()

    def _give_up(self) -> None:
        """Count what will not be answered any more."""
        now = time.monotonic()
        for key in [key for key, entry in self._open.items() if now - entry.sent > entry.timeout + PATIENCE]:
            self.lost.append(self._open.pop(key).what)
            self.ledger.unanswered += 1

    def ready(self) -> bool:
        """Whether the node reports that its engine is ready."""
        return self.diagnostics.get("engine", {}).get("state") == "ready"

    def services_ready(self) -> bool:
        """Whether every service of the mix has been discovered."""
        clients: Sequence[Any] = [*self._services.values(), self._standing, self._parameters]
        return all(client.service_is_ready() for client in clients) and self._action.server_is_ready()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        own = f"{self._target.strip('/')}: "
        for status in message.status:
            if status.name.startswith(own):
                self.diagnostics[status.name.removeprefix(own)] = {value.key: value.value for value in status.values}


def _outcome(future: Any) -> str:
    return OutcomeCode(future.result().outcome.code).name


def count_unexpected(counter: Counter[str]) -> Callable[[], None]:
    """Count responses that belong to no open request, such as a second one to the same; returns what undoes it.

    rclpy drops them without a word.
    """
    original = rclpy.client.Client.get_pending_request

    def counting(client: Any, sequence: int) -> Any:
        try:
            return original(client, sequence)
        except KeyError:
            counter[client.srv_name] += 1
            raise

    rclpy.client.Client.get_pending_request = counting

    def undo() -> None:
        rclpy.client.Client.get_pending_request = original

    return undo
