"""Behaviours for py_trees: each sends goals to a node robobrain, and its status is the outcome.

py_trees is an optional package: ``pip install py_trees``, or ``ros-<distro>-py-trees``.
"""

from robobrain_ros.behaviours.tasks import Ask, Locate, Plan
from robobrain_ros.behaviours.watch import WatchTask

__all__ = ["Ask", "Locate", "Plan", "WatchTask"]
