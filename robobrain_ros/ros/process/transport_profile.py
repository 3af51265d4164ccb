"""Select the environment variable for the profile of Fast DDS."""

import re
from functools import cache
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

FAST_DDS_2, FAST_DDS_3 = "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"
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
