"""The core: from a question and a picture to an answer. Imports no ROS."""
