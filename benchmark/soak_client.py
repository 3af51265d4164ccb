"""The client of the soak test: a camera, a clock, and many open requests. A ledger records each request until its response."""

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
"""(width, height) of the camera's image in pixels."""
FRAME_RATE = 5.0
CLOCK_RATE = 50.0
REQUEST_TIMEOUT = 30.0
"""Timeout of each request in seconds. It equals the default of the node."""
PATIENCE = 15.0
"""Seconds after the timeout until a request counts as unanswered."""
RETRY = 0.25
"""Pause in seconds before the next request if the node is not ready."""
_LATEST = 20
"""Number of late responses in the list."""
MANY = QoSProfile(depth=1_000)

SERVICES: dict[str, tuple[Any, str]] = {it.name: (it.service_type, it.text_field) for it in TASKS.values()}
"""Type of each service, and the field of its request for the instruction."""


@dataclass
class Ledger:
    """The sent requests and the received responses. Latencies are in seconds, for requests with the outcome OK."""

    sent: int = 0
    answered: int = 0
    unanswered: int = 0
    duplicates: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    latest: list[tuple[float, str, str]] = field(default_factory=list)
    """The responses with the largest delay, in descending order: seconds after the deadline, request, outcome."""


@dataclass
class _Open:
    what: str
    sent: float
    timeout: float


class StampingExecutor(SingleThreadedExecutor):
    """Takes responses, and sets ``received`` of each future to the time at which the middleware received the response.

    The time is that of ``time.monotonic()``. The process of the client also simulates cameras and a clock. On a busy computer, it
    takes a response some time after its arrival.
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
        with suppress(KeyError):  # The request was canceled, or this is a second response, which is counted elsewhere.
            future = client.get_pending_request(sequence)
            future.received = received
            future._set_executor(self)
            future.set_result(response)


class SoakClient:
    """The client. It publishes /clock for the node, so that faults can make the time jump.

    :param seed: seed of the random requests.
    """

    def __init__(self, namespace: str, seed: int) -> None:
        self.ledger = Ledger()
        self.diagnostics: dict[str, dict[str, str]] = {}
        self.camera_on = True
        self.lost: deque[str] = deque(maxlen=20)
        """The newest requests without a response."""
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

    # Clock and camera.

    def advance(self, seconds: float) -> None:
        """Advance simulated time by this number of seconds. A large number is a jump."""
        self._now = max(self._now + seconds, 1.0)
        self._clock.publish(ClockMessage(clock=self._stamp()))

    def _stamp(self) -> Time:
        nanoseconds = int(self._now * 1e9)
        return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)

    def image(self) -> Image:
        """Return an image of a scene with new noise, so that it is in no cache."""
        pixels = np.minimum(self._random.choice(self._scenes).image, 251)
        pixels = pixels + self._noise.integers(0, 5, pixels.shape, np.uint8)
        message = Image(width=SIZE[0], height=SIZE[1], encoding="rgb8", step=3 * SIZE[0], data=array("B", pixels.tobytes()))
        message.header.stamp, message.header.frame_id = self._stamp(), "camera_optical_frame"
        return message

    def _show(self) -> None:
        if self.camera_on:
            self._images.publish(self.image())

    # Requests.

    @property
    def open_count(self) -> int:
        """Number of requests without a response."""
        return len(self._open)

    def fill(self, concurrency: int) -> None:
        """Send requests until this number is open. If the node was not ready, wait for a short time first."""
        while len(self._open) < concurrency and time.monotonic() >= self._not_before:
            self.send()

    def send(self) -> None:
        """Send one random request: a service call, a goal (which may be canceled), or a standing query."""
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
        """Remove the standing queries."""
        for number in range(3):
            self._standing.call_async(SetStandingQuery.Request(name=f"q{number}", enabled=False))

    def set_parameter(self, name: str, value: Any) -> None:
        """Set a parameter of the node. The ledger contains this request too."""
        key = self._entry(f"parameter {name}", REQUEST_TIMEOUT)
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        self._parameters.call_async(request).add_done_callback(lambda done: self._settle(key, "PARAMETER", done))

    def change_state(self, transition: int) -> None:
        """Request a lifecycle transition. The ledger contains this request too."""
        key = self._entry(f"transition {transition}", REQUEST_TIMEOUT)
        request = ChangeState.Request()
        request.transition.id = transition
        self._change_state.call_async(request).add_done_callback(lambda done: self._settle(key, "TRANSITION", done))

    def probe(self) -> bool:
        """Send one request that is not in the ledger. Return whether the outcome is OK."""
        request = Ask.Request(question="What is on the table?", options=QueryOptions(timeout=REQUEST_TIMEOUT))
        future = self._services["ask"].call_async(request)
        self.wait(future.done, REQUEST_TIMEOUT + PATIENCE)
        return future.done() and _outcome(future) == "OK"

    # Spinning.

    def spin(self, seconds: float) -> None:
        """Spin for this number of seconds."""
        self.wait(lambda: False, seconds)

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Spin until the condition is true. Return False if the time limit passed."""
        end = time.monotonic() + seconds
        while not condition() and (left := end - time.monotonic()) > 0.0:
            self._spinner.spin_once(timeout_sec=min(left, 0.05))
            self._give_up()
        return condition()

    def _give_up(self) -> None:
        """Count the requests that will not get a response any more."""
        now = time.monotonic()
        for key in [key for key, entry in self._open.items() if now - entry.sent > entry.timeout + PATIENCE]:
            self.lost.append(self._open.pop(key).what)
            self.ledger.unanswered += 1

    def ready(self) -> bool:
        """Whether the node reports that its engine is ready."""
        return self.diagnostics.get("engine", {}).get("state") == "ready"

    def services_ready(self) -> bool:
        """Return whether all services have been discovered."""
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
    """Count responses to no open request, such as a second response. Return a function that stops the counting.

    rclpy drops such responses without a log line.
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
