"""Compute positions in metres in target_frame for an answer's pixels, from the depth image and camera_info of the same time.

A missing position does not fail the request, because its pixels are valid. The position is NaN, and a note states the reason.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from robobrain_ros.core.formats.depth_checks import DepthRange
from robobrain_ros.core.geometry import CameraModel, GeometryError, OtherSizeError
from robobrain_ros.core.query import Answer
from robobrain_ros.core.surfaces import DepthImage, Lifted, lift_boxes, lift_points, lift_waypoints
from robobrain_ros.ros.cameras.depth import read_depth
from robobrain_ros.ros.cameras.frames import plain_frame, quoted_frame
from robobrain_ros.ros.cameras.position_topics import MatchedTopic, PositionInputs
from robobrain_ros.ros.clock import nanoseconds
from robobrain_ros.ros.messages.conversions import Positions
from robobrain_ros.ros.parameters.declared import Parameters
from robobrain_ros.ros.transforms import TransformError, Transforms

_log = logging.getLogger(__name__)


class Locator:
    """Computes the positions of an answer's points, bounding boxes and waypoints.

    :param transforms: used if the parameter ``target_frame`` is set.
    """

    def __init__(self, parameters: Parameters, transforms: Transforms) -> None:
        self._parameters = parameters
        self._transforms = transforms

    async def locate(
        self, answer: Answer, size: tuple[int, int], inputs: PositionInputs, deadline: float = math.inf
    ) -> Positions:
        """Compute the positions of an answer. Runs on the engine's loop without blocking it, and never raises.

        Waits for depth and transform together for at most ``transform_timeout`` (parameter) and not beyond the deadline.

        :param size: (width, height) of the image.
        :param deadline: time of ``time.monotonic()``.
        """
        try:
            return await self._locate(answer, size, inputs, deadline - time.monotonic())
        except Exception as error:
            _log.exception("Computing the positions failed.")
            return Positions(
                inputs.header,
                note=f"Computing the positions failed ({type(error).__name__}: {error}). Please report it with the log.",
            )

    async def _locate(self, answer: Answer, size: tuple[int, int], inputs: PositionInputs, left: float) -> Positions:
        loop = asyncio.get_running_loop()
        end = loop.time() + max(min(self._parameters["transform_timeout"], left), 0.0)
        measured = inputs.topics.depth is not None
        if not (answer.points or answer.boxes or answer.waypoints):
            return Positions(inputs.header)
        if not measured and not any(part.depth is not None for part in (*answer.points, *answer.waypoints)):
            return Positions(inputs.header, camera=self._camera(inputs, size)[0])
        await inputs.settled(end - loop.time())
        camera, note = self._camera(inputs, size)
        if camera is None:
            return Positions(inputs.header, note=note)
        if inputs.has_compressed_depth:
            # This runs in a thread, because decompression takes milliseconds.
            positions = await asyncio.to_thread(self._lift, answer, camera, inputs)
        else:
            positions = self._lift(answer, camera, inputs)
        return await self._moved(positions, end)

    def _camera(self, inputs: PositionInputs, size: tuple[int, int]) -> tuple[CameraModel | None, str]:
        """Return the camera's model, or None and a sentence about the reason."""
        topic, match = inputs.topics.info, inputs.matches[0]
        candidates = topic.candidates(match, self._parameters["sync_tolerance"])
        if not candidates:
            return None, topic.explain(match, 0.0)
        why = ""
        for info in candidates:
            other_frame = _other_frame(topic, info, inputs)
            if other_frame:
                why = why or other_frame
                continue
            try:
                return to_camera_model(info, inputs.rectified, size), ""
            except OtherSizeError as error:
                why = why or str(error)
            except GeometryError as error:
                return None, why or str(error)  # The newest message has this fault, so older ones do not matter.
        return None, why

    def _depth(self, inputs: PositionInputs) -> tuple[DepthImage | None, str]:
        """Return the depth image with the image's stamp, or None and a sentence about the reason."""
        topic, match = inputs.topics.topics[1], inputs.matches[1]
        if nanoseconds(inputs.header.stamp) == 0:
            return None, f"The image has no stamp, so no {topic.what} can be assigned to it. Set the stamp in the driver."
        why = topic.explain(match, self._parameters["sync_tolerance"]) or _other_frame(topic, match.best, inputs)
        if why:
            return None, why
        camera = inputs.topics.camera
        try:
            detect_clamp = self._parameters[f"{camera}.detect_depth_clamp"]
            return read_depth(match.best, self._limits(camera), detect_clamp=detect_clamp), ""
        except GeometryError as error:
            return None, str(error)

    def _limits(self, camera: str) -> DepthRange:
        return depth_range(self._parameters, camera)

    def _lift(self, answer: Answer, camera: CameraModel, inputs: PositionInputs) -> Positions:
        depth, note = (None, "") if inputs.topics.depth is None else self._depth(inputs)
        if depth is not None:
            try:
                depth.scale(camera)
            except GeometryError as error:
                depth, note = None, str(error)
        limits = self._limits(inputs.topics.camera)
        points = boxes = waypoints = None
        # With a depth camera, points use only measured depth. Waypoints can be above surfaces, so they also use the model's
        # depth.
        if depth is not None or inputs.topics.depth is None:
            points = lift_points(camera, depth, answer.points, limits) if answer.points else None
        if depth is not None:
            boxes = lift_boxes(camera, depth, answer.boxes) if answer.boxes else None
        waypoints = lift_waypoints(camera, depth, answer.waypoints, limits) if answer.waypoints else None
        if not note:
            parts = (("points", points), ("areas", boxes), ("waypoints", waypoints))
            note = " ".join(_what_is_missing(name, lifted) for name, lifted in parts if lifted and any(lifted.reasons))
        return Positions(inputs.header, points, boxes, waypoints, note, camera)

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


def _other_frame(topic: MatchedTopic, message: Any, inputs: PositionInputs) -> str:
    """Return a sentence if the frames of a message and the image differ; otherwise an empty text."""
    frame, wanted = plain_frame(message.header.frame_id), plain_frame(inputs.header.frame_id)
    if frame == wanted:
        return ""
    return (
        f"The {topic.what} on {topic.stream.topic} is in the frame {quoted_frame(frame)}, but the image is in "
        f"{quoted_frame(wanted)}. Publish the {topic.what} in the image's frame, aligned (registered) to the image."
    )


def _what_is_missing(name: str, lifted: Lifted) -> str:
    reasons = Counter(reason for reason in lifted.reasons if reason)
    why = ", ".join(reasons)
    return f"{sum(reasons.values())} of {len(lifted.reasons)} {name} have no position: {why}."
