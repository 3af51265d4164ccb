"""Files that parameters and command lines name: reading never blocks, is always bounded, and fails with a clear message."""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from ros_rig import LIMIT, rig
from test_ros_program import read_until, start

from robobrain_ros.bounds.files import (
    NoSuchFileError,
    UnreadableFileError,
    home_expanded,
    read_small_file,
    read_small_json,
    read_small_text,
)
from robobrain_ros.core.imaging import read_image
from robobrain_ros.core.plans.robots_file import read_robots
from robobrain_ros.core.profiles import profile_for
from robobrain_ros.engine.embedded.checkpoint import find_checkpoint
from robobrain_ros.engine.flagos.tune_file import read as read_tune_file
from robobrain_ros.engine.flagos.tune_file import tune_file
from robobrain_ros.engine.keys import read_key
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.engine.remote.client import make_client
from robobrain_ros.errors import CanceledError, EngineConfigError, RoboBrainError
from robobrain_ros.ros.process.time_limit import run_with_time_limit


def special(kind: str, folder: Path) -> str:
    """Return a path of this kind, created in the folder if the system has none."""
    path = folder / "x"
    if kind == "directory":
        path.mkdir()
    elif kind == "named pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as it:
            it.bind(str(path))
    elif kind == "character device":
        return "/dev/zero"
    elif kind == "larger":
        with path.open("wb") as file:
            file.truncate(5 << 30)
    elif kind == "not a file name":
        return f"{path}\0"
    return str(path)


KINDS = ("directory", "named pipe", "socket", "character device", "larger", "not a file name", "No such file")


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_below_a_size_are_read(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match=kind) as caught:
        read_small_file(special(kind, tmp_path), 1000)
    assert isinstance(caught.value, NoSuchFileError) == (kind == "No such file")


def test_a_regular_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes("é".encode() * 50_000)
    (tmp_path / "link").symlink_to(path)
    assert read_small_text(tmp_path / "link", 100_000) == "é" * 50_000
    with pytest.raises(UnreadableFileError, match="larger than 99999 bytes"):
        read_small_text(path, 99_999)
    path.write_bytes(b"first\nsecond \xff\n")
    with pytest.raises(UnreadableFileError, match=r"not text in UTF-8 \(line 2\)"):
        read_small_text(path, 100)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "it is not JSON: "),
        ("", "it is not JSON: "),
        ("[" * 100_000, "it is not JSON: "),
        ("[1]", "it is not a JSON object"),
        ("1" * 5000, "it is not JSON: "),
    ],
    ids=["cut", "empty", "deep", "list", "long number"],
)
def test_a_file_without_a_json_object_is_rejected_with_the_reason(content: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UnreadableFileError, match=reason):
        read_small_json(path, 1_000_000)
    path.write_text('{"é": [1]}', encoding="utf-8")
    assert read_small_json(path, 1_000_000) == {"é": [1]}


def remote(path: str) -> Any:
    return make_client(EngineOptions.of(kind="remote", ca_file=path), "https://localhost:1/v1", "")


READERS: list[Callable[[str], Any]] = [
    lambda path: read_robots(Path(path)),
    lambda path: read_key(path, "engine.key_file", "NO_SUCH_VARIABLE"),
    remote,
    lambda path: read_tune_file(Path(path)),
    lambda path: profile_for(path),
    read_image,
]


@pytest.mark.parametrize(
    "reader", READERS, ids=["robots_file", "key_file", "ca_file", "flagos.tune_file", "config.json", "image"]
)
@pytest.mark.parametrize("kind", ["named pipe", "socket", "character device", "larger"])
def test_every_file_of_a_parameter_is_read_this_way(reader: Callable[[str], Any], kind: str, tmp_path: Path) -> None:
    """A pipe would block for ever with a plain read; then the test's time limit fails."""
    path = special(kind, tmp_path)
    with pytest.raises(RoboBrainError, match=f"{kind}|larger") as caught:
        reader(path)
    assert path in caught.value.message


def test_paths_begin_at_the_home_folder_and_an_unknown_user_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/some/home")
    assert home_expanded("~/robots.yaml") == Path("/some/home/robots.yaml")
    assert tune_file(EngineOptions.of(flagos_tune_file="~no-user/x.json")) == Path("~no-user/x.json")
    wrong: list[Callable[[str], Any]] = [
        lambda path: find_checkpoint(EngineOptions.of(model=path), lambda progress: None),
        lambda path: read_key(path, "engine.key_file", "NO_SUCH_VARIABLE"),
        remote,
    ]
    for reader in wrong:
        with pytest.raises(EngineConfigError, match="~no-user/x"):
            reader("~no-user/x")


def test_a_file_of_certificates_is_read_and_an_empty_one_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    for content in (b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(EngineConfigError, match=r"engine\.ca_file: .* cannot be read"):
            remote(str(path))


def test_work_in_a_thread_ends_with_ros_or_at_its_time_limit() -> None:
    never = threading.Event()
    checks = iter([True, True, False])
    with pytest.raises(CanceledError, match="Reading it was canceled"):
        run_with_time_limit(never.wait, "Reading it", lambda: next(checks))
    with pytest.raises(EngineConfigError, match="Reading it did not end within 0 s"):
        run_with_time_limit(never.wait, "Reading it", lambda: True, limit=0.0)
    never.set()
    with pytest.raises(ZeroDivisionError):
        run_with_time_limit(lambda: 1 // 0, "Reading it", lambda: True)
    assert run_with_time_limit(lambda: 5, "Reading it", lambda: True) == 5


def test_configure_ends_when_the_process_is_told_to_end_while_a_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, never = threading.Event(), threading.Event()

    def hang(path: Path) -> None:
        reading.set()
        never.wait(LIMIT)

    monkeypatch.setattr("robobrain_ros.ros.node.read_robots", hang)
    with rig(lambda: pytest.fail("no engine is needed"), autostart=False, robots_file="/some/drive/robots.yaml") as it:
        it.node.stop_requested = reading.is_set
        assert not it.transition(Transition.TRANSITION_CONFIGURE)
    never.set()


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize("parameter", ["robots_file", "engine.key_file"])
def test_a_pipe_does_not_keep_the_program_from_ending(parameter: str, tmp_path: Path) -> None:
    path = special("named pipe", tmp_path)
    process = start(
        "-p",
        "engine.kind:=remote",
        "-p",
        "engine.urls:=['http://127.0.0.1:9/v1']",
        "-p",
        f"{parameter}:={path}",
        "-r",
        "__ns:=/pipe",
    )
    said = read_until(process, "Cannot configure")
    assert "named pipe (FIFO), not a regular file" in said
    process.terminate()
    assert process.wait(LIMIT) == 0


def test_a_bag_with_a_pipe_or_endless_metadata_is_rejected_before_it_is_opened(tmp_path: Path) -> None:
    """rosbags opens its files without a limit. A named pipe blocked the program for ever."""
    pytest.importorskip("rosbags", reason="rosbags is not installed")
    from robobrain_ros.bags.errors import BagError
    from robobrain_ros.bags.source import Source

    folder, pipe = tmp_path / "recording", tmp_path / "single.mcap"
    folder.mkdir()
    os.mkfifo(pipe)
    with pytest.raises(BagError, match="is not a regular file"):
        Source(pipe)
    with (folder / "metadata.yaml").open("w") as file:
        file.truncate(1 << 40)  # A sparse file.
    with pytest.raises(BagError, match="has 1099511627776 bytes; at most"):
        Source(folder)
    (folder / "metadata.yaml").write_text("rosbag2_bagfile_information: {}\n")
    os.mkfifo(folder / "recording_0.mcap")
    with pytest.raises(BagError, match="is not a regular file"):
        Source(folder)
