"""QoS profiles that a bag states for its topics. With them, `ros2 bag play` publishes as the node and tf2 do.

Without a profile, it publishes volatile topics, and subscribers that request transient local receive nothing.
"""

from typing import Any

_FOREVER = (9223372036, 854775807)
"""The infinite duration of rmw, in seconds and nanoseconds."""


def latched(depth: int = 1, lifespan: int = 0) -> list[Any]:
    """Return a reliable, transient local profile as rosbags writes it.

    :param lifespan: in seconds; 0: infinite.
    """
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    forever = QosTime(*_FOREVER)
    return [
        Qos(
            QosHistory.KEEP_LAST,
            depth,
            QosReliability.RELIABLE,
            QosDurability.TRANSIENT_LOCAL,
            deadline=forever,
            lifespan=QosTime(lifespan, 0) if lifespan else forever,
            liveliness=QosLiveliness.AUTOMATIC,
            liveliness_lease_duration=forever,
            avoid_ros_namespace_conventions=False,
        )
    ]
