"""The action that an example uses. It has the type of an action of this package."""

from reading import GoalType

from robobrain_ros.action import RunTask


class NavigateToPose(RunTask):
    """Drive to a pose."""

    Goal = GoalType("navigate", (), {})
