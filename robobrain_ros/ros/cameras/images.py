"""Frames of cameras: image messages that are decoded at their first use."""

from dataclasses import dataclass, field
from threading import Lock

from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from robobrain_ros.core.messages.images import ImageReader
from robobrain_ros.core.query import RgbImage
from robobrain_ros.ros.cameras.frames import plain_header
from robobrain_ros.ros.clock import nanoseconds


@dataclass(frozen=True)
class Frame:
    """An image message, decoded at its first use.

    :param arrival: time of ``time.monotonic()``.
    """

    message: Image | CompressedImage
    camera: str
    sequence: int
    arrival: float
    reader: ImageReader = field(default_factory=ImageReader, repr=False, compare=False)
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)
    _decoded: list[RgbImage] = field(default_factory=list, repr=False, compare=False)

    @property
    def header(self) -> Header:
        """The header of the message. The frame has no leading slash."""
        return plain_header(self.message.header)

    @property
    def name(self) -> str:
        """Unique name of the image. The engine's cache of images uses it."""
        stamp = self.header.stamp
        size = f"{self.message.width}x{self.message.height}" if isinstance(self.message, Image) else "compressed"
        return f"{self.camera}:{stamp.sec}.{stamp.nanosec:09d}:{size}:{self.sequence}"

    @property
    def time(self) -> int:
        """The stamp in ns. Without a stamp, the time of ``time.monotonic()`` at the arrival in ns."""
        return nanoseconds(self.message.header.stamp) or round(self.arrival * 1e9)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels. (0, 0): the image is compressed."""
        return (self.message.width, self.message.height) if isinstance(self.message, Image) else (0, 0)

    def image(self) -> RgbImage:
        """Return the image, decoded at the first call. Callers must not write to it. Callable from any thread.

        :raises BadImageError: the image cannot be read. The message states the reason.
        """
        with self._lock:
            if not self._decoded:
                self._decoded.append(self.reader.read(self.message))
            return self._decoded[0]
