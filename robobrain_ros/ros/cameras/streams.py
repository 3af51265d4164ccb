"""Subscriptions that adapt their reliability and durability to the publishers of the topic."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from robobrain_ros.ros.cameras.intake import Intake

_HISTORY_TIME = 5.0
"""Seconds after subscribing in which latched publishers can still send earlier messages."""
_REMEMBERED = 64
"""Number of messages whose source times are kept, to detect a message that arrives through two subscriptions."""


@dataclass(frozen=True)
class _Qos:
    """Quality of service of a subscription."""

    reliable: bool
    latched: bool = False
    """Whether the durability is transient local. Latched publishers then send earlier messages."""


@dataclass
class _Subscribed:
    """One of the subscriptions of a stream."""

    qos: _Qos
    since: float = field(default_factory=time.monotonic)
    subscription: Subscription | None = None

    @property
    def may_send_history(self) -> bool:
        """Whether earlier messages of latched publishers can still arrive."""
        return self.qos.latched and time.monotonic() - self.since < _HISTORY_TIME


class Stream:
    """A subscription to messages with a header. It calls ``listener`` once for each message.

    If all publishers are latched (transient local), the subscription is also latched. A latched subscription receives nothing
    from volatile publishers. If only some publishers are latched, a second, temporary subscription receives their earlier
    messages.

    :param reliability: "best_effort", "reliable", or "auto": reliable if all publishers that `adapt` finds are reliable.
    :param depth: queue depth.
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
        self._source_times: deque[int] = deque(maxlen=_REMEMBERED)
        self._fetched_from: set[bytes] = set()
        """Latched publishers from which a latched subscription has received earlier messages."""
        self.publisher_nodes: tuple[str, ...] = ()
        """Full names of the publishing nodes that `adapt` has found, one for each publisher."""
        self._previous: _Subscribed | None = None
        self._history: _Subscribed | None = None
        self._main = self._open(_Qos(reliability == "reliable"))
        assert self._main.subscription is not None, "`_open` sets it"
        # A request still reports the topic after the node was deactivated and the subscription destroyed.
        self._topic = str(self._main.subscription.topic_name)
        self.adapt()

    @property
    def topic(self) -> str:
        """Full name of the topic after remapping."""
        return self._topic

    def adapt(self) -> None:
        """Adapt the subscription to the publishers; called each second.

        A reliable subscription receives nothing from a best-effort publisher. A best-effort subscription loses most large images.
        """
        infos = self._node.get_publishers_info_by_topic(self.topic)
        self.publisher_nodes = tuple(sorted(_node_of(info) for info in infos if info.topic_type == self._type_name()))
        if self._history is not None and not self._history.may_send_history:
            self._close_history()
        if not infos:
            return
        profiles = [info.qos_profile for info in infos]
        all_reliable = all(profile.reliability == ReliabilityPolicy.RELIABLE for profile in profiles)
        reliable = all_reliable if self._adapts else self._main.qos.reliable
        # A best-effort subscription receives no earlier messages.
        latched = {bytes(info.endpoint_gid) for info in infos if _is_latched(info) and not self._never_reliable}
        qos = _Qos(reliable, reliable and len(latched) == len(infos))
        if qos != self._main.qos:
            self._change(qos)
        if qos.latched:
            self._fetched_from |= latched
        elif latched - self._fetched_from:
            self._fetched_from |= latched
            self._close_history()
            self._history = self._open(_Qos(reliable=True, latched=True))

    def fetch_latched(self) -> None:
        """Receive the messages of latched publishers again."""
        self._fetched_from.clear()
        self._source_times.clear()
        self._close_previous()
        self._close_history()
        if self._main.qos.latched:
            old, self._main = self._main, self._open(self._main.qos)
            self._unsubscribe(old)
        else:
            self.adapt()

    def publishers(self) -> str:
        """Return the number of publishers as text, with the reason if their messages cannot arrive."""
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
        return self._main.qos.reliable

    @property
    def latched(self) -> bool:
        """Whether it is latched (transient local) now."""
        return self._main.qos.latched

    def _type_name(self) -> str:
        package, kind = self._type.__module__.split(".")[:2]
        return f"{package}/{kind}/{self._type.__name__}"

    def close(self) -> None:
        """Destroy the subscriptions."""
        self._close_previous()
        self._close_history()
        self._unsubscribe(self._main)

    def _change(self, qos: _Qos) -> None:
        self._close_previous()
        # The old subscription stays until the first message arrives through the new one.
        self._previous, self._main = self._main, self._open(qos)

    def _open(self, qos: _Qos) -> _Subscribed:
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=self._depth,
            reliability=ReliabilityPolicy.RELIABLE if qos.reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if qos.latched else DurabilityPolicy.VOLATILE,
        )
        subscribed = _Subscribed(qos)
        listener = partial(self._arrived, subscribed)
        subscribed.subscription = self._intake.subscribe(self._type, self._name, listener, profile, informed=True)
        return subscribed

    def _unsubscribe(self, subscribed: _Subscribed) -> None:
        assert subscribed.subscription is not None, "`_open` sets it"
        self._intake.unsubscribe(subscribed.subscription)

    def _close_previous(self) -> None:
        if self._previous is not None:
            self._unsubscribe(self._previous)
            self._previous = None

    def _close_history(self) -> None:
        if self._history is not None:
            self._unsubscribe(self._history)
            self._history = None

    def _arrived(self, subscribed: _Subscribed, message: Any, info: Mapping[str, Any]) -> None:
        """Handle a message of one of the subscriptions."""
        if subscribed is self._main and self._previous is not None:
            self._close_previous()
        source = int(info["source_timestamp"])  # 0: the middleware does not provide it.
        if source and source in self._source_times:
            return  # The message has already arrived through another subscription.
        if source and subscribed.may_send_history and self._source_times and source < max(self._source_times):
            return  # A newer message has already arrived.
        self._source_times.append(source)
        self._listener(message)


def _node_of(info: Any) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def _is_latched(info: Any) -> bool:
    """Return whether a publisher keeps its messages for late subscribers."""
    profile = info.qos_profile
    return bool(profile.durability == DurabilityPolicy.TRANSIENT_LOCAL and profile.reliability == ReliabilityPolicy.RELIABLE)


def described(nodes: Sequence[str]) -> str:
    """Return the names of publishing nodes as text, with the number of publishers of a node that has several."""
    return ", ".join(f"{node} ({nodes.count(node)})" if nodes.count(node) > 1 else node for node in sorted(set(nodes)))
