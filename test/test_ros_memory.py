"""The memory of the node's process: memory that images leave in glibc's heaps is returned to the system."""

import os
import subprocess
import sys
from threading import Event
from types import SimpleNamespace

import pytest
from ros_rig import scripted

from robobrain_ros.engine import memory
from robobrain_ros.engine.embedded.worker import OWNER_VARIABLE, owner_name
from robobrain_ros.ros.process import memory as node_memory
from robobrain_ros.srv import Locate

FRAGMENTS = """
from robobrain_ros.engine import memory

memory.keep_buffers()


def resident():
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))


before = resident()
kept = []
images = []
for number in range(100):
    images.append(bytearray(b"x" * (1 << 20)))
    kept.append(bytes(2000))
full = resident()
images.clear()
kept_by_glibc = resident()
memory.return_free_memory()
print(before, full, kept_by_glibc, resident())
"""

CYCLES = """
import gc, sys
from collections import deque

from robobrain_ros.engine import memory

gc.enable()  # As Python starts. In the children of the tests, collection begins later.
gc.set_threshold(700, 10, 10)
loaded = [[] for _ in range(1_000_000)]
gc.collect()
if sys.argv[1] == "settled":
    memory.settle_objects()
before = gc.get_stats()[2]["collections"]
recent = deque(maxlen=10_000)
for _ in range(100_000):
    cycle = []
    cycle.append(cycle)
    recent.append(cycle)
print(gc.get_stats()[2]["collections"] - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /proc")
def test_memory_between_objects_in_use_is_returned() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", FRAGMENTS], capture_output=True, text=True, timeout=60, check=True)
    before, full, kept, returned = (int(word) / 1024 for word in done.stdout.split())
    assert full - before > 90, "100 images of 1 MiB"
    assert kept - before > 50, "glibc alone keeps them"
    assert returned - before < 20


def test_garbage_is_collected_in_a_process_with_a_large_library() -> None:
    def collections(how: str) -> int:
        command = [sys.executable, "-P", "-c", CYCLES, how]
        return int(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)

    assert collections("as it comes") == 0
    assert collections("settled") > 0


def test_a_busy_process_returns_memory_at_intervals_and_an_idle_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter([0.0, 0.1, 0.1, 5.0, 5.0])
    returned, slept = Event(), Event()
    sleeps: list[float] = []

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        if len(sleeps) > 2:
            slept.set()
            Event().wait()

    monkeypatch.setattr(memory, "time", SimpleNamespace(process_time=lambda: next(used), sleep=sleep))
    early: list[int] = []

    def note() -> None:
        early.append(len(sleeps))
        returned.set()

    monkeypatch.setattr(memory, "return_free_memory", note)
    memory.return_free_memory_at_intervals()
    assert slept.wait(10.0)
    assert returned.is_set()
    assert early == [2], "after the interval of 4.9 s of CPU time, not after that of 0.1 s"
    assert sleeps[:2] == [memory.INTERVAL, memory.INTERVAL]


def test_a_worker_of_vllm_returns_memory_and_the_owner_itself_does_not_do_so_twice() -> None:
    program = "import threading, {}; print('memory-return' in [thread.name for thread in threading.enumerate()])"
    worker = "robobrain_ros.engine.embedded.worker"

    def started(prelude: str) -> str:
        command = [sys.executable, "-P", "-c", prelude + program.format(worker)]
        environment = os.environ | {OWNER_VARIABLE: owner_name()}
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment).stdout.strip()

    assert started("") == "True"
    name = f"os.environ['{OWNER_VARIABLE}']"
    own = f"import os; {name} = {name}.rpartition(':')[0] + ':' + str(os.getpid()); "
    assert started(own) == "False"


def test_it_is_returned_after_requests_only_and_not_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    returns: list[float] = []
    ended, now = 0, 0.0
    monkeypatch.setattr(node_memory, "return_free_memory", lambda: returns.append(now))
    watch = node_memory.MemoryReturn(lambda: ended, lambda: now)

    def second() -> None:
        nonlocal now
        now += 1.0
        watch.on_timer()
        if watch._thread is not None:
            watch._thread.join()

    for _ in range(int(2 * memory.INTERVAL)):
        second()
    assert returns == [], "no request has ended"
    for _ in range(int(2 * memory.INTERVAL)):
        ended += 1
        second()
    assert len(returns) == 2
    assert returns[1] - returns[0] == memory.INTERVAL


def test_the_node_returns_memory_after_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    returned = Event()
    monkeypatch.setattr(node_memory, "INTERVAL", 0.0)
    monkeypatch.setattr(node_memory, "return_free_memory", returned.set)
    with scripted("[(10, 10)]", max_image_age=0.0) as (it, _):
        assert not returned.is_set()
        it.call(Locate, "point", Locate.Request(instruction="the mug"))
        it.until(returned.is_set, "the return of free memory")
