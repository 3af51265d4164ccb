"""Behaviours for py_trees that send goals to a node robobrain. Their status is the outcome. `SendGoal` is for any other action.

py_trees is an optional package: ``pip install py_trees``, or ``ros-<distro>-py-trees``.
"""

from robobrain_ros.behaviours.send_goal import SendGoal
from robobrain_ros.behaviours.tasks import Ask, Locate, Plan
from robobrain_ros.behaviours.watch import WatchTask

__all__ = ["Ask", "Locate", "Plan", "SendGoal", "WatchTask"]
