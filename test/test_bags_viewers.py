"""Output bags for viewers such as Foxglove: markers of the answers, and definitions with the names of constants."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_rig import BEGIN, SECOND, EngineByImage, Program, Table, read_bag, write_bag
from test_bags_faults import rejected

from robobrain_ros.bags.answers import OVERLAY_TOPIC, RESULT_TOPICS
from robobrain_ros.bags.messages import Filled, definition, marker_types, message_type, ros2_types, serialized
from robobrain_ros.core.messages.markers import Action, Shape

pytest.importorskip("rosbags", reason="rosbags is not installed")

TOPIC = "/robobrain/markers"
POINT = ("point", "the purple mug", "--markers", "--at-once", 1)
DEPTH = ("--depth-topic", "/camera/depth")
TYPES = sorted({f"robobrain_ros/msg/{topic.type_name}" for topic in RESULT_TOPICS.values()})


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Program:
    return Program(monkeypatch, capfd)


def xyz(point: Any) -> tuple[float, float, float]:
    return point.x, point.y, point.z


@pytest.mark.parametrize("frame", ["", "table"])
def test_each_image_has_the_markers_of_its_own_answers(program: Program, tmp_path: Path, frame: str) -> None:
    """An answer without points deletes the markers of the image before it."""
    it = Table()
    items = [item for tenth in range(3) for item in it.moment(tenth / 10, script=tenth + 1)]
    write_bag(tmp_path / "in", [it.transform(0.0, topic="/tf_static"), *items])
    target = ("--target-frame", frame) if frame else ()
    engine = EngineByImage(["[(300, 200)]", "[]", "[(300, 200), (310, 250)]"])
    done = program(engine, tmp_path / "in", tmp_path / "out", *POINT, *DEPTH, *target)
    assert done.code == 0, done.err
    found = read_bag(tmp_path / "out")
    frame = frame or "camera_optical_frame"
    first, nothing, two = (message.markers for _, message in found[TOPIC])
    assert [time for time, _ in found[TOPIC]] == [BEGIN + tenth * SECOND // 10 for tenth in range(3)]
    assert [(marker.action, marker.header.frame_id) for marker in nothing] == [(Action.DELETE_ALL, "camera_optical_frame")]
    assert [(marker.ns, marker.type) for marker in first[1:]] == [
        ("request/points", Shape.SPHERE),
        ("request/labels", Shape.TEXT),
    ]
    assert [marker.action for marker in first] == [Action.DELETE_ALL, Action.ADD, Action.ADD]
    assert {marker.header.frame_id for marker in [*first, *two]} == {frame}
    assert first[2].text == "the purple mug"
    answers = [message for _, message in found["/robobrain/affordances"]]
    for markers, answer in ((first, answers[0]), (two, answers[1])):
        spheres = [marker for marker in markers if marker.type == Shape.SPHERE]
        assert [xyz(marker.pose.position) for marker in spheres] == [xyz(point.position) for point in answer.points]
        assert {marker.header.stamp.nanosec for marker in markers[1:]} == {answer.header.stamp.nanosec}
        assert {marker.pose.orientation.w for marker in markers} == {1.0}


def test_without_depth_a_marker_is_a_ray(program: Program, tmp_path: Path) -> None:
    it = Table()
    write_bag(tmp_path / "in", [it.info(0.0), it.image(0.0)])
    done = program("[(300, 200)]", tmp_path / "in", tmp_path / "out", *POINT)
    assert done.code == 0, done.err
    [(_, message)] = read_bag(tmp_path / "out")[TOPIC]
    [ray] = [marker for marker in message.markers if marker.type == Shape.LINE_LIST]
    assert xyz(ray.points[0]) == (0.0, 0.0, 0.0)
    assert np.linalg.norm(xyz(ray.points[1])) == pytest.approx(0.5)


def test_only_a_run_with_the_same_markers_continues_an_output(program: Program, tmp_path: Path) -> None:
    it = Table()
    bag, out = write_bag(tmp_path / "in", [it.image(0.0)]), tmp_path / "out"
    for first, second in ((POINT, POINT[:2]), (POINT[:2], POINT)):
        assert program("[(300, 200)]", bag, out, *first, "--overwrite").code == 0
        text = (out / "metadata.yaml").read_text()
        (out / "metadata.yaml").write_text(re.sub(r'"complete":\s+true', '"complete": false', text))
        assert "markers differ." in rejected(program, bag, out, *second)


@pytest.mark.parametrize("name", TYPES)
def test_a_bag_has_the_definitions_with_comments_and_names_of_constants(name: str) -> None:
    """Foxglove gives constants to the next field if it has their type and follows at once."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    text = definition(name)
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(text, name))
    assert store.hash_rihs01(name) == ros2_types().hash_rihs01(name), "the text alone describes the type"
    assert "# Header of the image" in text or "# Stamp of the image" in text
    for part in text.split("=" * 80):
        lines = [line.split("#")[0].strip() for line in part.splitlines()]
        lines = [line for line in lines if line and not line.startswith("MSG:")]
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            if "=" in line:
                assert following.split()[0] == line.split()[0], f"{line} stands before {following}"


def test_the_file_has_these_definitions(program: Program, tmp_path: Path) -> None:
    from rosbags.rosbag2 import Reader

    for storage in ("mcap", "sqlite3"):
        done = program("[]", write_bag(tmp_path / f"in_{storage}", [Table().image(0.0)]), tmp_path / storage, "plan", "tidy up",
                       "--storage", storage)  # fmt: skip
        assert done.code == 0, done.err
        with Reader(tmp_path / storage) as reader:
            [connection] = [each for each in reader.connections if each.msgtype.endswith("Plan")]
            assert connection.msgdef.data == definition("robobrain_ros/msg/Plan")
            assert connection.digest == ros2_types().hash_rihs01("robobrain_ros/msg/Plan")


def test_messages_are_filled_as_in_ros() -> None:
    serialization = pytest.importorskip("rclpy.serialization", reason="ROS is not installed")
    from geometry_msgs.msg import PoseStamped
    from sensor_msgs.msg import CameraInfo
    from visualization_msgs.msg import Marker

    for kind in (Marker, PoseStamped, CameraInfo):
        name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
        message = ros2_types().deserialize_cdr(serialization.serialize_message(kind()), name)
        assert serialized(Filled(name)(), name) == serialized(message, name)
    for shape in Shape:
        assert getattr(Marker, {Shape.TEXT: "TEXT_VIEW_FACING"}.get(shape, shape.name)) == shape
    for action in Action:
        assert getattr(Marker, action.name.replace("_", "")) == action
    assert isinstance(marker_types().Marker(), message_type("visualization_msgs/msg/Marker"))


def test_the_layout_of_foxglove_names_topics_of_the_output() -> None:
    text = (Path(__file__).parents[1] / "config" / "foxglove.json").read_text(encoding="utf-8")
    layout = json.loads(text)
    panels = set(re.findall(r'"(\w+!\w+)"', json.dumps(layout["layout"]) + json.dumps(layout["configById"]["Tab!values"])))
    assert panels | {"Tab!values"} == set(layout["configById"])
    written = {f"/robobrain/{topic.name}" for topic in RESULT_TOPICS.values()} | {TOPIC, f"/robobrain/{OVERLAY_TOPIC}"}
    assert set(re.findall(r'"(/[^"]*)"', text)) == written | {"/robobrain/path"}, "the node publishes the path"
