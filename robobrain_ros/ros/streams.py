"""Subscriptions that are as reliable as what is published."""

from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.time import Time


class Stream:
    """A subscription to stamped messages, each handed to ``listener`` once.

    :param reliability: "best_effort", "reliable", or "auto": as the publishers', as far as `adapt` has found them.
    :param depth: messages that may wait.
    """

    def __init__(
        self, node: Node, message_type: Any, topic: str, listener: Callable[[Any], None], *, reliability: str, depth: int = 1
    ) -> None:
        self._node = node
        self._type = message_type
        self._name = topic
        self._listener = listener
        self._depth = depth
        self._adapts = reliability == "auto"
        self._reliable = reliability == "reliable"
        self._leaving: Subscription | None = None
        self._last_stamp = Time().to_msg()
        self._subscription = self._subscribe()
        self.adapt()

    @property
    def topic(self) -> str:
        """Full name of the topic after remapping."""
        return str(self._subscription.topic_name)

    def adapt(self) -> None:
        """With reliability "auto", subscribe as the publishers publish; called each second.

        A reliable subscription hears nothing of a best-effort publisher, and a best-effort one loses most large pictures.
        """
        publishers = self._node.get_publishers_info_by_topic(self.topic) if self._adapts else []
        reliable = all(publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE for publisher in publishers)
        if not publishers or reliable == self._reliable:
            return
        self._leave()
        # The old one stays until the new one has found the publishers.
        self._leaving, self._reliable = self._subscription, reliable
        self._subscription = self._subscribe()

    def publishers(self) -> str:
        """How many publish there, in words."""
        count = self._node.count_publishers(self.topic)
        return "nothing publishes there" if count == 0 else f"{count} publisher{'s' if count > 1 else ''} there"

    def close(self) -> None:
        """Give the subscription back."""
        self._leave()
        self._node.destroy_subscription(self._subscription)

    def _subscribe(self) -> Subscription:
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=self._depth,
            reliability=ReliabilityPolicy.RELIABLE if self._reliable else ReliabilityPolicy.BEST_EFFORT,
        )
        return self._node.create_subscription(
            self._type, self._name, partial(self._arrived, self._reliable), qos, callback_group=MutuallyExclusiveCallbackGroup()
        )

    def _leave(self) -> None:
        if self._leaving is not None:
            self._node.destroy_subscription(self._leaving)
            self._leaving = None

    def _arrived(self, reliable: bool, message: Any) -> None:
        """A message has come, over the reliable subscription or the other one."""
        stamp = message.header.stamp
        known, self._last_stamp = self._last_stamp, stamp
        if self._leaving is not None:
            if reliable == self._reliable:
                self._leave()
            if stamp == known != Time().to_msg():
                return  # It came over both.
        self._listener(message)
