"""From an answer's pixels to metres: what belongs to a picture is found by its stamp, positions are taken to a frame.

Positions never end a request: its pixels are right. What is missing is said in a note, and those positions are NaN.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time as TimeMessage
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from robobrain_ros.core.geometry import CameraModel, GeometryError
from robobrain_ros.core.query import Answer
from robobrain_ros.core.surfaces import DepthImage, Lifted, lift_boxes, lift_points, lift_waypoints
from robobrain_ros.ros.conversions import Positions
from robobrain_ros.ros.intake import Intake
from robobrain_ros.ros.parameters import Parameters
from robobrain_ros.ros.streams import Stream
from robobrain_ros.ros.transforms import TransformError, Transforms

_log = logging.getLogger(__name__)

_KEPT = 8
"""Messages kept per topic: a picture asked about may be some periods old, and its depth may come before it."""


def nanoseconds(stamp: TimeMessage) -> int:
    """A stamp as one number; 0: none."""
    return int(stamp.sec * 10**9 + stamp.nanosec)


class Claim:
    """Looks for the message of a topic that belongs to a picture, among those that came and those that come."""

    def __init__(self, stamp: int, kept: Sequence[Any]) -> None:
        self._stamp = stamp
        self.best: Any = None
        """The message whose stamp is the nearest so far."""
        self.settled: Future[None] = Future()
        """Done when no nearer one can come."""
        for message in kept:
            self.offer(message)

    def offer(self, message: Any) -> None:
        """A message has come; called in the executor."""
        stamp = nanoseconds(message.header.stamp)
        if self.best is None or abs(stamp - self._stamp) < self.distance:
            self.best = message
        # The stamps of a topic ascend.
        if stamp >= self._stamp and not self.settled.done():
            self.settled.set_result(None)

    @property
    def distance(self) -> int:
        """Nanoseconds between the picture's stamp and the best message's."""
        return abs(nanoseconds(self.best.header.stamp) - self._stamp)

    def is_met(self, tolerance: float) -> bool:
        """Whether the best message belongs to the picture; ``tolerance`` in seconds."""
        return self.best is not None and self.distance <= round(tolerance * 1e9)


class Companion:
    """A topic that goes with a camera's pictures, its newest messages kept as they come."""

    def __init__(self, intake: Intake, message_type: Any, topic: str, what: str, *, reliability: str) -> None:
        self.what = what
        """How to call a message in a sentence."""
        self._kept: deque[Any] = deque(maxlen=_KEPT)
        self._claims: list[Claim] = []
        # As many may wait: an executor that is late has the picture, and must not have lost what belongs to it.
        self.stream = Stream(intake, message_type, topic, self._arrived, reliability=reliability, depth=_KEPT)

    @property
    def newest(self) -> Any:
        """The newest message; None: none yet."""
        return self._kept[-1] if self._kept else None

    def has(self, stamp: int, tolerance: float) -> bool:
        """Whether the message of a picture has come; ``tolerance`` in seconds."""
        return Claim(stamp, tuple(self._kept)).is_met(tolerance)

    def claim(self, stamp: int) -> Claim:
        """Begin to look for the message of a picture."""
        claim = Claim(stamp, tuple(self._kept))
        self._claims.append(claim)
        return claim

    def release(self, claim: Claim) -> None:
        """Look no longer."""
        self._claims.remove(claim)

    def _arrived(self, message: Any) -> None:
        self._kept.append(message)
        for claim in self._claims:
            claim.offer(message)

    def explain(self, claim: Claim, tolerance: float) -> str:
        """Why a picture has no such message, as a sentence; empty: it has."""
        if claim.best is None:
            return f"No {self.what} has come on {self.stream.topic}; {self.stream.publishers()}."
        if not claim.is_met(tolerance):
            return (
                f"No {self.what} of the picture's moment has come on {self.stream.topic}: the nearest stamp is "
                f"{claim.distance * 1e-9:.3g} s away, sync_tolerance is {tolerance:g} s."
            )
        return ""


class Surroundings:
    """What a camera publishes beside its pictures: camera_info, and depth where it is wanted."""

    def __init__(self, intake: Intake, camera: str, *, use_depth: bool, reliability: str) -> None:
        # Small as a camera_info is, best effort loses it where pictures fill the transport's buffers.
        self.info = Companion(intake, CameraInfo, f"{camera}/camera_info", "camera_info", reliability=reliability)
        self.depth = Companion(intake, Image, f"{camera}/depth", "depth image", reliability=reliability) if use_depth else None

    @property
    def companions(self) -> list[Companion]:
        """All topics."""
        return [self.info] if self.depth is None else [self.info, self.depth]

    def complete(self, header: Header, tolerance: float) -> bool:
        """Whether all that belongs to a picture has come; ``tolerance`` in seconds."""
        return all(companion.has(nanoseconds(header.stamp), tolerance) for companion in self.companions)

    def adapt(self) -> None:
        """As of `Stream.adapt`."""
        for companion in self.companions:
            companion.stream.adapt()

    def close(self) -> None:
        """Give the subscriptions back."""
        for companion in self.companions:
            companion.stream.close()


@dataclass
class Moment:
    """A picture's stamp and frame, and the claims for what belongs to it; made when a request comes, closed when it ends."""

    header: Header
    rectified: bool
    surroundings: Surroundings
    claims: list[Claim]

    @classmethod
    def of(cls, header: Header, rectified: bool, surroundings: Surroundings) -> "Moment":
        """Claim what belongs to a picture; in the executor."""
        stamp = nanoseconds(header.stamp)
        return cls(header, rectified, surroundings, [companion.claim(stamp) for companion in surroundings.companions])

    def close(self) -> None:
        """Look no longer; in the executor."""
        for companion, claim in zip(self.surroundings.companions, self.claims, strict=True):
            companion.release(claim)

    async def settled(self, timeout: float) -> None:
        """Wait until all that belongs to the picture is there, or cannot come any more; on any asyncio loop."""
        waits = [asyncio.wrap_future(claim.settled) for claim in self.claims if not claim.settled.done()]
        if waits and timeout > 0.0:
            # Shielded by wait: a claim serves no one else, but a cancelled future would make `offer` raise.
            await asyncio.wait(waits, timeout=timeout)


class Locator:
    """Finds the positions of answers' parts, as the parameters say.

    :param transforms: used where the parameter target_frame names a frame.
    """

    def __init__(self, parameters: Parameters, transforms: Transforms) -> None:
        self._parameters = parameters
        self._transforms = transforms

    async def locate(self, answer: Answer, size: tuple[int, int], moment: Moment) -> Positions:
        """The positions of an answer about a picture of that size (width, height); on the engine's loop, which it never blocks.

        It waits at most the parameter transform_timeout, for depth and for the transform together. It never raises.
        """
        try:
            return await self._locate(answer, size, moment)
        except Exception as error:
            _log.exception("Positions could not be found.")
            return Positions(
                moment.header, note=f"Positions could not be found, by an unexpected {type(error).__name__}: {error}."
            )

    async def _locate(self, answer: Answer, size: tuple[int, int], moment: Moment) -> Positions:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._parameters["transform_timeout"]
        measured = moment.surroundings.depth is not None
        if not (answer.points or answer.boxes or answer.waypoints):
            return Positions(moment.header)
        if not measured and not any(part.depth is not None for part in (*answer.points, *answer.waypoints)):
            return Positions(moment.header, camera=self._camera(moment, size)[0])
        await moment.settled(end - loop.time())
        camera, note = self._camera(moment, size)
        if camera is None:
            return Positions(moment.header, note=note)
        positions = self._lift(answer, camera, moment)
        return await self._moved(positions, end)

    def _camera(self, moment: Moment, size: tuple[int, int]) -> tuple[CameraModel | None, str]:
        """The camera's model, or why there is none."""
        info, why = self._belonging(moment, 0)
        if info is None:
            return None, why
        roi = info.roi
        try:
            model = CameraModel.from_info(
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
                rectified=moment.rectified,
                picture_size=size,
            )
        except GeometryError as error:
            return None, str(error)
        return model, ""

    def _depth(self, moment: Moment) -> tuple[DepthImage | None, str]:
        """The depth image of the picture's moment, or why there is none."""
        message, why = self._belonging(moment, 1)
        if message is None:
            return None, why
        try:
            depth = DepthImage.read(
                memoryview(message.data).cast("B"),
                width=message.width,
                height=message.height,
                step=message.step,
                encoding=message.encoding,
                big_endian=bool(message.is_bigendian),
            )
        except GeometryError as error:
            return None, str(error)
        return depth, ""

    def _belonging(self, moment: Moment, index: int) -> tuple[Any, str]:
        """The message of a companion that belongs to the picture, or None and why there is none."""
        companion, claim = moment.surroundings.companions[index], moment.claims[index]
        if nanoseconds(moment.header.stamp) == 0:
            return None, f"The picture has no stamp, so no {companion.what} can be told to belong to it."
        if why := companion.explain(claim, self._parameters["sync_tolerance"]):
            return None, why
        frame, wanted = claim.best.header.frame_id.lstrip("/"), moment.header.frame_id.lstrip("/")
        if frame != wanted:
            return None, (
                f"The {companion.what} on {companion.stream.topic} is in the frame {frame!r}, the picture in {wanted!r}; "
                "it has to be the picture's own view (aligned, registered)."
            )
        return claim.best, ""

    def _lift(self, answer: Answer, camera: CameraModel, moment: Moment) -> Positions:
        depth, note = (None, "") if moment.surroundings.depth is None else self._depth(moment)
        if depth is not None:
            try:
                depth.scale(camera)
            except GeometryError as error:
                depth, note = None, str(error)
        points = boxes = waypoints = None
        # Where depth is measured, the model's guess does not stand in for it; a waypoint's is no guess of a surface.
        if depth is not None or moment.surroundings.depth is None:
            points = lift_points(camera, depth, answer.points) if answer.points else None
        if depth is not None:
            boxes = lift_boxes(camera, depth, answer.boxes) if answer.boxes else None
        waypoints = lift_waypoints(camera, depth, answer.waypoints) if answer.waypoints else None
        if not note:
            parts = (("points", points), ("areas", boxes), ("waypoints", waypoints))
            note = " ".join(_what_is_missing(name, lifted) for name, lifted in parts if lifted and any(lifted.reasons))
        return Positions(moment.header, points, boxes, waypoints, note, camera)

    async def _moved(self, positions: Positions, end: float) -> Positions:
        """The positions in target_frame at the picture's time, where that can be."""
        target, source = self._parameters["target_frame"].lstrip("/"), positions.header.frame_id.lstrip("/")
        parts = {"points": positions.points, "boxes": positions.boxes, "waypoints": positions.waypoints}
        known = {name: lifted for name, lifted in parts.items() if lifted and np.isfinite(lifted.positions).any()}
        if not target or target == source or not known:
            return positions
        patience = max(end - asyncio.get_running_loop().time(), 0.0)
        try:
            transform = await self._transforms.wait(target, source, positions.header.stamp, patience)
        except TransformError as error:
            note = f"The positions are in the frame {source!r}, not in target_frame {target!r}: {error}."
            return replace(positions, note=f"{positions.note} {note}".strip())
        moved: dict[str, Any] = {
            name: replace(lifted, positions=transform.apply(lifted.positions)) for name, lifted in known.items()
        }
        header = Header(stamp=positions.header.stamp, frame_id=target)
        return replace(positions, header=header, move=transform.apply, **moved)


def _what_is_missing(name: str, lifted: Lifted) -> str:
    reasons = Counter(reason for reason in lifted.reasons if reason)
    why = ", ".join(reasons)
    return f"{sum(reasons.values())} of {len(lifted.reasons)} {name} have no position: {why}."
