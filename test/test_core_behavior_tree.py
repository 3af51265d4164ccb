"""Plans as XML for BehaviorTree.CPP 4: the tree, and names that could break it."""

import json
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robobrain_ros.core.plans.behavior_tree import behavior_tree
from robobrain_ros.core.query import PlanStep

FIXED = {"robot", "skill", "text", "arguments"}
IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
BUILT_IN = {
    "AlwaysFailure", "AlwaysSuccess", "AsyncFallback", "AsyncSequence", "Delay", "Fallback", "ForceFailure", "ForceSuccess",
    "IfThenElse", "Inverter", "KeepRunningUntilFailure", "LoopBool", "LoopDouble", "LoopInt", "LoopString", "Parallel",
    "ParallelAll", "Precondition", "ReactiveFallback", "ReactiveSequence", "Repeat", "RetryUntilSuccessful", "RunOnce",
    "Script", "ScriptCondition", "Sequence", "SequenceWithMemory", "SetBlackboard", "SkipUnlessUpdated", "Sleep", "SubTree",
    "Switch2", "Switch3", "Switch4", "Switch5", "Switch6", "Timeout", "TryCatch", "UnsetBlackboard", "WaitValueUpdate",
    "WasEntryUpdated", "WhileDoElse",
    "Action", "Condition", "Control", "Decorator", "Root", "RoboBrainPlan",
}  # fmt: skip
"""Names that a skill must not have: those of the nodes that BehaviorTree.CPP 4.10 registers, of its elements, and of the tree."""
CONTROLS = {"Sequence": {}, "Parallel": {"success_count", "failure_count"}}


def valid(text: str) -> ElementTree.Element:
    """Check the rules of BehaviorTree.CPP 4 for a file, and return the root."""
    root = ElementTree.fromstring(text)
    assert (root.tag, root.get("BTCPP_format")) == ("root", "4")
    trees = root.findall("BehaviorTree")
    assert [tree.get("ID") for tree in trees].count(root.get("main_tree_to_execute")) == 1
    (models,) = root.findall("TreeNodesModel")
    assert len(trees) + 1 == len(root)
    ports = {model.get("ID"): {port.get("name") for port in model.findall("input_port")} for model in models}
    assert len(ports) == len(models)
    for tree in trees:
        assert len(tree) == 1
        _check(tree[0], ports)
    return root


def _check(node: ElementTree.Element, ports: dict[str | None, set[str | None]]) -> None:
    if node.tag == "Action":
        names = set(node.keys()) - {"ID", "name"}
        assert len(node) == 0
        assert IDENTIFIER.fullmatch(node.get("ID", ""))
        assert node.get("ID", "").lower() not in {name.lower() for name in BUILT_IN}
        assert IDENTIFIER.fullmatch(node.get("name", ""))
        assert all(IDENTIFIER.fullmatch(name) for name in names)
        assert len({name.lower() for name in names}) == len(names)
        assert names <= ports[node.get("ID")]
        # Values that BehaviorTree.CPP replaces by an entry of the blackboard.
        assert not any(node.get(name) == "=" or node.get(name, "").lstrip().startswith("{") for name in names)
        return
    assert len(node) > 0
    assert set(node.keys()) <= set(CONTROLS[node.tag])
    for child in node:
        _check(child, ports)


def value(text: str) -> object:
    return json.loads(text[len("json:") :]) if text.startswith("json:") else text


def test_steps_of_one_order_are_parallel_and_skills_have_ports() -> None:
    steps = [
        PlanStep(1, "Pick the mug.", "left", "pick", '{"object": "mug"}'),
        PlanStep(1, "Drive on.", "base", "drive", '{"place": "table", "speed": 0.5, "stops": ["a", "b"]}'),
        PlanStep(2, "Wait a bit.", "left"),
    ]
    root = valid(behavior_tree(steps))
    (tree,) = root.findall("BehaviorTree")
    (sequence,) = tree
    parallel, words = sequence
    assert (sequence.tag, parallel.tag, parallel.attrib) == (
        "Sequence",
        "Parallel",
        {"success_count": "-1", "failure_count": "1"},
    )
    pick, drive = parallel
    assert pick.attrib == {
        "ID": "pick", "name": "step_1", "robot": "left", "skill": "pick", "text": "Pick the mug.",
        "arguments": 'json:{"object": "mug"}', "object": "mug",
    }  # fmt: skip
    assert (drive.get("speed"), drive.get("stops")) == ("0.5", 'json:["a", "b"]')
    assert words.attrib == {"ID": "RobotStep", "name": "step_3", "robot": "left", "text": "Wait a bit."}
    assert [model.get("ID") for model in root.findall("TreeNodesModel/Action")] == ["pick", "drive", "RobotStep"]


def test_a_plan_without_steps_is_empty() -> None:
    assert behavior_tree([]) == ""


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("pick up", "pick_up"),
        ("Sequence", "SkillSequence"),
        ("subtree", "Skillsubtree"),
        ("RoboBrainPlan", "SkillRoboBrainPlan"),
        ("root", "Skillroot"),
        ("Plan", "Plan"),
        ("RobotStep", "SkillRobotStep"),
        ("3 steps", "Skill3_steps"),
        ("贈る", "Skill"),
        ('"/><Script code="x', "Script_code_x"),
    ],
)
def test_a_skill_gets_an_identifier_and_keeps_its_name(name: str, identifier: str) -> None:
    root = valid(behavior_tree([PlanStep(1, "Do it.", "arm", name)]))
    (action,) = root.findall("BehaviorTree/Sequence/Action")
    assert (action.get("ID"), action.get("skill")) == (identifier, name)


NAMES = (
    "{entry}", "{=}", "=", "json:1", "Action", "name", "ID", "_skipIf", "robot", "a b", "a_b", "A b", "</root>", "&lt;", "]]>",
    "\x00\n", "\x7f", "\ud800", "Root",
)  # fmt: skip
HOSTILE = st.text(min_size=1, max_size=20) | st.sampled_from(NAMES)
ARGUMENTS = st.dictionaries(HOSTILE, HOSTILE | st.integers() | st.lists(HOSTILE, max_size=2), max_size=3)
STEP = st.tuples(st.integers(1, 3), HOSTILE, HOSTILE, HOSTILE | st.just(""), ARGUMENTS)
STEPS = st.lists(STEP, min_size=1, max_size=6)
"""Plans whose names and values could break XML or be misread by BehaviorTree.CPP."""


def steps_of(items: list[tuple[int, str, str, str, dict[str, object]]]) -> list[PlanStep]:
    """Return the steps of an example of `STEPS`, in ascending order."""
    items.sort(key=lambda item: item[0])
    return [PlanStep(order, text, robot, skill, json.dumps(arguments)) for order, text, robot, skill, arguments in items]


@given(STEPS)
def test_no_name_breaks_the_tree_and_every_value_survives(items: list[tuple[int, str, str, str, dict[str, object]]]) -> None:
    steps = steps_of(items)
    actions = list(valid(behavior_tree(steps)).find("BehaviorTree").iter("Action"))  # type: ignore[union-attr]
    assert len(actions) == len(items)
    identifiers: dict[str, str] = {}
    for action, (_, text, robot, skill, arguments) in zip(actions, items, strict=True):
        assert (value(action.get("text", "")), value(action.get("robot", ""))) == (text, robot)
        assert value(action.get("skill", "")) == skill
        assert value(action.get("arguments", "json:{}")) == arguments
        assert identifiers.setdefault(skill, action.get("ID", "")) == action.get("ID")
    assert len(set(identifiers.values())) == len(identifiers)
