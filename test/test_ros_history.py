"""The buffer of a camera's recent images: its limits, what it keeps, when it is cleared, and which images it selects."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any

import numpy as np
import pytest
from history_rig import SECOND, jpeg, stamp, times
from ros_rig import image_message
from sensor_msgs.msg import CompressedImage, Image

from robobrain_ros.core.messages.images import ImageReader
from robobrain_ros.ros.cameras import history as buffer
from robobrain_ros.ros.cameras.history import MOST_BYTES_PER_FRAME, FrameHistory
from robobrain_ros.ros.cameras.images import Frame

_sequence = count()


def at_once(work: Callable[..., Any], *arguments: Any) -> None:
    work(*arguments)


@dataclass
class Later:
    """Holds the work that a buffer gives to its other thread."""

    waiting: list[Callable[[], None]] = field(default_factory=list)

    def submit(self, work: Callable[..., Any], *arguments: Any) -> None:
        self.waiting.append(lambda: work(*arguments))

    def run(self) -> None:
        for work in self.waiting:
            work()
        self.waiting.clear()


def noise(width: int, height: int, seed: int = 0) -> Image:
    """An image that JPEG cannot compress."""
    data = np.random.default_rng(seed).integers(0, 256, width * height * 3, np.uint8)
    message = Image(width=width, height=height, encoding="rgb8", step=width * 3, data=array("B", data.tobytes()))
    message.header.frame_id = "camera_optical"
    return message


def frame(message: Image | CompressedImage, time: float, camera: str = "camera") -> Frame:
    """The message as an image that arrived at ``time`` (s), which is also its stamp."""
    message.header.stamp = stamp(round(time * SECOND))
    return Frame(message, camera, next(_sequence), time)


def size(kept: FrameHistory) -> int:
    return sum(len(each.data) for each in kept._kept)


def test_ten_minutes_of_four_cameras_at_30_hz_stay_within_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each camera has a JPEG of another size: below, near and above the limit per image, and above the limit of the buffer."""
    monkeypatch.setattr(buffer, "MOST_BYTES_PER_FRAME", 4000)
    shapes = {"small": (16, 16), "near": (48, 32), "large": (96, 64), "huge": (320, 240)}
    kept = {name: FrameHistory(name, 8.0, 16, at_once) for name in shapes}
    messages = {name: noise(*shape) for name, shape in shapes.items()}
    encoded = buffer._encoded
    jpegs = {name: encoded(frame(message, 1.0)) for name, message in messages.items()}
    assert 4000 < len(jpegs["large"].data) < 16 * 4000 < len(jpegs["huge"].data)
    calls: list[str] = []

    def counted(each: Frame) -> Any:
        calls.append(each.camera)
        return encoded(each)

    monkeypatch.setattr(buffer, "_encoded", counted)
    for number in range(10 * 60 * 30):
        for name, message in messages.items():
            kept[name].offer(frame(message, 1000.0 + number / 30.0, name))
            assert len(kept[name]) <= 16
            assert kept[name].bytes <= kept[name].most_bytes == 16 * 4000
    assert [size(each) for each in kept.values()] == [each.bytes for each in kept.values()]
    assert [len(each) for each in kept.values()] == [16, 16, 16 * 4000 // len(jpegs["large"].data), 0]
    assert kept["small"].span == pytest.approx(8.0, abs=0.05)
    # The rate of encoding is that of the slots, not that of the camera: 15 slots in 8 s.
    assert calls.count("small") == pytest.approx(600 / 8 * 15, abs=2)


def test_the_limit_is_a_mebibyte_per_image() -> None:
    """A large JPEG of the camera counts with its own size, and older images are dropped for it."""
    kept = FrameHistory("camera", 3.0, 4, at_once)
    large = jpeg()
    large.data = array("B", bytes(large.data) + bytes(3 * MOST_BYTES_PER_FRAME))
    for second in range(4):
        kept.offer(frame(jpeg(), 10.0 + second))
    assert len(kept) == 4
    kept.offer(frame(large, 14.0))
    assert kept.bytes == size(kept) <= 4 * MOST_BYTES_PER_FRAME
    assert times(kept)[-1] == 14.0
    kept.offer(frame(large, 15.0))
    assert times(kept) == [15.0], "two of these exceed the limit"
    large.data = array("B", bytes(large.data) + bytes(2 * MOST_BYTES_PER_FRAME))
    kept.offer(frame(large, 16.0))
    assert times(kept) == [15.0], "this one alone exceeds the limit"


@pytest.mark.parametrize("rate", [3.0, 7.0, 30.0, 90.0])
def test_the_images_cover_the_seconds_evenly_at_each_rate_of_the_camera(rate: float) -> None:
    kept = FrameHistory("camera", 4.0, 9, at_once)
    message = noise(16, 16)
    for number in range(int(20 * rate)):
        kept.offer(frame(message, 50.0 + number / rate))
    assert len(kept) == 9
    gaps = [later - earlier for earlier, later in pairwise(times(kept))]
    assert all(abs(gap - 0.5) <= 1.0 / rate + 1e-6 for gap in gaps)
    assert kept.span >= 4.0 - 1.0 / rate


def test_a_jpeg_of_the_camera_is_kept_unchanged() -> None:
    kept = FrameHistory("camera", 1.0, 2, at_once)
    message = jpeg()
    shown = Frame(message, "camera", 1, 5.0, ImageReader("camera", swap_red_blue=True))
    kept.offer(shown)
    (only,) = kept._kept
    assert only.data == bytes(message.data)
    assert (only.width, only.height) == (64, 48)
    # The camera's parameters apply once, when the image is read.
    np.testing.assert_array_equal(only.image(), shown.image())


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8", "yuv422_yuy2", "16UC1"])
def test_another_image_is_encoded_once_and_keeps_its_colours(encoding: str) -> None:
    kept = FrameHistory("camera", 1.0, 2, at_once)
    message = image_message(encoding)
    shown = Frame(message, "camera", 1, 5.0, ImageReader("camera", swap_red_blue=True))
    kept.offer(shown)
    (only,) = kept._kept
    assert only.data[:2] == b"\xff\xd8"
    assert np.abs(only.image().astype(int) - shown.image()).mean() < 3.0


def test_pixels_that_begin_like_a_jpeg_are_pixels() -> None:
    kept = FrameHistory("camera", 1.0, 2, at_once)
    message = noise(16, 16)
    message.data[:3] = array("B", b"\xff\xd8\xff")
    kept.offer(frame(message, 5.0))
    assert (kept._kept[0].width, kept._kept[0].height) == (16, 16)


def test_images_are_encoded_elsewhere_one_at_a_time() -> None:
    later = Later()
    kept = FrameHistory("camera", 1.0, 3, later.submit)
    for time in (10.0, 10.5, 11.0):
        kept.offer(frame(noise(16, 16), time))
    assert len(later.waiting) == 1
    assert len(kept) == 0
    later.run()
    kept.offer(frame(noise(16, 16), 11.1))
    later.run()
    assert times(kept) == [10.0, 11.1], "the slot of an image that found no free thread takes the next image"


@pytest.mark.parametrize("end", [FrameHistory.clear, FrameHistory.close])
def test_an_image_that_is_encoded_during_clear_is_dropped(end: Callable[[FrameHistory], None]) -> None:
    later = Later()
    kept = FrameHistory("camera", 1.0, 3, later.submit)
    kept.offer(frame(noise(16, 16), 10.0))
    end(kept)
    later.run()
    assert (len(kept), kept.bytes) == (0, 0)


def test_images_of_another_size_or_frame_replace_the_earlier_ones() -> None:
    kept = FrameHistory("camera", 9.0, 10, at_once)
    for time in (10.0, 11.0):
        kept.offer(frame(noise(16, 16), time))
    kept.offer(frame(noise(32, 16), 12.0))
    assert times(kept) == [12.0]
    other = noise(32, 16)
    other.header.frame_id = "other_optical"
    kept.offer(frame(other, 13.0))
    assert times(kept) == [13.0]
    assert kept.bytes == size(kept)


def test_stamps_that_go_back_empty_the_buffer() -> None:
    kept = FrameHistory("camera", 2.0, 3, at_once)
    for time in (100.0, 101.0, 102.0, 50.0, 51.0):
        kept.offer(frame(noise(16, 16), time))
    assert times(kept) == [50.0, 51.0]


def test_an_unreadable_image_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    kept = FrameHistory("camera", 2.0, 3, at_once)
    broken = image_message("rgb8")
    broken.data = broken.data[:100]
    for time in (10.0, 11.0):
        kept.offer(frame(broken, time))
    kept.offer(frame(noise(16, 16), 12.0))
    assert times(kept) == [12.0]
    assert len([record for record in caplog.records if "was not kept for its history" in record.message]) == 1


@pytest.mark.parametrize(
    ("seconds", "frames", "wanted"),
    [
        (4.0, 5, [6.0, 7.0, 8.0, 9.0]),
        (3.0, 4, [7.0, 8.0, 9.0]),
        (2.0, 3, [8.0, 9.0]),
        (4.0, 2, [6.0]),
        (8.0, 5, [4.0, 6.0, 8.0]),  # The buffer has no image of 8 s ago.
        (1.0, 5, [9.0, 9.5]),
    ],
)
def test_the_images_of_a_request_are_evenly_spaced(seconds: float, frames: int, wanted: list[float]) -> None:
    kept = FrameHistory("camera", 6.0, 13, at_once)
    for number in range(13):
        kept.offer(frame(noise(16, 16), 4.0 + 0.5 * number))
    newest = frame(noise(16, 16), 10.0)
    assert [each.time / SECOND for each in kept.last(newest, seconds, frames)] == wanted
