"""The lifecycle node: creates and connects the parts of the package in each transition."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter

from robobrain_ros.core.plans.robots_file import read_robots
from robobrain_ros.engine.http.front import HttpFront
from robobrain_ros.engine.http.guard import ServerState
from robobrain_ros.errors import BadRequestError, RoboBrainError
from robobrain_ros.ros.cameras.cameras import CameraEvents, Cameras
from robobrain_ros.ros.cameras.intake import Intake
from robobrain_ros.ros.cameras.opening import open_cameras
from robobrain_ros.ros.clock import ClockWatch, Jump
from robobrain_ros.ros.delivery.boundary import GuardedNode
from robobrain_ros.ros.diagnostics import Diagnostics
from robobrain_ros.ros.endpoints import Endpoints
from robobrain_ros.ros.engine_setup import set_up_engines
from robobrain_ros.ros.model import EngineFactory, Model
from robobrain_ros.ros.models import Models
from robobrain_ros.ros.parameters.declared import Parameters, known_changes
from robobrain_ros.ros.process import shutdown
from robobrain_ros.ros.process.duplicate_nodes import DuplicateNodes
from robobrain_ros.ros.process.log_handler import RosLogHandler
from robobrain_ros.ros.process.memory import MemoryReturn
from robobrain_ros.ros.process.periodic_calls import PeriodicCalls
from robobrain_ros.ros.process.time_limit import run_with_time_limit
from robobrain_ros.ros.requests.requests import Requests
from robobrain_ros.ros.requests.selection import ImageSelection
from robobrain_ros.ros.requests.statistics import RequestStatistics
from robobrain_ros.ros.result_topics import ResultTopics
from robobrain_ros.ros.standing import StandingQueries
from robobrain_ros.ros.transforms import Tf2, Transforms, TransformSource
from robobrain_ros.ros.views.cloud import CloudSource

_package_log = logging.getLogger("robobrain_ros")
"""Logger of the core and the engine, which do not use ROS."""

_Result = TypeVar("_Result")


class RoboBrainNode(GuardedNode):
    """The node ``robobrain``.

    On configure, it starts to load the model, and offers the services and the action. On activate, it opens the cameras and
    accepts requests. No transition waits for the model.

    :param engine_factory: replaces the engine of the parameters; for tests.
    :param default_model: checkpoint to load if the parameter ``engine.model`` is empty, or None if the parameter must be set.
    :param transform_source: replaces tf2 as the source of transforms; for tests.
    :param parameter_overrides: see `rclpy.node.Node`.
    :raises rclpy.exceptions.ParameterException: a parameter has a wrong initial value.
    """

    def __init__(
        self,
        *,
        engine_factory: EngineFactory | None = None,
        default_model: Path | None = None,
        transform_source: Callable[[LifecycleNode], TransformSource] = Tf2,
        namespace: str | None = None,
        parameter_overrides: list[RosParameter] | None = None,
        context: rclpy.context.Context | None = None,
    ) -> None:
        self._complete = False
        self._default_model = default_model
        # The queue of this service of rcl holds 10 requests, and no option changes that. Requests beyond it get no response.
        overrides = [*(parameter_overrides or []), RosParameter("start_type_description_service", value=False)]
        super().__init__("robobrain", namespace=namespace, parameter_overrides=overrides, context=context)
        self.stop_requested: Callable[[], bool] = lambda: False
        """Whether the process received a signal to end; `main` sets it."""
        self._log_handler = RosLogHandler(self.get_logger())
        try:
            self._build(engine_factory, transform_source)
        except BaseException:
            self.destroy_node()
            raise
        self._complete = True

    def _build(self, engine_factory: EngineFactory | None, transform_source: Callable[[LifecycleNode], TransformSource]) -> None:
        self._engine_factory = engine_factory
        _package_log.addHandler(self._log_handler)
        # ROS decides which levels are shown. By default, Python's root logger would drop everything below warnings.
        _package_log.setLevel(logging.INFO)
        # The attributes are not called _parameters and _clock, because rclpy uses these names.
        self._settings = Parameters(self)
        self._intake = Intake(self)
        self._cameras = Cameras([], self._settings["cameras"])
        self._models = Models(self.get_logger(), self._on_model_change)
        self._front: HttpFront | None = None
        self._transforms = Transforms(self, transform_source)

        def cameras() -> Cameras:
            return self._cameras

        clouds = CloudSource(cameras, lambda: self._requests.locator)  # `_requests` is created below.
        self._results = ResultTopics(self, self._settings, self._models.main, clouds)
        selection = ImageSelection(self.get_clock(), self._settings, cameras)
        self._requests = Requests(self, self._settings, self._models, cameras, selection, self._transforms, self._results.publish)
        self._endpoints = Endpoints(self, self._settings, self._requests, selection, self._results.publish_progress)
        self._standing = StandingQueries(
            self, self._settings, self._requests, selection, cameras, self._models.is_ready, self._results
        )
        self._watch = ClockWatch(self, self._on_time_jump)
        self._duplicates = DuplicateNodes(self)
        self._memory = MemoryReturn(lambda: self.statistics.served + self.statistics.failed)
        self._diagnostics = Diagnostics(
            self, self._duplicates, self._settings, self._models, self._requests, self._standing, cameras, self._server_state,
            self._watch,
        )  # fmt: skip
        # The clock is steady, because these timers must also run while simulated time stands still.
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        timed = (self._standing, self._results, self._endpoints, self._duplicates, self._memory)
        checks = (self._watch.check, self._requests.give_up_overdue, lambda: self._cameras.adapt())
        parts = (*checks, *(part.on_timer for part in timed), self._diagnostics.publish)
        self._periodic = PeriodicCalls(self, parts, self._steady_clock)
        self._starter = self.create_timer(0.0, self._autostart, clock=self._steady_clock) if self._settings["autostart"] else None
        self._change_announced = False

    def set_parameters_atomically(self, parameter_list: list[RosParameter]) -> SetParametersResult:
        """See `rclpy.node.Node`. Applies `known_changes` first, so that `ros2 param load` accepts the node's own dump."""
        try:
            changes = known_changes(self, parameter_list)
        except BadRequestError as error:
            return SetParametersResult(successful=False, reason=error.message)
        return super().set_parameters_atomically(changes) if changes else SetParametersResult(successful=True)

    @property
    def cameras(self) -> Cameras:
        """The cameras; open while the node is active."""
        return self._cameras

    @property
    def model(self) -> Model:
        """The main model, with the engines' loop."""
        return self._models.main

    @property
    def statistics(self) -> RequestStatistics:
        """Counts of the requests."""
        return self._requests.statistics

    # Transitions, called by rclpy.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start to load the model; offer the services, the action and the topics."""
        result = self._transition("configure", self._configure)
        if result != TransitionCallbackReturn.SUCCESS:
            self._release()
        return result

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the cameras, and accept requests."""
        return self._transition("activate", self._activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Cancel requests in progress, and close the cameras."""
        return self._transition("deactivate", self._deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Remove the services, the action and the topics; unload the model in the background."""
        return self._transition("clean up", self._release)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything, from any state."""
        return self._transition("shut down", self._release)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything after a failed transition, and become unconfigured."""
        return self._transition("recover", self._release)

    def _transition(self, name: str, work: Callable[[], None]) -> TransitionCallbackReturn:
        """Run the work of a transition, and log its exceptions, because rclpy ignores them."""
        try:
            work()
        except RoboBrainError as error:
            self.get_logger().error(f"Cannot {name}: {error.message}")
            return TransitionCallbackReturn.FAILURE
        except Exception:
            self.log_traceback(f"Cannot {name}")
            return TransitionCallbackReturn.ERROR
        self.get_logger().debug(f"{name}: done")
        self._diagnostics.publish()
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        self._settings.declare_named()
        if unknown := self._settings.unknown():
            self.get_logger().warning(f"The node ignores unknown parameters: {unknown}. Check the spelling.")
        self._cameras = Cameras([], self._settings["cameras"])
        file = self._settings["robots_file"]
        self._requests.robots = self._read(partial(read_robots, Path(file)), "Reading robots_file") if file else ()
        self._standing.load()
        setups = set_up_engines(self._settings, self._default_model, self._read, self.get_logger().warning, self._engine_factory)
        self._front = setups[0].front
        self._settings.configured = True
        if self._settings["target_frame"] or self._requests.trajectories.needs_transforms():
            self._transforms.open()
        self._results.open()
        self._endpoints.open(self._settings["max_queued"])
        self._models.load(setups)

    def _read(self, work: Callable[[], _Result], what: str) -> _Result:
        """Read files in a thread, so that the node can end while a drive does not respond."""
        return run_with_time_limit(work, what, lambda: self.context.ok() and not self.stop_requested())

    def _server_state(self) -> ServerState | None:
        return None if self._front is None else self._front.state

    def _activate(self) -> None:
        events = CameraEvents(self._standing, self._endpoints.on_frame)
        self._cameras = open_cameras(self._intake, self._settings, self._watch, events)
        self._requests.active = True
        self._standing.start()
        self.get_logger().info(f"Active; cameras: {', '.join(camera.topic for camera in self._cameras) or 'none'}.")

    def _deactivate(self) -> None:
        self._standing.stop()
        self._requests.active = False
        self._endpoints.end_watches("The node was deactivated. Send the goal again when it is active.")
        self._requests.cancel_all("The node was deactivated. Retry when it is active.")
        self._results.clear()
        self._cameras.close()

    def _release(self) -> None:
        self._deactivate()
        self._endpoints.close()
        self._results.close()
        self._transforms.close()
        self._models.unload()
        self._settings.configured = False

    # Events outside of transitions.

    def _autostart(self) -> None:
        assert self._starter is not None, "this timer calls the method"
        self.destroy_timer(self._starter)
        self._starter = None
        state = self._state_machine.current_state[1]
        if state != "unconfigured":
            self.get_logger().info(f"autostart has no effect, because the node is already {state}.")
        elif self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def _on_time_jump(self, jump: Jump) -> None:
        """Drop all data from before a time jump."""
        self.get_logger().warning(
            f"Time jump: {jump}. The node drops the images, depth, transforms and statistics from before the jump. Requests "
            "about these images end with STALE_IMAGE.",
            throttle_duration_sec=1.0,
        )
        old = (self._transforms.clear, self._cameras.forget, self._endpoints.end_older, self._requests.end_older)
        for forget in (*old, self._standing.on_jump, self._results.end_older):
            forget(jump)

    def _on_model_change(self) -> None:
        """Publish the diagnostics soon. Called in the engine's thread."""
        if self.executor is None or self._change_announced:
            return
        self._change_announced = True
        self.start_task(self._announce_change)

    def _announce_change(self) -> None:
        self._change_announced = False
        self._diagnostics.publish()

    def finish_requests(self, executor: SingleThreadedExecutor) -> None:
        """Cancel requests in progress, and send their responses. Call it after spinning and before `destroy_node`."""
        self._deactivate()
        shutdown.send_responses(executor, lambda: self._requests.open_count + self._endpoints.busy + self.unsent > 0)

    def destroy_node(self) -> None:
        """Release everything, and wait for the end of the engine's processes, with a time limit.

        It can be called repeatedly, and for a node whose constructor failed.
        """
        complete, self._complete = self._complete, False
        if complete:
            self._watch.close()
            self._release()
            self._endpoints.destroy()
            if not self._models.close(shutdown.ENGINE):
                self.get_logger().error(f"The engine did not stop within {shutdown.ENGINE:.0f} s.")
        _package_log.removeHandler(self._log_handler)
        super().destroy_node()
