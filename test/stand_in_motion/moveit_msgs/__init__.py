"""A stand-in for moveit_msgs, which is not on PyPI."""
