"""The bag program with faulty recordings, outputs and engines: one clear sentence each, and a readable output."""

import asyncio
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bag_rig import (
    BEGIN,
    SECOND,
    EngineByImage,
    Program,
    Table,
    counts,
    interrupt_after,
    point_text,
    read_bag,
    table,
    write_bag,
)
from fakes import Script, ScriptedEngine

from robobrain_ros.bags import output, run, source
from robobrain_ros.bags.messages import ros2_types
from robobrain_ros.errors import EngineFailedError

pytest.importorskip("rosbags", reason="rosbags is not installed")

POINT = ("point", "the purple mug")
ANSWER = "[(10, 20)]"
WINDOW = run.AT_ONCE * run._WINDOW


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Program:
    return Program(monkeypatch, capfd)


def images(number: int = 3, *, first: int = 0) -> list[Any]:
    """Return images. An `EngineByImage` answers the ``first`` ones with its first script, and the others with its second."""
    scripts = [1 if tenth < first else 2 for tenth in range(number)] if first else [0] * number
    return [Table().image(tenth / 10, script=script) for tenth, script in enumerate(scripts)]


def rejected(program: Program, *arguments: object) -> str:
    """Return the sentence with which the program rejects a command before it loads the model."""
    done = program(ANSWER, *arguments)
    assert (done.code, done.out, done.engine.state) == (2, "", "stopped"), done.err
    assert done.err.startswith("bag: ")
    assert done.err.count("\n") == 1
    return done.err.removeprefix("bag: ").strip()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def ros1(path: Path) -> Path:
    from test_bags import write_ros1

    write_ros1(path)
    return path


TRUNCATED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "mcap": (lambda folder: write_bag(folder / "in", images()) / "in.mcap", "`mcap recover"),
    "sqlite3": (lambda folder: write_bag(folder / "in", images(), storage="sqlite3") / "in.db3", "`sqlite3 IN .recover"),
    "ros1": (lambda folder: ros1(folder / "in.bag"), "`rosbag reindex`"),
}


@pytest.mark.parametrize("kind", TRUNCATED)
def test_a_truncated_bag(program: Program, tmp_path: Path, kind: str) -> None:
    """Depending on the format, the damage appears when the bag is opened, or when the damaged part is read."""
    make, advice = TRUNCATED[kind]
    path = make(tmp_path)
    cut(path)
    used = path if kind == "ros1" else path.parent
    done = program(ANSWER, used, tmp_path / "out", *POINT)
    assert done.code in (2, 4)
    assert f"bag: {used} is truncated or damaged (" in done.err
    assert advice in done.err
    if done.code == 4:
        assert counts(tmp_path / "out") is not None


def test_a_bag_whose_end_is_damaged_gives_the_answers_before_the_damage(program: Program, tmp_path: Path) -> None:
    from rosbags.rosbag2 import Reader

    path = write_bag(tmp_path / "in", images(4)) / "in.mcap"
    with Reader(path) as reader:
        first, second = (chunk.chunk_start_offset for chunk in reader.storage.chunks)
    data = bytearray(path.read_bytes())
    data[second + 33 : second + 37] = b"abcd"  # The checksum of the second chunk, which was not set.
    path.write_bytes(data)
    assert first < second
    done = program(ANSWER, tmp_path / "in", tmp_path / "out", *POINT)
    assert done.code == 4
    assert "is truncated or damaged (Chunk checksum mismatch)" in done.err
    assert counts(tmp_path / "out") == {"/robobrain/affordances": 2}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: folder / "none", "There is no bag {}."),
        (lambda folder: write_text(folder / "notes.txt"), "{} is no bag: its name does not end in .mcap, .db3 or .bag, "),
        (lambda folder: write_text(folder / "bad.mcap"), "{} is truncated or damaged ("),
        (lambda folder: write_text(folder / "bad.db3"), "{} is truncated or damaged ("),
        (lambda folder: write_text(folder / "bad.bag"), "{} is truncated or damaged ("),
        (lambda folder: folder, "The folder {} has no metadata.yaml, so the recording did not end properly."),
    ],
)
def test_an_input_that_is_no_bag(program: Program, tmp_path: Path, make: Callable[[Path], Path], sentence: str) -> None:
    path = make(tmp_path)
    assert rejected(program, path, tmp_path / "out", *POINT).startswith(sentence.format(path))
    assert not (tmp_path / "out").exists()


def write_text(path: Path) -> Path:
    path.write_text("This is no bag.")
    return path


def test_topics_that_do_not_fit(program: Program, tmp_path: Path) -> None:
    it = Table()
    two_types = [it.image(0.0, topic="/two"), it.compressed(0.1, topic="/two")]
    write_bag(tmp_path / "in", [it.image(0.0), it.image(0.0, topic="/other/image"), it.info(0.0), *two_types])
    bag, out = tmp_path / "in", tmp_path / "out"

    def sentence(*options: str) -> str:
        return rejected(program, bag, out, *POINT, *options)

    assert sentence("--image-topic", "/nothing").startswith(f"{bag} has no topic /nothing. Its topics are /camera/camera_info (")
    assert sentence("--image-topic", "/two").startswith(
        "The topic /two has two types: sensor_msgs/msg/CompressedImage and sensor_msgs/msg/Image."
    )
    assert sentence("--image-topic", "/camera/camera_info").startswith(
        "The topic /camera/camera_info has the type sensor_msgs/msg/CameraInfo, which is not an image ("
    )
    assert sentence().startswith(f"{bag} has several cameras: ")
    assert "no camera 'b'" in sentence("--image-topic", "a=/camera/image", "--depth-topic", "b=/camera/image")
    assert "names the camera 'camera' twice" in sentence("--image-topic", "/camera/image", "--image-topic", "/other/image")


def test_topics_with_unknown_types_are_ignored_and_copied(program: Program, tmp_path: Path) -> None:
    from rosbags.rosbag2 import StoragePlugin, Writer

    it = Table()
    topic, kind, time, message = it.image(0.0)
    with Writer(tmp_path / "in", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        known = writer.add_connection(topic, kind, typestore=ros2_types())
        strange = writer.add_connection("/strange", "acme/msg/Strange", msgdef="uint8 value\n", rihs01="RIHS01_" + "0" * 64)
        broken = writer.add_connection("/broken", "acme/msg/Broken", msgdef="this is { none", rihs01="RIHS01_" + "1" * 64)
        writer.write(known, time, ros2_types().serialize_cdr(message, kind))
        writer.write(strange, time, b"\x00\x01\x00\x00\x07")
        writer.write(broken, time, b"\x00\x01\x00\x00\x08")
    done = program(ANSWER, tmp_path / "in", tmp_path / "out", *POINT, "--copy-topics")
    assert done.code == 0, done.err
    assert counts(tmp_path / "out") == {topic: 1, "/strange": 1, "/broken": 1, "/robobrain/affordances": 1}
    assert "which is not an image" in rejected(program, tmp_path / "in", tmp_path / "two", *POINT, "--image-topic", "/strange")


def test_an_image_message_with_other_bytes_than_its_type(program: Program, tmp_path: Path) -> None:
    topic, kind, time, _ = Table().image(0.1)
    write_bag(tmp_path / "in", [Table().image(0.0), (topic, kind, time, b"\x00\x01\x00\x00abc")])
    done = program(ANSWER, tmp_path / "in", tmp_path / "out", *POINT)
    assert done.code == 4
    assert "A message on /camera/image is no sensor_msgs/msg/Image" in done.err
    assert counts(tmp_path / "out") == {"/robobrain/affordances": 1}


def test_an_image_that_cannot_be_decoded_is_counted_and_the_next_one_is_answered(program: Program, tmp_path: Path) -> None:
    topic, kind, time, message = Table().image(0.0)
    message.encoding = "rgb9"
    write_bag(tmp_path / "in", [(topic, kind, time, message), Table().image(0.1)])
    done = program(ANSWER, tmp_path / "in", tmp_path / "out", *POINT, "--json")
    assert done.code == 0, done.err
    assert done.summary["outcomes"] == {"point": {"BAD_IMAGE": 1, "OK": 1}}
    assert any("rgb9" in note for note in done.summary["notes"])


def test_missing_calibration_depth_and_transforms_are_reported_once_with_their_number(program: Program, tmp_path: Path) -> None:
    it = Table()
    mug = point_text(table(), "purple mug")
    use_depth = ("--depth-topic", "/camera/depth")
    bags = {
        "no_info": ([it.image(0.0), it.depth(0.0), it.image(0.1), it.depth(0.1)], use_depth),
        "no_depth": ([it.image(0.0), it.info(0.0), it.depth(0.5), it.image(0.1)], use_depth),
        "no_tf": ([*it.moment(0.0), *it.moment(0.1)], (*use_depth, "--target-frame", "map")),
        "late_tf": ([*it.moment(0.0), *it.moment(0.1), it.transform(3.0)], (*use_depth, "--target-frame", "table")),
    }
    sentences = {
        "no_info": "2 x The bag has no camera_info beside /camera/image, so positions are unknown. ",
        "no_depth": "1 x The bag has no depth image with the image's stamp on /camera/depth: the nearest stamp differs by 0.4 s",
        "no_tf": "2 x The positions are in the frame 'camera_optical_frame', not in target_frame 'map': there is no transform ",
        "late_tf": "1 x The positions are in the frame 'camera_optical_frame', not in target_frame 'table': the earliest ",
    }
    for name, (items, options) in bags.items():
        write_bag(tmp_path / name, sorted(items, key=lambda item: item[2]))
        done = program(mug, tmp_path / name, tmp_path / f"{name}_out", *POINT, *options)
        assert done.code == 0, done.err
        assert sentences[name] in done.out
        _, message = read_bag(tmp_path / f"{name}_out")["/robobrain/affordances"][0]
        assert message.position_note


def test_stamps_that_decrease_begin_a_new_recording(program: Program, tmp_path: Path) -> None:
    """The transforms of the first part have later stamps, and are not used in the second part."""
    it = Table()
    first = [it.transform(20.0), *it.moment(20.1), it.transform(20.2)]
    second = [it.image(21.0, stamp=2.1), it.depth(21.0, stamp=2.1), it.transform(21.1, stamp=2.0), it.transform(21.2, stamp=2.2)]
    write_bag(tmp_path / "in", [*first, *second])
    done = program(point_text(table(), "purple mug"), tmp_path / "in", tmp_path / "out", *POINT, "--depth-topic", "/camera/depth",
                   "--target-frame", "table")  # fmt: skip
    assert done.code == 0, done.err
    assert "The stamps on /camera/image decrease by 18.0 s, 1.0 s after the start of the bag." in done.err
    frames = [message.header.frame_id for _, message in read_bag(tmp_path / "out")["/robobrain/affordances"]]
    assert frames == ["table", "table"]


def test_cameras_with_different_rates(program: Program, tmp_path: Path) -> None:
    """Each query follows its own camera."""
    it = Table()
    items = [it.image(tenth / 10, topic="/fast/image") for tenth in range(10)]
    items += [it.image(half / 2, topic="/slow/image") for half in range(2)]
    write_bag(tmp_path / "in", sorted(items, key=lambda item: item[2]))
    (tmp_path / "queries.yaml").write_text(
        "- {name: fast, task: point, instruction: mug, camera: fast}\n"
        "- {name: slow, task: point, instruction: mug, camera: slow}\n"
    )
    done = program(ANSWER, tmp_path / "in", tmp_path / "out", "--queries", tmp_path / "queries.yaml", "--json",
                   "--image-topic", "fast=/fast/image", "--image-topic", "slow=/slow/image")  # fmt: skip
    assert done.code == 0, done.err
    assert done.summary["outcomes"] == {"fast": {"OK": 10}, "slow": {"OK": 2}}


def test_an_existing_output_is_deleted_only_on_request_and_only_if_it_is_a_bag(program: Program, tmp_path: Path) -> None:
    bag, out = write_bag(tmp_path / "in", images()), tmp_path / "out"
    arguments = (bag, out, *POINT)
    assert program(ANSWER, *arguments).code == 0
    assert "exists already, and is complete." in rejected(program, *arguments)
    assert program(ANSWER, *arguments, "--overwrite", "--every", 2).code == 0
    assert counts(out) == {"/robobrain/affordances": 2}
    (out / "thesis.tex").write_text("important")
    assert rejected(program, *arguments, "--overwrite") == (
        f"{out} is not only a bag: it has thesis.tex. --overwrite deletes only bags."
    )
    other = write_bag(tmp_path / "other", images())
    assert rejected(program, bag, other, *POINT).startswith(f"{other} exists already. Choose another name, or pass --overwrite")
    assert (out / "thesis.tex").exists()


def test_an_existing_table_or_video_is_replaced_only_on_request(program: Program, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "in", images(1))
    for option, name in (("--csv", "a.csv"), ("--video", "a.mp4")):
        path = write_text(tmp_path / name)
        arguments = (bag, tmp_path / "out", *POINT, option, path)
        sentence = f"{path} exists already. Choose another name, or pass --overwrite to delete it."
        assert rejected(program, *arguments) == sentence
        assert program(ANSWER, *arguments, "--overwrite").code == 0
        assert path.read_bytes() != b"This is no bag."
        shutil.rmtree(tmp_path / "out")


def test_an_unfinished_output_of_another_command_is_not_continued(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag, out = write_bag(tmp_path / "in", images(6, first=3)), tmp_path / "out"
    with monkeypatch.context() as patched:
        interrupt_after(patched, 2)
        assert program(EngineByImage([ANSWER, Script([asyncio.Event()])]), bag, out, *POINT).code == 130
    other = "is the unfinished output of another command: "
    assert f"{other}questions differ." in rejected(program, bag, out, "ask", "Where?")
    assert f"{other}tables and videos differ." in rejected(program, bag, out, *POINT, "--csv", tmp_path / "a.csv")
    assert f"{other}model differ." in rejected(program, bag, out, *POINT, "--engine", "max_pixels=300000")
    shutil.rmtree(bag)
    write_bag(bag, images(7))
    assert f"{other}input differ." in rejected(program, bag, out, *POINT)


def test_an_interruption_after_the_last_image_was_read_is_no_complete_run(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag, out = write_bag(tmp_path / "in", images(3, first=1)), tmp_path / "out"
    with monkeypatch.context() as patched:
        interrupt_after(patched, 1)
        assert program(EngineByImage([ANSWER, Script([asyncio.Event()])]), bag, out, *POINT).code == 130
    assert program(ANSWER, bag, out, *POINT).code == 0
    assert counts(out) == {"/robobrain/affordances": 3}


def test_an_engine_that_fails_ends_the_run_and_the_next_run_continues(program: Program, tmp_path: Path) -> None:
    bag, out = write_bag(tmp_path / "in", images(5, first=2)), tmp_path / "out"
    broken = Script([EngineFailedError("The engine process died.")])
    done = program(EngineByImage([ANSWER, broken]), bag, out, *POINT, "--at-once", 1)
    assert done.code == 4
    assert done.err.rstrip().endswith(
        f"ENGINE_FAILED: The engine process died. {out} contains the answers about 2 images. Run the same command again to "
        "continue."
    )
    assert counts(out) == {"/robobrain/affordances": 2}
    assert program(ANSWER, bag, out, *POINT, "--at-once", 1).code == 0
    assert counts(out) == {"/robobrain/affordances": 5}


def test_an_engine_that_fails_once_is_asked_again(program: Program, tmp_path: Path) -> None:
    broken = Script([EngineFailedError("The engine process died.")])
    write_bag(tmp_path / "in", images(3))
    done = program(ScriptedEngine([ANSWER, broken, ANSWER]), tmp_path / "in", tmp_path / "out", *POINT, "--json", "--at-once", 1)
    assert (done.code, done.summary["outcomes"]) == (0, {"point": {"OK": 3}})


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_on_a_full_disk_the_output_stays_readable_and_continues(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    """The size of files is limited, so writing fails in the middle of the bag."""
    bag, out = write_bag(tmp_path / "in", images(12)), tmp_path / "out"
    arguments = (bag, out, *POINT, "--copy-topics", "--storage", storage)
    monkeypatch.setattr(output, "_RESERVED", 4096)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5 * 2**20 + 12345, before[1]))
        done = program(ANSWER, *arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.code == 4
    assert f"{out} could not be written: " in done.err
    assert "Free some space, and run the same command again to continue." in done.err
    assert "could not be written either" not in done.err
    written = counts(out)
    assert 0 < written["/camera/image"] < 12
    assert sum(map(len, read_bag(out).values())) == sum(written.values())
    done = program(ANSWER, *arguments)
    assert done.code == 0, done.err
    found = read_bag(out)
    assert {name: len(messages) for name, messages in found.items()} == {"/camera/image": 12, "/robobrain/affordances": 12}
    for messages in found.values():
        assert sorted(time for time, _ in messages) == [BEGIN + tenth * SECOND // 10 for tenth in range(12)]


def test_an_output_in_a_folder_that_cannot_be_written(program: Program, tmp_path: Path) -> None:
    bag, file = write_bag(tmp_path / "in", images()), tmp_path / "file"
    file.write_text("no folder")
    sentence = f"{file / 'out'} cannot be written: {file} is no folder that this user can write to."
    assert rejected(program, bag, file / "out", *POINT) == sentence


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], 'Name a task and its text, such as point "the red mug", or a file with --queries.'),
        ([*POINT, "--every", "2", "--rate", "1"], "--every, --rate and --at exclude each other."),
        (["point", " "], "The question: the instruction is empty."),
        ([*POINT, "--history", "2"], "The question: history is for the tasks ask and plan."),
        ([*POINT, "--video", "out.gif"], "--video out.gif: the name must end in .mp4 or .avi."),
        ([*POINT, "--csv", "/no/such/folder/a.csv"], "/no/such/folder/a.csv cannot be written: the folder does not exist."),
        ([*POINT, "--feedback", "careful"], "--robots, --place, --done, --failed, --feedback, --max-steps, --replan, "),
    ],
)
def test_wrong_usage(program: Program, tmp_path: Path, options: list[str], sentence: str) -> None:
    bag = write_bag(tmp_path / "in", images(1))
    assert rejected(program, bag, tmp_path / "out", *options).startswith(sentence)


_LISTS = "".join(f", &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 12))
BOMB = f"- {{name: [&a0 [x, x]{_LISTS}], task: *a11, instruction: x}}"
"""A list of lists whose text would have 10^11 characters."""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}", "{} has no standing queries. Write a list such as "),
        ("- point", "{}, query 1 is not a mapping with the keys name, task and instruction."),
        ("- {task: fly, instruction: x}", "{}, query 1: the task is 'fly'. It must be one of ask, point, "),
        ("- {task: point}", "{}, query 1: the instruction is empty."),
        ("- {task: point, instruction: x, rat: 1}", "{}, query 1: unknown key 'rat'. Known keys are at, camera, "),
        ("- {task: point, instruction: x, rate: fast}", "{}, query 1: the value 'fast' of rate is wrong."),
        ("- {task: point, instruction: x, camera: left}", "point: there is no camera 'left'. Known cameras: camera."),
        (
            "- {task: ask, instruction: x, condition: true}",
            "{}, query 1: conditions (condition, min_confidence, ",
        ),
        ("- {task: point, instruction: x}\n- {task: ask, instruction: x}", "{} has several queries with the name ''."),
        ("[", "{} is not YAML: "),
        ("- {task: ask, instruction: x, cameras: 5}", "{}, query 1: the value (5,) of cameras is wrong."),
        ("- {task: ask, instruction: x, rate: 1.0e-300}", "{}, query 1: the value 1e-300 of rate is wrong."),
        ("- {task: ask, instruction: x, at: [1.0e+300]}", "{}, query 1: the value (1e+300,) of at is wrong."),
        ("- {task: ask, instruction: x, history_seconds: 1.0e+300}", "{}, query 1: the value 1e+300 of history_seconds is "),
        (f"- {{task: ask, instruction: x, rate: {'9' * 400}}}", "{}, query 1: the value 999"),
        ('- {task: ask, instruction: x, name: "\\ud800"}', "{}, query 1: the name '\\ud800' is not text."),
        ("n: {ros__parameters: {standing_queries: 5}}", "{}, query 1: the task is None."),
        (BOMB, "{}, query 1: the task is [["),
    ],
)
def test_a_wrong_file_of_queries(program: Program, tmp_path: Path, text: str, sentence: str) -> None:
    bag, path = write_bag(tmp_path / "in", images(1)), tmp_path / "queries.yaml"
    path.write_text(text)
    assert rejected(program, bag, tmp_path / "out", "--queries", path).startswith(sentence.replace("{}", str(path)))


def test_without_rosbags_the_program_names_the_package(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = write_bag(tmp_path / "in", images(1))
    monkeypatch.setitem(sys.modules, "rosbags.rosbag2", None)
    assert "Install it with `pip install 'rosbags>=0.11,<0.12'`." in rejected(program, bag, tmp_path / "out", *POINT)


def test_copies_of_a_bag_of_ros_1_are_rejected(program: Program, tmp_path: Path) -> None:
    path = ros1(tmp_path / "in.bag")
    assert "--copy-topics copies only topics of rosbag2." in rejected(program, path, tmp_path / "out", *POINT, "--copy-topics")


def test_memory_is_bounded_while_the_first_answer_is_slow(program: Program, tmp_path: Path) -> None:
    """The other requests end at once. The program reads ahead, but not further than its window."""
    it, number = Table(), 100
    write_bag(tmp_path / "in", [it.image(hundredth / 100) for hundredth in range(number)])
    slow, read = asyncio.Event(), []
    decoded = source.Source.decoded

    def counting(self: source.Source, record: source.Record) -> Any:
        read.append(record.time)
        return decoded(self, record)

    class Engine(ScriptedEngine):
        async def generate(self, generation: Any) -> Any:
            if len(self.generations) == WINDOW - 1:
                slow.set()  # All other images of the window were asked about.
            async for delta in super().generate(generation):
                yield delta

    engine = Engine([Script([slow, ANSWER]), ANSWER])
    most: list[int] = []
    finish = run.Run._finish

    async def watched(self: run.Run, done: Any) -> None:
        most.append(len(read) - done.number)
        await finish(self, done)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(source.Source, "decoded", counting)
        patched.setattr(run.Run, "_finish", watched)
        assert program(engine, tmp_path / "in", tmp_path / "out", *POINT).code == 0
    assert counts(tmp_path / "out") == {"/robobrain/affordances": number}
    assert WINDOW <= max(most) <= WINDOW + 5, "images in the window, in the queue, and in the hands of the reader"
