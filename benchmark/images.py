"""Measure how many large images reach the node, by transport profile, and the CPU time for ten cameras without requests.

Results: docs/results/node.md.

Run `python benchmark/images.py` in the environment of scripts/env.sh. It ends after some minutes, and needs no model.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import figures
import psutil
from client import HERE, LARGE, BenchmarkError, child, cpu_seconds
from figures import Goal, compare, mean
from listening import Streams
from run import WINDOW, describe_machine

from robobrain_ros.ros.process.transport_profile import profile_variable

PARTS = ("arrival", "idle")
SETTLING = 6.0
"""Seconds at the start that are not measured. DDS discovers the processes, and the node adapts to the publishers' reliability."""
GOAL = 0.95
"""Goal for the share of large images that reach the node with the profile."""


@contextmanager
def running(role: str, streams: Streams, folder: Path) -> Iterator[tuple[psutil.Process, Path]]:
    """Run a process of listening.py until the end of the block. Then the file contains its output."""
    log = folder / f"{role}.log"
    with child([str(HERE / "listening.py"), role, json.dumps(asdict(streams))], log) as process:
        yield psutil.Process(process.pid), log


def read_stamps(log: Path) -> dict[str, list[int]]:
    """Read the stamps that a process has printed.

    :raises BenchmarkError: it has printed none.
    """
    lines = log.read_text(encoding="utf-8").splitlines()
    try:
        return dict(json.loads(lines[-1]))
    except (IndexError, ValueError) as error:
        raise BenchmarkError(f"A process has failed: {lines[-1] if lines else 'it printed nothing'}") from error


def arrived(sent: dict[str, list[int]], received: dict[str, list[int]], seconds: float) -> tuple[int, int]:
    """Return how many images with a stamp in the last seconds were sent, and how many of them were received."""
    end = max(max(stamps) for stamps in sent.values()) - 10**9  # Images of the last second may not have arrived yet.
    begin = end - round(seconds * 1e9)
    counts = [sum(begin <= stamp <= end for stamps in side.values() for stamp in stamps) for side in (sent, received)]
    return counts[0], counts[1]


def measure_arrival(profile: str, streams: Streams, seconds: float, folder: Path) -> dict[str, Any]:
    """Send a stream of large images to the node, and then to a minimal subscriber."""
    shares: dict[str, Any] = {"profile": profile, "reliable": streams.reliable}
    os.environ.pop(profile_variable(), None)
    if profile == "large":
        os.environ[profile_variable()] = str(LARGE)
    for role in ("robobrain", "bare"):
        with running(role, streams, folder) as (_, listener), running("send", streams, folder) as (_, sender):
            time.sleep(SETTLING + seconds + 1.0)
        sent, came = arrived(read_stamps(sender), read_stamps(listener), seconds)
        shares[role] = {"sent": sent, "received": came, "share": came / sent, "rate": sent / seconds}
    return shares


def measure_idle(streams: Streams, windows: int, folder: Path) -> tuple[list[list[float]], dict[str, Any]]:
    """Return the CPU seconds in each window of the idle node, and of a minimal process with as many subscriptions.

    Both run at the same time.
    """
    rows = []
    with (
        running("robobrain", streams, folder) as (node, ours),
        running("bare", streams, folder) as (bare, theirs),
        running("send", streams, folder) as (_, sender),
    ):
        time.sleep(SETTLING)
        end = time.monotonic()
        before = [cpu_seconds(process) for process in (node, bare)]
        for _ in range(windows):
            end += WINDOW
            time.sleep(max(end - time.monotonic(), 0.0))
            now = [cpu_seconds(process) for process in (node, bare)]
            rows.append([after - earlier for after, earlier in zip(now, before, strict=True)])
            before = now
        time.sleep(1.0)
    seconds = windows * WINDOW
    shares = [arrived(read_stamps(sender), read_stamps(log), seconds) for log in (ours, theirs)]
    return rows, {role: came / sent for role, (sent, came) in zip(("robobrain", "bare"), shares, strict=True)}


def arrival_table(rows: list[dict[str, Any]]) -> str:
    """Return the shares as a table in Markdown."""
    lines = ["| profile | reliability | sent | reached the node | reached a minimal subscriber | goal |", "|---" * 6 + "|"]
    for row in rows:
        reliability = "reliable" if row["reliable"] else "best effort"
        goal = f"≥ {GOAL:.0%}: {'yes' if row['robobrain']['share'] >= GOAL else 'no'}" if row["profile"] == "large" else ""
        rate = f"{row['robobrain']['rate']:.1f} Hz"
        shares = [f"{row[role]['share']:.1%}" for role in ("robobrain", "bare")]
        lines.append(f"| {row['profile']} | {reliability} | {rate} | {shares[0]} | {shares[1]} | {goal} |")
    return "\n".join(lines)


def read_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds of each stream of large images")
    parser.add_argument("--windows", type=int, default=12, help=f"windows of {WINDOW:.0f} s for the CPU time with small images")
    parser.add_argument("--cameras", type=int, default=10, help="streams of small images")
    parser.add_argument("--size", type=int, nargs=2, default=(160, 120), metavar=("WIDTH", "HEIGHT"), help="size of small images")
    parser.add_argument("--output", type=Path, default=Path("log/benchmark_images.json"), help="file for the JSON")
    return parser.parse_args()


def main() -> None:
    """Measure, print the tables, and write the JSON file."""
    options = read_arguments()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    about = {**describe_machine(), "command": " ".join(sys.argv)}
    samples: dict[str, Any] = {}
    lines: list[figures.Comparison] = []
    try:
        with tempfile.TemporaryDirectory(prefix="robobrain_ros-images-") as name:
            folder = Path(name)
            if "arrival" in options.only:
                rows = []
                for reliable in (False, True):
                    for profile in ("default", "large"):
                        streams = Streams(1, 1920, 1080, 30.0, reliable)
                        rows.append(measure_arrival(profile, streams, options.seconds, folder))
                samples["arrival"] = rows
                print(f"{arrival_table(rows)}\n")
            if "idle" in options.only:
                streams = Streams(options.cameras, options.size[0], options.size[1], 30.0, True)
                busy, shares = measure_idle(streams, options.windows, folder)
                samples["idle"] = {"cpu_seconds": busy, "arrived": shares}
                ours, theirs = ([window[index] / WINDOW for window in busy] for index in (0, 1))
                name = f"CPU with {options.cameras} cameras"
                lines.append(compare(name, ours, theirs, mean, "% core", goal=Goal(1.0), scale=100.0))
                print(figures.table(lines))
    except BenchmarkError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    figures.write(options.output, lines, samples, about)
    print(f"All measurements are in {options.output}.", file=sys.stderr)


if __name__ == "__main__":
    main()
