"""The messages of MoveIt that an example uses."""

from reading import Message


class BoundingVolume(Message):
    """A volume."""


class Constraints(Message):
    """Constraints of a goal."""


class MotionPlanRequest(Message):
    """A request to plan a motion."""


class OrientationConstraint(Message):
    """An orientation of a link."""


class PositionConstraint(Message):
    """A position of a link."""
