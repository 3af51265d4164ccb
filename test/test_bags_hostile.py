"""The bag program with hostile bags, and after its process was killed."""

import errno
import re
import resource
import shutil
import sys
import tempfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_rig import BEGIN, SECOND, Item, Program, Table, counts, interrupt_after, read_bag, write_bag
from test_bags_faults import ANSWER, POINT, images, rejected

from robobrain_ros.bags import bounded, tables
from robobrain_ros.bags.errors import BagError
from robobrain_ros.bags.messages import message_type, ros2_types, serialized
from robobrain_ros.bags.output import Output
from robobrain_ros.bags.run import Sinks
from robobrain_ros.bags.source import Source
from robobrain_ros.bags.video import Video

pytest.importorskip("rosbags", reason="rosbags is not installed")

DEPTH = ("--depth-topic", "/camera/depth", "--target-frame", "table")


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Program:
    return Program(monkeypatch, capfd)


def halved(item: Item) -> Item:
    topic, kind, time, message = item
    raw = bytes(ros2_types().serialize_cdr(message, kind))
    return topic, kind, time, raw[: len(raw) // 2]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("message_count", "{}"),
        ("message_count", "true"),
        ("name", "7"),
        ("type", "[]"),
        ("nanoseconds_since_epoch", "x"),
    ],
)
def test_a_metadata_file_with_values_of_other_types(program: Program, tmp_path: Path, key: str, value: str) -> None:
    bag = write_bag(tmp_path / "in", images(1))
    text = (bag / "metadata.yaml").read_text()
    (bag / "metadata.yaml").write_text(re.sub(rf"(\b{key}): .*", rf"\1: {value}", text))
    assert rejected(program, bag, tmp_path / "out", *POINT).startswith(f"{bag} is truncated or damaged (")


@pytest.mark.parametrize("topic", ["/camera/camera_info", "/tf_static"])
def test_a_bag_without_a_readable_calibration_or_transform_is_rejected_before_the_model_loads(
    program: Program, tmp_path: Path, topic: str
) -> None:
    it = Table()
    items = [it.transform(0.0, topic="/tf_static"), *it.moment(0.0)]
    bag = write_bag(tmp_path / "in", [halved(item) if item[0] == topic else item for item in items])
    assert f"A message on {topic} is no " in rejected(program, bag, tmp_path / "out", *POINT, *DEPTH)
    assert not (tmp_path / "out").exists()


def test_a_missing_library_for_the_table_is_reported_before_the_model_loads(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    sentence = rejected(
        program, write_bag(tmp_path / "in", images()), tmp_path / "out", *POINT, "--parquet", tmp_path / "a.parquet"
    )
    assert sentence.startswith("--parquet needs the library pyarrow (")
    assert not (tmp_path / "out").exists()


def test_a_table_that_cannot_be_opened_leaves_an_output_that_continues(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag, out, path = write_bag(tmp_path / "in", images()), tmp_path / "out", tmp_path / "a.csv"

    def fails(*_: Any, **__: Any) -> None:
        raise tables._unwritable(path, OSError(errno.EACCES, "Permission denied"))

    with monkeypatch.context() as context:
        context.setattr(tables.CsvTable, "__init__", fails)
        done = program(ANSWER, bag, out, *POINT, "--csv", path)
    assert (done.code, counts(out)) == (4, {})
    assert f"{path} cannot be written: Permission denied." in done.err
    assert program(ANSWER, bag, out, *POINT, "--csv", path).code == 0
    assert counts(out) == {"/robobrain/affordances": 3}


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
@pytest.mark.parametrize(("length", "limit"), [(1, 0), (2, 0), (40, 0), (40, 300_000), (40, 30_000)])
def test_an_incomplete_video_is_reported(tmp_path: Path, suffix: str, length: int, limit: int) -> None:
    """OpenCV does not report that the disk is full. Here, the size of files is limited instead."""
    random = np.random.default_rng(0)
    path = tmp_path / f"a{suffix}"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit or before[0], before[1]))
        video = Video(path)
        for number in range(length):
            video.add(number * SECOND // 10, random.integers(0, 255, (240, 320, 3), np.uint8))
        if limit:
            with pytest.raises(BagError, match=f"The video {path} is incomplete"):
                video.close()
        else:
            video.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_all_files_are_closed_after_one_fails() -> None:
    closed = []

    class Failing:
        def add(self, rows: Any) -> None: ...

        def close(self) -> None:
            closed.append(self)
            raise BagError("full")

    with pytest.raises(BagError, match="full"):
        Sinks([Failing(), Failing()]).close()
    assert len(closed) == 2


BOMBS = ["mcap", "message", "bz2", "lz4"]


@pytest.mark.parametrize("kind", BOMBS)
def test_a_chunk_that_grows_beyond_its_limit_is_rejected(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A chunk of 60 kB can have 2 GB after decompression."""
    monkeypatch.setattr(bounded, "MOST", 500_000)
    if kind in ("mcap", "message"):
        storage, compression = ("mcap", "storage") if kind == "mcap" else ("sqlite3", "message")
        path = write_bag(tmp_path / "in", images(), storage=storage, compression=compression)
    else:
        path = ros1(tmp_path / "in.bag", kind)
    done = program(ANSWER, path, tmp_path / "out", *POINT)
    assert done.code in (2, 4)
    assert "a chunk" in done.err.lower()
    assert "bytes" in done.err
    monkeypatch.setattr(bounded, "MOST", 512 * 2**20)
    assert program(ANSWER, path, tmp_path / "out", *POINT, "--overwrite").code == 0


def ros1(path: Path, compression: str) -> Path:
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    writer = Writer(path)
    writer.set_compression(Writer.CompressionFormat[compression.upper()])
    with writer:
        connection = writer.add_connection("/camera/image", "sensor_msgs/msg/Image", typestore=store)
        for number, (_, kind, time, message) in enumerate(images()):
            header = store.types["std_msgs/msg/Header"](number, message.header.stamp, message.header.frame_id)
            image = store.types[kind](header, *(getattr(message, name) for name in list(message.__dataclass_fields__)[1:7]))
            writer.write(connection, time, store.serialize_ros1(image, kind))
    return path


def test_a_chunk_with_another_size_than_stated_is_rejected() -> None:
    from backports import zstd
    from rosbags.rosbag2.storage_mcap import DECOMPRESSORS

    bounded.limit_decompression()
    decompress = DECOMPRESSORS["zstd"]
    data = zstd.compress(bytes(1000)) + zstd.compress(bytes(500))
    assert decompress(data, 1500) == bytes(1500), "several frames"
    with pytest.raises(bounded.TooLargeError, match="more than 1499 bytes"):
        decompress(data, 1499)
    with pytest.raises(EOFError):
        decompress(data[:-4], 1500)
    with pytest.raises(bounded.TooLargeError, match="states a size"):
        decompress(data, 2**62)


def test_chunks_of_the_same_time_are_limited_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rosbags reads all of them before it returns a message. A bag of 32 kB can have 600 MB in ten chunks."""
    kind = "std_msgs/msg/String"
    large = bytes(2 * 2**20)  # rosbags begins a chunk after 1 MB.
    path = write_bag(tmp_path / "in", [("/a", kind, 1, large) for _ in range(8)], compression="storage")
    in_order = write_bag(tmp_path / "in_order", [("/a", kind, time, large) for time in range(8)], compression="storage")
    monkeypatch.setattr(bounded, "MOST", 5 * 2**20)
    for _ in range(2):
        with pytest.raises(BagError, match="The chunks of the same time have more than 5242880 bytes after decompression"):
            list(Source(path).records(["/a"]))
        assert len(list(Source(in_order).records(["/a"]))) == 8
    monkeypatch.setattr(bounded, "MOST", 512 * 2**20)
    assert len(list(Source(path).records(["/a"]))) == 8


def test_a_compressed_file_leaves_space_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_bag(tmp_path / "in", images(), compression="file", storage="sqlite3")
    usage = namedtuple("usage", "free")
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000))
    with pytest.raises(Exception, match=f"{path} is compressed, and {folder} has too little space to decompress it"):
        Source(path)
    assert not list(folder.iterdir())


def test_the_same_command_starts_again_after_its_first_run_was_killed(program: Program, tmp_path: Path) -> None:
    bag, out = write_bag(tmp_path / "in", images()), tmp_path / "out"
    (out / "out_0").mkdir(parents=True)
    (out / ".reserve").write_bytes(bytes(4096))
    (out / "out_0" / "out_0.mcap").write_bytes(b"\x89MCAP0\r\n")
    (out / "notes.txt").write_text("mine")
    assert "exists already" in rejected(program, bag, out, *POINT)
    (out / "notes.txt").unlink()
    assert program(ANSWER, bag, out, *POINT).code == 0
    assert counts(out) == {"/robobrain/affordances": 3}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("is_resumed", [False, True])
def test_a_second_process_never_deletes_an_output_in_progress(tmp_path: Path, is_resumed: bool, overwrite: bool) -> None:
    out = tmp_path / "out"
    if is_resumed:
        Output.open(out, "mcap", {}, overwrite=False).close(complete=False)
    first = Output.open(out, "mcap", {}, overwrite=False)
    with pytest.raises(BagError, match="Another process writes"):
        Output.open(out, "mcap", {}, overwrite=overwrite)
    kind = "std_msgs/msg/String"
    connection = first.add_topic("/a", kind, [])
    first.write([(connection, BEGIN, serialized(message_type(kind)(data="a"), kind))], moments=1)
    first.close(complete=False)
    assert counts(out) == {"/a": 1}
    Output.open(out, "mcap", {}, overwrite=overwrite).close(complete=True)
    assert counts(out) == ({} if overwrite else {"/a": 1})


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_to_the_folder_of_a_killed_run_is_kept(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / ".reserve").touch()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    Output.open(tmp_path / "out", "mcap", {}, overwrite=overwrite).close(complete=True)
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {"metadata.yaml", "out_0.mcap"}


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_continued_bag_has_one_profile_for_each_topic(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    """The first run was made by a version without profiles. rosbags would omit the messages of one of the files."""
    bag, out = write_bag(tmp_path / "in", images(6)), tmp_path / "out"
    arguments = (bag, out, *POINT, "--at-once", 1, "--storage", storage)
    with monkeypatch.context() as context:
        interrupt_after(context, 2)
        context.setattr("robobrain_ros.bags.run.latched", lambda *_: [])
        assert program(ANSWER, *arguments).code == 130
    done = program(ANSWER, *arguments)
    assert done.code == 0, done.err
    assert [time for time, _ in read_bag(out)["/robobrain/affordances"]] == [BEGIN + tenth * SECOND // 10 for tenth in range(6)]
