"""Images as they travel to a server: PNG, which keeps every pixel, or JPEG, which is small."""

import base64

import cv2
import numpy as np
import numpy.typing as npt


def data_url(image: npt.NDArray[np.uint8], image_format: str, quality: int) -> str:
    """An image as a data URL.

    :param image: RGB, (height, width, 3), uint8.
    :param image_format: "png" or "jpeg".
    :param quality: of JPEG, 1 to 100.
    """
    if image_format == "png":
        extension, parameters = ".png", []
    else:
        # 4:4:4: colour as fine as brightness, or small coloured things lose theirs.
        sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        extension, parameters = ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling]
    encoded, data = cv2.imencode(extension, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), parameters)
    assert encoded, "OpenCV can write these two"
    return f"data:image/{image_format};base64,{base64.b64encode(data.tobytes()).decode('ascii')}"
