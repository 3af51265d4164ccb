"""Transforms between frames at a time, through tf2; everything that knows tf2_ros is here."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from builtin_interfaces.msg import Time as TimeMessage
from rclpy.node import Node
from rclpy.time import Time

from robobrain_ros.core.geometry import Floats
from robobrain_ros.ros.cameras.frames import frame_fault
from robobrain_ros.ros.clock import Jump, nanoseconds

_PAUSE = 0.01
"""Seconds between two looks for a transform that has not come yet."""


class TransformError(Exception):
    """Why there is no transform, as the end of a sentence."""


@dataclass(frozen=True)
class Transform:
    """Turns by a quaternion (x, y, z, w), then shifts by a translation (x, y, z), metres."""

    quaternion: tuple[float, float, float, float]
    translation: tuple[float, float, float]

    def apply(self, positions: Floats) -> Floats:
        """Positions (n, 3) in the other frame."""
        axis, w = np.array(self.quaternion[:3]), self.quaternion[3]
        turned = positions + 2.0 * np.cross(axis, np.cross(axis, positions) + w * positions)
        return np.asarray(turned + np.array(self.translation), np.float64)


class TransformSource(Protocol):
    """What `Transforms` asks: tf2, or a test."""

    def lookup(self, target: str, source: str, stamp: TimeMessage) -> Transform:
        """The transform from the frame ``source`` to ``target`` at that time, of what is known now; callable from any thread.

        :raises TransformError: there is none yet.
        """

    def clear(self, jump: Jump) -> None:
        """Forget the transforms of the time before a jump; static ones stay."""

    def close(self) -> None:
        """Give everything back."""


class Tf2:
    """tf2's buffer, filled from /tf and /tf_static by the node's executor.

    :raises TransformError: tf2_ros is not installed.
    """

    def __init__(self, node: Node) -> None:
        try:
            import tf2_ros
        except ImportError as error:
            raise TransformError(f"tf2_ros cannot be imported ({error}). Install the ROS package tf2_ros_py") from error
        self._error: Any = tf2_ros.TransformException
        # Without the node, or it would offer tf2's own service in our name.
        self._buffer = tf2_ros.Buffer()
        self._jump: Jump | None = None
        self._set_transform = getattr(self._buffer, "set_transform", None)
        if self._set_transform is not None:
            self._buffer.set_transform = self._take
        self._listener = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)

    def lookup(self, target: str, source: str, stamp: TimeMessage) -> Transform:
        """As of `TransformSource.lookup`."""
        try:
            found = self._buffer.lookup_transform(target, source, Time.from_msg(stamp)).transform
        except self._error as error:
            raise TransformError(str(error).rstrip(".")) from error
        except (ValueError, OverflowError) as error:  # The stamp is a number that rclpy takes for no time.
            raise TransformError(f"the stamp of {stamp.sec} s and {stamp.nanosec} ns is not a valid time") from error
        turn, shift = found.rotation, found.translation
        return Transform((turn.x, turn.y, turn.z, turn.w), (shift.x, shift.y, shift.z))

    def clear(self, jump: Jump) -> None:
        """As of `TransformSource.clear`. Without it, the buffer would reject what is older than what it holds."""
        self._jump = jump
        self._buffer.clear()

    def _take(self, transform: Any, authority: str) -> None:
        """Keep a transform that has come, unless no frame has such a name, or it was sent before a jump.

        A transform of the time before a jump would keep out those of the new time.
        """
        if frame_fault(transform.header.frame_id) or frame_fault(transform.child_frame_id):
            return
        if self._jump is None or not self._jump.is_leftover(nanoseconds(transform.header.stamp)):
            self._set_transform(transform, authority)  # type: ignore[misc]

    def close(self) -> None:
        """Give the subscriptions back."""
        self._listener.unregister()


class Transforms:
    """Waits for transforms without blocking the loop.

    :param open_source: as `Tf2`; called when the first frame is asked for in `open`.
    """

    def __init__(self, node: Node, open_source: Callable[[Node], TransformSource] = Tf2) -> None:
        self._node = node
        self._open_source = open_source
        self._source: TransformSource | None = None
        self._why_closed = "the node is not configured"

    def open(self) -> None:
        """Subscribe to the transforms. An error is logged, and `wait` raises it."""
        self.close()
        try:
            self._source = self._open_source(self._node)
        except TransformError as error:
            self._why_closed = str(error)
            self._node.get_logger().error(f"Positions stay in the cameras' frames, not in target_frame: {error}.")

    def close(self) -> None:
        """Stop listening."""
        if self._source is not None:
            self._source.close()
            self._source = None
        self._why_closed = "the node is not configured"

    def clear(self, jump: Jump) -> None:
        """Forget the transforms of the time before a jump."""
        if self._source is not None:
            self._source.clear(jump)

    async def wait(self, target: str, source: str, stamp: TimeMessage, timeout: float) -> Transform:
        """The transform at that time, waited for at most ``timeout`` seconds; on any asyncio loop.

        :raises TransformError: there is none.
        """
        if stamp.sec == 0 and stamp.nanosec == 0:
            raise TransformError("the image has no stamp")  # To tf2, it would mean the latest there is.
        end = time.monotonic() + timeout
        while True:
            listening = self._source
            if listening is None:
                raise TransformError(self._why_closed)
            try:
                return listening.lookup(target, source, stamp)
            except TransformError:
                if time.monotonic() >= end:
                    raise
            await asyncio.sleep(_PAUSE)
