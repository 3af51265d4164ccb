"""Transforms between frames at a stamp, through tf2. Only this module imports tf2_ros."""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from builtin_interfaces.msg import Time as TimeMessage
from rclpy.node import Node
from rclpy.time import Time

from robobrain_ros.core.geometry import Floats
from robobrain_ros.core.poses import Rigid
from robobrain_ros.ros.cameras.frames import frame_fault
from robobrain_ros.ros.clock import Jump, nanoseconds

_QUATERNION_TOLERANCE = 0.01
"""Maximum deviation of a quaternion's length from 1."""
_FARTHEST = 1e9
"""Maximum of a translation's coordinates in metres. Frames on the earth, such as UTM and ECEF, have up to 1e7 m."""
_PAUSE = 0.01
"""Seconds between two lookups of a transform that has not arrived."""


class TransformError(Exception):
    """There is no transform. The message is the end of a sentence."""


@dataclass(frozen=True)
class Transform(Rigid):
    """A transform from tf2, which can be broken until it is `normalized`."""

    def normalized(self) -> "Transform":
        """Return the same transform with a quaternion of length 1. tf2 tolerates an error of 1 %, and infinite translations.

        :raises TransformError: the numbers are no rotation and translation.
        """
        length = math.hypot(*self.quaternion)
        shortest, longest = 1.0 - _QUATERNION_TOLERANCE, 1.0 + _QUATERNION_TOLERANCE
        if not (shortest <= length <= longest and all(abs(shift) <= _FARTHEST for shift in self.translation)):
            raise TransformError(
                f"the transform is broken: its quaternion is {self.quaternion}, and its translation is {self.translation}"
            )
        x, y, z, w = (part / length for part in self.quaternion)
        return Transform((x, y, z, w), self.translation)

    def apply(self, positions: Floats) -> Floats:
        """Return positions (n, 3) in the target frame."""
        axis, w = np.array(self.quaternion[:3]), self.quaternion[3]
        turned = positions + 2.0 * np.cross(axis, np.cross(axis, positions) + w * positions)
        return np.asarray(turned + np.array(self.translation), np.float64)


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
