"""The cameras of the node: the newest image of each, its age, and statistics of arrivals."""

import difflib
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from sensor_msgs.msg import CompressedImage, Image

from robobrain_ros.core.messages.images import ImageReader
from robobrain_ros.core.messages.positions import names_rectified
from robobrain_ros.errors import BadRequestError, NoImageError, StaleImageError
from robobrain_ros.msg import QueryOptions
from robobrain_ros.ros.cameras.arrivals import ArrivalStatistics
from robobrain_ros.ros.cameras.history import FrameHistory
from robobrain_ros.ros.cameras.images import Frame
from robobrain_ros.ros.cameras.intake import Intake
from robobrain_ros.ros.cameras.position_topics import PositionInputs, PositionTopics
from robobrain_ros.ros.cameras.streams import Stream
from robobrain_ros.ros.clock import ClockWatch, Jump, nanoseconds, stamp_age

_TYPES = {"raw": (Image, "image"), "compressed": (CompressedImage, "image/compressed")}

_WITH_DEPTH = 8
"""Number of images that are kept for a camera with depth."""
_WORTH_DEPTH = 0.5
"""Maximum age difference in seconds for which an image with depth is used instead of the newest image."""

_STREAM = 3
"""Number of images after which a latched publisher counts as a camera that publishes continuously."""
_PERIODS = 2.5
"""Periods without an image after which a camera counts as stopped."""

_sequence = itertools.count()
"""Numbers all frames of the process, so that their names differ even if their stamps are equal."""


def given_frame(message: Image, name: str) -> Frame:
    """Return an image that came with a request as a frame, so that it is decoded once and the engine recognizes it.

    :param name: name of the image in errors.
    """
    return Frame(message, name, next(_sequence), time.monotonic())


class NoSuchCameraError(BadRequestError):
    """A camera of a request is missing from the parameter ``cameras``."""


class CameraListener(Protocol):
    """Receives calls in the executor when images and depth images arrive."""

    def on_frame(self, frame: Frame) -> None:
        """An image arrived."""

    def on_depth(self, camera: str) -> None:
        """A depth image of this camera arrived."""


@dataclass(frozen=True)
class CameraEvents:
    """A `CameraListener` that also calls ``on_image`` with each image."""

    listener: CameraListener
    on_image: Callable[[Frame], None]

    def on_frame(self, frame: Frame) -> None:
        """See `CameraListener`."""
        self.on_image(frame)
        self.listener.on_frame(frame)

    def on_depth(self, camera: str) -> None:
        """See `CameraListener`."""
        self.listener.on_depth(camera)


class Camera:
    """One camera of the node. It does not decode images.

    :param queue: queue depth of the image subscription.
    :param late_after: an image counts as late if it arrives more than this many seconds after its stamp.
    :param depth_transport: see `robobrain_ros.ros.cameras.depth.DepthStream`.
    :param history: buffer of recent images, or None. The camera clears and closes it.
    """

    def __init__(
        self,
        intake: Intake,
        name: str,
        *,
        transport: str,
        reliability: str,
        listener: CameraListener,
        queue: int = 1,
        late_after: float = math.inf,
        use_depth: bool = False,
        depth_transport: str = "auto",
        rectified: str = "auto",
        watch: ClockWatch | None = None,
        reader: ImageReader | None = None,
        history: FrameHistory | None = None,
    ) -> None:
        self.name = name
        self.history = history
        self._watch = watch
        self._last_stamp = 0
        self._why_empty = ""
        self.statistics = ArrivalStatistics()
        self._clock = intake.node.get_clock()
        self._reader = reader or ImageReader(name)
        self.late_after = late_after
        self._listener = listener
        self._newest: Frame | None = None
        self._with_depth: deque[Frame] = deque(maxlen=_WITH_DEPTH if use_depth else 0)
        message_type, suffix = _TYPES[transport]
        topic = f"{name}/{suffix}"
        self._stream = Stream(intake, message_type, topic, self._arrived, reliability=reliability, depth=queue)
        is_leftover = watch.is_leftover if watch else lambda stamp: False
        self.position_topics = PositionTopics(
            intake,
            name,
            use_depth=use_depth,
            depth_transport=depth_transport,
            reliability=reliability,
            is_leftover=is_leftover,
            on_depth=lambda: listener.on_depth(name),
        )
        self._rectified = names_rectified(self.topic) if rectified == "auto" else rectified == "yes"

    def adapt(self) -> None:
        """See `Stream.adapt`."""
        self._stream.adapt()
        self.position_topics.adapt()

    def position_inputs(self, frame: Frame) -> PositionInputs:
        """Start to collect depth and camera_info of an image. The caller must close the result."""
        return PositionInputs.of(frame.header, self._rectified, self.position_topics)

    @property
    def topic(self) -> str:
        """Full name of the topic after remapping."""
        return self._stream.topic

    @property
    def reliable(self) -> bool:
        """Whether the subscription is reliable now."""
        return self._stream.reliable

    @property
    def publisher_nodes(self) -> tuple[str, ...]:
        """Full names of the nodes that publish the images, one for each publisher."""
        return self._stream.publisher_nodes

    @property
    def newest(self) -> Frame | None:
        """The newest image, or None if no image has arrived."""
        return self._newest

    def fresh(self, max_age: float, frame: Frame | None = None) -> Frame:
        """Return an image of this camera, after a check of its age.

        :param max_age: maximum age in seconds; 0: any age. The age of an image without a stamp counts from its arrival.
        :param frame: the image. None means the newest image.
        :raises NoImageError: no image has arrived since the start or the last time jump.
        :raises StaleImageError: the image is older than ``max_age``, or its stamp is more than ``max_age`` ahead of the clock.
        """
        if self._watch is not None:
            self._watch.check()
        if frame is None or self._newest is None:  # After a time jump, there is no newest image, and older images are invalid.
            frame = self._newest
        if frame is None:
            since = self._why_empty or "yet"
            raise NoImageError(
                f"No image of camera {self.name} has arrived on {self.topic} {since}. Publishers: {self._stream.publishers()}."
            )
        age, silence = self._age(frame), time.monotonic() - frame.arrival
        if max_age > 0.0 and age > max_age:
            raise StaleImageError(self._why_stale(age, silence, max_age))
        if max_age > 0.0 and age < -max_age and self._watch is not None and self._watch.waits:
            raise StaleImageError(
                "Simulated time has not started: use_sim_time is true, but no message has arrived on /clock. Start the publisher "
                "of /clock (such as ros2 bag play --clock), or set use_sim_time to false."
            )
        if max_age > 0.0 and age < -max_age:
            raise StaleImageError(
                f"The stamp of the newest image of camera {self.name} is {-age:.1f} s ahead of the node's clock. "
                "Check use_sim_time and the synchronization of the clocks."
            )
        return frame

    def newest_with_depth(self, tolerance: float, max_age: float) -> Frame | None:
        """Return the newest image whose depth and camera_info have arrived, or else the newest image.

        An image with depth is not used if it is older than ``max_age`` or much older than the newest image.

        The depth of the newest image can arrive later, or never if the transport loses it.

        :param tolerance: maximum seconds between the stamps of an image and its depth image.
        :param max_age: see `fresh`.
        """
        newest = self._newest
        whole = (frame for frame in reversed(self._with_depth) if self.position_topics.complete(frame.header, tolerance))
        frame = next(whole, None)
        if newest is None or frame is None or newest.arrival - frame.arrival > _WORTH_DEPTH:
            return newest
        return newest if 0.0 < max_age < self._age(frame) else frame

    def _age(self, frame: Frame) -> float:
        """Return the seconds since the image's stamp, or since its arrival if it has no stamp."""
        age = stamp_age(self._clock, frame.header)
        return time.monotonic() - frame.arrival if math.isnan(age) else age

    def slow_reason(self, most: float) -> str:
        """Return a sentence if the camera's period exceeds ``most`` seconds; otherwise an empty text."""
        interval = self.statistics.interval
        if not 0.0 < most < interval:
            return ""
        return f"Camera {self.name} sends one image every {interval:.1f} s on {self.topic}. {_advice(interval)}"

    def _why_stale(self, age: float, silence: float, max_age: float) -> str:
        if self._stream.latched and self.statistics.received < _STREAM:
            return (
                f"The last image of camera {self.name} on {self.topic} is {age:.1f} s old; max_image_age is {max_age:g} s. The "
                "publisher is latched (transient local), so it may send no newer image. Set max_image_age to 0 to accept any age."
            )
        delay = age - silence
        if delay > max_age or delay > max(silence, 0.5 * max_age):
            return (
                f"The last image of camera {self.name} is {age:.1f} s old; max_image_age is {max_age:g} s. It arrived "
                f"{delay:.1f} s after its stamp. Check use_sim_time, the synchronization of the clocks, the driver "
                "and the network."
            )
        return self._why_silent(silence, f"is {age:.1f} s old; max_image_age is {max_age:g} s.", 0.5 * max_age)

    def _why_silent(self, silence: float, is_old: str, usual: float) -> str:
        """Return a sentence about a slow camera, or about one that has stopped.

        :param silence: seconds since the last image.
        :param is_old: age of this image, as the end of a sentence.
        :param usual: a camera is slow if its time between two images exceeds this number of seconds.
        """
        publishers = f"Publishers: {self._stream.publishers()}."
        if self.statistics.received < 2:
            first = f"The only image of camera {self.name} so far {is_old} It arrived {silence:.1f} s ago on {self.topic}."
            advice = "The camera has stopped, or it is slow: then raise max_image_age, or set it to 0 to accept any age."
            return f"{first} {advice} {publishers}"
        slow = self.slow_reason(usual)
        if slow and silence < _PERIODS * self.statistics.interval:
            return f"{slow} The last image {is_old}"
        pause = self.statistics.pause
        if pause > usual and silence < _PERIODS * pause:
            apart = f"Camera {self.name} sends images up to {pause:.1f} s apart on {self.topic}."
            return f"{apart} {_advice(pause)} The last image {is_old}"
        stopped = f"Camera {self.name} has stopped: its last image arrived {silence:.1f} s ago on {self.topic} and {is_old}"
        return f"{stopped} {publishers}"

    def forget(self, jump: Jump) -> None:
        """Drop the images and depth images from before a time jump."""
        if self._newest is not None and jump.is_old(nanoseconds(self._newest.header.stamp)):
            self._newest, self._why_empty = None, f"since {jump}"
        kept = [frame for frame in self._with_depth if not jump.is_old(nanoseconds(frame.header.stamp))]
        self._with_depth.clear()
        self._with_depth.extend(kept)
        self._last_stamp = 0
        if self.history is not None:
            self.history.clear()
        self.statistics.restart()
        self.position_topics.forget(jump)
        self._stream.fetch_latched()

    def close(self) -> None:
        """Destroy the subscriptions."""
        self._newest = None
        self._with_depth.clear()
        if self.history is not None:
            self.history.close()
        self._stream.close()
        self.position_topics.close()

    def _arrived(self, message: Image | CompressedImage) -> None:
        arrival = time.monotonic()
        stamp = message.header.stamp
        if self._watch is not None and not self._follow(self._watch, nanoseconds(stamp)):
            return
        late = stamp_age(self._clock, message.header) > self.late_after
        self.statistics.add(arrival, stamp.sec + stamp.nanosec * 1e-9, late)
        self._newest = Frame(message, self.name, next(_sequence), arrival, self._reader)
        self._with_depth.append(self._newest)
        if self.history is not None:
            self.history.offer(self._newest)
        self._listener.on_frame(self._newest)

    def _follow(self, watch: ClockWatch, stamp: int) -> bool:
        """Check an image's stamp (ns) for a time jump. Return False if the image is from before a jump."""
        watch.check()
        if watch.is_leftover(stamp):
            return False
        if len(self._stream.publisher_nodes) < 2:  # The stamps of several publishers are not monotonic.
            watch.check_stamps(self.name, self._last_stamp, stamp)
        self._last_stamp = stamp
        return True


def _advice(interval: float) -> str:
    """Return a sentence about what to do if the time between images is ``interval`` seconds."""
    return f"Set max_image_age to at least {math.ceil(_PERIODS * interval)} s, or to 0 to accept any age."


class Cameras:
    """The cameras of the node by name. The first one is the default.

    :param on_close: called after the cameras were closed.
    """

    def __init__(self, cameras: Sequence[Camera], names: Sequence[str], on_close: Callable[[], None] = lambda: None) -> None:
        self._on_close = on_close
        self._cameras = {camera.name: camera for camera in cameras}
        self._names = tuple(names)

    def __iter__(self) -> Iterator[Camera]:
        return iter(self._cameras.values())

    def adapt(self) -> None:
        """See `Camera.adapt`."""
        for camera in self:
            camera.adapt()

    def forget(self, jump: Jump) -> None:
        """See `Camera.forget`."""
        for camera in self:
            if jump.concerns(camera.name):
                camera.forget(jump)

    def name(self, wanted: str) -> str:
        """Return the name of the camera that a request uses; an empty name selects the first.

        :raises NoSuchCameraError: no camera has this name.
        """
        if not self._names:
            raise NoSuchCameraError("The parameter cameras is empty. Send the image with the request, or configure a camera.")
        if wanted and wanted not in self._names:
            near = difflib.get_close_matches(wanted, self._names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise NoSuchCameraError(f"There is no camera {wanted!r}. The cameras are: {', '.join(self._names)}.{hint}")
        return wanted or self._names[0]

    def names_of(self, options: QueryOptions) -> list[str]:
        """Return the names of the cameras that a request uses.

        :raises NoSuchCameraError: a camera does not exist.
        :raises BadRequestError: the fields contradict each other.
        """
        if not options.cameras:
            return [self.name(options.camera)]
        if options.camera:
            raise BadRequestError("camera and cameras are both set. Set only one of them.")
        if "" in options.cameras:
            raise BadRequestError("cameras contains an empty name. Name each camera.")
        names = [self.name(name) for name in options.cameras]
        if len(set(names)) < len(names):
            raise BadRequestError(f"cameras contains a name twice: {', '.join(names)}. Name each camera once.")
        return names

    def __getitem__(self, name: str) -> Camera:
        """Return an open camera by its name; an empty name selects the first.

        :raises BadRequestError: no camera has this name.
        :raises NoImageError: the cameras are closed.
        """
        camera = self._cameras.get(self.name(name))
        if camera is None:
            raise NoImageError("The node is not active and receives no images. Activate the node.")
        return camera

    def close(self) -> None:
        """Destroy all subscriptions. The names of the cameras stay known."""
        for camera in self._cameras.values():
            camera.close()
        self._cameras = {}
        self._on_close()
