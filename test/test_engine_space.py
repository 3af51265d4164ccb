"""Full and unwritable folders, tested with the real program and the real demo model."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

LOADING = 240.0
"""Timeout in seconds until the node settles. Without a model to load it settles within a few seconds."""
PLACES = ("/tmp", "/var/tmp", "/usr/tmp")
"""Folders in which Python looks for room for temporary files, in addition to the working folder."""
UNSHARE = ["unshare", "--mount", "--propagation", "private"]
NO_MODEL = ["-p", "engine.model:=/nothing"]


@cache
def why_no_mounts() -> str:
    """Return why this user cannot have a separate mount namespace on this machine; empty if he can."""
    try:
        tried = subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True, timeout=30.0)
    except FileNotFoundError as error:
        return str(error)
    return tried.stderr.strip() if tried.returncode else ""


def program(limit: float = LOADING, **wanted: Any) -> dict[str, Any]:
    """Return the report of short_of_space.py."""
    if reason := why_no_mounts():
        pytest.skip(f"no private mounts here: {reason}")
    script = Path(__file__).with_name("short_of_space.py")
    command = [*UNSHARE, sys.executable, str(script), json.dumps(wanted | {"limit": limit})]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(script.parent), os.environ.get("PYTHONPATH", "")])}
    environment.pop("TMPDIR", None)
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=limit + 45.0)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])  # Fast DDS also writes to stdout.
    assert not seen["unanswered"]
    return seen


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["full", "read_only"])
def test_without_a_folder_for_temporary_files_loading_ends_with_a_sentence(kind: str) -> None:
    folders = [*PLACES, "/srv"]
    seen = program(limit=60.0, cwd="/srv", **{kind: dict.fromkeys(folders, 0) if kind == "full" else folders})
    assert "TMPDIR" in seen["outcomes"]["ENGINE_FAILED"]
    assert "TMPDIR" in seen["diagnostics"]["engine"]
    assert "Traceback" not in seen["log"]
    assert seen["code"] == 0


@pytest.mark.timeout(120)
def test_a_disk_with_too_little_room_for_an_engine_is_named() -> None:
    """Python's own check of the folder succeeds, because a few blocks are free."""
    seen = program(limit=60.0, cwd="/srv", full=dict.fromkeys([*PLACES, "/srv"], 65536))
    assert "TMPDIR" in seen["outcomes"]["ENGINE_FAILED"]
    assert "Traceback" not in seen["log"]


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_full_folders_for_caches_and_one_full_tmpdir_do_not_matter(tmp_path: Path) -> None:
    """Python uses the next folder for temporary files."""
    temporary, caches, logs = str(tmp_path / "temporary"), str(tmp_path / "caches"), str(tmp_path / "logs")
    environment = {"TMPDIR": temporary, "VLLM_CACHE_ROOT": caches, "XDG_CACHE_HOME": caches, "ROS_LOG_DIR": logs}
    seen = program(full=dict.fromkeys([temporary, caches, logs], 0), environment=environment)
    assert "OK" in seen["outcomes"]
    assert set(seen["outcomes"]) <= {"OK", "NOT_READY"}
    assert seen["code"] == 0


@pytest.mark.timeout(120)
def test_a_log_folder_that_cannot_be_written_ends_the_program_with_a_sentence(tmp_path: Path) -> None:
    logs = str(tmp_path / "logs")
    seen = program(limit=60.0, read_only=[logs], environment={"ROS_LOG_DIR": logs}, arguments=NO_MODEL)
    assert seen["ended"] == 1
    assert "ROS_LOG_DIR" in seen["log"]
    assert "Traceback" not in seen["log"]


@pytest.mark.timeout(120)
def test_without_shared_memory_the_program_ends_with_a_sentence() -> None:
    """Without the check, the tracing of ROS 2 would end the program by SIGBUS."""
    seen = program(limit=60.0, full={"/dev/shm": 0})
    assert seen["ended"] == 1
    assert "/dev/shm is full" in seen["log"]
    assert "--shm-size" in seen["log"]
    assert "Traceback" not in seen["log"]


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_with_little_shared_memory_the_node_is_reachable_and_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast DDS falls back to the network; vLLM cannot start. Only a worker in a process of its own needs shared memory."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seen = program(full={"/dev/shm": 128 << 10}, arguments=["-p", "engine.distributed_executor_backend:=mp"])
    assert "/dev/shm is full" in seen["outcomes"]["ENGINE_FAILED"]
    assert "/dev/shm is full" in seen["diagnostics"]["engine"]
    assert seen["code"] == 0
