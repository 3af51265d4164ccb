"""/diagnostics: the engine's state and progress, the requests, and each camera's stream."""

import time
from collections.abc import Callable
from statistics import median

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from robobrain_ros.ros.cameras import Camera, Cameras, stamp_age
from robobrain_ros.ros.model import Model
from robobrain_ros.ros.parameters import Parameters
from robobrain_ros.ros.requests import Requests

_LEVELS = {"ready": DiagnosticStatus.OK, "failed": DiagnosticStatus.ERROR}
"""Of an engine's states; the others warn."""


class Diagnostics:
    """Publishes the state of a node; called in the executor, each second and when something has changed."""

    def __init__(
        self, node: Node, parameters: Parameters, model: Model, requests: Requests, cameras: Callable[[], Cameras]
    ) -> None:
        self._node = node
        self._parameters = parameters
        self._model = model
        self._requests = requests
        self._cameras = cameras
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def publish(self) -> None:
        """Publish the present state."""
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.status = [self._engine(), self._served(), *(self._camera(camera) for camera in self._cameras())]
        self._publisher.publish(message)

    def _engine(self) -> DiagnosticStatus:
        health, progress, info = self._model.health(), self._model.progress, self._model.info
        values = {
            "state": health.state,
            "stage": progress.stage,
            "progress": "" if progress.fraction is None else f"{progress.fraction:.2f}",
            "running": health.running,
            "waiting": health.waiting,
            "restarts": health.restarts,
        }
        if info is not None:
            values |= {"model": info.model, "engine": info.engine, "flagos_active": info.flagos_active, **info.details}
        return self._status("engine", _LEVELS.get(health.state, DiagnosticStatus.WARN), health.message, values)

    def _served(self) -> DiagnosticStatus:
        statistics = self._requests.statistics
        latencies = sorted(statistics.latencies)
        values = {
            "served": statistics.served,
            "failed": statistics.failed,
            "open": self._requests.open_count,
            "latency_p50": f"{median(latencies):.3f} s" if latencies else "",
            "latency_max": f"{latencies[-1]:.3f} s" if latencies else "",
            "last_error": statistics.last_error,
        }
        message = f"{statistics.served} served, {statistics.failed} failed, {self._requests.open_count} open"
        return self._status("requests", DiagnosticStatus.OK, message, values)

    def _camera(self, camera: Camera) -> DiagnosticStatus:
        rate = camera.statistics.rate(time.monotonic())
        frame = camera.newest
        age = None if frame is None else stamp_age(self._node.get_clock(), frame.header)
        values = {
            "topic": camera.topic,
            "rate": f"{rate:.1f} Hz",
            "age": "" if age is None else f"{age:.3f} s",
            "received": camera.statistics.received,
            "lost": camera.statistics.lost,
        }
        max_age = self._parameters["max_image_age"]
        level, message = DiagnosticStatus.OK, f"{rate:.1f} pictures per second"
        if age is None:
            level, message = DiagnosticStatus.WARN, f"No picture has arrived on {camera.topic} yet."
        elif max_age and age > max_age:
            level, message = DiagnosticStatus.WARN, f"The newest picture is {age:.1f} s old."
        return self._status(f"camera {camera.name}", level, message, values)

    def _status(self, part: str, level: bytes, message: str, values: dict[str, object]) -> DiagnosticStatus:
        name = self._node.get_fully_qualified_name().lstrip("/")
        return DiagnosticStatus(
            level=level,
            name=f"{name}: {part}",
            message=message,
            hardware_id=name,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
