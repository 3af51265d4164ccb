"""The bag program with a scripted engine: inputs, positions, the choice of images, and outputs."""

import asyncio
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bag_rig import BEGIN, SECOND, EngineByImage, Program, Table, counts, interrupt_after, point_text, read_bag, table, write_bag
from depth_publisher import compressed_depth
from fakes import Script

from robobrain_ros.bags.answers import RESULT_TOPICS
from robobrain_ros.bags.messages import COMPRESSED, DEFINITIONS, SEPARATOR, message_type
from robobrain_ros.demo import recording

pytest.importorskip("rosbags", reason="rosbags is not installed")

MUG = "purple mug"
POINT = ("point", "the purple mug")


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Program:
    return Program(monkeypatch, capfd)


def mug_text() -> str:
    return point_text(table(), MUG)


def mug_position() -> Any:
    """The mug's position in the camera's frame, on the surface that its centre shows."""
    scene = table()
    mug = scene.find(MUG)
    assert mug is not None
    u, v = mug.centre
    depth = float(scene.depth[round(v), round(u)])
    lens = scene.intrinsics
    nearly: Any = pytest.approx(((u - lens.cx) / lens.fx * depth, (v - lens.cy) / lens.fy * depth, depth), abs=0.005)
    return nearly


def xyz(point: Any) -> tuple[float, float, float]:
    return point.position.x, point.position.y, point.position.z


@pytest.mark.parametrize(
    ("storage", "compression"), [("mcap", ""), ("mcap", "storage"), ("sqlite3", ""), ("sqlite3", "message"), ("sqlite3", "file")]
)
@pytest.mark.parametrize("compressed", [False, True])
def test_answers_with_positions_are_written_for_each_kind_of_rosbag2(
    program: Program, tmp_path: Path, storage: str, compression: str, compressed: bool
) -> None:
    it = Table()
    images = [it.compressed(0.0) if compressed else it.image(0.0), it.info(0.0), it.depth(0.0)]
    write_bag(tmp_path / "in", images, storage=storage, compression=compression)
    done = program(mug_text(), tmp_path / "in", tmp_path / "out", *POINT, "--depth-topic", "/camera/depth", "--json")
    assert done.code == 0, done.err
    [(time, message)] = read_bag(tmp_path / "out")["/robobrain/affordances"]
    assert time == BEGIN
    assert (message.header.stamp.sec, message.header.frame_id) == (BEGIN // SECOND, "camera_optical_frame")
    assert (message.task, message.instruction, message.camera, message.query) == ("point", "the purple mug", "camera", "")
    assert (message.image_width, message.image_height, message.position_note) == (640, 480, "")
    assert xyz(message.points[0]) == mug_position()
    assert message.report.raw_text == mug_text()
    assert np.isnan(message.report.image_age)
    assert [stamp.sec for stamp in message.report.stamps] == [BEGIN // SECOND]
    assert done.summary["outcomes"] == {"point": {"OK": 1}}


def test_a_bag_of_ros_1_gives_the_same_positions(program: Program, tmp_path: Path) -> None:
    write_ros1(tmp_path / "in.bag")
    done = program(mug_text(), tmp_path / "in.bag", tmp_path / "out", *POINT, "--depth-topic", "/camera/depth",
                   "--target-frame", "/table")  # fmt: skip
    assert done.code == 0, done.err
    [(_, message)] = read_bag(tmp_path / "out")["/robobrain/affordances"]
    assert message.header.frame_id == "table"
    assert xyz(message.points[0]) == in_table()


def write_ros1(path: Path) -> None:
    """Write a bag of ROS 1, whose frames begin with a slash."""
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    types = store.types
    it = Table()

    def header(message: Any) -> Any:
        return types["std_msgs/msg/Header"](seq=0, stamp=message.header.stamp, frame_id=f"/{message.header.frame_id}")

    messages: list[tuple[str, str, Any]] = []
    for topic, kind, _, message in (it.image(0.0), it.depth(0.0)):
        fields = {name: getattr(message, name) for name in ("height", "width", "encoding", "is_bigendian", "step", "data")}
        messages.append((topic, kind, types[kind](header=header(message), **fields)))
    topic, kind, _, info = it.info(0.0)
    names = ("height", "width", "distortion_model", "binning_x", "binning_y", "roi")
    same = {name: getattr(info, name) for name in names}
    messages.append((topic, kind, types[kind](header=header(info), D=info.d, K=info.k, R=info.r, P=info.p, **same)))
    topic, kind, _, moved = it.transform(0.0, topic="/tf_static")
    found = moved.transforms[0]
    link = types["geometry_msgs/msg/TransformStamped"](
        header=header(found), child_frame_id=f"/{found.child_frame_id}", transform=found.transform
    )
    store.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", kind))
    messages.append((topic, kind, store.types[kind](transforms=[link])))
    with Writer(path) as writer:
        for topic, kind, message in messages:
            connection = writer.add_connection(topic, kind, typestore=store)
            writer.write(connection, BEGIN, store.serialize_ros1(message, kind))


def in_table() -> Any:
    """The mug's position in the frame of the table."""
    camera = np.array(mug_position().expected)
    layout = table().layout.camera
    pitch = np.pi / 2 + np.arctan2(layout.sin_pitch, layout.cos_pitch)
    turn, _ = cv2.Rodrigues(np.array([-pitch, 0.0, 0.0]))
    nearly: Any = pytest.approx(tuple(turn @ camera + (0.0, 0.0, layout.height)), abs=0.005)
    return nearly


def test_positions_use_depth_and_transforms_that_are_recorded_later(program: Program, tmp_path: Path) -> None:
    """The transform is between two stamps, and depth and camera_info follow the image."""
    it = Table()
    items = [it.transform(0.0), it.image(0.1), it.transform(0.15), it.depth(0.16, stamp=0.105), it.info(0.17)]
    write_bag(tmp_path / "in", items)
    done = program(mug_text(), tmp_path / "in", tmp_path / "out", *POINT, "--depth-topic", "/camera/depth",
                   "--target-frame", "table")  # fmt: skip
    assert done.code == 0, done.err
    [(_, message)] = read_bag(tmp_path / "out")["/robobrain/affordances"]
    assert (message.header.frame_id, message.position_note) == ("table", "")
    assert xyz(message.points[0]) == in_table()


def test_a_later_static_transform_replaces_the_one_before(program: Program, tmp_path: Path) -> None:
    """The first one is also valid for images before it."""
    it = Table()
    moved = it.transform(2.0, topic="/tf_static")
    moved[3].transforms[0].transform.translation.x += 1.0
    items = [*it.moment(0.0), it.transform(1.0, topic="/tf_static"), moved, *it.moment(3.0)]
    write_bag(tmp_path / "in", items)
    done = program(mug_text(), tmp_path / "in", tmp_path / "out", *POINT, "--depth-topic", "/camera/depth",
                   "--target-frame", "table")  # fmt: skip
    assert done.code == 0, done.err
    [(_, before), (_, after)] = read_bag(tmp_path / "out")["/robobrain/affordances"]
    assert xyz(before.points[0]) == in_table()
    x, y, z = xyz(after.points[0])
    assert (x - 1.0, y, z) == in_table()


@pytest.mark.parametrize("codec", ["png", "rvl"])
@pytest.mark.parametrize("named", ["/camera/depth", "/camera/depth/compressedDepth"])
def test_positions_use_compressed_depth(program: Program, tmp_path: Path, codec: str, named: str) -> None:
    """The topic can be named with or without the suffix of image_transport."""
    it = Table()
    _, _, time, raw = it.depth(0.0)
    samples = raw.data.view("<u2").reshape(raw.height, raw.width)
    data, image_format = compressed_depth(samples, codec)
    packed = message_type(COMPRESSED)(header=raw.header, format=image_format, data=np.frombuffer(data, np.uint8))
    write_bag(tmp_path / "in", [it.image(0.0), it.info(0.0), ("/camera/depth/compressedDepth", COMPRESSED, time, packed)])
    done = program(mug_text(), tmp_path / "in", tmp_path / "out", *POINT, "--depth-topic", named)
    assert done.code == 0, done.err
    [(_, message)] = read_bag(tmp_path / "out")["/robobrain/affordances"]
    assert xyz(message.points[0]) == mug_position()


TASKS = [
    ("point", "[(10, 20)]", "affordances", lambda message: message.points[0].u),
    ("affordance", "[10, 20, 30, 40]", "affordances", lambda message: message.areas[0].u_min),
    ("ground", "[10, 20, 30, 40]", "affordances", lambda message: message.areas[0].roi.width),
    ("trajectory", "[(10, 20), (30, 40)]", "trajectory", lambda message: message.waypoints[1].v),
    ("plan", "1. Reach for the mug.\n2. Grasp the mug.", "plan", lambda message: message.steps[1].order),
    ("ask", "There are two.", "answer", lambda message: len(message.text)),
]


@pytest.mark.parametrize(("task", "text", "topic", "value"), TASKS)
def test_each_task_has_the_messages_of_the_node(
    program: Program, tmp_path: Path, task: str, text: str, topic: str, value: Any
) -> None:
    write_bag(tmp_path / "in", Table().moment(0.0))
    done = program(text, tmp_path / "in", tmp_path / "out", task, "the mug")
    assert done.code == 0, done.err
    found = read_bag(tmp_path / "out")
    assert list(found) == [f"/robobrain/{topic}"]
    assert value(found[f"/robobrain/{topic}"][0][1]) > 0


def test_the_topics_and_definitions_are_those_of_the_node() -> None:
    pytest.importorskip("rclpy", reason="ROS is not installed")
    from robobrain_ros.core.query import CAMERA_TASKS
    from robobrain_ros.ros.tasks import TASKS as INTERFACES

    assert {task: topic.name for task, topic in RESULT_TOPICS.items()} == {
        task: INTERFACES[task].result_field for task in CAMERA_TASKS
    }
    assert {topic.type_name for topic in RESULT_TOPICS.values()} == {
        INTERFACES[task].message_type.__name__ for task in CAMERA_TASKS
    }
    sections = DEFINITIONS.read_text(encoding="utf-8").split(SEPARATOR)[1:]
    folder = Path(__file__).parents[1] / "msg"
    written = {section.partition("\n")[0].rpartition("/")[2]: section.partition("\n")[2] for section in sections}
    current = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.msg")}
    assert written == current, "run python scripts/message_stubs.py"


def test_the_hashes_of_the_types_are_those_of_ros() -> None:
    """ROS compares them before it plays a bag."""
    packages = pytest.importorskip("ament_index_python.packages", reason="ROS is not installed")
    from robobrain_ros.bags.messages import ros2_types

    share = Path(packages.get_package_share_directory("robobrain_ros"))
    for topic in RESULT_TOPICS.values():
        described = json.loads((share / "msg" / f"{topic.type_name}.json").read_text())
        hashes = {entry["type_name"]: entry["hash_string"] for entry in described["type_hashes"]}
        name = f"robobrain_ros/msg/{topic.type_name}"
        assert ros2_types().hash_rihs01(name) == hashes[name]


def test_a_message_of_the_bag_is_a_message_of_the_node(program: Program, tmp_path: Path) -> None:
    """ROS itself reads the bytes with the node's own type."""
    serialization = pytest.importorskip("rclpy.serialization", reason="ROS is not installed")
    from rosbags.rosbag2 import Reader

    from robobrain_ros.msg import Affordances

    write_bag(tmp_path / "in", Table().moment(0.0))
    program(mug_text(), tmp_path / "in", tmp_path / "out", *POINT, "--depth-topic", "/camera/depth")
    with Reader(tmp_path / "out") as reader:
        [(_, _, raw)] = reader.messages()
    message = serialization.deserialize_message(bytes(raw), Affordances)
    assert xyz(message.points[0]) == mug_position()
    assert message.report.raw_text == mug_text()


@pytest.mark.parametrize(
    ("options", "tenths"),
    [
        ([], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (["--every", 4], [0, 4, 8]),
        (["--rate", 4], [0, 3, 5, 8]),
        (["--rate", 100], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (["--at", 0, 0.25, 0.7, 5.0], [0, 3, 7]),
    ],
)
def test_the_images_are_selected(program: Program, tmp_path: Path, options: list[Any], tenths: list[int]) -> None:
    it = Table()
    write_bag(tmp_path / "in", [it.image(tenth / 10) for tenth in range(10)])
    done = program("[(10, 20)]", tmp_path / "in", tmp_path / "out", *POINT, *options)
    assert done.code == 0, done.err
    assert [time - BEGIN for time, _ in read_bag(tmp_path / "out")["/robobrain/affordances"]] == [
        tenth * SECOND // 10 for tenth in tenths
    ]


def test_a_list_of_queries_and_a_parameter_file_of_the_node_give_the_same_answers(program: Program, tmp_path: Path) -> None:
    it = Table()
    write_bag(tmp_path / "in", [it.image(tenth / 10) for tenth in range(12)])
    (tmp_path / "list.yaml").write_text(
        "- {name: mug, task: point, instruction: the mug, rate: 2.0}\n"
        "- {name: scene, task: ask, instruction: 'What is there?', rate: 1}\n"
    )
    (tmp_path / "node.yaml").write_text(
        "/**:\n  ros__parameters:\n    standing_queries: [mug, scene]\n"
        "    standing_query.mug: {task: point, instruction: the mug, rate: 2.0}\n"
        "    standing_query.scene.task: ask\n    standing_query.scene.instruction: What is there?\n"
    )
    for name in ("list", "node"):
        done = program("[(10, 20)]", tmp_path / "in", tmp_path / name, "--queries", tmp_path / f"{name}.yaml")
        assert done.code == 0, done.err
        found = read_bag(tmp_path / name)
        assert [time - BEGIN for time, _ in found["/robobrain/affordances"]] == [0, SECOND // 2, SECOND]
        assert {message.query for _, message in found["/robobrain/affordances"]} == {"mug"}
        assert [message.query for _, message in found["/robobrain/answer"]] == ["scene", "scene"]


def test_history_and_several_cameras(program: Program, tmp_path: Path) -> None:
    it = Table()
    cameras = ["--image-topic", "front=/front/image", "--image-topic", "wrist=/wrist/image"]
    items = [it.image(tenth / 10, topic="/front/image") for tenth in range(11)]
    items += [it.image(0.25, topic="/wrist/image"), it.image(0.75, topic="/wrist/image")]
    write_bag(tmp_path / "in", sorted(items, key=lambda item: item[2]))
    done = program("Both.", tmp_path / "in", tmp_path / "out", "ask", "What?", *cameras, "--at", 0, 0.6, 0.8)
    assert done.code == 0, done.err
    stamps = [
        [(stamp.sec - BEGIN // SECOND, stamp.nanosec // 10**6) for stamp in message.report.stamps]
        for _, message in read_bag(tmp_path / "out")["/robobrain/answer"]
    ]
    assert stamps == [[(0, 600), (0, 250)], [(0, 800), (0, 750)]]
    assert "The bag has no earlier image of the camera 'wrist'." in done.out
    done = program("It moved.", tmp_path / "in", tmp_path / "moved", "ask", "What moved?", "--image-topic", "/front/image",
                   "--history", 0.6, "--frames", 3, "--at", 1)  # fmt: skip
    assert done.code == 0, done.err
    [(_, message)] = read_bag(tmp_path / "moved")["/robobrain/answer"]
    assert [stamp.sec * 1000 + stamp.nanosec // 10**6 - BEGIN // 10**6 for stamp in message.report.stamps] == [400, 600, 1000]
    assert len(done.engine.generations[-1].images) == 3


def test_overlay_video_tables_and_copied_topics(program: Program, tmp_path: Path) -> None:
    it = Table()
    items = [item for tenth in range(3) for item in it.moment(tenth / 10, script=tenth + 1)]
    write_bag(tmp_path / "in", [it.transform(0.0, topic="/tf_static"), *items])
    engine = EngineByImage([mug_text(), "[]", "Sorry?"])
    done = program(engine, tmp_path / "in", tmp_path / "out", *POINT, "--at-once", 1, "--overlay",
                   "--copy-topics", "--video", tmp_path / "out.mp4", "--csv", tmp_path / "out.csv",
                   "--depth-topic", "/camera/depth")  # fmt: skip
    assert done.code == 0, done.err
    found = read_bag(tmp_path / "out")
    assert {name: len(messages) for name, messages in found.items()} == {
        "/camera/image": 3, "/camera/camera_info": 3, "/camera/depth": 3, "/tf_static": 1,
        "/robobrain/affordances": 1, "/robobrain/overlay/compressed": 1,
    }  # fmt: skip
    overlay = cv2.imdecode(found["/robobrain/overlay/compressed"][0][1].data, cv2.IMREAD_COLOR)
    assert overlay is not None
    assert np.abs(overlay[:, :, ::-1].astype(int) - it.scene.image).max() > 50, "the answer is drawn"
    video = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert (video.get(cv2.CAP_PROP_FRAME_COUNT), round(video.get(cv2.CAP_PROP_FPS))) == (3, 10)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["outcome"], row["part"]) for row in rows] == [
        ("0", "OK", "point"), ("1", "NOTHING_FOUND", ""), ("2", "UNPARSABLE_ANSWER", ""),
    ]  # fmt: skip
    assert tuple(float(rows[0][name]) for name in "xyz") == mug_position()
    assert "3         1        1       1" in done.out


def test_a_table_as_parquet(program: Program, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    it = Table()
    write_bag(tmp_path / "in", [it.image(0.0, script=1), it.image(0.1, script=2)])
    done = program(
        EngineByImage(["[(10, 20), (30, 40)]", "[]"]),
        tmp_path / "in",
        tmp_path / "out",
        *POINT,
        "--parquet",
        tmp_path / "out.parquet",
        "--at-once",
        1,
    )
    assert done.code == 0, done.err
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["image"], row["index"], row["outcome"], row["x"]) for row in rows] == [
        (0, 0, "OK", None), (0, 1, "OK", None), (1, None, "NOTHING_FOUND", None),
    ]  # fmt: skip


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_an_interrupted_run_is_readable_and_continues(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    it = Table()
    write_bag(tmp_path / "in", [item for tenth in range(12) for item in it.moment(tenth / 10, script=1 if tenth < 8 else 2)])
    arguments = [tmp_path / "in", tmp_path / "out", *POINT, "--storage", storage, "--copy-topics", "--csv", tmp_path / "out.csv",
                 "--video", tmp_path / "out.mp4", "--json", "--at-once", 2]  # fmt: skip
    with monkeypatch.context() as patched:
        interrupt_after(patched, 5)
        first = program(EngineByImage(["[(10, 20)]", Script([asyncio.Event()])]), *arguments)
    assert first.code == 130
    assert "Run the same command again to continue." in first.err
    written = counts(tmp_path / "out")
    assert 5 <= written["/robobrain/affordances"] <= 8
    (tmp_path / "out" / "out_1").mkdir()  # A run in between was killed.
    (tmp_path / "out" / "out_1" / "out_1.mcap").write_bytes(b"\x89MCAP0\r\n")
    second = program("[(30, 40)]", *arguments)
    assert second.code == 0, second.err
    assert f"Continuing after {written['/robobrain/affordances']} images." in second.err
    found = read_bag(tmp_path / "out")
    assert [time for time, _ in found["/robobrain/affordances"]] == [BEGIN + tenth * SECOND // 10 for tenth in range(12)]
    assert [len(found[name]) for name in ("/camera/image", "/camera/depth", "/camera/camera_info")] == [12, 12, 12]
    assert second.summary["outcomes"] == {"point": {"OK": 12}}
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [int(row["image"]) for row in csv.DictReader(file)] == list(range(12))
    frames = [cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) for path in sorted(tmp_path.glob("out*.mp4"))]
    assert sum(frames) == 12
    third = program("[(30, 40)]", *arguments)
    assert (third.code, third.engine.generations) == (2, [])
    assert "exists already, and is complete" in third.err


def test_the_output_is_a_valid_mcap_with_definitions(program: Program, tmp_path: Path) -> None:
    """Tools other than rosbags read it, which need the definitions of the types in the file."""
    reader = pytest.importorskip("mcap.reader", reason="mcap is not installed")
    write_bag(tmp_path / "in", Table().moment(0.0))
    program(mug_text(), tmp_path / "in", tmp_path / "out", *POINT)
    with (tmp_path / "out" / "out_0.mcap").open("rb") as file:
        [(schema, channel, message)] = reader.make_reader(file).iter_messages()
    assert (schema.name, schema.encoding, channel.topic) == ("robobrain_ros/msg/Affordances", "ros2msg", "/robobrain/affordances")
    assert b"MSG: robobrain_ros/InferenceReport" in schema.data
    assert message.log_time == BEGIN


def test_a_recording_of_the_demo_is_written_without_ros(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recording.main([str(tmp_path / "bag"), "--seconds", "0.2", "--compressed", "--storage", "sqlite3"]) == 0
    assert counts(tmp_path / "bag") == {
        "/camera/image/compressed": 2, "/camera/camera_info": 2, "/camera/depth": 2, "/tf_static": 1,
    }  # fmt: skip
    assert recording.main([str(tmp_path / "bag")]) == 1
    assert "exists already" in capsys.readouterr().err


def test_the_summary_is_json(program: Program, tmp_path: Path) -> None:
    write_bag(tmp_path / "in", Table().moment(0.0))
    done = program("[(10, 20)]", tmp_path / "in", tmp_path / "out", *POINT, "--json", "--node", "/arm/robobrain")
    assert json.loads(done.out)["topics"] == ["/arm/robobrain/affordances"]
    assert done.summary["images"] == 1
    assert list(read_bag(tmp_path / "out")) == ["/arm/robobrain/affordances"]


def test_the_program_and_the_recording_run_without_ros(tmp_path: Path) -> None:
    """No module of ROS can be imported in this process."""
    code = f"""
import asyncio, sys
for name in ("rclpy", "std_msgs", "sensor_msgs", "geometry_msgs", "builtin_interfaces", "cv_bridge", "robobrain_ros.msg"):
    sys.modules[name] = None
sys.path.insert(0, {str(Path(__file__).parent)!r})
from fakes import ScriptedEngine
from robobrain_ros.cli import bag
from robobrain_ros.core import Brain, profile_for
from robobrain_ros.demo import recording

async def opened(options, messages):
    engine = ScriptedEngine(["[(10, 20)]"])
    return Brain(engine, profile_for("qwen2_5_vl"), info=await engine.start(lambda progress: None))

bag.open_own_brain = opened
assert recording.main(["in", "--seconds", "0.2"]) == 0
sys.exit(bag.main(["in", "out", "point", "mug", "--depth-topic", "/camera/depth", "--target-frame", "table"]))
"""
    # In the repository, Python would find the sources without the built messages.
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert counts(tmp_path / "out") == {"/robobrain/affordances": 2}
