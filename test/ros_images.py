"""Images as cameras and drivers publish them, for tests."""

import numpy as np

_CHANNELS = {"r": 0, "g": 1, "b": 2}


def mosaic(image: np.ndarray, pattern: str) -> np.ndarray:
    """The Bayer mosaic of an RGB image; ``pattern`` as in ROS, such as rggb: the first two rows of two columns."""
    samples = np.empty(image.shape[:2], image.dtype)
    for place, colour in enumerate(pattern):
        row, column = divmod(place, 2)
        samples[row::2, column::2] = image[row::2, column::2, _CHANNELS[colour]]
    return samples
