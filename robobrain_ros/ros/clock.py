"""Detect jumps of simulated time, of the system clock, and of a camera's stamps."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rclpy.clock import ClockChange, JumpThreshold, ROSClock, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import Header

from robobrain_ros.core.messages.stamps import nanoseconds as nanoseconds

_BACK_SIMULATED = 0.1
_BACK_SYSTEM = 0.5
_FORWARD = 5.0
"""Smallest jumps in seconds. NTP slews smaller differences. Fast simulated time has larger steps forward, see `_FAST`."""
_FAST = 1.0
"""If a step forward follows another one within this number of seconds, it is no jump: a recording is played fast."""
_BACK_STAMPS = 1.0
"""Smallest jump back of a camera's stamps in seconds. Stamps jump back when a recording restarts."""
_NEIGHBOURHOOD = 10.0
"""Stamps within this many seconds of the time before a jump count as old. Longer jumps use their own length."""
_LEFTOVERS = 0.5
"""Seconds after a jump in which older messages may still be delivered."""
_LONG = 5.0
"""Seconds. After a shorter jump, the new time soon reaches the old one, so stamps cannot identify older messages."""
_SKEW = 0.5
"""Seconds by which a stamp can be ahead of the node's clock, because the clocks of machines differ."""
_RECENT = 10.0
"""Seconds for which /diagnostics warns about a jump."""


def system_time() -> int:
    """Return the system time in ns since 1970."""
    return time.time_ns()


def stamp_age(clock: ROSClock, header: Header) -> float:
    """Return the age of a header's stamp in seconds by this clock; NaN without a stamp."""
    # Called for each image, so it avoids rclpy's Time, and rclpy's clock for system time, which take ten times as long.
    stamp = nanoseconds(header.stamp)
    if not stamp:
        return math.nan
    now = clock.now().nanoseconds if clock.ros_time_is_active else system_time()
    return float(now - stamp) * 1e-9


def reported_age(age: float) -> float:
    """Return the age for reports: never negative; NaN if the stamp is more than `_SKEW` ahead of the clock."""
    return math.nan if age < -_SKEW else max(age, 0.0)


@dataclass(frozen=True)
class Jump:
    """A jump of time.

    :param before: time before the jump in ns.
    :param after: time after the jump in ns.
    :param camera: name of the camera whose stamps jumped, for example because a recording restarted. Empty if the clock jumped.
    :param noticed: time of detection (``time.monotonic()``).
    """

    before: int
    after: int
    camera: str = ""
    noticed: float = field(default_factory=time.monotonic, compare=False)

    @property
    def seconds(self) -> float:
        """The length of the jump in seconds; negative: backward."""
        return (self.after - self.before) * 1e-9

    def is_old(self, stamp: int) -> bool:
        """Whether a stamp (ns; 0: no stamp) is from before the jump: near the old time, and not nearer to the new time."""
        distance = abs(stamp - self.before)
        near = max(abs(self.after - self.before), round(_NEIGHBOURHOOD * 1e9))
        return stamp != 0 and distance < near and distance <= abs(stamp - self.after)

    def concerns(self, camera: str) -> bool:
        """Whether the jump affects this camera."""
        return self.camera in ("", camera)

    def is_leftover(self, stamp: int) -> bool:
        """Whether a message with this stamp (ns) that arrives now was sent before the jump."""
        at_once = time.monotonic() - self.noticed < _LEFTOVERS
        return at_once and abs(self.seconds) > _LONG and self.is_old(stamp)

    def __str__(self) -> str:
        what = f"the time of camera {self.camera}" if self.camera else "time"
        return f"{what} jumped {'back' if self.seconds < 0.0 else 'forward'} by {abs(self.seconds):.1f} s"


class ClockWatch:
    """Detects time jumps. Called in the executor.

    :param on_jump: called once for each jump, to drop data from before the jump.
    """

    def __init__(self, node: Node, on_jump: Callable[[Jump], None]) -> None:
        self._node = node
        self._clock = node.get_clock()
        self._on_jump = on_jump
        self._offset = system_time() - time.monotonic_ns()
        self._last = self._now()
        self._last_forward = -_FAST
        self.jumps = 0
        """Number of jumps."""
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
        """Detect a jump of the system clock since the last call; called each second, and for each image and request."""
        offset = system_time() - time.monotonic_ns()
        shift, self._offset = offset - self._offset, offset
        self._last = self._now()
        if not self.simulated and (shift < -_BACK_SYSTEM * 1e9 or shift > _FORWARD * 1e9):
            self._announce(Jump(self._last - shift, self._last))

    def check_stamps(self, camera: str, before: int, after: int) -> None:
        """Detect a jump between two successive stamps (ns) of a camera."""
        if before and after and after - before < -_BACK_STAMPS * 1e9:
            self._announce(Jump(before, after, camera))

    def is_leftover(self, stamp: int) -> bool:
        """Whether a message with this stamp (ns) was sent before a jump of the clock, and arrived after it.

        False after a jump of only a camera's stamps, because its next image can have any stamp.
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
