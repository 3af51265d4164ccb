"""Encode images for a server as PNG, which is lossless, or JPEG, which is smaller."""

import base64

import cv2
import numpy as np
import numpy.typing as npt


def data_url(image: npt.NDArray[np.uint8], image_format: str, quality: int) -> str:
    """Return an image as a data URL.

    :param image: RGB, (height, width, 3), uint8.
    :param image_format: "png" or "jpeg".
    :param quality: JPEG quality, 1 to 100.
    """
    if image_format == "png":
        extension, parameters = ".png", []
    else:
        # 4:4:4: without chroma subsampling, so that small objects keep their colour.
        sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        extension, parameters = ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling]
    encoded, data = cv2.imencode(extension, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), parameters)
    assert encoded, "OpenCV can write these two"
    return f"data:image/{image_format};base64,{base64.b64encode(data.tobytes()).decode('ascii')}"
