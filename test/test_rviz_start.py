"""RViz for the launch files: its fixed frame is that of the camera's images. A script replaces RViz's program."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ament_index_python.packages import get_package_share_directory
from ros_rig import LIMIT, image_message, scripted
from sensor_msgs.msg import CompressedImage, Image

from robobrain_ros.demo.camera import CameraSettings, SceneMessages
from robobrain_ros.demo.world import make_scene
from robobrain_ros.ros.transforms import Transform

REPOSITORY = Path(__file__).resolve().parent.parent
OWN = yaml.safe_load((REPOSITORY / "rviz" / "robobrain.rviz").read_text())
INSTALLED = Path(get_package_share_directory("robobrain_ros")) / "rviz" / "robobrain.rviz"


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An install folder with a program rviz2 that prints its arguments."""
    (tmp_path / "share/ament_index/resource_index/packages").mkdir(parents=True)
    (tmp_path / "share/ament_index/resource_index/packages/rviz2").touch()
    program = tmp_path / "lib/rviz2/rviz2"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "rviz2 $*"\n')
    program.chmod(0o755)
    return tmp_path


def start(prefix: Path, *arguments: str) -> "subprocess.Popen[str]":
    paths = os.pathsep.join([str(prefix), os.environ["AMENT_PREFIX_PATH"]])
    return subprocess.Popen(
        [sys.executable, "-P", "-c", "from robobrain_ros.ros.views.rviz import main; main()", *arguments],
        env=os.environ | {"AMENT_PREFIX_PATH": paths}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Wait for the end, and return the line that RViz's replacement printed and the errors.

    Fast DDS reports the shared memory of killed processes on stdout.
    """
    output, errors = process.communicate(timeout=LIMIT)
    return next((line for line in output.splitlines() if line.startswith("rviz2")), output), errors


def test_a_given_frame_is_taken_without_waiting(prefix: Path) -> None:
    """The arguments of the launch file and of ROS are passed to RViz."""
    process = start(prefix, "-d", "x.rviz", "--fixed-frame", "map", "--ros-args", "-r", "__ns:=/arm")
    assert ended(process)[0] == "rviz2 -d x.rviz -f map --ros-args -r __ns:=/arm"


def test_a_frame_with_z_up_is_shown_upright(prefix: Path) -> None:
    """The first view looks along the z axis of an optical frame, so it would look at a table from below."""
    views = {}
    for frame in ("table", "wrist_optical_frame"):
        process = start(prefix, "--fixed-frame", frame)
        output, errors = ended(process)
        assert errors == ""
        words = output.split()
        assert words[:2] + words[3:] == ["rviz2", "-d", "-f", frame]
        configuration = yaml.safe_load(Path(words[2]).read_text())
        views[frame] = configuration["Visualization Manager"].pop("Views")
        configuration["Visualization Manager"]["Views"] = OWN["Visualization Manager"]["Views"]
        assert configuration == OWN
    own = OWN["Visualization Manager"]["Views"]
    assert views["wrist_optical_frame"] == own
    assert views["table"] == {"Current": own["Saved"][0], "Saved": [own["Current"]]}


@pytest.mark.parametrize("kind", [Image, CompressedImage])
def test_without_one_it_is_the_frame_of_the_first_image(prefix: Path, kind: Any) -> None:
    """The image is raw or compressed, on a remapped topic, in the node's namespace."""
    with scripted("[]") as (it, _):
        namespace = it.name.rpartition("/")[0]
        publisher = it.client.create_publisher(kind, f"{namespace}/front", 1)
        message = image_message() if kind is Image else CompressedImage(header=image_message().header)
        process = start(prefix, "--image-topic", "front", "--ros-args", "-r", f"__ns:={namespace}")
        it.until(lambda: publisher.publish(message) or process.poll() is not None, "RViz")
        assert ended(process)[0].startswith(f"rviz2 -d {INSTALLED} -f camera_optical --ros-args")


def test_without_an_image_it_starts_all_the_same(prefix: Path) -> None:
    process = start(prefix, "--image-topic", "/nobody/publishes/here", "--wait", "0.2")
    output, errors = ended(process)
    assert output == f"rviz2 -d {INSTALLED}"
    assert "No image with a frame_id arrived on /nobody/publishes/here" in errors


def test_the_demo_camera_stands_on_the_table() -> None:
    """Its transform maps camera coordinates to the table: the lowest pixels of the depth image have height 0."""
    scene = make_scene(12)
    stamped = SceneMessages(scene, CameraSettings()).transform
    turn, move = stamped.transform.rotation, stamped.transform.translation
    to_table = Transform((turn.x, turn.y, turn.z, turn.w), (move.x, move.y, move.z))
    assert (stamped.header.frame_id, stamped.child_frame_id) == ("table", "camera_optical_frame")
    lens, (row, column) = scene.intrinsics, (scene.height - 1, 5)
    depth = float(scene.depth[row, column])
    seen = np.array([[(column - lens.cx) / lens.fx * depth, (row - lens.cy) / lens.fy * depth, depth]])
    assert to_table.apply(seen)[0][2] == pytest.approx(0.0, abs=0.005)
    assert to_table.apply(np.zeros((1, 3)))[0] == pytest.approx((0.0, 0.0, scene.layout.camera.height))


def test_the_configuration_shows_every_view_on_its_topic() -> None:
    """Topic names are relative, so that a namespace applies, and the QoS is that of the node's publishers."""
    configuration = OWN
    displays = {display["Class"].rpartition("/")[2]: display for display in configuration["Visualization Manager"]["Displays"]}
    topics = {
        (display["Class"].rpartition("/")[2], display["Topic"]["Value"])
        for display in configuration["Visualization Manager"]["Displays"]
        if "Topic" in display
    }
    views = {("Image", "overlay"), ("MarkerArray", "markers"), ("Path", "path"), ("PoseArray", "poses")}
    poses = {("Pose", "goal_pose"), ("PoseArray", "trajectory/poses")}
    assert topics == {(name, f"robobrain/{topic}") for name, topic in views | poses | {("PointCloud2", "cloud")}}
    panels = {panel["Class"]: panel for panel in configuration["Panels"]}
    assert {"Help Height", "Tree Height"} <= panels["rviz_common/Displays"].keys()
    assert panels["rviz_common/Displays"]["Property Tree Widget"]["Splitter Ratio"] > 0.5, "the names of the displays fit"
    # Qt's saved state identifies a dock by the name of its panel in UTF-16.
    state = bytes.fromhex(configuration["Window Geometry"]["QMainWindow State"])
    for name in ("Displays", "Views", displays["Image"]["Name"]):
        assert name.encode("utf-16-be") in state


def test_the_manifest_requires_rviz_and_tf2() -> None:
    names = {element.text for element in ElementTree.parse(REPOSITORY / "package.xml").getroot()}
    assert {"rviz2", "tf2_msgs", "tf2_ros_py"} <= names
