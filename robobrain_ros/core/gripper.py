"""The size of a gripper with two parallel fingers, and the ways in which it grasps."""

from dataclasses import dataclass, fields

import numpy as np

from robobrain_ros.core.geometry import Floats
from robobrain_ros.core.surfaces import Integers

_BESIDE = 0.006
"""Metres. Samples this close to the sides of the object count as its own, so closing fingers may touch them."""
SHALLOW = 0.25
"""Smallest depth of a grasp as a share of the object's width. With less depth, the fingers slip from a ball."""
LEAST_DEPTH = 0.004
"""Smallest depth of a grasp in metres. Fingertips that are closer to the surface hold nothing."""


@dataclass(frozen=True)
class Grasps:
    """Ways to grasp an object, in the optical frame.

    :param surfaces: (k, 3), metres: where the approach reaches the object.
    :param axes: (k, 3, 3): x, y and z as columns. The gripper closes along y, and z is the approach direction.
    :param widths: (k) metres of the object along y. ``lengths``: along x.
    :param openings: (k) metres between the open fingers.
    :param depths: (k) metres along z from the surface to the fingertips.
    :param costs: (k) lower is better. They do not contain the surroundings. Infinity: the gripper does not fit.
    """

    surfaces: Floats
    axes: Floats
    widths: Floats
    lengths: Floats
    openings: Floats
    depths: Floats
    costs: Floats

    def selected(self, indices: Integers) -> "Grasps":
        """Return the grasps at these indices."""
        return Grasps(**{field.name: getattr(self, field.name)[indices] for field in fields(self)})

    @property
    def tips(self) -> Floats:
        """Points (k, 3) between the fingertips."""
        return np.asarray(self.surfaces + self.depths[:, None] * self.axes[:, :, 2], np.float64)


@dataclass(frozen=True)
class Gripper:
    """The size of a gripper in metres. Its two fingers and the palm that connects them are boxes.

    :param opening: largest distance between the fingers.
    :param length: distance from the palm to the fingertips.
    :param breadth: size of a finger along x. ``thickness``: along y.
    :param palm: size of the palm along z.
    :param margin: wanted distance between each open finger and the object. For wide objects, half of it is sufficient.
    """

    opening: float = 0.10
    length: float = 0.055
    breadth: float = 0.024
    thickness: float = 0.010
    palm: float = 0.025
    margin: float = 0.015

    @property
    def grip(self) -> float:
        """Length in metres of the part of each fingertip that holds an object."""
        return min(0.015, 0.3 * self.length)

    @property
    def deepest(self) -> float:
        """Largest distance in metres from the surface to the fingertips."""
        return self.length - 0.01

    def fits(self, width: float) -> bool:
        """Return whether the open fingers fit around an object of this width in metres."""
        return width + self.margin <= self.opening

    def opening_for(self, width: float) -> float:
        """Return the distance in metres between the fingers before they close on an object of this width."""
        return min(width + 2.0 * self.margin, self.opening)

    def depth_for(self, width: float) -> float:
        """Return the wanted distance in metres from the surface to the fingertips: to the middle of the object."""
        return min(max(0.5 * width, self.grip), self.deepest)

    def along(self, surface: Floats, axes: Floats, width: float) -> Grasps | None:
        """Return grasps of several depths along one approach pose, the best one first, or None if the object is too wide."""
        if not self.fits(width):  # NaN: the width is unknown.
            return None
        deepest = self.depth_for(width)
        depths = np.arange(deepest, max(SHALLOW * width, LEAST_DEPTH) - 1e-9, -0.003).astype(np.float64)
        count = len(depths)
        if not count:
            return None
        each: Floats = np.ones(count)
        costs: Floats = 10.0 * (deepest - depths) / deepest
        return Grasps(
            np.repeat(surface[None], count, 0),
            np.repeat(axes[None], count, 0),
            width * each,
            np.nan * each,
            self.opening_for(width) * each,
            depths,
            costs,
        )

    def parts(self, grasps: Grasps, *, closing: bool = False) -> tuple[Floats, Floats]:
        """Return the lower and upper corners (k, 3, 3) of the fingers and the palm in the frame of the tip.

        :param closing: the fingers include the space through which they move to the object.
        """
        zero = np.zeros(len(grasps.depths))
        half = np.minimum(0.5 * grasps.openings, 0.5 * grasps.widths + _BESIDE) if closing else 0.5 * grasps.openings
        x, outer = zero + 0.5 * self.breadth, 0.5 * grasps.openings + self.thickness
        root, end = zero - self.length, zero - self.length - self.palm
        low = np.stack([np.stack(part, 1) for part in ((-x, -outer, root), (-x, half, root), (-x, -outer, end))], 1)
        high = np.stack([np.stack(part, 1) for part in ((x, -half, zero), (x, outer, zero), (x, outer, root))], 1)
        return low, high
