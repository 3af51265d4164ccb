"""Select the topics of the cameras in a bag."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from robobrain_ros.bags.errors import BagError
from robobrain_ros.bags.messages import CAMERA_INFO, COMPRESSED, IMAGE
from robobrain_ros.bags.source import Source, Topic

DEFAULT_CAMERA = "camera"
_TRANSPORTS = ("/compressed", "/compressedDepth", "/theora", "/ffmpeg", "/zstd")
_COMPRESSED_DEPTH = "/compressedDepth"


@dataclass(frozen=True)
class CameraTopics:
    """A camera and its topics.

    :param info: topic of camera_info, or empty.
    :param depth: topic of the aligned depth, or empty.
    """

    name: str
    image: str
    info: str = ""
    depth: str = ""


def select_cameras(source: Source, images: Sequence[str], infos: Sequence[str], depths: Sequence[str]) -> list[CameraTopics]:
    """Return the cameras for the values of ``--image-topic``, ``--info-topic`` and ``--depth-topic``.

    A value is TOPIC or CAMERA=TOPIC. Without an image topic, the bag's only camera is used. Without an info topic, the topic
    camera_info beside the image topic is used.

    :raises BagError: a topic does not exist, has another type or two types, or the choice is ambiguous.
    """
    named = _named(images, "--image-topic") or {DEFAULT_CAMERA: only_image_topic(source)}
    chosen = [_named(infos, "--info-topic", named), _named(depths, "--depth-topic", named)]
    cameras = []
    for name, image in named.items():
        _check(source, image, (IMAGE, COMPRESSED), "an image")
        info, depth = (topics.get(name, "") for topics in chosen)
        if info:
            _check(source, info, (CAMERA_INFO,), "a camera_info")
        elif (sibling := info_topic_of(image)) in source.topics:
            _check(source, sibling, (CAMERA_INFO,), "a camera_info")
            info = sibling
        if depth:
            if depth not in source.topics and f"{depth}{_COMPRESSED_DEPTH}" in source.topics:
                depth = f"{depth}{_COMPRESSED_DEPTH}"
            _check(source, depth, (IMAGE, COMPRESSED), "a depth image")
        cameras.append(CameraTopics(name, image, info, depth))
    return cameras


def only_image_topic(source: Source) -> str:
    """Return the bag's only topic with colour images. A raw topic is preferred to its compressed versions.

    :raises BagError: there is none, or there are several.
    """
    found = [topic.name for topic in source.topics.values() if {IMAGE, COMPRESSED} & set(topic.types) and topic.count]
    by_base: dict[str, str] = {}
    for name in sorted(found, key=len):
        if not re.search(r"depth|disparity|/infra", name, re.IGNORECASE):
            by_base.setdefault(without_transport(name), name)
    if not by_base:
        raise BagError(f"{source.path} has no topic with colour images.{_listing(source.topics.values())}")
    if len(by_base) > 1:
        raise BagError(
            f"{source.path} has several cameras: {', '.join(by_base.values())}. Select with --image-topic; with several cameras, "
            "name them, as in --image-topic front=/front/image_raw."
        )
    return next(iter(by_base.values()))


def without_transport(topic: str) -> str:
    """Return the name of an image topic without the suffix of image_transport, such as ``/compressed``."""
    return next((topic.removesuffix(suffix) for suffix in _TRANSPORTS if topic.endswith(suffix)), topic)


def info_topic_of(image_topic: str) -> str:
    """Return the camera_info that belongs to an image topic by ROS's convention."""
    return f"{without_transport(image_topic).rpartition('/')[0]}/camera_info"


def _named(values: Sequence[str], option: str, cameras: Collection[str] = ()) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in values:
        name, separator, topic = value.partition("=")
        if not separator:
            name, topic = next(iter(cameras), DEFAULT_CAMERA), value
        if name in found:
            raise BagError(f"{option} names the camera {name!r} twice. Name each camera once, as in {option} front={topic}.")
        if cameras and name not in cameras:
            raise BagError(f"{option} {value}: there is no camera {name!r}. Known cameras: {', '.join(cameras)}.")
        found[name] = topic
    return found


def _check(source: Source, name: str, types: Sequence[str], what: str) -> None:
    topic = source.topics.get(name)
    if topic is None:
        raise BagError(f"{source.path} has no topic {name}.{_listing(source.topics.values())}")
    if len(topic.types) > 1:
        raise BagError(
            f"The topic {name} has two types: {' and '.join(topic.types)}. Write the messages of one type to another bag, and "
            "use that bag."
        )
    if topic.types[0] not in types:
        raise BagError(f"The topic {name} has the type {topic.types[0]}, which is not {what} ({' or '.join(types)}).")


def _listing(topics: Collection[Topic]) -> str:
    names = [f"{topic.name} ({', '.join(topic.types)})" for topic in topics]
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f" Its topics are {', '.join(names[:20])}{more}." if names else " It has no topics."
