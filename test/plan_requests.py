"""Generate random plan requests with all kinds of arguments and names in many languages, small enough for a tiny model."""

import json
import random
from typing import Any

from robobrain_ros.core.plans.request import Place, PlanMode, PlanRequest, Robot, Skill

NAMES = [
    "arm",
    'the "left" arm',
    "Gabel/Löffel",
    "赤いブロック",
    "back\\slash",
    "it's {odd}",
    "a < b",
    "a" * 30,
    "red block",
    "mug",
]
PATTERNS = ["^[A-Z]{2}[0-9]{1,3}$", "left|right", r"\d{2}:\d{2}", "x(ab|c)?", "[a-f0-9]{4}"]


def random_request(seed: int) -> PlanRequest:
    """Return a valid request."""
    chance = random.Random(seed)
    scene = tuple(Place(name, _some(chance, 0, 3)) for name in _some(chance, 0, 3))
    robots = tuple(_robot(chance, name, scene) for name in _some(chance, 1, 3))
    mode = chance.choice(list(PlanMode))
    return PlanRequest(robots, scene, max_steps=0 if mode is PlanMode.NEXT_STEP else chance.randint(1, 3), mode=mode)


def _some(chance: random.Random, least: int, most: int) -> tuple[str, ...]:
    return tuple(chance.sample(NAMES, chance.randint(least, most)))


def _robot(chance: random.Random, name: str, scene: tuple[Place, ...]) -> Robot:
    skills = tuple(Skill(skill, "", _arguments(chance)) for skill in _some(chance, 1, 4))
    reachable = tuple(place.name for place in scene if chance.random() < 0.5)
    return Robot(name, skills=skills, reachable_places=reachable)


def _arguments(chance: random.Random) -> str:
    if chance.random() < 0.2:
        return ""
    return json.dumps(_object(random.Random(chance.randrange(200)), 0))


def _object(chance: random.Random, depth: int) -> dict[str, Any]:
    properties = {name: _value(chance, depth + 1) for name in _some(chance, 1, 3)}
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if chance.random() < 0.3:
        schema["required"] = [name for name in properties if chance.random() < 0.5]
    return schema


def _value(chance: random.Random, depth: int) -> dict[str, Any]:
    low = chance.choice([-1000, -2.5, -0.5, 0, 0.25, 3])
    kinds: list[dict[str, Any]] = [
        {"type": "string", "format": chance.choice(["object", "place", "robot"])},
        {"type": "string", "minLength": 1, "maxLength": chance.randint(1, 6)},
        {"type": "string"},
        {"type": "string", "pattern": chance.choice(PATTERNS)},
        {"type": "number"},
        {"type": "number", "minimum": low, "maximum": low + chance.choice([0.5, 4, 2000])},
        {"type": "integer", "minimum": int(low), "exclusiveMaximum": int(low) + chance.choice([1, 400])},
        {"type": "boolean"},
        {"enum": [1, "a/b", 'say "hi"', None, True, 0.5]},
        {"type": ["string", "null"], "maxLength": 3},
        {"anyOf": [{"type": "null"}, {"type": "integer"}]},
    ]
    if depth < 3:
        kinds.append({"type": "array", "items": _value(chance, depth + 1), "maxItems": 2})
        kinds.append(_object(chance, depth))
    return chance.choice(kinds)
