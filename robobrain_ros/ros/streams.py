"""Subscriptions that are as reliable as what is published."""

from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.time import Time

from robobrain_ros.ros.intake import Intake


class Stream:
    """A subscription to stamped messages, each handed to ``listener`` once.

    :param reliability: "best_effort", "reliable", or "auto": as the publishers', as far as `adapt` has found them.
    :param depth: messages that may wait.
    """

    def __init__(
        self, intake: Intake, message_type: Any, topic: str, listener: Callable[[Any], None], *, reliability: str, depth: int = 1
    ) -> None:
        self._intake = intake
        self._node = intake.node
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
        """Who publishes there, in words, and what keeps it from arriving."""
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        if not publishers:
            return "nothing publishes there"
        counted = f"{len(publishers)} publisher{'s' if len(publishers) > 1 else ''} there"
        wanted = self._type_name()
        types = {publisher.topic_type for publisher in publishers}
        if wanted not in types:
            return f"{counted}, but of {', '.join(sorted(types))}, not {wanted}"
        best_effort = ReliabilityPolicy.BEST_EFFORT
        if self._reliable and all(publisher.qos_profile.reliability == best_effort for publisher in publishers):
            return f"{counted}, but best effort, which a reliable subscription hears nothing of: make one of them as the other"
        return counted

    @property
    def reliable(self) -> bool:
        """Whether it is reliable now."""
        return self._reliable

    def _type_name(self) -> str:
        package, kind = self._type.__module__.split(".")[:2]
        return f"{package}/{kind}/{self._type.__name__}"

    def close(self) -> None:
        """Give the subscription back."""
        self._leave()
        self._intake.unsubscribe(self._subscription)

    def _subscribe(self) -> Subscription:
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=self._depth,
            reliability=ReliabilityPolicy.RELIABLE if self._reliable else ReliabilityPolicy.BEST_EFFORT,
        )
        return self._intake.subscribe(self._type, self._name, partial(self._arrived, self._reliable), qos)

    def _leave(self) -> None:
        if self._leaving is not None:
            self._intake.unsubscribe(self._leaving)
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
