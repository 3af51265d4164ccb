"""Notice jumps of simulated time, of the system clock, and of a camera's stamps."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from builtin_interfaces.msg import Time as TimeMessage
from rclpy.clock import ClockChange, JumpThreshold, ROSClock, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import Header

_BACK_SIMULATED = 0.1
_BACK_SYSTEM = 0.5
_FORWARD = 5.0
"""Least seconds of a jump. NTP slews smaller differences; fast simulated time makes larger steps forward."""
_FAST = 1.0
"""Seconds; steps forward that follow each other within this time come from a recording that is played fast."""
_BACK_STAMPS = 1.0
"""Least seconds by which a camera's stamps jump back when its recording restarts."""
_NEIGHBOURHOOD = 10.0
"""Stamps within this many seconds of the time before a jump count as old. Longer jumps use their own length."""
_LEFTOVERS = 0.5
"""Seconds after a jump in which older messages may still be delivered."""
_LONG = 5.0
"""Seconds; after a shorter jump, the new time soon reaches the old one, so stamps cannot identify older messages."""
_SKEW = 0.5
"""Seconds that a stamp may be ahead of the node's clock, because clocks of several machines differ."""
_RECENT = 10.0
"""Seconds for which /diagnostics warns about a jump."""


def nanoseconds(stamp: TimeMessage) -> int:
    """A stamp as one number; 0: none."""
    return int(stamp.sec * 10**9 + stamp.nanosec)


def system_time() -> int:
    """The system's time, nanoseconds since 1970."""
    return time.time_ns()


def stamp_age(clock: ROSClock, header: Header) -> float:
    """Seconds from a header's stamp to now, by that clock; NaN without a stamp."""
    # In plain numbers, and past rclpy where its time is the system's: it is asked for each image, and costs ten times as much.
    stamp = nanoseconds(header.stamp)
    if not stamp:
        return math.nan
    now = clock.now().nanoseconds if clock.ros_time_is_active else system_time()
    return float(now - stamp) * 1e-9


def reported_age(age: float) -> float:
    """The age to report: never negative, NaN where the stamp is farther ahead of the clock than clocks differ."""
    return math.nan if age < -_SKEW else max(age, 0.0)


@dataclass(frozen=True)
class Jump:
    """A jump of time from ``before`` to ``after``, nanoseconds; ``noticed`` as of ``time.monotonic()``.

    ``camera``: only the stamps of that camera jumped, such as those of a recording that begins again; empty: the clock did.
    """

    before: int
    after: int
    camera: str = ""
    noticed: float = field(default_factory=time.monotonic, compare=False)

    @property
    def seconds(self) -> float:
        """How far time jumped; negative: back."""
        return (self.after - self.before) * 1e-9

    def is_old(self, stamp: int) -> bool:
        """Whether a stamp (nanoseconds; 0: none) is of the time before the jump: near it, and not nearer to the new time."""
        distance = abs(stamp - self.before)
        near = max(abs(self.after - self.before), round(_NEIGHBOURHOOD * 1e9))
        return stamp != 0 and distance < near and distance <= abs(stamp - self.after)

    def concerns(self, camera: str) -> bool:
        """Whether time jumped for that camera."""
        return self.camera in ("", camera)

    def is_leftover(self, stamp: int) -> bool:
        """Whether a message with that stamp (nanoseconds), delivered now, was sent before the jump."""
        at_once = time.monotonic() - self.noticed < _LEFTOVERS
        return at_once and abs(self.seconds) > _LONG and self.is_old(stamp)

    def __str__(self) -> str:
        what = f"the time of camera {self.camera}" if self.camera else "time"
        return f"{what} jumped {'back' if self.seconds < 0.0 else 'forward'} by {abs(self.seconds):.1f} s"


class ClockWatch:
    """Notices jumps of time and announces each once; called in the executor.

    :param on_jump: clears what remembers time.
    """

    def __init__(self, node: Node, on_jump: Callable[[Jump], None]) -> None:
        self._node = node
        self._clock = node.get_clock()
        self._on_jump = on_jump
        self._offset = system_time() - time.monotonic_ns()
        self._last = self._now()
        self._last_forward = -_FAST
        self.jumps = 0
        """How many jumps there were."""
        self.last: Jump | None = None
        """The last jump."""
        threshold = JumpThreshold(
            min_forward=Duration(seconds=_FORWARD), min_backward=Duration(seconds=-_BACK_SIMULATED), on_clock_change=True
        )
        self._handle = self._clock.create_jump_callback(threshold, post_callback=self._simulated_time_jumped)

    @property
    def simulated(self) -> bool:
        """Whether time is simulated."""
        return bool(self._clock.ros_time_is_active)

    @property
    def waits(self) -> bool:
        """Whether time is simulated and has not started."""
        return self.simulated and self._now() == 0

    @property
    def recent(self) -> bool:
        """Whether time jumped within the last `_RECENT` seconds."""
        return self.last is not None and time.monotonic() - self.last.noticed < _RECENT

    def check(self) -> None:
        """Notice a step of the system's clock since the last call; called each second, for each image and each request."""
        offset = system_time() - time.monotonic_ns()
        shift, self._offset = offset - self._offset, offset
        self._last = self._now()
        if not self.simulated and (shift < -_BACK_SYSTEM * 1e9 or shift > _FORWARD * 1e9):
            self._announce(Jump(self._last - shift, self._last))

    def stamps_went(self, camera: str, before: int, after: int) -> None:
        """Notice that the stamps of a camera (nanoseconds) have gone from one to the other."""
        if before and after and after - before < -_BACK_STAMPS * 1e9:
            self._announce(Jump(before, after, camera))

    def is_leftover(self, stamp: int) -> bool:
        """Whether a message with that stamp (nanoseconds) was sent before a jump of the clock and delivered after it.

        Where only a camera's stamps jumped, its next image may be of any time.
        """
        return self.last is not None and not self.last.camera and self.last.is_leftover(stamp)

    def close(self) -> None:
        """Stop watching."""
        self._handle.unregister()

    def _now(self) -> int:
        return int(self._clock.now().nanoseconds) if self.simulated else system_time()

    def _simulated_time_jumped(self, jump: TimeJump) -> None:
        after = int(self._clock.now().nanoseconds)
        if jump.clock_change in (ClockChange.ROS_TIME_ACTIVATED, ClockChange.ROS_TIME_DEACTIVATED):
            before = self._last
        else:
            before = after - int(jump.delta.nanoseconds)
            if before <= 0:
                return  # Simulated time starts.
            if after > before:
                began, self._last_forward = self._last_forward, time.monotonic()
                if self._last_forward - began < _FAST:
                    return
        self._announce(Jump(before, after))

    def _announce(self, jump: Jump) -> None:
        self.jumps += 1
        self.last = jump
        self._on_jump(jump)
