"""The result topics and the views of the results."""

from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from robobrain_ros.core.query import CAMERA_TASKS, Task
from robobrain_ros.msg import Event, Progress
from robobrain_ros.ros.clock import Jump
from robobrain_ros.ros.delivery.boundary import GuardedNode
from robobrain_ros.ros.limits import MOST_EVENTS
from robobrain_ros.ros.model import Model
from robobrain_ros.ros.parameters.declared import Parameters
from robobrain_ros.ros.requests.result import Result
from robobrain_ros.ros.tasks import TASKS
from robobrain_ros.ros.views.cloud import CloudSource, CloudTopic
from robobrain_ros.ros.views.views import Overlay, SpatialViews

_LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""A late subscriber receives the last message."""


_EVENTS = QoSProfile(depth=MOST_EVENTS, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""A late subscriber receives the last events of all conditions."""


class ResultTopics:
    """Publishes the answers to requests and standing queries, and the events of conditions. Called in the executor."""

    def __init__(self, node: GuardedNode, parameters: Parameters, model: Model, clouds: CloudSource) -> None:
        self._node = node
        self._parameters = parameters
        self._model = model
        self._cloud_source = clouds
        self._publishers: dict[str, Publisher] = {}
        self._events: Publisher | None = None
        self._views: tuple[SpatialViews, Overlay] | None = None
        self._cloud: CloudTopic | None = None

    def open(self) -> None:
        """Create the publishers: all, or none if an exception is raised."""
        types = {interface.result_field: interface.message_type for interface in TASKS.values()}
        with self._node.all_or_no_publishers():
            publishers = {
                name: self._node.create_publisher(message_type, f"~/{name}", _LATCHED) for name, message_type in types.items()
            }
            self._events = self._node.create_publisher(Event, "~/events", _EVENTS)
            self._cloud = CloudTopic(self._node, self._parameters, self._model, self._cloud_source)
            self._views = (
                SpatialViews(self._node, self._parameters, _LATCHED),
                Overlay(self._node, self._parameters, self._model),
            )
        self._publishers = publishers

    def close(self) -> None:
        """Destroy the publishers."""
        for closing in (*(self._views or ()), *filter(None, [self._cloud])):
            closing.close()
        for publisher in (*self._publishers.values(), *filter(None, [self._events])):
            self._node.destroy_publisher(publisher)
        self._publishers, self._events, self._views, self._cloud = {}, None, None, None

    def publish(self, result: Result) -> None:
        """Publish the answer of a result, if it has one, and update the views."""
        if result.task is None or self._views is None:
            return
        if result.answer is not None:
            self._publishers[TASKS[result.task].result_field].publish(result.message)
        for view in self._views if result.task in CAMERA_TASKS else ():
            try:
                view.publish(result)
            except Exception:  # The answer is valid even if it cannot be shown.
                self._node.log_traceback("An answer could not be shown")

    def publish_progress(self, message: Progress) -> None:
        """Publish an estimate of a watched task."""
        publisher = self._publishers.get(TASKS[Task.PROGRESS].result_field)
        if publisher is not None:
            publisher.publish(message)

    def publish_event(self, event: Event) -> None:
        """Publish an event of a condition."""
        if self._events is not None:
            self._events.publish(event)

    def on_timer(self) -> None:
        """Publish the current markers and overlay for new subscribers, and a cloud; called each second."""
        for view in (*(self._views or ()), *filter(None, [self._cloud])):
            view.on_timer()

    def clear(self) -> None:
        """Clear all views."""
        for view in self._views or ():
            view.clear_all()

    def end_older(self, jump: Jump) -> None:
        """Clear the views of results whose images are from before a time jump."""
        for view in self._views or ():
            view.end_older(jump)

    def forget(self, query: str) -> None:
        """Delete the markers and target of a standing query."""
        if self._views is not None:
            self._views[0].clear(query)
