"""The subscribers of a topic, and which of them are new."""

from rclpy.node import Node
from rclpy.publisher import Publisher


class Subscribers:
    """The subscribers of a publisher. The class compares endpoints, not their number, so a restarted subscriber counts as new.

    :param node: node of the publisher.
    """

    def __init__(self, node: Node, publisher: Publisher) -> None:
        self._node = node
        self._publisher = publisher
        self._known: set[tuple[int, ...]] = set()

    def has_new(self) -> bool:
        """Return whether there is a new subscriber since the last call of this method."""
        if not self._publisher.get_subscription_count():
            self._known = set()
            return False
        present = {tuple(it.endpoint_gid) for it in self._node.get_subscriptions_info_by_topic(self._publisher.topic_name)}
        new = present - self._known
        self._known = present
        return bool(new)
