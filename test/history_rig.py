"""Images and buffers of recent images, for tests."""

import io
from array import array

import numpy as np
from builtin_interfaces.msg import Time
from PIL import Image as PillowImage
from sensor_msgs.msg import CompressedImage

from robobrain_ros.ros.cameras.history import FrameHistory

SECOND = 10**9


def stamp(nanoseconds: int) -> Time:
    return Time(sec=nanoseconds // SECOND, nanosec=nanoseconds % SECOND)


def jpeg(width: int = 64, height: int = 48, format: str = "rgb8; jpeg compressed bgr8") -> CompressedImage:
    stream = io.BytesIO()
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([columns * 4 % 256, rows * 5 % 256, rows * 0 + 40], axis=2).astype(np.uint8)
    PillowImage.fromarray(image).save(stream, "JPEG", quality=95, subsampling=0)
    message = CompressedImage(format=format, data=array("B", stream.getvalue()))
    message.header.frame_id = "camera_optical"
    return message


def times(kept: FrameHistory) -> list[float]:
    return [each.time / SECOND for each in kept._kept]
