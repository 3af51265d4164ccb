"""Compute positions in metres in target_frame for an answer's pixels, from the depth image and camera_info of the same time.

A missing position does not fail the request, because its pixels are valid. The position is NaN, and a note states the reason.
"""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from std_msgs.msg import Header

from robobrain_ros.core.approach import ApproachPose, Direction, Limits, approach_poses
from robobrain_ros.core.formats.depth_checks import DepthRange
from robobrain_ros.core.geometry import CameraModel, GeometryError
from robobrain_ros.core.grasps import grasp_poses
from robobrain_ros.core.gripper import Gripper
from robobrain_ros.core.messages.depth import read_depth
from robobrain_ros.core.messages.frames import plain_frame
from robobrain_ros.core.messages.positions import Positions, camera_model, lift, moved, needs_positions, not_moved, other_frame
from robobrain_ros.core.poses import Source, StampedPose, Unavailable
from robobrain_ros.core.query import Answer
from robobrain_ros.core.surfaces import DepthImage
from robobrain_ros.core.top_grasps import USUAL_UP
from robobrain_ros.core.transforms import TransformError, Vector
from robobrain_ros.ros.cameras.position_topics import PositionInputs
from robobrain_ros.ros.clock import nanoseconds
from robobrain_ros.ros.parameters.declared import Parameters
from robobrain_ros.ros.trajectories import Trajectories
from robobrain_ros.ros.transforms import Transforms

_log = logging.getLogger(__name__)

MOST_APPROACHES = 50
"""Most approach poses of an answer. They take about 50 ms. Further points and bounding boxes have none."""


class Locator:
    """Computes the positions of an answer's points, bounding boxes and waypoints, approach poses, and poses of the trajectory.

    :param transforms: used if the parameter ``target_frame`` is set.
    """

    def __init__(self, parameters: Parameters, transforms: Transforms, trajectories: Trajectories) -> None:
        self._parameters = parameters
        self._transforms = transforms
        self._trajectories = trajectories

    async def locate(
        self,
        answer: Answer,
        size: tuple[int, int],
        inputs: PositionInputs,
        deadline: float = math.inf,
        *,
        text: str = "",
        direction: Direction | None = None,
    ) -> Positions:
        """Compute the positions of an answer. Runs on the engine's loop without blocking it, and never raises.

        Waits for depth and transform together for at most ``transform_timeout`` (parameter) and not beyond the deadline.

        :param size: (width, height) of the image.
        :param deadline: time of ``time.monotonic()``.
        :param text: the instruction.
        :param direction: see `TaskRequest`.
        """
        try:
            return await self._locate(answer, size, inputs, deadline - time.monotonic(), text, direction)
        except Exception as error:
            _log.exception("Computing the positions failed.")
            return Positions(
                inputs.header,
                note=f"Computing the positions failed ({type(error).__name__}: {error}). Please report it with the log.",
            )

    async def _locate(
        self,
        answer: Answer,
        size: tuple[int, int],
        inputs: PositionInputs,
        left: float,
        text: str,
        direction: Direction | None,
    ) -> Positions:
        loop = asyncio.get_running_loop()
        end = loop.time() + max(min(self._parameters["transform_timeout"], left), 0.0)
        measured = inputs.topics.depth is not None
        if not (answer.points or answer.boxes or answer.waypoints):
            return Positions(inputs.header)
        if not needs_positions(answer, measured):
            poses = self._unavailable(answer, inputs, Unavailable.NO_DEPTH)
            positions = Positions(inputs.header, camera=self._camera(inputs, size)[0], approaches=poses)
            return await self._trajectories.followed(positions, text, None, end) if answer.waypoints else positions
        await inputs.settled(end - loop.time())
        camera, note = self._camera(inputs, size)
        if camera is None:
            poses = self._unavailable(answer, inputs, Unavailable.NO_CAMERA)
            positions = Positions(inputs.header, note=note, approaches=poses)
            return await self._trajectories.followed(positions, text, None, end) if answer.waypoints else positions
        up = await self._up(inputs, end) if direction is not None else USUAL_UP
        if inputs.has_compressed_depth or (measured and answer.targets):
            # This runs in a thread, because decompression and approach poses take milliseconds.
            positions, depth = await asyncio.to_thread(self._lift, answer, camera, inputs, direction, up)
        else:
            positions, depth = self._lift(answer, camera, inputs, direction, up)
        positions = await self._moved(positions, end)
        return await self._trajectories.followed(positions, text, depth, end) if answer.waypoints else positions

    def view(self, inputs: PositionInputs, size: tuple[int, int]) -> tuple[CameraModel, DepthImage] | None:
        """Return the camera's model and the depth image of an image, or None if one is missing or cannot be used.

        It does not wait. It can be called in any thread.
        """
        camera, _ = self._camera(inputs, size)
        depth, _ = (None, "") if inputs.topics.depth is None else self._depth(inputs)
        return None if camera is None or depth is None or not _same_view(depth, camera) else (camera, depth)

    def _camera(self, inputs: PositionInputs, size: tuple[int, int]) -> tuple[CameraModel | None, str]:
        """Return the camera's model, or None and a sentence about the reason."""
        topic, match = inputs.topics.info, inputs.matches[0]
        candidates = topic.candidates(match, self._parameters["sync_tolerance"])
        if not candidates:
            return None, topic.explain(match, 0.0)
        topic_name = topic.stream.topic
        return camera_model(candidates, header=inputs.header, rectified=inputs.rectified, size=size, topic=topic_name)

    def _depth(self, inputs: PositionInputs) -> tuple[DepthImage | None, str]:
        """Return the depth image with the image's stamp, or None and a sentence about the reason."""
        topic, match = inputs.topics.topics[1], inputs.matches[1]
        if nanoseconds(inputs.header.stamp) == 0:
            return None, f"The image has no stamp, so no {topic.what} can be assigned to it. Set the stamp in the driver."
        why = topic.explain(match, self._parameters["sync_tolerance"])
        why = why or other_frame(topic.what, topic.stream.topic, match.best, inputs.header)
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

    def _lift(
        self, answer: Answer, camera: CameraModel, inputs: PositionInputs, direction: Direction | None, up: Vector
    ) -> tuple[Positions, DepthImage | None]:
        measured = inputs.topics.depth is not None
        depth, note = self._depth(inputs) if measured else (None, "")
        limits = self._limits(inputs.topics.camera)
        positions = lift(answer, camera, depth, header=inputs.header, limits=limits, measured=measured, note=note)
        if depth is not None and not _same_view(depth, camera):
            depth = None
        return replace(positions, approaches=self._approaches(answer, camera, depth, inputs, direction, up)), depth

    def _approaches(
        self,
        answer: Answer,
        camera: CameraModel,
        depth: DepthImage | None,
        inputs: PositionInputs,
        direction: Direction | None,
        up: Vector,
    ) -> tuple[ApproachPose, ...]:
        """Return the approach poses of points and bounding boxes in the image's frame."""
        if not answer.targets:
            return ()
        targets, frame, stamp = answer.targets[:MOST_APPROACHES], plain_frame(inputs.header.frame_id), _stamp(inputs.header)
        limits = Limits(math.radians(self._parameters["approach_max_angle"]), self._parameters["approach_background"] or math.inf)
        if direction is None:
            return approach_poses(camera, depth, targets, frame=frame, stamp=stamp, limits=limits)
        return grasp_poses(
            camera,
            depth,
            targets,
            frame=frame,
            stamp=stamp,
            limits=limits,
            gripper=self._gripper(),
            direction=direction,
            up=up,
        )

    async def _up(self, inputs: PositionInputs, end: float) -> Vector:
        """Return the z axis of ``target_frame`` in the image's frame, or that of a usual camera if it is unknown."""
        target, source = plain_frame(self._parameters["target_frame"]), plain_frame(inputs.header.frame_id)
        if not target or target == source:
            return USUAL_UP
        patience = max(end - asyncio.get_running_loop().time(), 0.0)
        try:
            transform = await self._transforms.wait(target, source, inputs.header.stamp, patience)
            back = transform.normalized().inverse()
        except TransformError:
            return USUAL_UP  # The poses are then unavailable.
        x, y, z = (back.apply(np.array([[0.0, 0.0, 1.0]])) - np.array(back.translation))[0].tolist()
        return x, y, z

    def _gripper(self) -> Gripper:
        return Gripper(
            self._parameters["gripper_opening"],
            self._parameters["gripper_finger_length"],
            self._parameters["gripper_finger_breadth"],
            self._parameters["gripper_finger_thickness"],
        )

    def _unavailable(self, answer: Answer, inputs: PositionInputs, reason: Unavailable) -> tuple[ApproachPose, ...]:
        """Return approach poses that are all unavailable for the same reason."""
        frame = plain_frame(self._parameters["target_frame"]) or plain_frame(inputs.header.frame_id)
        sources = [Source.POINT] * len(answer.points) + [Source.BOX] * len(answer.boxes)
        poses = [StampedPose(frame, _stamp(inputs.header), source).without(reason) for source in sources[:MOST_APPROACHES]]
        return tuple(ApproachPose(pose) for pose in poses)

    async def _moved(self, positions: Positions, end: float) -> Positions:
        """Transform the positions to ``target_frame`` at the image's stamp. If this fails, add a note."""
        target, source = plain_frame(self._parameters["target_frame"]), plain_frame(positions.header.frame_id)
        if not target or target == source:
            return positions
        if not positions.known and not any(approach.pose.available for approach in positions.approaches):
            return replace(positions, approaches=_in_frame(positions.approaches, target))
        patience = max(end - asyncio.get_running_loop().time(), 0.0)
        try:
            transform = await self._transforms.wait(target, source, positions.header.stamp, patience)
        except TransformError as error:
            return replace(not_moved(positions, target, error), approaches=_in_frame(positions.approaches, target))
        approaches = tuple(replace(each, pose=each.pose.moved(transform, target)) for each in positions.approaches)
        header = Header(stamp=positions.header.stamp, frame_id=target)
        return replace(moved(positions, transform, header), approaches=approaches)


def _same_view(depth: DepthImage, camera: CameraModel) -> bool:
    """Return whether the depth image shows the same view as the image."""
    try:
        depth.scale(camera)
    except GeometryError:
        return False
    return True


def _in_frame(approaches: Sequence[ApproachPose], frame: str) -> tuple[ApproachPose, ...]:
    """Return approach poses in a frame to which there is no transform. All are unavailable."""
    poses = [replace(approach.pose, frame=frame) for approach in approaches]
    return tuple(ApproachPose(pose.without(pose.reason or Unavailable.NO_TRANSFORM)) for pose in poses)


def _stamp(header: Header) -> tuple[int, int]:
    return header.stamp.sec, header.stamp.nanosec


def depth_range(parameters: Parameters, camera: str) -> DepthRange:
    """Return the range of valid depths of a camera."""
    return DepthRange(parameters[f"{camera}.min_depth"], parameters[f"{camera}.max_depth"])
