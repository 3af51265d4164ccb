"""RoboBrain, an embodied vision-language model, for ROS 2: affordance points, trajectories and plans from camera topics."""
