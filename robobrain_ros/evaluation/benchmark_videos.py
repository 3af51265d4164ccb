"""Frames of the videos of benchmarks."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from robobrain_ros.core.query import RgbImage
from robobrain_ros.engine.base import MOST_IMAGES
from robobrain_ros.evaluation.benchmark_item import BenchmarkError, Clip, Item


def check_clips(items: Iterable[Item]) -> None:
    """Check the videos of questions: each has the frames of its questions, and the frames that the model sees can be decoded.

    A video that is damaged in its middle has fewer frames than it states, so that later frames are missing or wrong.

    :raises BenchmarkError: a video is missing or damaged, or too short.
    """
    for clip, identity in {item.clip: item.identity for item in reversed(list(items)) if item.clip is not None}.items():
        read_frames(clip, identity)


@contextmanager
def _opened(path: Path, where: str) -> Iterator[tuple[Any, int]]:
    """Open a video. Yield it, and the number of its frames.

    :raises BenchmarkError: it is missing or cannot be decoded.
    """
    # Before the first video: FFmpeg's own messages about a damaged video would hide the sentence about it.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import cv2

    if not os.path.isfile(path):
        raise BenchmarkError(f"{where} is missing.")
    capture = cv2.VideoCapture(str(path))
    try:
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        if count < 1:
            raise BenchmarkError(f"{where} cannot be decoded.")
        yield capture, count
    finally:
        capture.release()


def _last_frame(clip: Clip, count: int, where: str) -> int:
    """Return the number of the last frame of a clip in a video with ``count`` frames.

    :raises BenchmarkError: the video is shorter than the clip.
    """
    last = count - 1 if clip.last is None else clip.last
    if not 0 <= clip.first <= last or last > count:  # Some annotations count the end of the last frame.
        raise BenchmarkError(f"{where} has {count} frames, but the question is about the frames {clip.first} to {last}.")
    return min(last, count - 1)


def read_frames(clip: Clip, identity: str, count: int = MOST_IMAGES) -> tuple[list[RgbImage], tuple[float, ...]]:
    """Return evenly spaced frames of a clip, with the first and the last one, and their times.

    :param identity: the question, for messages.
    :param count: number of frames. A shorter clip gives all of its frames.
    :returns: RGB images, and the seconds of each relative to the last one.
    :raises BenchmarkError: the video cannot be decoded, or is shorter than the clip.
    """
    import cv2

    where = f"Question {identity}: the video {clip.path}"
    with _opened(clip.path, where) as (capture, total):
        rate = capture.get(cv2.CAP_PROP_FPS) or 30.0
        last = _last_frame(clip, total, where)
        wanted = np.unique(np.linspace(clip.first, last, count).round().astype(int)) if count > 1 else np.array([clip.first])
        images = []
        for number in wanted:
            capture.set(cv2.CAP_PROP_POS_FRAMES, int(number))
            good, frame = capture.read()
            if not good:
                raise BenchmarkError(f"{where} cannot be decoded at frame {number}.")
            images.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    return images, tuple(float(number - wanted[-1]) / rate for number in wanted)  # type: ignore[return-value]
