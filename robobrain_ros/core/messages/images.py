"""Convert image messages to RGB, with the camera's parameters for 16 bits and for red and blue."""

import logging
from threading import Lock
from typing import Any

from robobrain_ros.core.formats.bit_depth import SCALED_BY_ITSELF
from robobrain_ros.core.formats.encodings import ENCODINGS, canonical, check_size, decode_raw
from robobrain_ros.core.formats.image_files import ReadingOptions, decode_file
from robobrain_ros.core.query import RgbImage
from robobrain_ros.errors import BadImageError

_log = logging.getLogger(__name__)

# This module does not use cv_bridge.imgmsg_to_cv2(message, "passthrough"). cv_bridge 1.13, the version on PyPI, ignores the row
# step, reads 16UC1 as 8 bits, raises exceptions for colour images with OpenCV 5 and for big-endian images with numpy 2, and does
# not support NV12, NV21, NV24 and upper-case names. It returns a view of the message, so this module would still have to validate
# the image and convert it to RGB.

_FILES = ("jpeg", "jpg", "mjpeg", "png", "image/jpeg", "image/png")
"""Encodings of raw images that contain a file. Some drivers publish such images."""

_MOST_NOTES = 20
"""Maximum number of logged assumptions about one camera, because they contain a format that the publisher selects."""


def is_compressed(message: Any) -> bool:
    """Return whether a message is a sensor_msgs/CompressedImage, and not a sensor_msgs/Image."""
    return hasattr(message, "format")


def holds_file(message: Any) -> bool:
    """Return whether the data of a message is a file, such as a JPEG or a PNG, instead of the values of pixels."""
    return is_compressed(message) or message.encoding.strip().lower() in _FILES


class ImageReader:
    """Reads the images of one camera, and logs each assumption about them once. Callable from any thread.

    :param camera: name of the camera, or empty if the images are part of requests.
    :param swap_red_blue: whether the publisher swaps red and blue.
    :param bit_depth: bits of the sensor in 16-bit images; 0: unknown, see `robobrain_ros.core.formats.bit_depth`.
    """

    def __init__(self, camera: str = "", *, swap_red_blue: bool = False, bit_depth: int = 0) -> None:
        self._camera = camera
        self._options = ReadingOptions(swap_red_blue, bit_depth, self._note)
        self._noted: set[str] = set()
        self._lock = Lock()

    def read(self, message: Any) -> RgbImage:
        """Return a copy of the image of a message as RGB, (height, width, 3), uint8.

        :param message: a sensor_msgs/Image or CompressedImage.
        :raises BadImageError: the image cannot be read.
        """
        if is_compressed(message):
            return self.read_file(bytes(message.data), message.format)
        if holds_file(message):
            return self._read_file(message)
        image = decode_raw(
            memoryview(message.data),
            width=message.width,
            height=message.height,
            step=message.step,
            encoding=message.encoding,
            big_endian=bool(message.is_bigendian),
            bits=self._options.bits,
        )
        if ENCODINGS[canonical(message.encoding)].bits == 16 and not self._options.bits:
            self._note(SCALED_BY_ITSELF)
        return image[:, :, ::-1].copy() if self._options.swap_red_blue else image

    def read_file(self, data: bytes, image_format: str) -> RgbImage:
        """Return the image of a JPEG, PNG or TIFF as RGB, (height, width, 3), uint8.

        :param image_format: see `decode_file`.
        :raises BadImageError: the image cannot be read.
        """
        return decode_file(data, image_format, self._options)

    def _read_file(self, message: Any) -> RgbImage:
        """Read a JPEG or PNG inside a raw image, whose width and height can be 0."""
        width, height = message.width, message.height
        if width or height:
            check_size(width, height)
        image = self.read_file(bytes(message.data), message.encoding)
        if (width or height) and image.shape[:2] != (height, width):
            raise BadImageError(
                f"The message states {width}x{height} pixels, but the {message.encoding.strip()} in it has "
                f"{image.shape[1]}x{image.shape[0]}."
            )
        return image

    def _note(self, text: str) -> None:
        with self._lock:
            if text in self._noted or len(self._noted) >= _MOST_NOTES:
                return
            self._noted.add(text)
        source = f"Camera {self._camera}" if self._camera else "An image of a request"
        _log.warning("%s: %s", source, text.replace("<camera>", self._camera or "<camera>"))
