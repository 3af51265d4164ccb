"""Measure how long requests of the robot take while HTTP clients use its engine.

One run measures three situations alternately: no clients, clients of the server, and the same clients of a server without rules.
Without rules, the robot has no priority, and the number of concurrent requests is not limited.

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
"""Time limit in seconds for the start and the end of servers and clients."""
ALONE, RULED, UNRULED = "alone", "with clients", "with clients, without rules"


class Unruled(ServedEngine):
    """A second server on the same engine, whose requests have the robot's priority, without a limit of concurrent requests."""

    def __init__(self, inner: EmbeddedEngine) -> None:
        front = HttpFront(ServerOptions(enabled=True, port=free_port(), max_requests=SEATS - 1), inner.options)
        front.guard = Guard(key="", max_requests=1000, max_body=1 << 20, state=front.state)
        super().__init__(inner, front)

    def open(self, model: str) -> None:
        """Open the server on the running engine."""
        self.front.open()
        self._task = asyncio.create_task(self._serve(model))

    def _behind(self) -> Any:
        return self._inner.vllm


async def be_clients(url: str, count: int) -> None:
    """Send requests without end. A rejected request is repeated after 0.1 s."""
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
    """Wait until a condition is true that has no event, such as the state of a server.

    :raises SystemExit: it is not true within the limit.
    """
    end = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {LIMIT:.0f} s.")
        await asyncio.sleep(0.05)


@asynccontextmanager
async def clients(state: ServerState, count: int, most: int) -> AsyncIterator[None]:
    """Run clients in a separate process, from the moment when the server processes as many of their requests as it permits."""
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
    """Return the seconds of requests that are sent one after the other, each with a new image."""
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
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the seconds of the robot's requests in each situation."""
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
    """Return the table: p50 and p95 of the robot's requests, compared with those without clients."""
    lines = [
        figures.compare(f"{name}, p{100 * part:.0f}", seconds[name], seconds[ALONE], figures.quantile(part), "ms", scale=1000.0)
        for name in (RULED, UNRULED)
        for part in (0.5, 0.95)
    ]
    return figures.table(lines, ("robot's request", "alone"))


def main() -> None:
    """Measure, and print the table."""
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
