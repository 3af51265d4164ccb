"""Measure the bag program: its throughput as a ratio to the engine's own, and its memory. Run `python benchmark/bags.py`.

Results: docs/how-to/bags.md. Both throughputs are measured in one process in turn, with 8 requests in flight and images of one
scene. The engine takes 1 s for each request and no processor time: 8 requests/s, as RoboBrain 7B on an H100 (7.6 requests/s,
docs/results/gpu.md). With `--demo-model`, it is the tabletop demo model on the CPU. The memory is that of a process that asks
about each image of a bag of 2 GB. The exit status is 1 if a goal is missed.
"""

import argparse
import asyncio
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from robobrain_ros.bags.answers import Responder
from robobrain_ros.bags.cameras import select_cameras
from robobrain_ros.bags.messages import IMAGE, ros2_types
from robobrain_ros.bags.moments import Moments
from robobrain_ros.bags.output import Output
from robobrain_ros.bags.positions import PositionSettings
from robobrain_ros.bags.questions import Question
from robobrain_ros.bags.run import AT_ONCE, Run
from robobrain_ros.bags.source import Source
from robobrain_ros.core import Brain, Query, Task, profile_for
from robobrain_ros.demo import DEMO_MODEL, recording
from robobrain_ros.demo.world import make_scene
from robobrain_ros.engine.base import EngineHealth, EngineInfo, Generation, ProgressCallback, TextDelta
from robobrain_ros.local import open_brain

RATIO, MEGABYTES = 0.9, 1500.0
"""Goals: least ratio of the throughputs, and largest memory of the process in MB."""
TEXT = "the purple mug"
DEPTH_TOPIC = "/camera/depth"


class TimedEngine:
    """An engine that answers each request after a fixed time.

    :param latency: seconds.
    """

    def __init__(self, latency: float) -> None:
        self._latency = latency

    async def start(self, progress: ProgressCallback) -> EngineInfo:
        return EngineInfo(model="timed", model_type="qwen2_5_vl", engine="timed", cell=28)

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        await asyncio.sleep(self._latency)
        yield TextDelta("[(320, 240)]", 8, prompt_tokens=500, finish_reason="stop")

    async def abort(self, request_id: str) -> None:
        return

    def health(self) -> EngineHealth:
        return EngineHealth("ready", "")

    async def close(self) -> None:
        return


def write_large_bag(path: Path, size: int, *, width: int = 640, height: int = 480) -> int:
    """Write a bag of at least ``size`` bytes with raw images, camera_info and depth. Return the number of images."""
    from rosbags.rosbag2 import StoragePlugin, Writer

    store, scene = ros2_types(), make_scene(12, size=(width, height))
    images = 0
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = [
            (writer.add_connection(topic, kind, typestore=store), kind, make)
            for topic, kind, make in (
                ("/camera/image", IMAGE, recording.image_message),
                ("/camera/camera_info", "sensor_msgs/msg/CameraInfo", recording.info_message),
                (DEPTH_TOPIC, IMAGE, recording.depth_message),
            )
        ]
        written = 0
        while written < size:
            time_ns = recording.BEGIN + images * 33_333_333
            header = recording.stamped(time_ns, recording.CAMERA_FRAME)
            for connection, kind, make in topics:
                raw = store.serialize_cdr(make(scene, header), kind)
                writer.write(connection, time_ns, raw)
                written += len(raw)
            images += 1
    return images


async def own_rate(brain: Brain, images: list[np.ndarray[Any, Any]], requests: int) -> float:
    """Return the requests per second of the engine with `AT_ONCE` in flight, without a bag."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def ask(number: int) -> None:
        async with slots:
            await brain.run(Query(Task.POINT, TEXT, [images[number % len(images)]], image_ids=[f"own-{time.time_ns()}-{number}"]))

    began = time.monotonic()
    await asyncio.gather(*map(ask, range(requests)))
    return requests / (time.monotonic() - began)


async def bag_rate(brain: Brain, path: Path, out: Path) -> float:
    """Return the images per second of a run through a bag, from the first read to the finished output."""
    shutil.rmtree(out, ignore_errors=True)
    began = time.monotonic()
    source = Source(path)
    cameras = select_cameras(source, [], [], [DEPTH_TOPIC])
    questions = [Question(Task.POINT, TEXT, cameras=("camera",))]
    writer = ThreadPoolExecutor(1)
    output = writer.submit(Output.open, out, "mcap", {}, overwrite=False).result()
    responder = Responder(brain, PositionSettings(), limit=AT_ONCE)
    run = Run(source, output, writer, questions, responder, node="robobrain")
    assert await run.run(Moments(source, cameras, questions), [])
    source.close()
    return run.summary.images / (time.monotonic() - began)


async def _timed_brain(latency: float) -> Brain:
    engine = TimedEngine(latency)
    return Brain(engine, profile_for("qwen2_5_vl"), info=await engine.start(lambda progress: None))


async def compare(options: argparse.Namespace, folder: Path) -> float:
    """Print both rates of each pair, and return the median of the ratios."""
    path = folder / "bag"
    recording.record(path, seconds=options.requests / recording.RATE, seed=12)
    images = [make_scene(12).at(number / recording.RATE).image for number in range(16)]
    brain = await (open_brain(str(DEMO_MODEL)) if options.demo_model else _timed_brain(options.latency))
    ratios = []
    try:
        await own_rate(brain, images, 2 * AT_ONCE)
        for _ in range(options.pairs):
            own = await own_rate(brain, images, options.requests)
            found = await bag_rate(brain, path, folder / "out")
            ratios.append(found / own)
            print(f"engine {own:6.2f} requests/s, bag {found:6.2f} requests/s, ratio {ratios[-1]:.3f}", flush=True)
    finally:
        await brain.close()
    return statistics.median(ratios)


def memory(path: Path, latency: float) -> dict[str, float]:
    """Run through a bag in this process, and return the largest memory of the process in MB, before and at the end."""
    before = _peak()

    async def go() -> float:
        return await bag_rate(await _timed_brain(latency), path, path.with_name("out"))

    rate = asyncio.run(go())
    return {"before": before, "peak": _peak(), "rate": rate}


def _peak() -> float:
    """Return the largest memory of this process so far in MB. Unlike ru_maxrss, it does not include the parent before exec."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def measure_memory(path: Path, latency: float) -> dict[str, float]:
    """Return the result of `memory` in a new process."""
    command = [sys.executable, __file__, "--memory-of", str(path), "--latency", str(latency)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    """Measure, print and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the bag for the memory; 0 skips this part")
    parser.add_argument("--requests", type=int, default=200, help="requests of each throughput; 0 skips this part")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--latency", type=float, default=1.0, help="seconds of the engine for each request")
    parser.add_argument("--demo-model", action="store_true", help="use the tabletop demo model on this machine")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(memory(options.memory_of, options.latency)))
        return 0
    missed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.requests:
            ratio = asyncio.run(compare(options, folder))
            missed |= ratio < RATIO
            print(f"throughput: {ratio:.3f} of the engine's own with {AT_ONCE} requests in flight (goal: {RATIO})")
        if options.gigabytes:
            images = write_large_bag(folder / "large", round(options.gigabytes * 1e9))
            found = measure_memory(folder / "large", 0.0)
            missed |= found["peak"] > MEGABYTES
            print(
                f"memory: {found['peak']:.0f} MB at most, {found['before']:.0f} MB of it before the run; bag of "
                f"{options.gigabytes:g} GB, {images} images, {found['rate']:.0f} images/s (goal: {MEGABYTES:.0f} MB)"
            )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
