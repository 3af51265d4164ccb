"""The recent images of a camera: a ring buffer of JPEGs in memory, with limits of images and bytes."""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from robobrain_ros.core.formats.image_files import decode_file
from robobrain_ros.core.formats.jpeg import encode_jpeg, is_jpeg, jpeg_size
from robobrain_ros.core.messages.images import ImageReader, holds_file
from robobrain_ros.core.query import RgbImage
from robobrain_ros.errors import BadImageError
from robobrain_ros.ros.cameras.images import Frame

MOST_BYTES_PER_FRAME = 1 << 20
"""A buffer holds at most this number of bytes for each of its images: 1 MiB. A JPEG of 1280x720 pixels has 0.1 to 0.5 MB."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeptFrame:
    """An image in a buffer. Each use decodes the JPEG again, so that the image needs no more memory than its bytes.

    :param time: see `Frame.time`.
    :param image_format: `format` of the message if the camera sent the JPEG; otherwise empty.
    :param reader: reads the JPEG if the camera sent it. None: this module encoded it.
    """

    data: bytes = field(repr=False)
    header: Header
    camera: str
    sequence: int
    time: int
    width: int
    height: int
    image_format: str = ""
    reader: ImageReader | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Unique name of the image. The engine's cache of images uses it."""
        stamp = self.header.stamp
        return f"{self.camera}:{stamp.sec}.{stamp.nanosec:09d}:{self.width}x{self.height}:{self.sequence}:kept"

    def image(self) -> RgbImage:
        """Decode the image: RGB, (height, width, 3), uint8. Callable from any thread.

        :raises BadImageError: the JPEG is broken.
        """
        return self.reader.read_file(self.data, self.image_format) if self.reader else decode_file(self.data, "")


class FrameHistory:
    """A ring buffer of a camera's recent images.

    It keeps the first image of each time slot. ``frames`` slots cover ``seconds``, so the rate of encoding is bounded, whatever
    the rate of the camera. A JPEG that the camera sends is kept unchanged; other images are encoded in the thread of ``submit``.
    The buffer drops its oldest images when it has too many images or bytes. It drops all images when the size or the frame of the
    camera's images changes.

    :param seconds: time that the images cover.
    :param frames: maximum number of images, at least 2.
    :param submit: runs a function with arguments in another thread.
    """

    def __init__(self, camera: str, seconds: float, frames: int, submit: Callable[..., Any]) -> None:
        self.seconds = seconds
        self.most_frames = frames
        self.most_bytes = frames * MOST_BYTES_PER_FRAME
        self._camera = camera
        self._submit = submit
        self._length = round(seconds * 1e9)
        self._slot_length = max(self._length // (frames - 1), 1)
        self._kept: deque[KeptFrame] = deque()
        self._bytes = 0
        self._last_slot: int | None = None
        self._busy = False
        self._closed = False
        self._clearings = 0
        self._lock = Lock()
        self._fault = ""

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """Number of bytes of all JPEGs."""
        return self._bytes

    @property
    def span(self) -> float:
        """Seconds between the oldest and the newest image."""
        with self._lock:
            return (self._kept[-1].time - self._kept[0].time) * 1e-9 if self._kept else 0.0

    @property
    def newest_time(self) -> int:
        """Time of the newest image in ns (see `Frame.time`); 0: there is none."""
        with self._lock:
            return self._kept[-1].time if self._kept else 0

    def offer(self, frame: Frame) -> None:
        """Keep an image if its slot has none. Called in the executor for each image of the camera; does not wait.

        While the previous image is encoded, no image is accepted. At most one image waits for the other thread.
        """
        slot = frame.time // self._slot_length
        with self._lock:
            if self._last_slot is not None and frame.time + self._length < self._last_slot * self._slot_length:
                self._clear()  # The stamps went back, or the camera no longer sets them.
            if self._closed or self._busy or (self._last_slot is not None and slot <= self._last_slot):
                return
            self._last_slot, self._busy, clearings = slot, True, self._clearings
        try:
            self._submit(self._keep, frame, clearings)
        except RuntimeError:  # The other thread has ended, because the cameras are being closed.
            self._busy = False

    def clear(self) -> None:
        """Drop all images, also an image that is still being encoded."""
        with self._lock:
            self._clear()

    def close(self) -> None:
        """Drop all images, and ignore further ones."""
        with self._lock:
            self._closed = True
            self._clear()

    def last(self, newest: Frame, seconds: float, count: int) -> list[KeptFrame]:
        """Return images from before ``newest``, evenly spaced in time, in the order of their time.

        Together with ``newest``, they are the images that are nearest to ``count`` equally spaced times, of which the first is
        ``seconds`` before ``newest``. An image is missing if the buffer has none within half a space of its time.

        :param count: number of images with ``newest``, at least 2.
        """
        with self._lock:
            kept = [frame for frame in self._kept if frame.time < newest.time]
        space = seconds * 1e9 / (count - 1)
        chosen: list[KeptFrame] = []
        for number in range(count - 1, 0, -1):
            wanted = newest.time - number * space
            nearest = min(kept, key=lambda frame: abs(frame.time - wanted), default=None)
            if nearest and abs(nearest.time - wanted) <= 0.5 * space and nearest not in chosen[-1:]:
                chosen.append(nearest)
        return chosen

    def _clear(self) -> None:
        self._kept.clear()
        self._bytes, self._last_slot = 0, None
        self._clearings += 1

    def _keep(self, frame: Frame, clearings: int) -> None:
        """Encode an image and add it. Called in the other thread."""
        try:
            kept = _encoded(frame)
        except Exception as error:
            self._report(error)
            kept = None
        with self._lock:
            self._busy = False
            if kept is not None and clearings == self._clearings and not self._closed:
                self._add(kept)

    def _add(self, frame: KeptFrame) -> None:
        if len(frame.data) > self.most_bytes:
            return  # The parameter history_frames is too low for a JPEG of this size.
        before = self._kept[-1] if self._kept else None
        if before is not None and _view(before) != _view(frame):
            self._kept.clear()
            self._bytes = 0
        self._kept.append(frame)
        self._bytes += len(frame.data)
        while len(self._kept) > self.most_frames or self._bytes > self.most_bytes:
            self._bytes -= len(self._kept.popleft().data)

    def _report(self, error: Exception) -> None:
        """Log each fault once, until another fault occurs."""
        text = error.message if isinstance(error, BadImageError) else f"{type(error).__name__}: {error}"
        if text != self._fault:
            self._fault = text
            _log.warning("An image of camera %s was not kept for its history: %s", self._camera, text)


def _view(frame: KeptFrame) -> tuple[str, int, int]:
    return frame.header.frame_id, frame.width, frame.height


def _encoded(frame: Frame) -> KeptFrame:
    """Return an image as JPEG.

    :raises BadImageError: the image cannot be read.
    """
    message = frame.message
    name = (frame.header, frame.camera, frame.sequence, frame.time)
    image_format = message.format if isinstance(message, CompressedImage) else message.encoding
    if holds_file(message) and is_jpeg(bytes(message.data[:3])):
        data = bytes(message.data)
        return KeptFrame(data, *name, *jpeg_size(data), image_format, frame.reader)
    image = frame.image()
    height, width = image.shape[:2]
    return KeptFrame(encode_jpeg(image), *name, width, height)
