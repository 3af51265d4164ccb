"""The result topics, and the picture with the answer drawn on it."""

import asyncio
import traceback
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from robobrain_ros.core import overlay
from robobrain_ros.msg import Affordances, Plan, TextAnswer, Trajectory
from robobrain_ros.ros.conversions import to_image
from robobrain_ros.ros.model import Model
from robobrain_ros.ros.requests import Result
from robobrain_ros.ros.services import RESULT_FIELDS

_TYPES: dict[str, Any] = {"affordances": Affordances, "trajectory": Trajectory, "plan": Plan, "answer": TextAnswer}

_LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""Who comes late gets the last result, too."""


class ResultTopics:
    """Publishes every answer, of requests and of standing queries alike. Called in the executor."""

    def __init__(self, node: Node, model: Model) -> None:
        self._node = node
        self._model = model
        self._publishers: dict[str, Publisher] = {}
        self._overlay: Publisher | None = None
        self._drawing = False

    def open(self) -> None:
        """Offer the topics."""
        self._publishers = {
            name: self._node.create_publisher(message_type, f"~/{name}", _LATCHED) for name, message_type in _TYPES.items()
        }
        self._overlay = self._node.create_publisher(Image, "~/overlay", _LATCHED)

    def close(self) -> None:
        """Take the topics away."""
        for publisher in (*self._publishers.values(), self._overlay):
            if publisher is not None:
                self._node.destroy_publisher(publisher)
        self._publishers, self._overlay = {}, None

    def publish(self, result: Result) -> None:
        """Publish a result that ended well."""
        if result.task is None or not self._publishers:
            return
        self._publishers[RESULT_FIELDS[result.task]].publish(result.message)
        if self._overlay is None or not self._overlay.get_subscription_count() or self._drawing:
            return
        self._drawing = True
        self._model.submit(self._draw(result))

    async def _draw(self, result: Result) -> None:
        """Draw beside the engine's loop; a result that comes while another one is drawn gets no picture."""
        try:
            image = await asyncio.to_thread(_overlay_message, result)
            executor = self._node.executor
            if executor is not None:
                executor.create_task(self._publish_overlay, image)
        except Exception:
            self._node.get_logger().error(f"The overlay could not be drawn:\n{traceback.format_exc()}")
        finally:
            self._drawing = False

    def _publish_overlay(self, image: Image) -> None:
        if self._overlay is not None:
            self._overlay.publish(image)


def _overlay_message(result: Result) -> Image:
    assert result.picture is not None, "a result that ended well has its picture"
    assert result.answer is not None, "and its answer"
    return to_image(overlay.draw(result.picture, result.answer, instruction=result.origin.text), result.origin.header)
