"""The bag program never deletes other files, copies topics whole, and reads only its own outputs."""

import contextlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml
from bag_rig import BEGIN, Program, counts, write_bag
from test_bags_faults import ANSWER, POINT, images, rejected, write_text

from robobrain_ros.bags.errors import BagError
from robobrain_ros.bags.messages import CAMERA_INFO, IMAGE, ros2_types
from robobrain_ros.bags.profiles import latched
from robobrain_ros.bags.source import Source
from robobrain_ros.demo import recording

pytest.importorskip("rosbags", reason="rosbags is not installed")


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Program:
    return Program(monkeypatch, capfd)


@pytest.mark.parametrize("name", ["in", "in/in.mcap", "link"])
def test_the_input_is_never_deleted(program: Program, tmp_path: Path, name: str) -> None:
    bag = write_bag(tmp_path / "in", images())
    (tmp_path / "link").symlink_to(bag)
    sentence = rejected(program, tmp_path / name, bag, *POINT, "--overwrite")
    assert sentence == f"The output {bag} is or contains the input {tmp_path / name}. Choose another name."
    table = bag / "metadata.yaml"
    sentence = rejected(program, bag, tmp_path / "out", *POINT, "--overwrite", "--csv", table)
    assert sentence == f"{table} is part of the input {bag}. Choose another name."
    assert counts(bag) == {"/camera/image": 3}


def test_a_folder_with_other_files_than_those_of_a_bag_is_never_deleted(program: Program, tmp_path: Path) -> None:
    bag, out = write_bag(tmp_path / "in", images()), tmp_path / "out"
    for name in ("out_notes.txt", "out_1/notes.txt", "out_1/out_1_0.mcap", "out_1/metadata.yaml", "monday.mcap", "thesis.tmp"):
        (out / name).parent.mkdir(parents=True)
        path = write_text(out / name)
        assert rejected(program, bag, out, *POINT, "--overwrite").startswith(f"{out} is not only a bag: it has "), name
        assert path.exists()
        shutil.rmtree(out)


def test_a_topic_without_a_definition_is_reported_and_not_copied(program: Program, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "in", [*images(1), ("/battery", CAMERA_INFO, BEGIN, b"x")], storage="sqlite3")
    with contextlib.closing(sqlite3.connect(bag / "in.db3")) as base, base:  # As Humble records.
        base.execute("DELETE FROM message_definitions")
        base.execute("UPDATE topics SET type = 'own/msg/Battery' WHERE name = '/battery'")
    text = (bag / "metadata.yaml").read_text()
    (bag / "metadata.yaml").write_text(text.replace(CAMERA_INFO, "own/msg/Battery"))
    done = program(ANSWER, bag, tmp_path / "out", *POINT, "--copy-topics")
    assert "The topic /battery is not copied, because the bag has no definition of its type own/msg/Battery." in done.err
    assert counts(tmp_path / "out") == {"/robobrain/affordances": 1, "/camera/image": 1}


def test_topics_of_several_publishers_are_copied_whole(program: Program, tmp_path: Path) -> None:
    """Some recorders write a channel for each publisher."""
    library = pytest.importorskip("mcap.writer", reason="mcap is not installed")
    store = ros2_types()
    with (tmp_path / "in.mcap").open("wb") as file:
        writer = library.Writer(file)
        writer.start("ros2")
        definition = store.generate_msgdef(IMAGE, ros_version=2)[0].encode()
        schema = writer.register_schema(IMAGE, "ros2msg", definition)
        for topic, kind, time, message in images(4):
            channel = writer.register_channel(topic, "cdr", schema, {"offered_qos_profiles": ""})
            writer.add_message(channel, time, bytes(store.serialize_cdr(message, kind)), time)
        writer.finish()
    done = program(ANSWER, tmp_path / "in.mcap", tmp_path / "out", *POINT, "--copy-topics")
    assert done.code == 0, done.err
    assert counts(tmp_path / "out") == {"/camera/image": 4, "/robobrain/affordances": 4}


def test_answers_with_half_characters_are_written_and_drawn(program: Program, tmp_path: Path) -> None:
    """Servers can send such texts. OpenCV 5 crashes with them, and files cannot contain them."""
    bag, path = write_bag(tmp_path / "in", images(1)), tmp_path / "a.csv"
    done = program("a\ud800b", bag, tmp_path / "out", "ask", "What is it?", "--overlay", "--csv", path)
    assert done.code == 0, done.err
    assert counts(tmp_path / "out") == {"/robobrain/answer": 1, "/robobrain/overlay/compressed": 1}
    assert "a?b" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("data", ["5", "{robobrain_bag: 5}", "{robobrain_bag: '{'}", "{robobrain_bag: '{\"settings\": 5}'}"])
def test_an_output_with_other_data_of_its_own_is_not_continued(program: Program, tmp_path: Path, data: str) -> None:
    bag, out = write_bag(tmp_path / "in", images(1)), tmp_path / "out"
    out.mkdir()
    (out / "metadata.yaml").write_text(f"rosbag2_bagfile_information: {{custom_data: {data}}}")
    assert rejected(program, bag, out, *POINT) == f"{out} exists already. Choose another name, or pass --overwrite to delete it."


def profiles(path: Path) -> dict[str, list[Any]]:
    """Return the QoS profiles of the topics, and check that the file and metadata.yaml have the same ones."""
    from rosbags.rosbag2 import Reader
    from rosbags.rosbag2.metadata import parse_qos

    with Reader(path) as reader:
        found = {connection.topic: connection.ext.offered_qos_profiles for connection in reader.connections}
    [metadata] = yaml.safe_load((path / "metadata.yaml").read_text()).values()
    for topic in metadata["topics_with_message_count"]:
        assert parse_qos(topic["topic_metadata"]["offered_qos_profiles"]) == found[topic["topic_metadata"]["name"]]
    return found


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_played_bag_publishes_the_answers_with_the_profiles_of_the_node(program: Program, tmp_path: Path, storage: str) -> None:
    """Without profiles, `ros2 bag play` publishes volatile topics. Subscribers of the node's latched topics receive nothing."""
    pytest.importorskip("rclpy", reason="ROS is not installed")
    from robobrain_ros.ros import result_topics
    from robobrain_ros.ros.views import views

    bag, out = write_bag(tmp_path / "in", images(1)), tmp_path / "out"
    done = program(ANSWER, bag, out, *POINT, "--overlay", "--markers", "--copy-topics", "--storage", storage)
    assert done.code == 0, done.err
    found = profiles(out)
    assert found.pop("/camera/image") == []  # As in the input.
    published = {"/robobrain/affordances": result_topics._LATCHED}
    published |= dict.fromkeys(("/robobrain/overlay/compressed", "/robobrain/markers"), views.CHANGES)
    assert set(found) == set(published)
    for topic, [profile] in found.items():
        own = published[topic]
        for name in ("history", "reliability", "durability"):
            assert getattr(profile, name).value == getattr(own, name).value, (topic, name)
        assert profile.depth == own.depth
        lifespan = own.lifespan.nanoseconds or 2**63 - 1
        assert profile.lifespan.sec * 10**9 + profile.lifespan.nsec == lifespan


def test_a_played_bag_of_the_demo_publishes_its_static_transform_to_tf2(tmp_path: Path) -> None:
    """tf2 subscribes with the durability transient local."""
    recording.record(tmp_path / "bag", seconds=0.1, seed=12)
    [profile] = profiles(tmp_path / "bag")["/tf_static"]
    assert profile.durability.name == "TRANSIENT_LOCAL"
    assert profile.reliability.name == "RELIABLE"


def test_the_advice_for_a_killed_recording_fits_its_file(program: Program, tmp_path: Path) -> None:
    """`ros2 bag reindex` alone does not repair an MCAP without an end: rosbags cannot read it."""
    path = write_bag(tmp_path / "in", images())
    (path / "metadata.yaml").unlink()
    begin = f"The folder {path} has no metadata.yaml, so the recording did not end properly."
    sentence = rejected(program, path, tmp_path / "out", *POINT)
    assert sentence == f"{begin} Run `ros2 bag reindex` on it, or name the file in it instead of the folder."
    data = (path / "in.mcap").read_bytes()
    (path / "in.mcap").write_bytes(data[:-100])
    sentence = rejected(program, path, tmp_path / "out", *POINT)
    assert sentence.startswith(f"{begin} in.mcap has no end. Run `mcap recover {path}/in.mcap -o OUT.mcap`, or first ")


def test_a_killed_recording_that_cannot_be_read_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_bag(tmp_path / "in", images())
    (path / "metadata.yaml").unlink()

    def denied(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(BagError, match=r"no metadata\.yaml"):
        Source(path)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_reindexed_bag_is_read_whole(program: Program, tmp_path: Path, storage: str) -> None:
    """`ros2 bag reindex` writes other QoS profiles to metadata.yaml than the file has: depth 10 instead of 0."""
    from rosbags.rosbag2.metadata import dump_qos_v8

    path = write_bag(tmp_path / "in", images(), storage=storage)
    metadata = yaml.safe_load((path / "metadata.yaml").read_text())
    [topic] = metadata["rosbag2_bagfile_information"]["topics_with_message_count"]
    topic["topic_metadata"]["offered_qos_profiles"] = dump_qos_v8(latched(depth=10))
    (path / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    done = program(ANSWER, path, tmp_path / "out", *POINT, "--copy-topics")
    assert done.code == 0, done.err
    assert counts(tmp_path / "out") == {"/robobrain/affordances": 3, "/camera/image": 3}
