"""Check names of topics and services before rcl does, because remappings can give two of them the same name.

rcl reports a topic with two types without its name. It accepts two services of one name, and each would answer every request.
"""

from typing import Any

from rclpy.node import Node

from robobrain_ros.errors import EngineConfigError


def check_topic(node: Node, topic: str, message_type: Any) -> None:
    """Check that the node does not use a topic with another type.

    :raises EngineConfigError: it does.
    """
    name = node.resolve_topic_name(topic)
    present = next((each for each in (*node.publishers, *node.subscriptions) if each.topic_name == name), None)
    if present is not None and present.msg_type is not message_type:
        raise EngineConfigError(
            f"The topic {name} has the type {_name_of(present.msg_type)} in this node, so it cannot also have the type "
            f"{_name_of(message_type)}. Check the remapping of {topic}."
        )


def check_service(node: Node, service: str) -> None:
    """Check that the node does not offer another service of this name.

    :raises EngineConfigError: it does.
    """
    name = node.resolve_service_name(service)
    if any(node.resolve_service_name(each.srv_name) == name for each in node.services):
        raise EngineConfigError(f"Two services of this node would have the name {name}. Check the remapping of {service}.")


def _name_of(message_type: Any) -> str:
    package, kind = message_type.__module__.split(".")[:2]
    return f"{package}/{kind}/{message_type.__name__}"
