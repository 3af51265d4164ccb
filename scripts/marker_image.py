"""Create docs/images/markers.png. It shows the node's markers as in RViz, seen from a place next to the camera.

    python scripts/marker_image.py

The program runs the camera and the node of the demo. The point cloud is the depth of the scene, and the markers are from
~/markers. The program draws them itself, because RViz needs a screen.
"""

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile
from visualization_msgs.msg import Marker, MarkerArray

from robobrain_ros.cli.progress import ProgressPrinter
from robobrain_ros.core.geometry import CameraModel
from robobrain_ros.core.query import Task
from robobrain_ros.demo import DEMO_MODEL, DemoError
from robobrain_ros.demo.client import DemoClient, running
from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.errors import OutcomeCode

Floats = npt.NDArray[np.float64]
Canvas = npt.NDArray[np.uint8]

SEED = 12
SCENE_SIZE = (640, 480)
VIEW_SIZE = (960, 540)
QUESTIONS = (
    (Task.POINT, "the purple mug"),
    (Task.GROUND, "the yellow mug"),
    (Task.TRAJECTORY, "put the red ball into the green bowl"),
)
TIMEOUT = 300.0
FARTHEST = 1.6
"""Largest depth in metres of drawn pixels."""
SMOOTH = 8
"""Fractional bits of OpenCV's drawing coordinates."""


@dataclass(frozen=True)
class View:
    """A virtual camera that looks at ``centre``. It is the real camera, rotated around ``centre`` by ``yaw`` and ``pitch``.

    :param centre: position in metres in the real camera's optical frame.
    :param yaw: angle in radians. ``pitch``: likewise.
    :param focal_length: pixels.
    """

    centre: Floats
    yaw: float
    pitch: float
    focal_length: float

    def project(self, positions: Floats) -> Floats:
        """Return pixels and depth (n, 3) of positions (n, 3) in the real camera's optical frame."""
        turn = cv2.Rodrigues(np.array([self.pitch, 0.0, 0.0]))[0] @ cv2.Rodrigues(np.array([0.0, self.yaw, 0.0]))[0]
        seen = (positions - self.centre) @ turn.T + [0.0, 0.0, float(np.linalg.norm(self.centre))]
        pixels = seen[:, :2] / seen[:, 2:] * self.focal_length + np.array(VIEW_SIZE) / 2
        return np.column_stack([pixels, seen[:, 2]])


class Watcher(DemoClient):
    """A client that collects the markers of the answers."""

    def __init__(self, namespace: str) -> None:
        super().__init__("watcher", namespace)
        self._newest: list[Any] = []
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(MarkerArray, "robobrain/markers", self._keep, latched)

    def _keep(self, message: Any) -> None:
        self._newest = [marker for marker in message.markers if marker.action == Marker.ADD]

    def see(self, task: Task, text: str) -> list[Any]:
        """Ask a question, and return the markers of the answer."""
        self._newest = []
        response = self.ask_node(task, text, False, TIMEOUT)
        if response.outcome.code != OutcomeCode.OK:
            raise DemoError(f"{text}: {response.outcome.message}")
        end = time.monotonic() + 10.0
        while not self._newest:
            if time.monotonic() > end:
                raise DemoError(f"{text}: no markers arrived. {response.outcome.message}")
            rclpy.spin_once(self, timeout_sec=0.1)
        return self._newest


def ask_all(logs: Path) -> list[Any]:
    """Start camera and node, ask all questions, and return the markers."""
    namespace = f"/marker_image_{os.getpid()}"
    size = {"width": SCENE_SIZE[0], "height": SCENE_SIZE[1]}
    node = {"engine.model": str(DEMO_MODEL), "camera.use_depth": True}
    with (
        running("robobrain_ros.cli.robobrain", namespace, logs / "node.log", **node) as process,
        running("robobrain_ros.demo.camera", namespace, logs / "camera.log", seed=SEED, **size),
    ):
        watcher = Watcher(namespace)
        try:
            watcher.wait_until_ready(process, TIMEOUT, ProgressPrinter())
            return [marker for task, text in QUESTIONS for marker in watcher.see(task, text)]
        finally:
            watcher.destroy_node()


def cloud(scene: Scene) -> tuple[Floats, Canvas]:
    """Return the positions (n, 3) of the scene's pixels in the optical frame, and their colours (n, 3), BGR."""
    rows, columns = np.nonzero(scene.depth < FARTHEST)
    lens = scene.intrinsics
    camera = CameraModel(scene.width, scene.height, lens.fx, lens.fy, lens.cx, lens.cy)
    positions = camera.positions(np.column_stack((columns, rows)), scene.depth[rows, columns])
    return positions, np.ascontiguousarray(scene.image[rows, columns][:, ::-1])


def draw_cloud(canvas: Canvas, view: View, positions: Floats, colours: Canvas) -> None:
    """Draw each position as a small square. The nearest position is drawn last."""
    seen = view.project(positions)
    order = np.argsort(-seen[:, 2])
    places = np.rint(seen[order, :2]).astype(int)
    for row, column in np.ndindex(4, 4):
        moved = places + np.array([column - 1, row - 1])
        inside = ((moved >= 0) & (moved < VIEW_SIZE)).all(axis=1)
        canvas[moved[inside, 1], moved[inside, 0]] = colours[order][inside]


def draw_marker(canvas: Canvas, view: View, marker: Any) -> None:
    """Draw a marker as RViz does."""
    points = marker.points or [marker.pose.position]
    seen = view.project(np.array([[point.x, point.y, point.z] for point in points]))
    colours = [_bgr(colour) for colour in marker.colors] or [_bgr(marker.color)] * len(seen)
    sizes = marker.scale.x * view.focal_length / seen[:, 2]
    if marker.type in (Marker.SPHERE, Marker.SPHERE_LIST):
        for place, size, colour in zip(seen, sizes, colours, strict=True):
            cv2.circle(canvas, _fixed(place), int(size / 2 * 2**SMOOTH), colour, -1, cv2.LINE_AA, SMOOTH)
    elif marker.type == Marker.LINE_STRIP:
        for start, end, size, colour in zip(seen, seen[1:], sizes, colours[1:], strict=False):
            cv2.line(canvas, _fixed(start), _fixed(end), colour, max(round(size), 1), cv2.LINE_AA, SMOOTH)
    elif marker.type == Marker.ARROW:
        _draw_head(canvas, seen, marker.scale.y * view.focal_length / seen[1, 2], colours[0])
    elif marker.type == Marker.TEXT_VIEW_FACING:
        _draw_text(canvas, marker.text, seen[0], colours[0])


def _draw_head(canvas: Canvas, seen: Floats, width: float, colour: tuple[float, ...]) -> None:
    tail, tip = seen[0, :2], seen[1, :2]
    way = (tip - tail) / max(float(np.linalg.norm(tip - tail)), 1e-6)
    across = np.array([-way[1], way[0]]) * width / 2
    base = tip - way * 1.5 * width
    corners = np.array([_fixed(corner) for corner in (tip, base + across, base - across)], np.int32)
    cv2.fillConvexPoly(canvas, corners, colour, cv2.LINE_AA, SMOOTH)


def _draw_text(canvas: Canvas, text: str, place: Floats, colour: tuple[float, ...]) -> None:
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
    corner = int(place[0] - width / 2), int(place[1]) - 2 * height
    cv2.rectangle(canvas, (corner[0] - 4, corner[1] - height - 4), (corner[0] + width + 4, corner[1] + 5), (32, 32, 32), -1)
    cv2.putText(canvas, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)


def _bgr(colour: Any) -> tuple[float, ...]:
    return tuple(255.0 * part for part in (colour.b, colour.g, colour.r))


def _fixed(place: Floats) -> tuple[int, int]:
    return round(place[0] * 2**SMOOTH), round(place[1] * 2**SMOOTH)


def draw(scene: Scene, markers: list[Any]) -> Canvas:
    """Return an image of the scene's point cloud and the markers."""
    positions, colours = cloud(scene)
    view = View(np.median(positions, axis=0), yaw=0.5, pitch=-0.12, focal_length=520.0)
    canvas: Canvas = np.full((VIEW_SIZE[1], VIEW_SIZE[0], 3), 48, np.uint8)
    draw_cloud(canvas, view, positions, colours)
    for marker in sorted(markers, key=lambda marker: marker.type == Marker.TEXT_VIEW_FACING):
        draw_marker(canvas, view, marker)
    return canvas


def main() -> None:
    """Create the image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/images/markers.png"))
    options = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    rclpy.init()
    try:
        with tempfile.TemporaryDirectory(prefix="robobrain_ros-") as logs:
            markers = ask_all(Path(logs))
    finally:
        rclpy.try_shutdown()
    cv2.imwrite(str(options.output), draw(make_scene(SEED, SCENE_SIZE), markers))
    print(f"{len(markers)} markers are in {options.output}.")


if __name__ == "__main__":
    main()
