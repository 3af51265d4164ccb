"""Write a plan as XML for BehaviorTree.CPP 4.

The names of robots, skills and arguments come from models and files. Identifiers of nodes and ports therefore contain only
letters, digits and underscores, and all texts are port values. BehaviorTree.CPP reads a value in braces as the name of a
blackboard entry, and ``=`` as the entry with the port's name, so values that could be misread begin with ``json:``.
"""

import json
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any
from xml.etree import ElementTree

from robobrain_ros.core.query import PlanStep

TREE = "RoboBrainPlan"
"""ID of the tree. BehaviorTree.CPP rejects a tree with the ID of a registered node, and a program may register a node Plan."""
FIXED_PORTS = ("robot", "skill", "text", "arguments")
"""Ports that each node has, if the step has the value. ``arguments`` contains all arguments as ``json:`` and a JSON object."""

_WORDS = "RobotStep"
"""ID of the node of a step that has no skill."""
_JSON = "json:"
_LONGEST_ID = 64
_RESERVED_PORTS = frozenset({*FIXED_PORTS, "name", "id"})
_BUILT_IN = frozenset(
    {
        "action", "alwaysfailure", "alwayssuccess", "asyncfallback", "asyncsequence", "behaviortree", "condition", "control",
        "decorator", "delay", "entryupdated", "fallback", "forcefailure", "forcesuccess", "ifthenelse", "include", "inverter",
        "keeprunninguntilfailure", "loopbool", "loopdouble", "loopint", "loopstring", "manualselector", "parallel", "parallelall",
        "precondition", "reactivefallback", "reactivesequence", "repeat", "retryuntilsuccessful", "root", "runonce", "script",
        "scriptcondition", "sequence", "sequencewithmemory", "setblackboard", "skipunlessupdated", "sleep", "subtree", "switch2",
        "switch3", "switch4", "switch5", "switch6", "timeout", "treenodesmodel", "trycatch", "unsetblackboard", "waitvalueupdate",
        "wasentryupdated", "whiledoelse",
    }
)  # fmt: skip
"""Names of BehaviorTree.CPP's own nodes and elements, in lower case."""
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def behavior_tree(steps: Sequence[PlanStep]) -> str:
    """Return the plan as XML, or an empty string if the plan has no steps.

    The tree is a ``Sequence``. Several steps of the same order are a ``Parallel`` that succeeds if all of them succeed, and fails
    if one of them fails. Each skill is an ``Action`` with the skill's name as ID, and with a port for each argument.

    :param steps: the steps in ascending order.
    """
    if not steps:
        return ""
    ids = _Names("Skill", _BUILT_IN | {_WORDS.lower(), TREE.lower()})
    ports: dict[str, _Names] = {}
    used: dict[str, dict[str, None]] = {}
    root = ElementTree.Element("root", {"BTCPP_format": "4", "main_tree_to_execute": TREE})
    sequence = ElementTree.SubElement(ElementTree.SubElement(root, "BehaviorTree", {"ID": TREE}), "Sequence")
    number = 0
    for _, group in groupby(steps, key=lambda step: step.order):
        together = list(group)
        parent = sequence
        if len(together) > 1:
            parent = ElementTree.SubElement(sequence, "Parallel", {"success_count": "-1", "failure_count": "1"})
        for step in together:
            number += 1
            node = ids.of(step.skill) if step.skill else _WORDS
            values = _values(step, ports.setdefault(node, _Names("arg_", _RESERVED_PORTS)))
            used.setdefault(node, {}).update(dict.fromkeys(values))
            ElementTree.SubElement(parent, "Action", {"ID": node, "name": f"step_{number}"} | values)
    model = ElementTree.SubElement(root, "TreeNodesModel")
    for node, names in used.items():
        action = ElementTree.SubElement(model, "Action", {"ID": node})
        for name in names:
            ElementTree.SubElement(action, "input_port", {"name": name, "type": "std::string"})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _values(step: PlanStep, names: "_Names") -> dict[str, str]:
    """Return the port values of a step."""
    arguments = json.loads(step.arguments) if step.arguments else {}
    values = {key: _written(value) for key, value in zip(FIXED_PORTS, (step.robot, step.skill, step.text), strict=False) if value}
    if arguments:
        values["arguments"] = _written(arguments)
    return values | {names.of(name): _written(value) for name, value in arguments.items()}


def _written(value: Any) -> str:
    """Return a port value: a text as it is, or ``json:`` and JSON if BehaviorTree.CPP or XML could change it."""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, str):
        plain = _NOT_XML.search(value) is None and value == " ".join(value.split())
        if plain and value != "=" and not value.startswith(("{", _JSON)):
            return value
    return _JSON + _escaped(json.dumps(value, ensure_ascii=False))


def _escaped(text: str) -> str:
    """Escape the characters that XML does not allow, in the way of JSON."""
    return _NOT_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class _Names:
    """Makes a different identifier for each name. Identifiers differ even if upper and lower case do not count."""

    def __init__(self, prefix: str, reserved: Iterable[str]) -> None:
        self._prefix = prefix
        self._taken = set(reserved)
        self._known: dict[str, str] = {}

    def of(self, name: str) -> str:
        """Return the identifier for a name. The same name gives the same identifier."""
        if name not in self._known:
            plain = re.sub(r"[^A-Za-z0-9]+", "_", name[:_LONGEST_ID]).strip("_")
            if not plain[:1].isalpha() or plain.lower() in self._taken:
                plain = f"{self._prefix}{plain}"
            free, count = plain, 1
            while free.lower() in self._taken:
                count += 1
                free = f"{plain}_{count}"
            self._taken.add(free.lower())
            self._known[name] = free
        return self._known[name]
