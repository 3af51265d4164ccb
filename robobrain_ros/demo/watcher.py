"""Estimates of a step's progress from the action ~/watch_task of a running node."""

import copy
from array import array
from typing import Any

from rclpy.action import ActionClient
from rclpy.time import Time
from sensor_msgs.msg import Image

from robobrain_ros.action import WatchTask
from robobrain_ros.bounds.deadlines import CLIENT_GRACE
from robobrain_ros.core.query import Defaults, RgbImage
from robobrain_ros.demo.encodings import encode_image
from robobrain_ros.errors import EngineFailedError, NotReadyError, RequestTimeoutError, error_of, outcome_code
from robobrain_ros.ros.client import TaskClient, query_options
from robobrain_ros.ros.delivery import qos

_LONGEST = 3600.0
"""Seconds until the node ends the watch of a step."""
_UNDECIDED = WatchTask.Goal(success=1.0, regression=0.999, confirmations=255, timeout=_LONGEST)
"""A goal whose limits never end the watch. `core.step_watch` decides instead, because the arm waits for each estimate."""


class TaskWatcher:
    """Watches one step after the other. See `watched_arm.ProgressSource`.

    :param client: a node that spins while the watcher waits. Its camera shows the arm.
    :param robobrain: name of the node robobrain.
    :param camera: the node's camera above the arm's table. Empty: its first camera.
    :param timeout: time limit of an estimate in seconds.
    :param rate: estimates per second, if the model is fast enough.
    """

    def __init__(
        self,
        client: TaskClient,
        *,
        robobrain: str = "robobrain",
        camera: str = "",
        timeout: float = Defaults.timeout,
        rate: float = 1.0,
    ) -> None:
        self._client, self._timeout, self._rate = client, timeout, rate
        self._options = query_options(cameras=[camera] if camera else [], timeout=timeout)
        self._action = ActionClient(
            client,
            WatchTask,
            f"{robobrain}/watch_task",
            feedback_sub_qos_profile=qos.FEEDBACK,
            result_service_qos_profile=qos.CLIENT,
        )
        self._handle: Any = None
        self._result: Any = None
        self._newest: Any = None

    def begin(self, step: str, goal: RgbImage) -> None:
        """Send the action goal. The node takes its newest image as the start of the step.

        :raises RoboBrainError: the node does not accept it in time.
        """
        self._newest = None
        message = copy.deepcopy(_UNDECIDED)
        message.task, message.options, message.rate = step, self._options, self._rate
        message.reference_end = _to_message(goal)
        if not self._client.spin_until(self._action.server_is_ready, self._timeout):
            raise NotReadyError("The action watch_task did not appear. Is the node running?")
        accepted = self._action.send_goal_async(message, feedback_callback=self._keep)
        try:
            self._wait(accepted.done)
        except RequestTimeoutError:
            accepted.add_done_callback(_cancel)  # Otherwise, the node would watch a step that no robot executes.
            raise
        self._handle = accepted.result()
        if not self._handle.accepted:
            raise NotReadyError("The node rejected the goal of watch_task. The log of the node states the reason.")
        self._result = self._handle.get_result_async()

    def progress(self) -> float:
        """Wait for an estimate from an image that was taken after the call.

        :raises RoboBrainError: the watch ended, or there is no estimate in time.
        """
        asked = self._client.get_clock().now()

        def arrived() -> bool:
            return self._newest is not None and Time.from_msg(self._newest.header.stamp, clock_type=asked.clock_type) >= asked

        # An estimate of an older image may run already.
        self._wait(lambda: arrived() or self._result.done(), 2.0)
        if not arrived():
            outcome = self._result.result().result.outcome
            raise error_of(outcome_code(outcome.code), outcome.message or "The watch ended without an estimate.")
        progress = float(self._newest.progress)
        if not 0.0 <= progress <= 1.0:
            raise EngineFailedError(f"The node reported a progress of {progress:g}. It must be 0 to 1.")
        return progress

    def end(self) -> None:
        """Cancel the action goal, and wait until the node has ended it."""
        if self._handle is None:
            return
        if not self._result.done():
            self._handle.cancel_goal_async()
            self._wait(self._result.done)
        self._handle = None

    def _keep(self, message: Any) -> None:
        self._newest = message.feedback.progress

    def _wait(self, condition: Any, times: float = 1.0) -> None:
        """Spin until the condition is true.

        :param times: time limit, as a multiple of that of an estimate.
        :raises RequestTimeoutError: it does not become true in time.
        :raises NotReadyError: the node ended meanwhile.
        """
        patience, name = times * self._timeout + CLIENT_GRACE, "The action watch_task"
        if not self._client.spin_while_served(condition, self._action.server_is_ready, patience, name):
            raise RequestTimeoutError(f"{name} did not answer within {patience:.0f} s.")


def _cancel(accepted: Any) -> None:
    """Cancel a goal that the node accepted too late."""
    if accepted.exception() is None and accepted.result().accepted:
        accepted.result().cancel_goal_async()


def _to_message(image: RgbImage) -> Image:
    height, width = image.shape[:2]
    data, step = encode_image(image, "rgb8")
    return Image(height=height, width=width, encoding="rgb8", step=step, data=array("B", data.tobytes()))
