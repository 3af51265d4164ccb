"""The cameras: subscriptions that keep the newest message, its age, and statistics of what arrives."""

import difflib
import itertools
import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock

from rclpy.clock import Clock
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from robobrain_ros.core.query import Picture
from robobrain_ros.errors import BadRequestError, NoImageError, StaleImageError
from robobrain_ros.msg import QueryOptions
from robobrain_ros.ros.conversions import read_image
from robobrain_ros.ros.positions import Moment, Surroundings
from robobrain_ros.ros.streams import Stream

_TYPES = {"raw": (Image, "image"), "compressed": (CompressedImage, "image/compressed")}

_SILENCE = 2.0
"""Seconds without a picture after which a camera's rate is called 0."""

_sequence = itertools.count()
"""Numbers every frame of the process, so that no two have the same name even if their stamps are equal."""

FrameListener = Callable[["Frame"], None]


@dataclass(frozen=True)
class Frame:
    """A message as it arrived, decoded when first asked about. ``arrival`` is a time of ``time.monotonic()``."""

    message: Image | CompressedImage
    camera: str
    sequence: int
    arrival: float
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)
    _decoded: list[Picture] = field(default_factory=list, repr=False, compare=False)

    @property
    def header(self) -> Header:
        """The picture's own header."""
        return self.message.header

    @property
    def name(self) -> str:
        """Unique name of the picture, by which an engine recognizes it."""
        stamp = self.header.stamp
        size = f"{self.message.width}x{self.message.height}" if isinstance(self.message, Image) else "compressed"
        return f"{self.camera}:{stamp.sec}.{stamp.nanosec:09d}:{size}:{self.sequence}"

    def picture(self) -> Picture:
        """The picture, decoded once for all who ask; not to be written to. Callable from any thread.

        :raises BadImageError: the reason why it cannot be read.
        """
        with self._lock:
            if not self._decoded:
                self._decoded.append(read_image(self.message))
            return self._decoded[0]


def stamp_age(clock: Clock, header: Header) -> float:
    """Seconds from a header's stamp to now, by that clock; NaN without a stamp."""
    if header.stamp.sec == 0 and header.stamp.nanosec == 0:
        return math.nan
    now = clock.now()
    return float((now - Time.from_msg(header.stamp, clock_type=now.clock_type)).nanoseconds) * 1e-9


def names_rectified(topic: str) -> bool:
    """Whether a topic's name says that its pictures are rectified: image_rect, image_rect_color, rectified/image, ..."""
    return re.search(r"(^|[/_])rect(ified)?($|[/_])", topic) is not None


class ArrivalStatistics:
    """Rate and losses of a stream, from arrival times and stamps."""

    def __init__(self) -> None:
        self.received = 0
        self.lost = 0
        self._arrivals: deque[float] = deque(maxlen=30)
        self._gaps: deque[float] = deque(maxlen=15)
        self._last_stamp = 0.0

    def add(self, arrival: float, stamp: float) -> None:
        """Count a picture that arrived at ``arrival`` (s, monotonic) with ``stamp`` (s; 0: none).

        A gap between stamps of about n usual periods means that n - 1 pictures were lost; the usual period is the median of the
        last gaps.
        """
        self.received += 1
        self._arrivals.append(arrival)
        gap = stamp - self._last_stamp
        known = self._last_stamp > 0.0
        self._last_stamp = stamp
        if not known or gap <= 0.0 or stamp <= 0.0:
            return
        if len(self._gaps) >= 3:
            period = sorted(self._gaps)[len(self._gaps) // 2]
            self.lost += max(round(gap / period) - 1, 0)
        self._gaps.append(gap)

    def rate(self, now: float) -> float:
        """Pictures per second, 0 when none came lately; ``now`` as of ``time.monotonic()``."""
        if len(self._arrivals) < 2 or now - self._arrivals[-1] > _SILENCE:
            return 0.0
        return (len(self._arrivals) - 1) / max(self._arrivals[-1] - self._arrivals[0], 1e-9)


class Camera:
    """One camera of a node; decoding is left to the user of a frame."""

    def __init__(
        self,
        node: Node,
        name: str,
        *,
        transport: str,
        reliability: str,
        on_frame: FrameListener,
        use_depth: bool = False,
        rectified: str = "auto",
    ) -> None:
        self.name = name
        self.statistics = ArrivalStatistics()
        self._node = node
        self._on_frame = on_frame
        self._newest: Frame | None = None
        message_type, suffix = _TYPES[transport]
        self._stream = Stream(node, message_type, f"{name}/{suffix}", self._arrived, reliability=reliability)
        self.surroundings = Surroundings(node, name, use_depth=use_depth, reliability=reliability)
        self._rectified = names_rectified(self.topic) if rectified == "auto" else rectified == "yes"

    def adapt(self) -> None:
        """As of `Stream.adapt`."""
        self._stream.adapt()
        self.surroundings.adapt()

    def moment(self, frame: Frame) -> Moment:
        """What belongs to a picture of this camera; to be closed."""
        return Moment.of(frame.header, self._rectified, self.surroundings)

    @property
    def topic(self) -> str:
        """Full name of the topic after remapping."""
        return self._stream.topic

    @property
    def newest(self) -> Frame | None:
        """The newest picture; None: none yet."""
        return self._newest

    def fresh(self, max_age: float) -> Frame:
        """The newest picture.

        :param max_age: seconds it may be old, 0 for any age. Without a stamp, its age counts from its arrival.
        :raises NoImageError: none has arrived.
        :raises StaleImageError: it is older, or that far ahead of the node's clock.
        """
        frame = self._newest
        if frame is None:
            raise NoImageError(
                f"No picture has arrived from camera {self.name} on {self.topic} yet; {self._stream.publishers()}."
            )
        age = stamp_age(self._node.get_clock(), frame.header)
        if math.isnan(age):
            age = time.monotonic() - frame.arrival
        if max_age > 0.0 and age > max_age:
            raise StaleImageError(
                f"The newest picture of camera {self.name} is {age:.1f} s old, max_image_age is {max_age:g} s; "
                f"{self._stream.publishers()}."
            )
        if max_age > 0.0 and age < -max_age:
            raise StaleImageError(
                f"The newest picture of camera {self.name} is stamped {-age:.1f} s ahead of the node's clock; "
                "check use_sim_time and the clocks' synchronization."
            )
        return frame

    def close(self) -> None:
        """Give the subscription back."""
        self._newest = None
        self._stream.close()
        self.surroundings.close()

    def _arrived(self, message: Image | CompressedImage) -> None:
        arrival = time.monotonic()
        stamp = message.header.stamp
        self.statistics.add(arrival, stamp.sec + stamp.nanosec * 1e-9)
        self._newest = Frame(message, self.name, next(_sequence), arrival)
        self._on_frame(self._newest)


class Cameras:
    """The cameras of a node by name; the first is the default."""

    def __init__(self, cameras: Sequence[Camera], names: Sequence[str]) -> None:
        self._cameras = {camera.name: camera for camera in cameras}
        self._names = tuple(names)

    def __iter__(self) -> Iterator[Camera]:
        return iter(self._cameras.values())

    def adapt(self) -> None:
        """As of `Camera.adapt`."""
        for camera in self:
            camera.adapt()

    def name(self, wanted: str) -> str:
        """The name of the camera that a request means.

        :raises BadRequestError: there is none of that name.
        """
        if not self._names:
            raise BadRequestError("No camera is configured (parameter cameras); send the picture with the request.")
        if wanted and wanted not in self._names:
            near = difflib.get_close_matches(wanted, self._names, n=1)
            hint = f" Is {near[0]!r} meant?" if near else ""
            raise BadRequestError(f"There is no camera {wanted!r}; known are: {', '.join(self._names)}.{hint}")
        return wanted or self._names[0]

    def names_of(self, options: QueryOptions) -> list[str]:
        """The names of the cameras that a request means, one or several.

        :raises BadRequestError: there is none of such a name, or the request contradicts itself.
        """
        if not options.cameras:
            return [self.name(options.camera)]
        if options.camera:
            raise BadRequestError("camera and cameras are both given; give one of them.")
        if "" in options.cameras:
            raise BadRequestError("cameras holds an empty name; name each camera.")
        names = [self.name(name) for name in options.cameras]
        if len(set(names)) < len(names):
            raise BadRequestError(f"cameras holds a name twice: {', '.join(names)}.")
        return names

    def __getitem__(self, name: str) -> Camera:
        """The open camera that a request means; empty: the first.

        :raises BadRequestError: there is none of that name.
        :raises NoImageError: the cameras are closed.
        """
        camera = self._cameras.get(self.name(name))
        if camera is None:
            raise NoImageError("The cameras are closed; activate the node.")
        return camera

    def close(self) -> None:
        """Give all subscriptions back; names stay known."""
        for camera in self._cameras.values():
            camera.close()
        self._cameras = {}
