"""Select the images of a request."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rclpy.clock import ROSClock
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from robobrain_ros.core.query import Task
from robobrain_ros.errors import BadImageError, BadRequestError
from robobrain_ros.msg import QueryOptions
from robobrain_ros.ros.cameras.cameras import Camera, Cameras, Frame
from robobrain_ros.ros.cameras.frames import frame_fault, plain_header
from robobrain_ros.ros.clock import reported_age, stamp_age
from robobrain_ros.ros.parameters.declared import Parameters

Source: TypeAlias = Frame | Image


@dataclass(frozen=True)
class SelectedImages:
    """The images of a request, in the order in which the model sees them.

    :param sources: frames of cameras, or images in the request.
    :param header: header of the first image.
    :param camera: name of the first image's camera, or empty if the images are in the request.
    :param age: seconds since the oldest image's stamp; NaN: an image has no stamp, or its stamp is ahead of the node's clock.
    :param max_pixels: pixel limit of each image; 0: that of ``engine.max_pixels``.
    """

    sources: Sequence[Source]
    header: Header
    camera: str
    age: float
    max_pixels: Sequence[int]

    @property
    def frames(self) -> list[Frame]:
        """The frames among the sources."""
        return [source for source in self.sources if isinstance(source, Frame)]


class ImageSelection:
    """Selects the images of requests. Called in the executor.

    :param cameras: returns the node's cameras.
    """

    def __init__(self, clock: ROSClock, parameters: Parameters, cameras: Callable[[], Cameras]) -> None:
        self._clock = clock
        self._parameters = parameters
        self._cameras = cameras

    def select(self, options: QueryOptions, task: Task, frame: Frame | None = None) -> SelectedImages:
        """Return the images of a request: those in the request, or the newest images of its cameras.

        :param frame: image of the first camera, selected by `newest`. None selects it now.
        :raises BadRequestError: the options contradict each other, the task or the parameters.
        :raises NoImageError: a camera has no image.
        :raises StaleImageError: a camera's image is too old.
        :raises BadImageError: the name of an image's frame is too long.
        """
        cameras = self._cameras()
        if options.images:
            if options.cameras:
                raise BadRequestError("images and cameras are both set. Set only one of them.")
            if options.camera:
                cameras.name(options.camera)
            self.check_count(task, len(options.images), "images")
            return self._selected(options.images, plain_header(options.images[0].header), "")
        names = cameras.names_of(options)
        self.check_count(task, len(names), "cameras")
        chosen = [frame, *([None] * (len(names) - 1))]
        frames = [self._fresh(cameras[name], task, which) for name, which in zip(names, chosen, strict=True)]
        return self._selected(frames, frames[0].header, names[0])

    def newest(self, camera: Camera, task: Task) -> Frame | None:
        """Return the newest image of a camera; for spatial tasks, the newest image with depth, or None if no image has arrived.

        The image can be too old. `select` checks the age.
        """
        if not task.spatial:
            return camera.newest
        return camera.newest_with_depth(self._parameters["sync_tolerance"], self._parameters["max_image_age"])

    def check_count(self, task: Task, count: int, field: str) -> None:
        """Check the number of images of a request.

        :param field: name of the images' field, for the error's message.
        :raises BadRequestError: the task does not permit this number of images.
        """
        if task.spatial and count != 1:
            raise BadRequestError(f"The task {task.value} takes exactly one image, not {count} (field {field}).")
        most = self._parameters["engine.max_images"]
        if count > most:
            raise BadRequestError(
                f"A request takes at most {most} images (parameter engine.max_images), not {count} (field {field})."
            )

    def _fresh(self, camera: Camera, task: Task, frame: Frame | None) -> Frame:
        newest = camera.fresh(self._parameters["max_image_age"], frame)
        return frame or self.newest(camera, task) or newest

    def _selected(self, sources: Sequence[Source], header: Header, camera: str) -> SelectedImages:
        for number, source in enumerate(sources, start=1):
            # The name is checked before it is copied into other messages.
            if fault := frame_fault(source.header.frame_id):
                raise BadImageError(f"{source_name(source, number)} cannot be used: {fault}")
        ages = [stamp_age(self._clock, source.header) for source in sources]
        age = math.nan if any(map(math.isnan, ages)) else reported_age(max(ages))
        limits = [self._parameters[f"{it.camera}.max_pixels"] if isinstance(it, Frame) else 0 for it in sources]
        return SelectedImages(sources, header, camera, age, limits)


def source_name(source: Source, number: int) -> str:
    """Return the name of an image for the start of a sentence. ``number``: its position in the request, from 1."""
    return f"The image of camera {source.camera}" if isinstance(source, Frame) else f"Image {number} of the request"
