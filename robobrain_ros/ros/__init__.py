"""The ROS layer: the node with its cameras, requests, messages, parameters and views."""
