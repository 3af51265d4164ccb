"""The result topics, and what shows the results."""

import traceback

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from robobrain_ros.ros.model import Model
from robobrain_ros.ros.parameters.declared import Parameters
from robobrain_ros.ros.requests.result import Result
from robobrain_ros.ros.tasks import TASKS
from robobrain_ros.ros.views.views import Overlay, SpatialViews

_LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""Who comes late gets the last result, too."""


class ResultTopics:
    """Publishes every answer, of requests and of standing queries alike. Called in the executor."""

    def __init__(self, node: Node, parameters: Parameters, model: Model) -> None:
        self._node = node
        self._parameters = parameters
        self._model = model
        self._publishers: dict[str, Publisher] = {}
        self._views: tuple[SpatialViews, Overlay] | None = None

    def open(self) -> None:
        """Offer the topics."""
        types = {interface.result_field: interface.message_type for interface in TASKS.values()}
        self._publishers = {
            name: self._node.create_publisher(message_type, f"~/{name}", _LATCHED) for name, message_type in types.items()
        }
        self._views = (
            SpatialViews(self._node, self._parameters, _LATCHED),
            Overlay(self._node, self._parameters, self._model),
        )

    def close(self) -> None:
        """Take the topics away."""
        for closing in self._views or ():
            closing.close()
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)
        self._publishers, self._views = {}, None

    def publish(self, result: Result) -> None:
        """Publish a result that ended well; of one without an answer, the views show that there is nothing any more."""
        if result.task is None or self._views is None:
            return
        if result.answer is not None:
            self._publishers[TASKS[result.task].result_field].publish(result.message)
        for view in self._views:
            try:
                view.publish(result)
            except Exception:  # The answer is right, whether or not it can be shown.
                self._node.get_logger().error(f"An answer could not be shown:\n{traceback.format_exc()}")

    def attend(self) -> None:
        """Show newcomers what is shown; called each second."""
        for view in self._views or ():
            view.attend()

    def wipe(self) -> None:
        """Clear all views, because time has jumped."""
        for view in self._views or ():
            view.wipe_all()

    def forget(self, query: str) -> None:
        """A standing query was removed: nothing of it is shown any more."""
        if self._views is not None:
            self._views[0].wipe(query)
