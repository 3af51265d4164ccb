"""Quality of service of the services and the action.

A DDS reader with a full queue drops the oldest message silently. By default, the queue holds 10 messages, and rclpy's executor
takes one message of each service in each round. So of 40 requests that arrive at once, only 10 would be answered.
"""

from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

BURST = 1000
"""Number of requests that can arrive at one service between two rounds of the executor."""

CLIENT = QoSProfile(depth=BURST, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
"""Profile of this package's clients. A client receives the responses to all clients of its service, and ignores the others."""

FEEDBACK = QoSProfile(depth=100, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
"""Profile of the action's feedback. Each feedback contains the earlier ones, so a lost feedback does no harm."""


def service(max_queued: int) -> QoSProfile:
    """Return the profile of a service of which at most ``max_queued`` requests wait in the engine."""
    return QoSProfile(depth=BURST + max_queued, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
