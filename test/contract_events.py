"""Conditions and their events in the contract test: random settings, and the promises of ~/events."""

import random
from collections.abc import Callable
from typing import Any

from contract_tables import NUMBERS
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from robobrain_ros.msg import Event
from robobrain_ros.srv import SetStandingQuery


def make_condition(request: SetStandingQuery.Request, choose: random.Random) -> None:
    """Turn about half of the questions, and a few other requests, into conditions with random settings."""
    if choose.random() < (0.5 if request.task == "ask" else 0.05):
        request.condition = True
        request.stable_frames = choose.choice([0, 1, 1, 2, 5_000])
        request.min_confidence = choose.choice([0.0, 0.0, 0.5, 0.9, *NUMBERS])


class EventCheck:
    """Checks that a query's events alternate, so that there is one event for each change.

    :param fault: called with a sentence about each broken promise.
    """

    def __init__(self, node: Node, target: str, fault: Callable[[str], None]) -> None:
        self.count = 0
        self._last: dict[str, int] = {}
        self._fault = fault
        # After each configure, the first event can be published before the new publisher has discovered this subscription.
        profile = QoSProfile(depth=1_000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(Event, f"{target}/events", self._on_event, profile)

    def _on_event(self, event: Any) -> None:
        self.count += 1
        last = self._last.get(event.query)
        self._last[event.query] = event.type
        if event.type == last:
            self._fault(f"event of {event.query}: type {event.type} twice in a row")
        if event.type == Event.BECAME_UNKNOWN and (event.initial or event.frames or not event.text):
            self._fault(f"event of {event.query}: BECAME_UNKNOWN with initial, with frames or without a reason")
        if event.type != Event.BECAME_UNKNOWN and event.initial != (last in (None, Event.BECAME_UNKNOWN)):
            self._fault(f"event of {event.query}: initial is {event.initial} after type {last}")
        if not event.question or not event.query or not event.camera:
            self._fault(f"event of {event.query!r}: its question or its camera is missing")
