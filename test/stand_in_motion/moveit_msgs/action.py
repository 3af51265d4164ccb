"""The action that an example uses. It has the type of an action of this package."""

from reading import GoalType

from robobrain_ros.action import RunTask


class MoveGroup(RunTask):
    """Plan and execute a motion."""

    Goal = GoalType("move", (), {})
