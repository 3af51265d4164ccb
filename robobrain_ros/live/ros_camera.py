"""The images and clouds of one camera, from its topics."""

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from robobrain_ros.core.clouds import Cloud, CloudMaker
from robobrain_ros.core.geometry import CameraModel
from robobrain_ros.core.messages.depth import read_depth
from robobrain_ros.core.messages.frames import plain_frame
from robobrain_ros.core.messages.images import ImageReader
from robobrain_ros.core.messages.positions import names_rectified, to_camera_model
from robobrain_ros.core.messages.stamps import nanoseconds
from robobrain_ros.core.query import RgbImage
from robobrain_ros.errors import BadImageError
from robobrain_ros.live.feed import Frame

_TYPES: dict[str, Any] = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
_KEPT_IMAGES = 4
_OLDEST = 3600.0
"""An image with a larger age in seconds has a stamp of another clock, so its age is unknown."""


@dataclass(frozen=True)
class Topics:
    """Full names of the topics. An empty name: there is no such topic."""

    image: str
    info: str
    depth: str


class CameraInput:
    """Subscribes to the topics of one camera while it is open. `frame` and `cloud` are called in another thread."""

    def __init__(self, node: Node, most_points: int) -> None:
        self._node = node
        self._clouds = CloudMaker(most_points)
        self._lock = threading.Lock()
        self._topics: Topics | None = None
        self._subscribed: dict[str, tuple[tuple[Any, bool], Any]] = {}
        """Type and reliability of each topic, and its subscription."""
        self._reader = ImageReader()
        self._images: deque[tuple[int, Any]] = deque(maxlen=_KEPT_IMAGES)
        self._count = 0
        self._depth: tuple[int, Any] | None = None
        self._info: CameraInfo | None = None
        self._decoded: tuple[int, RgbImage] | None = None
        self._cloud: Cloud | None = None
        self._failed = 0
        self.fault = ""
        """Why the newest image cannot be read, or empty."""

    def open(self, topics: Topics) -> None:
        """Subscribe. Call it each second, because it adapts to publishers that appear later."""
        if topics != self._topics:
            self.close()
            self._topics = topics
            self._reader = ImageReader()
        self._subscribe(topics.image, None, self._take_image)
        self._subscribe(topics.info, CameraInfo, self._take_info)
        self._subscribe(topics.depth, None, self._take_depth)

    def close(self) -> None:
        """Unsubscribe, and drop everything."""
        for _, subscription in self._subscribed.values():
            self._node.destroy_subscription(subscription)
        self._subscribed.clear()
        with self._lock:
            self._images.clear()
            self._topics = self._depth = self._info = self._decoded = self._cloud = None
            self.fault = ""

    @property
    def frame_id(self) -> str:
        """Frame of the newest image, or empty."""
        with self._lock:
            return plain_frame(self._images[-1][1].header.frame_id) if self._images else ""

    def frame(self) -> Frame | None:
        """Return the newest image, decoded, or None."""
        with self._lock:
            newest = self._images[-1] if self._images else None
        if newest is None:
            return None
        image = self._decode(*newest)
        if image is None:
            return None
        age = (self._node.get_clock().now().nanoseconds - nanoseconds(newest[1].header.stamp)) * 1e-9
        return Frame(newest[0], image, max(age, 0.0) if -1.0 < age < _OLDEST else None)

    def cloud(self) -> Cloud | None:
        """Return the newest cloud, or None.

        :raises GeometryError: the depth image or the calibration cannot be used.
        """
        with self._lock:
            depth, info, topics = self._depth, self._info, self._topics
            stamp = None if depth is None else depth[1].header.stamp
            images = list(self._images)
        if depth is None or info is None or topics is None or not images:
            return None
        if self._cloud is None or self._cloud.number != depth[0]:
            if self._failed == depth[0]:
                return self._cloud
            matching = next((one for one in reversed(images) if one[1].header.stamp == stamp), images[-1])
            image = self._decode(*matching)
            self._failed = depth[0]
            rectified = names_rectified(topics.image)
            size = None if image is None else (image.shape[1], image.shape[0])
            camera: CameraModel = to_camera_model(info, rectified, size)
            self._cloud = self._clouds.make(depth[0], image, read_depth(depth[1]), camera)
        return self._cloud

    def _decode(self, number: int, message: Any) -> RgbImage | None:
        if self._decoded is None or self._decoded[0] != number:
            try:
                self._decoded = number, self._reader.read(message)
                self.fault = ""
            except BadImageError as error:
                self.fault = error.message
                return None
        return self._decoded[1]

    def _subscribe(self, topic: str, message_type: Any, listener: Any) -> None:
        publishers = self._node.get_publishers_info_by_topic(topic) if topic else []
        types = [message_type or _TYPES.get(info.topic_type) for info in publishers]
        types = [kind for kind in types if kind is not None]
        if not publishers or not types:
            return
        # A reliable subscription receives nothing from a best-effort publisher.
        reliable = all(info.qos_profile.reliability == ReliabilityPolicy.RELIABLE for info in publishers)
        how = types[0], reliable
        before = self._subscribed.get(topic)
        if before is not None and before[0] == how:
            return
        if before is not None:
            self._node.destroy_subscription(before[1])
        policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        qos = QoSProfile(depth=1, reliability=policy)
        self._subscribed[topic] = how, self._node.create_subscription(types[0], topic, listener, qos)

    def _take_image(self, message: Any) -> None:
        with self._lock:
            self._count += 1
            self._images.append((self._count, message))

    def _take_depth(self, message: Any) -> None:
        with self._lock:
            self._count += 1
            self._depth = self._count, message

    def _take_info(self, message: CameraInfo) -> None:
        with self._lock:
            self._info = message


def guess_depth(image: str, candidates: list[str]) -> str:
    """Return the topic that shares the longest beginning with the image topic. Empty: there is no candidate."""

    def shared(topic: str) -> int:
        return next((n for n, (a, b) in enumerate(zip(topic, image, strict=False)) if a != b), min(len(topic), len(image)))

    return max(candidates, key=shared, default="")


def info_beside(image: str) -> str:
    """Return the topic of the calibration by the convention of ROS: camera_info beside the image topic."""
    return f"{image.removesuffix('/compressed').rpartition('/')[0]}/camera_info"
