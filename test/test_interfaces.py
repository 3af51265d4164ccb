"""The message files are documented and agree with the code."""

import fnmatch
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest
from nan_fields import documented_as_nan, is_unknown, nan_fields

from robobrain_ros.action import RunTask, WatchTask
from robobrain_ros.core.formats.encodings import ENCODINGS
from robobrain_ros.core.hysteresis import DEFAULT_STABLE_FRAMES
from robobrain_ros.core.query import CAMERA_TASKS
from robobrain_ros.core.traces.issues import IssueKind
from robobrain_ros.core.watching import LEAST_GAIN, LEAST_REGRESSION, LEAST_STALL, WatchLimits
from robobrain_ros.errors import OutcomeCode
from robobrain_ros.msg import Outcome, TraceIssue
from robobrain_ros.ros.limits import (
    LEAST_CONFIDENCE,
    LEAST_RATE,
    LEAST_TIMEOUT,
    MOST_APPROACH,
    MOST_FLOOR_DISTANCE,
    MOST_NAME,
    MOST_QUERIES,
    MOST_RATE,
    MOST_STABLE_FRAMES,
    MOST_TEXT,
    MOST_TIMEOUT,
    MOST_TOKENS,
    MOST_WATCH,
)
from robobrain_ros.ros.messages.unknown import unknown
from robobrain_ros.ros.tasks import TASKS
from robobrain_ros.ros.watching import DEFAULT_RATE, DEFAULT_TIMEOUT
from robobrain_ros.srv import SetStandingQuery

REPOSITORY = Path(__file__).resolve().parent.parent
INTERFACES = sorted(path for kind in ("msg", "srv", "action") for path in (REPOSITORY / kind).glob(f"*.{kind}"))
DECLARATION = re.compile(
    r"(?P<type>[A-Za-z][\w/]*(?:<=\d+)?(?:\[(?:<=)?\d*\])?)\s+(?P<name>\w+)(?:\s*=\s*(?P<value>[^#\s]+))?\s*(?:#\s*(?P<comment>.*))?"
)


def declarations(path: Path) -> list[dict[str, str]]:
    """Return type, name, value (of a constant) and comment of each declaration line."""
    lines = [line for line in path.read_text().splitlines() if not re.fullmatch(r"\s*(#.*)?|---", line)]
    matches = [(line, DECLARATION.fullmatch(line)) for line in lines]
    assert [line for line, match in matches if match is None] == [], path.name
    return [{key: value or "" for key, value in match.groupdict().items()} for _, match in matches if match]


def test_there_are_interfaces() -> None:
    assert {path.suffix for path in INTERFACES} == {".msg", ".srv", ".action"}


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.name)
def test_every_interface_and_every_field_has_a_description(path: Path) -> None:
    assert re.match(r"# \S.*\w", path.read_text()), "the first line says what the interface is for"
    silent = [declared["name"] for declared in declarations(path) if len(declared["comment"]) < 8]
    assert silent == []


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.name)
def test_the_generated_class_is_that_of_the_file(path: Path) -> None:
    """The installed classes were generated from these files and not from older ones."""
    generated = getattr(import_module(f"robobrain_ros.{path.parent.name}"), path.stem)
    parts = {"msg": [generated]}
    if path.suffix == ".srv":
        parts = {"srv": [generated.Request, generated.Response]}
    if path.suffix == ".action":
        parts = {"action": [generated.Goal, generated.Result, generated.Feedback]}
    fields = [name for part in parts[path.suffix[1:]] for name in part.get_fields_and_field_types()]
    declared = [each["name"] for each in declarations(path) if not each["value"]]
    assert fields == declared, f"the installed class differs from {path.parent.name}/{path.name}: run make build"


def test_outcome_constants_are_the_codes_of_the_errors() -> None:
    outcome = declarations(REPOSITORY / "msg" / "Outcome.msg")
    constants = {declared["name"]: int(declared["value"]) for declared in outcome if declared["value"]}
    assert constants == {code.name: code.value for code in OutcomeCode}
    assert {name: getattr(Outcome, name) for name in constants} == constants


def test_no_default_outcome_reads_as_success() -> None:
    assert Outcome().code == Outcome.NOT_SET == OutcomeCode.NOT_SET
    assert Outcome.OK != 0
    responses = (task.service_type.Response() for task in TASKS.values())
    for message in (*responses, SetStandingQuery.Response(), RunTask.Result(), WatchTask.Result()):
        assert message.outcome.code == Outcome.NOT_SET


@pytest.mark.parametrize("kind", ["msg", "srv", "action"])
def test_the_stubs_are_those_of_the_interfaces(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    stubs = import_module("message_stubs")
    written = (stubs.STUBS / kind / "__init__.pyi").read_text(encoding="utf-8")
    assert written == stubs.stub(kind), "run python scripts/message_stubs.py"


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.name)
def test_each_field_has_a_value_of_the_type_in_its_stub(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    stubs = import_module("message_stubs")
    generated = getattr(import_module(f"robobrain_ros.{path.parent.name}"), path.stem)
    for name, message in stubs.parsed(path).items():
        instance = (getattr(generated, name) if name else generated)()
        for field in message.fields:
            stated = stubs.python_type(field.type).partition("[")[0]
            value = getattr(instance, field.name)
            names = {kind.__name__ for kind in type(value).__mro__} | ({"Sequence"} if isinstance(value, Sequence) else set())
            assert stated in names, field.name


BOUNDS: dict[str, dict[str, set[float]]] = {
    "srv/Approach.srv": {
        "instruction": {MOST_TEXT},
        "distance": {0, MOST_APPROACH},
        "floor_distance": {0, MOST_FLOOR_DISTANCE},
    },
    "srv/Ask.srv": {"question": {MOST_TEXT}},
    "srv/EstimateProgress.srv": {"task": {MOST_TEXT}},
    "srv/Locate.srv": {"instruction": {MOST_TEXT}},
    "srv/MakePlan.srv": {"task": {MOST_TEXT}},
    "srv/PredictTrajectory.srv": {"instruction": {MOST_TEXT}},
    "srv/SetStandingQuery.srv": {
        "name": {1, MOST_NAME, MOST_QUERIES},
        "instruction": {MOST_TEXT},
        "rate": {0, LEAST_RATE, MOST_RATE},
        "stable_frames": {1, MOST_STABLE_FRAMES, 0, DEFAULT_STABLE_FRAMES},
        "min_confidence": {LEAST_CONFIDENCE, 1, 0},
    },
    "action/RunTask.action": {"instruction": {MOST_TEXT}},
    "action/WatchTask.action": {
        "task": {MOST_TEXT},
        "rate": {LEAST_RATE, MOST_RATE, 0, DEFAULT_RATE},
        "success": {LEAST_GAIN, 1, 0, WatchLimits().success},
        "regression": {LEAST_REGRESSION, 0, WatchLimits().regression},
        "stall": {LEAST_STALL, 0},
        "timeout": {LEAST_TIMEOUT, MOST_WATCH, 0, DEFAULT_TIMEOUT},
        "confirmations": {0, WatchLimits().confirmations},
        "regression_confirmations": {0, WatchLimits().regression_confirmations},
    },
    "msg/QueryOptions.msg": {"timeout": {0, LEAST_TIMEOUT, MOST_TIMEOUT}, "max_tokens": {0, MOST_TOKENS}},
}
"""The numbers in the comment of each bounded field."""


def test_the_bounds_of_every_text_of_a_task_are_checked() -> None:
    for task in TASKS.values():
        name = f"srv/{task.service_type.__name__}.srv"
        assert task.text_field in BOUNDS.get(name, {}), f"add the field {task.text_field} of {name} to BOUNDS in this file"


@pytest.mark.parametrize("interface", BOUNDS)
def test_the_bounds_in_the_comments_are_those_of_the_node(interface: str) -> None:
    comments = {declared["name"]: declared["comment"] for declared in declarations(REPOSITORY / interface)}
    for name, bounds in BOUNDS[interface].items():
        stated = {float(number) for number in re.findall(r"\d+(?:\.\d+)?", comments[name])}
        assert stated == bounds, f"{interface}: the comment of {name} must state the bounds"


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.name)
def test_a_message_without_an_answer_has_nan_where_its_comments_promise_it(path: Path) -> None:
    generated = getattr(import_module(f"robobrain_ros.{path.parent.name}"), path.stem)
    part = {".msg": "", ".srv": "Response", ".action": "Result"}[path.suffix]
    values = documented_as_nan(unknown(getattr(generated, part) if part else generated))
    assert not [name for name, value in values.items() if not is_unknown(value)]
    if path.suffix == ".msg":
        assert set(values) >= nan_fields(path)


def test_the_values_documented_as_nan_are_found() -> None:
    assert {"peak", "final", "progress.change", "progress.report.image_age"} <= set(documented_as_nan(WatchTask.Result()))
    assert {"affordances.report.image_age", "plan.report.image_age"} <= set(documented_as_nan(RunTask.Result()))


@pytest.mark.parametrize("interface", ["action/RunTask.action", "srv/SetStandingQuery.srv"])
def test_the_tasks_named_in_the_interfaces_are_those_of_the_core(interface: str) -> None:
    task = next(declared for declared in declarations(REPOSITORY / interface) if declared["name"] == "task")
    assert set(re.findall(r'"(\w+)"', task["comment"])) == {each.value for each in CAMERA_TASKS}, (
        f"name each task in the comment of the field task in {interface}"
    )


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.name)
def test_no_comment_goes_on_below_its_field(path: Path) -> None:
    """`ros2 interface show` puts the fields of a nested type between the two lines."""
    assert [line for line in path.read_text().splitlines() if re.match(r"\s+#", line)] == []


def test_the_page_of_interfaces_lists_the_encodings_that_are_read() -> None:
    text = (REPOSITORY / "docs" / "reference" / "interfaces.md").read_text(encoding="utf-8")
    section = text.split("### Image encodings")[1].split("\n### ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`(\S+?)`", row)]
    assert len(set(listed)) == len(listed)
    read = {name: fnmatch.filter(ENCODINGS, name) for name in listed}
    unknown = [name for name, found in read.items() if not found]
    assert not unknown, f"robobrain_ros/core/formats/encodings.py does not have {unknown} of docs/reference/interfaces.md"
    missing = set(ENCODINGS) - {encoding for found in read.values() for encoding in found}
    assert not missing, f"docs/reference/interfaces.md, section Image encodings: add {sorted(missing)}"


def test_the_constants_of_issues_are_those_of_the_core() -> None:
    constants = {name: getattr(TraceIssue, name) for name in (kind.name for kind in IssueKind)}
    assert sorted(constants.values()) == list(range(1, len(IssueKind) + 1))
