"""Remove the leading slash of frame names. ROS 1 used it in bags and drivers; tf2 rejects it."""

import logging

from std_msgs.msg import Header

_log = logging.getLogger(__name__)

_MOST_NAMES = 100
"""Most frames that are logged, because each name comes from a message."""

_logged: set[str] = set()


def plain_frame(name: str) -> str:
    """A frame's name without leading slashes; the first time, the change is logged."""
    if not name.startswith("/"):
        return name
    plain = name.lstrip("/")
    if name not in _logged and len(_logged) < _MOST_NAMES:
        _logged.add(name)
        _log.warning(
            "The frame %r begins with a slash, as in ROS 1; the node uses %r. Remove the slash where the frame is set.",
            name[:100],
            plain[:100],
        )
    return plain


def plain_header(header: Header) -> Header:
    """A header whose frame has no leading slash: the same one, or a copy."""
    if not header.frame_id.startswith("/"):
        return header
    return Header(stamp=header.stamp, frame_id=plain_frame(header.frame_id))
