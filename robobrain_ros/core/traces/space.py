"""The space in which a robot can work."""

import math
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

    def __post_init__(self) -> None:
        """Raise ValueError unless the minimum is below the maximum."""
        if not all(low < high for low, high in zip(self.minimum, self.maximum, strict=True)):
            raise ValueError("The minimum of a workspace must be below its maximum in x, y and z.")


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

    def __post_init__(self) -> None:
        """Raise ValueError unless the distance is above 0 and the base is finite."""
        if not (self.distance > 0.0 and all(map(math.isfinite, self.base))):
            raise ValueError("The distance of a reach must be above 0 m, and its base finite.")
