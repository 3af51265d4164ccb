"""Headers of messages without the leading slash of ROS 1."""

from std_msgs.msg import Header

from robobrain_ros.core.messages.frames import plain_frame


def plain_header(header: Header) -> Header:
    """Return a header whose frame has no leading slash: the same header, or a changed copy."""
    if not header.frame_id.startswith("/"):
        return header
    return Header(stamp=header.stamp, frame_id=plain_frame(header.frame_id))
