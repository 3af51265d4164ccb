"""The part of the program ``ask`` that uses ROS. It asks a running node one question."""

import argparse
import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from robobrain_ros.cli.reply import Reply
from robobrain_ros.core.query import Answer, RgbImage, Task
from robobrain_ros.errors import BadRequestError, NotReadyError, OutcomeCode, RoboBrainError, outcome_code
from robobrain_ros.ros.client import TaskClient, query_options, to_answer
from robobrain_ros.ros.messages.conversions import read_image_message
from robobrain_ros.ros.process.rcl_errors import explain
from robobrain_ros.ros.tasks import TASKS

_APPEARANCE = 5.0
"""Seconds to wait for discovery of a running node."""
_REDRAWING = 1.0
"""Seconds to wait for a second image with the answer's stamp."""
_DRAWING = 10.0
"""Seconds to wait for the image with the answer drawn on it."""


class _Asker(TaskClient):
    """A client that Ctrl-C interrupts.

    By default, Python raises KeyboardInterrupt at any point of the program. rclpy runs destructors while it waits, and Python
    ignores exceptions in destructors.
    """

    _interrupted = False

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within the ``with`` block, `spin_until` raises KeyboardInterrupt after Ctrl-C."""
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _interrupt(self, number: int, frame: object) -> None:
        self._interrupted = True

    def spin_until(self, condition: Callable[[], Any], seconds: float) -> bool:
        """See `TaskClient.spin_until`.

        :raises KeyboardInterrupt: the user pressed Ctrl-C.
        """
        fulfilled = super().spin_until(lambda: self._interrupted or condition(), seconds)
        if self._interrupted:
            raise KeyboardInterrupt
        return fulfilled


def ask_node(options: argparse.Namespace, ros_arguments: list[str]) -> Reply:
    """Ask the node that the options name, and return its reply."""
    task = Task(options.task)
    try:
        # rclpy must not handle Ctrl-C. `_Asker` handles it while it waits, and Python otherwise.
        rclpy.init(args=ros_arguments, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # rcl cannot read an argument or the keystore.
        return Reply(OutcomeCode.BAD_REQUEST, explain(error), Answer(task, ""))
    try:
        return _ask(task, options)
    except RoboBrainError as error:
        return Reply(error.code, error.message, Answer(task, ""))
    finally:
        rclpy.try_shutdown()


def _ask(task: Task, options: argparse.Namespace) -> Reply:
    name = options.node or "robobrain"
    try:
        client = _Asker(f"ask_{os.getpid()}", robobrain=name, tasks=[task])
    except rclpy.exceptions.InvalidServiceNameException as error:
        raise BadRequestError(f"{name!r} is not a valid node name.") from error
    except RuntimeError as error:  # From rcl.
        raise BadRequestError(explain(error)) from error
    try:
        with client.interruptible():
            return _ask_with(client, task, options, name)
    finally:
        client.destroy_node()


def _ask_with(client: TaskClient, task: Task, options: argparse.Namespace, name: str) -> Reply:
    overlays: list[Image] = []
    if options.save:
        # The subscription is volatile, because the image that the node keeps for late subscribers belongs to an earlier answer.
        overlay = client.create_subscription(Image, f"{name}/overlay", overlays.append, QoSProfile(depth=10))
    try:
        client.wait_for_task(task, _APPEARANCE)
    except NotReadyError as error:
        raise NotReadyError(f"{error.message} {_describe_running_nodes(client)}") from error
    if options.save:
        client.spin_until(overlay.get_publisher_count, _APPEARANCE)
    wanted = query_options(
        cameras=options.camera or [],
        think=options.think,
        timeout=options.timeout,
        max_tokens=options.max_tokens,
        history_seconds=options.history,
        history_frames=options.frames if options.history else 0,
    )
    response = client.ask(task, options.text, wanted, plan=options.plan)
    reply = _to_reply(task, response)
    if options.save and reply.code is OutcomeCode.OK:
        reply.overlay = _overlay_of(client, overlays, TASKS[task].result_in(response).header.stamp)
    return reply


def _describe_running_nodes(client: TaskClient) -> str:
    """Return a sentence with the names of the running nodes."""
    nodes = client.running_nodes()
    if nodes:
        return f"Running nodes: {', '.join(nodes)}. Choose one with --node."
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    return f"No node robobrain is running in ROS_DOMAIN_ID {domain}. Start it, or ask about a file with --image."


def _overlay_of(client: TaskClient, overlays: list[Image], stamp: Any) -> RgbImage | None:
    """Wait for the image with the answer drawn on it, and return it, or None if it did not arrive.

    The stamp identifies the camera image. The frame in the answer's header cannot, because it is the frame of the positions.
    """

    def matching() -> list[Image]:
        return [image for image in overlays if image.header.stamp == stamp]

    if client.spin_until(matching, _DRAWING):
        # The node also draws the previous answer for this new subscriber. If both answers are about the same image, the drawing
        # of the new answer arrives last.
        client.spin_until(lambda: len(matching()) > 1, _REDRAWING)
    found = matching()
    return read_image_message(found[-1]) if found else None


def _to_reply(task: Task, response: Any) -> Reply:
    found = TASKS[task].result_in(response)
    width, height = getattr(found, "image_width", 0), getattr(found, "image_height", 0)
    parts = [*getattr(found, "points", []), *getattr(found, "areas", []), *getattr(found, "waypoints", [])]
    return Reply(
        outcome_code(response.outcome.code),
        response.outcome.message,
        to_answer(task, response),
        camera=found.camera,
        frame_id=found.header.frame_id,
        stamp=(found.header.stamp.sec, found.header.stamp.nanosec),
        size=(width, height) if width and height else None,
        positions=[_position(part.position) for part in parts],
    )


def _position(position: Any) -> tuple[float, float, float] | None:
    place = position.x, position.y, position.z
    return place if all(math.isfinite(value) for value in place) else None
