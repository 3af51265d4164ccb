"""The lifecycle node: what exists when, and what is connected with what."""

import argparse
import logging
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter
from rclpy.signals import SignalHandlerOptions

from robobrain_ros import demo
from robobrain_ros.core.profiles import profile_for
from robobrain_ros.core.robots_file import read_robots
from robobrain_ros.engine.factory import make_engine, make_front
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.engine.server_front import HttpFront
from robobrain_ros.errors import EngineConfigError, RoboBrainError
from robobrain_ros.models import can_think, with_known_model
from robobrain_ros.ros import ending
from robobrain_ros.ros.beside import beside
from robobrain_ros.ros.boundary import GuardedNode
from robobrain_ros.ros.cameras import Camera, Cameras
from robobrain_ros.ros.clock import ClockWatch, Jump
from robobrain_ros.ros.command_line import own_arguments
from robobrain_ros.ros.diagnostics import Diagnostics
from robobrain_ros.ros.endpoints import Endpoints
from robobrain_ros.ros.images import ImageReader
from robobrain_ros.ros.intake import Intake
from robobrain_ros.ros.memory import MemoryReturn, keep_buffers
from robobrain_ros.ros.model import EngineFactory, Model, ModelSettings
from robobrain_ros.ros.parameters import Parameters, changed_only
from robobrain_ros.ros.requests import Requests, Statistics
from robobrain_ros.ros.results import ResultTopics
from robobrain_ros.ros.standing import StandingQueries
from robobrain_ros.ros.transforms import Tf2, Transforms, TransformSource
from robobrain_ros.ros.twins import Twins

_SAME_SIGNAL = 1.0
"""Seconds in which signals count as one: what stops a launch may signal the node, too, and the launch passes it on."""

_LOG_ADVICE = (
    ". Name a folder that can be written in the environment variable ROS_LOG_DIR, or start without a log file "
    "(--ros-args --disable-external-lib-logs)."
)
"""What to do where rcl cannot write its log file."""
_FAULTS_IN_A_ROW = 10
"""Rounds of the executor that may fail in a row before it pauses between them, so that a lasting fault does not take a core."""
_PAUSE = 0.1
"""Seconds of such a pause."""
_NAME_A_MODEL = (
    "To name a real one: ros2 launch robobrain_ros robobrain.launch.py model:=BAAI/RoboBrain2.0-7B (or a checkpoint's folder); "
    "without launch, the parameter: --ros-args -p engine.model:=BAAI/RoboBrain2.0-7B"
)

_package_log = logging.getLogger("robobrain_ros")
"""Of the core and the engine, which know no ROS."""

Transition = Callable[[], None]
_Result = TypeVar("_Result")


class RoboBrainNode(GuardedNode):
    """The node ``robobrain``.

    Configure begins to load the model and offers services and action; activate opens the cameras and lets requests through.
    No transition waits for the model.

    :param engine_factory: makes the engine instead of the one that the parameters describe; for tests.
    :param transform_source: makes what knows the transforms, instead of tf2; for tests.
    :param parameter_overrides: as of `rclpy.node.Node`.
    :raises rclpy.exceptions.ParameterException: a parameter has a wrong initial value.
    """

    def __init__(
        self,
        *,
        engine_factory: EngineFactory | None = None,
        transform_source: Callable[[LifecycleNode], TransformSource] = Tf2,
        namespace: str | None = None,
        parameter_overrides: list[RosParameter] | None = None,
        context: rclpy.context.Context | None = None,
    ) -> None:
        self._complete = False
        super().__init__("robobrain", namespace=namespace, parameter_overrides=parameter_overrides, context=context)
        self.stop_requested: Callable[[], bool] = lambda: False
        """Whether the process was told to end; `main` sets it."""
        self._log_handler = _RosLogHandler(self.get_logger())
        try:
            self._build(engine_factory, transform_source)
        except BaseException:
            self.destroy_node()
            raise
        self._complete = True

    def _build(
        self, engine_factory: EngineFactory | None, transform_source: Callable[[LifecycleNode], TransformSource]
    ) -> None:
        self._engine_factory = engine_factory
        _package_log.addHandler(self._log_handler)
        # What of it is shown is for ROS to decide; left alone, Python's root logger would keep all but warnings back.
        _package_log.setLevel(logging.INFO)
        # Not _parameters: that name is rclpy's own, as _clock is.
        self._settings = Parameters(self)
        self._intake = Intake(self)
        self._cameras = Cameras([], self._settings["cameras"])
        self._model = Model(self.get_logger(), self._on_model_change)
        self._front: HttpFront | None = None
        self._results = ResultTopics(self, self._settings, self._model)
        self._transforms = Transforms(self, transform_source)
        self._requests = Requests(
            self, self._settings, self._model, lambda: self._cameras, self._transforms, self._results.publish
        )
        self._endpoints = Endpoints(self, self._requests)
        self._standing = StandingQueries(
            self,
            self._settings,
            self._requests,
            lambda: self._cameras,
            lambda: self._model.health().state == "ready",
            self._results.forget,
        )
        self._watch = ClockWatch(self, self._on_time_jump)
        self._twins = Twins(self)
        self._memory = MemoryReturn(lambda: self.statistics.served + self.statistics.failed)
        self._diagnostics = Diagnostics(
            self,
            self._twins,
            self._settings,
            self._model,
            self._requests,
            self._standing,
            lambda: self._cameras,
            lambda: None if self._front is None else self._front.state,
            self._watch,
        )
        # Steady: life goes on where simulated time stands still.
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._second = self.create_timer(1.0, self._each_second, clock=self._steady_clock)
        self._starter = self.create_timer(0.0, self._autostart, clock=self._steady_clock) if self._settings["autostart"] else None
        self._change_announced = False

    def set_parameters_atomically(self, parameter_list: list[RosParameter]) -> SetParametersResult:
        """As of `rclpy.node.Node`, which `ros2 param load` of the node's own dump must get past; see `changed_only`."""
        unknown = next((change.name for change in parameter_list if not self.has_parameter(change.name)), None)
        if unknown is not None:
            return SetParametersResult(successful=False, reason=f"This node has no parameter {unknown[:100]!r}.")
        changes = changed_only(self, parameter_list)
        return super().set_parameters_atomically(changes) if changes else SetParametersResult(successful=True)

    @property
    def cameras(self) -> Cameras:
        """The cameras; open while the node is active."""
        return self._cameras

    @property
    def model(self) -> Model:
        """The model, and through it the engine's loop."""
        return self._model

    @property
    def statistics(self) -> Statistics:
        """What has become of the requests."""
        return self._requests.statistics

    # The transitions, as rclpy calls them.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to load, offer services, action and topics."""
        return self._transition("configure", self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the cameras, let requests through."""
        return self._transition("activate", self._activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Cancel what is under way, close the cameras."""
        return self._transition("deactivate", self._deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give everything back; the engine ends in the background."""
        return self._transition("clean up", self._give_back)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give everything back, from whatever state."""
        return self._transition("shut down", self._give_back)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition has failed: give everything back and be unconfigured again."""
        return self._transition("recover", self._give_back)

    def _transition(self, name: str, work: Transition) -> TransitionCallbackReturn:
        """Do the work of a transition; rclpy would swallow what it raises."""
        try:
            work()
        except RoboBrainError as error:
            self.get_logger().error(f"Cannot {name}: {error.message}")
            return TransitionCallbackReturn.FAILURE
        except Exception:
            self.get_logger().error(f"Cannot {name}:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR
        self.get_logger().debug(f"{name}: done")
        self._diagnostics.publish()
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        self._settings.declare_named()
        if unknown := self._settings.unknown():
            self.get_logger().warning(f"This node has no such parameters, they change nothing: {', '.join(unknown)}.")
        self._cameras = Cameras([], self._settings["cameras"])
        file = self._settings["robots_file"]
        self._requests.robots = self._beside(partial(read_robots, Path(file)), "Reading robots_file") if file else ()
        self._standing.load()
        options = self._settings.engine_options()
        factory = self._engine_factory
        if factory is None:
            options = self._beside(partial(self._checked, options), "Checking the files of the engine's parameters")
            server = self._settings.server_options()
            self._front = self._beside(partial(make_front, server, options), "Checking the files of the HTTP server's parameters")
            factory = partial(make_engine, options, self._front)
        self._settings.configured = True
        if self._settings["target_frame"]:
            self._transforms.open()
        self._results.open()
        self._endpoints.open(self._settings["max_queued"])
        self._model.load(
            factory,
            ModelSettings(
                name=options.model,
                max_pixels=options.max_pixels,
                max_queued=self._settings["max_queued"],
                max_running=options.max_num_seqs,
                warm_up=self._settings["warm_up"],
                can_think=self._can_think(options.model),
                settle=self._engine_factory is None,
            ),
            None if self._front is None else self._front.close,
        )

    def _beside(self, work: Callable[[], _Result], what: str) -> _Result:
        """Read files beside the executor, because a drive that does not answer must not keep the node from ending."""
        return beside(work, what, lambda: self.context.ok() and not self.stop_requested())

    def _can_think(self, model: str) -> bool | None:
        said = self._settings["model_can_think"]
        return can_think(model) if said == "auto" else said == "yes"

    def _activate(self) -> None:
        names = self._settings["cameras"]
        self._cameras = Cameras([self._open_camera(name) for name in names], names)
        self._requests.active = True
        self._standing.start()
        self.get_logger().info(f"Active; cameras: {', '.join(camera.topic for camera in self._cameras) or 'none'}.")

    def _open_camera(self, name: str) -> Camera:
        return Camera(
            self._intake,
            name,
            transport=self._settings[f"{name}.transport"],
            reliability=self._settings[f"{name}.reliability"] or self._settings["image_reliability"],
            on_frame=self._standing.on_frame,
            queue=self._settings[f"{name}.queue"],
            late_after=self._settings[f"{name}.late_after"],
            use_depth=self._settings[f"{name}.use_depth"],
            depth_transport=self._settings[f"{name}.depth_transport"],
            rectified=self._settings[f"{name}.rectified"],
            watch=self._watch,
            reader=ImageReader(
                name,
                swap_red_blue=self._settings[f"{name}.swap_red_blue"],
                bit_depth=self._settings[f"{name}.bit_depth"],
            ),
        )

    def _deactivate(self) -> None:
        self._standing.stop()
        self._requests.active = False
        self._requests.cancel_all("The node was deactivated; ask again when it is active.")
        self._cameras.close()

    def _give_back(self) -> None:
        self._deactivate()
        self._endpoints.close()
        self._results.close()
        self._transforms.close()
        self._model.unload()
        self._settings.configured = False

    def _checked(self, options: EngineOptions) -> EngineOptions:
        """The options with the demo model where none is named, checked as far as they can be without loading anything.

        :raises EngineConfigError: something is wrong with them.
        """
        if options.kind == "remote":
            options.validate()
            return options
        if not options.model:
            if not (demo.DEMO_MODEL / "config.json").is_file():
                raise EngineConfigError(f"No model is named. {_NAME_A_MODEL}")
            self.get_logger().warning(
                f"No model is named: loading the tabletop demo model, which knows only its tabletop world. {_NAME_A_MODEL}"
            )
            options = replace(options, model=str(demo.DEMO_MODEL))
        options = with_known_model(options)
        options.validate()
        if (Path(options.model) / "config.json").is_file():
            profile_for(options.model)
        return options

    # What happens beside the transitions.

    def _autostart(self) -> None:
        assert self._starter is not None, "it is this timer that calls"
        self.destroy_timer(self._starter)
        self._starter = None
        state = self._state_machine.current_state[1]
        if state != "unconfigured":
            self.get_logger().info(f"autostart does nothing: the node is {state} already.")
        elif self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def _on_time_jump(self, jump: Jump) -> None:
        """Clear everything that depends on the time before."""
        self.get_logger().warning(
            f"Attention: {jump}. Images, depth, transforms and statistics of the time before are dropped, and requests about "
            "those images end with STALE_IMAGE.",
            throttle_duration_sec=1.0,
        )
        self._transforms.clear(jump)
        self._cameras.forget(jump)
        self._requests.end_older(jump)
        if not jump.camera:
            self._results.wipe()

    def _each_second(self) -> None:
        self._watch.check()
        self._requests.give_up_overdue()
        self._cameras.adapt()
        self._results.attend()
        self._endpoints.attend()
        self._twins.attend()
        self._memory.attend()
        self._diagnostics.publish()

    def _on_model_change(self) -> None:
        """Called in the engine's thread."""
        if self.executor is None or self._change_announced:
            return
        self._change_announced = True
        self.start_task(self._announce_change)

    def _announce_change(self) -> None:
        self._change_announced = False
        self._diagnostics.publish()

    def say_farewell(self, executor: SingleThreadedExecutor) -> None:
        """Cancel what is under way and give the answers a moment to leave; call it after spinning, before `destroy_node`."""
        self._deactivate()
        end = time.monotonic() + ending.FAREWELL
        while (self._requests.open_count or self._endpoints.busy or self.pacing.waiting) and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.05)
        end = min(end, time.monotonic() + ending.LAST_WORDS)
        while time.monotonic() < end:
            executor.spin_once(timeout_sec=0.02)

    def destroy_node(self) -> None:
        """Give everything back, the engine's processes included; waits for them, within bounds.

        It can be called again, and for a node whose constructor failed.
        """
        complete, self._complete = self._complete, False
        if complete:
            self._watch.close()
            self._give_back()
            self._endpoints.destroy()
            if not self._model.close(ending.ENGINE):
                self.get_logger().error(f"The engine did not end within {ending.ENGINE:.0f} s.")
        _package_log.removeHandler(self._log_handler)
        super().destroy_node()


class _RosLogHandler(logging.Handler):
    """Brings the package's log to the node's logger."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        # A line for each level: rclpy takes it ill when one line logs at different levels.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)


class _Stop:
    """Becomes true at the first SIGINT or SIGTERM; another one, `_SAME_SIGNAL` or more later, ends the process at once."""

    def __init__(self) -> None:
        self.requested = False
        self._at = 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        if not self.requested:
            self.requested = True
            self._at = time.monotonic()
            ending.force_later()
        elif time.monotonic() - self._at >= _SAME_SIGNAL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def _explain(error: ParameterException) -> str:
    """What rclpy says about a wrong parameter, without what it wraps around the sentence."""
    text = str(error).partition("Reason: ")[2] or str(error)
    text = re.sub(r"\.?: [\w.]+$", "", text) + "."
    if "'INTEGER', expecting type 'DOUBLE'" in text:
        text += " Write it with a point, as in 1.0."
    return text


def _check_command_line(arguments: list[str]) -> None:
    """Answer --help; refuse what only looks like a setting."""
    parser = argparse.ArgumentParser(
        prog="robobrain",
        description="Runs the node robobrain until it is interrupted.",
        usage="robobrain [--help] [--ros-args [-p NAME:=VALUE ...] [--params-file FILE] [-r FROM:=TO ...] [--log-level LEVEL]]",
        epilog=f"To begin, {_NAME_A_MODEL} All parameters: docs/parameters.md, config/robobrain.yaml, or `ros2 param describe`.",
    )
    parser.parse_args(own_arguments(arguments))


def main(args: list[str] | None = None) -> None:
    """Run the node until SIGINT or SIGTERM."""
    _check_command_line(sys.argv[1:] if args is None else args)
    keep_buffers()
    stop = _Stop()
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # Of rcl: an argument that it cannot read, or a log file that it cannot write.
        sys.exit(f"robobrain: {error}{_LOG_ADVICE if 'Failed opening file' in str(error) else ''}")
    try:
        node = RoboBrainNode()
    except ParameterException as error:
        _refuse_to_start(f"A parameter is wrong: {_explain(error)}")
    except Exception as error:  # Of rclpy: a name, a namespace or a parameter file that it does not take.
        _refuse_to_start(f"The node cannot start: {type(error).__name__}: {' '.join(str(error).split())}")
    node.stop_requested = lambda: stop.requested
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        _spin(executor, node, stop)
        node.say_farewell(executor)
    except ExternalShutdownException:
        pass
    finally:
        if not stop.requested:
            ending.force_later()
        node.destroy_node()
        executor.shutdown(timeout_sec=1.0)
        rclpy.try_shutdown()
    ending.leave()


def _refuse_to_start(sentence: str) -> NoReturn:
    rclpy.logging.get_logger("robobrain").fatal(sentence)
    rclpy.shutdown()
    sys.exit(1)


def _spin(executor: SingleThreadedExecutor, node: RoboBrainNode, stop: _Stop) -> None:
    """Spin until a signal comes, whatever is raised. Callbacks are guarded; what arrives here, rclpy itself raises."""
    faults = 0
    # Bounds how late a signal is seen; a timeout would do so, too, but rclpy makes a timer of its own for each.
    node.create_timer(0.5, lambda: None, clock=Clock(clock_type=ClockType.STEADY_TIME))
    while not stop.requested and rclpy.ok():
        try:
            executor.spin_once()
            faults = 0
        except ExternalShutdownException:
            raise
        except Exception as error:
            faults += 1
            node.fault("A round of the executor", error)
            if faults >= _FAULTS_IN_A_ROW:
                time.sleep(_PAUSE)


if __name__ == "__main__":
    main()
