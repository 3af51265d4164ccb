"""Publish /diagnostics: engine, requests, clock, node, HTTP server, standing queries and cameras.

docs/reference/diagnostics.md lists the levels and keys of each entry. A test compares the page with the published messages.
"""

import time
from collections.abc import Callable
from statistics import median

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from robobrain_ros.bounds.texts import clean, shortened
from robobrain_ros.engine.http.guard import ServerState
from robobrain_ros.errors import RoboBrainError
from robobrain_ros.ros.cameras.cameras import Camera, Cameras
from robobrain_ros.ros.cameras.checks import CameraChecks
from robobrain_ros.ros.cameras.streams import described
from robobrain_ros.ros.clock import ClockWatch, stamp_age
from robobrain_ros.ros.delivery.boundary import GuardedNode
from robobrain_ros.ros.model import Model
from robobrain_ros.ros.models import Models
from robobrain_ros.ros.parameters.declared import Parameters
from robobrain_ros.ros.process.duplicate_nodes import DuplicateNodes
from robobrain_ros.ros.requests.requests import Requests
from robobrain_ros.ros.standing import StandingQueries, StandingStatistics

_LEVELS = {"ready": DiagnosticStatus.OK, "failed": DiagnosticStatus.ERROR}
"""Levels by state of the engine. Other states have the level WARN."""
_WORTH_A_WARNING = 0.05
"""A camera has the level WARN if a larger share of its images is lost or late."""
_FAULT_SHOWN = 60.0
"""Seconds that the fault of a callback is shown as a warning."""
_LONGEST = 1000
"""Maximum characters of a message or value, because texts of callers can have any length."""
_LARGE = 400_000
"""Size in bytes from which an image does not fit into the shared memory of the transport."""


class Diagnostics:
    """Publishes the state of the node. Called in the executor each second and after changes."""

    def __init__(
        self,
        node: GuardedNode,
        duplicates: DuplicateNodes,
        parameters: Parameters,
        models: Models,
        requests: Requests,
        standing: StandingQueries,
        cameras: Callable[[], Cameras],
        http: Callable[[], ServerState | None],
        watch: ClockWatch,
    ) -> None:
        self._watch = watch
        self._checks = CameraChecks(node, parameters)
        self._node = node
        self._duplicates = duplicates
        self._parameters = parameters
        self._models = models
        self._requests = requests
        self._standing = standing
        self._cameras = cameras
        self._http = http
        self._faults_shown = 0
        self._faulty_until = 0.0
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def publish(self) -> None:
        """Publish the current state."""
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        queries = [self._query(name, statistics) for name, statistics in self._standing.statistics.items()]
        self._checks.check(self._cameras())
        cameras = [self._camera(camera) for camera in self._cameras()]
        http = self._http()
        servers = [] if http is None else [self._server(http)]
        engines = [self._engine("engine", self._models.main)]
        engines += [self._engine(f"engine {name}", model) for name, model in self._models]
        message.status = [*engines, self._served(), self._clock(), self._callbacks(), *servers, *queries, *cameras]
        self._publisher.publish(message)

    def _engine(self, part: str, model: Model) -> DiagnosticStatus:
        health, progress, info = model.health(), model.progress, model.info
        grid = model.grid
        values = {
            "state": health.state,
            "stage": progress.stage,
            "progress": "" if progress.fraction is None else f"{progress.fraction:.2f}",
            "running": health.running,
            "waiting": health.waiting,
            "restarts": health.restarts,
        }
        if info is not None:
            values |= {
                "model": info.model,
                "profile": model.profile,
                "grid_check": grid or "",
                "engine": info.engine,
                "flagos_active": info.flagos_active,
                **info.details,
            }
            values["image_cache"] = health.image_cache
            values["flagos_called"] = ", ".join(health.flagos_operators)
        level, message = _LEVELS.get(health.state, DiagnosticStatus.WARN), health.message
        if health.warning and level == DiagnosticStatus.OK:
            level, message = DiagnosticStatus.WARN, f"{message} {health.warning}"
        if grid is not None and grid.suspicious and level == DiagnosticStatus.OK:
            level, message = DiagnosticStatus.WARN, f"{message} Grid check: {grid}"
        return self._status(part, level, message, values)

    def _server(self, http: ServerState) -> DiagnosticStatus:
        level = DiagnosticStatus.OK if http.state == "open" else DiagnosticStatus.WARN
        names = ("state", "address", "running", "refused", "rejected", "connections", "dropped")
        values: dict[str, object] = {name: getattr(http, name) for name in names}
        return self._status("openai server", level, http.message, values)

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
            "prompt_tokens": statistics.prompt_tokens,
            "thinking_tokens": statistics.thinking_tokens,
            "answer_tokens": statistics.answer_tokens,
            "token_rate": "" if statistics.token_rate is None else f"{statistics.token_rate:.1f} tokens/s",
        }
        message = f"{statistics.served} served, {statistics.failed} failed, {self._requests.open_count} open"
        return self._status("requests", DiagnosticStatus.OK, message, values)

    def _clock(self) -> DiagnosticStatus:
        watch = self._watch
        level, message = DiagnosticStatus.OK, "simulated time" if watch.simulated else "system time"
        if watch.waits:
            level = DiagnosticStatus.WARN
            publishers = self._node.count_publishers("/clock")
            message = f"use_sim_time is true, but no message has arrived on /clock, which has {publishers} publishers"
        elif watch.recent:
            level, message = DiagnosticStatus.WARN, f"{message}; {watch.last}"
        values: dict[str, object] = {"simulated": watch.simulated, "jumps": watch.jumps, "last_jump": watch.last or ""}
        return self._status("clock", level, message, values)

    def _callbacks(self) -> DiagnosticStatus:
        """Return the entry ``node``: exceptions in callbacks, lost responses, other nodes of this name."""
        faults = self._node.faults
        values = {
            "faults": faults.count,
            "last_fault": faults.last,
            "lost_responses": faults.lost_responses,
            "nodes_of_this_name": self._duplicates.count + 1,
        }
        if self._duplicates.warning:
            return self._status("node", DiagnosticStatus.WARN, self._duplicates.warning, values)
        recent, self._faults_shown = faults.count - self._faults_shown, faults.count
        self._faulty_until = time.monotonic() + _FAULT_SHOWN if recent else self._faulty_until
        if time.monotonic() < self._faulty_until:
            return self._status("node", DiagnosticStatus.WARN, f"{faults.last}. Please report it with the log.", values)
        return self._status("node", DiagnosticStatus.OK, f"{faults.count} exceptions in callbacks", values)

    def _query(self, name: str, statistics: StandingStatistics) -> DiagnosticStatus:
        values: dict[str, object] = {key: getattr(statistics, key) for key in ("asked", "answered", "failed", "skipped")}
        message = ", ".join(f"{value} {key}" for key, value in values.items())
        if (condition := self._standing.condition(name)) is not None:
            message = f"{condition.state}; {message}"
            values |= {
                "state": condition.state,
                "agreeing": condition.agreeing,
                "confidence": "" if condition.confidence is None else f"{condition.confidence:.3f}",
                "events": condition.events,
                "uncertain": condition.uncertain,
            }
        if fault := self._standing.fault(name):
            return self._status(f"standing query {name}", DiagnosticStatus.WARN, f"Paused. {fault}", values)
        return self._status(f"standing query {name}", DiagnosticStatus.OK, message, values)

    def _camera(self, camera: Camera) -> DiagnosticStatus:
        statistics = camera.statistics
        rate = statistics.rate(time.monotonic())
        frame = camera.newest
        age = None if frame is None else stamp_age(self._node.get_clock(), frame.header)
        values = {
            "topic": camera.topic,
            "rate": f"{rate:.1f} Hz",
            "age": "" if age is None else f"{age:.3f} s",
            "reliable": camera.reliable,
            "received": statistics.received,
            "lost": statistics.lost,
            "late": statistics.late,
            "publishers": described(camera.publisher_nodes),
        }
        if (history := camera.history) is not None:
            values["history_frames"] = f"{len(history)} of {history.most_frames}"
            values["history_bytes"] = f"{history.bytes} of {history.most_bytes}"
            values["history_span"] = f"{history.span:.1f} of {history.seconds:g} s"
        level, message = DiagnosticStatus.OK, f"{rate:.1f} images per second"
        try:
            camera.fresh(self._parameters["max_image_age"])
        except RoboBrainError as error:
            level, message = DiagnosticStatus.WARN, error.message
        else:
            # Losses cannot be counted with several publishers.
            troubled = statistics.lost_recent > _WORTH_A_WARNING or statistics.late_recent > _WORTH_A_WARNING
            if troubled and len(camera.publisher_nodes) < 2:
                level, message = DiagnosticStatus.WARN, f"{message}; {_transport_trouble(camera)}"
        for trouble in self._checks.troubles(camera):
            if trouble not in message:
                level, message = DiagnosticStatus.WARN, f"{message}; {trouble}"
        return self._status(f"camera {camera.name}", level, message, values)

    def _status(self, part: str, level: bytes, message: str, values: dict[str, object]) -> DiagnosticStatus:
        name = self._node.get_fully_qualified_name().lstrip("/")
        return DiagnosticStatus(
            level=level,
            name=f"{name}: {part}",
            message=clean(shortened(message, _LONGEST)),
            hardware_id=name,
            values=[KeyValue(key=key, value=clean(shortened(str(value), _LONGEST))) for key, value in values.items()],
        )


def _transport_trouble(camera: Camera) -> str:
    """Return a sentence about images that are lost or late, and what to do."""
    statistics, frame = camera.statistics, camera.newest
    size = len(frame.message.data) if frame else 0
    if statistics.lost_recent > _WORTH_A_WARNING:
        trouble = f"{statistics.lost_recent:.0%} of the last images were lost"
        if size >= _LARGE:
            cure = (
                f"images of {size / 1e6:.1f} MB need transport_profile:=large for the camera's process and for this node, or a "
                "reliable publisher, or compression"
            )
        elif camera.reliable:
            cure = "the computer is overloaded"
        else:
            cure = "make the camera's publisher reliable"
    else:
        trouble = f"{statistics.late_recent:.0%} of the last images arrived more than {camera.late_after:g} s after their stamps"
        cure = "check the driver, the network, the synchronization of the clocks, and the load of the computer"
    return f"{trouble}: {cure} (docs/how-to/troubleshooting.md)"
