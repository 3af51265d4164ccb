"""Create images in the formats of cameras and drivers, for tests."""

import numpy as np

_CHANNELS = {"r": 0, "g": 1, "b": 2}


def mosaic(image: np.ndarray, pattern: str) -> np.ndarray:
    """Return the Bayer mosaic of an RGB image. ``pattern`` is the ROS name of the first two rows of two columns, such as rggb."""
    samples = np.empty(image.shape[:2], image.dtype)
    for place, colour in enumerate(pattern):
        row, column = divmod(place, 2)
        samples[row::2, column::2] = image[row::2, column::2, _CHANNELS[colour]]
    return samples
