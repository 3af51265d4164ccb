"""Read a bag, and collect for each selected image what belongs to it: camera_info, depth and transform."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from robobrain_ros.bags.cameras import CameraTopics
from robobrain_ros.bags.errors import BagError
from robobrain_ros.bags.frames import Frame, Recent
from robobrain_ros.bags.messages import TRANSFORMS, header
from robobrain_ros.bags.questions import Question, Schedule
from robobrain_ros.bags.source import Record, Source
from robobrain_ros.core.messages.frames import plain_frame
from robobrain_ros.core.messages.images import ImageReader, is_compressed
from robobrain_ros.core.messages.stamps import StampMatch, nanoseconds
from robobrain_ros.core.transforms import Transform, TransformBuffer, TransformError

TF, TF_STATIC = "/tf", "/tf_static"
_KEPT = 8
"""Depth images and calibrations that are kept for each camera, as in the node."""
_PATIENCE = 10**9
"""ns of the recording. An image waits at most this long for its depth image and its transform, which can be recorded later."""
_JUMP = 10**9
"""ns. If the stamps of a camera decrease by more than this, a new recording begins, as in the node."""
_MOST_WAITING, _MOST_BYTES = 64, 256 * 2**20
"""Largest number of images that wait for their depth image or transform, and largest size of their messages."""
_USUAL_COMPRESSION = 15
"""A JPEG has about this part of the bytes of its image."""


@dataclass
class Moment:
    """A selected image, its questions, and what belongs to it.

    :param number: number among the selected images, from 0.
    :param questions: the questions about this image, each with its images in the order of the query.
    :param infos: the messages sensor_msgs/CameraInfo that can describe the image, the best one first.
    :param depth: finds the depth image, or None without a depth topic.
    :param transform: the transform to the target frame, why it is missing, or None if there is no target frame.
    """

    number: int
    frame: Frame
    camera: CameraTopics
    questions: list[tuple[Question, Sequence[Frame] | BagError]]
    infos: list[Any] = field(default_factory=list)
    depth: StampMatch | None = None
    transform: Transform | TransformError | None = None

    @property
    def spatial(self) -> bool:
        """Whether the answer to a question has coordinates."""
        return any(question.task.spatial for question, _ in self.questions)

    @property
    def size(self) -> int:
        """Bytes of the messages of image and depth image. A compressed image counts as if it was decoded."""
        depth = None if self.depth is None else self.depth.best
        messages = [message for message in (self.frame.message, depth) if message is not None]
        return sum(len(message.data) * (_USUAL_COMPRESSION if is_compressed(message) else 1) for message in messages)


class _Stream:
    """The state of one camera while a bag is read."""

    def __init__(self, topics: CameraTopics, source: Source, questions: Sequence[Question], tolerance: float) -> None:
        self.topics = topics
        self.reader = ImageReader(topics.name)
        self.tolerance = tolerance
        own = [question for question in questions if question.cameras[0] == topics.name]
        self.schedules = [(question, Schedule(question, source.begin)) for question in own]
        timed = [question for question in own if question.history_seconds]
        self.recent = Recent(
            max((question.history_seconds for question in timed), default=0.0),
            max((question.history_frames for question in timed), default=1),
        )
        self.needs_positions = any(question.task.spatial for question in own)
        self.needed = bool(own) or any(topics.name in question.cameras for question in questions)
        self.infos: deque[Any] = deque(maxlen=_KEPT)
        self.depths: deque[Any] = deque(maxlen=_KEPT)
        self.last_stamp = 0
        # A calibration can be recorded after the first image.
        first = next(source.records([topics.info]), None) if topics.info and self.needs_positions else None
        self.first_info = None if first is None else source.decoded(first)

    def infos_for(self, stamp: int) -> list[Any]:
        """Return the calibrations that can describe an image: the one with its stamp first, then newest to oldest."""
        match = StampMatch(stamp, tuple(self.infos))
        first = [match.best] if match.is_met(self.tolerance) else []
        last = [] if self.first_info is None else [self.first_info]
        return [*first, *reversed(self.infos), *last]


class Moments:
    """Yields the selected images of a bag in the order of the recording. Memory is bounded, whatever the size of the bag.

    :param cameras: the cameras. The questions name some of them.
    :param target_frame: frame of the positions, or empty for the images' own frames.
    :param tolerance: largest difference in seconds between the stamps of an image and its depth image.
    :param copied: topics whose messages are passed to `on_record` in the order of the recording.
    :param on_note: called with a sentence about the recording.
    :raises BagError: the first calibration or a static transform cannot be read.
    """

    def __init__(
        self,
        source: Source,
        cameras: Sequence[CameraTopics],
        questions: Sequence[Question],
        *,
        target_frame: str = "",
        tolerance: float = 0.01,
        copied: Sequence[str] = (),
        on_note: Callable[[str], None] = lambda note: None,
    ) -> None:
        self._source = source
        self._target = plain_frame(target_frame)
        self._copied = frozenset(copied)
        self.on_record: Callable[[Record], None] = lambda record: None
        """Called with each message of the copied topics."""
        self._on_note = on_note
        self._streams = {camera.name: _Stream(camera, source, questions, tolerance) for camera in cameras}
        self._buffer = TransformBuffer()
        self._waiting: deque[Moment] = deque()
        self._handlers = self._topics()
        self._frames = self._selected = 0
        self.time = source.begin
        """Time of the last message that was read, in ns."""

    def _topics(self) -> Mapping[str, list[Callable[[Record], None]]]:
        """Return what to do with the messages of each topic."""
        handlers: dict[str, list[Callable[[Record], None]]] = {}

        def on(topic: str, handler: Callable[[_Stream, Record], None], stream: _Stream) -> None:
            handlers.setdefault(topic, []).append(lambda record: handler(stream, record))

        for stream in self._streams.values():
            topics = stream.topics
            if stream.needed:
                on(topics.image, self._on_image, stream)
            if stream.needs_positions and topics.info:
                on(topics.info, self._on_info, stream)
            if stream.needs_positions and topics.depth:
                on(topics.depth, self._on_depth, stream)
        if self._target and any(stream.needs_positions for stream in self._streams.values()):
            self._read_static()
            for topic in (TF, TF_STATIC):
                if self._has_transforms(topic):
                    handlers[topic] = [partial(self._add_transforms, static=topic == TF_STATIC)]
        return handlers

    def _has_transforms(self, topic: str) -> bool:
        found = self._source.topics.get(topic)
        return found is not None and set(found.types) <= set(TRANSFORMS)

    def _read_static(self) -> None:
        """Read the first static transform of each frame in advance, because it is also valid for images before it.

        Later ones of the same frame replace it where the bag contains them, for example after a new calibration.
        """
        missing = [topic for topic in (TF, TF_STATIC) if not self._has_transforms(topic)]
        if len(missing) == 2:
            self._on_note(f"The bag has no transforms, so positions stay in the cameras' frames, not in {self._target}.")
        if TF_STATIC not in missing:
            known: set[str] = set()
            for record in self._source.records([TF_STATIC]):
                self._add_transforms(record, static=True, known=known)

    def __iter__(self) -> Iterator[Moment]:
        topics = [topic for topic in {*self._handlers, *self._copied} if topic in self._source.topics]
        for record in self._source.records(topics):
            self.time = record.time
            topic = record.connection.topic
            if topic in self._copied:
                self.on_record(record)
            for handle in self._handlers.get(topic, ()):
                handle(record)
            yield from self._complete(everything=False)
        yield from self._complete(everything=True)

    def _complete(self, everything: bool) -> Iterator[Moment]:
        """Yield the images that need not wait any longer, in order."""
        while self._waiting:
            moment = self._waiting[0]
            full = len(self._waiting) > _MOST_WAITING or sum(waiting.size for waiting in self._waiting) > _MOST_BYTES
            late = everything or full or self.time - moment.frame.time > _PATIENCE
            found = self._find_transform(moment)
            measured = moment.depth is None or moment.depth.settled.done()
            if not (late or (found and measured)):
                return
            if moment.spatial:
                moment.infos = self._streams[moment.camera.name].infos_for(moment.frame.stamp)
            self._waiting.popleft()
            if moment.depth is not None:
                moment.depth.close()
            yield moment

    def _find_transform(self, moment: Moment) -> bool:
        """Look for the transform of an image, and return whether it is known or not needed."""
        source = moment.frame.header.frame_id
        if not (self._target and moment.spatial) or source == self._target:
            return True
        if isinstance(moment.transform, Transform):
            return True
        if not moment.frame.stamp:
            moment.transform = TransformError("the image has no stamp")
            return True
        try:
            moment.transform = self._buffer.lookup(self._target, source, moment.frame.stamp)
        except TransformError as error:
            moment.transform = error
        return isinstance(moment.transform, Transform)

    def _on_image(self, stream: _Stream, record: Record) -> None:
        takers = [question for question, schedule in stream.schedules if schedule.takes(record.time)]
        used = takers or len(self._streams) > 1 or stream.recent.keeps_history
        if not used:
            return
        message = self._source.decoded(record)
        own_header = header(message.header.stamp, message.header.frame_id)
        frame = Frame(stream.topics.name, message, own_header, record.time, self._frames, stream.reader)
        self._frames += 1
        self._check_jump(stream, frame)
        stream.recent.add(frame)
        if not takers:
            return
        questions = [(question, self._images_of(question, stream, frame)) for question in takers]
        moment = Moment(self._selected, frame, stream.topics, questions)
        self._selected += 1
        if moment.spatial and stream.topics.depth:
            moment.depth = StampMatch(frame.stamp, tuple(stream.depths))
        self._waiting.append(moment)

    def _images_of(self, question: Question, stream: _Stream, frame: Frame) -> Sequence[Frame] | BagError:
        if question.history_seconds:
            return stream.recent.last(question.history_seconds, question.history_frames)
        images = [frame]
        for name in question.cameras[1:]:
            newest = self._streams[name].recent.newest
            if newest is None:
                return BagError(f"The bag has no earlier image of the camera {name!r}.")
            images.append(newest)
        return images

    def _check_jump(self, stream: _Stream, frame: Frame) -> None:
        """If the stamps of a camera decrease by more than `_JUMP`, forget the transforms and depth images before it."""
        before, stamp = stream.last_stamp, frame.stamp
        stream.last_stamp = stamp or before
        if not (before and stamp) or before - stamp <= _JUMP:
            return
        self._on_note(
            f"The stamps on {stream.topics.image} decrease by {(before - stamp) * 1e-9:.1f} s, "
            f"{(frame.time - self._source.begin) * 1e-9:.1f} s after the start of the bag. Transforms and depth images from "
            "before are not used after it."
        )
        self._buffer.clear()
        for each in self._streams.values():
            each.depths.clear()

    def _on_info(self, stream: _Stream, record: Record) -> None:
        stream.infos.append(self._source.decoded(record))

    def _on_depth(self, stream: _Stream, record: Record) -> None:
        message = self._source.decoded(record)
        stream.depths.append(message)
        for moment in self._waiting:
            if moment.depth is not None and moment.camera.name == stream.topics.name:
                moment.depth.offer(message)

    def _add_transforms(self, record: Record, *, static: bool, known: set[str] | None = None) -> None:
        """Add the transforms of a message to the buffer.

        :param known: omit the frames in this set, and add the others to it.
        """
        for each in self._source.decoded(record).transforms:
            turn, shift = each.transform.rotation, each.transform.translation
            transform = Transform((turn.x, turn.y, turn.z, turn.w), (shift.x, shift.y, shift.z))
            parent, child = plain_frame(each.header.frame_id), plain_frame(each.child_frame_id)
            if known is not None:
                if child in known:
                    continue
                known.add(child)
            try:
                self._buffer.add(parent, child, nanoseconds(each.header.stamp), transform, static=static)
            except TransformError as error:
                self._on_note(f"A transform on {record.connection.topic} is ignored: {error}.")
