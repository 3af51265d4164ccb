"""Transforms between frames at a stamp, through tf2. Only this module imports tf2_ros."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from builtin_interfaces.msg import Time as TimeMessage
from rclpy.node import Node
from rclpy.time import Time

from robobrain_ros.core.messages.frames import frame_fault
from robobrain_ros.core.transforms import Transform as Transform
from robobrain_ros.core.transforms import TransformError as TransformError
from robobrain_ros.ros.clock import Jump, nanoseconds

_PAUSE = 0.01
"""Seconds between two lookups of a transform that has not arrived."""


class TransformSource(Protocol):
    """Source of transforms for `Transforms`: tf2, or a test."""

    def lookup(self, target: str, source: str, stamp: TimeMessage) -> Transform:
        """Return the transform from ``source`` to ``target`` at a stamp, without waiting. Callable from any thread.

        :raises TransformError: the transform is unknown.
        """

    def clear(self, jump: Jump) -> None:
        """Drop the transforms from before a time jump, except static ones."""

    def close(self) -> None:
        """Destroy the subscriptions."""


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
        # The buffer gets no node, because tf2 would otherwise create its own service on the node.
        self._buffer = tf2_ros.Buffer()
        self._jump: Jump | None = None
        self._set_transform = getattr(self._buffer, "set_transform", None)
        if self._set_transform is not None:
            self._buffer.set_transform = self._take
        self._listener = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)

    def lookup(self, target: str, source: str, stamp: TimeMessage) -> Transform:
        """See `TransformSource.lookup`."""
        try:
            found = self._buffer.lookup_transform(target, source, Time.from_msg(stamp)).transform
        except self._error as error:
            raise TransformError(str(error).rstrip(".")) from error
        except (ValueError, OverflowError) as error:  # rclpy rejects the stamp.
            raise TransformError(f"the stamp of {stamp.sec} s and {stamp.nanosec} ns is not a valid time") from error
        turn, shift = found.rotation, found.translation
        return Transform((turn.x, turn.y, turn.z, turn.w), (shift.x, shift.y, shift.z))

    def clear(self, jump: Jump) -> None:
        """See `TransformSource.clear`. After a jump back, the buffer would otherwise reject new transforms as too old."""
        self._jump = jump
        self._buffer.clear()

    def _take(self, transform: Any, authority: str) -> None:
        """Store a transform, unless its frame names are too long, or it was sent before a time jump.

        A transform from before a jump back would make the buffer reject new transforms as too old.
        """
        if frame_fault(transform.header.frame_id) or frame_fault(transform.child_frame_id):
            return
        if self._jump is None or not self._jump.is_leftover(nanoseconds(transform.header.stamp)):
            self._set_transform(transform, authority)  # type: ignore[misc]

    def close(self) -> None:
        """Destroy tf2's subscriptions."""
        self._listener.unregister()


class Transforms:
    """Waits for transforms without blocking the loop.

    :param open_source: creates the source of transforms, as `Tf2` does; called in `open`.
    """

    def __init__(self, node: Node, open_source: Callable[[Node], TransformSource] = Tf2) -> None:
        self._node = node
        self._open_source = open_source
        self._source: TransformSource | None = None
        self._why_closed = "the node is not configured"

    def open(self) -> None:
        """Subscribe to the transforms. An error is logged, and `wait` raises it later."""
        self.close()
        try:
            self._source = self._open_source(self._node)
        except TransformError as error:
            self._why_closed = str(error)
            self._node.get_logger().error(f"Positions stay in the cameras' frames, not in target_frame: {error}.")

    def close(self) -> None:
        """Unsubscribe."""
        if self._source is not None:
            self._source.close()
            self._source = None
        self._why_closed = "the node is not configured"

    def clear(self, jump: Jump) -> None:
        """Drop the transforms from before a time jump."""
        if self._source is not None:
            self._source.clear(jump)

    async def wait(self, target: str, source: str, stamp: TimeMessage, timeout: float) -> Transform:
        """Wait at most ``timeout`` seconds for a transform at a stamp, and return it. Runs on any asyncio loop.

        :raises TransformError: the transform is unknown.
        """
        if stamp.sec == 0 and stamp.nanosec == 0:
            raise TransformError("the image has no stamp")  # For stamp 0, tf2 would return the latest transform.
        end = time.monotonic() + timeout
        while True:
            listening = self._source
            if listening is None:
                raise TransformError(self._why_closed)
            try:
                found = listening.lookup(target, source, stamp)
            except TransformError:
                if time.monotonic() >= end:
                    raise
            else:
                return found.normalized()
            await asyncio.sleep(_PAUSE)
