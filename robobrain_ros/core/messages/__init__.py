"""Messages of ROS as plain objects: this package reads and fills their fields, and imports none of their classes.

The node passes the classes that ROS generates, and the bag program those of the library rosbags. Both have the same fields.
"""
