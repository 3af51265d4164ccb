"""The message types for bags: those of ROS that the program reads, and those of this package that it writes."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from robobrain_ros.bags.errors import BagError
from robobrain_ros.core.messages.answers import AnswerMessages, MessageTypes
from robobrain_ros.core.messages.frames import plain_frame
from robobrain_ros.core.messages.markers import MarkerTypes

DEFINITIONS = Path(__file__).with_name("definitions.txt")
"""The message definitions of this package in one file. scripts/message_stubs.py writes it, because pip does not install msg/."""
SEPARATOR = "=" * 80 + "\n"
PACKAGE = "robobrain_ros"

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
MARKERS = "visualization_msgs/msg/MarkerArray"
TRANSFORMS = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage")
"""The types of /tf. The second one is from the first versions of ROS 1."""


def require_rosbags() -> None:
    """Check that the library rosbags is installed.

    :raises BagError: it is not.
    """
    try:
        import rosbags.rosbag2  # noqa: F401
    except ImportError as error:
        raise BagError(
            f"The library rosbags cannot be imported ({error}). Install it with `pip install 'rosbags>=0.11,<0.12'`."
        ) from error


def _sections() -> list[tuple[str, str]]:
    """Return the heading and the text of each message definition of this package."""
    sections = DEFINITIONS.read_text(encoding="utf-8").split(SEPARATOR)[1:]
    return [(heading, text) for heading, _, text in (section.partition("\n") for section in sections)]


@cache
def ros2_types() -> Any:
    """Return rosbags' type store of ROS 2, with the messages of this package."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    found: dict[str, Any] = {}
    for heading, text in _sections():
        found.update(get_types_from_msg(text, heading.removeprefix("MSG: ")))
    store.register(found)
    return store


@cache
def ros1_types() -> Any:
    """Return rosbags' type store of ROS 1."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    for name in TRANSFORMS:
        if name not in store.types:
            store.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", name))
    return store


@cache
def definition(name: str) -> str:
    """Return the definition of a message of this package with those of its fields, as a recorder of ROS 2 writes it to a bag.

    The definitions of this package have their comments, and constants stand before their field: viewers then show the names of
    constants. rosbags alone would remove the comments and move the constants.
    """
    own = {heading.removeprefix("MSG: "): text for heading, text in _sections()}
    first, *others = ros2_types().generate_msgdef(name, ros_version=2)[0].split(SEPARATOR)
    parts = [own.get(name, first)]
    for other in others:
        heading, _, text = other.partition("\n")
        package, _, short = heading.removeprefix("MSG: ").rpartition("/")
        parts.append(f"{heading}\n{own.get(f'{package}/msg/{short}', text)}")
    return SEPARATOR.join(part if part.endswith("\n") else f"{part}\n" for part in parts)


def message_type(name: str) -> Any:
    """Return the class of a message that the program writes, such as ``robobrain_ros/msg/Plan``."""
    return ros2_types().types[name]


@cache
def answer_messages() -> AnswerMessages:
    """Return the conversion of answers to messages for bags."""
    own = ("Affordances", "AffordanceArea", "AffordancePoint", "InferenceReport", "Plan", "PlanStep", "TextAnswer")
    types = {name: message_type(f"{PACKAGE}/msg/{name}") for name in (*own, "Trajectory", "Waypoint")}
    others = ("geometry_msgs/msg/Point", "sensor_msgs/msg/RegionOfInterest", "builtin_interfaces/msg/Time")
    types |= {name.rpartition("/")[2]: message_type(name) for name in others}
    return AnswerMessages(MessageTypes(**types))


class Filled:
    """Creates messages of a type. Fields that are not passed have the values of an empty message, as in ROS."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, **fields: Any) -> Any:
        """Return a message with these fields."""
        _, defined = ros2_types().fielddefs[self._name]
        usual = _USUAL.get(self._name, {})
        values = {name: usual[name] if name in usual else _empty(form) for name, form in defined if name not in fields}
        return message_type(self._name)(**values, **fields)


_USUAL = {"geometry_msgs/msg/Quaternion": {"w": 1.0}}
"""Default values in the definitions of ROS 2, which rosbags ignores."""


def _empty(form: Any) -> Any:
    """Return the value of an empty field.

    :param form: the type of the field, as rosbags describes it.
    """
    from rosbags.interfaces import Nodetype

    kind, content = form
    if kind is Nodetype.NAME:
        return Filled(content)()
    if kind is Nodetype.BASE:
        name = content[0]
        return "" if name == "string" else False if name == "bool" else 0.0 if name.startswith("float") else 0
    inner, length = content
    if inner[0] is Nodetype.BASE and inner[1][0] != "string":
        return np.zeros(length if kind is Nodetype.ARRAY else 0, inner[1][0])
    return [_empty(inner) for _ in range(length if kind is Nodetype.ARRAY else 0)]


@cache
def marker_types() -> MarkerTypes:
    """Return the messages of markers for bags."""
    types = {"Marker": "visualization_msgs", "MarkerArray": "visualization_msgs", "Header": "std_msgs", "ColorRGBA": "std_msgs"}
    types |= {"Point": "geometry_msgs", "Vector3": "geometry_msgs", "Duration": "builtin_interfaces"}
    return MarkerTypes(**{name: Filled(f"{package}/msg/{name}") for name, package in types.items()})


def header(stamp: Any, frame: str) -> Any:
    """Return a std_msgs/Header of ROS 2. ``stamp`` has the fields sec and nanosec. A leading slash of the frame is removed."""
    time = message_type("builtin_interfaces/msg/Time")(sec=int(stamp.sec), nanosec=int(stamp.nanosec))
    return message_type("std_msgs/msg/Header")(stamp=time, frame_id=plain_frame(frame))


def serialized(message: Any, name: str) -> bytes:
    """Return a message of the type ``name`` in CDR."""
    return bytes(ros2_types().serialize_cdr(message, name))


def calibration_of_ros1(info: Any) -> Any:
    """Return a CameraInfo of ROS 1 with the field names of ROS 2."""
    return SimpleNamespace(
        header=info.header, width=info.width, height=info.height, distortion_model=info.distortion_model,
        d=info.D, k=info.K, r=info.R, p=info.P, binning_x=info.binning_x, binning_y=info.binning_y, roi=info.roi,
    )  # fmt: skip
