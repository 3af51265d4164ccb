"""Measure the CPU time of a node with and without a buffer of recent images: `python benchmark/history.py`.

One publisher sends images of 1280x720 at 30 Hz. Several nodes receive them at the same time, each in its own process and with
another buffer, so that the ratio of their CPU times depends little on other programs. `--encoders` compares JPEG encoders.
"""

import argparse
import array
import contextlib
import importlib
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
import rclpy
from listening import IdleEngine
from PIL import Image as PillowImage
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from robobrain_ros.core.query import RgbImage
from robobrain_ros.demo.world import make_scene
from robobrain_ros.engine.memory import keep_buffers
from robobrain_ros.ros.node import RoboBrainNode

NAMESPACE = "/robobrain_history"
WIDTH, HEIGHT, RATE = 1280, 720, 30.0
BUFFERS = ((0.0, 0), (5.0, 16), (4.0, 32), (4.0, 120))
"""Seconds and images of each node's buffer. The last one keeps every image."""
_BEGINNING = 60
"""Number of received images after which a node counts as started."""


def noisy_image() -> RgbImage:
    """Return an image of the demo's table with the noise of a sensor, (720, 1280, 3)."""
    shown = cv2.resize(make_scene(1).image, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(0).normal(0.0, 4.0, shown.shape)
    return np.clip(shown + noise, 0, 255).astype(np.uint8)


class Camera(Node):
    """Publishes the image on one topic."""

    def __init__(self) -> None:
        super().__init__("camera_driver", namespace=NAMESPACE)
        self._message = Image(width=WIDTH, height=HEIGHT, step=WIDTH * 3, encoding="rgb8")
        self._message.header.frame_id = "camera_optical_frame"
        self._message.data = array.array("B", noisy_image().tobytes())
        self._publisher = self.create_publisher(Image, "camera/image", QoSProfile(depth=2))
        self.create_timer(1.0 / RATE, self._publish)

    def _publish(self) -> None:
        self._message.header.stamp = self.get_clock().now().to_msg()
        self._publisher.publish(self._message)


def receiver(seconds: float, frames: int) -> RoboBrainNode:
    """Return an active node with this buffer."""
    keep_buffers()
    values: dict[str, Any] = {
        "warm_up": False,
        "grid_check": "off",
        "camera.history_seconds": seconds,
        "camera.history_frames": frames,
    }
    parameters = [Parameter(name, value=value) for name, value in values.items()]
    return RoboBrainNode(engine_factory=IdleEngine, namespace=NAMESPACE, parameter_overrides=parameters)


def run_child(arguments: Sequence[str]) -> None:
    """Run a publisher or a node until SIGINT. A node prints `counts` at each SIGUSR1, and once when it has received images."""
    stop: list[int] = []
    asked: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: stop.append(number))
    signal.signal(signal.SIGUSR1, lambda number, frame: asked.append(number))
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    receives = arguments[0] == "receive"
    node: Any = receiver(float(arguments[1]), int(arguments[2])) if receives else Camera()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    with contextlib.suppress(ExternalShutdownException):
        while not stop:
            executor.spin_once(timeout_sec=0.2)
            if asked or (receives and counts(node)["received"] >= _BEGINNING):
                receives = False
                asked.clear()
                print(json.dumps(counts(node)), flush=True)
    node.destroy_node()
    rclpy.try_shutdown()


def counts(node: RoboBrainNode) -> dict[str, float]:
    """Return the CPU time of this process in seconds, and the images and bytes of the node's camera."""
    found: dict[str, float] = {"cpu": time.process_time(), "received": 0, "kept": 0, "bytes": 0}
    for camera in node.cameras:
        found["received"] = camera.statistics.received
        if camera.history is not None:
            found |= {"kept": len(camera.history), "bytes": camera.history.bytes}
    return found


def start(*arguments: str) -> "subprocess.Popen[str]":
    """Start a child process of this program."""
    return subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)


def read(process: "subprocess.Popen[str]") -> dict[str, float]:
    """Return the next `counts` of a process."""
    assert process.stdout is not None
    found: dict[str, float] = json.loads(process.stdout.readline())
    return found


def ask(process: "subprocess.Popen[str]") -> dict[str, float]:
    """Return the current `counts` of a process."""
    process.send_signal(signal.SIGUSR1)
    return read(process)


def measure(seconds: float) -> None:
    """Print the CPU time of each node for each image that it received, and its ratio to the node without a buffer."""
    receivers = [start("receive", str(span), str(frames)) for span, frames in BUFFERS]
    camera = start("send")
    try:
        for process in receivers:
            read(process)  # The node has started and receives images.
        time.sleep(max(span for span, _ in BUFFERS))
        before = [ask(process) for process in receivers]
        time.sleep(seconds)
        after = [ask(process) for process in receivers]
    finally:
        for process in (camera, *receivers):
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
    received = [later["received"] - earlier["received"] for earlier, later in zip(before, after, strict=True)]
    used = [(later["cpu"] - earlier["cpu"]) / count for earlier, later, count in zip(before, after, received, strict=True)]
    print(f"{WIDTH}x{HEIGHT} at {RATE:g} Hz, {seconds:g} s")
    print("| history_seconds | history_frames | received | kept | MiB | CPU for each image, ms | ratio |\n" + "|---" * 7 + "|")
    for (span, frames), count, cpu, last in zip(BUFFERS, received, used, after, strict=True):
        kept = f"{span:g} | {frames} | {count:.0f} | {last['kept']:.0f} | {last['bytes'] / 2**20:.1f}"
        print(f"| {kept} | {cpu * 1e3:.2f} | {cpu / used[0]:.2f} |")


def encoders(image: RgbImage) -> dict[str, Callable[[], bytes]]:
    """Return a function for each installed encoder, with quality 90 and with and without chroma subsampling."""
    found: dict[str, Callable[[], bytes]] = {}
    for sampling in ("444", "420"):
        found[f"OpenCV {sampling}"] = partial(_opencv, image, getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}"))
        found[f"Pillow {sampling}"] = partial(_pillow, image, {"444": 0, "420": 2}[sampling])
        with contextlib.suppress(ImportError):
            simplejpeg = importlib.import_module("simplejpeg")
            settings = {"quality": 90, "colorspace": "RGB", "colorsubsampling": sampling}
            found[f"simplejpeg {sampling}"] = partial(simplejpeg.encode_jpeg, image, **settings)
    return found


def _opencv(image: RgbImage, sampling: int) -> bytes:
    parameters = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), parameters)[1].tobytes()


def _pillow(image: RgbImage, subsampling: int) -> bytes:
    stream = io.BytesIO()
    PillowImage.fromarray(image).save(stream, "JPEG", quality=90, subsampling=subsampling)
    return stream.getvalue()


def compare_encoders() -> None:
    """Print the CPU time and the size of each encoder's JPEG."""
    cv2.setNumThreads(1)
    image = noisy_image()
    print("| encoder | CPU, ms | kB | PSNR, dB |\n|---|---|---|---|")
    for name, encode in encoders(image).items():
        data, used = encode(), []
        for _ in range(30):
            began = time.process_time()
            encode()
            used.append(time.process_time() - began)
        decoded = np.asarray(PillowImage.open(io.BytesIO(data)).convert("RGB")).astype(float)
        ratio = 10 * np.log10(255**2 / np.mean((decoded - image) ** 2))
        print(f"| {name} | {min(used) * 1e3:.1f} | {len(data) / 1e3:.0f} | {ratio:.1f} |")


def main() -> None:
    """Measure as the arguments state."""
    if sys.argv[1:2] in (["send"], ["receive"]):
        run_child(sys.argv[1:])
        return
    parser = argparse.ArgumentParser(description="Measure the CPU time of a node with and without a buffer of recent images.")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of the measurement (default: %(default)g)")
    parser.add_argument("--encoders", action="store_true", help="compare the installed JPEG encoders instead")
    options = parser.parse_args()
    if options.encoders:
        compare_encoders()
    else:
        measure(options.seconds)


if __name__ == "__main__":
    main()
