"""What people and other programs see of the answers: markers, paths, poses, and pictures with the answer drawn in."""

import asyncio
import traceback
from array import array
from collections import deque
from typing import Any

import cv2
from geometry_msgs.msg import PoseArray
from nav_msgs.msg import Path
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from visualization_msgs.msg import MarkerArray

from robobrain_ros.core import overlay
from robobrain_ros.core.query import Picture
from robobrain_ros.ros.conversions import to_image
from robobrain_ros.ros.markers import REQUESTS, Board, Sight, Style, to_markers, to_path, to_poses
from robobrain_ros.ros.model import Model
from robobrain_ros.ros.parameters import Parameters
from robobrain_ros.ros.requests import Result

_JPEG_QUALITY = 90
_MOST_WAITING = 8
"""Answers to requests that may wait for being drawn; the oldest gets no picture."""


class SpatialViews:
    """~/markers, ~/path and ~/poses. Called in the executor.

    Markers are published while somebody listens, and all that are shown once more when somebody comes; paths and poses are
    latched by the middleware.
    """

    def __init__(self, node: Node, parameters: Parameters, latched: QoSProfile) -> None:
        self._node = node
        self._parameters = parameters
        self._markers = node.create_publisher(MarkerArray, "~/markers", latched)
        self._path = node.create_publisher(Path, "~/path", latched)
        self._poses = node.create_publisher(PoseArray, "~/poses", latched)
        self._board = Board()
        self._listeners = 0

    def close(self) -> None:
        """Wipe the markers and take the topics away."""
        if self._markers.get_subscription_count():
            self._markers.publish(self._board.clear())
        for publisher in (self._markers, self._path, self._poses):
            self._node.destroy_publisher(publisher)

    def publish(self, result: Result) -> None:
        """Show a result in space; one without an answer takes away what its query showed before."""
        query = result.origin.query or REQUESTS
        answer, positions = result.answer, result.positions
        if answer is None:
            self.wipe(query)
            return
        if not (result.task and result.task.spatial):
            return
        header = result.message.header
        # Made whether or not somebody listens: it takes less than a millisecond, and who comes later sees them, too.
        markers = to_markers(
            answer,
            header,
            query,
            Style(self._parameters["marker_ray_length"], self._parameters["marker_lifetime"]),
            text=result.origin.text,
            sight=Sight(positions.camera, positions.move) if positions and positions.camera else None,
            points=positions.points if positions else None,
            boxes=positions.boxes if positions else None,
            waypoints=positions.waypoints if positions else None,
        )
        self._publish_markers(self._board.show(query, markers))
        if positions and positions.waypoints:
            path = to_path(header, positions.waypoints.positions)
            if path.poses:
                self._path.publish(path)
        if positions and positions.points:
            poses = to_poses(header, positions.points.positions)
            if poses.poses:
                self._poses.publish(poses)

    def wipe(self, query: str) -> None:
        """Take away what is shown of a query."""
        self._publish_markers(self._board.show(query, []))

    def wipe_all(self) -> None:
        """Take away all that is shown."""
        self._publish_markers(self._board.clear())

    def attend(self) -> None:
        """Show newcomers what is shown; called each second."""
        listeners = self._markers.get_subscription_count()
        if listeners > self._listeners:
            self._markers.publish(self._board.everything())
        self._listeners = listeners

    def _publish_markers(self, message: MarkerArray) -> None:
        if message.markers and self._markers.get_subscription_count():
            self._markers.publish(message)


class Overlay:
    """~/overlay and ~/overlay/compressed: drawn once for both, beside the engine's loop, while somebody listens.

    While one is drawn, the answers to requests wait, and those to standing queries get no picture: the next ones will.
    """

    def __init__(self, node: Node, parameters: Parameters, model: Model, latched: QoSProfile) -> None:
        self._node = node
        self._parameters = parameters
        self._model = model
        self._raw: Publisher | None = node.create_publisher(Image, "~/overlay", latched)
        self._compressed: Publisher | None = node.create_publisher(CompressedImage, "~/overlay/compressed", latched)
        self._drawing = False
        self._waiting: deque[Result] = deque(maxlen=_MOST_WAITING)
        self._last: Result | None = None
        self._seen = False, False
        """Of the last result: whether the raw and the compressed picture have been asked for."""

    def close(self) -> None:
        """Take the topics away; what is being drawn is not published."""
        for publisher in (self._raw, self._compressed):
            self._node.destroy_publisher(publisher)
        self._raw = self._compressed = self._last = None
        self._waiting.clear()

    def publish(self, result: Result) -> None:
        """Draw a result that ended well, and publish it."""
        if not any(self._wanted):
            self._last, self._seen = result, (False, False)
        elif not self._drawing:
            self._begin(result)
        elif not result.origin.query:
            self._waiting.append(result)

    def wipe_all(self) -> None:
        """Draw nothing of what was for who comes later."""
        self._last = None

    def attend(self) -> None:
        """Draw the last result for who has come since; called each second."""
        newcomers = any(wanted and not seen for wanted, seen in zip(self._wanted, self._seen, strict=True))
        if self._last is not None and newcomers and not self._drawing:
            self._begin(self._last)

    @property
    def _wanted(self) -> tuple[bool, bool]:
        """Whether somebody listens to the raw and to the compressed picture."""
        raw, compressed = (bool(topic and topic.get_subscription_count()) for topic in (self._raw, self._compressed))
        return raw, compressed

    def _begin(self, result: Result) -> None:
        self._drawing = True
        self._last, self._seen = result, self._wanted
        self._model.submit(self._draw(result, self._parameters["overlay_thinking"], *self._seen))

    async def _draw(self, result: Result, thinking: bool, raw: bool, compressed: bool) -> None:
        messages: list[Any] = [None, None]
        try:
            messages = await asyncio.to_thread(_overlay_messages, result, thinking, raw, compressed)
        except Exception:
            self._node.get_logger().error(f"The overlay could not be drawn:\n{traceback.format_exc()}")
        executor = self._node.executor
        if executor is None:
            self._drawing = False
        else:
            executor.create_task(self._drawn, *messages)

    def _drawn(self, raw: Image | None, compressed: CompressedImage | None) -> None:
        self._drawing = False
        for publisher, message in ((self._raw, raw), (self._compressed, compressed)):
            if publisher is not None and message is not None:
                publisher.publish(message)
        if self._waiting and any(self._wanted):
            self._begin(self._waiting.popleft())


def _overlay_messages(result: Result, thinking: bool, raw: bool, compressed: bool) -> list[Any]:
    assert result.picture is not None, "a result that ended well has its picture"
    assert result.answer is not None, "and its answer"
    drawn = overlay.draw(result.picture, result.answer, instruction=result.origin.text, thinking=thinking)
    return [
        to_image(drawn, result.origin.header) if raw else None,
        _to_compressed(drawn, result.origin.header) if compressed else None,
    ]


def _to_compressed(picture: Picture, header: Any) -> CompressedImage:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    encoded, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert encoded, "JPEG holds every picture"
    return CompressedImage(header=header, format="rgb8; jpeg compressed bgr8", data=array("B", data.tobytes()))
