"""Positions in metres of an answer about an image of a bag, by the code of the node."""

from dataclasses import dataclass

from robobrain_ros.bags.messages import header
from robobrain_ros.bags.moments import Moment
from robobrain_ros.core.formats.depth_checks import DepthRange
from robobrain_ros.core.geometry import CameraModel, GeometryError
from robobrain_ros.core.messages.depth import read_depth
from robobrain_ros.core.messages.frames import plain_frame
from robobrain_ros.core.messages.positions import (
    Positions,
    camera_model,
    lift,
    moved,
    names_rectified,
    needs_positions,
    not_moved,
    other_frame,
)
from robobrain_ros.core.query import Answer
from robobrain_ros.core.surfaces import DepthImage
from robobrain_ros.core.transforms import Transform, TransformError


@dataclass(frozen=True)
class PositionSettings:
    """Settings with the names and defaults of the node's parameters.

    :param target_frame: frame of the positions, or empty for the image's frame.
    :param sync_tolerance: largest difference in seconds between the stamps of an image and its depth image.
    :param rectified: whether the images are rectified, or None to decide by the topic's name.
    """

    target_frame: str = ""
    sync_tolerance: float = 0.01
    min_depth: float = 0.0
    max_depth: float = 20.0
    rectified: bool | None = None

    @property
    def limits(self) -> DepthRange:
        """The range of valid depths."""
        return DepthRange(self.min_depth, self.max_depth)


def locate(answer: Answer, moment: Moment, size: tuple[int, int], settings: PositionSettings) -> Positions:
    """Return the positions of an answer. A position that is unknown is NaN, and a note states the reason.

    :param size: (width, height) of the image.
    """
    image = moment.frame.header
    measured = bool(moment.camera.depth)
    if not needs_positions(answer, measured):
        has_parts = bool(answer.points or answer.boxes or answer.waypoints)
        return Positions(image, camera=_camera(moment, size, settings)[0] if has_parts else None)
    camera, note = _camera(moment, size, settings)
    if camera is None:
        return Positions(image, note=note)
    depth, note = _depth(moment, settings) if measured else (None, "")
    positions = lift(answer, camera, depth, header=image, limits=settings.limits, measured=measured, note=note)
    target = plain_frame(settings.target_frame)
    if not target or target == image.frame_id or not positions.known:
        return positions
    if isinstance(moment.transform, Transform):
        return moved(positions, moment.transform, header(image.stamp, target))
    return not_moved(positions, target, moment.transform or TransformError("there is no transform"))


def _camera(moment: Moment, size: tuple[int, int], settings: PositionSettings) -> tuple[CameraModel | None, str]:
    topics = moment.camera
    if not moment.infos:
        what = f"no message on {topics.info}" if topics.info else f"no camera_info beside {topics.image}"
        return None, f"The bag has {what}, so positions are unknown. Name the topic with --info-topic."
    rectified = names_rectified(topics.image) if settings.rectified is None else settings.rectified
    return camera_model(moment.infos, header=moment.frame.header, rectified=rectified, size=size, topic=topics.info)


def _depth(moment: Moment, settings: PositionSettings) -> tuple[DepthImage | None, str]:
    topic, match, image = moment.camera.depth, moment.depth, moment.frame.header
    if match is None or match.best is None:
        return None, f"The bag has no depth image on {topic} before or after the image."
    if not moment.frame.stamp:
        return None, "The image has no stamp, so no depth image can be assigned to it. Set the stamp in the driver."
    if not match.is_met(settings.sync_tolerance):
        return None, (
            f"The bag has no depth image with the image's stamp on {topic}: the nearest stamp differs by "
            f"{match.distance * 1e-9:.3g} s; --sync-tolerance is {settings.sync_tolerance:g} s."
        )
    why = other_frame("depth image", topic, match.best, image)
    if why:
        return None, why
    try:
        return read_depth(match.best, settings.limits), ""
    except GeometryError as error:
        return None, str(error)
