"""Robots in a YAML file: the parsed robots, and the line of each fault."""

import json
from pathlib import Path

import pytest

from robobrain_ros.core.plans.request import Robot, Skill, SkillEffect
from robobrain_ros.core.plans.robots_file import read_robots
from robobrain_ros.core.traces.space import Reach, Workspace
from robobrain_ros.errors import BadRequestError


def test_the_example_is_read(repository: Path) -> None:
    arm, carrier = read_robots(repository / "config" / "robots_example.yaml")
    assert (arm.name, arm.type, arm.state, arm.position) == ("left_arm", "arm", "idle", "left of the table")
    assert arm.reachable_places == ("table", "tray")
    assert arm.workspace == Workspace("left_base", (0.1, -0.6, 0.0), (0.8, 0.6, 0.7))
    assert arm.reach == Reach("left_base", 0.85, (0.0, 0.0, 0.33))
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
ARM = f"{SKILL}robots:\n  arm:\n    skills: [pick]\n"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "empty"),
        ("- robots", 1, "The file must be a mapping"),
        ("skills:\n  pick: {}\n", 1, "contains no robots"),
        ("skills: {}\nrobots: {}\n", 2, "contains no robots"),
        ("robots:\n  arm: {skills: [\n", 3, "not valid YAML"),
        ("robots:\n\tarm: {}\n", 2, "not valid YAML"),
        ("robots: {}\n---\nrobots: {}\n", 2, "not valid YAML"),
        ("robots:\n  arm: {skills: [pick]}\n", 2, "'pick', which is not under skills: none"),
        (f"{SKILL}robots:\n  arm: {{skills: [pick, pikc]}}\n", 4, "'pikc', which is not under skills: pick"),
        (f"{SKILL}robots:\n  arm:\n    skills: pick\n", 5, "must be a list"),
        (f"{SKILL}robots:\n  arm: {{skills: [pick]}}\n  arm: {{skills: [pick]}}\n", 5, "Robots names 'arm' twice"),
        (f"{SKILL}robots:\n  arm:\n    skills: [pick]\n    tpye: arm\n", 6, "no field 'tpye'"),
        (f"{SKILL}robots:\n  arm:\n    skills: [pick]\n    state: yes\n", 6, "YAML reads yes as a boolean (true)"),
        (f"{ARM}    reach: 0.8\n", 6, "must be a mapping"),
        (f"{ARM}    reach: {{frame: base}}\n", 6, "Reach of robot arm needs distance"),
        (f"{ARM}    reach: {{frame: base, distance: 0}}\n", 6, "must be above 0 m"),
        (f"{ARM}    reach: {{frame: base, distance: .nan}}\n", 6, "within -1000 to 1000 m"),
        (f"{ARM}    reach: {{frame: base, distance: '1'}}\n", 6, "must be a number in metres"),
        (f"{ARM}    reach: {{frame: base, distance: 1, base: [1, 2]}}\n", 6, "must have three numbers"),
        (f"{ARM}    reach: {{frame: '', distance: 1}}\n", 6, "Frame of reach of robot arm is empty"),
        (f"{ARM}    workspace: {{frame: base, minimum: [0, 0, 0], maximum: [1, 1, 2000]}}\n", 6, "within -1000 to 1000 m"),
        (f"{ARM}    workspace: {{frame: base, minimum: [0, 0, 0], maximum: [1, 0, 1]}}\n", 6, "must be less than maximum"),
        (f"{ARM}    workspace: {{frame: base, low: [0, 0, 0]}}\n", 6, "no field 'low'"),
        (f"{SKILL}robots:\n  7: {{skills: [pick]}}\n", 4, 'YAML reads 7 as a number; put it in quotes: "7"'),
        (f"{SKILL}robots:\n  arm:\n    - pick\n", 5, "must be a mapping"),
        (f"{SKILL}robots:\n  arm: {{skills: [pick]}}\n  base:\n    type: base\n", 6, "context.robots[1].skills: "),
        ("skills:\n  pick:\n    arguments_schema:\n      type: thing\nrobots: {arm: {skills: [pick]}}\n", 4, "not a JSON schema"),
        ("skills:\n  pick:\n    effect: grasps\nrobots: {arm: {skills: [pick]}}\n", 3, "needs it"),
        ("skills:\n  pick:\n    effect: grabs\nrobots: {}\n", 3, "one of none, grasps, releases"),
        ("skills:\n  pick:\n    arguments_schema: '{}'\nrobots: {}\n", 3, "must be a mapping: a JSON schema"),
        ("skills:\n  pick:\n    arguments_schema:\n      const: 2026-11-24\nrobots: {}\n", 4, "JSON does not support"),
        ("skills:\n  pick:\n    arguments_schema:\n      maximum: .inf\nrobots: {}\n", 4, "JSON does not support"),
        ("skills:\n  pick:\n    arguments_schema: &a\n      items: *a\nrobots: {}\n", 4, "*a contains itself"),
        ("skills: {pick: {}}\nrobots: {arm: {skills: [pick, {a: {}, b: {}}]}}\n", 2, "one name"),
        ("skills:\n  pick: !!python/object:os.system {}\nrobots: {}\n", 2, "The tag tag:yaml.org,2002:python/object:os.system"),
    ],
)
def test_an_error_names_file_and_line(tmp_path: Path, text: str, line: int, said: str) -> None:
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
    with pytest.raises(BadRequestError, match=r":9: The file contains more than \d+ values"):
        read_robots(path)


def test_unreadable_files_are_reported(tmp_path: Path) -> None:
    (tmp_path / "noise.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large.yaml").write_text("#" * 1_000_001)
    for name, said in (("nothing.yaml", "No such file"), ("noise.yaml", "UTF-8"), ("large.yaml", "larger"), (".", "directory")):
        with pytest.raises(BadRequestError, match=said) as caught:
            read_robots(tmp_path / name)
        assert str(tmp_path) in caught.value.message


def arm(argument: str) -> str:
    """Return a file with one skill, whose argument has this schema."""
    return (
        "skills:\n  go:\n    arguments_schema:\n      type: object\n      properties:\n"
        f"        x: {{{argument}}}\nrobots:\n  arm: {{skills: [go]}}\n"
    )


def refusal(folder: Path, text: str | bytes) -> str:
    """Return the error message for a file, without the file's name."""
    path = folder / "robots.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with pytest.raises(BadRequestError) as caught:
        read_robots(path)
    assert caught.value.message.startswith(f"{path}:")
    return caught.value.message.removeprefix(f"{path}:")


@pytest.mark.parametrize(
    ("argument", "made"),
    [
        ("type: string, enum: [on, off]", 'YAML reads as a boolean (true), not as text. For text, put it in quotes: "on"'),
        ("enum: [Off, dim]", "contains Off, which YAML reads as a boolean (false), not as text"),
        ("type: string, const: no", "contains no, which YAML reads as a boolean (false)"),
        ("type: [string, integer], enum: [yes]", "contains yes, which YAML reads as a boolean (true)"),
        ("type: string, enum: [true, false]", "contains true, which YAML reads as a boolean (true), not as text"),
        ("type: string, enum: [1, 2]", 'contains 1, which YAML reads as a number, not as text. For text, put it in quotes: "1"'),
        ("type: string, enum: [1.0]", "contains 1.0, which YAML reads as a number"),
        ("type: string, enum: [low, ~]", "contains ~, which YAML reads as null, no value"),
        ("type: string, enum: [null]", "contains null, which YAML reads as null, no value"),
        ("enum: [12:30, 13:45]", "contains 12:30, which YAML reads as a number of base 60"),
        ("type: integer, minimum: 1:00", "contains 1:00, which YAML reads as a number of base 60, which is rarely intended"),
        ("type: string, enum: [010]", "contains 010, which YAML reads as a number of base 8"),
        ("type: integer, maximum: 010", "For the number, write it in base 10"),
        ("type: string, const: 2026-11-27", "contains 2026-11-27, which YAML reads as a date"),
        ("type: string, enum: [=]", "which JSON does not support"),
        (
            "type: number, maximum: .inf",
            "YAML reads as an infinite or undefined number, which JSON does not support. Write a finite number",
        ),
        ("type: number, maximum: .nan", "YAML reads as an infinite or undefined number"),
        ("type: number, maximum: 1.0e+999", "Write a finite number"),
        ("type: string, default: !!binary aGk=", "YAML reads as binary data"),
        ("type: boolean, default: !!bool foo", "'foo' cannot be read as a boolean"),
        ("type: integer, default: !!int ''", "'' cannot be read as a number"),
        ("type: number, default: !!float x", "'x' cannot be read as a number"),
        ("type: integer, default: " + "9" * 5000, "cannot be read as a number"),
        ("type: integer, default: 0x" + "f" * 5000, "Write a finite number"),
        ("type: string, default: !!timestamp '0001-01-01T00:00:00+23:59'", "YAML reads as a date"),
        ("type: string, default: !!python/object/apply:os.system ['true']", "is not read; leave it out"),
        ("type: string, enum: [a, a], on: 5", 'YAML reads on as a boolean (true); put it in quotes: "on"'),
    ],
)
def test_an_error_states_how_yaml_read_a_value_and_how_to_correct_it(tmp_path: Path, argument: str, made: str) -> None:
    said = refusal(tmp_path, arm(argument))
    assert said.startswith("6: ")
    assert made in said


@pytest.mark.parametrize(
    "argument",
    [
        "type: boolean, enum: [on, off]",
        "type: string, enum: ['on', \"off\"]",
        "type: [string, 'null'], enum: [low, ~]",
        "type: string, enum: [y, n, 1e3, v1.0], readOnly: yes",
        "type: number, minimum: 0.5, maximum: 00.75",
        "type: integer, enum: [1_000, 0x1F, 0]",
        "enum: [1, two, true]",
    ],
)
def test_values_that_are_meant_are_read(tmp_path: Path, argument: str) -> None:
    path = tmp_path / "robots.yaml"
    path.write_text(arm(argument))
    assert read_robots(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("robots:\n  12:30: {skills: [{go: {}}]}\n", "2: A name in robots must be text; YAML reads 12:30 as a number of base 60"),
        ("robots:\n  2026-11-27: {skills: [{go: {}}]}\n", "2: A name in robots must be text; YAML reads 2026-11-27 as a date"),
        ("robots:\n  arm: {skills: [{on: {}}]}\n", "2: A name in a skill of robot arm must be text; YAML reads on"),
        ("robots:\n  arm: {reachable_places: [shelf, off], skills: [{go: {}}]}\n", "YAML reads off as a boolean (false)"),
        ("robots:\n  arm:\n    state:\n    skills: [{go: {}}]\n", "3: State of robot arm must be text; YAML reads nothing"),
        ("robots:\n  arm: {type: [a], skills: [{go: {}}]}\n", "2: Type of robot arm must be text; it is a list"),
        ("robots:\n  a: {skills: [{go: {}}], skills: []}\n", "2: Robot a names 'skills' twice"),
        ("robots:\n  a: &a\n    <<: *a\n", "3: *a contains itself"),
        ("robots:\n  a:\n    <<: 5\n", "3: What << names in robot a must be a mapping"),
        ("robots: *x\n", "1: It is not valid YAML: found undefined alias"),
        ('robots:\n  "\\Uffffffff": 1\n', "2: It is not valid YAML"),
        (f"%YAML 1.{'9' * 5000}\n---\nrobots: {{}}\n", "1: It is not valid YAML"),
        ("robots:\n  \0: {}\n", "2: It is not valid YAML: the character '\\x00' is not allowed"),
        ('robots: {"\\ud800": {skills: [{go: {}}]}}\n', "1: context.robots[0].name: "),
        ("robots:\n  a: " + "[" * 20_000 + "]" * 20_000, "2: The file is nested more than 64 levels deep"),
        (
            "robots:\n  a0: &a0 {}\n" + "".join(f"  a{i}: &a{i} {'[' * 50}*a{i - 1}{']' * 50}\n" for i in range(1, 60)),
            "4: The file is nested more than 64 levels deep",
        ),
        (
            "robots:\n  r: &r {skills: &k [" + ",".join("s" * 2000) + "]}\n" + "".join(f"  r{i}: *r\n" for i in range(200)),
            "26: The file contains more than 50000 values",
        ),
        (
            "robots:\n  a0: &a0 {x: 1}\n" + "".join(f"  a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40)),
            "The file contains more than 50000 values",
        ),
        ("robots:\n" + "".join(f"  r{i}: {{skills: [{{go: {{}}}}]}}\n" for i in range(101)), "it contains 101 robots"),
    ],
)
def test_every_fault_of_a_file_is_one_sentence_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    assert said.lower() in refusal(tmp_path, text).lower()


def test_a_merge_key_takes_over_what_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "robots.yaml"
    path.write_text("robots:\n  a: &a {type: arm, state: idle, skills: [{go: {}}]}\n  b:\n    <<: *a\n    state: busy\n")
    first, second = read_robots(path)
    assert (second.type, second.state, second.skills) == ("arm", "busy", first.skills)


def test_as_many_robots_and_skills_as_are_allowed_are_read(tmp_path: Path) -> None:
    path = tmp_path / "robots.yaml"
    skills = "".join(f"  s{i}: {{description: {'x' * 900}}}\n" for i in range(100))
    names = ", ".join(f"s{i}" for i in range(100))
    path.write_text(f"skills:\n{skills}robots:\n  r: &r\n    skills: [{names}]\n" + "".join(f"  r{i}: *r\n" for i in range(99)))
    robots = read_robots(path)
    assert [len(robot.skills) for robot in robots] == [100] * 100
