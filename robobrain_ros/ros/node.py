"""The lifecycle node: what exists when, and what is connected with what."""

import logging
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter
from rclpy.signals import SignalHandlerOptions

import robobrain_ros.demo
from robobrain_ros.core.profiles import profile_for
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError, RoboBrainError
from robobrain_ros.ros.cameras import Camera, Cameras, Frame
from robobrain_ros.ros.diagnostics import Diagnostics
from robobrain_ros.ros.endpoints import Endpoints
from robobrain_ros.ros.model import EngineFactory, Model, ModelSettings
from robobrain_ros.ros.parameters import ENGINE_PREFIX, Parameters
from robobrain_ros.ros.requests import Requests
from robobrain_ros.ros.results import ResultTopics
from robobrain_ros.ros.standing import StandingQueries

_CAN_THINK = {"auto": None, "yes": True, "no": False}
_FAREWELL = 2.0
"""Seconds in which cancelled requests are still answered when the node ends."""
_ENGINE_FAREWELL = 20.0
"""Seconds that the engine has to give everything back when the node ends."""

Transition = Callable[[], None]


class RoboBrainNode(LifecycleNode):
    """The node ``robobrain``.

    Configure begins to load the model and offers services and action; activate opens the cameras and lets requests through.
    No transition waits for the model.

    :param engine_factory: makes the engine instead of the embedded vLLM that the parameters describe; for tests.
    :param parameter_overrides: as of `rclpy.node.Node`.
    :raises rclpy.exceptions.ParameterException: a parameter has a wrong initial value.
    """

    def __init__(
        self,
        *,
        engine_factory: EngineFactory | None = None,
        namespace: str | None = None,
        parameter_overrides: list[RosParameter] | None = None,
        context: rclpy.context.Context | None = None,
    ) -> None:
        super().__init__("robobrain", namespace=namespace, parameter_overrides=parameter_overrides, context=context)
        self._engine_factory = engine_factory
        self._log_handler = _RosLogHandler(self.get_logger())
        logging.getLogger("robobrain_ros").addHandler(self._log_handler)
        self._cameras = Cameras([], [])
        self._parameters = Parameters(self)
        self._model = Model(self.get_logger(), self._on_model_change)
        self._results = ResultTopics(self, self._model)
        self._requests = Requests(self, self._parameters, self._model, lambda: self._cameras, self._results.publish)
        self._endpoints = Endpoints(self, self._requests)
        self._standing: StandingQueries | None = None
        self._diagnostics = Diagnostics(self, self._parameters, self._model, self._requests, lambda: self._cameras)
        # Steady: life goes on where simulated time stands still.
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._second = self.create_timer(1.0, self._each_second, clock=self._clock)
        self._starter = self.create_timer(0.0, self._autostart, clock=self._clock) if self._parameters["autostart"] else None
        self._change_announced = False

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
