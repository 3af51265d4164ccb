"""Questions about a scene of the tabletop world with their true answers, in the model's own forms.

A question is what a user types; the prompt around it is the profile's. Texts of answers hold coordinates in pixels of the picture
as the model sees it, like RoboBrain 2.0's; `Question.coordinates` holds them in the scene's own pixels.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.query import Task
from robobrain_ros.demo.layout import COLOURS, KINDS, NAMES
from robobrain_ros.demo.simulator import Goal
from robobrain_ros.demo.world import GRIPPER, Scene, SceneObject

OTHER_WORDS = {"block": "cube", "mug": "cup"}
"""Second words for kinds; the model's answers use the first."""

UNKNOWN = "I only know the things on this table."
"""Answer to what has nothing to do with the table."""


@dataclass(frozen=True)
class Coordinate:
    """A point of a true answer in the scene's pixels, and the ids that it is about (for scoring and for training)."""

    u: float
    v: float
    about: tuple[int, ...] = ()


@dataclass(frozen=True)
class Question:
    """What is asked, and the truth.

    :param kind: finer than the task, see `KINDS_OF_QUESTIONS`.
    :param coordinates: points, waypoints, or the two corners of a box; none where the thing is absent or the answer is text.
    :param words: the answer where it is text or a plan's numbered lines.
    :param thought: a short reasoning, with "{here}" for the first target's place.
    :param targets: ids of the things meant, the one to end on last.
    :param goal: what a plan shall reach; None: nothing can be done.
    :param absent: what is asked for is not on the table.
    """

    task: Task
    kind: str
    text: str
    coordinates: tuple[Coordinate, ...] = ()
    words: str = ""
    thought: str = ""
    here: Coordinate | None = None
    targets: tuple[int, ...] = ()
    goal: Goal | None = None
    absent: bool = False

    def answer(self, size: FittedSize) -> str:
        """The answer's text, coordinates in the pixels of the model's picture."""
        if not self.task.spatial:
            return self.words
        numbers = [_model_pixel(coordinate, size) for coordinate in self.coordinates]
        if self.task in (Task.GROUND, Task.AFFORDANCE):
            return "[" + ", ".join(f"{x}, {y}" for x, y in numbers) + "]"
        return "[" + ", ".join(f"({x}, {y})" for x, y in numbers) + "]"

    def thinking(self, size: FittedSize) -> str:
        """A short reasoning that leads to the answer."""
        if self.here is None:
            return self.thought
        x, y = _model_pixel(self.here, size)
        return self.thought.replace("{here}", f"({x}, {y})")


def _model_pixel(coordinate: Coordinate, size: FittedSize) -> tuple[int, int]:
    x = (coordinate.u + 0.5) * size.model_width / size.width - 0.5
    y = (coordinate.v + 0.5) * size.model_height / size.height - 0.5
    return min(max(round(x), 0), size.model_width - 1), min(max(round(y), 0), size.model_height - 1)


def article(name: str) -> str:
    """The name with its indefinite article."""
    return ("an " if name[0] in "aeiou" else "a ") + name


def enumeration(names: Sequence[str]) -> str:
    """The names in one phrase, each with its article."""
    phrases = [article(name) for name in names]
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def from_left(scene: Scene) -> list[SceneObject]:
    """The things in the order in which answers name them."""
    return sorted(scene.objects, key=lambda thing: thing.centre)


def _say(name: str, rng: random.Random) -> str:
    colour, kind = name.split()
    return f"the {colour} {OTHER_WORDS[kind]}" if kind in OTHER_WORDS and rng.random() < 0.25 else f"the {name}"


def _refer(scene: Scene, thing: SceneObject, rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.06 and sum(other.kind == thing.kind for other in scene.objects) == 1:
        return f"the {thing.kind}"
    if chance < 0.12 and sum(other.colour == thing.colour for other in scene.objects) == 1:
        return f"the {thing.colour} {rng.choice(('object', 'thing'))}"
    return _say(thing.name, rng)


def absent_name(scene: Scene, rng: random.Random) -> str:
    """A name that is not on the table; mostly one that differs from something there in one word only."""
    there = {thing.name for thing in scene.objects}
    near = [
        name for name in NAMES
        if name not in there and any(name.split()[0] == thing.colour or name.split()[1] == thing.kind for thing in scene.objects)
    ]
    far = [name for name in NAMES if name not in there]
    return rng.choice(near if near and rng.random() < 0.7 else far)


def _place(scene: Scene, thing: SceneObject) -> str:
    third = thing.centre[0] * 3 // scene.width
    return ("left", "middle", "right")[third]


def _found(scene: Scene, thing: SceneObject, said: str) -> dict[str, object]:
    thought = f"I look for {said}. It is in the {_place(scene, thing)} near {{here}}."
    return {"thought": thought, "here": Coordinate(*thing.centre, (thing.id,))}


def _missing(name: str) -> str:
    return f"There is no {name} on the table."


def _box(box: tuple[int, int, int, int], identity: int) -> tuple[Coordinate, ...]:
    return Coordinate(box[0], box[1], (identity,)), Coordinate(box[2], box[3], (identity,))


def _pick(scene: Scene, rng: random.Random) -> tuple[SceneObject, str]:
    thing = rng.choice(scene.objects)
    return thing, _refer(scene, thing, rng)


_POINT_VERBS = ("Point to", "Point to", "Point at", "Identify a spot on", "Locate", "Find")
_GRASP_VERBS = ("pick up", "grasp", "hold", "grab", "take", "lift")
_REACH_VERBS = ("reach", "reach for", "move to", "pick up", "touch", "grasp")
_PUT_VERBS = ("put", "place", "move")


def _point(scene: Scene, rng: random.Random) -> Question:
    thing, said = _pick(scene, rng)
    text = f"{rng.choice(_POINT_VERBS)} {said}"
    return Question(
        Task.POINT, "point", text, (Coordinate(*thing.centre, (thing.id,)),), targets=(thing.id,), **_found(scene, thing, said)  # type: ignore[arg-type]
    )


def spots_on(scene: Scene, thing: SceneObject) -> tuple[Coordinate, ...]:
    """Three pixels of the thing in one row: its centre, and halfway to either end of the thing there."""
    u, v = thing.centre
    row = scene.mask[v] == thing.id
    left, right = u, u
    while left > 0 and row[left - 1]:
        left -= 1
    while right < scene.width - 1 and row[right + 1]:
        right += 1
    return tuple(Coordinate(x, v, (thing.id,)) for x in (u, (u + left) // 2, (u + right) // 2))


def _spots(scene: Scene, rng: random.Random) -> Question:
    thing, said = _pick(scene, rng)
    text = f"Identify {rng.choice(('several', 'a few', 'some'))} spots on {said}"
    return Question(Task.POINT, "spots", text, spots_on(scene, thing), targets=(thing.id,), **_found(scene, thing, said))  # type: ignore[arg-type]


def _vacant(scene: Scene, rng: random.Random) -> Question:
    for _ in range(8):
        if len(scene.objects) < 2:
            break
        one, other = rng.sample(scene.objects, 2)
        places = []
        for part in (0.5, 0.42, 0.58):
            u = round(one.centre[0] + (other.centre[0] - one.centre[0]) * part)
            v = round(one.centre[1] + (other.centre[1] - one.centre[1]) * part)
            places.append((u, v))
        reach = max(2, scene.width // 70)
        if all(not scene.mask[max(0, v - reach) : v + reach + 1, max(0, u - reach) : u + reach + 1].any() for u, v in places):
            first, second = _refer(scene, one, rng), _refer(scene, other, rng)
            verb = rng.choice(("Identify several spots within", "Identify some spots within", "Point to"))
            text = f"{verb} the vacant space between {first} and {second}"
            coordinates = tuple(Coordinate(u, v, (one.id, other.id)) for u, v in places)
            thought = f"I look for the space between {first} and {second}."
            return Question(Task.POINT, "vacant", text, coordinates, thought=thought, targets=(one.id, other.id))
    return _point(scene, rng)


def _gripper(scene: Scene, rng: random.Random) -> Question:
    text = f"{rng.choice(_POINT_VERBS)} the {rng.choice(('gripper', 'robot gripper'))}"
    u, v = scene.gripper.tip
    tip = (Coordinate(u, v, (GRIPPER,)),)
    return Question(Task.POINT, "gripper", text, tip, thought="I look for the gripper.", targets=(GRIPPER,))
