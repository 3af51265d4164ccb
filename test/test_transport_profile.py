"""The transport profile of config/: Fast DDS reads it and allocates the shared memory that it allows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ament_index_python.packages import get_package_share_directory
from rclpy.utilities import get_rmw_implementation_identifier

from robobrain_ros.ros.process.transport_profile import FAST_DDS_2, FAST_DDS_3, profile_variable

pytestmark = pytest.mark.skipif("fastrtps" not in get_rmw_implementation_identifier(), reason="the middleware is not Fast DDS")

PROFILE = Path(get_package_share_directory("robobrain_ros")) / "config" / "fastdds_large.xml"
LARGEST_SEGMENT = """
import rclpy

rclpy.init()
node = rclpy.create_node("transport")
with open("/proc/self/maps") as file:
    spans = [line.split()[0].split("-") for line in file if "/dev/shm/fast" in line]
print(max((int(end, 16) - int(begin, 16) for begin, end in spans), default=0))
"""


def largest_segment(profile: Path | None) -> int:
    """Return the size in bytes of the largest shared memory segment of a node under a profile."""
    environment = {name: value for name, value in os.environ.items() if name not in (FAST_DDS_2, FAST_DDS_3)}
    if profile is not None:
        environment[profile_variable()] = str(profile)
    done = subprocess.run(
        [sys.executable, "-P", "-c", LARGEST_SEGMENT], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert "error" not in done.stderr.lower(), done.stderr
    return int(done.stdout)


def test_the_profile_makes_room_for_whole_images() -> None:
    image = 3840 * 2160 * 3
    assert largest_segment(None) < image
    assert largest_segment(PROFILE) > 4 * image
