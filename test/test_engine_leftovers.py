"""The next engine removes the leftovers of killed engine owners, and nothing else."""

import fcntl
import json
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import psutil
import pytest

from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.engine.embedded import leftovers

START = 280.0
HOLDER = """
import sys
from robobrain_ros.engine.embedded.leftovers import RunFolder
folder = RunFolder()
print(folder.path, flush=True)
sys.stdin.read()
"""
OWNER = """
import asyncio, sys
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.options import EngineOptions
async def main():
    engine = EmbeddedEngine(EngineOptions.of(model=sys.argv[1]))
    await engine.start(lambda progress: None)
    print(engine._folder.path, flush=True)
    await asyncio.Event().wait()
if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a short, separate folder for temporary files, so that other engines of this machine do not affect the test."""
    with tempfile.TemporaryDirectory(prefix="rb", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture
def segment() -> Iterator[SharedMemory]:
    """Return a shared memory segment that no process maps."""
    memory = SharedMemory(create=True, size=4096)
    memory.close()
    yield memory
    (leftovers.SHARED_MEMORY / memory.name).unlink(missing_ok=True)


def dead_folder(temporary: Path, **record: object) -> Path:
    folder = temporary / f"{leftovers.PREFIX}1-dead"
    folder.mkdir()
    (folder / "owner.lock").touch()
    (folder / "a-socket").touch()
    (folder / "engine.json").write_text(json.dumps(record))
    return folder


def test_the_folder_of_a_dead_owner_goes_with_its_shared_memory(temporary: Path, segment: SharedMemory) -> None:
    folder = dead_folder(temporary, shared_memory=[segment.name, "../etc", "no-such"])
    leftovers.sweep()
    assert not folder.exists()
    assert not (leftovers.SHARED_MEMORY / segment.name).exists()


def test_shared_memory_that_a_process_maps_stays(temporary: Path, segment: SharedMemory) -> None:
    folder = dead_folder(temporary, shared_memory=[segment.name])
    with (leftovers.SHARED_MEMORY / segment.name).open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        leftovers.sweep()
    assert (leftovers.SHARED_MEMORY / segment.name).exists()
    assert not folder.exists()


@pytest.mark.parametrize(
    "record",
    ["", "[]", "{", '{"processes": [1, ["x", 2]], "shared_memory": [7]}', '{"processes": 1, "shared_memory": null}'],
)
def test_a_damaged_record_ends_nothing(temporary: Path, record: str) -> None:
    folder = dead_folder(temporary)
    (folder / "engine.json").write_text(record)
    leftovers.sweep()
    assert not folder.exists()


def test_what_belongs_to_others_stays(temporary: Path) -> None:
    foreign = temporary / f"{leftovers.PREFIX}no-lock"
    foreign.mkdir()
    link = temporary / f"{leftovers.PREFIX}link"
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "owner.lock").touch()
    link.symlink_to(elsewhere)
    leftovers.sweep()
    assert foreign.exists()
    assert elsewhere.exists()


def test_a_living_owner_keeps_its_folder_and_a_killed_one_loses_it(temporary: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    folder = Path(holder.stdout.readline().strip())
    try:
        leftovers.sweep()
        assert folder.exists()
    finally:
        holder.kill()
        holder.wait(30.0)
    leftovers.sweep()
    assert not folder.exists()


@pytest.mark.timeout(START)
def test_a_stopped_engine_of_a_killed_owner_ends_at_the_next_start(temporary: Path) -> None:
    """Stopped processes do not notice that their owner has ended."""
    script = temporary / "owner.py"
    script.write_text(OWNER)
    owner = subprocess.Popen([sys.executable, str(script), str(DEMO_MODEL)], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        assert select.select([owner.stdout], [], [], START)[0], "the engine did not start"
        folder = Path(owner.stdout.readline().strip())
        assert [path for path in folder.iterdir() if path.is_socket()]
        engine = [child for child in psutil.Process(owner.pid).children(recursive=True) if "VLLM" in child.name()]
        assert engine
        for child in engine:
            child.send_signal(signal.SIGSTOP)
    finally:
        owner.kill()
        owner.wait(30.0)
    shared = json.loads((folder / "engine.json").read_text())["shared_memory"]
    assert all(child.is_running() for child in engine)
    leftovers.sweep()
    _, alive = psutil.wait_procs(engine, timeout=30.0)
    assert not alive
    assert not folder.exists()
    assert not {name for name in shared if (leftovers.SHARED_MEMORY / name).exists()}


def test_a_folder_is_removed_with_its_owner(temporary: Path) -> None:
    folder = leftovers.RunFolder()
    folder.record([os.getpid()])
    assert (folder.path / "engine.json").exists()
    folder._processes.clear()  # This test's own process is removed.
    leftovers.release_all()
    assert not folder.path.exists()


def test_a_sweep_while_a_folder_is_made_leaves_it_alone(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may start an engine, and therefore sweep, after a folder is made and before it is locked."""
    lock = fcntl.flock
    swept: list[None] = []

    def flock(descriptor: int, operation: int) -> None:
        if not swept:
            swept.append(None)
            leftovers.sweep()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    folder = leftovers.RunFolder()
    assert swept
    assert (folder.path / "owner.lock").is_file()
    leftovers.sweep()
    assert folder.path.is_dir()
    folder.release()
    assert not list(temporary.iterdir())
