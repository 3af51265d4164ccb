"""The transport profiles of config/: Fast DDS allocates the shared memory that they allow, and frees messages that were taken."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from ament_index_python.packages import get_package_share_directory
from rclpy.utilities import get_rmw_implementation_identifier

from robobrain_ros.ros.process.transport_profile import (
    FAST_DDS_2,
    FAST_DDS_3,
    QOS_FROM_PROFILE,
    free_taken_messages,
    profile_variable,
)

pytestmark = pytest.mark.skipif("fastrtps" not in get_rmw_implementation_identifier(), reason="the middleware is not Fast DDS")

CONFIG = Path(get_package_share_directory("robobrain_ros")) / "config"
PROFILE = CONFIG / "fastdds_large.xml"
NODE_PROFILE = CONFIG / "fastdds_node.xml"
LARGEST_SEGMENT = """
import rclpy

rclpy.init()
node = rclpy.create_node("transport")
with open("/proc/self/maps") as file:
    spans = [line.split()[0].split("-") for line in file if "/dev/shm/fast" in line]
print(max((int(end, 16) - int(begin, 16) for begin, end in spans), default=0))
"""

BURST = """
import ctypes
import rclpy
from array import array
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from robobrain_ros.msg import QueryOptions
from robobrain_ros.ros.process.transport_profile import free_taken_messages
from robobrain_ros.srv import Ask

free_taken_messages()
rclpy.init()
node = rclpy.create_node("burst")
qos = QoSProfile(depth=100)
sizes = []

def answer(request, response):
    sizes.append(len(request.options.images[0].data))
    return response

node.create_service(Ask, "/burst_service", answer, qos_profile=qos)
client = node.create_client(Ask, "/burst_service", qos_profile=qos)
client.wait_for_service()
executor = SingleThreadedExecutor()
executor.add_node(node)
image = Image(width=640, height=480, encoding="rgb8", step=1920, data=array("B", bytes(640 * 480 * 3)))

def burst(number):
    requests = [Ask.Request(options=QueryOptions(images=[image])) for _ in range(number)]
    futures = [client.call_async(request) for request in requests]
    while not all(future.done() for future in futures):
        executor.spin_once()

def memory():
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024

burst(1)
before = memory()
burst(40)
assert sizes == [len(image.data)] * 41
print(memory() - before)
"""
"""Prints by how many MiB a burst of 40 requests with an image of 0.88 MiB enlarges the process, after all were answered."""
ENVIRONMENT_OF_ROS = """
import os, sys
from robobrain_ros.ros import main

def init(**options):
    print(os.environ.get(sys.argv[1]), os.environ.get(sys.argv[2]), sep="\\n")
    sys.exit()

main.rclpy.init = init
main.main([])
"""


def run(program: str, *arguments: str, **variables: str) -> str:
    """Run a program without the profiles of this environment. Return its output."""
    environment = {name: value for name, value in os.environ.items() if name not in (FAST_DDS_2, FAST_DDS_3, QOS_FROM_PROFILE)}
    command = [sys.executable, "-P", "-c", program, *arguments]
    return subprocess.run(
        command, env=environment | variables, capture_output=True, text=True, timeout=60, check=True
    ).stdout.strip()


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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /proc")
def test_the_memory_of_a_burst_of_images_is_freed() -> None:
    assert float(run(BURST, **{QOS_FROM_PROFILE: "0"})) > 25.0, "ROS 2 without the profile"
    assert float(run(BURST)) < 10.0
    assert float(run(BURST, **{profile_variable(): str(PROFILE)})) < 10.0


def test_the_node_selects_its_profile_before_ros_starts() -> None:
    assert run(ENVIRONMENT_OF_ROS, profile_variable(), QOS_FROM_PROFILE).splitlines() == [str(NODE_PROFILE), "1"]


def test_a_profile_or_publication_mode_of_the_user_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own.xml"
    own.write_text("<dds/>", encoding="utf-8")
    for chosen in (
        {FAST_DDS_2: str(own)},
        {FAST_DDS_3: str(own)},
        {profile_variable(): str(tmp_path / "missing.xml")},
        {QOS_FROM_PROFILE: "0"},
        {"RMW_FASTRTPS_PUBLICATION_MODE": "ASYNCHRONOUS"},
    ):
        environment = dict(chosen)
        free_taken_messages(environment)
        assert environment == chosen
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DEFAULT_FASTRTPS_PROFILES.xml").write_text("<dds/>", encoding="utf-8")
    environment = {}
    free_taken_messages(environment)
    assert environment == {}


def test_the_large_profile_contains_the_writer_and_the_reader_of_the_node() -> None:
    environment = {profile_variable(): str(PROFILE)}
    free_taken_messages(environment)
    assert environment == {profile_variable(): str(PROFILE), QOS_FROM_PROFILE: "1"}

    def endpoints(path: Path) -> list[str]:
        profiles = ElementTree.parse(path).getroot()[0]
        return [
            ElementTree.canonicalize(ElementTree.tostring(it), strip_text=True)
            for it in profiles
            if it.tag.split("}")[1].startswith("data_")
        ]

    assert len(endpoints(NODE_PROFILE)) == 2
    assert endpoints(PROFILE) == endpoints(NODE_PROFILE)
