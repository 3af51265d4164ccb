"""Quality of service of the services and the action.

A DDS reader with a full queue silently drops the oldest message. By default, the queue holds 10 messages, and rclpy's executor
takes one message of each service in each round. With these defaults, only 10 of 40 simultaneous requests would be answered.
"""

from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

BURST = 1000
"""Number of requests that can arrive at one service between two rounds of the executor."""

CLIENT = QoSProfile(depth=BURST, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
"""Profile of this package's clients. A client receives the responses to all clients of its service, and ignores the others."""

FEEDBACK = QoSProfile(depth=100, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
"""Profile of the action's feedback. Each message contains the whole answer so far, so a lost message does no harm."""


def service(max_queued: int) -> QoSProfile:
    """Return the profile of a service. At most ``max_queued`` of its requests wait in the engine."""
    return QoSProfile(depth=BURST + max_queued, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
