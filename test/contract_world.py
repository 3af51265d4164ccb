"""The environment of the node in the contract test: cameras, a clock, and the ledger of open requests."""

import math
import os
import random
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

from builtin_interfaces.msg import Time
from contract_node import GRID, image_of
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmark"))

from soak_client import StampingExecutor

GRACE = 1.0
"""Seconds after its deadline within which each request must have its response. The test checks this promise."""
MAX_IMAGE_AGE = 1.0
"""Value in seconds of the parameter max_image_age."""


class Stalls:
    """Measures how long the node and this process waited for a CPU core. The node's promises cannot cover this time.

    The kernel counts the time for each thread (/proc/<pid>/task/<tid>/schedstat, second number, in ns). If the kernel does not
    count it, the class measures for how long a thread of this process overslept.
    """

    def __init__(self, pid: int, period: float = 0.02) -> None:
        self._pids = (pid, os.getpid())
        self._stop, self._period, self._overslept = Event(), period, 0.0
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def total(self) -> float:
        """Seconds of waiting since the start: the sum over both processes of the thread that waited longest."""
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
    """A request in the ledger. Times are values of ``time.monotonic()``. ``limit`` is in seconds after ``sent``."""

    what: str
    sent: float
    limit: float
    stalls: float
    step: int
    clock: float
    """Time of the node's clock in seconds when the request was sent."""
    answered: float = 0.0


@dataclass
class Shown:
    """A frame that the client published."""

    number: int
    published: float
    """Time of the node's clock in seconds when the frame was published."""
    epoch: int
    """Number of earlier jumps back of the clock."""
    stale: bool
    """Whether its stamp was older than any promise allows."""
    depth_mm: int = 0
    """Depth in millimetres that was published with it; 0: no usable depth."""


@dataclass
class Camera:
    """A camera that the client simulates."""

    name: str
    on: bool = True
    stamp_offset: float = 0.0
    broken: bool = False
    depth: str = ""
    """The camera's depth: "" (no depth), "good", "none", "zero" or "saturated"."""


class ContractWorld:
    """A node that simulates two cameras and a clock, and keeps the ledger. `faults` lists the broken promises."""

    def __init__(self, namespace: str, seed: int, context: Any, *, node_pid: int, sim_time: bool) -> None:
        self._node = Node("contract_client", namespace=namespace, context=context)
        self.faults: list[str] = []
        self.log: deque[str] = deque(maxlen=60)
        """The latest actions, for the report of a failure."""
        self.ledger: dict[int, Entry] = {}
        self.step = self.sent = self.answered = 0
        self.sim_time = sim_time
        self.stalls = Stalls(node_pid)
        self._random = random.Random(seed)
        self._spinner = StampingExecutor(context=context)
        self._spinner.add_node(self._node)
        self._sim_now = 1_000.0
        self._epoch, self._jumped = 0, -math.inf
        self._frames: dict[tuple[str, int, int], Shown] = {}
        """The published frames by camera and stamp."""
        self.largest_tolerance = 0.01
        """Largest value so far of the parameter sync_tolerance."""
        self._number = 0
        self._cameras = [Camera("camera"), Camera("deep", depth="good")]
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        publish = self._node.create_publisher
        self._images = {camera.name: publish(Image, f"{camera.name}/image", reliable) for camera in self._cameras}
        self._depth = publish(Image, "deep/depth", reliable)
        self._info = publish(CameraInfo, "deep/camera_info", reliable)
        self._clock_publisher = publish(Clock, "/clock", 10) if self.sim_time else None

    # Time and cameras.

    def now(self) -> float:
        """Return the time of the node's clock in seconds."""
        return self._sim_now if self.sim_time else time.time()

    def _stamp(self, seconds: float) -> Time:
        nanoseconds = int(max(seconds, 0.001) * 1e9)
        return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)

    def _show(self, camera: Camera) -> None:
        """Publish one frame of a camera, with depth if the camera has it."""
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

    def depths_near(self, stamp: Time) -> list[int]:
        """Return the depths in millimetres that the node may use for an image without a depth image of the same stamp."""
        return [
            shown.depth_mm
            for (_, sec, nanosec), shown in self._frames.items()
            if shown.depth_mm and abs(sec - stamp.sec + (nanosec - stamp.nanosec) * 1e-9) <= self.largest_tolerance + 1e-6
        ]

    def tick(self, seconds: float = 0.02) -> None:
        """Advance the clock, and publish frames."""
        if self._clock_publisher is not None:
            self._sim_now += seconds
            self._clock_publisher.publish(Clock(clock=self._stamp(self._sim_now)))
        for camera in self._cameras:
            if camera.on and self._random.random() < 0.5:
                self._show(camera)

    def jump_clock(self) -> None:
        """Let simulated time jump back or forward."""
        back = self._random.random() < 0.5
        self._note(f"clock jumps {'back' if back else 'forward'}")
        seconds = self._random.choice([0.5, 5.0, 100.0, 900.0]) + self._random.random()  # Each stamp is unique.
        self._sim_now = max(self._sim_now - seconds, self._random.random()) if back else self._sim_now + seconds
        self._epoch += 1
        self._jumped = time.monotonic()
        self.tick()

    # Spinning and the ledger.

    def spin(self, seconds: float = 0.0) -> None:
        """Process messages for at least this number of seconds."""
        end = time.monotonic() + seconds
        for _ in range(20):
            self._spinner.spin_once(timeout_sec=0.0)
        while time.monotonic() < end:
            self._spinner.spin_once(timeout_sec=0.005)

    def until(self, condition: Callable[[], Any], limit: float = 60.0, *, showing: bool = False) -> bool:
        """Spin until a condition is true, and return whether it is."""
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
        """Return the requests whose promise is already broken."""
        now = time.monotonic()
        return [
            entry
            for entry in self.ledger.values()
            if now - entry.sent > entry.limit + GRACE + 1.0 + self.stalls.total - entry.stalls
        ]

    def heal(self) -> None:
        """Repair every camera."""
        for camera in self._cameras:
            camera.on, camera.broken, camera.stamp_offset = True, False, 0.0
            camera.depth = "good" if camera.depth else ""
