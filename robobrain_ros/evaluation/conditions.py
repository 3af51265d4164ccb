"""Questions with the answer yes or no about the state of the table, as a standing query asks them as conditions.

Half of the answers are yes. Wrong statements are also about objects that are on the table, so it is not sufficient to find the
objects.
"""

import random
from collections.abc import Callable

from robobrain_ros.core.query import Task
from robobrain_ros.demo.simulator import CONTAINERS, Table
from robobrain_ros.demo.world import Scene
from robobrain_ros.evaluation.question import Question

_HELD = ("Is the gripper holding the {}?", "Does the gripper hold the {}?", "Is the {} in the gripper?")
_EMPTY = ("Is the gripper empty?", "Is nothing in the gripper?")
_PLACED = {
    "in": ("Is the {0} in the {1}?", "Is the {0} inside the {1}?"),
    "on": ("Is the {0} on the {1}?", "Is the {0} on top of the {1}?"),
}
_RARE = 0.8
"""If no object is in or on another one, the answer is always no. This share of such tables has no question of this kind."""
_NEAREST = 12
"""Questions about left and right: the horizontal distance of both objects is at least the image's width divided by this."""


def condition_about(scene: Scene, table: Table, rng: random.Random, kind: str = "") -> Question:
    """Return a question about a scene.

    :param table: the state of the scene.
    :param kind: one of `KINDS`; empty: a random one that the scene permits.
    """
    kinds = [kind] if kind else list(KINDS)
    while True:
        if (asked := KINDS[rng.choice(kinds)](scene, table, rng)) is not None:
            return asked
        kinds = list(KINDS)


def _held(scene: Scene, table: Table, rng: random.Random) -> Question | None:
    """Ask about the object in the gripper."""
    others = [name for name in table.names if name != table.held]
    if not table.held:
        return _question("held", rng.choice(_HELD).format(rng.choice(others)), "No, the gripper is empty.")
    if rng.random() < 0.6 or not others:
        return _question("held", rng.choice(_HELD).format(table.held), f"Yes, the gripper holds the {table.held}.")
    return _question("held", rng.choice(_HELD).format(rng.choice(others)), f"No, the gripper holds the {table.held}.")


def _empty(scene: Scene, table: Table, rng: random.Random) -> Question | None:
    """Ask whether the gripper is empty."""
    words = f"No, the gripper holds the {table.held}." if table.held else "Yes, the gripper is empty."
    return _question("empty", rng.choice(_EMPTY), words)


def _placed(scene: Scene, table: Table, rng: random.Random) -> Question | None:
    """Ask whether an object is in or on another one."""
    true = {name: place for name, place in table.where.items() if place[0] in _PLACED and place[1] in table.names}
    if true and rng.random() < 0.5:
        name, (relation, place) = rng.choice(sorted(true.items()))
        text = rng.choice(_PLACED[relation]).format(name, place)
        return _question("placed", text, f"Yes, the {name} is {relation} the {place}.")
    if not true and rng.random() < _RARE:
        return None
    relation = rng.choice(list(_PLACED))
    places = [name for name in table.names if (name.split()[-1] in CONTAINERS) == (relation == "in")]
    pairs = [(name, place) for place in places for name in table.names if name != place and true.get(name) != (relation, place)]
    if not pairs:
        return None
    moved = [pair for pair in pairs if pair[0] in true or pair[0] == table.held]
    name, place = rng.choice(moved if moved and rng.random() < 0.6 else pairs)
    return _question(
        "placed", rng.choice(_PLACED[relation]).format(name, place), f"No, the {name} is not {relation} the {place}."
    )


def _side(scene: Scene, table: Table, rng: random.Random) -> Question | None:
    """Ask which of two objects is further to the left or right."""
    if len(scene.objects) < 2:
        return None
    one, other = rng.sample(scene.objects, 2)
    if abs(one.centre[0] - other.centre[0]) < scene.width / _NEAREST:
        return None
    asked = rng.choice(("left", "right"))
    true = "left" if one.centre[0] < other.centre[0] else "right"
    words = f"{'Yes' if asked == true else 'No'}, the {one.name} is to the {true} of the {other.name}."
    return _question("side", f"Is the {one.name} to the {asked} of the {other.name}?", words, (one.id, other.id))


KINDS: dict[str, Callable[[Scene, Table, random.Random], Question | None]] = {
    "held": _held, "empty": _empty, "placed": _placed, "side": _side,
}  # fmt: skip
"""Kinds of conditions: the object in the gripper, an empty gripper, an object in or on another one, left and right."""


def _question(kind: str, text: str, words: str, targets: tuple[int, ...] = ()) -> Question:
    return Question(Task.ASK, kind, text, words=words, targets=targets)
