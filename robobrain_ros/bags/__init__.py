"""Bags in, answers out: ask about the images of a recording, without ROS. The library rosbags reads and writes the bags."""
