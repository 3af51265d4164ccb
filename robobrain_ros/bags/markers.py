"""The answers about one image as markers (visualization_msgs), which RViz and Foxglove show in 3D without this package."""

from collections.abc import Iterable
from typing import Any

from robobrain_ros.bags.messages import MARKERS, marker_types, serialized
from robobrain_ros.core.messages.markers import CurrentMarkers, PixelRays, Style, to_markers
from robobrain_ros.core.messages.positions import Positions
from robobrain_ros.core.query import Answer
from robobrain_ros.core.query_checks import REQUESTS

MARKERS_TOPIC = "markers"


def markers_message(answers: Iterable[tuple[str, str, Answer, Positions]], frame: str) -> bytes:
    """Return the message with the markers of all answers about an image.

    The message first deletes the markers of the image before it. So a viewer that jumps to any time shows the right markers
    after a single message.

    :param answers: name of the question or empty, its text, its answer, and the positions of the answer.
    :param frame: frame of the image.
    """
    types = marker_types()
    current: Any = CurrentMarkers(types, frame=frame)
    for query, text, answer, positions in answers:
        rays = PixelRays(positions.camera, positions.move) if positions.camera else None
        parts: dict[str, Any] = {"points": positions.points, "boxes": positions.boxes, "waypoints": positions.waypoints}
        name = query or REQUESTS
        current.show(name, to_markers(types, answer, positions.header, name, Style(), text=text, rays=rays, **parts))
    return serialized(current.everything(), MARKERS)
