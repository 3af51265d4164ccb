"""Counts and latencies of the requests since the node started."""

from collections import deque
from dataclasses import dataclass, field

from robobrain_ros.ros.messages.conversions import shortened
from robobrain_ros.ros.requests.result import Result

_LONGEST_ERROR = 500
"""Characters of an error in the log and in /diagnostics."""
_LATENCIES = 100
"""Number of latencies that are kept."""


@dataclass
class RequestStatistics:
    """Counts of requests; ``latencies`` (seconds) are those of the newest answered requests.

    ``served`` counts the answered requests (OK or NOTHING_FOUND), ``failed`` the others, rejected ones included.
    """

    served: int = 0
    failed: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))
    last_error: str = ""

    def record(self, result: Result) -> None:
        """Count a request that ended."""
        if result.answered:
            self.served += 1
            self.latencies.append(result.report.total_time)
            return
        assert result.error is not None, "without an error it is answered"
        self.failed += 1
        self.last_error = shortened(f"{result.error.code.name}: {result.error.message}", _LONGEST_ERROR)
