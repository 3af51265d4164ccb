"""Positions in metres of an answer's parts, from the camera_info, the depth image and the transform of its image."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robobrain_ros.core.approach import ApproachPose
from robobrain_ros.core.formats.depth_checks import DepthRange
from robobrain_ros.core.geometry import CameraModel, Floats, GeometryError, OtherSizeError
from robobrain_ros.core.messages.frames import plain_frame, quoted_frame
from robobrain_ros.core.query import Answer
from robobrain_ros.core.surfaces import DepthImage, Lifted, lift_boxes, lift_points, lift_waypoints
from robobrain_ros.core.traces.followed import Followed
from robobrain_ros.core.transforms import Transform, TransformError


@dataclass(frozen=True)
class Positions:
    """Positions of an answer's points, bounding boxes and waypoints, in the order of the answer, or None if there are none.

    :param header: a std_msgs/Header with the image's stamp and the frame of the positions.
    :param note: which positions are missing, why, and what to do, or empty if no positions are missing.
    :param camera: maps pixels to rays in the image's frame, or None if unknown.
    :param transform: from the image's frame to the header's frame, or None if both are the same.
    :param approaches: approach pose of each point, then of each bounding box, in target_frame. Those beyond a limit are left out.
    :param followed: poses and findings of the trajectory. None: there is no trajectory.
    """

    header: Any
    points: Lifted | None = None
    boxes: Lifted | None = None
    waypoints: Lifted | None = None
    note: str = ""
    camera: CameraModel | None = None
    transform: Transform | None = None
    approaches: tuple[ApproachPose, ...] = ()
    followed: Followed | None = None

    @property
    def move(self) -> Callable[[Floats], Floats] | None:
        """Transforms positions (n, 3) from the image's frame to the header's frame, or None if both are the same."""
        return self.transform.apply if self.transform else None

    @property
    def known(self) -> dict[str, Lifted]:
        """The parts with at least one known position, by their field."""
        parts = {"points": self.points, "boxes": self.boxes, "waypoints": self.waypoints}
        return {name: lifted for name, lifted in parts.items() if lifted and np.isfinite(lifted.positions).any()}


def needs_positions(answer: Answer, measured: bool) -> bool:
    """Return whether positions can be computed for an answer: it has points, boxes or waypoints, and a source of depth.

    :param measured: whether there is a depth camera.
    """
    has_parts = bool(answer.points or answer.boxes or answer.waypoints)
    return has_parts and (measured or any(part.depth is not None for part in (*answer.points, *answer.waypoints)))


def lift(
    answer: Answer, camera: CameraModel, depth: DepthImage | None, *, header: Any, limits: DepthRange, measured: bool, note: str
) -> Positions:
    """Compute the positions of an answer in the image's frame.

    :param header: header of the image.
    :param measured: whether there is a depth camera. Points then use only its depth.
    :param note: why ``depth`` is missing, or empty.
    """
    if depth is not None:
        try:
            depth.scale(camera)
        except GeometryError as error:
            depth, note = None, str(error)
    points = boxes = waypoints = None
    # With a depth camera, points use only measured depth. Waypoints can be above surfaces, so they also use the model's depth.
    if depth is not None or not measured:
        points = lift_points(camera, depth, answer.points, limits) if answer.points else None
    if depth is not None:
        boxes = lift_boxes(camera, depth, answer.boxes) if answer.boxes else None
    waypoints = lift_waypoints(camera, depth, answer.waypoints, limits) if answer.waypoints else None
    if not note:
        parts = (("points", points), ("areas", boxes), ("waypoints", waypoints))
        note = " ".join(_what_is_missing(name, lifted) for name, lifted in parts if lifted and any(lifted.reasons))
    return Positions(header, points, boxes, waypoints, note, camera)


def moved(positions: Positions, transform: Transform, header: Any) -> Positions:
    """Return the positions in another frame, that of ``header``."""
    parts: dict[str, Any] = {
        name: replace(lifted, positions=transform.apply(lifted.positions)) for name, lifted in positions.known.items()
    }
    return replace(positions, header=header, transform=transform, **parts)


def not_moved(positions: Positions, target: str, error: TransformError) -> Positions:
    """Return the positions with a note about a missing transform to the frame ``target``."""
    source = plain_frame(positions.header.frame_id)
    note = f"The positions are in the frame {quoted_frame(source)}, not in target_frame {quoted_frame(target)}: {error}."
    return replace(positions, note=f"{positions.note} {note}".strip())


def names_rectified(topic: str) -> bool:
    """Whether a topic has the name of rectified images, such as image_rect, image_rect_color or rectified/image."""
    return re.search(r"(^|[/_])rect(ified)?($|[/_])", topic) is not None


def to_camera_model(info: Any, rectified: bool, size: tuple[int, int] | None) -> CameraModel:
    """Return the camera model of a camera_info.

    :param info: a sensor_msgs/CameraInfo.
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


def camera_model(
    candidates: Iterable[Any], *, header: Any, rectified: bool, size: tuple[int, int], topic: str
) -> tuple[CameraModel | None, str]:
    """Return the camera model of the first camera_info that describes an image, or None and a sentence about the reason.

    :param candidates: messages sensor_msgs/CameraInfo, the best one first.
    :param header: header of the image.
    :param size: (width, height) of the image.
    :param topic: topic of the candidates, for the sentence.
    """
    why = ""
    for info in candidates:
        other = other_frame("camera_info", topic, info, header)
        if other:
            why = why or other
            continue
        try:
            return to_camera_model(info, rectified, size), ""
        except OtherSizeError as error:
            why = why or str(error)
        except GeometryError as error:
            return None, why or str(error)  # The newest message has this fault, so older ones do not matter.
    return None, why


def other_frame(what: str, topic: str, message: Any, header: Any) -> str:
    """Return a sentence if the frames of a message and the image differ; otherwise an empty text.

    :param what: name of such a message in a sentence.
    :param topic: its topic.
    :param header: header of the image.
    """
    frame, wanted = plain_frame(message.header.frame_id), plain_frame(header.frame_id)
    if frame == wanted:
        return ""
    return (
        f"The {what} on {topic} is in the frame {quoted_frame(frame)}, but the image is in "
        f"{quoted_frame(wanted)}. Publish the {what} in the image's frame, aligned (registered) to the image."
    )


def _what_is_missing(name: str, lifted: Lifted) -> str:
    reasons = Counter(reason for reason in lifted.reasons if reason)
    why = ", ".join(reasons)
    return f"{sum(reasons.values())} of {len(lifted.reasons)} {name} have no position: {why}."
