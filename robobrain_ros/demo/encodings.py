"""Encode RGB images as the data of a sensor_msgs/Image, for the simulated camera and for tests.

`core.formats.encodings` decodes them.
"""

import cv2
import numpy as np
import numpy.typing as npt

ENCODINGS = (
    "rgb8", "bgr8", "rgba8", "bgra8", "8UC3", "8UC4", "mono8", "8UC1",
    "rgb16", "bgr16", "rgba16", "bgra16", "16UC3", "16UC4", "mono16", "16UC1",
    "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8", "bayer_rggb16", "bayer_bggr16", "bayer_gbrg16", "bayer_grbg16",
    "yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21", "nv24",
)  # fmt: skip
"""Encodings of `encode_image`. The channel order of 8UC3 is blue, green, red, as in OpenCV. With 16 bits, 255 becomes 65535."""

GRAY_ENCODINGS = ("mono8", "8UC1", "mono16", "16UC1")

# Channel (0 red, 1 green, 2 blue) of each pixel (row, column) in a 2x2 square of the mosaic.
_BAYER_CHANNELS = {
    "bayer_rggb8": ((0, 1), (1, 2)),
    "bayer_bggr8": ((2, 1), (1, 0)),
    "bayer_gbrg8": ((1, 2), (0, 1)),
    "bayer_grbg8": ((1, 0), (2, 1)),
}
_COLOUR_CODES = {
    "bgr8": cv2.COLOR_RGB2BGR,
    "8UC3": cv2.COLOR_RGB2BGR,
    "rgba8": cv2.COLOR_RGB2RGBA,
    "bgra8": cv2.COLOR_RGB2BGRA,
    "mono8": cv2.COLOR_RGB2GRAY,
    "8UC1": cv2.COLOR_RGB2GRAY,
    "8UC4": cv2.COLOR_RGB2BGRA,
}
_SUBSAMPLED = ("yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21")


def encode_image(image: npt.NDArray[np.uint8], encoding: str) -> tuple[npt.NDArray[np.uint8], int]:
    """Return the data of an RGB image (height, width, 3) in one of `ENCODINGS`, and the length of a row in bytes (``step``).

    Multi-byte samples are little-endian. Encodings with subsampled chroma (yuv422, yuyv, nv12, ...) need even sides.

    :raises ValueError: unknown encoding, or an odd side where it must be even.
    """
    height, width = image.shape[:2]
    if encoding == "rgb8":
        return image.reshape(-1), width * 3
    if encoding in _COLOUR_CODES:
        converted = cv2.cvtColor(image, _COLOUR_CODES[encoding])
        return converted.reshape(-1).astype(np.uint8), converted.size // height
    if encoding in ENCODINGS and "16" in encoding:
        narrow, step = encode_image(image, encoding.replace("16", "8"))
        return (narrow.astype("<u2") * 257).astype("<u2").view(np.uint8), step * 2
    if encoding in _BAYER_CHANNELS:
        return _mosaic(image, _BAYER_CHANNELS[encoding]).reshape(-1), width
    if encoding == "nv24":
        return _nv24(image), width
    if encoding in _SUBSAMPLED:
        if width % 2 or height % 2:
            raise ValueError(f"{encoding} needs an even width and height, not {width}x{height}")
        return _subsampled(image, encoding).reshape(-1), width if encoding.startswith("nv") else width * 2
    raise ValueError(f"unknown encoding {encoding!r}; known encodings are {', '.join(ENCODINGS)}")


def _mosaic(image: npt.NDArray[np.uint8], channels: tuple[tuple[int, int], tuple[int, int]]) -> npt.NDArray[np.uint8]:
    mosaic = np.empty(image.shape[:2], np.uint8)
    for row in (0, 1):
        for column in (0, 1):
            mosaic[row::2, column::2] = image[row::2, column::2, channels[row][column]]
    return mosaic


def _nv24(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Encode as YUV 4:4:4 in limited-range BT.601: the plane of Y, then interleaved U and V."""
    red, green, blue = (image[:, :, channel].astype(np.float64) for channel in range(3))
    luma = 16 + 0.257 * red + 0.504 * green + 0.098 * blue
    u = 128 - 0.148 * red - 0.291 * green + 0.439 * blue
    v = 128 + 0.439 * red - 0.368 * green - 0.071 * blue
    planes = [luma.reshape(-1), np.dstack((u, v)).reshape(-1)]
    return np.rint(np.concatenate(planes)).clip(0, 255).astype(np.uint8)


def _subsampled(image: npt.NDArray[np.uint8], encoding: str) -> npt.NDArray[np.uint8]:
    """Convert to YUV in limited-range BT.601, which OpenCV's decoders expect."""
    height, width = image.shape[:2]
    planes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)
    luma = planes[:height]
    chroma = planes[height:].reshape(2, height // 2, width // 2)
    if encoding in ("nv12", "nv21"):
        ordered = chroma if encoding == "nv12" else chroma[::-1]
        return np.concatenate([luma.reshape(-1), ordered.transpose(1, 2, 0).reshape(-1)]).astype(np.uint8)
    u, v = (plane.repeat(2, axis=0) for plane in chroma)
    packed = np.empty((height, width // 2, 4), np.uint8)
    first, second = luma[:, 0::2], luma[:, 1::2]
    order = (u, first, v, second) if encoding in ("yuv422", "uyvy") else (first, u, second, v)
    for index, samples in enumerate(order):
        packed[:, :, index] = samples
    return packed
