"""Publish the answers for RViz and other programs: markers, paths, poses, and images with the answer drawn on them."""

import asyncio
from array import array
from collections import deque
from typing import Any

import cv2
from geometry_msgs.msg import PoseArray
from nav_msgs.msg import Path
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from robobrain_ros.core import overlay
from robobrain_ros.core.messages.frames import plain_frame
from robobrain_ros.core.messages.markers import PixelRays, Style
from robobrain_ros.core.query import Answer, RgbImage
from robobrain_ros.ros.clock import Jump
from robobrain_ros.ros.delivery.boundary import GuardedNode
from robobrain_ros.ros.limits import REQUESTS
from robobrain_ros.ros.messages.conversions import to_image
from robobrain_ros.ros.model import Model
from robobrain_ros.ros.parameters.declared import Parameters
from robobrain_ros.ros.requests.result import Result
from robobrain_ros.ros.views.markers import CurrentMarkers, to_markers, to_path, to_poses
from robobrain_ros.ros.views.subscribers import Subscribers
from robobrain_ros.ros.views.targets import MotionTopics, Target

_JPEG_QUALITY = 90
_MOST_WAITING = 8
"""Maximum number of answers to requests that wait to be drawn. If there are more, the oldest answer gets no overlay."""

CHANGES = QoSProfile(
    depth=10,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    lifespan=Duration(seconds=10.0),
)
"""Profile for markers and overlays. The queue is deep, because a message must not replace an earlier message that is still being
sent: each marker message is a change, and overlays are large. A late subscriber receives the messages of the last 10 s, because
tf2 keeps transforms for 10 s. Within a second, it also receives all current markers."""


class SpatialViews:
    """Publishes ~/markers, ~/path, ~/poses and the topics of `MotionTopics`. Called in the executor.

    Markers are published only while the topic has subscribers. A new subscriber receives all current markers. ~/path and
    ~/poses are latched.
    """

    def __init__(self, node: Node, parameters: Parameters, latched: QoSProfile) -> None:
        self._node = node
        self._parameters = parameters
        self._markers = node.create_publisher(MarkerArray, "~/markers", CHANGES)
        self._subscribers = Subscribers(node, self._markers)
        self._path = Target(node, Path, "~/path", latched)
        self._poses = Target(node, PoseArray, "~/poses", latched)
        self._motion = MotionTopics(node, parameters, latched)
        clock = node.get_clock()
        # This is the node's clock, because RViz measures a marker's lifetime in ROS time.
        self._current = CurrentMarkers(lambda: clock.now().nanoseconds * 1e-9, plain_frame(parameters["target_frame"]))
        self._cameras: dict[str, str] = {}
        """Camera of the newest result of each query. Empty: the image came with the request."""

    def close(self) -> None:
        """Delete all markers and targets, and destroy the publishers."""
        if self._markers.get_subscription_count():
            self._markers.publish(self._current.clear())
        self._node.destroy_publisher(self._markers)
        for target in (self._path, self._poses, self._motion):
            target.close()

    def publish(self, result: Result) -> None:
        """Publish the result of a spatial task. It replaces the markers, the path and the poses of its query, also by nothing."""
        if not (result.task and result.task.spatial):
            return
        query = result.origin.query or REQUESTS
        header = result.message.header
        positions = result.positions
        self._cameras[query] = result.origin.camera
        # The markers are created even without subscribers, for late subscribers. This takes less than a millisecond.
        self._publish_markers(self._current.show(query, self._to_markers(result, header, query)))
        known = positions if result.answer is not None else None
        path = to_path(header, known.waypoints.positions) if known and known.waypoints else None
        poses = to_poses(header, known.points.positions) if known and known.points else None
        # Both, because a robot must not follow the path of a request before the one for these points.
        self._path.show(query, header, path if path and path.poses else None)
        self._poses.show(query, header, poses if poses and poses.poses else None)
        self._motion.show(query, header, result)

    def _to_markers(self, result: Result, header: Header, query: str) -> list[Marker]:
        answer, positions = result.answer or result.rejected, result.positions
        if answer is None:
            return []
        issues = positions.followed.report.issues if positions and positions.followed else ()
        return to_markers(
            answer,
            header,
            query,
            self._style(),
            text=result.origin.text,
            rays=PixelRays(positions.camera, positions.move) if positions and positions.camera else None,
            points=positions.points if positions else None,
            boxes=positions.boxes if positions else None,
            waypoints=positions.waypoints if positions else None,
            faults={issue.waypoint for issue in issues},
            # As on ~/goals: an answer that was rejected has no goals.
            approaches=positions.approaches if positions and result.answer is not None else (),
        )

    def _style(self) -> Style:
        return Style(
            ray_length=self._parameters["marker_ray_length"],
            lifetime=self._parameters["marker_lifetime"],
            approach_distance=self._parameters["approach_distance"],
            finger_length=self._parameters["gripper_finger_length"],
        )

    def clear(self, query: str) -> None:
        """Delete the markers and target of a query."""
        self._cameras.pop(query, None)
        self._publish_markers(self._current.show(query, []))
        for target in (self._path, self._poses):
            target.show(query, Header(), None)
        self._motion.clear(query)

    def clear_all(self) -> None:
        """Delete all markers and targets."""
        self._cameras.clear()
        self._publish_markers(self._current.clear())
        self._path.clear()
        self._poses.clear()
        self._motion.clear_all()

    def end_older(self, jump: Jump) -> None:
        """Delete the markers and targets from images before a time jump: all, or those of the camera whose stamps jumped."""
        if not jump.camera:
            self.clear_all()
        for query in [query for query, camera in self._cameras.items() if jump.concerns(camera)]:
            self.clear(query)

    def on_timer(self) -> None:
        """Publish all current markers for new subscribers; called each second."""
        if self._subscribers.has_new():
            self._markers.publish(self._current.everything(self._node.get_clock().now().to_msg()))

    def _publish_markers(self, message: MarkerArray) -> None:
        if message.markers and self._markers.get_subscription_count():
            self._markers.publish(message)


class Overlay:
    """Publishes ~/overlay and ~/overlay/compressed while they have subscribers. One image is drawn for both, in a thread.

    While an overlay is being drawn, answers to requests wait, and answers to standing queries are skipped.
    """

    def __init__(self, node: GuardedNode, parameters: Parameters, model: Model) -> None:
        self._node = node
        self._parameters = parameters
        self._model = model
        self._raw: Publisher | None = node.create_publisher(Image, "~/overlay", CHANGES)
        self._compressed: Publisher | None = node.create_publisher(CompressedImage, "~/overlay/compressed", CHANGES)
        self._subscribers = Subscribers(node, self._raw), Subscribers(node, self._compressed)
        self._drawing = False
        self._waiting: deque[Result] = deque(maxlen=_MOST_WAITING)
        self._last: Result | None = None

    def close(self) -> None:
        """Destroy the publishers. An overlay that is being drawn is not published."""
        for publisher in (self._raw, self._compressed):
            self._node.destroy_publisher(publisher)
        self._raw = self._compressed = self._last = None
        self._waiting.clear()

    def publish(self, result: Result) -> None:
        """Draw and publish a result if its image was decoded. Without an answer, the overlay shows the name of the outcome."""
        if result.image is None:
            return
        if not any(self._wanted):
            self._last = result
        elif not self._drawing:
            self._begin(result)
        elif not result.origin.query:
            self._waiting.append(result)

    def clear_all(self) -> None:
        """Drop the result that was kept for late subscribers."""
        self._last = None

    def end_older(self, jump: Jump) -> None:
        """Drop the result that was kept for late subscribers, if its image is from before a time jump."""
        if self._last is not None and jump.concerns(self._last.origin.camera):
            self.clear_all()

    def on_timer(self) -> None:
        """Draw the last result for new subscribers; called each second."""
        if self._raw is None or self._drawing:
            return
        if self._has_newcomers() and self._last is not None:
            self._begin(self._last)

    def _has_newcomers(self) -> bool:
        raw, compressed = (subscribers.has_new() for subscribers in self._subscribers)
        return raw or compressed

    @property
    def _wanted(self) -> tuple[bool, bool]:
        """Whether the raw and the compressed topic have subscribers."""
        raw, compressed = (bool(topic and topic.get_subscription_count()) for topic in (self._raw, self._compressed))
        return raw, compressed

    def _begin(self, result: Result) -> None:
        self._drawing = True
        self._last = result
        self._has_newcomers()  # New subscribers receive this overlay, so they count as known from now on.
        self._model.submit(self._draw(result, self._parameters["overlay_thinking"], *self._wanted))

    async def _draw(self, result: Result, thinking: bool, raw: bool, compressed: bool) -> None:
        messages: list[Any] = [None, None]
        try:
            messages = await asyncio.to_thread(_overlay_messages, result, thinking, raw, compressed)
        except Exception:
            self._node.log_traceback("The overlay could not be drawn")
        if self._node.executor is None:
            self._drawing = False
        self._node.start_task(self._drawn, *messages)

    def _drawn(self, raw: Image | None, compressed: CompressedImage | None) -> None:
        self._drawing = False
        for publisher, message in ((self._raw, raw), (self._compressed, compressed)):
            if publisher is not None and message is not None:
                publisher.publish(message)
        if self._waiting and any(self._wanted):
            self._begin(self._waiting.popleft())


def _overlay_messages(result: Result, thinking: bool, raw: bool, compressed: bool) -> list[Any]:
    assert result.image is not None, "only results with an image are drawn"
    assert result.task is not None, "and its task"
    answer, instruction = result.answer or Answer(result.task, ""), result.origin.text
    if result.error is not None:
        instruction = f"{instruction} ({result.error.code.name})"
    drawn = overlay.draw(result.image, answer, instruction=instruction, thinking=thinking)
    return [
        to_image(drawn, result.origin.header) if raw else None,
        _to_compressed(drawn, result.origin.header) if compressed else None,
    ]


def _to_compressed(image: RgbImage, header: Any) -> CompressedImage:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    encoded, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert encoded, "JPEG holds every image"
    return CompressedImage(header=header, format="rgb8; jpeg compressed bgr8", data=array("B", data.tobytes()))
