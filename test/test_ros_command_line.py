"""Error messages of the program robobrain for wrong command lines."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ros_rig import LIMIT, rig

import robobrain_ros.ros.main as node_process
from robobrain_ros.demo.camera import CameraSettings
from robobrain_ros.ros.process import shutdown

PROGRAM = [sys.executable, "-c", "from robobrain_ros.cli.robobrain import main; main()"]


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    # The working folder is not the repository, where Python would import the sources without the built messages.
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, cwd="/", timeout=LIMIT, check=False)


def test_help_states_how_to_set_a_model() -> None:
    """The help starts no node."""
    done = run("--help")
    assert done.returncode == 0
    assert "engine.model:=" in done.stdout.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model:=/models/x"], "unrecognized arguments: model:=/models/x"),
        (["--ros-args", "--", "x"], "unrecognized arguments: x"),
        (["--ros-args", "--params-file", "/nowhere.yaml"], "/nowhere.yaml"),
        (["--ros-args", "--log-level", "loud"], "log level"),
        (["--ros-args", "-r", "__ns:=no-namespace"], "__ns:=no-namespace"),
        (
            ["--ros-args", "-p", "request_timeout:=5"],
            "expecting type 'DOUBLE'. Write the number with a decimal point, as in 1.0.",
        ),
        (["--ros-args", "-p", "max_tokens:=10.0"], "expecting type 'INTEGER'. Write a whole number without a decimal point."),
        (["--ros-args", "-p", "think:=1"], "expecting type 'BOOL'. Write true or false without quotes."),
        (["--ros-args", "-p", "cameras:=front"], "expecting type 'STRING_ARRAY'. Write a list, as in [front] or [front, wrist]."),
        (
            ["--ros-args", "-p", "engine.dtype:=int3"],
            "wrong: engine.dtype is 'int3'; it must be one of auto, bfloat16",
        ),
    ],
)
def test_wrong_arguments_are_reported_in_a_sentence(arguments: list[str], said: str) -> None:
    """The message has no traceback."""
    done = run(*arguments)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("keystore", ["none", "empty enclave"])
@pytest.mark.parametrize("module", ["cli.robobrain", "cli.ask", "demo.camera", "demo.executor", "live.main"])
def test_a_program_without_keys_names_the_page_about_security(
    module: str, keystore: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text of rcl is "failed to initialize rcl: error not set" or "couldn't find all security files!"."""
    monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    monkeypatch.setenv("ROS_SECURITY_STRATEGY", "Enforce")
    monkeypatch.setenv("ROS_SECURITY_ENCLAVE_OVERRIDE", "/robobrain")
    if keystore != "none":
        (tmp_path / "enclaves" / "robobrain").mkdir(parents=True)
        monkeypatch.setenv("ROS_SECURITY_KEYSTORE", str(tmp_path))
    given = {"cli.ask": ["point", "the mug"], "demo.executor": ["put the mug into the bowl"], "live.main": ["--port", "0"]}
    program = [
        sys.executable,
        "-c",
        f"import sys; from robobrain_ros.{module} import main; sys.exit(main())",
        *given.get(module, []),
    ]
    done = subprocess.run(program, capture_output=True, text=True, cwd="/", timeout=LIMIT, check=False)
    assert done.returncode != 0
    assert "set ROS_SECURITY_KEYSTORE, and an enclave that was created for this ROS_DOMAIN_ID" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["robobrain_ros.cli.robobrain", "robobrain_ros.demo.camera"])
@pytest.mark.parametrize(("kind", "said"), [("pipe", "it is a named pipe (FIFO)"), ("huge", "it is larger than 262144 bytes")])
def test_a_parameter_file_that_takes_rcl_long_ends_the_program(module: str, kind: str, said: str, tmp_path: Path) -> None:
    """While rcl reads, the program handles no signal."""
    file = tmp_path / "params.yaml"
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.write_text("/**:\n  ros__parameters:\n" + "".join(f"    unknown_{number}: 1\n" for number in range(20_000)))
    program = [sys.executable, "-c", f"from {module} import main; main()"]
    command = [*program, "--ros-args", "--params-file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=LIMIT, check=False)
    assert done.returncode == 1
    assert f"the parameter file {file} cannot be read: {said}" in done.stderr


def test_a_thousand_misspelled_parameters_are_one_short_line(capfd: pytest.CaptureFixture[str]) -> None:
    misspelt: dict[str, Any] = {f"misspelt_{number}": 1 for number in range(1000)}
    with rig(autostart=False, **misspelt) as it:
        it.node.trigger_configure()
    line = next(line for line in capfd.readouterr().err.splitlines() if "ignores unknown parameters" in line)
    assert "misspelt_0" in line
    assert len(line) < 1200


def test_misspelled_parameters_are_reported(capfd: pytest.CaptureFixture[str]) -> None:
    """Standing queries that are described but not named, and the parameters of rclpy, are not misspelt."""
    given: dict[str, Any] = {"engine__modle": "x", "standing_query__later__rate": 1.0, "use_sim_time": False}
    with rig(autostart=False, **given) as it:
        it.node.trigger_configure()
    said = capfd.readouterr().err
    assert "The node ignores unknown parameters: engine.modle." in said


def test_a_second_interruption_ends_at_once_and_an_echo_of_the_first_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """For one Ctrl-C, the terminal and the launch may both send a signal."""
    raised: list[int] = []
    forced: list[None] = []
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    # The real function would end this process, which runs the tests.
    monkeypatch.setattr(shutdown, "force_exit_later", lambda: forced.append(None))
    now = iter([10.0, 10.5, 12.0])
    monkeypatch.setattr(node_process, "time", SimpleNamespace(monotonic=lambda: next(now)))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        stop = node_process._Stop()
        for expected in ([], [], [signal.SIGINT]):
            stop._on_signal(signal.SIGINT, None)
            assert (stop.requested, raised) == (True, expected)
        assert len(forced) == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


EXECUTABLES = (Path(__file__).parent.parent / "executables.txt").read_text(encoding="utf-8")
PROGRAMS = [line.split(" = ") for line in EXECUTABLES.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize(("name", "entry"), PROGRAMS, ids=lambda it: it)
def test_help_of_every_program_is_printed_and_nothing_starts(name: str, entry: str) -> None:
    module, function = entry.split(":")
    code = f"import sys; sys.argv = ['{name}', '--help']; from {module} import {function}; {function}()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_the_demo_camera_describes_its_parameters_and_rejects_what_is_no_argument() -> None:
    assert all(setting.metadata["description"] for setting in dataclasses.fields(CameraSettings))
    code = "import sys; sys.argv = ['demo_camera', 'rate:=5']; from robobrain_ros.demo.camera import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", timeout=LIMIT, check=False)
    assert done.returncode == 2
    assert "unrecognized arguments: rate:=5" in done.stderr
