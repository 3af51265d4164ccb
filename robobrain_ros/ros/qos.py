"""Quality of service of the services and the action.

A DDS reader that is full drops the oldest message without a word. rclpy keeps 10 by default, and takes one message of each
service in each round of its executor: of 40 requests sent at once, 10 are answered.
"""

from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

BURST = 1000
"""Requests that may arrive at one service between two rounds of the executor."""

CLIENT = QoSProfile(depth=BURST, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
"""Of this package's own clients. A client receives the responses to every client of its service, and drops those of others."""

FEEDBACK = QoSProfile(depth=100, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
"""Of the action's feedback. Each feedback holds the ones before it, so that a lost one costs nothing."""


def service(max_queued: int) -> QoSProfile:
    """The profile of a service whose requests wait in the engine, at most ``max_queued`` of them."""
    return QoSProfile(
        depth=BURST + max_queued, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE
    )
