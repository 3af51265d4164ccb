"""The space in which a robot can work."""

from dataclasses import dataclass

Position = tuple[float, float, float]


@dataclass(frozen=True)
class Workspace:
    """A box with sides parallel to the axes of a frame.

    :param frame: name of the tf2 frame.
    :param minimum: smallest x, y and z in metres. ``maximum`` has the largest ones.
    """

    frame: str
    minimum: Position
    maximum: Position


@dataclass(frozen=True)
class Reach:
    """A sphere around the base of an arm.

    :param frame: name of the tf2 frame.
    :param distance: largest distance from the base in metres.
    :param base: position of the base in metres.
    """

    frame: str
    distance: float
    base: Position = (0.0, 0.0, 0.0)
