"""Frame names in messages: remove a leading slash, and check the length.

Bags and drivers of ROS 1 use a leading slash. tf2 rejects it.
"""

import logging

from robobrain_ros.bounds.texts import shortened

_log = logging.getLogger(__name__)

MOST_FRAME = 255
"""Characters of a frame name. An image with a longer one ends with BAD_IMAGE."""

_MOST_NAMES = 100
"""Maximum number of frames that are logged, because the names come from messages."""

_LONGEST_QUOTE = 100
"""Characters of a frame's name in a sentence."""

_logged: set[str] = set()


def plain_frame(name: str) -> str:
    """Return a frame's name without leading slashes, and log the first change of each name."""
    if not name.startswith("/"):
        return name
    plain = name.lstrip("/")
    if name not in _logged and len(_logged) < _MOST_NAMES and not frame_fault(name):
        _logged.add(name)
        _log.warning(
            "The frame %s begins with a slash, as in ROS 1; it is read as %s. Remove the slash where the frame is set.",
            quoted_frame(name),
            quoted_frame(plain),
        )
    return plain


def frame_fault(name: str) -> str:
    """Return a sentence about why a frame name is invalid, or an empty string if it is valid."""
    if len(name) <= MOST_FRAME:
        return ""
    return (
        f"The frame_id has {len(name)} characters and begins with {quoted_frame(name)}; at most {MOST_FRAME} are allowed. "
        "Set the name of the camera's optical frame where the image is published."
    )


def quoted_frame(name: str) -> str:
    """Return a frame's name in quotation marks for a sentence. A long name is shortened."""
    return repr(shortened(name, _LONGEST_QUOTE))
