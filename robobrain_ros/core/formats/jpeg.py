"""Encode images as JPEG, and read the size of a JPEG without decoding it."""

import io

import cv2
from PIL import Image as PillowImage

from robobrain_ros.bounds.image_files import without_metadata
from robobrain_ros.core.formats.image_files import check_file_size
from robobrain_ros.core.query import RgbImage
from robobrain_ros.errors import BadImageError

_QUALITY = 90
_BEGINNING = b"\xff\xd8\xff"


def encode_jpeg(image: RgbImage) -> bytes:
    """Return an image as JPEG with quality 90. Callable from any thread; other threads run meanwhile.

    The colours have the full resolution (4:4:4), so that small objects keep their colour. benchmark/history.py compares encoders.

    :param image: RGB, (height, width, 3), uint8, at most 65,500 pixels wide and high.
    :raises BadImageError: the image is too large.
    """
    parameters = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    try:
        encoded, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), parameters)
    except cv2.error as error:
        encoded, reason = False, str(error)
    else:
        reason = "OpenCV gives no reason"
    if not encoded:
        raise BadImageError(f"It cannot be encoded as JPEG with {image.shape[1]}x{image.shape[0]} pixels: {reason}.")
    return data.tobytes()


def is_jpeg(data: bytes) -> bool:
    """Return whether the bytes begin as a JPEG does. Three bytes suffice."""
    return data[: len(_BEGINNING)] == _BEGINNING


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels from the header of a JPEG.

    :raises BadImageError: the bytes are not a JPEG, or the size is implausible.
    """
    try:
        with PillowImage.open(io.BytesIO(without_metadata(data)), formats=("JPEG",)) as image:
            width, height = image.size
    except Exception as error:  # The bytes are arbitrary, and Pillow raises many types of exceptions for broken files.
        raise BadImageError(f"Its header cannot be read as that of a JPEG: {str(error)[:200]}.") from error
    check_file_size(width, height, len(data))
    return width, height
