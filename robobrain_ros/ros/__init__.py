"""The node: everything that imports rclpy."""
