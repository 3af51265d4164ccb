"""Find faults in a camera's setup without a request. Log each fault once, and show it in /diagnostics."""

import re
from collections.abc import Callable, Iterator

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage

from robobrain_ros.core.geometry import GeometryError
from robobrain_ros.core.messages.depth import read_depth
from robobrain_ros.core.messages.frames import frame_fault
from robobrain_ros.ros.cameras.cameras import Camera, Cameras
from robobrain_ros.ros.cameras.streams import described
from robobrain_ros.ros.parameters.declared import Parameters
from robobrain_ros.ros.positions import depth_range

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
"""A word in a frame's name. Punctuation, digits and capital letters separate words."""

_LINKS = frozenset(("link", "base", "footprint", "stabilized", "body", "chassis", "torso", "gripper", "tool", "flange"))
_FIXED = frozenset(("world", "map", "odom", "earth"))
"""Last words of names of frames whose x axis points forward (REP 103, REP 105)."""

_LENSES = frozenset(("color", "rgb", "depth", "ir", "infra", "left", "right"))
"""RealSense, ZED, OAK and OpenNI drivers name their own frames <camera>_<lens>_frame or <camera>_<lens>_camera_frame."""

_IN_LINK = re.compile(r"(?<![A-Za-z])link\d*[/:]", re.IGNORECASE)
"""The frame of a Gazebo sensor contains the name of its link, followed by that of the sensor."""


def is_body_frame(frame: str) -> bool:
    """Return whether a frame has the name of a frame with x forward: of a link, of a fixed frame, or of a driver's own frame.

    The names of optical frames contain "optical" (REP 103).
    """
    if "optical" in frame.lower():
        return False
    words = [word.lower() for word in _WORD.findall(frame)]
    framed = words[-1:] == ["frame"]
    if framed:
        words.pop()
    if (_LINKS | _FIXED).intersection(words[-1:]) or _IN_LINK.search(frame):
        return True
    lens = [word for word in words if word != "camera"][-1:]
    return framed and len(words) > 1 and not _LENSES.isdisjoint(lens)


class CameraChecks:
    """Checks the cameras of the node each second. Called in the executor."""

    def __init__(self, node: Node, parameters: Parameters) -> None:
        self._node = node
        self._parameters = parameters
        self._found: dict[str, list[str]] = {}
        self._logged: set[tuple[str, str]] = set()

    def check(self, cameras: Cameras) -> None:
        """Check all cameras once, and log new faults."""
        checks: dict[str, Callable[[Camera], Iterator[str]]] = {
            "publishers": _publishers,
            "frame": _frame,
            "depth": self._depth,
            "rate": self._rate,
        }
        self._found = {camera.name: [] for camera in cameras}
        for camera in cameras:
            for kind, check in checks.items():
                for trouble in check(camera):
                    self._found[camera.name].append(trouble)
                    self._log_once(camera.name, kind, trouble)

    def troubles(self, camera: Camera) -> list[str]:
        """Return the faults of a camera's setup as sentences."""
        return self._found.get(camera.name, [])

    def _log_once(self, camera: str, kind: str, trouble: str) -> None:
        if (camera, kind) not in self._logged:
            self._logged.add((camera, kind))
            self._node.get_logger().warning(trouble)

    def _rate(self, camera: Camera) -> Iterator[str]:
        slow = camera.slow_reason(self._parameters["max_image_age"])
        if slow:
            yield slow

    def _depth(self, camera: Camera) -> Iterator[str]:
        topic = camera.position_topics.depth
        if topic is None or topic.newest is None or isinstance(topic.newest, CompressedImage):
            # Decompression takes too long for the executor. The position_note of answers reports the faults of compressed depth.
            return
        try:
            read_depth(topic.newest, depth_range(self._parameters, camera.name), detect_clamp=False)
        except GeometryError as error:
            yield f"Camera {camera.name} has no usable depth on {topic.stream.topic}: {error}"


def _publishers(camera: Camera) -> Iterator[str]:
    streams = [(camera.topic, camera.publisher_nodes)]
    streams += [(topic.stream.topic, topic.stream.publisher_nodes) for topic in camera.position_topics.topics]
    for topic, nodes in streams:
        if len(nodes) > 1:
            yield (
                f"{len(nodes)} publishers send to {topic}: {described(nodes)}. The node mixes their messages. Stop all but one, "
                "or remap their topics."
            )


def _frame(camera: Camera) -> Iterator[str]:
    frame = "" if camera.newest is None else camera.newest.header.frame_id
    if fault := frame_fault(frame):
        yield f"The images on {camera.topic} cannot be used: {fault}"
        return
    # Without camera_info there are no positions, so the axes of the frame do not matter.
    if camera.position_topics.info.fits(frame) and is_body_frame(frame):
        yield (
            f"The frame {frame!r} of the images on {camera.topic} has the name of a body frame (x forward), not of an optical "
            "frame (x right, y down, z forward; REP 103). If it is a body frame, all positions are rotated by 90 degrees. Set "
            "the driver's frame_id to the optical frame, such as camera_optical_frame (docs/how-to/troubleshooting.md)."
        )
