"""Does the robot wait while people use its engine over HTTP? One engine, asked by the robot alone, with clients, and with the
same clients of a server without rules (no priority, no bound on requests at once), in turns in one run.

    python benchmark/priority.py [--model FOLDER] [--clients 12] [--calls 20] [--rounds 3]
"""

import argparse
import asyncio
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.engine.base import Generation
from robobrain_ros.engine.embedded import EmbeddedEngine
from robobrain_ros.engine.options import EngineOptions, ServerOptions
from robobrain_ros.engine.server import ServedEngine
from robobrain_ros.engine.server_guard import ServerState

SEATS = 4
TOKENS = 16
CLIENT_TOKENS = 200


class Unruled(ServedEngine):
    """A second server on the same engine, whose requests are as good as the robot's."""

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


@asynccontextmanager
async def clients(url: str, count: int) -> AsyncIterator[None]:
    """Clients in a process of their own, at work."""
    process = await asyncio.create_subprocess_exec(sys.executable, __file__, "--be-clients", url, "--clients", str(count))
    try:
        await asyncio.sleep(8.0)
        assert process.returncode is None, "the clients have ended"
        yield
    finally:
        process.kill()
        await process.wait()
        await asyncio.sleep(2.0)


async def robot_calls(engine: ServedEngine, count: int, name: str) -> list[float]:
    """Seconds of calls, one after the other, each with a picture of its own."""
    seconds = []
    for number in range(count):
        picture = np.random.default_rng(time.time_ns()).integers(0, 255, (224, 280, 3), np.uint8)
        generation = Generation(f"{name}-{number}-{time.time_ns()}", "What do you see?", [picture], TOKENS)
        began = time.perf_counter()
        async with aclosing(engine.generate(generation)) as stream:
            async for _ in stream:
                pass
        seconds.append(time.perf_counter() - began)
    return seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def measure(options: argparse.Namespace) -> None:
    inner = EmbeddedEngine(EngineOptions(model=options.model, max_num_seqs=SEATS))
    ruled = ServedEngine(inner, ServerOptions(enabled=True, port=free_port(), max_requests=SEATS - 1), ServerState())
    await ruled.start(lambda progress: print(progress.message, flush=True))
    unruled = Unruled(inner, ServerOptions(enabled=True, port=free_port(), max_requests=1), ServerState())
    unruled._options = replace(unruled._options, max_requests=1000)
    opening = asyncio.create_task(unruled._keep_open(options.model))
    while not (ruled._state.state == unruled._state.state == "open"):  # noqa: ASYNC110 - a server's state has no event.
        await asyncio.sleep(0.1)
    seconds: dict[str, list[float]] = {"alone": [], "with clients": [], "without rules": []}
    await robot_calls(ruled, 5, "warm")
    for _ in range(options.rounds):
        seconds["alone"] += await robot_calls(ruled, options.calls, "alone")
        async with clients(ruled._state.address, options.clients):
            seconds["with clients"] += await robot_calls(ruled, options.calls, "with")
        async with clients(unruled._state.address, options.clients):
            seconds["without rules"] += await robot_calls(ruled, options.calls, "without")
    if unruled._server is not None:
        unruled._server.should_exit = unruled._server.force_exit = True
    await asyncio.wait({opening}, timeout=3.0)
    opening.cancel()
    await ruled.close()
    base = statistics.median(seconds["alone"])
    print("| robot's calls | n | p50 | p95 | p50 to alone |\n|---|---|---|---|---|")
    for name, times in seconds.items():
        p95 = statistics.quantiles(times, n=20)[-1]
        median = statistics.median(times)
        print(f"| {name} | {len(times)} | {median * 1e3:.0f} ms | {p95 * 1e3:.0f} ms | {median / base:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO_MODEL))
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--be-clients", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    asyncio.run(be_clients(options.be_clients, options.clients) if options.be_clients else measure(options))


if __name__ == "__main__":
    main()
