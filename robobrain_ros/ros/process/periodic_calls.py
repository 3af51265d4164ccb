"""Run what the node does each second."""

from collections.abc import Callable, Iterable

from rclpy.clock import Clock

from robobrain_ros.ros.delivery.boundary import GuardedNode

_PERIOD = 1.0


class PeriodicCalls:
    """Calls several functions each second, in the executor. An exception in one of them does not affect the others.

    :param clock: a steady clock, because simulated time can stand still.
    """

    def __init__(self, node: GuardedNode, parts: Iterable[Callable[[], None]], clock: Clock) -> None:
        self._parts = [node.guard(f"The check {part.__qualname__}", part) for part in parts]
        self._timer = node.create_timer(_PERIOD, self._run, clock=clock)

    def _run(self) -> None:
        for part in self._parts:
            part()
