"""Words for the descriptions of random robots, see `evaluation.robots`.

Each list has words for training, and words that occur only in the evaluation ("held out"). Names are words separated by blanks,
and each robot writes them in one style, such as ``pick_up`` or ``pickUp``. In descriptions, ``{object}`` and ``{place}`` stand
for the names of arguments, and ``{a}``, ``{b}`` and ``{c}`` for the values of the relation: in, on, beside.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Words:
    """Words for training, and words that no robot for training has."""

    training: tuple[str, ...]
    held_out: tuple[str, ...]


ROBOTS = Words(
    (
        "arm", "robot", "left arm", "right arm", "panda", "manipulator", "ur5", "gripper", "franka", "robo", "bot", "helper",
        "kitchen robot", "my robot", "arm 1", "robot 2", "worker", "xarm", "table arm", "picker",
    ),
    ("kinova", "yumi", "lab arm", "jaco", "sorter", "robot 7", "assistant", "bench robot", "rosie", "fanuc 12"),
)  # fmt: skip

TYPES = Words(
    ("", "", "an arm with a gripper", "a robot arm", "an arm", "a mobile manipulator", "arm", "6-axis arm", "a gripper"),
    ("", "a desktop arm", "a cobot", "an arm with two fingers", "a table robot"),
)
STATES = Words(("", "", "", "", "", "idle", "ready"), ("", "", "", "waiting"))

PICK = Words(
    (
        "pick", "pick up", "grasp", "grab", "take", "lift", "pickup", "get", "hold", "pick object", "grasp object", "take object",
        "grip", "grab object", "pick item", "lift up", "catch hold", "get object", "pick thing", "take up",
    ),
    ("collect", "seize", "fetch object", "clasp", "lift object", "grasp item", "acquire"),
)  # fmt: skip
PICK_TEXTS = Words(
    (
        "grasp an object and lift it", "pick up an object", "grasp the {object}", "take the {object} from the table",
        "close the gripper around the {object} and lift it", "grab something", "lift an object off the table",
        "pick one {object} up with the gripper", "take an object into the hand", "hold the {object}", "pick the {object}",
        "take something with the gripper", "grasps and lifts the {object}", "get hold of a {object}",
    ),
    (
        "pick the {object} up from the table", "grab the {object} and raise it", "grip an object with the fingers",
        "take hold of something and lift it", "lift the {object} with the hand",
    ),
)  # fmt: skip

PLACE = Words(
    (
        "place", "put", "put down", "release", "place object", "put object", "drop", "set", "place at", "put at", "set down",
        "place item", "drop object", "put thing", "lay", "place held",
    ),
    ("deposit", "lay down", "set object", "leave", "put item", "lower object"),
)  # fmt: skip
PLACE_TEXTS = Words(
    (
        "put the held object {a}, {b} or {c} another one", "place the {object} {a}, {b} or {c} the {place}",
        "put down what the gripper holds: {a}, {b} or {c} the {place}", "release the {object} {a}, {b} or {c} something",
        "place an object ({a}, {b}, {c})", "put the {object} at the {place}: {a}, {b} or {c} it",
        "puts it {a}, {b} or {c} the {place}", "put the {object} down, {a}, {b} or {c} an object", "one of {a}, {b}, {c}",
    ),
    (
        "drop the {object} {a}, {b} or {c} the {place}", "set the held object down ({a}, {b} or {c} another one)",
        "leave the {object} {a}, {b} or {c} a place",
    ),
)  # fmt: skip

PLACE_BY_RELATION = {
    "in": Words(
        (
            "put in", "place in", "place inside", "drop in", "put into", "insert", "drop into", "put inside", "place into",
            "put in bowl", "set in",
        ),
        ("insert into", "deposit in", "load into", "lay in", "store inside"),
    ),
    "on": Words(
        (
            "put on", "place on", "stack", "put on top", "place on top", "stack on", "set on", "put onto", "drop on",
            "place onto", "lay on",
        ),
        ("stack onto", "set on top", "rest on", "deposit on", "leave on"),
    ),
    "beside": Words(
        (
            "put beside", "place beside", "put next to", "place next to", "place near", "put near", "set beside", "drop near",
            "set next to", "drop beside",
        ),
        ("lay beside", "leave next to", "deposit near", "set near", "lay next to"),
    ),
}  # fmt: skip
TEXTS_BY_RELATION = {
    "in": Words(
        (
            "put the held object into another one", "place the {object} in the {place}", "put the {object} inside the {place}",
            "drop what the gripper holds into a bowl", "release it in a container", "put it into the {place}",
            "puts the {object} into the {place}", "place an object inside another one",
        ),
        ("lower the {object} into the {place}", "leave the held object inside the {place}", "drop it in the {place}"),
    ),
    "on": Words(
        (
            "put the held object on another one", "place the {object} on the {place}", "put the {object} on top of the {place}",
            "stack what the gripper holds on an object", "release it on top of something", "put it onto the {place}",
            "puts the {object} on the {place}", "place an object on top of another one",
        ),
        ("lower the {object} onto the {place}", "leave the held object on top of the {place}", "drop it on the {place}"),
    ),
    "beside": Words(
        (
            "put the held object beside another one", "place the {object} next to the {place}",
            "put the {object} beside the {place}", "lay what the gripper holds next to an object", "release it near something",
            "put it next to the {place}", "puts the {object} beside the {place}", "place an object next to another one",
        ),
        ("lower the {object} beside the {place}", "leave the held object next to the {place}", "drop it near the {place}"),
    ),
}  # fmt: skip

OBJECT_ARGUMENTS = Words(
    ("object", "item", "thing", "obj", "object name", "name", "what", "object id", "item name", "held object", "part"),
    ("thing name", "target object", "piece"),
)
PLACE_ARGUMENTS = Words(
    ("place", "target", "location", "destination", "goal", "where", "support", "place name", "to", "target name", "at"),
    ("destination name", "place id", "location name"),
)
RELATION_ARGUMENTS = Words(
    ("relation", "how", "preposition", "position", "mode", "side", "spatial relation", "rel"),
    ("placement", "way", "relation name"),
)
OTHER_ARGUMENTS = ("speed", "force", "timeout", "height", "arm side", "retries", "careful")
"""Optional arguments that no plan needs."""

RELATION_VALUES = Words(
    ("inside,on top,next to", "into,onto,near", "in,on,near", "in,on top of,next to", "inside,on,beside", "within,upon,by"),
    ("in it,on it,near it", "inside of,on top of,beside of", "into,on top,next to"),
)
"""Values of the relation for in, on and beside, if they are not these words."""


@dataclass(frozen=True)
class Distractor:
    """A skill that no plan needs.

    :param names: names for training.
    :param properties: the properties of its arguments, by name.
    :param opens: the skill opens the gripper, so a held object falls onto the table.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]
    properties: dict[str, Any]
    opens: bool = False


_TEXT, _NUMBER = {"type": "string", "maxLength": 60}, {"type": "number", "minimum": 0, "maximum": 100}
DISTRACTORS = (
    Distractor(
        ("move to", "go to", "navigate"), ("move to a place", "drive to the {place}", "go somewhere"), {"position": _TEXT}
    ),
    Distractor(("move", "move gripper"), ("move the gripper", "move to x and y"), {"x": _NUMBER, "y": _NUMBER}),
    Distractor(("say", "speak", "announce"), ("say a sentence", "speak to people", "say something"), {"text": _TEXT}),
    Distractor(("open gripper", "open hand"), ("open the gripper", "open the fingers"), {}, opens=True),
    Distractor(("home", "go home", "reset"), ("move to the home position", "return to the start"), {}),
    Distractor(("wait", "pause", "sleep"), ("wait for some seconds", "do nothing for a while"), {"seconds": _NUMBER}),
    Distractor(("look at", "look", "inspect"), ("look at an object", "turn the camera"), {"object": _TEXT}),
    Distractor(("take photo", "scan"), ("take an image", "scan the table"), {}),
    Distractor(("wave", "greet"), ("wave to people", "wave the arm"), {}),
)
