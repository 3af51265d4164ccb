"""The images of a camera in a bag."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from robobrain_ros.core.messages.images import ImageReader
from robobrain_ros.core.messages.stamps import nanoseconds
from robobrain_ros.core.query import RgbImage


@dataclass
class Frame:
    """An image in a bag, decoded at its first use.

    :param message: a sensor_msgs/Image or CompressedImage.
    :param header: its header, whose frame has no leading slash.
    :param time: when it was recorded, in ns.
    :param number: unique number among the images of all cameras.
    """

    camera: str
    message: Any
    header: Any
    time: int
    number: int
    reader: ImageReader = field(repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)
    _image: RgbImage | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Unique name of the image. The engine's cache of images uses it."""
        return f"{self.camera}:{self.stamp}:{self.number}"

    @property
    def stamp(self) -> int:
        """The stamp in ns; 0: none."""
        return nanoseconds(self.header.stamp)

    @property
    def moment(self) -> int:
        """The stamp in ns, or the time of the recording if the image has no stamp."""
        return self.stamp or self.time

    def image(self) -> RgbImage:
        """Return the image. Do not write to it. Callable from any thread.

        :raises BadImageError: the image cannot be read.
        """
        with self._lock:
            if self._image is None:
                self._image = self.reader.read(self.message)
            return self._image


class Recent:
    """The newest images of a camera.

    :param seconds: length of the history; 0: only the newest image is kept.
    :param frames: number of images in the history.
    """

    def __init__(self, seconds: float, frames: int) -> None:
        self._length = round(seconds * 1e9)
        # Twice the number of images is kept, so that each of the evenly spaced moments has an image at most half a step away.
        self._step = self._length / max(frames - 1, 1) / 2
        self._kept: deque[Frame] = deque()
        self.newest: Frame | None = None
        """The newest image."""

    @property
    def keeps_history(self) -> bool:
        """Whether earlier images than the newest one are kept."""
        return bool(self._length)

    def add(self, frame: Frame) -> None:
        """Add the next image. After a jump back of the stamps, forget the earlier ones."""
        if self.newest is not None and frame.moment < self.newest.moment:
            self._kept.clear()
        self.newest = frame
        if self._length:
            if not self._kept or frame.moment - self._kept[-1].moment >= self._step:
                self._kept.append(frame)
            while self._kept[0].moment < frame.moment - self._length - self._step:
                self._kept.popleft()

    def last(self, seconds: float, count: int) -> Sequence[Frame]:
        """Return at most ``count`` images of the last seconds, evenly spaced, from the oldest to the newest."""
        assert self.newest is not None
        end = self.newest.moment
        chosen = [self.newest]
        for number in range(1, count):
            wanted = end - round(seconds * 1e9) * number // max(count - 1, 1)
            nearest = min(self._kept, key=lambda frame: abs(frame.moment - wanted), default=self.newest)
            if nearest.moment < chosen[-1].moment:
                chosen.append(nearest)
        return chosen[::-1]
