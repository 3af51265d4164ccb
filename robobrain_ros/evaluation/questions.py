"""Questions about a scene of the tabletop world with their true answers, in the forms of the model.

A question is the text of a user, without the prompt of the profile. Answer texts have coordinates in pixels of the model's
image, as RoboBrain 2.0 writes them. `Question.coordinates` has them in pixels of the scene's image.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from robobrain_ros.core.query import Task
from robobrain_ros.demo.layout import COLOURS, KINDS, NAMES
from robobrain_ros.demo.simulator import Goal
from robobrain_ros.demo.world import GRIPPER, Scene, SceneObject
from robobrain_ros.evaluation.question import Coordinate, Question

OTHER_WORDS = {"block": "cube", "mug": "cup"}
"""Synonyms of kinds in questions. Answers use the kind itself."""

UNKNOWN = "I only know the things on this table."
"""Answer to questions that are not about the table."""

NO_SUCH_THING = "There is no such thing on the table."
"""Answer in place of a plan."""


def article(name: str) -> str:
    """Return the name with its indefinite article."""
    return ("an " if name[0] in "aeiou" else "a ") + name


def enumeration(names: Sequence[str]) -> str:
    """Return the names in one phrase, each with its article."""
    phrases = [article(name) for name in names]
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def from_left(scene: Scene) -> list[SceneObject]:
    """Return the objects from left to right, the order of answers."""
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
    """Return the name of an object that is not on the table. Most names differ from a present one in one word only."""
    there = {thing.name for thing in scene.objects}
    near = [
        name
        for name in NAMES
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


_POINT_VERBS = ("", "Point to", "Point to", "Point at", "Identify a spot on", "Locate", "Find")
_GRASP_VERBS = ("pick up", "pick up", "grasp", "hold", "grab", "take", "lift")
_REACH_VERBS = ("reach", "reach for", "move to", "pick up", "touch", "grasp")
_PUT_VERBS = ("put", "place", "move")


def _point(scene: Scene, rng: random.Random) -> Question:
    thing, said = _pick(scene, rng)
    text = f"{rng.choice(_POINT_VERBS)} {said}".strip()
    return Question(
        Task.POINT,
        "point",
        text,
        (Coordinate(*thing.centre, (thing.id,)),),
        targets=(thing.id,),
        **_found(scene, thing, said),  # type: ignore[arg-type]
    )


def spots_on(scene: Scene, thing: SceneObject) -> tuple[Coordinate, ...]:
    """Return three pixels of the object in one row: its centre, and the middles between the centre and both ends."""
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
    text = f"{rng.choice(_POINT_VERBS)} the {rng.choice(('gripper', 'robot gripper'))}".strip()
    u, v = scene.gripper.tip
    tip = (Coordinate(u, v, (GRIPPER,)),)
    return Question(Task.POINT, "gripper", text, tip, thought="I look for the gripper.", targets=(GRIPPER,))


def _afford(scene: Scene, rng: random.Random) -> Question:
    thing, said = _pick(scene, rng)
    part = {"mug": "handle", "bowl": "rim"}.get(thing.kind)
    text = f"{rng.choice(_GRASP_VERBS)} {said}"
    if part and rng.random() < 0.3:
        text += f" by {rng.choice(('its', 'the'))} {part}"
    box = _box(thing.affordance, thing.id)
    return Question(Task.AFFORDANCE, "afford", text, box, targets=(thing.id,), **_found(scene, thing, said))  # type: ignore[arg-type]


def _ground(scene: Scene, rng: random.Random) -> Question:
    thing, said = _pick(scene, rng)
    text = said if rng.random() < 0.6 else said.removeprefix("the ")
    return Question(Task.GROUND, "ground", text, _box(thing.box, thing.id), targets=(thing.id,), **_found(scene, thing, said))  # type: ignore[arg-type]


_ARC = ((0.0, 0.0), (0.38, 0.08), (0.71, 0.29), (0.92, 0.62), (1.0, 1.0))
"""A quarter of an ellipse, first sideways, then down, as shares of the horizontal and the vertical distance."""


def approach(scene: Scene, thing: SceneObject) -> tuple[Coordinate, ...]:
    """Return five waypoints from the finger tips to the object."""
    (u, v), (to_u, to_v) = scene.gripper.tip, thing.centre
    return tuple(
        Coordinate(u + (to_u - u) * across, v + (to_v - v) * down, (thing.id, GRIPPER) if across < 1 else (thing.id,))
        for across, down in _ARC
    )


def transfer(scene: Scene, thing: SceneObject, place: SceneObject) -> tuple[Coordinate, ...]:
    """Return seven waypoints: to the object, above the destination, and down to it."""
    (u, v), (to_u, to_v) = thing.centre, place.centre
    over = max(min(v, to_v) - 0.14 * scene.height, 0.0)
    about = (thing.id, place.id)
    way = (Coordinate((u + to_u) / 2.0, over, about), Coordinate(to_u, to_v, (place.id,)))
    return approach(scene, thing) + way


def _reach(scene: Scene, rng: random.Random) -> Question:
    thing, said = _pick(scene, rng)
    text = f"{rng.choice(_REACH_VERBS)} {said}"
    return Question(Task.TRAJECTORY, "reach", text, approach(scene, thing), targets=(thing.id,), **_found(scene, thing, said))  # type: ignore[arg-type]


def _pair(scene: Scene, rng: random.Random) -> tuple[SceneObject, SceneObject, str] | None:
    """Return an object, a destination and the relation. None: the scene has no pair."""
    bowls = [thing for thing in scene.objects if thing.kind == "bowl"]
    small = [thing for thing in scene.objects if thing.kind in ("block", "ball")]
    if bowls and small and rng.random() < 0.75:
        return rng.choice(small), rng.choice(bowls), "in"
    blocks = [thing for thing in scene.objects if thing.kind == "block"]
    if blocks and rng.random() < 0.5:
        place = rng.choice(blocks)
        others = [thing for thing in scene.objects if thing is not place and thing.kind != "bowl"]
        if others:
            return rng.choice(others), place, "on"
    if len(scene.objects) < 2:
        return None
    thing, place = rng.sample(scene.objects, 2)
    return thing, place, "beside"


_PREPOSITIONS = {"in": ("into", "in"), "on": ("on", "onto", "on top of"), "beside": ("next to", "beside")}
_RELEASES = {"in": "into", "on": "onto", "beside": "next to"}


def _put(scene: Scene, rng: random.Random) -> Question:
    pair = _pair(scene, rng)
    if pair is None or pair[2] == "beside":
        return _reach(scene, rng)
    thing, place, relation = pair
    said, where = _refer(scene, thing, rng), _refer(scene, place, rng)
    text = f"{rng.choice(_PUT_VERBS)} {said} {rng.choice(_PREPOSITIONS[relation])} {where}"
    way = transfer(scene, thing, place)
    return Question(Task.TRAJECTORY, "put", text, way, targets=(thing.id, place.id), **_found(scene, thing, said))  # type: ignore[arg-type]


def _numbered(steps: Sequence[str]) -> str:
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, start=1))


def _steps(thing: str, place: str, relation: str) -> list[str]:
    return [
        f"Move the gripper to the {thing}",
        f"Grasp the {thing}",
        f"Move the {thing} above the {place}",
        f"Release the {thing} {_RELEASES[relation]} the {place}",
    ]


def _plan(scene: Scene, rng: random.Random) -> Question:
    chance = rng.random()
    if chance < 0.2:
        return _plan_to_hold(scene, rng)
    if chance < 0.45:
        return _plan_for_all(scene, rng)
    pair = _pair(scene, rng)
    if pair is None:
        return _plan_to_hold(scene, rng)
    thing, place, relation = pair
    said, where = _refer(scene, thing, rng), _refer(scene, place, rng)
    text = f"{rng.choice(_PUT_VERBS)} {said} {rng.choice(_PREPOSITIONS[relation])} {where}"
    words = _numbered(_steps(thing.name, place.name, relation))
    thought = f"I need the {thing.name} and the {place.name}. Both are on the table."
    goal = Goal(relation, (thing.name,), place.name)
    return Question(Task.PLAN, "plan", text, words=words, thought=thought, targets=(thing.id, place.id), goal=goal)


def _plan_to_hold(scene: Scene, rng: random.Random) -> Question:
    thing, said = _pick(scene, rng)
    text = f"{rng.choice(_GRASP_VERBS)} {said}"
    words = _numbered([f"Move the gripper to the {thing.name}", f"Grasp the {thing.name}", f"Lift the {thing.name}"])
    thought = f"I need the {thing.name}. It is on the table."
    return Question(Task.PLAN, "hold", text, words=words, thought=thought, targets=(thing.id,), goal=Goal("held", (thing.name,)))


def _plan_for_all(scene: Scene, rng: random.Random) -> Question:
    """Ask for a plan that puts all balls, or all blocks, into the bowl."""
    bowls = [thing for thing in scene.objects if thing.kind == "bowl"]
    kinds = [kind for kind in ("ball", "block") if any(thing.kind == kind for thing in scene.objects)]
    if not bowls or not kinds:
        return _plan_to_hold(scene, rng)
    kind, place = rng.choice(kinds), rng.choice(bowls)
    things = [thing for thing in from_left(scene) if thing.kind == kind]
    text = f"{rng.choice(_PUT_VERBS)} all {kind}s into {_refer(scene, place, rng)}"
    words = _numbered([step for thing in things for step in _steps(thing.name, place.name, "in")])
    names = tuple(thing.name for thing in things)
    thought = f"On the table I see {enumeration(names)}. They go into the {place.name}."
    targets = (*(thing.id for thing in things), place.id)
    return Question(Task.PLAN, "all", text, words=words, thought=thought, targets=targets, goal=Goal("in", names, place.name))


def _absent(scene: Scene, rng: random.Random) -> Question:
    """Ask any task about an object that is not there."""
    name = absent_name(scene, rng)
    said = _say(name, rng)
    thought = f"I look for {said}. There is no {name} on the table."
    kind = rng.choice(("point", "point", "spots", "afford", "reach", "ground", "ground", "plan", "plan", "put", "hold"))
    _, known = _pick(scene, rng)
    task, text = {
        "point": (Task.POINT, f"{rng.choice(_POINT_VERBS)} {said}".strip()),
        "spots": (Task.POINT, f"Identify several spots on {said}"),
        "afford": (Task.AFFORDANCE, f"{rng.choice(_GRASP_VERBS)} {said}"),
        "reach": (Task.TRAJECTORY, f"{rng.choice(_REACH_VERBS)} {said}"),
        "ground": (Task.GROUND, rng.choice((said, said.removeprefix("the ")))),
        "hold": (Task.PLAN, f"{rng.choice(_GRASP_VERBS)} {said}"),
    }.get(kind, (Task.PLAN if kind == "plan" else Task.TRAJECTORY, ""))
    if kind in ("plan", "put"):
        verb = rng.choice(_PUT_VERBS)
        if rng.random() < 0.4:
            text = f"{verb} {said} next to {known}"
        else:
            text = f"{verb} {known} {rng.choice(('into', 'in', 'on', 'next to'))} {said}"
        if kind == "plan" and name.endswith("bowl") and rng.random() < 0.3:
            text = f"{verb} all {rng.choice(('ball', 'block'))}s into {said}"
    return Question(task, f"absent {kind}", text, words="" if task.spatial else _missing(name), thought=thought, absent=True)


def _describe(scene: Scene, rng: random.Random) -> Question:
    things = from_left(scene)
    text = rng.choice(("What is on the table?", "What do you see?", "Describe the scene.", "List the objects on the table."))
    words = f"On the table there are, from left to right, {enumeration([thing.name for thing in things])}."
    return Question(
        Task.ASK, "describe", text, words=words, thought="I look from left to right.", targets=tuple(t.id for t in things)
    )


def _count(scene: Scene, rng: random.Random) -> Question:
    """Ask for a number. The answer first lists the objects, because a small model counts best what it has written."""
    noun = rng.choice(["objects"] * 5 + [f"{kind}s" for kind in KINDS] + [f"{colour} objects" for colour in COLOURS])
    things = [thing for thing in from_left(scene) if noun in ("objects", f"{thing.kind}s", f"{thing.colour} objects")]
    text = rng.choice((f"How many {noun} are on the table?", f"How many {noun} are there?", f"Count the {noun}."))
    words = (
        f"I see {enumeration([t.name for t in things])}: {len(things)}." if things else f"There are no {noun} on the table: 0."
    )
    return Question(Task.ASK, "count", text, words=words, thought=f"I count the {noun}.", targets=tuple(t.id for t in things))


def _exists(scene: Scene, rng: random.Random) -> Question:
    there = rng.random() < 0.5
    thing = rng.choice(scene.objects)
    name = thing.name if there else absent_name(scene, rng)
    said = _say(name, rng).removeprefix("the ")
    text = rng.choice((f"Is there {article(said)} on the table?", f"Do you see {article(said)}?", f"Is there {article(said)}?"))
    words = f"Yes, there is {article(name)} on the table." if there else f"No, there is no {name} on the table."
    return Question(
        Task.ASK, "exists", text, words=words, thought=f"I look for {article(name)}.", targets=(thing.id,) if there else ()
    )


def _colour(scene: Scene, rng: random.Random) -> Question:
    alone = [thing for thing in scene.objects if sum(other.kind == thing.kind for other in scene.objects) == 1]
    if not alone:
        return _exists(scene, rng)
    thing = rng.choice(alone)
    text = rng.choice((f"What colour is the {thing.kind}?", f"What color is the {thing.kind}?"))
    words = f"The {thing.kind} is {thing.colour}."
    return Question(Task.ASK, "colour", text, words=words, thought=f"I look for the {thing.kind}.", targets=(thing.id,))


def _side(scene: Scene, rng: random.Random) -> Question:
    if len(scene.objects) < 2:
        return _exists(scene, rng)
    one, other = rng.sample(scene.objects, 2)
    if abs(one.centre[0] - other.centre[0]) < scene.width // 12:
        return _exists(scene, rng)
    side = rng.choice(("left", "right"))
    true = (one.centre[0] < other.centre[0]) == (side == "left")
    text = f"Is the {one.name} to the {side} of the {other.name}?"
    really = "left" if one.centre[0] < other.centre[0] else "right"
    words = f"{'Yes' if true else 'No'}, the {one.name} is to the {really} of the {other.name}."
    thought = f"I compare the {one.name} and the {other.name}. The {one.name} is to the {really}."
    return Question(Task.ASK, "side", text, words=words, thought=thought, targets=(one.id, other.id))


def _where(scene: Scene, rng: random.Random) -> Question:
    thing, said = _pick(scene, rng)
    words = f"The {thing.name} is in the {_place(scene, thing)} of the picture."
    return Question(Task.ASK, "where", f"Where is {said}?", words=words, targets=(thing.id,), **_found(scene, thing, said))  # type: ignore[arg-type]


_STRANGE = (
    "", "What is the capital of France?", "Wo ist die rote Tasse?", "Où est la tasse rouge ?", "Hello", "Tell me a joke.",
    "Who are you?", "What is the weather like?", "Please help me", "sing a song", "asdf", "12345", "How old are you?",
    "Write a poem about the sea.", "What time is it?", "¿Dónde está la taza roja?", "红色的杯子在哪里？", "Open the door.",
)  # fmt: skip


def _strange(scene: Scene, rng: random.Random) -> Question:
    """Ask something that is not about the table: nonsense, other languages, an empty text."""
    text = rng.choice(_STRANGE)
    if rng.random() < 0.5:
        letters = "abcdefghijklmnopqrstuvwxyz"
        text = " ".join("".join(rng.choice(letters) for _ in range(rng.randint(1, 8))) for _ in range(rng.randint(1, 5)))
    task = rng.choice([task for task in Task if task in KINDS_BY_TASK])
    words = "" if task.spatial else NO_SUCH_THING if task is Task.PLAN else UNKNOWN
    return Question(task, "strange", text, words=words, thought="I do not know what is meant.", absent=True)


KINDS_OF_QUESTIONS: dict[str, Callable[[Scene, random.Random], Question]] = {
    "point": _point,
    "spots": _spots,
    "vacant": _vacant,
    "gripper": _gripper,
    "afford": _afford,
    "reach": _reach,
    "put": _put,
    "ground": _ground,
    "plan": _plan,
    "describe": _describe,
    "count": _count,
    "exists": _exists,
    "colour": _colour,
    "side": _side,
    "where": _where,
    "absent": _absent,
    "strange": _strange,
}
"""Kinds of questions. A kind that is impossible in a scene, such as a space between touching objects, yields another kind."""

KINDS_BY_TASK: dict[Task, tuple[str, ...]] = {
    Task.POINT: ("point", "spots", "vacant"),
    Task.AFFORDANCE: ("afford",),
    Task.TRAJECTORY: ("reach", "put"),
    Task.GROUND: ("ground",),
    Task.PLAN: ("plan",),
    Task.ASK: ("describe", "count", "exists", "colour", "side", "where"),
}
"""The tasks that the questions cover, and the kinds of questions for each of them."""


def ask_about(scene: Scene, kind: str, rng: random.Random) -> Question:
    """Return a question of a kind, one of `KINDS_OF_QUESTIONS`.

    :raises ValueError: the kind is unknown.
    """
    if kind not in KINDS_OF_QUESTIONS:
        raise ValueError(f"There is no kind of question {kind!r}. The kinds are {', '.join(KINDS_OF_QUESTIONS)}.")
    question = KINDS_OF_QUESTIONS[kind](scene, rng)
    if rng.random() < 0.15:
        # Users begin with a capital letter, or not.
        return replace(question, text=question.text[:1].swapcase() + question.text[1:])
    return question
