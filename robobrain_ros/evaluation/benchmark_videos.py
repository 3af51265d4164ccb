"""Frames of the videos of benchmarks."""

import numpy as np

from robobrain_ros.core.query import RgbImage
from robobrain_ros.engine.base import MOST_IMAGES
from robobrain_ros.evaluation.benchmark_item import BenchmarkError, Clip, Item


def check_clip(item: Item) -> None:
    """Check that the first frame of a question's video can be decoded.

    :raises BenchmarkError: the video is missing or damaged, or too short.
    """
    assert item.clip is not None, "the question has a video"
    read_frames(item.clip, item.identity, 1)


def read_frames(clip: Clip, identity: str, count: int = MOST_IMAGES) -> tuple[list[RgbImage], tuple[float, ...]]:
    """Return evenly spaced frames of a clip, with the first and the last one, and their times.

    :param identity: the question, for messages.
    :param count: number of frames. A shorter clip gives all of its frames.
    :returns: RGB images, and the seconds of each relative to the last one.
    :raises BenchmarkError: the video cannot be decoded, or is shorter than the clip.
    """
    import cv2

    where = f"Question {identity}: the video {clip.path}"
    if not clip.path.is_file():
        raise BenchmarkError(f"{where} is missing.")
    capture = cv2.VideoCapture(str(clip.path))
    try:
        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        rate = capture.get(cv2.CAP_PROP_FPS) or 30.0
        if total < 1:
            raise BenchmarkError(f"{where} cannot be decoded.")
        last = total - 1 if clip.last is None else clip.last
        if not 0 <= clip.first <= last or last > total:  # Some annotations count the end of the last frame.
            raise BenchmarkError(f"{where} has {total} frames, but the question is about the frames {clip.first} to {last}.")
        last = min(last, total - 1)
        wanted = np.unique(np.linspace(clip.first, last, count).round().astype(int)) if count > 1 else np.array([clip.first])
        images = []
        for number in wanted:
            capture.set(cv2.CAP_PROP_POS_FRAMES, int(number))
            good, frame = capture.read()
            if not good:
                raise BenchmarkError(f"{where} cannot be decoded at frame {number}.")
            images.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    finally:
        capture.release()
    return images, tuple(float(number - wanted[-1]) / rate for number in wanted)  # type: ignore[return-value]
