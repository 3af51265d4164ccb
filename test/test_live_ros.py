"""The live view beside a real node: images, clouds, answers, requests, and what it shows while the node is not running."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import pytest

pytest.importorskip("viser", reason="the live view needs viser")

from builtin_interfaces.msg import Duration
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from fakes import Script, ScriptedEngine
from geometry_msgs.msg import Point, PoseStamped, Quaternion, Vector3
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_rig import LIMIT, Rig, rig
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from robobrain_ros.core.query import Task
from robobrain_ros.core.transforms import Transform, TransformError
from robobrain_ros.demo.camera import CameraSettings, SceneMessages
from robobrain_ros.demo.world import make_scene
from robobrain_ros.live import ros_source
from robobrain_ros.live.feed import Feed, Question, Status
from robobrain_ros.live.guard import LiveViewError
from robobrain_ros.live.ros_camera import guess_depth, info_beside
from robobrain_ros.live.ros_markers import Markers, to_shape
from robobrain_ros.live.ros_reading import read_status
from robobrain_ros.live.ros_source import RosSource
from robobrain_ros.msg import Progress
from robobrain_ros.ros.messages.unknown import unknown
from robobrain_ros.srv import Locate

SCENE = make_scene(12, (320, 240))
MUG = SCENE.find("purple mug")
assert MUG is not None
ANSWER = f"[({MUG.centre[0]}, {MUG.centre[1]})]"
MESSAGES = SceneMessages(SCENE, CameraSettings())
POINTS = 2000
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Live:
    """A node with a camera, and the source of a live view beside it."""

    def __init__(self, it: Rig, feed: Feed, source: RosSource) -> None:
        self.it, self.feed, self.source = it, feed, source
        self.camera = f"{it.name.rpartition('/')[0]}/camera"
        kinds = {"image": Image, "depth": Image, "camera_info": CameraInfo}
        self._publishers = {name: it.client.create_publisher(kind, f"{self.camera}/{name}", 1) for name, kind in kinds.items()}

    def publish(self) -> None:
        """Publish an image with its depth and calibration."""
        header = Header(stamp=self.it.client.get_clock().now().to_msg(), frame_id="camera_optical_frame")
        for name, publisher in self._publishers.items():
            message = getattr(MESSAGES, name)
            message.header = header
            publisher.publish(message)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Publish images until the condition is true, and return its value."""

        def check() -> Any:
            self.publish()
            return condition()

        return self.it.until(check, what)

    def until_ready(self) -> None:
        """Wait until the source and the node have images."""
        self.it.until_ready()
        self.until(lambda: list(self.it.node.cameras), "open cameras")
        self.until(lambda: self.feed.status.ready, "the state of the node")
        self.until(lambda: self.it.node.cameras["camera"].newest, "an image at the node")
        self.until(lambda: self.source.frame() and self.source.cloud(), "an image and a cloud")

    def ask(self, task: Task = Task.POINT, text: str = "the purple mug") -> None:
        question = Question(task, text)
        assert self.feed.begin(question)
        self.source.ask(question)

    @property
    def question(self) -> Question:
        assert self.feed.question is not None
        return self.feed.question


@contextmanager
def live(*scripts: Any, watching: bool = True, namespace: str = "") -> Iterator[Live]:
    with rig(ScriptedEngine(list(scripts)), camera__use_depth=True, namespace=namespace) as it:
        feed = Feed()
        with closing(RosSource(feed, it.name, POINTS, [])) as source:
            source.watch(watching)
            yield Live(it, feed, source)


def test_image_cloud_and_answer_in_3d() -> None:
    with live(ANSWER) as it:
        it.until_ready()
        frame, cloud = it.source.frame(), it.source.cloud()
        assert frame is not None
        assert cloud is not None
        assert np.array_equal(frame.image, SCENE.image)
        assert frame.age is not None
        assert 0.7 * POINTS < len(cloud.points) <= POINTS
        assert np.abs(np.median(cloud.points[:, 2]) - np.median(SCENE.depth[np.isfinite(SCENE.depth)])) < 0.05
        it.ask()
        it.until(lambda: it.question.finished, "the answer")
        assert (it.question.outcome, it.question.message) == ("OK", "")
        it.until(lambda: it.feed.entries, "the answer on its topic")
        assert [(entry.text, entry.source) for entry in it.feed.entries] == [("the purple mug", "this page")]
        shapes = it.until(lambda: it.feed.shapes, "the markers")
        (sphere,) = (shape for shape in shapes.values() if shape.kind == "spheres")
        assert sphere.points[0] == pytest.approx(MUG.pose.position, abs=0.08)  # type: ignore[union-attr]
        assert [shape.text for shape in shapes.values() if shape.kind == "text"] == ["the purple mug"]


def test_answers_of_other_clients_and_failures_are_shown() -> None:
    with live(ANSWER, "There is no such object.") as it:
        it.until_ready()
        it.it.call(Locate, "point", Locate.Request(instruction="the mug"))
        it.until(lambda: it.feed.entries, "the answer")
        assert it.feed.entries[-1].source == "another client"
        assert it.feed.entries[-1].answer.points[0].u == pytest.approx(MUG.centre[0], abs=8)  # type: ignore[union-attr]
        it.ask(text="the unicorn")
        it.until(lambda: it.question.finished, "the outcome")
        assert it.question.outcome in ("NOTHING_FOUND", "UNPARSABLE_ANSWER")
        assert it.question.message
        assert it.question.answer is None


def test_text_and_steps_stream_and_a_question_can_be_canceled() -> None:
    never = asyncio.Event()
    with live(Script(["1. pick up the red ball\n", "2. put", never])) as it:
        it.until_ready()
        it.ask(Task.PLAN, "tidy up")
        it.until(lambda: "2. put" in it.question.written and it.feed.plan, "the text so far")
        assert [state.step.text for state in it.feed.plan] == ["pick up the red ball"]
        assert not it.question.finished
        it.source.cancel()
        it.until(lambda: it.question.finished, "the end")
        assert it.question.outcome == "CANCELED"


def test_without_viewers_nothing_is_subscribed() -> None:
    """The node has subscriptions of its own to the topics of the camera."""
    with live(ANSWER, watching=False) as it:
        topics = [f"{it.it.name}/{name}" for name in ("affordances", "trajectory", "plan", "answer", "progress", "markers")]
        topics += [f"{it.camera}/{name}" for name in ("image", "depth", "camera_info")]

        def subscribed() -> set[str]:
            return {
                topic
                for topic in topics
                if any(info.node_name.startswith("live_view") for info in it.it.client.get_subscriptions_info_by_topic(topic))
            }

        it.it.until_ready()
        assert subscribed() == set()
        for _ in range(2):
            it.source.watch(True)
            it.until(lambda: subscribed() == set(topics), "the subscriptions")
            it.source.watch(False)
            it.it.until(lambda: not subscribed(), "the end of the subscriptions")
        assert it.source.frame() is None
        assert it.source.cloud() is None


@pytest.mark.timeout(4 * LIMIT)
def test_the_end_and_the_restart_of_the_node_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ros_source, "_SILENT", 1.5)
    feed, namespace = Feed(), f"/live_restart_{time.time_ns()}"
    never = asyncio.Event()
    with closing(RosSource(feed, f"{namespace}/robobrain", POINTS, [])) as source:
        source.watch(True)
        with rig(ScriptedEngine([Script(["[(", never])]), namespace=namespace) as first:
            before = Live(first, feed, source)
            first.until_ready()
            before.until(lambda: feed.status.ready and first.node.cameras["camera"].newest, "the node")
            before.ask()
            before.until(lambda: before.question.written, "the beginning of the answer")
        end = time.monotonic() + LIMIT
        while feed.status.level != "error" or not before.question.finished:
            assert time.monotonic() < end, feed.status
            time.sleep(0.05)
        assert feed.status.message == f"The node {namespace}/robobrain is not running. The page continues when it runs again."
        assert before.question.outcome in ("CANCELED", "NOT_READY")
        assert source.frame() is None
        before.ask()
        while not before.question.finished:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert before.question.message == feed.status.message
        with rig(ScriptedEngine([ANSWER]), namespace=namespace) as second:
            after = Live(second, feed, source)
            second.until_ready()
            after.until(lambda: feed.status.ready and source.frame() and second.node.cameras["camera"].newest, "the node")
            assert [note.partition(" ")[2] for note in feed.notes] == [
                f"The node {namespace}/robobrain stopped.",
                f"The node {namespace}/robobrain runs again.",
            ]
            after.ask()
            after.until(lambda: after.question.finished, "an answer")
            assert after.question.outcome == "OK"


def test_a_faulty_message_does_not_end_the_live_view(monkeypatch: pytest.MonkeyPatch) -> None:
    with live(ANSWER) as it:
        it.until_ready()
        monkeypatch.setattr(ros_source, "read_entry", lambda message, asked: 1 / 0)
        it.ask()
        it.until(lambda: it.question.finished, "the answer")
        monkeypatch.undo()
        it.it.until(lambda: it.source._thread.is_alive(), "the executor")
        it.feed.question = None
        it.ask()
        it.until(lambda: it.feed.entries, "an entry")


def test_a_missing_node_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ros_source, "_FIRST", 0.5)
    feed = Feed()
    with closing(RosSource(feed, "/nowhere/robobrain", POINTS, [])) as source:
        source.watch(True)
        end = time.monotonic() + LIMIT
        while feed.status.level != "error":
            assert time.monotonic() < end
            time.sleep(0.05)
    assert feed.status.message.startswith("No node /nowhere/robobrain is running in ROS_DOMAIN_ID ")


def test_a_wrong_name_is_one_sentence() -> None:
    with pytest.raises(LiveViewError, match=r"^The live view cannot use ROS: "):
        RosSource(Feed(), "no name", POINTS, [])


def test_progress_of_a_watched_task_is_a_plot() -> None:
    with live(ANSWER) as it:
        publisher = it.it.client.create_publisher(Progress, f"{it.it.name}/progress", LATCHED)
        estimate = unknown(Progress)
        estimate.task = "pour"
        it.it.until(publisher.get_subscription_count, "the subscription")
        publisher.publish(estimate)  # Its progress is unknown.
        estimate.progress = 0.25
        publisher.publish(estimate)
        it.it.until(lambda: it.feed.progress, "the estimate")
        assert it.feed.watched == "pour"
        assert [value for _, value in it.feed.progress] == [0.25]


def test_only_known_values_of_diagnostics_are_shown() -> None:
    """A value with another key could be secret."""
    values = [
        KeyValue(key="state", value="ready"),
        KeyValue(key="model", value="/models/a/b"),
        KeyValue(key="api_key", value="sk-1"),
    ]
    engine = DiagnosticStatus(message="ready", level=DiagnosticStatus.OK, values=values)
    camera = DiagnosticStatus(message="9.9 images per second; 7% are late: check the driver", values=values)
    status = read_status({"engine": engine, "requests": DiagnosticStatus(values=values), "camera front": camera})
    assert status == Status("ok", "ready", True, (("model", "a/b"), ("camera front", "9.9 images per second; 7% are late")))


def marker(kind: int, **fields: Any) -> Marker:
    message = Marker(type=kind, ns="a", header=Header(frame_id="camera"), **fields)
    message.scale = Vector3(x=0.1, y=0.2, z=0.3)
    message.color = ColorRGBA(r=1.0, g=0.5, b=0.0, a=1.0)
    return message


def points(*places: tuple[float, float, float]) -> list[Point]:
    return [Point(x=x, y=y, z=z) for x, y, z in places]


def test_markers_become_shapes() -> None:
    way = points((0, 0, 0), (1, 0, 0), (1, 1, 0))
    strip = to_shape(marker(Marker.LINE_STRIP, points=way), None)
    assert strip is not None
    assert (strip.kind, strip.points.tolist()) == ("lines", [[0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0]])
    assert strip.colours.tolist() == [[255, 128, 0]] * 2
    arrow = marker(Marker.ARROW)
    arrow.pose.orientation = Quaternion(z=math.sqrt(0.5), w=math.sqrt(0.5))  # x becomes y.
    arrow.pose.position.z = 1.0
    shape = to_shape(arrow, None)
    assert shape is not None
    assert shape.points == pytest.approx(np.array([[0, 0, 1], [0, 0.1, 1]]))
    moved = to_shape(marker(Marker.SPHERE), Transform((0.0, 0.0, 0.0, 1.0), (1.0, 2.0, 3.0)))
    assert moved is not None
    assert moved.points.tolist() == [[1, 2, 3]]
    assert to_shape(marker(Marker.SPHERE_LIST, points=points((math.nan, 0, 0))), None) is None
    assert to_shape(marker(Marker.LINE_STRIP, points=way[:1]), None) is None
    assert to_shape(marker(Marker.MESH_RESOURCE), None) is None


def test_a_goal_is_shown_as_axes_in_the_frame_of_the_scene() -> None:
    turn = (0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5))  # x becomes y.
    markers = Markers(lambda frame, stamp: Transform(turn, (1.0, 0.0, 0.0)))
    goal = PoseStamped(header=Header(frame_id="base"))
    goal.pose.position.x = 2.0
    goal.pose.orientation = Quaternion(w=1.0)
    markers.show_pose("goal", goal)
    (axes,) = markers.current().values()
    assert axes.kind == "axes"
    assert axes.points[0] == pytest.approx((1.0, 2.0, 0.0))
    assert axes.wxyz == pytest.approx((math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)))
    goal.pose.position.x = math.inf
    markers.show_pose("goal", goal)
    assert "is not in the 3D scene" in markers.note


def test_markers_are_deleted_and_expire() -> None:
    markers = Markers(lambda frame, stamp: None)
    sphere = marker(Marker.SPHERE, id=1)
    markers.update(MarkerArray(markers=[sphere, marker(Marker.SPHERE, id=2, lifetime=Duration(nanosec=1))]))
    assert list(markers.current()) == ["a/1"]
    markers.update(MarkerArray(markers=[marker(Marker.SPHERE, id=1, action=Marker.DELETE)]))
    assert markers.current() == {}
    markers.update(MarkerArray(markers=[sphere, Marker(action=Marker.DELETEALL)]))
    assert markers.current() == {}
    markers.update(MarkerArray(markers=[marker(Marker.SPHERE, id=number) for number in range(2000)]))
    assert len(markers.current()) == 500


def test_markers_in_an_unknown_frame_are_named() -> None:
    def locate(frame: str, stamp: int) -> None:
        raise TransformError("the frames are not connected")

    markers = Markers(locate)
    markers.update(MarkerArray(markers=[marker(Marker.SPHERE)]))
    assert markers.current() == {}
    assert markers.note == "The answers in the frame 'camera' are not in the 3D scene: the frames are not connected."


def test_topics_beside_the_image() -> None:
    assert info_beside("/front/image_raw/compressed") == "/front/camera_info"
    assert guess_depth("/front/color/image_raw", ["/wrist/depth", "/front/depth/image"]) == "/front/depth/image"
    assert guess_depth("/front/image", []) == ""
