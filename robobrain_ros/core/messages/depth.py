"""Read depth images, raw or compressed."""

from typing import Any

from robobrain_ros.core.formats.depth_checks import USUAL_DEPTH, DepthRange
from robobrain_ros.core.formats.depth_files import decode_depth
from robobrain_ros.core.messages.images import is_compressed
from robobrain_ros.core.surfaces import DepthImage


def read_depth(message: Any, limits: DepthRange = USUAL_DEPTH, *, detect_clamp: bool = True) -> DepthImage:
    """Return the depth image of a message.

    :param message: a sensor_msgs/Image or CompressedImage.
    :param limits: see `DepthImage.bounded`.
    :param detect_clamp: see `DepthImage.bounded`.
    :raises robobrain_ros.core.geometry.GeometryError: the message cannot be read.
    """
    if is_compressed(message):
        return DepthImage(decode_depth(bytes(message.data), message.format)).bounded(limits, detect_clamp=detect_clamp)
    return DepthImage.read(
        memoryview(message.data).cast("B"),
        width=message.width,
        height=message.height,
        step=message.step,
        encoding=message.encoding,
        big_endian=bool(message.is_bigendian),
        limits=limits,
        detect_clamp=detect_clamp,
    )
