"""Change a layout: objects are held, put at a place, or moved. The results are ordinary layouts, which can be rendered.

The simulation is simple: an object in a bowl or on another object is drawn at its height. Nothing rolls, tilts or falls.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from robobrain_ros.demo.layout import Layout, Thing, fits, spot_on_table

GRIP = 0.015
"""Metres of an object's upper end that are between the finger tips."""
RIM = 0.94
"""The fingers hold a bowl at this share of its radius."""
_TRIES = 200
_AROUND = ((1.0, 0.0), (-1.0, 0.0), (0.7, -0.7), (-0.7, -0.7), (0.0, -1.0), (0.7, 0.7), (-0.7, 0.7), (0.0, 1.0))
"""Directions in which free places beside an object are searched, in this order: right, left, nearer, farther."""


def find(layout: Layout, name: str) -> Thing:
    """Return the object with this name.

    :raises StopIteration: no object has this name.
    """
    return next(thing for thing in layout.things if thing.name == name)


def hold(layout: Layout, name: str) -> Layout:
    """Put an object between the finger tips. They hold a bowl at its rim."""
    thing = find(layout, name)
    x, y, z, half = layout.gripper
    bowl = thing.kind == "bowl"
    changed = replace(thing, x=x + thing.radius * RIM if bowl else x, y=y, z=max(z + GRIP - thing.height, 0.0))
    gripper = layout.gripper if bowl else (x, y, z, max(half, thing.radius))
    return replace(replaced(layout, changed), gripper=gripper)


def put(layout: Layout, name: str, relation: str, place: str, contents: int = 0) -> Layout:
    """Put an object "in", "on" or "beside" a place.

    :param contents: number of objects that are already at the place.
    """
    thing, there = find(layout, name), find(layout, place)
    if relation == "beside":
        return _beside(layout, thing, there)
    if relation == "in":
        return replaced(layout, _inside(thing, there, contents))
    return replaced(layout, replace(thing, x=there.x, y=there.y, z=there.z + there.height))


def move(layout: Layout, name: str, rng: np.random.RandomState) -> Layout:
    """Move an object to another free place on the table that the gripper does not hide."""
    thing, others = find(layout, name), _standing(layout, name)
    changed = replace(thing, z=0.0)
    for _ in range(_TRIES):
        x, y = spot_on_table(rng, layout.camera)
        changed = replace(thing, x=x, y=y, z=0.0)
        apart = (x - thing.x) ** 2 + (y - thing.y) ** 2 > 4.0 * thing.radius * thing.radius
        if apart and fits(layout.camera, changed, others) and _seen(layout, changed):
            break
    return replaced(layout, changed)


def replaced(layout: Layout, changed: Thing) -> Layout:
    """Return the layout with another version of the object of the same name."""
    return replace(layout, things=tuple(changed if thing.name == changed.name else thing for thing in layout.things))


def _standing(layout: Layout, name: str) -> list[Thing]:
    """Return the other objects that are on the table."""
    return [thing for thing in layout.things if thing.name != name and thing.z == 0.0]


def _seen(layout: Layout, thing: Thing) -> bool:
    """Return whether the gripper does not hide the object."""
    camera, (x, y, z, _) = layout.camera, layout.gripper
    u, v = camera.project((x, y, z))
    clear = 0.085 * camera.fx / camera.to_camera((x, y, z))[2]
    at_u, at_v = camera.project((thing.x, thing.y, thing.height / 2.0))
    return abs(at_u - u) > clear or at_v > v + clear


def _beside(layout: Layout, thing: Thing, place: Thing) -> Layout:
    """Put the object at the nearest free position around the place."""
    others = _standing(layout, thing.name)
    apart = 1.2 * (thing.radius + place.radius) + thing.handle + place.handle + 0.026
    spots: Iterable[tuple[float, float]] = (
        (place.x + farther * apart * across, place.y + farther * apart * away)
        for farther in (1.0, 1.2, 1.5, 1.9)
        for across, away in _AROUND
    )
    choices = [replace(thing, x=x, y=y, z=0.0) for x, y in spots]
    return replaced(layout, next((choice for choice in choices if fits(layout.camera, choice, others)), choices[0]))


def _inside(thing: Thing, bowl: Thing, contents: int) -> Thing:
    """Put the object as low as the wall of the bowl permits. If the bowl has contents, put it on them, to one side."""
    low, top = 0.43 * bowl.radius, 0.88 * bowl.radius
    reach = thing.radius * (1.1 if thing.kind == "block" else 0.8)
    share = min(max((reach - low) / (top - low), 0.12), 1.0)
    side = (0.0, 0.45, -0.45)[contents % 3] if contents else 0.0
    z = bowl.z + share * bowl.height + 0.45 * thing.height * contents
    return replace(thing, x=bowl.x + side * bowl.radius, y=bowl.y - 0.2 * bowl.radius * min(contents, 1), z=z)
