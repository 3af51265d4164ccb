"""A stand-in for shape_msgs, which is not on PyPI."""
