"""The bag program never deletes other files, copies topics whole, and reads only its own outputs."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest
from bag_rig import BEGIN, Program, counts, write_bag
from test_bags_faults import ANSWER, POINT, images, rejected, write_text

from robobrain_ros.bags.messages import CAMERA_INFO, IMAGE, ros2_types

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
    for name in ("out_notes.txt", "out_1/notes.txt", "monday.mcap", "thesis.tmp"):
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
