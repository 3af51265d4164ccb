"""Counts, latencies and tokens of the requests since the node started."""

from collections import deque
from dataclasses import dataclass, field

from robobrain_ros.bounds.texts import one_line, shortened
from robobrain_ros.core.query import Report
from robobrain_ros.ros.requests.result import Result

_LONGEST_ERROR = 500
"""Characters of an error in the log and in /diagnostics."""
_LATENCIES = 100
"""Number of latencies that are kept."""


@dataclass
class RequestStatistics:
    """Counts of requests, and latencies in seconds of the newest answered requests.

    ``served`` counts answered requests (OK or NOTHING_FOUND). ``failed`` counts all others, including rejected ones. The tokens
    are those of all requests, including failed ones.
    """

    served: int = 0
    failed: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))
    last_error: str = ""
    prompt_tokens: int = 0
    thinking_tokens: int = 0
    answer_tokens: int = 0
    token_rate: float | None = None
    """Tokens per second after the first token of the last answered request, or None if it had fewer than two tokens."""

    def record(self, result: Result) -> None:
        """Count a request that ended."""
        report = result.report
        self.prompt_tokens += report.prompt_tokens
        self.thinking_tokens += report.thinking_tokens
        self.answer_tokens += report.answer_tokens
        if result.answered:
            self.served += 1
            self.latencies.append(report.total_time)
            self.token_rate = _token_rate(report)
            return
        assert result.error is not None, "without an error it is answered"
        self.failed += 1
        self.last_error = one_line(shortened(f"{result.error.code.name}: {result.error.message}", _LONGEST_ERROR))


def _token_rate(report: Report) -> float | None:
    later = report.thinking_tokens + report.answer_tokens - 1
    seconds = report.total_time - report.first_token_time
    return later / seconds if later > 0 and seconds > 0.0 else None
