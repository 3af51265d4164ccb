"""The message types for bags: those of ROS that the program reads, and those of this package that it writes."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from robobrain_ros.bags.errors import BagError
from robobrain_ros.core.messages.answers import AnswerMessages, MessageTypes
from robobrain_ros.core.messages.frames import plain_frame

DEFINITIONS = Path(__file__).with_name("definitions.txt")
"""The message definitions of this package in one file. scripts/message_stubs.py writes it, because pip does not install msg/."""
SEPARATOR = "=" * 80 + "\n"
PACKAGE = "robobrain_ros"

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
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
