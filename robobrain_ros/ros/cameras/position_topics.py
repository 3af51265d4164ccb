"""The topics from which positions are computed: camera_info and depth. Finds the messages with the stamp of a request's image."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sensor_msgs.msg import CameraInfo, CompressedImage
from std_msgs.msg import Header

from robobrain_ros.core.messages.frames import plain_frame
from robobrain_ros.core.messages.stamps import StampMatch, nanoseconds
from robobrain_ros.ros.cameras.depth import DepthStream
from robobrain_ros.ros.cameras.intake import Intake
from robobrain_ros.ros.cameras.streams import Stream
from robobrain_ros.ros.clock import Jump

_KEPT = 8
"""Number of messages that are kept for each topic. The image of a request can be several periods old, and its depth image can
arrive before the image."""


class MatchedTopic:
    """A topic with messages that belong to a camera's images. Keeps the newest messages.

    :param what: name of such a message in a sentence.
    :param open_stream: creates the subscription.
    :param is_leftover: whether a message with this stamp was sent before a time jump.
    :param on_message: called in the executor after a message was kept.
    """

    def __init__(
        self,
        what: str,
        open_stream: Callable[..., Stream],
        *,
        reliability: str,
        is_leftover: Callable[[int], bool] = lambda stamp: False,
        on_message: Callable[[], None] = lambda: None,
    ) -> None:
        self._is_leftover = is_leftover
        self._on_message = on_message
        self.what = what
        self._kept: deque[Any] = deque(maxlen=_KEPT)
        self._matches: list[StampMatch] = []
        # The queue has the same depth. Otherwise, a late executor could receive an image but lose its messages.
        self.stream = open_stream(listener=self._arrived, reliability=reliability, depth=_KEPT)

    @property
    def newest(self) -> Any:
        """The newest message, or None if no message has arrived."""
        return self._kept[-1] if self._kept else None

    def has(self, stamp: int, tolerance: float) -> bool:
        """Whether the message of an image has arrived. ``tolerance``: seconds between the stamps."""
        return StampMatch(stamp, tuple(self._kept)).is_met(tolerance)

    def match(self, stamp: int) -> StampMatch:
        """Start to look for the message of an image."""
        match = StampMatch(stamp, tuple(self._kept))
        self._matches.append(match)
        return match

    def release(self, match: StampMatch) -> None:
        """Stop looking for a message."""
        self._matches.remove(match)

    def forget(self, jump: Jump) -> None:
        """Drop the messages from before a time jump, and stop waiting for further ones."""
        kept = [message for message in self._kept if not jump.is_old(nanoseconds(message.header.stamp))]
        self._kept.clear()
        self._kept.extend(kept)
        for match in self._matches:
            if jump.is_old(match.stamp):
                match.close()
        self.stream.fetch_latched()

    def _arrived(self, message: Any) -> None:
        if self._is_leftover(nanoseconds(message.header.stamp)):
            return
        self._kept.append(message)
        for match in self._matches:
            match.offer(message)
        self._on_message()

    def explain(self, match: StampMatch, tolerance: float) -> str:
        """Return a sentence about why an image has no such message, or an empty string if it has one."""
        if match.best is None:
            return f"No {self.what} has arrived on {self.stream.topic}. Publishers: {self.stream.publishers()}."
        if not match.is_met(tolerance):
            return (
                f"No {self.what} with the image's stamp has arrived on {self.stream.topic}: the nearest stamp differs by "
                f"{match.distance * 1e-9:.3g} s; sync_tolerance is {tolerance:g} s."
            )
        return ""


class CameraInfoTopic(MatchedTopic):
    """The topic camera_info. Calibrations do not depend on time: a message with another stamp is used if frame and size match."""

    def __init__(self, intake: Intake, topic: str, *, reliability: str, is_leftover: Callable[[int], bool]) -> None:
        self._last: CameraInfo | None = None
        """The newest message, which is kept when time jumps."""
        stream = partial(Stream, intake, CameraInfo, topic)
        super().__init__("camera_info", stream, reliability=reliability, is_leftover=is_leftover)

    def candidates(self, match: StampMatch, tolerance: float) -> list[CameraInfo]:
        """Return messages that can describe the image of a match: the one with its stamp first, then newest to oldest."""
        first = [match.best] if match.is_met(tolerance) else []
        last = [] if self._last is None else [self._last]
        return [*first, *reversed(self._kept), *last]

    def fits(self, frame: str) -> bool:
        """Whether a calibration in this frame has arrived."""
        known = [*self._kept, *([] if self._last is None else [self._last])]
        return any(same_frame(info.header.frame_id, frame) for info in known)

    def _arrived(self, message: CameraInfo) -> None:
        self._last = message
        super()._arrived(message)


def same_frame(one: str, other: str) -> bool:
    """Return whether two names mean the same frame. A leading slash of ROS 1 is ignored."""
    return plain_frame(one) == plain_frame(other)


class PositionTopics:
    """The topics of a camera except its images: camera_info, and depth if it is used.

    :param on_depth: called in the executor for each depth image.
    """

    def __init__(
        self,
        intake: Intake,
        camera: str,
        *,
        use_depth: bool,
        depth_transport: str = "auto",
        reliability: str,
        is_leftover: Callable[[int], bool] = lambda stamp: False,
        on_depth: Callable[[], None] = lambda: None,
    ) -> None:
        self.camera = camera
        """The camera's name."""
        # The reliability is that of the images. With best effort, even small messages are lost when images fill the buffers.
        how: dict[str, Any] = {"reliability": reliability, "is_leftover": is_leftover}
        self.info = CameraInfoTopic(intake, f"{camera}/camera_info", **how)
        depth = partial(DepthStream, intake, f"{camera}/depth", transport=depth_transport)
        self.depth = MatchedTopic("depth image", depth, on_message=on_depth, **how) if use_depth else None

    @property
    def topics(self) -> list[MatchedTopic]:
        """The topics."""
        return [self.info] if self.depth is None else [self.info, self.depth]

    def complete(self, header: Header, tolerance: float) -> bool:
        """Whether camera_info and depth of an image have arrived. ``tolerance``: seconds between the stamps."""
        measured = self.depth is None or self.depth.has(nanoseconds(header.stamp), tolerance)
        return measured and self.info.fits(header.frame_id)

    def forget(self, jump: Jump) -> None:
        """See `MatchedTopic.forget`."""
        for topic in self.topics:
            topic.forget(jump)

    def adapt(self) -> None:
        """See `Stream.adapt`."""
        for topic in self.topics:
            topic.stream.adapt()

    def close(self) -> None:
        """Destroy the subscriptions."""
        for topic in self.topics:
            topic.stream.close()


@dataclass
class PositionInputs:
    """Collects depth and camera_info of one image. Created when a request arrives, and closed when the request ends."""

    header: Header
    rectified: bool
    topics: PositionTopics
    matches: list[StampMatch]

    @classmethod
    def of(cls, header: Header, rectified: bool, topics: PositionTopics) -> "PositionInputs":
        """Start to collect the messages of an image. Called in the executor."""
        stamp = nanoseconds(header.stamp)
        return cls(header, rectified, topics, [topic.match(stamp) for topic in topics.topics])

    @property
    def has_compressed_depth(self) -> bool:
        """Whether the best depth image so far is compressed."""
        return self.topics.depth is not None and isinstance(self.matches[1].best, CompressedImage)

    def close(self) -> None:
        """Stop collecting. Called in the executor."""
        for topic, match in zip(self.topics.topics, self.matches, strict=True):
            topic.release(match)

    async def settled(self, timeout: float) -> None:
        """Wait until the messages of the image have arrived, or cannot arrive any more. Runs on any asyncio loop.

        If a camera_info with the image's frame exists, the method does not wait for one with the image's stamp, because some
        drivers never send it.
        """
        needed = self.matches[1:] if self.topics.info.fits(self.header.frame_id) else self.matches
        waits = [asyncio.wrap_future(match.settled) for match in needed if not match.settled.done()]
        if waits and timeout > 0.0:
            # asyncio.wait does not cancel the futures. `StampMatch.offer` would raise on a cancelled future.
            await asyncio.wait(waits, timeout=timeout)
