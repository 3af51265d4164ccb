"""Compute positions in metres in target_frame for an answer's pixels, from the depth image and camera_info of the same time.

A missing position does not fail the request, because its pixels are valid. The position is NaN, and a note states the reason.
"""

import asyncio
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_msgs.msg import Header

from robobrain_ros.core.formats.depth_checks import DepthRange
from robobrain_ros.core.geometry import CameraModel, GeometryError, OtherSizeError
from robobrain_ros.core.query import Answer
from robobrain_ros.core.surfaces import DepthImage, Lifted, lift_boxes, lift_points, lift_waypoints
from robobrain_ros.ros.cameras.depth import DepthStream, read_depth
from robobrain_ros.ros.cameras.frames import plain_frame, quoted_frame
from robobrain_ros.ros.cameras.intake import Intake
from robobrain_ros.ros.cameras.streams import Stream
from robobrain_ros.ros.clock import Jump, nanoseconds
from robobrain_ros.ros.messages.conversions import Positions
from robobrain_ros.ros.parameters.declared import Parameters
from robobrain_ros.ros.transforms import TransformError, Transforms

_log = logging.getLogger(__name__)

_KEPT = 8
"""Number of messages that are kept for each topic. The image of a request can be several periods old, and its depth image can
arrive before the image."""


class Claim:
    """Finds the message of a topic that belongs to an image, among earlier and later messages."""

    def __init__(self, stamp: int, kept: Sequence[Any]) -> None:
        self._stamp = stamp
        self.best: Any = None
        """The message with the nearest stamp so far."""
        self.settled: Future[None] = Future()
        """Done when no message with a nearer stamp can arrive."""
        self._closed = False
        for message in kept:
            self.offer(message)

    @property
    def stamp(self) -> int:
        """The image's stamp in ns."""
        return self._stamp

    def close(self) -> None:
        """Ignore further messages, because time has jumped. Called in the executor."""
        self._closed = True
        if not self.settled.done():
            self.settled.set_result(None)

    def offer(self, message: Any) -> None:
        """Compare a new message with the best one. Called in the executor."""
        if self._closed:
            return
        stamp = nanoseconds(message.header.stamp)
        if self.best is None or abs(stamp - self._stamp) < self.distance:
            self.best = message
        # The stamps of a topic ascend, so the stamps of later messages differ more.
        if stamp >= self._stamp and not self.settled.done():
            self.settled.set_result(None)

    @property
    def distance(self) -> int:
        """Difference between the stamps of the image and the best message in ns."""
        return abs(nanoseconds(self.best.header.stamp) - self._stamp)

    def is_met(self, tolerance: float) -> bool:
        """Return whether the best message belongs to the image. ``tolerance``: seconds between the stamps."""
        return self.best is not None and self.distance <= round(tolerance * 1e9)


class Companion:
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
        self._claims: list[Claim] = []
        # The queue has the same depth. Otherwise, a late executor could receive an image but lose its messages.
        self.stream = open_stream(listener=self._arrived, reliability=reliability, depth=_KEPT)

    @property
    def newest(self) -> Any:
        """The newest message, or None if no message has arrived."""
        return self._kept[-1] if self._kept else None

    def has(self, stamp: int, tolerance: float) -> bool:
        """Whether the message of an image has arrived. ``tolerance``: seconds between the stamps."""
        return Claim(stamp, tuple(self._kept)).is_met(tolerance)

    def claim(self, stamp: int) -> Claim:
        """Start to look for the message of an image."""
        claim = Claim(stamp, tuple(self._kept))
        self._claims.append(claim)
        return claim

    def release(self, claim: Claim) -> None:
        """Stop looking for a message."""
        self._claims.remove(claim)

    def forget(self, jump: Jump) -> None:
        """Drop the messages from before a time jump, and stop waiting for further ones."""
        kept = [message for message in self._kept if not jump.is_old(nanoseconds(message.header.stamp))]
        self._kept.clear()
        self._kept.extend(kept)
        for claim in self._claims:
            if jump.is_old(claim.stamp):
                claim.close()
        self.stream.fetch_latched()

    def _arrived(self, message: Any) -> None:
        if self._is_leftover(nanoseconds(message.header.stamp)):
            return
        self._kept.append(message)
        for claim in self._claims:
            claim.offer(message)
        self._on_message()

    def explain(self, claim: Claim, tolerance: float) -> str:
        """Return a sentence about why an image has no such message, or an empty string if it has one."""
        if claim.best is None:
            return f"No {self.what} has arrived on {self.stream.topic}. Publishers: {self.stream.publishers()}."
        if not claim.is_met(tolerance):
            return (
                f"No {self.what} with the image's stamp has arrived on {self.stream.topic}: the nearest stamp differs by "
                f"{claim.distance * 1e-9:.3g} s; sync_tolerance is {tolerance:g} s."
            )
        return ""


class Calibrations(Companion):
    """The topic camera_info. Calibrations do not depend on time: a message with another stamp is used if frame and size match."""

    def __init__(self, intake: Intake, topic: str, *, reliability: str, is_leftover: Callable[[int], bool]) -> None:
        self._last: CameraInfo | None = None
        """The newest message, which is kept when time jumps."""
        stream = partial(Stream, intake, CameraInfo, topic)
        super().__init__("camera_info", stream, reliability=reliability, is_leftover=is_leftover)

    def candidates(self, claim: Claim, tolerance: float) -> list[CameraInfo]:
        """Return messages that can describe the claim's image: the one with its stamp first, then newest to oldest."""
        first = [claim.best] if claim.is_met(tolerance) else []
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


class Surroundings:
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
        self.info = Calibrations(intake, f"{camera}/camera_info", **how)
        depth = partial(DepthStream, intake, f"{camera}/depth", transport=depth_transport)
        self.depth = Companion("depth image", depth, on_message=on_depth, **how) if use_depth else None

    @property
    def companions(self) -> list[Companion]:
        """The topics."""
        return [self.info] if self.depth is None else [self.info, self.depth]

    def complete(self, header: Header, tolerance: float) -> bool:
        """Whether camera_info and depth of an image have arrived. ``tolerance``: seconds between the stamps."""
        measured = self.depth is None or self.depth.has(nanoseconds(header.stamp), tolerance)
        return measured and self.info.fits(header.frame_id)

    def forget(self, jump: Jump) -> None:
        """See `Companion.forget`."""
        for companion in self.companions:
            companion.forget(jump)

    def adapt(self) -> None:
        """See `Stream.adapt`."""
        for companion in self.companions:
            companion.stream.adapt()

    def close(self) -> None:
        """Destroy the subscriptions."""
        for companion in self.companions:
            companion.stream.close()


@dataclass
class Moment:
    """Collects depth and camera_info of one image. Created when a request arrives, and closed when the request ends."""

    header: Header
    rectified: bool
    surroundings: Surroundings
    claims: list[Claim]

    @classmethod
    def of(cls, header: Header, rectified: bool, surroundings: Surroundings) -> "Moment":
        """Start to collect the messages of an image. Called in the executor."""
        stamp = nanoseconds(header.stamp)
        return cls(header, rectified, surroundings, [companion.claim(stamp) for companion in surroundings.companions])

    @property
    def has_compressed_depth(self) -> bool:
        """Whether the best depth image so far is compressed."""
        return self.surroundings.depth is not None and isinstance(self.claims[1].best, CompressedImage)

    def close(self) -> None:
        """Stop collecting. Called in the executor."""
        for companion, claim in zip(self.surroundings.companions, self.claims, strict=True):
            companion.release(claim)

    async def settled(self, timeout: float) -> None:
        """Wait until the messages of the image have arrived, or cannot arrive any more. Runs on any asyncio loop.

        If a camera_info with the image's frame exists, the method does not wait for one with the image's stamp, because some
        drivers never send it.
        """
        needed = self.claims[1:] if self.surroundings.info.fits(self.header.frame_id) else self.claims
        waits = [asyncio.wrap_future(claim.settled) for claim in needed if not claim.settled.done()]
        if waits and timeout > 0.0:
            # asyncio.wait does not cancel the futures. `Claim.offer` would raise on a cancelled future.
            await asyncio.wait(waits, timeout=timeout)


class Locator:
    """Computes the positions of an answer's points, bounding boxes and waypoints.

    :param transforms: used if the parameter ``target_frame`` is set.
    """

    def __init__(self, parameters: Parameters, transforms: Transforms) -> None:
        self._parameters = parameters
        self._transforms = transforms

    async def locate(self, answer: Answer, size: tuple[int, int], moment: Moment, deadline: float = math.inf) -> Positions:
        """Compute the positions of an answer. Runs on the engine's loop without blocking it, and never raises.

        Waits for depth and transform together for at most ``transform_timeout`` (parameter) and not beyond the deadline.

        :param size: (width, height) of the image.
        :param deadline: time of ``time.monotonic()``.
        """
        try:
            return await self._locate(answer, size, moment, deadline - time.monotonic())
        except Exception as error:
            _log.exception("Computing the positions failed.")
            return Positions(
                moment.header,
                note=f"Computing the positions failed ({type(error).__name__}: {error}). Please report it with the log.",
            )

    async def _locate(self, answer: Answer, size: tuple[int, int], moment: Moment, left: float) -> Positions:
        loop = asyncio.get_running_loop()
        end = loop.time() + max(min(self._parameters["transform_timeout"], left), 0.0)
        measured = moment.surroundings.depth is not None
        if not (answer.points or answer.boxes or answer.waypoints):
            return Positions(moment.header)
        if not measured and not any(part.depth is not None for part in (*answer.points, *answer.waypoints)):
            return Positions(moment.header, camera=self._camera(moment, size)[0])
        await moment.settled(end - loop.time())
        camera, note = self._camera(moment, size)
        if camera is None:
            return Positions(moment.header, note=note)
        if moment.has_compressed_depth:
            # This runs in a thread, because decompression takes milliseconds.
            positions = await asyncio.to_thread(self._lift, answer, camera, moment)
        else:
            positions = self._lift(answer, camera, moment)
        return await self._moved(positions, end)

    def _camera(self, moment: Moment, size: tuple[int, int]) -> tuple[CameraModel | None, str]:
        """Return the camera's model, or None and a sentence about the reason."""
        companion, claim = moment.surroundings.info, moment.claims[0]
        candidates = companion.candidates(claim, self._parameters["sync_tolerance"])
        if not candidates:
            return None, companion.explain(claim, 0.0)
        why = ""
        for info in candidates:
            other_frame = _other_frame(companion, info, moment)
            if other_frame:
                why = why or other_frame
                continue
            try:
                return to_camera_model(info, moment.rectified, size), ""
            except OtherSizeError as error:
                why = why or str(error)
            except GeometryError as error:
                return None, why or str(error)  # The newest message has this fault, so older ones do not matter.
        return None, why

    def _depth(self, moment: Moment) -> tuple[DepthImage | None, str]:
        """Return the depth image with the image's stamp, or None and a sentence about the reason."""
        companion, claim = moment.surroundings.companions[1], moment.claims[1]
        if nanoseconds(moment.header.stamp) == 0:
            return None, f"The image has no stamp, so no {companion.what} can be assigned to it. Set the stamp in the driver."
        why = companion.explain(claim, self._parameters["sync_tolerance"]) or _other_frame(companion, claim.best, moment)
        if why:
            return None, why
        camera = moment.surroundings.camera
        try:
            detect_clamp = self._parameters[f"{camera}.detect_depth_clamp"]
            return read_depth(claim.best, self._limits(camera), detect_clamp=detect_clamp), ""
        except GeometryError as error:
            return None, str(error)

    def _limits(self, camera: str) -> DepthRange:
        return depth_range(self._parameters, camera)

    def _lift(self, answer: Answer, camera: CameraModel, moment: Moment) -> Positions:
        depth, note = (None, "") if moment.surroundings.depth is None else self._depth(moment)
        if depth is not None:
            try:
                depth.scale(camera)
            except GeometryError as error:
                depth, note = None, str(error)
        limits = self._limits(moment.surroundings.camera)
        points = boxes = waypoints = None
        # With a depth camera, points use only measured depth. Waypoints can be above surfaces, so they also use the model's
        # depth.
        if depth is not None or moment.surroundings.depth is None:
            points = lift_points(camera, depth, answer.points, limits) if answer.points else None
        if depth is not None:
            boxes = lift_boxes(camera, depth, answer.boxes) if answer.boxes else None
        waypoints = lift_waypoints(camera, depth, answer.waypoints, limits) if answer.waypoints else None
        if not note:
            parts = (("points", points), ("areas", boxes), ("waypoints", waypoints))
            note = " ".join(_what_is_missing(name, lifted) for name, lifted in parts if lifted and any(lifted.reasons))
        return Positions(moment.header, points, boxes, waypoints, note, camera)

    async def _moved(self, positions: Positions, end: float) -> Positions:
        """Transform the positions to ``target_frame`` at the image's stamp. If this fails, add a note."""
        target, source = plain_frame(self._parameters["target_frame"]), plain_frame(positions.header.frame_id)
        parts = {"points": positions.points, "boxes": positions.boxes, "waypoints": positions.waypoints}
        known = {name: lifted for name, lifted in parts.items() if lifted and np.isfinite(lifted.positions).any()}
        if not target or target == source or not known:
            return positions
        patience = max(end - asyncio.get_running_loop().time(), 0.0)
        try:
            transform = await self._transforms.wait(target, source, positions.header.stamp, patience)
        except TransformError as error:
            note = f"The positions are in the frame {quoted_frame(source)}, not in target_frame {quoted_frame(target)}: {error}."
            return replace(positions, note=f"{positions.note} {note}".strip())
        moved: dict[str, Any] = {
            name: replace(lifted, positions=transform.apply(lifted.positions)) for name, lifted in known.items()
        }
        header = Header(stamp=positions.header.stamp, frame_id=target)
        return replace(positions, header=header, move=transform.apply, **moved)


def depth_range(parameters: Parameters, camera: str) -> DepthRange:
    """Return the range of valid depths of a camera."""
    return DepthRange(parameters[f"{camera}.min_depth"], parameters[f"{camera}.max_depth"])


def to_camera_model(info: CameraInfo, rectified: bool, size: tuple[int, int] | None) -> CameraModel:
    """Return the camera model of a camera_info.

    :param size: (width, height) of the image, or None if unknown.

    :raises GeometryError: see `CameraModel.from_info`.
    """
    roi = info.roi
    return CameraModel.from_info(
        width=info.width,
        height=info.height,
        distortion_model=info.distortion_model,
        d=info.d,
        k=info.k,
        r=info.r,
        p=info.p,
        binning_x=info.binning_x,
        binning_y=info.binning_y,
        roi=(roi.x_offset, roi.y_offset, roi.width, roi.height),
        rectified=rectified,
        image_size=size,
    )


def _other_frame(companion: Companion, message: Any, moment: Moment) -> str:
    """Return a sentence if the frames of a message and the image differ; otherwise an empty text."""
    frame, wanted = plain_frame(message.header.frame_id), plain_frame(moment.header.frame_id)
    if frame == wanted:
        return ""
    return (
        f"The {companion.what} on {companion.stream.topic} is in the frame {quoted_frame(frame)}, but the image is in "
        f"{quoted_frame(wanted)}. Publish the {companion.what} in the image's frame, aligned (registered) to the image."
    )


def _what_is_missing(name: str, lifted: Lifted) -> str:
    reasons = Counter(reason for reason in lifted.reasons if reason)
    why = ", ".join(reasons)
    return f"{sum(reasons.values())} of {len(lifted.reasons)} {name} have no position: {why}."
