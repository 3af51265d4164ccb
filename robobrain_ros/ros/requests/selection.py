"""Select the images of a request."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from rclpy.clock import ROSClock
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from robobrain_ros.core.messages.frames import frame_fault
from robobrain_ros.core.progress import comparison as ordered
from robobrain_ros.core.query import Task
from robobrain_ros.errors import BadImageError, BadRequestError
from robobrain_ros.msg import QueryOptions
from robobrain_ros.ros.cameras.cameras import Camera, Cameras
from robobrain_ros.ros.cameras.frames import plain_header
from robobrain_ros.ros.cameras.history import KeptFrame
from robobrain_ros.ros.cameras.images import Frame
from robobrain_ros.ros.clock import nanoseconds, reported_age, stamp_age
from robobrain_ros.ros.limits import LONGEST_HISTORY
from robobrain_ros.ros.parameters.declared import Parameters
from robobrain_ros.ros.requests.request import Comparison, Source, check_times, wants_history


@dataclass(frozen=True)
class SelectedImages:
    """The images of a request, in the order in which the model sees them.

    :param sources: frames of cameras, or images in the request.
    :param header: header of the main image.
    :param camera: name of the main image's camera, or empty if the images are in the request.
    :param age: seconds since the oldest image's stamp, or since the newest one's if there are ``times``; NaN: an image has no
        stamp, or its stamp is ahead of the node's clock.
    :param max_pixels: pixel limit of each image; 0: that of ``engine.max_pixels``.
    :param labels: name of each image for the start of a sentence.
    :param times: times of images of different times, see `core.query.Query`; otherwise empty.
    :param note: a sentence about images that are missing from the camera's buffer, or empty.
    """

    sources: Sequence[Source]
    header: Header
    camera: str
    age: float
    max_pixels: Sequence[int]
    labels: Sequence[str]
    times: Sequence[float] = ()
    note: str = ""

    @property
    def names(self) -> list[str]:
        """The unique name of each image for the engine. An image in the request has an empty name."""
        return ["" if isinstance(source, Image) else source.name for source in self.sources]

    @property
    def main(self) -> int:
        """Index of the image that the answer is about: the newest one if the images have different times, otherwise the first."""
        return len(self.sources) - 1 if self.times else 0

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Width and height of each image in pixels, or an empty list if a size is unknown, because its image is compressed."""
        sizes = [source.size if isinstance(source, Frame) else (source.width, source.height) for source in self.sources]
        return sizes if all(width and height for width, height in sizes) else []

    @property
    def frames(self) -> list[Frame | KeptFrame]:
        """The images of cameras."""
        return [source for source in self.sources if not isinstance(source, Image)]


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
        self.check_times(options, task)
        if options.images:
            if options.cameras:
                raise BadRequestError("images and cameras are both set. Set only one of them.")
            if options.camera:
                cameras.name(options.camera)
            self.check_count(task, len(options.images), "images")
            if options.images_in_time:
                return self._in_time(options.images, [nanoseconds(image.header.stamp) for image in options.images], "")
            return self._selected(options.images, plain_header(options.images[0].header), "")
        if wants_history(options):
            return self._history(cameras[cameras.names_of(options)[0]], options, task, frame)
        names = cameras.names_of(options)
        self.check_count(task, len(names), "cameras")
        frames = self._frames(names, task, frame)
        return self._selected(frames, frames[0].header, names[0])

    def compare(self, options: QueryOptions, comparison: Comparison) -> SelectedImages:
        """Return the images of a comparison, in the order of its prompt.

        :raises BadRequestError: the images are incomplete or contradict the options.
        :raises RoboBrainError: see `select`.
        """
        check_times(options, Task.PROGRESS)
        if options.images:
            raise BadRequestError("options.images contains images. Leave it empty: a comparison has its own images.")
        after = comparison.after or self.views(options)
        for name in ("reference_start", "reference_end"):
            source = getattr(comparison, name)
            if not isinstance(source, Frame) and not source.data:
                raise BadRequestError(
                    f"{name} is empty. Set it to an image of the {name.removeprefix('reference_')} of the task."
                )
        sources = ordered(comparison.reference_start, comparison.reference_end, comparison.before, after)
        self.check_count(Task.PROGRESS, len(sources), "images")
        before_labels, after_labels = ([f"{moment}[{number}]" for number in range(len(after))] for moment in ("before", "after"))
        labels = ordered("reference_start", "reference_end", before_labels, after_labels)
        camera = after[0].camera if isinstance(after[0], Frame) else ""
        header = plain_header(after[0].header)
        return self._selected(sources, header, camera, labels, of=after)

    def views(self, options: QueryOptions) -> list[Frame]:
        """Return the newest images of a request's cameras.

        :raises RoboBrainError: see `select`.
        """
        return self._frames(self._cameras().names_of(options), Task.PROGRESS)

    def newest(self, camera: Camera, task: Task) -> Frame | None:
        """Return the newest image of a camera; for spatial tasks, the newest image with depth, or None if no image has arrived.

        The image can be too old. `select` checks the age.
        """
        if not task.spatial:
            return camera.newest
        return camera.newest_with_depth(self._parameters["sync_tolerance"], self._parameters["max_image_age"])

    def check_times(self, options: QueryOptions, task: Task) -> None:
        """Check the fields about images of different times, also with the parameters of the camera.

        :raises BadRequestError: see `request.check_times`. Or the camera's buffer holds fewer images or a shorter time.
        :raises NoSuchCameraError: the camera does not exist.
        """
        check_times(options, task)
        if not wants_history(options):
            return
        (name,) = self._cameras().names_of(options)
        self.check_count(task, options.history_frames, "history_frames")
        seconds, frames = self._parameters[f"{name}.history_seconds"], self._parameters[f"{name}.history_frames"]
        if not frames:
            raise BadRequestError(
                f"Camera {name} keeps no recent images. Set its parameters {name}.history_seconds and {name}.history_frames."
            )
        if options.history_frames > frames:
            raise BadRequestError(
                f"history_frames is {options.history_frames}, but camera {name} keeps {frames} images. Raise the parameter "
                f"{name}.history_frames."
            )
        # The option is a float32 and the parameter a float64.
        if options.history_seconds > seconds * (1.0 + 1e-6):
            raise BadRequestError(
                f"history_seconds is {options.history_seconds:g}, but camera {name} keeps the images of {seconds:g} s. Raise the "
                f"parameter {name}.history_seconds."
            )

    def _history(self, camera: Camera, options: QueryOptions, task: Task, frame: Frame | None) -> SelectedImages:
        """Return the recent images of a camera. The newest one is the last."""
        newest = self._fresh(camera, task, frame)
        wanted = options.history_frames
        earlier = camera.history.last(newest, options.history_seconds, wanted) if camera.history is not None else []
        images: list[Frame | KeptFrame] = [*earlier, newest]
        selected = self._in_time(images, [image.time for image in images], camera.name)
        if len(images) == wanted:
            return selected
        images_are = "image is" if len(images) == 1 else "images are"
        note = (
            f"Only {len(images)} of {wanted} {images_are} available from the last {options.history_seconds:g} s of camera "
            f"{camera.name}: the node has not kept more since it was activated, since the camera started or changed, or since a "
            "time jump."
        )
        return replace(selected, note=note)

    def _in_time(self, sources: Sequence[Source], times: Sequence[int], camera: str) -> SelectedImages:
        """Return images of different times.

        :param times: stamps of the images in ns.
        :raises BadRequestError: the stamps do not increase, or are too far apart.
        """
        for number, (before, after) in enumerate(pairwise(times), start=2):
            if not before or after <= before:
                raise BadRequestError(
                    f"The stamp of image {number} is not after that of image {number - 1}. With images_in_time, all images need "
                    "stamps, in the order of time."
                )
        seconds = [(time - times[-1]) * 1e-9 for time in times]
        if -seconds[0] > LONGEST_HISTORY + 1.0:
            raise BadRequestError(
                f"The stamps of the images are {-seconds[0]:.0f} s apart; at most {LONGEST_HISTORY:g} s are allowed."
            )
        newest = sources[-1]
        selected = self._selected(sources, plain_header(newest.header), camera)
        age = reported_age(stamp_age(self._clock, newest.header))
        return replace(selected, times=seconds if len(sources) > 1 else (), age=age)

    def check_count(self, task: Task, count: int, field: str) -> None:
        """Check the number of images of a request.

        :param field: name of the images' field, for the error's message.
        :raises BadRequestError: the task does not permit this number of images.
        """
        if task.spatial and count != 1:
            raise BadRequestError(f"The task {task.value} takes exactly one image, not {count} (field {field}).")
        name = f"{self._parameters.prefix_for(task)}engine.max_images"
        most = self._parameters[name]
        if count > most:
            raise BadRequestError(f"A request takes at most {most} images (parameter {name}), not {count} (field {field}).")

    def _frames(self, names: Sequence[str], task: Task, first: Frame | None = None) -> list[Frame]:
        """Return an image of each camera. ``first``: image of the first camera. None: its newest image."""
        cameras = self._cameras()
        return [self._fresh(cameras[name], task, None if number else first) for number, name in enumerate(names)]

    def _fresh(self, camera: Camera, task: Task, frame: Frame | None) -> Frame:
        newest = camera.fresh(self._parameters["max_image_age"], frame)
        return frame or self.newest(camera, task) or newest

    def _selected(
        self,
        sources: Sequence[Source],
        header: Header,
        camera: str,
        labels: Sequence[str] = (),
        of: Sequence[Source] = (),
    ) -> SelectedImages:
        """Return the images.

        :param labels: see `SelectedImages`. Empty: the name of the camera, or the position in the request.
        :param of: images whose age counts. Empty: all.
        """
        labels = labels or [_label(source, number) for number, source in enumerate(sources, start=1)]
        for label, source in zip(labels, sources, strict=True):
            # The name is checked before it is copied into other messages.
            if fault := frame_fault(source.header.frame_id):
                raise BadImageError(f"{label} cannot be used: {fault}")
        ages = [stamp_age(self._clock, source.header) for source in of or sources]
        age = math.nan if any(map(math.isnan, ages)) else reported_age(max(ages))
        limits = [self._limit(source) for source in sources]
        return SelectedImages(sources, header, camera, age, limits, labels)

    def _limit(self, source: Source) -> int:
        """Return the pixel limit of the camera of an image, or 0 if the image has no camera."""
        known = not isinstance(source, Image) and source.camera in self._parameters["cameras"]
        return int(self._parameters[f"{source.camera}.max_pixels"]) if known else 0


def _label(source: Source, number: int) -> str:
    """Return the name of an image for the start of a sentence. ``number``: its position in the request, from 1."""
    if isinstance(source, KeptFrame):
        return f"Image {number} of the history of camera {source.camera}"
    return f"The image of camera {source.camera}" if isinstance(source, Frame) else f"Image {number} of the request"
