"""A stalled engine is distinguished from a slow one, with real processes that work, wait, or are stopped."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from robobrain_ros.engine.embedded import processes
from robobrain_ros.engine.embedded import vitals as vitals_module
from robobrain_ros.engine.embedded.checkpoint import Checkpoint
from robobrain_ros.engine.embedded.starting import ProgressReporter
from robobrain_ros.engine.embedded.vitals import StallLimits, Vitals

QUICK = StallLimits(interval=0.02, quiet=0.05, silence=0.4, busy_silence=1e6)
GUARD = 30.0
WORKS = "print(flush=True)\nwhile True: sum(range(10000))"
WAITS = "print(flush=True)\nimport threading; threading.Event().wait()"


@contextmanager
def process(code: str) -> Iterator["subprocess.Popen[bytes]"]:
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    try:
        yield child
    finally:
        child.kill()
        child.wait(GUARD)


async def silent() -> None:
    await asyncio.Event().wait()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(GUARD):
        while not condition():
            await asyncio.sleep(0.01)


def watch(
    child: "subprocess.Popen[bytes]",
    test: Callable[[Vitals], Awaitable[None]],
    *,
    ask: Callable[[], Awaitable[None]] = silent,
    running: int = 1,
    on_cpu: bool = True,
) -> None:
    async def run() -> None:
        vitals = Vitals([child.pid], ask, lambda: running, works_on_cpu=lambda: on_cpu, limits=QUICK)
        vitals.start()
        await test(vitals)
        await vitals.close()

    asyncio.run(asyncio.wait_for(run(), GUARD))


async def stalls(vitals: Vitals) -> None:
    await until(lambda: vitals.stalled_for > 0)
    assert "neither generates text nor replies" in vitals.reason


async def goes_on(vitals: Vitals) -> None:
    """Check that the process never counts as stalled, for several times the allowed silence."""
    for _ in range(100):
        await asyncio.sleep(0.02)
        assert not vitals.reason


def test_a_waiting_process_stalls_where_requests_run() -> None:
    with process(WAITS) as child:
        watch(child, stalls)


def test_a_long_prefill_on_the_cpu_is_no_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is measured in CPU time of the child, because it may get no CPU on a busy machine for longer than the limit."""
    with process(WORKS) as child:

        def cpu_time() -> float:
            found = processes.read_process(child.pid)
            assert found is not None
            return found.cpu

        async def computes(vitals: Vitals) -> None:
            def has_computed() -> bool:
                assert not vitals.reason
                return cpu_time() > 4 * QUICK.silence

            await until(has_computed)

        monkeypatch.setattr(vitals_module, "time", SimpleNamespace(monotonic=cpu_time))
        watch(child, computes)


def test_cpu_time_without_output_of_the_gpu_is_no_sign_of_work() -> None:
    with process(WORKS) as child:
        watch(child, stalls, on_cpu=False)


def test_a_reply_of_the_loop_is_a_sign_of_work() -> None:
    async def reply() -> None:
        await asyncio.sleep(0.01)

    with process(WAITS) as child:
        watch(child, goes_on, ask=reply)


def test_an_idle_engine_does_not_stall() -> None:
    with process(WAITS) as child:
        watch(child, goes_on, running=0)


@pytest.mark.parametrize("running", [0, 1])
def test_a_stopped_process_stalls_until_it_is_continued(running: int) -> None:
    async def test(vitals: Vitals) -> None:
        child.send_signal(signal.SIGSTOP)
        await until(lambda: "is stopped" in vitals.reason)
        child.send_signal(signal.SIGCONT)
        await until(lambda: not vitals.reason)

    with process(WORKS) as child:
        watch(child, test, running=running)


def test_a_family_is_all_that_is_below_its_roots() -> None:
    code = "import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n" + WAITS
    with process(code) as child:
        members = processes.with_descendants([child.pid])
        assert {member.parent for member in members} >= {child.pid}
        for member in members:
            processes.kill(member)
        assert child.wait(GUARD) == -signal.SIGKILL


def test_another_process_of_the_same_id_is_not_ended() -> None:
    with process(WAITS) as child:
        found = processes.read_process(child.pid)
        assert found is not None
        processes.kill(processes.Process(found.pid, found.parent, "S", 0.0, found.started + 1))
        assert child.poll() is None


def test_a_process_that_is_stopped_while_the_model_loads_is_named() -> None:
    """Otherwise the node would wait for the model for ever."""
    with process(WAITS) as child:
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        seen: list[str] = []
        present = processes.read_process(child.pid)
        assert present is not None
        checkpoint = Checkpoint(Path("/m"), True, "qwen2_5_vl", 28, 0, 0, 0, "", 0.0)
        reporter = ProgressReporter(lambda progress: seen.append(progress.message), checkpoint, lambda: [present])
        reporter.start()
        reporter.stop()
        assert f"Its process {child.pid} is stopped" in seen[0]
        child.send_signal(signal.SIGCONT)
        os.waitid(os.P_PID, child.pid, os.WCONTINUED)
        assert not reporter._stopped()
