"""A stand-in for nav2_msgs, which is not on PyPI."""
