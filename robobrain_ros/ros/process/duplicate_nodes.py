"""Detect other nodes with the same name. Each of these nodes answers every request, and a client uses the first response."""

from rclpy.node import Node

_SERVICE = "~/point"
"""A service that only nodes of this package offer."""


class DuplicateNodes:
    """Counts other nodes with the node's name and namespace. Called in the executor."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.count = 0
        self._foreign = 0
        """Number of nodes of another name that offer a service of this node."""

    @property
    def warning(self) -> str:
        """A sentence about the other nodes, and what to do, or an empty string if there are none."""
        if not self.count:
            return self._foreign_warning
        return (
            f"{self.count + 1} nodes have the name {self._node.get_fully_qualified_name()}, and each answers every request. "
            "Stop all but one, or give each a different namespace or name (namespace:=..., -r __node:=...). "
            "A killed node counts until DDS removes it, by default after 20 s."
        )

    @property
    def _foreign_warning(self) -> str:
        if not self._foreign:
            return ""
        return (
            f"{self._foreign + 1} nodes offer the service {self._node.resolve_service_name(_SERVICE)}, and each answers every "
            "request. Check the remappings of services: another node has another name, but the same service."
        )

    def on_timer(self) -> None:
        """Count the nodes, and log a change; called each second."""
        name, namespace = self._node.get_name(), self._node.get_namespace()
        found = self._node.get_node_names_and_namespaces().count((name, namespace))
        before, self.count = self.count, max(found - 1, 0)
        foreign_before, self._foreign = self._foreign, max(self._node.count_services(_SERVICE) - 1, 0)
        if self.count > before or (self._foreign > foreign_before and not self.count):
            self._node.get_logger().warning(self.warning)
        elif before and not self.count:
            self._node.get_logger().info(f"Only one node has the name {self._node.get_fully_qualified_name()} now.")
