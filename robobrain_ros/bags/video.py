"""Write the drawn images as a video."""

from pathlib import Path
from typing import Any

import cv2

from robobrain_ros.bags.errors import BagError
from robobrain_ros.core.query import RgbImage

SUFFIXES = {".mp4": "mp4v", ".avi": "MJPG"}
"""Types of videos, and their codecs."""
_LOWEST, _HIGHEST = 1.0, 60.0
"""Limits of the images per second."""


class Video:
    """A video with a constant rate, that of the first two images in the recording. The size is that of the first image.

    :param path: ends in one of `SUFFIXES`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None
        self._first: tuple[int, RgbImage] | None = None
        self._count = 0

    def add(self, time: int, image: RgbImage) -> None:
        """Add an image, which was recorded at ``time`` in ns.

        :raises BagError: OpenCV cannot write the video.
        """
        if self._writer is None:
            if self._first is None:
                self._first = time, image
                return
            self._open(1e9 / max(time - self._first[0], 1))
        self._write(image)

    def _open(self, rate: float) -> None:
        assert self._first is not None
        height, width = self._first[1].shape[:2]
        code = cv2.VideoWriter.fourcc(*SUFFIXES[self._path.suffix])
        rate = round(min(max(rate, _LOWEST), _HIGHEST), 2)
        self._size = width, height
        self._writer = cv2.VideoWriter(str(self._path), code, rate, self._size)
        if not self._writer.isOpened():
            raise BagError(f"OpenCV cannot write the video {self._path}. Check the folder, and that the disk has space.")
        self._write(self._first[1])

    def _write(self, image: RgbImage) -> None:
        colours = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if (colours.shape[1], colours.shape[0]) != self._size:
            colours = cv2.resize(colours, self._size)
        self._writer.write(colours)
        self._count += 1

    def close(self) -> None:
        """Finish the file.

        :raises BagError: images are missing, because OpenCV does not report failed writes.
        """
        if self._writer is None and self._first is not None:
            self._open(_LOWEST)
        if self._writer is None:
            return
        self._writer.release()
        if not self._is_complete():
            raise BagError(f"The video {self._path} is incomplete. Check that the disk has space.")

    def _is_complete(self) -> bool:
        video = cv2.VideoCapture(str(self._path))
        try:
            # The number alone can be right in a file that was cut.
            video.set(cv2.CAP_PROP_POS_FRAMES, self._count - 1)
            return video.get(cv2.CAP_PROP_FRAME_COUNT) >= self._count and video.read()[0]
        finally:
            video.release()


def next_path(path: Path) -> Path:
    """Return the path of the video of a run that continues another one: ``out_1.mp4`` after ``out.mp4``."""
    number = 0
    found = path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return found
