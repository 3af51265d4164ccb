"""Select the profile of Fast DDS, and the environment variable for it."""

import os
import re
from collections.abc import MutableMapping
from functools import cache
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

FAST_DDS_2, FAST_DDS_3 = "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"
QOS_FROM_PROFILE = "RMW_FASTRTPS_USE_QOS_FROM_XML"
"""With the value 1, the memory policy of a profile applies. Otherwise, ROS 2 overrides it."""
_PUBLICATION_MODE = "RMW_FASTRTPS_PUBLICATION_MODE"
"""The publication mode of a user. With `QOS_FROM_PROFILE`, ROS 2 ignores it."""
_IN_WORKING_FOLDER = ("DEFAULT_FASTRTPS_PROFILES.xml", "DEFAULT_FASTDDS_PROFILES.xml")
"""Profiles that Fast DDS 2 and 3 read from the working folder."""
_FIRST_WITH_FAST_DDS_3 = 9
"""Major version of rmw_fastrtps_cpp in ROS 2 Kilted; Jazzy has 8."""


@cache
def profile_variable() -> str:
    """Return the variable that this ROS reads: `FAST_DDS_2` up to ROS 2 Jazzy, `FAST_DDS_3` from Kilted on.

    Kilted reads both variables. With a profile in both, Fast DDS would load it twice and reject its transports.
    """
    try:
        package = Path(get_package_share_directory("rmw_fastrtps_cpp")) / "package.xml"
        version = re.search(r"<version>\s*(\d+)", package.read_text(encoding="utf-8"))
    except (PackageNotFoundError, OSError):
        return FAST_DDS_3
    return FAST_DDS_2 if version is not None and int(version[1]) < _FIRST_WITH_FAST_DDS_3 else FAST_DDS_3


def free_taken_messages(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make Fast DDS free the buffer of each message that the node has taken. Call it before `rclpy.init`.

    By default, each service keeps as many buffers as requests were ever waiting, each with the size of the largest request: 64
    simultaneous requests with an image of 0.9 MB permanently use 58 MB. A profile of the user remains unchanged, and so does a
    publication mode of the user.

    :param environment: the environment variables. The function sets `profile_variable` and `QOS_FROM_PROFILE`.
    """
    try:
        config = Path(get_package_share_directory("robobrain_ros")) / "config"
    except PackageNotFoundError:
        return
    node, large = config / "fastdds_node.xml", config / "fastdds_large.xml"
    if not node.is_file() or QOS_FROM_PROFILE in environment or environment.get(_PUBLICATION_MODE, "") not in ("", "SYNCHRONOUS"):
        return
    chosen = [environment[name] for name in (FAST_DDS_2, FAST_DDS_3) if environment.get(name)]
    if not chosen:
        if any(Path(name).exists() for name in _IN_WORKING_FOLDER):
            return
        environment[profile_variable()] = str(node)
    elif not all(_is_same(path, large) for path in chosen):
        return
    environment[QOS_FROM_PROFILE] = "1"


def _is_same(path: str, other: Path) -> bool:
    try:
        return other.samefile(path)
    except OSError:
        return False
