"""Measure how long requests of the robot take while its HTTP server is attacked, with and without the key.

One run measures the requests without attack and under each attack, alternately. The attacks come from a separate process, over
the loopback, in limited numbers.

    python benchmark/http_attacks.py [--model FOLDER] [--calls 40] [--rounds 3] [--only NAME ...]

Each row is one attack: the p95 latency of the robot without and under the attack, their ratio, the status codes that the
attacker got, and the growth of the memory of this process and of the engine since the start.
"""

import argparse
import asyncio
import base64
import http.client
import importlib.metadata
import io
import itertools
import json
import os
import platform
import socket
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from priority import free_port, robot_calls, until

from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.engine.embedded import compat
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.http.front import HttpFront
from robobrain_ros.engine.http.options import ServerOptions
from robobrain_ros.engine.http.server import ServedEngine
from robobrain_ros.engine.options import EngineOptions

KEY = "sk-benchmark-0123456789"
NAME = "tabletop-demo"
GOAL = 1.5
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
_PAUSE = 0.05
"""Pause in seconds between two requests of one attacker."""
_CLIENTS = 4
"""Number of concurrent requests of the attacker."""


def post(port: int, path: str, body: bytes, key: str = KEY) -> int:
    """Send one request. Return its status code, or 0 if the connection was closed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with closing(connection):
        try:
            connection.request("POST", path, body, {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0


def body(**fields: Any) -> bytes:
    """Return the body of a chat or a completion."""
    return json.dumps({"model": NAME, **fields}).encode()


def chat(**fields: Any) -> bytes:
    """Return the body of a short chat."""
    return body(messages=[{"role": "user", "content": "Hello?"}], max_tokens=4, **fields)


def image(side: int) -> bytes:
    """Return the body of a chat with a PNG image of one colour. The file is small, even with many pixels."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (side, side)).save(stream, "PNG")
    return image_url(base64.b64encode(stream.getvalue()).decode())


def image_url(data: str) -> bytes:
    """Return the body of a chat with an image as base64."""
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    return body(messages=[{"role": "user", "content": [part]}], max_tokens=4)


def jpeg(segments: int) -> bytes:
    """Return the body of a chat with a small JPEG that has a number of empty segments."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "JPEG")
    content = stream.getvalue()
    return image_url(base64.b64encode(content[:2] + b"\xff\xe5\x00\x02" * segments + content[2:]).decode())


def png(chunks: int) -> bytes:
    """Return the body of a chat with a small PNG that has a number of empty chunks."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "PNG")
    content = stream.getvalue()
    chunk = bytes(4) + b"prVt" + zlib.crc32(b"prVt").to_bytes(4, "big")
    return image_url(base64.b64encode(content[:33] + chunk * chunks + content[33:]).decode())


def requests(path: str, make: Callable[[], bytes], key: str = KEY, new: bool = False) -> Callable[[int, Counter[str]], None]:
    """Return an attack that repeats one request. With ``new``, it makes the body of each request."""

    def attack(port: int, seen: Counter[str]) -> None:
        data = make()

        def one() -> None:
            while True:
                seen[str(post(port, path, make() if new else data, key) or "closed")] += 1
                time.sleep(_PAUSE)

        for _ in range(_CLIENTS - 1):
            threading.Thread(target=one, daemon=True).start()
        one()

    return attack


def connections(count: int, data: bytes) -> Callable[[int, Counter[str]], None]:
    """Return an attack with connections that send a few bytes and wait. Closed connections are opened again."""

    def attack(port: int, seen: Counter[str]) -> None:
        known: list[socket.socket] = []
        while True:
            known = known[-count:]
            try:
                connection = socket.create_connection(("127.0.0.1", port), timeout=5)
                connection.sendall(data)
                known.append(connection)
                seen["opened"] += 1
            except OSError:
                seen["closed"] += 1
            time.sleep(0.005)

    return attack


def endless_header(port: int, seen: Counter[str]) -> None:
    """Attack with an endless header."""
    piece = b"a" * 65536
    while True:
        with closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as connection:
            try:
                connection.sendall(b"GET /health HTTP/1.1\r\nX: ")
                for _ in range(200):
                    connection.sendall(piece)
                seen["200 x 64 KiB taken"] += 1
            except OSError:
                seen["closed"] += 1
        time.sleep(_PAUSE)


def metrics(port: int, seen: Counter[str]) -> None:
    """Attack with requests for the metrics, which do not count in ``openai_server.max_requests``."""

    def one() -> None:
        while True:
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
                try:
                    connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {KEY}"})
                    response = connection.getresponse()
                    response.read()
                    seen[str(response.status)] += 1
                except (OSError, http.client.HTTPException):
                    seen["closed"] += 1
            time.sleep(0.02)

    for _ in range(_CLIENTS - 1):
        threading.Thread(target=one, daemon=True).start()
    one()


def new_schema(count: int, required: bool) -> Callable[[], bytes]:
    """Return the body of a completion with an accepted schema that the engine has not compiled yet."""

    def make() -> bytes:
        names = [f"{next(_NUMBERS)}" for _ in range(count)]
        fields = {name: {"type": "string"} for name in names}
        accepted = {"type": "object", "properties": fields, "required": names if required else []}
        return body(prompt="hi", max_tokens=4, structured_outputs={"json": accepted})

    return make


def schema(**fields: Any) -> Callable[[], bytes]:
    """Return the body of a completion with a JSON schema."""
    return lambda: body(prompt="hi", max_tokens=4, structured_outputs={"json": fields})


_NUMBERS = itertools.count()
_HALF = (
    f"POST {TEXT} HTTP/1.1\r\nHost: l\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    "Content-Length: 99\r\n\r\n{"
)

ATTACKS: dict[str, tuple[Callable[[int, Counter[str]], None], set[str]]] = {
    "schema, minItems 1e9": (requests(TEXT, schema(type="array", minItems=10**9, items={"type": "integer"})), {"400", "429"}),
    "schema, minLength 4e7": (requests(TEXT, schema(type="string", minLength=4 * 10**7)), {"400", "429"}),
    "regex, nested counts": (requests(CHAT, lambda: chat(structured_outputs={"regex": "((a{1,90}){1,90}){9}"})), {"400", "429"}),
    "/tokenize of 30 MB": (requests("/tokenize", lambda: body(prompt="a " * 15_000_000)), {"413", "429", "closed"}),
    "/tokenize of 1 MB": (requests("/tokenize", lambda: body(prompt="a " * 500_000)), {"400", "429"}),
    "PNG of 9000x9000": (requests(CHAT, lambda: image(9000)), {"400", "429"}),
    "100,000 messages": (requests(CHAT, lambda: body(messages=[{"role": "user", "content": "x"}] * 100_000)), {"400", "429"}),
    "deep JSON of 90 kB": (requests(CHAT, lambda: b"[" * 90_000), {"400", "429"}),
    "file:// image": (
        requests(CHAT, lambda: body(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": "file:///x"}]}])),
        {"400", "429"},
    ),
    "no key": (requests(CHAT, chat, key="wrong"), {"401", "429"}),
    "endless header": (endless_header, {"closed"}),
    "80 half headers": (connections(80, b"GET /v1/models HTTP/1.1\r\nHost: l\r\nX-"), {"opened"}),
    "80 half bodies, with the key": (connections(80, _HALF.encode()), {"opened"}),
    "1,400 idle connections": (connections(1400, b""), {"opened"}),
    "percent-encoded image of 24 MB": (requests(CHAT, lambda: image_url("%41" * 8_000_000)), {"400", "429"}),
    "image of 24 MB with blanks": (requests(CHAT, lambda: image_url("AA " * 8_000_000)), {"400", "429"}),
    "JPEG of 4,000,000 segments": (requests(CHAT, lambda: jpeg(4_000_000)), {"400", "429"}),
    "PNG of 1,400,000 chunks": (requests(CHAT, lambda: png(1_400_000)), {"400", "429"}),
    "new schemas, 255 optional properties": (requests(TEXT, new_schema(255, False), new=True), {"200", "429"}),
    "new schemas, 2,900 properties": (requests(TEXT, new_schema(2900, True), new=True), {"200", "429"}),
    "GET /metrics": (metrics, {"200", "429"}),
}  # fmt: skip
"""The attacks, and the responses that each of them may get."""


def be_attacker(name: str, port: int) -> None:
    """Attack until this process ends. Print the status codes of each second."""
    os.nice(10)  # Real attackers have their own processors. This process must not take the CPU time of the robot.
    seen: Counter[str] = Counter()
    threading.Thread(target=ATTACKS[name][0], args=(port, seen), daemon=True).start()
    while os.getppid() != 1:
        time.sleep(0.2)
        print(json.dumps(seen), flush=True)


@asynccontextmanager
async def attacked(name: str, port: int) -> AsyncIterator[Counter[str]]:
    """Run an attack until the end of the block. Afterwards, the responses are known."""
    arguments = sys.executable, __file__, "--be-attacker", name, "--port", str(port)
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    seen: Counter[str] = Counter()

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            seen.clear()
            seen.update(json.loads(line))

    reading = asyncio.create_task(read())
    try:
        await until(lambda: bool(seen) or process.returncode is not None, "The first answer to the attacker")
        yield seen
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


def memory() -> int:
    """Return the memory of this process and of the engine process in MiB."""
    page = os.sysconf("SC_PAGE_SIZE")
    own = os.getpid()
    pids = [own]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == own and "http_attacks" not in _command(stat.parent):
                pids.append(int(stat.parent.name))
        except (OSError, IndexError):
            continue
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * page >> 20


def _command(folder: Path) -> str:
    return (folder / "cmdline").read_text().replace("\0", " ") if (folder / "cmdline").exists() else ""


async def measure(options: argparse.Namespace, key_file: str) -> list[tuple[str, list[float], list[float], Counter[str], int]]:
    """Return for each attack the seconds of the robot's requests without and under it, its responses, and the growth in MiB."""
    inner = EmbeddedEngine(EngineOptions.of(model=options.model, max_num_seqs=8))
    front = HttpFront(ServerOptions(enabled=True, port=free_port(), key_file=key_file), inner.options)
    engine = ServedEngine(inner, front)
    await engine.start(lambda progress: print(progress.message, file=sys.stderr, flush=True))
    rows = []
    try:
        await until(lambda: front.state.state == "open", "The server being open")
        await robot_calls(engine, 10)  # Warm up.
        before = memory()
        for name in [name for name in ATTACKS if any(part in name for part in options.only)]:
            quiet: list[float] = []
            under: list[float] = []
            got: Counter[str] = Counter()
            for _ in range(options.rounds):
                quiet += await robot_calls(engine, options.calls)
                async with attacked(name, front.options.port) as seen:
                    under += await robot_calls(engine, options.calls)
                got += seen
                await until(lambda: front.state.running == 0, "The end of the attacker's requests")
            rows.append((name, quiet, under, got, memory() - before))
            print(_row(*rows[-1]), file=sys.stderr, flush=True)
    finally:
        await engine.close()
        await front.close()
    return rows


def _row(name: str, quiet: list[float], under: list[float], got: Counter[str], growth: int) -> str:
    calm, busy = (1000 * float(np.quantile(seconds, 0.95)) for seconds in (quiet, under))
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(got.items()))
    right = "yes" if set(got) <= ATTACKS[name][1] else "no"
    reached = "yes" if busy <= GOAL * calm else "no"
    return f"| {name} | {calm:.0f} ms | {busy:.0f} ms | {busy / calm:.2f} | {reached} | {statuses} | {right} | {growth:+d} MiB |"


def report(rows: list[Any], options: argparse.Namespace) -> str:
    """Return the table, with the machine and the versions."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("uvicorn", "h11", "fastapi", "llguidance"))
    vllm = next(name for name in compat.DISTRIBUTIONS if _has(name))
    return "\n".join(
        [
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {vllm} "
            f"{importlib.metadata.version(vllm)}, {versions}; {options.rounds} rounds of {options.calls} calls",
            "",
            f"| attack | p95 without attack | p95 under attack | ratio | ≤ {GOAL} | responses to the attacker | as expected "
            "| growth of memory since the start |",
            "|---|---|---|---|---|---|---|---|",
            *(_row(*row) for row in rows),
        ]
    )


def _has(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO_MODEL))
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[""], help="parts of the names of the attacks to run")
    parser.add_argument("--be-attacker", default="", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_attacker:
        be_attacker(options.be_attacker, options.port)
        return
    with TemporaryDirectory() as folder:
        file = Path(folder) / "key"
        file.write_text(KEY)
        file.chmod(0o600)
        print(report(asyncio.run(measure(options, str(file))), options))


if __name__ == "__main__":
    main()
