"""Execute the steps of a plan on the simulated table in small movements, so that images show the arm while it works.

`robot.World.execute` changes the table at once. A `MovingArm` does the same in several movements: it approaches an object, grasps
it and lifts it, or carries it to a place, lowers it, releases it and returns. Poses are in the frame of the table, in metres.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from robobrain_ros.demo import rearrange
from robobrain_ros.demo.layout import Layout, Thing, fits
from robobrain_ros.demo.robot import World
from robobrain_ros.demo.simulator import Step

Position = tuple[float, float, float]

APPROACHED, GRASPED = 0.5, 0.6
"""Completed share of a pick step when the finger tips are at the object, and when they hold it."""
LOWERED, RELEASED = 0.8, 0.9
"""Completed share of a place step when the object is at its place, and when the gripper is open."""
_ABOVE = 0.07
"""Height above the object or its place from which the gripper goes down vertically."""
_CLEARANCE = 0.008
"""Distance of the open fingers from an object."""


@dataclass
class MovingArm:
    """The arm of a simulated table, in motion. The attribute ``world`` always shows the current state.

    :param world: the table. At first, the gripper is at its home position.
    """

    world: World
    home: Position = field(init=False)

    def __post_init__(self) -> None:
        x, y, z, self._open = self.world.layout.gripper
        self.home = (x, y, z)

    def execute(self, step: Step, shares: Sequence[float]) -> Iterator[float]:
        """Execute a step in small movements. After each movement, yield the completed share of the step, up to 1.

        :param shares: ends of the movements as shares of a path, increasing, up to 1. Each step has two paths.
        :raises ValueError: the step is not possible now.
        """
        fault = self.world.table.copy().do(step)
        if fault:
            raise ValueError(f"{step.text}: {fault}")
        return self._pick(step, shares) if step.skill == "pick" else self._place(step, shares)

    def retreat(self, shares: Sequence[float]) -> Iterator[float]:
        """Return to the home position, with the object that the gripper holds."""
        held = self.world.table.held
        for share, position in _along((self._tips(), self.home), shares):
            self._move(position, held)
            yield share

    def slip(self) -> None:
        """Let the held object fall. It lies below the gripper, or at another free place of the table if there is no room."""
        world, name = self.world, self.world.table.held
        thing = rearrange.find(world.layout, name)
        lying = replace(thing, z=0.0)
        others = [other for other in world.layout.things if other.name != name and other.z == 0.0]
        world.table.lie(name)
        if fits(world.layout.camera, lying, others):
            world.layout = rearrange.replaced(world.layout, lying)
        else:
            world.layout = rearrange.move(world.layout, name, world.rng)
        self._move(self._tips(), "", thing)

    def lay_aside(self, name: str) -> None:
        """A person moves an object to another free place of the table. The gripper stays where it is."""
        self.world.layout = rearrange.move(self.world.layout, name, self.world.rng)
        self.world.table.lie(name)

    def _pick(self, step: Step, shares: Sequence[float]) -> Iterator[float]:
        world, name = self.world, step.object
        thing = rearrange.find(world.layout, name)
        grasp = _grasp(thing)
        for share, position in _along((self._tips(), _above(grasp), grasp), shares):
            self._move(position, "", thing)
            yield APPROACHED * share
        world.table.do(step)
        self._move(grasp, name)
        yield GRASPED
        for share, position in _along((grasp, self.home), shares):
            self._move(position, name)
            yield GRASPED + (1.0 - GRASPED) * share

    def _place(self, step: Step, shares: Sequence[float]) -> Iterator[float]:
        world, name = self.world, step.object
        contents = sum(place == ("in", step.place) for place in world.table.where.values())
        put = rearrange.put(world.layout, name, step.relation, step.place, contents)
        thing = rearrange.find(put, name)
        release = _grasp(thing)
        for share, position in _along((self._tips(), _above(release), release), shares):
            self._move(position, name)
            yield LOWERED * share
        world.table.do(step)
        world.layout = put
        self._move(release, "", thing)
        yield RELEASED
        for share in self.retreat(shares):
            yield RELEASED + (1.0 - RELEASED) * share

    def _tips(self) -> Position:
        x, y, z, _ = self.world.layout.gripper
        return x, y, z

    def _move(self, position: Position, held: str, near: Thing | None = None) -> None:
        """Move the finger tips. ``near``: the fingers open wide enough for this object, unless they are at home."""
        wide = near is not None and near.kind != "bowl" and position != self.home
        half = max(self._open, near.radius + _CLEARANCE) if wide and near is not None else self._open
        layout: Layout = replace(self.world.layout, gripper=(*position, half))
        self.world.layout = rearrange.hold(layout, held) if held else layout


def _grasp(thing: Thing) -> Position:
    """Return the position of the finger tips that hold an object where it is."""
    x = thing.x - thing.radius * rearrange.RIM if thing.kind == "bowl" else thing.x
    return x, thing.y, max(thing.z + thing.height - rearrange.GRIP, 0.0)


def _above(position: Position) -> Position:
    return position[0], position[1], position[2] + _ABOVE


def _along(path: Sequence[Position], shares: Sequence[float]) -> Iterator[tuple[float, Position]]:
    """Yield each share with its position on a path of straight lines."""
    lengths = [_distance(a, b) for a, b in itertools.pairwise(path)]
    for share in shares:
        left, at = share * sum(lengths), path[-1]
        for length, (begin, end) in zip(lengths, itertools.pairwise(path), strict=True):
            if left < length:
                x, y, z = (start + (stop - start) * left / length for start, stop in zip(begin, end, strict=True))
                at = (x, y, z)
                break
            left -= length
        yield share, path[-1] if share == 1.0 else at


def _distance(one: Position, other: Position) -> float:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5
