"""Subscriptions whose reliability and durability follow the publishers."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from robobrain_ros.ros.cameras.intake import Intake

_YOUNG = 5.0
"""Seconds after subscribing in which a latched publisher may still send what it published before."""
_REMEMBERED = 64
"""Messages whose source times are remembered, so that a message that comes over two subscriptions counts once."""


@dataclass(frozen=True)
class _Offer:
    """Quality of service of a subscription."""

    reliable: bool
    latched: bool = False
    """Transient local: publishers that are, too, send what they published before."""


@dataclass
class _Tap:
    """One of the subscriptions of a stream."""

    offer: _Offer
    since: float = field(default_factory=time.monotonic)
    subscription: Subscription | None = None

    @property
    def young(self) -> bool:
        """Whether what was published before may still come."""
        return self.offer.latched and time.monotonic() - self.since < _YOUNG


class Stream:
    """A subscription to stamped messages, each handed to ``listener`` once.

    The durability follows the publishers': where all are latched (transient local), so is the subscription. Where some are, a
    second subscription fetches what those sent before, and ends. A latched subscription hears nothing of other publishers.

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
        self._never_reliable = reliability == "best_effort"
        self._sources: deque[int] = deque(maxlen=_REMEMBERED)
        self._caught: set[bytes] = set()
        """Latched publishers that a latched subscription has heard."""
        self.publisher_nodes: tuple[str, ...] = ()
        """Full names of the nodes that publish there, one for each publisher, as `adapt` has found them."""
        self._leaving: _Tap | None = None
        self._catching: _Tap | None = None
        self._main = self._open(_Offer(reliability == "reliable"))
        self.adapt()

    @property
    def topic(self) -> str:
        """Full name of the topic after remapping."""
        assert self._main.subscription is not None, "a tap is returned with its subscription"
        return str(self._main.subscription.topic_name)

    def adapt(self) -> None:
        """Subscribe as the publishers publish; called each second.

        A reliable subscription hears nothing of a best-effort publisher, and a best-effort one loses most large images.
        """
        infos = self._node.get_publishers_info_by_topic(self.topic)
        self.publisher_nodes = tuple(sorted(_node_of(info) for info in infos if info.topic_type == self._type_name()))
        if self._catching is not None and not self._catching.young:
            self._end_catching()
        if not infos:
            return
        profiles = [info.qos_profile for info in infos]
        all_reliable = all(profile.reliability == ReliabilityPolicy.RELIABLE for profile in profiles)
        reliable = all_reliable if self._adapts else self._main.offer.reliable
        # A best-effort subscription gets nothing of what was sent before.
        latched = {bytes(info.endpoint_gid) for info in infos if _is_latched(info) and not self._never_reliable}
        offer = _Offer(reliable, reliable and len(latched) == len(infos))
        if offer != self._main.offer:
            self._change(offer)
        if offer.latched:
            self._caught |= latched
        elif latched - self._caught:
            self._caught |= latched
            self._end_catching()
            self._catching = self._open(_Offer(reliable=True, latched=True))

    def fetch_latched(self) -> None:
        """Receive again what latched publishers have sent."""
        self._caught.clear()
        self._sources.clear()
        self._end_leaving()
        self._end_catching()
        if self._main.offer.latched:
            old, self._main = self._main, self._open(self._main.offer)
            self._end(old)
        else:
            self.adapt()

    def publishers(self) -> str:
        """The number of publishers in words, and the reason if their messages cannot arrive."""
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        if not publishers:
            return "none"
        counted = str(len(publishers))
        wanted = self._type_name()
        types = {publisher.topic_type for publisher in publishers}
        if wanted not in types:
            return f"{counted}, but their type is {', '.join(sorted(types))}, not {wanted}"
        best_effort = ReliabilityPolicy.BEST_EFFORT
        if self.reliable and all(publisher.qos_profile.reliability == best_effort for publisher in publishers):
            return (
                f"{counted}, but best effort: a reliable subscription receives nothing from them. Set the reliability to auto or "
                "best_effort, or make the publisher reliable"
            )
        if self._never_reliable and all(_is_latched(publisher) for publisher in publishers):
            return (
                f"{counted}, latched (transient local): a best-effort subscription does not receive earlier messages. Set the "
                "reliability to auto"
            )
        return counted

    @property
    def reliable(self) -> bool:
        """Whether it is reliable now."""
        return self._main.offer.reliable

    @property
    def latched(self) -> bool:
        """Whether it is latched (transient local) now."""
        return self._main.offer.latched

    def _type_name(self) -> str:
        package, kind = self._type.__module__.split(".")[:2]
        return f"{package}/{kind}/{self._type.__name__}"

    def close(self) -> None:
        """Give the subscriptions back."""
        self._end_leaving()
        self._end_catching()
        self._end(self._main)

    def _change(self, offer: _Offer) -> None:
        self._end_leaving()
        # The old one stays until the new one has found the publishers.
        self._leaving, self._main = self._main, self._open(offer)

    def _open(self, offer: _Offer) -> _Tap:
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=self._depth,
            reliability=ReliabilityPolicy.RELIABLE if offer.reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if offer.latched else DurabilityPolicy.VOLATILE,
        )
        tap = _Tap(offer)
        tap.subscription = self._intake.subscribe(self._type, self._name, partial(self._arrived, tap), qos, informed=True)
        return tap

    def _end(self, tap: _Tap) -> None:
        assert tap.subscription is not None, "a tap is returned with its subscription"
        self._intake.unsubscribe(tap.subscription)

    def _end_leaving(self) -> None:
        if self._leaving is not None:
            self._end(self._leaving)
            self._leaving = None

    def _end_catching(self) -> None:
        if self._catching is not None:
            self._end(self._catching)
            self._catching = None

    def _arrived(self, tap: _Tap, message: Any, info: Mapping[str, Any]) -> None:
        """A message has come over one of the subscriptions."""
        if tap is self._main and self._leaving is not None:
            self._end_leaving()
        source = int(info["source_timestamp"])  # 0 where the middleware does not say.
        if source and source in self._sources:
            return  # It came over another one.
        if source and tap.young and self._sources and source < max(self._sources):
            return  # It was sent before what has come already.
        self._sources.append(source)
        self._listener(message)


def _node_of(info: Any) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def _is_latched(info: Any) -> bool:
    """Whether a publisher keeps what it has sent for subscriptions that come later."""
    profile = info.qos_profile
    return bool(profile.durability == DurabilityPolicy.TRANSIENT_LOCAL and profile.reliability == ReliabilityPolicy.RELIABLE)


def described(nodes: Sequence[str]) -> str:
    """Publishing nodes in words, each with the number of its publishers."""
    return ", ".join(f"{node} ({nodes.count(node)})" if nodes.count(node) > 1 else node for node in sorted(set(nodes)))
