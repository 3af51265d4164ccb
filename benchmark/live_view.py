"""Measure the processor time of the live view, in percent of one core: with viewers, and while no browser is open.

    . scripts/env.sh
    python benchmark/live_view.py --seconds 20

One process publishes images, depth, camera_info and /diagnostics, as a node with one camera does. The live view runs in its own
process. Viewers receive everything and render nothing, because the browser's time is not that of the live view.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import psutil
import rclpy
import viser
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.executors import ExternalShutdownException
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from websockets.sync.client import connect

from robobrain_ros.demo.camera import CameraSettings, SceneMessages
from robobrain_ros.demo.world import make_scene

_WARM_UP = 5.0


def publish(namespace: str, rate: float, width: int, height: int) -> None:
    """Publish the topics of a camera and of a node's /diagnostics until the process ends."""
    rclpy.init()
    node = rclpy.create_node("publisher", namespace=namespace)
    scene, settings = make_scene(12, (width, height)), CameraSettings(width=width, height=height)
    scenes = [SceneMessages(scene.at(step * 0.75), settings) for step in range(8)]  # The objects move.
    kinds = {"image": Image, "depth": Image, "camera_info": CameraInfo}
    publishers = {name: node.create_publisher(kind, f"camera/{name}", QoSProfile(depth=10)) for name, kind in kinds.items()}
    number = itertools.count()
    diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
    name = f"{namespace.strip('/')}/robobrain"
    status = DiagnosticArray(
        status=[
            DiagnosticStatus(name=f"{name}: engine", message="ready", values=[KeyValue(key="state", value="ready")]),
            DiagnosticStatus(name=f"{name}: camera camera", values=[KeyValue(key="topic", value=f"{namespace}/camera/image")]),
        ]
    )

    def send() -> None:
        header = Header(stamp=node.get_clock().now().to_msg(), frame_id=settings.frame_id)
        messages = scenes[next(number) % len(scenes)]
        for name, publisher in publishers.items():
            message = getattr(messages, name)
            message.header = header
            publisher.publish(message)

    node.create_timer(1.0 / rate, send)
    node.create_timer(1.0, lambda: diagnostics.publish(status))
    with suppress(ExternalShutdownException):
        rclpy.spin(node)


class Viewer:
    """Receives the page's messages in a thread, and counts their bytes."""

    def __init__(self, address: str) -> None:
        protocols: list[Any] = [f"viser-v{viser.__version__}"]
        self._connection = connect(address.replace("http://", "ws://"), subprotocols=protocols, max_size=None, compression=None)
        pose = {"wxyz": [1, 0, 0, 0], "position": [0, 0, 0], "look_at": [0, 0, 1], "up_direction": [0, -1, 0]}
        size = {"image_height": 600, "image_width": 800}
        message = {"type": "ViewerCameraMessage", **pose, **size, "fov": 1.0, "near": 0.01, "far": 100.0}
        self._connection.send(msgspec.msgpack.encode(message))
        self.bytes = self.clouds = 0
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        for data in self._connection:
            self.bytes += len(data)
            self.clouds += len(data) > 200_000

    def close(self) -> None:
        """Leave the page."""
        self._connection.close()


def measure(process: psutil.Process, seconds: float) -> float:
    """Return the processor time of a process in percent of one core."""
    before, began = process.cpu_times(), time.monotonic()
    time.sleep(seconds)
    after = process.cpu_times()
    return 100.0 * (after.user + after.system - before.user - before.system) / (time.monotonic() - began)


def main() -> None:
    """Print the results as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each measurement (default: %(default)g)")
    parser.add_argument("--rate", type=float, default=10.0, help="images per second (default: %(default)g)")
    parser.add_argument("--points", type=int, default=50_000, help="most points of the cloud (default: %(default)s)")
    parser.add_argument("--size", default="640x480", help="size of the images (default: %(default)s)")
    parser.add_argument("--viewers", type=int, nargs="+", default=[0, 1, 2], help="numbers of viewers (default: 0 1 2)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--publish", metavar="NAMESPACE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    width, height = (int(part) for part in options.size.split("x"))
    if options.publish:
        publish(options.publish, options.rate, width, height)
        return
    namespace = f"/live_benchmark_{os.getpid()}"
    again = [sys.executable, __file__, "--publish", namespace, "--rate", str(options.rate), "--size", options.size]
    live = ["--node", f"{namespace}/robobrain", "--depth-topic", f"{namespace}/camera/depth", "--port", "0"]
    live += ["--rate", str(options.rate), "--points", str(options.points)]
    publisher = subprocess.Popen(again)
    page = subprocess.Popen([sys.executable, "-P", "-m", "robobrain_ros.live.main", *live], stdout=subprocess.PIPE, text=True)
    rows = []
    try:
        assert page.stdout is not None, "it is a pipe"
        (address,) = re.findall(r"http://\S+", page.stdout.readline())
        for count in options.viewers:
            viewers = [Viewer(address) for _ in range(count)]
            time.sleep(_WARM_UP)
            before = [(viewer.bytes, viewer.clouds) for viewer in viewers]
            load = measure(psutil.Process(page.pid), options.seconds)
            changes = np.array([(viewer.bytes, viewer.clouds) for viewer in viewers]) - np.array(before)
            mean = changes.mean(axis=0) / options.seconds if count else (0.0, 0.0)
            rows.append({"viewers": count, "core_percent": round(load, 1), "clouds_per_second": round(float(mean[1]), 1),
                         "megabytes_per_second": round(float(mean[0]) / 1e6, 2)})  # fmt: skip
            for viewer in viewers:
                viewer.close()
            time.sleep(1.0)
    finally:
        for process in (page, publisher):
            process.terminate()
            process.wait(timeout=20)
    if options.json:
        print(json.dumps(rows))
        return
    print("viewers   % of a core   clouds/s per viewer   MB/s per viewer")
    for row in rows:
        print("{viewers:7}   {core_percent:11}   {clouds_per_second:19}   {megabytes_per_second:15}".format(**row))


if __name__ == "__main__":
    main()
