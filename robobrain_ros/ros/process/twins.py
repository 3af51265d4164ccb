"""Notice other nodes of the same name. All of them would answer each request, and a client takes the first response."""

from rclpy.node import Node


class Twins:
    """Counts the other nodes of a node's name and namespace. Called in the executor."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.count = 0

    @property
    def warning(self) -> str:
        """What is wrong and what to do about it; empty: nothing."""
        if not self.count:
            return ""
        return (
            f"{self.count + 1} nodes have the name {self._node.get_fully_qualified_name()}, and each answers every request. "
            "Stop all but one, or give each a different namespace or name (namespace:=..., -r __node:=...). "
            "A killed node counts until DDS removes it, by default after 20 s."
        )

    def attend(self) -> None:
        """Count anew and log a change; called each second."""
        name, namespace = self._node.get_name(), self._node.get_namespace()
        found = self._node.get_node_names_and_namespaces().count((name, namespace))
        before, self.count = self.count, max(found - 1, 0)
        if self.count > before:
            self._node.get_logger().warning(self.warning)
        elif before and not self.count:
            self._node.get_logger().info(f"Only one node has the name {self._node.get_fully_qualified_name()} now.")
