"""Check the promises of docs/reference/interfaces.md with the real program and random actions.

- Each request has exactly one response, at most 1 s after its deadline.
- An answer is about the image that its header names, and that image was fresh when the request arrived.
- Unknown values are NaN or empty, never plausible values.
- Memory is bounded, and a healthy node keeps running after any request.
- SIGTERM ends the program within 10 s, without remaining processes, sockets or shared-memory files.

The seed determines a run, except for the machine's timing. For a longer run:

CONTRACT_STEPS=20000 CONTRACT_SEED=7 pytest test/test_contract.py
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import rclpy
from contract_client import ContractClient
from contract_options import HISTORY
from contract_world import MAX_IMAGE_AGE
from leftovers import holdings, leftovers

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmark"))

from soak_client import count_unexpected

pytestmark = pytest.mark.alone

STEPS = int(os.environ.get("CONTRACT_STEPS", "1000"))
"""Number of random actions. `make thorough` sets 1500."""
SEED = int(os.environ.get("CONTRACT_SEED", "1"))
EXIT_LIMIT = 10.0
"""Time limit in seconds from SIGTERM to the end of the process."""
MEMORY_GROWTH = 24 * 2**20
"""Allowed growth in bytes of the node in the second half of a run, in addition to 4 kB for each step."""
MORE_FILES = 12
"""Allowed growth of descriptors and threads in the second half, because the node notices late that clients have left."""


@dataclass
class Program:
    """The node under test, with its client."""

    process: "subprocess.Popen[bytes]"
    client: ContractClient
    log: Path

    def errors(self) -> list[str]:
        """Return unexpected log lines: tracebacks (except for engine faults) and dropped exceptions of rclpy or asyncio."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        blocks = [block.splitlines() for block in text.split("Traceback (most recent call last):\n")[1:]]
        ends = [next((line for line in block if line and not line.startswith(" ")), "") for block in blocks]
        dropped = [line for line in text.splitlines() if "never retrieved" in line or "Segmentation" in line]
        return [end for end in ends if "of the contract test" not in end] + dropped


@contextmanager
def program(folder: Path, *, seed: int, sim_time: bool) -> Iterator[Program]:
    """Run the real program with the engine of the contract test, and a client of it."""
    namespace = f"/contract_{os.getpid()}_{seed}_{'sim' if sim_time else 'system'}"
    values = {
        "cameras": "[camera, deep]",
        "deep.use_depth": "true",
        "approach_background": 0.0,  # The depth images are planes.
        **HISTORY,
        "max_image_age": MAX_IMAGE_AGE,
        "warm_up": "false",
        "grid_check": "off",
        "max_queued": 16,
        "request_timeout": 2.0,
        "image_reliability": "reliable",
        "use_sim_time": str(sim_time).lower(),
    }
    arguments = [part for name, value in values.items() for part in ("-p", f"{name}:={value}")]
    log = folder / "node.log"
    node = str(Path(__file__).with_name("contract_node.py"))
    command = [sys.executable, node, "--ros-args", "-r", f"__ns:={namespace}", *arguments]
    unexpected: Counter[str] = Counter()
    undo = count_unexpected(unexpected)
    context = rclpy.context.Context()
    rclpy.init(context=context)
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder)
    client = ContractClient(namespace, seed, context, node_pid=process.pid, sim_time=sim_time, unexpected=unexpected)
    try:
        assert client.until(lambda: client.ready() or process.poll() is not None, showing=True), log.read_text()
        assert process.poll() is None, log.read_text()
        yield Program(process, client, log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(30.0)
        client.close()
        rclpy.shutdown(context=context)
        undo()


@pytest.mark.timeout(1800 if STEPS > 5_000 else 280)
@pytest.mark.parametrize("sim_time", [False, True], ids=["system time", "simulated time with jumps"])
def test_the_guarantees_hold_under_a_random_mix_of_requests(tmp_path: Path, sim_time: bool) -> None:
    with program(tmp_path, seed=SEED, sim_time=sim_time) as it:
        node = psutil.Process(it.process.pid)
        halfway: tuple[int, int] | None = None
        for step in range(STEPS):
            it.client.act()
            assert it.process.poll() is None, f"the node ended at step {step}: {_tail(it.log)}"
            assert not it.client.faults, _story(it.client)
            if step == STEPS // 2:
                halfway = node.memory_info().rss, node.num_fds() + node.num_threads()
        _settle(it.client)
        assert not it.client.faults, _story(it.client)
        assert not it.client.ledger, f"never answered: {it.client.ledger}\n{it.client.diagnostics}\n{_story(it.client)}"
        assert not it.client.unexpected, f"responses to no open request: {dict(it.client.unexpected)}"
        assert it.client.outcomes["OK"] > STEPS / 20, f"hardly anything was asked: {it.client.outcomes}"
        _check_health(it.client)
        assert halfway is not None
        memory, files = node.memory_info().rss, node.num_fds() + node.num_threads()
        assert memory - halfway[0] < MEMORY_GROWTH + 4096 * STEPS, f"{(memory - halfway[0]) / 2**20:.1f} MB more than halfway"
        assert files - halfway[1] < MORE_FILES, f"{files - halfway[1]} descriptors and threads more than halfway"
        assert not it.errors(), "\n".join(it.errors()[:20])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("open_requests", [0, 40], ids=["idle", "under load"])
def test_sigterm_ends_the_program_in_time_and_leaves_nothing(tmp_path: Path, open_requests: int) -> None:
    with program(tmp_path, seed=SEED, sim_time=False) as it:
        # A request before the first image would end with NO_IMAGE.
        assert it.client.until(lambda: it.client.ask("do_ok") == "OK", 20.0)
        it.client.tick()
        futures = it.client.send_hanging(open_requests)

        def received() -> bool:
            """Whether the node has read all requests: it holds them, or has rejected them with BUSY."""
            held = int(it.client.diagnostics["requests"]["open"])
            return held + sum(future.done() for future in futures) >= open_requests

        assert it.client.until(received, showing=True)
        before = holdings(it.process.pid)
        began = time.monotonic()
        it.process.send_signal(signal.SIGTERM)
        assert it.client.until(lambda: it.process.poll() is not None, EXIT_LIMIT), f"it still runs: {_tail(it.log)}"
        assert it.process.returncode == 0, _tail(it.log)
        assert time.monotonic() - began < EXIT_LIMIT
        assert it.client.until(lambda: all(future.done() for future in futures), 2.0), "a request has no response"
        assert leftovers(before) == []
        assert not it.errors(), "\n".join(it.errors()[:20])


def _settle(client: ContractClient) -> None:
    """Return the node to normal operation, and wait for every response."""
    client.heal()
    client.until(lambda: not client.ledger or client.overdue(), 15.0, showing=True)
    client.clear_standing_queries()
    for transition, state in ((1, "inactive"), (3, "active")):
        if client.state != state and client.state != "active":
            client.change(transition, state)
            client.until(lambda: not client.changing, 10.0, showing=True)
    client.until(lambda: client.ready() and not client.ledger, 30.0, showing=True)


def _check_health(client: ContractClient) -> None:
    """Check that the node still answers, and that no request is open."""
    assert client.until(lambda: client.ask("do_ok") == "OK", 20.0), client.ask("do_ok")

    def idle() -> bool:
        engine, requests = client.diagnostics["engine"], client.diagnostics["requests"]
        return (engine["running"], engine["waiting"], requests["open"]) == ("0", "0", "0")

    assert client.until(idle, 10.0, showing=True), client.diagnostics


def _story(client: ContractClient) -> str:
    return "\n".join([*client.faults[:10], "the last actions:", *client.log])


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])
