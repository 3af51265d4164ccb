"""Robots from a YAML file: what is read, and what is wrong at which line."""

import json
from pathlib import Path

import pytest

from robobrain_ros.core.plan_request import Robot, Skill, SkillEffect
from robobrain_ros.core.robots_file import read_robots
from robobrain_ros.errors import BadRequestError


def test_the_example_is_read(repository: Path) -> None:
    arm, carrier = read_robots(repository / "config" / "robots_example.yaml")
    assert (arm.name, arm.type, arm.state, arm.position) == ("left_arm", "arm", "idle", "left of the table")
    assert arm.reachable_places == ("table", "tray")
    assert [skill.name for skill in arm.skills] == ["pick", "place", "open_gripper"]
    pick, place, open_gripper = arm.skills
    assert (pick.effect, pick.object_argument) == (SkillEffect.GRASPS, "object")
    assert place.effect is SkillEffect.RELEASES
    assert json.loads(pick.arguments_schema) == {
        "type": "object", "properties": {"object": {"type": "string", "format": "object"}}, "required": ["object"]
    }  # fmt: skip
    assert open_gripper == Skill("open_gripper", "Opens the gripper.")
    (drive,) = carrier.skills
    assert json.loads(drive.arguments_schema)["properties"]["speed"] == {"type": "number", "minimum": 0.1, "maximum": 1.0}
    assert carrier == Robot("carrier", "mobile base", skills=(drive,))


SKILL = "skills:\n  pick: {description: Grasps.}\n"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "empty"),
        ("- robots", 1, "The file must be a mapping"),
        ("skills:\n  pick: {}\n", 1, "holds no robots"),
        ("skills: {}\nrobots: {}\n", 2, "holds no robots"),
        ("robots:\n  arm: {skills: [\n", 3, "no YAML"),
        ("robots:\n\tarm: {}\n", 2, "no YAML"),
        ("robots: {}\n---\nrobots: {}\n", 2, "no YAML"),
        ("robots:\n  arm: {skills: [pick]}\n", 2, "'pick', which is not under skills: none"),
        (f"{SKILL}robots:\n  arm: {{skills: [pick, pikc]}}\n", 4, "'pikc', which is not under skills: pick"),
        (f"{SKILL}robots:\n  arm:\n    skills: pick\n", 5, "must be a list"),
        (f"{SKILL}robots:\n  arm: {{skills: [pick]}}\n  arm: {{skills: [pick]}}\n", 5, "Robots names 'arm' twice"),
        (f"{SKILL}robots:\n  arm:\n    skills: [pick]\n    tpye: arm\n", 6, "no field 'tpye'"),
        (f"{SKILL}robots:\n  arm:\n    skills: [pick]\n    state: yes\n", 6, "must be text; put it in quotes"),
        (f"{SKILL}robots:\n  7: {{skills: [pick]}}\n", 4, "must be text; put it in quotes"),
        (f"{SKILL}robots:\n  arm:\n    - pick\n", 5, "must be a mapping"),
        (f"{SKILL}robots:\n  arm: {{skills: [pick]}}\n  base:\n    type: base\n", 6, "context.robots[1].skills: "),
        ("skills:\n  pick:\n    arguments_schema:\n      type: thing\nrobots: {arm: {skills: [pick]}}\n", 4, "no JSON schema"),
        ("skills:\n  pick:\n    effect: grasps\nrobots: {arm: {skills: [pick]}}\n", 3, "must say which argument"),
        ("skills:\n  pick:\n    effect: grabs\nrobots: {}\n", 3, "one of none, grasps, releases"),
        ("skills:\n  pick:\n    arguments_schema: '{}'\nrobots: {}\n", 3, "must be a mapping: a JSON schema"),
        ("skills:\n  pick:\n    arguments_schema:\n      const: 2026-11-24\nrobots: {}\n", 4, "JSON does not know"),
        ("skills:\n  pick:\n    arguments_schema:\n      maximum: .inf\nrobots: {}\n", 4, "JSON does not know"),
        ("skills:\n  pick:\n    arguments_schema: &a\n      items: *a\nrobots: {}\n", 3, "contains itself"),
        ("skills:\n  pick: !!python/object:os.system {}\nrobots: {arm: {skills: [pick, {a: {}, b: {}}]}}\n", 3, "one name"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = tmp_path / "robots.yaml"
    path.write_text(text)
    with pytest.raises(BadRequestError) as caught:
        read_robots(path)
    assert caught.value.message.startswith(f"{path}:{line}: ")
    assert said in caught.value.message


def test_aliases_do_not_multiply_without_bound(tmp_path: Path) -> None:
    layers = "\n".join(f"    a{n}: &a{n} {{{', '.join(f'x{i}: *a{n - 1}' for i in range(9))}}}" for n in range(1, 9))
    path = tmp_path / "robots.yaml"
    path.write_text(f"skills:\n  pick:\n   arguments_schema:\n    a0: &a0 {{type: string}}\n{layers}\nrobots: {{}}\n")
    with pytest.raises(BadRequestError, match="far too much"):
        read_robots(path)


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "noise.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large.yaml").write_text("#" * 1_000_001)
    for name, said in (("nothing.yaml", "No such file"), ("noise.yaml", "UTF-8"), ("large.yaml", "larger"), (".", "directory")):
        with pytest.raises(BadRequestError, match=said) as caught:
            read_robots(tmp_path / name)
        assert str(tmp_path) in caught.value.message
