"""Does the robot wait while people use its engine over HTTP? One engine, asked by the robot alone, with clients, and with the
same clients of a server without rules (no priority, no bound on requests at once), in turns in one run.

    python benchmark/priority.py [--model FOLDER] [--clients 12] [--calls 20] [--rounds 3]
"""

import argparse
import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import figures
import numpy as np

from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.engine.base import Generation
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.http.front import HttpFront
from robobrain_ros.engine.http.guard import Guard, ServerState
from robobrain_ros.engine.http.options import ServerOptions
from robobrain_ros.engine.http.server import ServedEngine
from robobrain_ros.engine.options import EngineOptions

SEATS = 4
TOKENS = 16
CLIENT_TOKENS = 200
LIMIT = 120.0
"""Seconds that servers and clients may take to begin, or to end."""
ALONE, RULED, UNRULED = "alone", "with clients", "with clients, without rules"


class Unruled(ServedEngine):
    """A second server on the same engine, whose requests are as good as the robot's, and of which any number is let through."""

    def __init__(self, inner: EmbeddedEngine) -> None:
        front = HttpFront(ServerOptions(enabled=True, port=free_port(), max_requests=SEATS - 1), inner.options)
        front.guard = Guard(key="", max_requests=1000, max_body=1 << 20, state=front.state)
        super().__init__(inner, front)

    def open(self, model: str) -> None:
        """Open the server of an engine that runs already."""
        self.front.open()
        self._task = asyncio.create_task(self._serve(model))

    def _behind(self) -> Any:
        return self._inner.vllm


async def be_clients(url: str, count: int) -> None:
    """Ask without end; who is turned away tries again at once."""
    import openai

    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=300.0)
    model = (await client.models.list()).data[0].id

    async def ask(number: int) -> None:
        while True:
            try:
                stream = await client.chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": f"Tell story {number} at {time.time()}."}],
                    max_tokens=CLIENT_TOKENS,
                    stream=True,
                    extra_body={"ignore_eos": True},
                )
                async for _ in stream:
                    pass
            except openai.APIStatusError:
                await asyncio.sleep(0.1)

    await asyncio.gather(*(ask(number) for number in range(count)))


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what has no event, as a server's state.

    :raises SystemExit: it was not within the limit.
    """
    end = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {LIMIT:.0f} s.")
        await asyncio.sleep(0.05)


@asynccontextmanager
async def clients(state: ServerState, count: int, most: int) -> AsyncIterator[None]:
    """Clients in a process of their own, at work: as many of their requests as the server lets through are in it."""
    arguments = "--be-clients", state.address, "--clients", str(count)
    process = await asyncio.create_subprocess_exec(sys.executable, __file__, *arguments)
    try:
        await until(lambda: state.running >= min(count, most) or process.returncode is not None, "The clients' first requests")
        if process.returncode is not None:
            raise SystemExit(f"The clients ended with exit code {process.returncode}.")
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await until(lambda: state.running == 0, "The end of the clients' requests")


async def robot_calls(engine: ServedEngine, count: int) -> list[float]:
    """Seconds of calls, one after the other, each with an image of its own."""
    seconds = []
    for _ in range(count):
        image = np.random.default_rng(time.time_ns()).integers(0, 255, (224, 280, 3), np.uint8)
        generation = Generation(f"robot-{time.time_ns()}", "What do you see?", [image], TOKENS)
        began = time.perf_counter()
        async with aclosing(engine.generate(generation)) as stream:
            async for _ in stream:
                pass
        seconds.append(time.perf_counter() - began)
    return seconds


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of the robot's calls in each situation."""
    inner = EmbeddedEngine(EngineOptions.of(model=options.model, max_num_seqs=SEATS))
    most = SEATS - 1
    front = HttpFront(ServerOptions(enabled=True, port=free_port(), max_requests=most), inner.options)
    ruled, unruled = ServedEngine(inner, front), Unruled(inner)
    states = {RULED: front.state, UNRULED: unruled.front.state}
    seconds: dict[str, list[float]] = {ALONE: [], RULED: [], UNRULED: []}
    await ruled.start(lambda progress: print(progress.message, file=sys.stderr, flush=True))
    try:
        unruled.open(options.model)
        await until(lambda: all(state.state == "open" for state in states.values()), f"Both servers being open ({states})")
        await robot_calls(ruled, 5)  # Warm up.
        for number in range(options.rounds):
            print(f"Round {number + 1} of {options.rounds}.", file=sys.stderr, flush=True)
            seconds[ALONE] += await robot_calls(ruled, options.calls)
            async with clients(states[RULED], options.clients, most):
                seconds[RULED] += await robot_calls(ruled, options.calls)
            async with clients(states[UNRULED], options.clients, options.clients):
                seconds[UNRULED] += await robot_calls(ruled, options.calls)
    finally:
        await unruled.front.close()
        await ruled.close()
        await front.close()
    return seconds


def report(seconds: dict[str, list[float]]) -> str:
    """The table: medians and the 95th of a hundred, against the robot alone."""
    lines = [
        figures.compare(f"{name}, p{100 * part:.0f}", seconds[name], seconds[ALONE], figures.quantile(part), "ms", scale=1000.0)
        for name in (RULED, UNRULED)
        for part in (0.5, 0.95)
    ]
    return figures.table(lines, ("robot's call", "alone"))


def main() -> None:
    """Measure, and show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO_MODEL))
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--be-clients", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_clients:
        asyncio.run(be_clients(options.be_clients, options.clients))
    else:
        print(report(asyncio.run(measure(options))))


if __name__ == "__main__":
    main()
