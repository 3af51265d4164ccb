"""Source with ROS: a node robobrain, through its topics and its action. The node needs no code for the page."""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from visualization_msgs.msg import MarkerArray

from robobrain_ros.core.clouds import Cloud
from robobrain_ros.core.messages.frames import plain_frame
from robobrain_ros.core.messages.stamps import nanoseconds
from robobrain_ros.core.query import CAMERA_TASKS, Task
from robobrain_ros.core.transforms import Transform, TransformBuffer, TransformError
from robobrain_ros.live.feed import Feed, Frame, Question, Status
from robobrain_ros.live.guard import LiveViewError
from robobrain_ros.live.ros_camera import CameraInput, Topics, guess_depth, info_beside
from robobrain_ros.live.ros_markers import Markers
from robobrain_ros.live.ros_reading import read_entry, read_status, values_of
from robobrain_ros.live.ros_request import Requests
from robobrain_ros.ros.process.rcl_errors import explain
from robobrain_ros.ros.tasks import TASKS

_log = logging.getLogger(__name__)

_SILENT = 3.5
"""Seconds without /diagnostics after which the node counts as ended. It publishes them each second."""
_FIRST = 5.0
"""Seconds to wait for the first /diagnostics."""
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_CHANGES = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_JOIN = 5.0


class RosSource:
    """See `feed.Source`. Everything except `frame` and `cloud` runs in the executor's thread.

    :param robobrain: name of the node, relative to the namespace of the arguments, or absolute.
    :param arguments: ROS arguments, from --ros-args on.
    :param depth: depth topic of the first camera. Empty: the topic to which the node subscribes.
    :param info: camera_info topic of the first camera. Empty: beside the image topic.
    :raises LiveViewError: an argument is invalid.
    """

    live = True

    def __init__(
        self, feed: Feed, robobrain: str, most_points: int, arguments: list[str], *, depth: str = "", info: str = ""
    ) -> None:
        self._feed = feed
        self._context = rclpy.context.Context()
        try:
            rclpy.init(context=self._context, args=arguments, signal_handler_options=SignalHandlerOptions.NO)
            self._node = rclpy.create_node(f"live_view_{os.getpid()}", context=self._context)
            self._name = self._node.resolve_service_name(robobrain)
            self._requests = Requests(self._node, self._name, feed)
        except Exception as error:  # From rclpy: a name, a namespace or an argument is invalid.
            rclpy.try_shutdown(context=self._context)
            raise LiveViewError(f"The live view cannot use ROS: {explain(error)}") from error
        self._depth, self._info = (self._node.resolve_topic_name(topic) if topic else "" for topic in (depth, info))
        self._camera = CameraInput(self._node, most_points)
        self._chosen = ""
        self._cameras: dict[str, str] = {}
        """Image topic of each camera."""
        self._markers = Markers(self._locate)
        self._transforms = TransformBuffer()
        self._tf: list[Any] = []
        self._subscriptions: list[Any] = []
        self._timer: Any = None
        self._watching = False
        self._heard = self._since = 0.0
        self._alive: bool | None = None
        self._restarts = ""
        self._closing = False
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="live ros", daemon=True)
        self._thread.start()

    def choices(self) -> Sequence[str]:
        """See `feed.Source.choices`."""
        return list(self._cameras)

    def choose(self, name: str) -> None:
        """See `feed.Source.choose`."""

        def change() -> None:
            if name in self._cameras:
                self._chosen = name
                self._open_camera()

        self._call(change)

    def watch(self, watching: bool) -> None:
        """See `feed.Source.watch`."""

        def change() -> None:
            if watching != self._watching:
                self._watching = watching
                (self._subscribe if watching else self._unsubscribe)()

        self._call(change)

    def frame(self) -> Frame | None:
        """See `feed.Source.frame`."""
        return self._camera.frame()

    def cloud(self) -> Cloud | None:
        """See `feed.Source.cloud`."""
        return self._camera.cloud()

    def ask(self, question: Question) -> None:
        """See `feed.Source.ask`."""

        def send() -> None:
            if self._alive is False:
                self._feed.finish("NOT_READY", self._feed.status.message, None)
            else:
                self._requests.ask(question, self._chosen)

        self._call(send)

    def cancel(self) -> None:
        """See `feed.Source.cancel`."""
        self._call(self._requests.cancel)

    def close(self) -> None:
        """Leave ROS."""
        self._closing = True
        self._executor.shutdown(timeout_sec=_JOIN)
        self._thread.join(timeout=_JOIN)
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def _call(self, work: Callable[[], None]) -> None:
        self._executor.create_task(work)

    def _spin(self) -> None:
        while not self._closing and self._context.ok():
            try:
                self._executor.spin()
            except (ExternalShutdownException, ShutdownException):
                return
            except Exception:  # From a callback. The other callbacks go on.
                _log.exception("A message of the node could not be shown")

    def _subscribe(self) -> None:
        self._since = time.monotonic()
        self._alive = None
        self._feed.set_status(Status("warn", f"Waiting for the node {self._name}."))
        listen = self._node.create_subscription
        self._subscriptions = [
            listen(DiagnosticArray, "/diagnostics", self._take_diagnostics, 10),
            listen(MarkerArray, f"{self._name}/markers", self._take_markers, _CHANGES),
            listen(PoseStamped, f"{self._name}/goal_pose", self._take_goal, 1),
        ]
        types = {TASKS[task].result_field: TASKS[task].message_type for task in CAMERA_TASKS}
        self._subscriptions += [
            listen(kind, f"{self._name}/{field}", self._take_answer, _LATCHED) for field, kind in types.items()
        ]
        progress = TASKS[Task.PROGRESS]
        self._subscriptions.append(
            listen(progress.message_type, f"{self._name}/{progress.result_field}", self._take_progress, _LATCHED)
        )
        steady = rclpy.clock.Clock(clock_type=rclpy.clock.ClockType.STEADY_TIME)  # Simulated time can stand still.
        self._timer = self._node.create_timer(1.0, self._on_timer, clock=steady)

    def _unsubscribe(self) -> None:
        for subscription in (*self._subscriptions, *self._tf):
            self._node.destroy_subscription(subscription)
        self._subscriptions, self._tf = [], []
        self._node.destroy_timer(self._timer)
        self._camera.close()
        self._markers.clear()
        self._feed.set_shapes({})

    def _on_timer(self) -> None:
        now = time.monotonic()
        if self._alive and now - self._heard > _SILENT:
            self._alive = False
            self._feed.note(f"The node {self._name} stopped.")
            self._feed.set_status(
                Status("error", f"The node {self._name} is not running. The page continues when it runs again.")
            )
            self._camera.close()
            self._markers.clear()
        elif self._alive is None and now - self._since > _FIRST:
            self._alive = False
            domain = os.environ.get("ROS_DOMAIN_ID", "0")
            text = f"No node {self._name} is running in ROS_DOMAIN_ID {domain}. Start it, or choose another one with --node."
            self._feed.set_status(Status("error", text))
        if self._alive:
            self._open_camera()
        self._requests.check(self._alive is not False)
        note = " ".join(filter(None, (self._camera.fault, self._markers.note)))
        shapes = self._markers.current()
        if shapes != self._feed.shapes or note != self._feed.position_note:
            self._feed.set_shapes(shapes, note)

    def _open_camera(self) -> None:
        if not self._cameras:
            return
        if self._chosen not in self._cameras:
            self._chosen = next(iter(self._cameras))
        image = self._cameras[self._chosen]
        first = self._chosen == next(iter(self._cameras))
        info = (self._info if first else "") or info_beside(image)
        self._camera.open(Topics(image, info, (self._depth if first else "") or guess_depth(image, self._depth_topics())))

    def _depth_topics(self) -> list[str]:
        """Return the image topics to which the node subscribes, except those of its cameras."""
        namespace, _, name = self._name.rpartition("/")
        try:
            found = self._node.get_subscriber_names_and_types_by_node(name, namespace or "/")
        except Exception:  # rclpy: the node ended.
            return []
        images = set(self._cameras.values())
        return [topic for topic, types in found if topic not in images and any("Image" in kind for kind in types)]

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        prefix = f"{self._name.lstrip('/')}: "
        parts = {status.name.removeprefix(prefix): status for status in message.status if status.name.startswith(prefix)}
        engine = parts.get("engine")
        if engine is None:
            return
        self._heard = time.monotonic()
        restarts = values_of(engine).get("restarts", "")
        if self._alive is False:
            self._feed.note(f"The node {self._name} runs again.")
        elif self._alive and restarts not in (self._restarts, "0"):
            self._feed.note("The engine restarted.")
        self._alive, self._restarts = True, restarts
        self._cameras = {
            name.removeprefix("camera "): values_of(status).get("topic", "")
            for name, status in parts.items()
            if name.startswith("camera ")
        }
        self._feed.set_status(read_status(parts))

    def _take_markers(self, message: MarkerArray) -> None:
        self._markers.update(message)
        self._show_markers()

    def _take_goal(self, message: PoseStamped) -> None:
        self._markers.show_pose("goal", message)
        self._show_markers()

    def _show_markers(self) -> None:
        self._feed.set_shapes(self._markers.current(), " ".join(filter(None, (self._camera.fault, self._markers.note))))

    def _take_answer(self, message: Any) -> None:
        self._feed.add(read_entry(message, self._feed.question))

    def _take_progress(self, message: Any) -> None:
        if not math.isnan(message.progress):
            self._feed.add_progress(message.task, message.progress)

    def _locate(self, frame: str, stamp: int) -> Transform | None:
        camera = self._camera.frame_id
        if not camera or camera == frame:
            return None
        self._subscribe_tf()
        return self._transforms.lookup(camera, frame, stamp)

    def _subscribe_tf(self) -> None:
        """Subscribe to the transforms when they are needed first, since /tf has a high rate."""
        if self._tf:
            return
        try:
            from tf2_msgs.msg import TFMessage
        except ImportError as error:
            raise TransformError("the ROS package tf2_msgs is not installed") from error
        static = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._tf = [
            self._node.create_subscription(TFMessage, "/tf", lambda message: self._take_tf(message, static=False), 100),
            self._node.create_subscription(TFMessage, "/tf_static", lambda message: self._take_tf(message, static=True), static),
        ]

    def _take_tf(self, message: Any, *, static: bool) -> None:
        for stamped in message.transforms:
            turn, shift = stamped.transform.rotation, stamped.transform.translation
            transform = Transform((turn.x, turn.y, turn.z, turn.w), (shift.x, shift.y, shift.z))
            parent, child = plain_frame(stamped.header.frame_id), plain_frame(stamped.child_frame_id)
            try:
                self._transforms.add(parent, child, nanoseconds(stamped.header.stamp), transform, static=static)
            except TransformError:
                continue
