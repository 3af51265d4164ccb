"""Images of one view at different times: as a video, or as images with a sentence about their times. Their size for the model.

Families that were trained on video get a video, if the engine supports it. A video has half the visual tokens, because the
encoder joins two frames, and its times are represented as in training. Otherwise, a sentence before the question states them.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from robobrain_ros.engine.base import FRAMES_OF_VIDEO_TOKEN, TIMED_TOKENS

_LONGEST_TIME = 3601.0
"""Seconds between the first and the newest image."""
_UNEVEN = 0.25
"""Largest deviation of a frame from its place in an evenly spaced video, as a share of the space."""


def times_fault(times: Sequence[float], images: int) -> str:
    """Return a sentence about why the times of images are invalid, or an empty string if they are valid.

    :param times: see `core.query.Query.image_times`.
    :param images: number of the images.
    """
    shown = ", ".join(f"{time:g}" for time in times[:10])
    if len(times) != images:
        return f"image_times has {len(times)} values for {images} images. State the time of each image, or of none."
    if not all(math.isfinite(time) and -_LONGEST_TIME <= time <= 0.0 for time in times):
        return f"image_times is {shown}. Each time must be from -{_LONGEST_TIME - 1:g} to 0 s: seconds before the newest image."
    if any(later <= earlier for earlier, later in pairwise(times)) or times[-1] != 0.0:
        return f"image_times is {shown}. The times must increase to 0, the time of the newest image."
    return ""


def sentence(times: Sequence[float]) -> str:
    """Return the sentence that states the times of several images, for a prompt."""
    ages = ", ".join(f"{abs(time):.2f}".rstrip("0").rstrip(".") for time in times)
    return f"The images show one view over time. Seconds before the last image: {ages}."


def is_even(times: Sequence[float]) -> bool:
    """Return whether the times are evenly spaced, as the frames of a video are."""
    if len(times) < 2:
        return False
    space = -times[0] / (len(times) - 1)
    return all(abs(time - (times[0] + number * space)) <= _UNEVEN * space for number, time in enumerate(times))


def parts(count: int, as_video: bool) -> int:
    """Return the number of parts that have visual tokens of their own: images, or pairs of frames of a video."""
    return -(-count // FRAMES_OF_VIDEO_TOKEN) if as_video else count


def pixel_limit(count: int, as_video: bool, cell: int) -> int:
    """Return the pixel limit of each of ``count`` images. ``cell``: see `PixelBudget`."""
    return TIMED_TOKENS // parts(count, as_video) * cell**2


def visual_tokens(sizes: Sequence[tuple[int, int]], as_video: bool, cell: int) -> int:
    """Return the visual tokens of images of these sizes for the model (width, height)."""
    tokens = [width * height // cell**2 for width, height in sizes]
    return tokens[0] * parts(len(sizes), True) if as_video else sum(tokens)
