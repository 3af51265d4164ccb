"""Quality of service of the services and the action.

A full DDS reader drops its oldest message without a report. rclpy keeps 10 by default, and takes one message of each
service in each round of its executor: of 40 requests sent at once, 10 are answered.
"""

from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

BURST = 1000
"""Requests that may arrive at one service between two rounds of the executor."""

CLIENT = QoSProfile(depth=BURST, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
"""Profile of this package's clients. A client receives the responses to every client of its service, and drops the others'."""

FEEDBACK = QoSProfile(depth=100, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
"""Profile of the action's feedback. Each feedback holds the ones before it, so a lost feedback does no harm."""


def service(max_queued: int) -> QoSProfile:
    """The profile of a service whose requests wait in the engine, at most ``max_queued`` of them."""
    return QoSProfile(depth=BURST + max_queued, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
