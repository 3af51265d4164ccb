"""An independent client of the contract test: acts at random, keeps a ledger of what it sent, and checks what comes back."""

import math
import os
import random
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

from builtin_interfaces.msg import Time
from contract_node import GRID, Behaviour, image_of
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image

from robobrain_ros import msg as messages
from robobrain_ros.action import RunTask
from robobrain_ros.msg import Outcome, QueryOptions
from robobrain_ros.srv import Ask, Locate, MakePlan, PredictTrajectory, SetStandingQuery

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmark"))

from soak_client import StampingExecutor

GRACE = 1.0
"""Seconds after its deadline within which each request has its response: the promise that this test checks."""
MAX_IMAGE_AGE = 1.0
"""Parameter max_image_age of the node under test, seconds."""
DEFAULT_TIMEOUT = 3.0
"""The longest value of parameter request_timeout that the test sets, seconds."""
MOST_OPEN = 150
"""Requests that may be open at once before the client waits for some."""

TASKS: dict[str, tuple[Any, str, str]] = {
    "point": (Locate, "instruction", "affordances"),
    "affordance": (Locate, "instruction", "affordances"),
    "ground": (Locate, "instruction", "affordances"),
    "trajectory": (PredictTrajectory, "instruction", "trajectory"),
    "plan": (MakePlan, "task", "plan"),
    "ask": (Ask, "question", "answer"),
}
"""Of each task: its service, the field of its text, and the field of its result."""

_CODE_NAMES = (
    "OK", "NOT_READY", "BUSY", "NO_IMAGE", "STALE_IMAGE", "BAD_IMAGE", "BAD_REQUEST", "UNSUPPORTED_TASK", "UNPARSABLE_ANSWER",
    "NOTHING_FOUND", "TIMEOUT", "CANCELED", "ENGINE_FAILED", "INFEASIBLE_PLAN",
)  # fmt: skip
CODES: dict[int, str] = {getattr(Outcome, name): name for name in _CODE_NAMES}

_RESULTS = {
    "affordances": messages.Affordances,
    "trajectory": messages.Trajectory,
    "plan": messages.Plan,
    "answer": messages.TextAnswer,
}
"""The result topics."""
_TRANSITIONS: dict[str, dict[int, str]] = {
    "unconfigured": {Transition.TRANSITION_CONFIGURE: "inactive"},
    "inactive": {Transition.TRANSITION_ACTIVATE: "active", Transition.TRANSITION_CLEANUP: "unconfigured"},
    "active": {Transition.TRANSITION_DEACTIVATE: "inactive"},
}
"""Where the transitions lead that a state allows."""

_ALWAYS = {"NOT_READY", "BUSY", "NO_IMAGE", "STALE_IMAGE", "BAD_IMAGE", "CANCELED", "TIMEOUT", "ENGINE_FAILED"}
"""Outcomes that other requests, cameras, transitions and a dying engine may give to any valid request."""
_EXPECTED: dict[Behaviour, set[str]] = {
    Behaviour.OK: {"OK"},
    Behaviour.SLOW: {"OK"},
    Behaviour.BLOCK: {"OK"},
    Behaviour.FLOOD: {"OK"},
    Behaviour.HANG: set(),
    Behaviour.STUBBORN: set(),
    Behaviour.RAISE: set(),
    Behaviour.FAIL: set(),
    Behaviour.DIE: set(),
    Behaviour.GARBAGE: {"UNPARSABLE_ANSWER"},
    Behaviour.NOTHING: {"NOTHING_FOUND", "UNPARSABLE_ANSWER"},
    Behaviour.EMPTY: {"UNPARSABLE_ANSWER", "NOTHING_FOUND"},
}
"""What each behaviour of the engine can add to them. ``ask`` has no form: its text is any text."""

_NUMBERS = [0.0, -0.0, 1e-11, 1e-38, 1e12, 3.4e38, math.nan, math.inf, -math.inf, -1.0, 0.05, 0.5, 20.0]
_TEXTS = ["", " ", "\n", "the mug", "x" * 5_000, "<|im_end|>", "<|image_pad|>", "\x00", "{text}", "🤖" * 50, "%s %d", "]}"]


class Stalls:
    """Measures for how long the machine let the node and this process wait for a core, which no promise of the node can cover.

    The kernel counts it for each thread (/proc/<pid>/task/<tid>/schedstat, second number, ns). Without these counts it is the
    time that a thread of this process overslept.
    """

    def __init__(self, pid: int, period: float = 0.02) -> None:
        self._pids = (pid, os.getpid())
        self._stop, self._period, self._overslept = Event(), period, 0.0
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def total(self) -> float:
        """Seconds of waiting since the start: in each process, that of the thread that waited longest."""
        counted = [self._waited(pid) for pid in self._pids]
        return max(sum(counted), self._overslept)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5.0)

    @staticmethod
    def _waited(pid: int) -> float:
        waits = [0]
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with suppress(OSError, IndexError, ValueError):  # The thread has ended, or the kernel does not count.
                waits.append(int(path.read_text(encoding="ascii").split()[1]))
        return max(waits) * 1e-9

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self._stop.wait(self._period)
            self._overslept += max(time.monotonic() - began - 2 * self._period, 0.0)


@dataclass
class Entry:
    """One request in the ledger. Times are of ``time.monotonic()``; ``limit`` in seconds after ``sent``."""

    what: str
    sent: float
    limit: float
    stalls: float
    step: int
    clock: float
    """The node's clock when it was sent, seconds."""
    answered: float = 0.0


@dataclass
class Shown:
    """A frame that the client published."""

    number: int
    published: float
    """The node's clock when it was published, seconds."""
    epoch: int
    """Counts the jumps back of the clock before it."""
    stale: bool
    """Whether its stamp was older than any promise allows."""
    depth_mm: int = 0
    """Depth published with it; 0: none that may be used."""


@dataclass
class Camera:
    """A camera that the client plays."""

    name: str
    on: bool = True
    stamp_offset: float = 0.0
    broken: bool = False
    depth: str = ""
    """How its depth is: "" without depth, "good", "none", "zero" or "saturated"."""


class ContractClient:
    """The client: `act` does one random thing, and `faults` lists the promises that were broken."""

    def __init__(
        self, namespace: str, seed: int, context: Any, *, node_pid: int, sim_time: bool, unexpected: Counter[str]
    ) -> None:
        self._node = Node("contract_client", namespace=namespace, context=context)
        self.faults: list[str] = []
        self.log: deque[str] = deque(maxlen=60)
        """The latest actions, for whoever reads a failure."""
        self.outcomes: Counter[str] = Counter()
        self.ledger: dict[int, Entry] = {}
        self.step = self.sent = self.answered = 0
        self.diagnostics: dict[str, dict[str, str]] = {}
        self.sim_time = sim_time
        self.unexpected = unexpected
        self.stalls = Stalls(node_pid)
        self._random = random.Random(seed)
        self._spinner = StampingExecutor(context=context)
        self._spinner.add_node(self._node)
        self._sim_now = 1_000.0
        self._epoch, self._jumped = 0, -math.inf
        self._frames: dict[tuple[str, int, int], Shown] = {}
        """What was published, by camera and stamp."""
        self._number = 0
        self._cameras = [Camera("camera"), Camera("deep", depth="good")]
        self._target = f"{namespace}/robobrain"
        self.state = "active"
        self.changing = False
        """Whether a transition is under way."""
        self._goals: list[Any] = []
        self._last_of_query: dict[str, tuple[int, int]] = {}
        self._make_endpoints(namespace)

    def _make_endpoints(self, namespace: str) -> None:
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        publish, offer = self._node.create_publisher, self._node.create_client
        self._images = {camera.name: publish(Image, f"{camera.name}/image", reliable) for camera in self._cameras}
        self._depth = self._node.create_publisher(Image, "deep/depth", reliable)
        self._info = self._node.create_publisher(CameraInfo, "deep/camera_info", reliable)
        self._clock_publisher = self._node.create_publisher(Clock, "/clock", 10) if self.sim_time else None
        many = QoSProfile(depth=1_000, reliability=ReliabilityPolicy.RELIABLE)
        self._services = {name: offer(kind, f"{self._target}/{name}", qos_profile=many) for name, (kind, _, _) in TASKS.items()}
        self._standing = self._node.create_client(SetStandingQuery, f"{self._target}/set_standing_query", qos_profile=many)
        self._change = self._node.create_client(ChangeState, f"{self._target}/change_state")
        self._get_state = self._node.create_client(GetState, f"{self._target}/get_state")
        self._set = self._node.create_client(SetParameters, f"{self._target}/set_parameters", qos_profile=many)
        self._action = ActionClient(
            self._node,
            RunTask,
            f"{self._target}/run_task",
            goal_service_qos_profile=many,
            result_service_qos_profile=many,
            cancel_service_qos_profile=many,
        )
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        for topic, message_type in _RESULTS.items():
            self._node.create_subscription(message_type, f"{self._target}/{topic}", self._on_standing_result, 100)

    # Time and cameras.

    def now(self) -> float:
        """Seconds of the clock that the node uses."""
        return self._sim_now if self.sim_time else time.time()

    def _stamp(self, seconds: float) -> Time:
        nanoseconds = int(max(seconds, 0.001) * 1e9)
        return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)

    def _show(self, camera: Camera) -> None:
        """Publish one frame of a camera, with depth where it has some."""
        self._number = (self._number + 1) % (GRID * GRID)
        stamp = self._stamp(self.now() + camera.stamp_offset)
        frame_id = f"{camera.name}_optical_frame"
        pixels = image_of(self._number)
        message = Image(width=64, height=48, encoding="rgb8", step=192, data=array("B", pixels.tobytes()))
        message.header.stamp, message.header.frame_id = stamp, frame_id
        if camera.broken:
            message.data = message.data[:100]
        shown = Shown(self._number, self.now(), self._epoch, camera.stamp_offset < -2 * MAX_IMAGE_AGE)
        if camera.depth:
            shown.depth_mm = self._show_depth(camera, stamp, frame_id)
        self._frames[(camera.name, stamp.sec, stamp.nanosec)] = shown
        self._images[camera.name].publish(message)
        if len(self._frames) > 4_000:
            for key in list(self._frames)[:1_000]:
                del self._frames[key]

    def _show_depth(self, camera: Camera, stamp: Time, frame_id: str) -> int:
        info = CameraInfo(width=64, height=48, distortion_model="plumb_bob", d=[0.0] * 5)
        info.k = [60.0, 0.0, 32.0, 0.0, 60.0, 24.0, 0.0, 0.0, 1.0]
        info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        info.p = [60.0, 0.0, 32.0, 0.0, 0.0, 60.0, 24.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        info.header.stamp, info.header.frame_id = stamp, frame_id
        self._info.publish(info)
        if camera.depth == "none":
            return 0
        millimetres = {"good": 500 + self._number % 400, "zero": 0, "saturated": 65535}[camera.depth]
        depth = Image(width=64, height=48, encoding="16UC1", step=128)
        depth.data = array("B", millimetres.to_bytes(2, "little") * (64 * 48))
        depth.header.stamp, depth.header.frame_id = stamp, frame_id
        self._depth.publish(depth)
        return millimetres if camera.depth == "good" else 0

    def tick(self, seconds: float = 0.02) -> None:
        """Let the clock go on and the cameras show a frame."""
        if self._clock_publisher is not None:
            self._sim_now += seconds
            self._clock_publisher.publish(Clock(clock=self._stamp(self._sim_now)))
        for camera in self._cameras:
            if camera.on and self._random.random() < 0.5:
                self._show(camera)

    def jump_clock(self) -> None:
        """Let simulated time jump, back or forward."""
        back = self._random.random() < 0.5
        self._note(f"clock jumps {'back' if back else 'forward'}")
        seconds = self._random.choice([0.5, 5.0, 100.0, 900.0]) + self._random.random()  # No stamp comes twice.
        self._sim_now = max(self._sim_now - seconds, self._random.random()) if back else self._sim_now + seconds
        self._epoch += 1
        self._jumped = time.monotonic()
        self._last_of_query.clear()
        self.tick()

    # Spinning and the ledger.

    def spin(self, seconds: float = 0.0) -> None:
        """Take what has come, for at least that long."""
        end = time.monotonic() + seconds
        for _ in range(20):
            self._spinner.spin_once(timeout_sec=0.0)
        while time.monotonic() < end:
            self._spinner.spin_once(timeout_sec=0.005)

    def until(self, condition: Callable[[], Any], limit: float = 60.0, *, showing: bool = False) -> bool:
        """Spin until the condition holds; returns whether it does."""
        end = time.monotonic() + limit
        while not condition():
            if time.monotonic() > end:
                return False
            if showing:
                self.tick()
            self._spinner.spin_once(timeout_sec=0.02)
        return True

    def _note(self, text: str) -> None:
        self.log.append(f"{self.step}: {text}")

    def _fault(self, text: str) -> None:
        self.faults.append(f"step {self.step}: {text}")

    def _open(self, what: str, limit: float) -> int:
        self.sent += 1
        self.ledger[self.sent] = Entry(what, time.monotonic(), limit, self.stalls.total, self.step, self.now())
        self._note(what)
        return self.sent

    def _close(self, key: int, future: Any = None) -> Entry | None:
        entry = self.ledger.pop(key, None)
        if entry is None:
            self._fault(f"a second response to request {key}")
            return None
        self.answered += 1
        entry.answered = getattr(future, "received", time.monotonic())
        allowed = entry.limit + GRACE + self.stalls.total - entry.stalls
        if entry.answered - entry.sent > allowed:
            self._fault(f"{entry.what} was answered after {entry.answered - entry.sent:.2f} s, allowed are {allowed:.2f} s")
        return entry

    def overdue(self) -> list[Entry]:
        """Requests whose promise is broken already."""
        now = time.monotonic()
        return [
            entry
            for entry in self.ledger.values()
            if now - entry.sent > entry.limit + GRACE + 1.0 + self.stalls.total - entry.stalls
        ]

    # One random action.

    def act(self) -> None:
        """Do one thing."""
        self.step += 1
        actions: list[tuple[Callable[[], None], float]] = [
            (self._ask_service, 40.0),
            (self._send_goal, 16.0),
            (self._cancel_goal, 5.0),
            (self._burst, 1.5),
            (self._leave, 0.5),
            (self._set_standing_query, 6.0),
            (self._set_parameter, 6.0),
            (self._transition, 2.0),
            (self._camera_fault, 5.0),
            (self._spin_on, 15.0),
        ]
        if self.sim_time:
            actions.append((self.jump_clock, 1.0))
        functions, weights = zip(*actions, strict=True)
        self._random.choices(functions, weights)[0]()
        self.tick()
        self.spin()
        self.until(lambda: len(self.ledger) < MOST_OPEN or self.overdue(), 10.0, showing=True)
        for entry in self.overdue():
            self._fault(f"{entry.what} (sent at step {entry.step}) has no response after {time.monotonic() - entry.sent:.1f} s")
        if self.overdue():
            self.ledger = {key: entry for key, entry in self.ledger.items() if entry not in self.overdue()}

    def _spin_on(self) -> None:
        self.spin(self._random.choice([0.0, 0.01, 0.05, 0.2]))

    def _behaviour(self) -> Behaviour:
        weights: dict[Behaviour, float] = {Behaviour.OK: 60, Behaviour.SLOW: 8, Behaviour.HANG: 6, Behaviour.STUBBORN: 2}
        weights |= {Behaviour.RAISE: 4, Behaviour.FAIL: 3, Behaviour.DIE: 0.4, Behaviour.GARBAGE: 4, Behaviour.NOTHING: 4}
        weights |= {Behaviour.EMPTY: 3, Behaviour.FLOOD: 1, Behaviour.BLOCK: 1}
        return self._random.choices(list(weights), list(weights.values()))[0]

    def _options(self) -> tuple[QueryOptions, bool, bool, int | None]:
        """Options; whether they are valid; whether their images are readable; the number that the request's own image holds."""
        options = QueryOptions(timeout=self._random.choice([0.0, 0.3, 1.0, 2.0]))
        valid = readable = True
        number: int | None = None
        kind = self._random.random()
        if kind < 0.10:
            options.timeout = self._random.choice([-1.0, math.nan, math.inf, -math.inf, -1e-30])
            valid = False
        elif kind < 0.15:
            options.think, valid = self._random.choice([3, 255]), False
        elif kind < 0.20:
            options.camera, valid = self._random.choice(["nope", "x" * 2_000, "../camera"]), False
        elif kind < 0.30:
            number = self._random.randrange(GRID * GRID)
            pixels = image_of(number)
            image = Image(width=64, height=48, encoding="rgb8", step=192, data=array("B", pixels.tobytes()))
            image.header.stamp = self._stamp(self.now())
            if self._random.random() < 0.4:
                readable = False
                spoilt = [(array("B"), "rgb8"), (image.data, "foo"), (image.data[:7], "rgb8")]
                image.data, image.encoding = self._random.choice(spoilt)
            options.images = [image]
        elif kind < 0.5:
            options.camera = "deep"
        if valid and self._random.random() < 0.1:
            options.think = QueryOptions.THINK_ON
        return options, valid, readable, number

    def _limit(self, options: QueryOptions) -> float:
        timeout = float(options.timeout)
        return timeout if math.isfinite(timeout) and timeout > 0.0 else DEFAULT_TIMEOUT

    def _text(self, behaviour: Behaviour) -> str:
        return f"the mug {behaviour.value} now"

    def _ask_service(self) -> None:
        task = self._random.choice(list(TASKS))
        kind, text_field, _ = TASKS[task]
        client = self._services[task]
        if not self._offered() or not client.service_is_ready():
            return
        behaviour = self._behaviour()
        options, valid, readable, number = self._options()
        request = kind.Request(options=options)
        text = self._text(behaviour)
        odd_text = self._random.random() < 0.05
        if odd_text:
            text, behaviour = self._random.choice(_TEXTS), Behaviour.OK
        setattr(request, text_field, text)
        key = self._open(f"{task} {behaviour.value} timeout {options.timeout:g}", self._limit(options))
        expected = self._codes(task, behaviour, valid, readable, odd_text)
        future = client.call_async(request)
        future.add_done_callback(lambda done: self._on_response(key, task, done, expected, number))

    def _codes(self, task: str, behaviour: Behaviour, valid: bool, readable: bool, odd_text: bool) -> set[str]:
        """The outcomes that such a request may have."""
        if not valid:
            return {"BAD_REQUEST", "NOT_READY", "ENGINE_FAILED"}
        if not readable:
            return _ALWAYS | {"BAD_REQUEST"} if odd_text else _ALWAYS
        expected = _EXPECTED[behaviour] | _ALWAYS
        if task in ("ask", "plan") and behaviour in (Behaviour.GARBAGE, Behaviour.NOTHING, Behaviour.EMPTY):
            expected = expected | {"OK", "UNPARSABLE_ANSWER", "NOTHING_FOUND"}
        return expected | {"OK", "BAD_REQUEST", "INFEASIBLE_PLAN"} if odd_text else expected

    def _on_response(self, key: int, task: str, future: Any, expected: set[str], number: int | None) -> None:
        entry = self._close(key, future)
        if entry is not None and future.exception() is None:
            self._check(entry, task, future.result(), expected, number)

    def _check(self, entry: Entry, task: str, response: Any, expected: set[str], number: int | None) -> None:
        name = CODES.get(response.outcome.code, f"code {response.outcome.code}")
        self.outcomes[name] += 1
        if name not in expected:
            self._fault(f"{entry.what}: {name} ({response.outcome.message}); expected {sorted(expected)}")
        if name != "OK" and not response.outcome.message:
            self._fault(f"{entry.what}: {name} without a sentence")
        result = getattr(response, TASKS[task][2])
        parts = _parts(task, result)
        if name != "OK" and parts:
            self._fault(f"{entry.what}: {name} with {len(parts)} parts")
        if name == "OK":
            self._check_image(entry, task, result, number)

    def _check_image(self, entry: Entry, task: str, result: Any, number: int | None) -> None:
        """Check that an answer is about the image that its header names, and that this image was fresh."""
        said = _number_said(task, result)
        if number is not None:
            if said is not None and said != number:
                self._fault(f"{entry.what}: about image {said}, sent was {number}")
            return
        shown = self._shown(result)
        if shown is None:
            self._fault(f"{entry.what}: the header's stamp {result.header.stamp} is that of no image")
            return
        if said is not None and said != shown.number:
            self._fault(f"{entry.what}: the answer is about image {said}, its header names image {shown.number}")
        age = entry.clock - shown.published
        settled = entry.sent - self._jumped > 1.0  # A jump of the clock has reached the node.
        if settled and age > MAX_IMAGE_AGE + 0.5 + self.stalls.total - entry.stalls:
            self._fault(f"{entry.what}: the image was published {age:.2f} s before the request")
        if shown.stale:
            self._fault(f"{entry.what}: the image's stamp was stale when it was published")
        if settled and shown.epoch < self._epoch:
            self._fault(f"{entry.what}: the image is from before the clock's last jump")
        if result.report.image_age < -0.1 and not self.sim_time:
            self._fault(f"{entry.what}: image_age is {result.report.image_age:.2f} s")
        self._check_positions(entry, task, result, shown)

    def _shown(self, result: Any) -> Shown | None:
        """The frame that a result names."""
        stamp = result.header.stamp
        return self._frames.get((result.camera, stamp.sec, stamp.nanosec))

    def _check_positions(self, entry: Entry, task: str, result: Any, shown: Shown) -> None:
        for part in _parts(task, result) if task in ("point", "affordance", "ground", "trajectory") else ():
            z = part.position.z
            if result.camera != "deep" or not shown.depth_mm:
                if not math.isnan(z):
                    self._fault(f"{entry.what}: a position at {z} m without valid depth")
            elif not math.isnan(z) and abs(z - shown.depth_mm / 1000.0) > 0.002:
                self._fault(f"{entry.what}: a position at {z} m where the depth is {shown.depth_mm} mm")

    def _burst(self) -> None:
        for _ in range(self._random.choice([5, 20, 40])):
            self._ask_service()

    # The action.

    def _send_goal(self) -> None:
        if not self._offered() or not self._action.server_is_ready():
            return
        task = self._random.choice([*TASKS, "nonsense"])
        behaviour = self._behaviour()
        options, valid, readable, number = self._options()
        valid = valid and task != "nonsense"
        goal = RunTask.Goal(task=task, instruction=self._text(behaviour), options=options)
        limit = self._limit(options)
        key = self._open(f"goal {task} {behaviour.value} timeout {options.timeout:g}", limit)
        expected = self._codes(task, behaviour, valid, readable, False)
        cancel_at_once = self._random.random() < 0.1

        def accepted(future: Any) -> None:
            if future.exception() is not None:
                return
            handle = future.result()
            if not handle.accepted:
                self._fault(f"goal {task}: rejected, and so without a reason")
                self._close(key)
                return
            handle.get_result_async().add_done_callback(lambda done: self._on_goal(key, task, done, expected, number))
            self._goals.append(handle)
            if cancel_at_once:
                self._cancel(handle)

        self._action.send_goal_async(goal).add_done_callback(accepted)

    def _on_goal(self, key: int, task: str, future: Any, expected: set[str], number: int | None) -> None:
        entry = self._close(key)
        if entry is None or future.exception() is not None:
            return
        wrapped = future.result()
        name = CODES.get(wrapped.result.outcome.code, f"code {wrapped.result.outcome.code}")
        if (wrapped.status == 4) != (name == "OK"):
            self._fault(f"{entry.what}: status {wrapped.status} with {name}")
        if task in TASKS:
            self._check(entry, task, wrapped.result, expected, number)
        elif name not in expected:
            self._fault(f"{entry.what}: {name}")

    def _cancel_goal(self) -> None:
        if self._goals and self._offered():
            self._cancel(self._goals.pop(self._random.randrange(len(self._goals))))
        del self._goals[:-20]

    def _cancel(self, handle: Any) -> None:
        key = self._open("cancel", 1.0)
        handle.cancel_goal_async().add_done_callback(lambda done: self._close(key))

    def _leave(self) -> None:
        """A client asks, and goes without waiting."""
        if not self._offered():
            return
        client = self._node.create_client(Ask, f"{self._target}/ask")
        if client.service_is_ready():
            client.call_async(Ask.Request(question=self._text(Behaviour.SLOW)))
        self._node.destroy_client(client)

    # Standing queries, parameters, transitions, cameras.

    def _set_standing_query(self) -> None:
        rate = self._random.choice(_NUMBERS)
        task = self._random.choice([*TASKS, "nonsense"])
        name = self._random.choice(["a", "b", "c", "", "x" * 3_000])
        enabled = self._random.random() < 0.6
        behaviour = self._random.choice([Behaviour.OK, Behaviour.OK, Behaviour.SLOW, Behaviour.GARBAGE, Behaviour.RAISE])
        request = SetStandingQuery.Request(
            name=name, enabled=enabled, task=task, instruction=self._text(behaviour), rate=rate, options=self._options()[0]
        )
        key = self._open(f"standing query {name[:5]!r} rate {rate:g} {'on' if enabled else 'off'}", DEFAULT_TIMEOUT)

        def answered(future: Any) -> None:
            self._close(key, future)
            code = CODES.get(future.result().outcome.code, f"code {future.result().outcome.code}")
            self.outcomes[f"standing {code}"] += 1
            if code not in ("OK", "BAD_REQUEST"):
                self._fault(f"standing query: {code} ({future.result().outcome.message})")
            bad = not math.isfinite(rate) or rate < 0.0
            if enabled and bad and code == "OK":
                self._fault(f"a standing query of rate {rate} was set")

        self._standing.call_async(request).add_done_callback(answered)

    def clear_standing_queries(self) -> None:
        """Remove every standing query that `act` may have set."""
        for name in ("a", "b", "c"):
            self._standing.call_async(SetStandingQuery.Request(name=name, enabled=False))

    def _on_standing_result(self, message: Any) -> None:
        """A query is never asked twice about one image, and its answers come in the images' order."""
        if not message.query or self._epoch:
            return
        shown = self._shown(message)
        if shown is None:
            self._fault(f"standing query {message.query}: a stamp of no image")
            return
        key = (message.header.stamp.sec, message.header.stamp.nanosec)
        query = f"{message.query} {type(message).__name__} {message.camera}"
        if self._last_of_query.get(query) == key:
            self._fault(f"standing query {message.query}: asked twice about one image")
        self._last_of_query[query] = key

    def _set_parameter(self) -> None:
        name = self._random.choice(
            ["request_timeout", "max_tokens", "think", "think_tokens", "sync_tolerance", "max_plan_steps", "no.such", "autostart"]
        )
        value: Any = self._random.choice([True, False, 0, -1, 1, 64, 2**62, "x", *_NUMBERS])
        if name == "request_timeout" and isinstance(value, float) and value > DEFAULT_TIMEOUT:
            value = DEFAULT_TIMEOUT
        key = self._open(f"parameter {name} = {value!r}", DEFAULT_TIMEOUT)
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])

        def answered(future: Any) -> None:
            self._close(key, future)
            result = future.result().results[0]
            if not result.successful and not result.reason:
                self._fault(f"parameter {name} = {value!r}: refused without a reason")

        self._set.call_async(request).add_done_callback(answered)

    def _offered(self) -> bool:
        """Whether the node offers services and action, and is not about to take them away."""
        return self.state in ("active", "inactive") and not self.changing

    def _transition(self) -> None:
        """Ask for a transition: mostly the way back to active, otherwise any number."""
        if self.changing:
            return
        allowed = _TRANSITIONS[self.state]
        back = {"unconfigured": Transition.TRANSITION_CONFIGURE, "inactive": Transition.TRANSITION_ACTIVATE}
        chosen = self._random.choice([1, 2, 3, 4, 0, 9, 60, 77, 255])
        if self.state != "active" and self._random.random() < 0.8:
            chosen = back[self.state]
        if chosen == Transition.TRANSITION_CLEANUP and self.state == "inactive":
            # A request on its way to a service that is taken away has nobody to answer it.
            self.until(lambda: not self.ledger or self.overdue(), 10.0, showing=True)
        self.change(chosen, allowed.get(chosen))

    def change(self, transition: int, expected: str | None) -> None:
        """Ask for a transition that leads to a state, or (None) must be refused."""
        if self.changing:
            return
        self.changing = True
        key = self._open(f"transition {transition} from {self.state}", DEFAULT_TIMEOUT)

        def answered(future: Any) -> None:
            self.changing = False
            self._close(key, future)
            success = bool(future.result().success)
            if success != (expected is not None):
                self._fault(f"transition {transition} from {self.state}: success is {success}")
            if success and expected is not None:
                self.state = expected

        self._change.call_async(ChangeState.Request(transition=Transition(id=transition))).add_done_callback(answered)

    def _camera_fault(self) -> None:
        camera = self._random.choice(self._cameras)
        what = self._random.choice(["on", "on", "off", "late", "ahead", "unstamped", "broken", "depth"])
        self._note(f"{camera.name} {what}")
        camera.on = what != "off"
        camera.broken = what == "broken"
        camera.stamp_offset = {"late": -100.0, "ahead": 100.0}.get(what, 0.0)
        if camera.depth:
            camera.depth = self._random.choice(["none", "zero", "saturated"]) if what == "depth" else "good"

    def heal(self) -> None:
        """Let every camera work again."""
        for camera in self._cameras:
            camera.on, camera.broken, camera.stamp_offset = True, False, 0.0
            camera.depth = "good" if camera.depth else ""

    # What the node reports of itself.

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        prefix = f"{self._target.strip('/')}: "
        for status in message.status:
            if status.name.startswith(prefix):
                values = {value.key: value.value for value in status.values}
                self.diagnostics[status.name.removeprefix(prefix)] = {"message": status.message, **values}

    def ready(self) -> bool:
        """Whether the diagnostics report a loaded model."""
        return self.diagnostics.get("engine", {}).get("state") == "ready"

    def ask(self, question: str, timeout: float = 5.0) -> str:
        """Ask once and return the outcome's name."""
        future = self._services["ask"].call_async(Ask.Request(question=question, options=QueryOptions(timeout=timeout)))
        self.until(future.done, timeout + 10.0, showing=True)
        return CODES.get(future.result().outcome.code, "?") if future.done() else "NO RESPONSE"

    def send_hanging(self, count: int) -> list[Any]:
        """Ask questions that the engine never answers; returns the futures."""
        request = Ask.Request(question=self._text(Behaviour.HANG), options=QueryOptions(timeout=60.0))
        return [self._services["ask"].call_async(request) for _ in range(count)]

    def close(self) -> None:
        """Give everything back."""
        self.stalls.close()
        self._action.destroy()
        self._spinner.shutdown()
        self._node.destroy_node()


def _parts(task: str, result: Any) -> Sequence[Any]:
    if task == "ask":
        return [result.text] if result.text else []
    if task == "plan":
        return list(result.steps)
    return list(result.waypoints) if task == "trajectory" else [*result.points, *result.areas]


def _number_said(task: str, result: Any) -> int | None:
    """The number of the image that the engine saw; None: the answer does not hold it."""
    text = result.report.raw_text.rpartition("<answer>")[2]
    digits = [int(word) for word in "".join(c if c.isdigit() else " " for c in text).split()]
    if not digits:
        return None
    if task in ("ask", "plan"):
        return digits[0] if task == "ask" else digits[1]
    return digits[0] + GRID * digits[1]
