"""The program robobrain in its own process, and what the documentation states about its names."""

import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
import rclpy
from leftovers import holdings
from leftovers import leftovers as left_of
from processes import USUAL_SIGNALS
from rclpy.executors import SingleThreadedExecutor
from ros_rig import LIMIT, image_message, rig, scripted

from robobrain_ros.demo import encodings
from robobrain_ros.engine.embedded import leftovers
from robobrain_ros.ros.process import shutdown
from robobrain_ros.srv import Ask

PROGRAM = [sys.executable, "-c", "from robobrain_ros.cli.robobrain import main; main()", "--ros-args"]


def start(*arguments: str) -> "subprocess.Popen[str]":
    # The working folder is not the repository, where Python would import the sources without the built messages.
    return subprocess.Popen([*USUAL_SIGNALS, *PROGRAM, *arguments], stderr=subprocess.PIPE, text=True, cwd="/")


def read_until(process: "subprocess.Popen[str]", words: str) -> str:
    """Return the lines up to the first line that contains the words, or all lines."""
    lines = []
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)
        if words in line:
            break
    return "".join(lines)


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    process = start("-p", f"engine.model:={tmp_path}/nothing", "-r", "__ns:=/program")
    read_until(process, "Active")
    process.send_signal(number)
    assert process.wait(LIMIT) == 0
    assert "Traceback" not in process.stderr.read()  # type: ignore[union-attr]


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize(
    ("argument", "part"),
    [("max_tokens:=0", "max_tokens"), ("request_timeout:=fast", "request_timeout"), ("engine.dtype:=int3", "dtype")],
)
def test_a_wrong_parameter_ends_it_with_a_sentence(argument: str, part: str) -> None:
    process = start("-p", argument)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert part in errors


def test_the_documentation_names_what_the_node_offers(repository: Path) -> None:
    text = (repository / "docs" / "reference" / "interfaces.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"\| `(\S+?)` \| `(\w+/\w+)`", text))
    with scripted("[(10, 10)]", cameras=["camera", "wrist"], wrist__transport="compressed", wrist__use_depth=True) as (it, _):
        offered = set()
        names = it.node.get_name(), it.node.get_namespace()
        published = it.client.get_publisher_names_and_types_by_node(*names)
        subscribed = it.client.get_subscriber_names_and_types_by_node(*names)
        services = it.client.get_service_names_and_types_by_node(*names)
        for name, types in (*published, *subscribed, *services):
            short = name.replace(it.name, "~").replace(f"{it.node.get_namespace()}/", "")
            package, _kind, message = types[0].split("/")
            if package not in ("rcl_interfaces", "lifecycle_msgs", "type_description_interfaces") and "_action" not in name:
                offered.add((re.sub("^(camera|wrist)/", "<camera>/", short), f"{package}/{message}"))
    assert offered == documented - {("~/run_task", "robobrain_ros/RunTask"), ("~/watch_task", "robobrain_ros/WatchTask")}


def test_the_documentation_names_every_encoding(repository: Path) -> None:
    text = (repository / "docs" / "reference" / "interfaces.md").read_text(encoding="utf-8")
    for encoding in encodings.ENCODINGS:
        assert f"`{re.sub('bayer_.*', 'bayer_*8', encoding)}`" in text


def test_a_node_without_a_model_says_how_to_name_one(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robobrain_ros.demo.DEMO_MODEL", tmp_path)
    said = ""
    with rig() as it:

        def heard() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "engine.model:=" in said

        it.until(heard, "the sentence")
    assert "Cannot configure: engine.model is empty" in said


@pytest.mark.timeout(LIMIT)
def test_the_programs_name_and_shared_memory_go_with_it() -> None:
    """A restarted node must not detect its predecessor as a second node of its name. DDS drops a lost participant after 20 s."""
    context = rclpy.context.Context()
    rclpy.init(context=context)
    observer = rclpy.create_node("observer", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(observer)

    def until(shown: bool, limit: float) -> bool:
        end = time.monotonic() + limit
        while (("robobrain", "/leaving") in observer.get_node_names_and_namespaces()) != shown and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.05)
        return (("robobrain", "/leaving") in observer.get_node_names_and_namespaces()) == shown

    process = start("-r", "__ns:=/leaving", "-p", "autostart:=false")
    try:
        assert until(True, 30.0)
        held = holdings(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(shutdown.LIMIT) == 0
        assert until(False, 15.0), "the name stays"
        assert left_of(held) == []
    finally:
        process.kill()
        process.wait(10.0)
        executor.shutdown()
        observer.destroy_node()
        rclpy.shutdown(context=context)


@pytest.mark.timeout(LIMIT)
def test_a_program_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    command = ["nohup", *PROGRAM, "-p", f"engine.model:={tmp_path}/nothing", "-r", "__ns:=/nohup"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd="/")
    try:
        read_until(process, "Active")
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
        assert ignored & 1 << signal.SIGHUP - 1
    finally:
        process.kill()
        process.wait(10.0)


HANGS = """
import asyncio, threading
from robobrain_ros.engine.base import EngineHealth
from robobrain_ros.cli.robobrain import main
from robobrain_ros.ros import node
class Hangs:
    async def start(self, progress):
        threading.Thread(target=threading.Event().wait).start()
        await asyncio.to_thread(threading.Event().wait)
    async def close(self):
        await asyncio.to_thread(threading.Event().wait)
    def health(self):
        return EngineHealth("loading", "It hangs.")
node.make_engine = lambda *arguments: Hangs()
main()
"""


@pytest.mark.timeout(LIMIT)
def test_an_engine_that_hangs_does_not_keep_the_program(tmp_path: Path) -> None:
    """The engine also has a thread for which Python would wait."""
    command = [sys.executable, "-c", HANGS, "--ros-args", "-r", "__ns:=/hangs"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd="/")
    read_until(process, "Active")
    process.send_signal(signal.SIGTERM)
    # The documented limit is ten seconds.
    assert process.wait(shutdown.LIMIT) in (0, 1)


def _left(pid: int) -> set[str]:
    """Return the folders of an engine's owner."""
    return {str(path) for path in Path(tempfile.gettempdir()).glob(f"{leftovers.PREFIX}{pid}-*")}


@pytest.mark.alone
@pytest.mark.timeout(280)
def test_a_signal_under_load_ends_it_in_time_without_leftovers() -> None:
    process = start("-r", "__ns:=/loaded", "-p", "warm_up:=false", "-p", "grid_check:=off")
    context = rclpy.context.Context()
    rclpy.init(context=context)
    client = rclpy.create_node("loader", namespace="/loaded", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(client)
    try:
        read_until(process, "is ready")
        threading.Thread(target=process.stderr.read, daemon=True).start()  # type: ignore[union-attr]
        family = psutil.Process(process.pid).children(recursive=True)
        record = json.loads((next(Path(folder) for folder in _left(process.pid)) / "engine.json").read_text())
        ask = client.create_client(Ask, "robobrain/ask")
        assert ask.wait_for_service(30.0)
        request = Ask.Request(question="What is on the table?")
        request.options.images = [image_message(width=640, height=480)] * 2
        answers = [ask.call_async(request) for _ in range(24)]
        end = time.monotonic() + LIMIT
        while not any(answer.done() for answer in answers):
            assert time.monotonic() < end, "no request was answered"
            executor.spin_once(timeout_sec=0.1)
        process.send_signal(signal.SIGTERM)
        # The documented limit is ten seconds.
        assert process.wait(shutdown.LIMIT) == 0
        _, left = psutil.wait_procs(family, timeout=1.0)
        # A zombie has ended, although the process that adopts orphans may not collect it.
        assert not [child for child in left if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        assert not _left(process.pid)
        assert not [name for name in record["shared_memory"] if (leftovers.SHARED_MEMORY / name).exists()]
        executor.spin_once(timeout_sec=0.1)
    finally:
        process.kill()
        process.wait(10.0)
        executor.shutdown()
        client.destroy_node()
        rclpy.shutdown(context=context)
