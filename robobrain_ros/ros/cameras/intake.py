"""The cameras' subscriptions as one thing that the executor waits for and works off."""

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

Listener = Callable[..., None]
"""Called with a message and, where it asks for it, with what the middleware knows of it (``source_timestamp``, ...)."""


class Intake(Waitable):
    """Takes what has come on all of its subscriptions in one round of the executor.

    By itself, the executor makes a task for each message, is woken twice more by it, and each time gathers anew all that the node
    waits for: with many cameras, most of what an idle node costs. Here, whatever came while it worked is taken together.

    It belongs to executors that wait (`rclpy.executors`), not to rclpy.experimental's EventsExecutor.
    """

    def __init__(self, node: Node) -> None:
        super().__init__(MutuallyExclusiveCallbackGroup())
        self.node = node
        """Whose subscriptions they are."""
        self._group = _Untouched()
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
        """Subscribe as by `rclpy.node.Node.create_subscription`; in any thread.

        :param informed: call the listener with the message's info as a second argument.
        """
        subscription = self.node.create_subscription(message_type, topic, listener, qos, callback_group=self._group)
        # Held as long as it is one of these, rather than anew in each round of the executor.
        subscription.handle.__enter__()
        if informed:
            self._informed.add(subscription)
        self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Give a subscription back, in any thread; from then on its listener is not called."""
        self._subscriptions.remove(subscription)
        self._informed.discard(subscription)
        self.node.destroy_subscription(subscription)
        with self._lock:
            if self._waiting:
                self._leaving.append(subscription)  # It must not be taken from under the executor.
            else:
                _let_go(subscription)

    def __enter__(self) -> None:
        """As of `Waitable`: from now on it is waited for those that there are now."""
        with self._lock:
            self._waiting = True
            self._awaited = list(self._subscriptions)

    def __exit__(self, *raised: object) -> None:
        """As of `Waitable`."""
        with self._lock:
            self._waiting = False
            leaving, self._leaving = self._leaving, []
            for subscription in leaving:
                _let_go(subscription)

    def get_num_entities(self) -> NumberOfEntities:
        """As of `Waitable`."""
        return NumberOfEntities(num_subs=len(self._awaited))

    def add_to_wait_set(self, wait_set: Any) -> None:
        """As of `Waitable`."""
        for subscription in self._awaited:
            wait_set.add_subscription(subscription.handle)

    def is_ready(self, wait_set: Any) -> bool:
        """As of `Waitable`."""
        pointers = wait_set.get_ready_entities("subscription")
        self._ready = [each for each in self._awaited if each.handle.pointer in pointers] if pointers else []
        return bool(self._ready)

    def take_data(self) -> list[tuple[Subscription, Any, Any]]:
        """As of `Waitable`: each subscription that is ready, with its message and the message's info."""
        taken = []
        for subscription in self._ready:
            try:
                with subscription.handle:
                    message = subscription.handle.take_message(subscription.msg_type, subscription.raw)
            except InvalidHandle:
                continue  # It was given back meanwhile.
            if message is not None:
                taken.append((subscription, *message))
        self._ready = []
        return taken

    async def execute(self, taken_data: list[tuple[Subscription, Any, Any]]) -> None:
        """As of `Waitable`: hand the messages on.

        :raises Exception: the last one that a listener has raised, when all have been called; those before it are logged.
        """
        fault: Exception | None = None
        for subscription, message, info in taken_data:
            if subscription not in self._subscriptions:
                continue  # A listener before it has given it back.
            try:
                if subscription in self._informed:
                    subscription.callback(message, info)
                else:
                    subscription.callback(message)
            except Exception as error:
                if fault is not None:
                    self.node.get_logger().error("".join(traceback.format_exception(fault)))
                fault = error
        if fault is not None:
            raise fault


def _let_go(subscription: Subscription) -> None:
    subscription.handle.__exit__(None, None, None)


class _Untouched(CallbackGroup):
    """A group whose members the executor leaves alone."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        pass
