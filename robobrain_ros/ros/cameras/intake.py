"""One waitable for all subscriptions of the cameras, to reduce the load of rclpy's executor."""

import traceback
from collections.abc import Callable
from threading import Lock
from typing import Any

from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription
from rclpy.waitable import NumberOfEntities, Waitable

from robobrain_ros.bounds.texts import clean

Listener = Callable[..., None]
"""Called with a message, and if requested with its message info (``source_timestamp``, ...)."""


class Intake(Waitable):
    """Takes the messages of all its subscriptions in one round of the executor.

    For an ordinary subscription, rclpy's executor creates a task for each message, wakes up twice more, and collects all
    entities of the node each time. With many cameras, this would be most of the load of an idle node.

    It works with the executors of `rclpy.executors`, not with rclpy.experimental's EventsExecutor.
    """

    def __init__(self, node: Node) -> None:
        super().__init__(MutuallyExclusiveCallbackGroup())
        self.node = node
        self._group = _IgnoredGroup()
        self._subscriptions: list[Subscription] = []
        self._informed: set[Subscription] = set()
        self._lock = Lock()
        self._waiting = False
        self._leaving: list[Subscription] = []
        self._awaited: list[Subscription] = []
        self._ready: list[Subscription] = []
        node.add_waitable(self)

    def subscribe(
        self, message_type: Any, topic: str, listener: Listener, qos: QoSProfile, *, informed: bool = False
    ) -> Subscription:
        """Subscribe as with `rclpy.node.Node.create_subscription`. Callable from any thread.

        :param informed: call the listener with the message's info as a second argument.
        """
        subscription = self.node.create_subscription(message_type, topic, listener, qos, callback_group=self._group)
        # The handle is held until `unsubscribe`. rclpy would otherwise acquire it in each round of the executor.
        subscription.handle.__enter__()
        if informed:
            self._informed.add(subscription)
        self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Destroy a subscription. Its listener is not called any more. Callable from any thread."""
        self._subscriptions.remove(subscription)
        self._informed.discard(subscription)
        self.node.destroy_subscription(subscription)
        with self._lock:
            if self._waiting:
                self._leaving.append(subscription)  # `__exit__` releases it when the executor does not wait for it any more.
            else:
                _release_handle(subscription)

    def unsubscribe_all(self) -> None:
        """Destroy all subscriptions."""
        for subscription in list(self._subscriptions):
            self.unsubscribe(subscription)

    def __enter__(self) -> None:
        """See `Waitable`. The executor starts to wait for the current subscriptions."""
        with self._lock:
            self._waiting = True
            self._awaited = list(self._subscriptions)

    def __exit__(self, *raised: object) -> None:
        """See `Waitable`."""
        with self._lock:
            self._waiting = False
            leaving, self._leaving = self._leaving, []
            for subscription in leaving:
                _release_handle(subscription)

    def get_num_entities(self) -> NumberOfEntities:
        """See `Waitable`."""
        return NumberOfEntities(num_subs=len(self._awaited))

    def add_to_wait_set(self, wait_set: Any) -> None:
        """See `Waitable`."""
        for subscription in self._awaited:
            wait_set.add_subscription(subscription.handle)

    def is_ready(self, wait_set: Any) -> bool:
        """See `Waitable`."""
        pointers = wait_set.get_ready_entities("subscription")
        self._ready = [each for each in self._awaited if each.handle.pointer in pointers] if pointers else []
        return bool(self._ready)

    def take_data(self) -> list[tuple[Subscription, Any, Any]]:
        """See `Waitable`. Return each subscription that is ready, with its message and message info."""
        taken = []
        for subscription in self._ready:
            try:
                with subscription.handle:
                    message = subscription.handle.take_message(subscription.msg_type, subscription.raw)
            except InvalidHandle:
                continue  # The subscription was destroyed meanwhile.
            if message is not None:
                taken.append((subscription, *message))
        self._ready = []
        return taken

    async def execute(self, taken_data: list[tuple[Subscription, Any, Any]]) -> None:
        """See `Waitable`. Call the listeners with the messages.

        :raises Exception: the last exception of a listener, after all have been called. Earlier exceptions are logged.
        """
        fault: Exception | None = None
        for subscription, message, info in taken_data:
            if subscription not in self._subscriptions:
                continue  # The listener of another message has destroyed the subscription.
            try:
                if subscription in self._informed:
                    subscription.callback(message, info)
                else:
                    subscription.callback(message)
            except Exception as error:
                if fault is not None:
                    self.node.get_logger().error(clean("".join(traceback.format_exception(fault))))
                fault = error
        if fault is not None:
            raise fault


def _release_handle(subscription: Subscription) -> None:
    subscription.handle.__exit__(None, None, None)


class _IgnoredGroup(CallbackGroup):
    """A callback group that the executor ignores, because `Intake` handles its subscriptions."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        pass
