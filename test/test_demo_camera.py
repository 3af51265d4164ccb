"""The demo's camera over DDS, and the demo itself."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from ros_rig import LIMIT
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from visualization_msgs.msg import MarkerArray

from robobrain_ros.core.query import Task
from robobrain_ros.demo import camera as camera_module
from robobrain_ros.demo.camera import DemoCamera
from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.evaluation.questions import KINDS_BY_TASK

TOPICS = {
    "image": Image,
    "image/compressed": CompressedImage,
    "camera_info": CameraInfo,
    "depth": Image,
    "ground_truth": MarkerArray,
}


@dataclass
class View:
    """A subscriber of all topics, with the messages that it has received."""

    executor: SingleThreadedExecutor
    heard: dict[str, list[Any]] = field(default_factory=lambda: {topic: [] for topic in TOPICS})

    def until(self, condition: Callable[[], Any]) -> None:
        future = rclpy.task.Future(executor=self.executor)
        deadline = LIMIT
        while not condition():
            self.executor.spin_until_future_complete(future, timeout_sec=0.05)
            deadline -= 0.05
            assert deadline > 0, f"heard only { ({topic: len(messages) for topic, messages in self.heard.items()}) }"

    def whole(self) -> dict[str, Any]:
        """Return one message of each topic, all with the stamp of the same image."""

        def stamps(messages: list[Any]) -> set[tuple[int, int]]:
            headers = [message.markers[0].header if isinstance(message, MarkerArray) else message.header for message in messages]
            return {(header.stamp.sec, header.stamp.nanosec) for header in headers}

        common: set[tuple[int, int]] = set()

        def found() -> bool:
            nonlocal common
            common = set.intersection(*(stamps(messages) for messages in self.heard.values()))
            return bool(common)

        self.until(found)
        stamp = max(common)
        return {topic: next(m for m in messages if stamps([m]) == {stamp}) for topic, messages in self.heard.items()}


@contextmanager
def camera(**parameters: Any) -> Iterator[View]:
    """Return a camera with these parameters, and a subscriber of its topics."""
    context = rclpy.context.Context()
    rclpy.init(context=context)
    overrides = [Parameter(name, value=value) for name, value in parameters.items()]
    node = DemoCamera(namespace="/demo_camera_test", parameter_overrides=overrides, context=context)
    client = rclpy.create_node("viewer", namespace="/demo_camera_test", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    executor.add_node(client)
    view = View(executor)
    for topic, message_type in TOPICS.items():
        client.create_subscription(message_type, f"camera/{topic}", view.heard[topic].append, qos_profile_sensor_data)
    try:
        yield view
    finally:
        executor.shutdown()
        node.destroy_node()
        client.destroy_node()
        rclpy.shutdown(context=context)


def depth_of(message: Image) -> np.ndarray:
    """Return the depth image in metres."""
    millimetres = message.encoding == "16UC1"
    values = np.frombuffer(message.data, "<u2" if millimetres else "<f4").reshape(message.height, message.width)
    return values / 1000.0 if millimetres else values


def positions(message: MarkerArray) -> dict[str, tuple[float, float, float]]:
    return {m.text: (m.pose.position.x, m.pose.position.y, m.pose.position.z) for m in message.markers}


@pytest.mark.parametrize("depth_encoding", ["16UC1", "32FC1"])
def test_all_topics_publish_the_same_scene_and_stamp(depth_encoding: str) -> None:
    scene: Scene = make_scene(5, (320, 240))
    with camera(seed=5, width=320, height=240, depth_encoding=depth_encoding) as view:
        seen = view.whole()
    image = np.frombuffer(seen["image"].data, np.uint8).reshape(240, 320, 3)
    assert (image == scene.image).all()
    compressed: Any = cv2.imdecode(np.frombuffer(seen["image/compressed"].data, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(compressed[:, :, ::-1].astype(int) - scene.image).mean() < 5
    assert np.abs(depth_of(seen["depth"]) - scene.depth).max() <= 0.0005 + 1e-6
    info, lens = seen["camera_info"], scene.intrinsics
    assert (info.k[0], info.k[4], info.k[2], info.k[5]) == (lens.fx, lens.fy, lens.cx, lens.cy)
    assert (info.width, info.height) == (320, 240)
    assert positions(seen["ground_truth"]) == {thing.name: pytest.approx(thing.pose.position) for thing in scene.objects}
    frames = {seen[topic].header.frame_id for topic in TOPICS if topic != "ground_truth"}
    assert frames == {"camera_optical_frame"}


def test_things_move_when_asked_to() -> None:
    with camera(seed=5, width=320, height=240, moving=True, rate=20.0) as view:
        first = positions(view.whole()["ground_truth"])
        view.until(lambda: positions(view.heard["ground_truth"][-1]) != first)
        assert positions(view.heard["ground_truth"][-1]).keys() == first.keys()


@pytest.mark.timeout(400)
def test_the_demo_shows_every_task_and_is_right(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "robobrain_ros.demo.quickstart", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=380)
    assert done.returncode == 0, done.stderr
    assert "15 of 15 answers are correct" in done.stdout
    plan, slip, again, success = (done.stdout.rindex(text) for text in ("Plan 1: ", "slipped", "Plan 2: ", "Done: "))
    assert plan < slip < again < success
    assert "the goal holds" in done.stdout
    for task in (*(task.value for task in KINDS_BY_TASK), "point+", "plan+"):
        assert f"\n{task} " in done.stdout, f"robobrain_ros/demo/quickstart.py: add a question for {task} to TOUR"
    sheet: Any = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (480, 1280, 3)
    tasks = [line.split()[0].rstrip("+") for line in done.stdout.splitlines() if line.split("  ")[0].rstrip("+") in set(Task)]
    assert sorted(path.name for path in tmp_path.glob("[0-9][0-9]-*.png")) == [
        f"{number:02d}-{task}.png" for number, task in enumerate(tasks, start=1)
    ]


def test_an_interrupt_while_the_camera_starts_leaves_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> DemoCamera:
        raise KeyboardInterrupt

    monkeypatch.setattr(camera_module, "DemoCamera", interrupted)
    monkeypatch.setattr(rclpy, "init", lambda: None)
    monkeypatch.setattr(rclpy, "try_shutdown", lambda: None)
    monkeypatch.setattr("sys.argv", ["demo_camera"])
    try:
        camera_module.main()
    except KeyboardInterrupt:  # It would end the whole test run.
        pytest.fail("the interrupt leaves main")
