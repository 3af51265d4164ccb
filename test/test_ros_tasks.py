"""The task table is complete and agrees with the core, the interfaces and the documentation."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import contract_tables
import pytest
from builtin_interfaces.msg import Time
from ros_rig import image
from std_msgs.msg import Header

from robobrain_ros.action import RunTask
from robobrain_ros.core.messages.answers import Origin
from robobrain_ros.core.overlay import draw
from robobrain_ros.core.plans.request import PlanVerdict
from robobrain_ros.core.profiles import PROFILES
from robobrain_ros.core.query import CAMERA_TASKS, Answer, Box, PlanStep, Point, Report, Task
from robobrain_ros.ros.client import to_answer
from robobrain_ros.ros.messages.conversions import to_report
from robobrain_ros.ros.tasks import TASKS, TaskInterface, by_task

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs" / "reference" / "interfaces.md").read_text(encoding="utf-8")

PARTS: dict[Task, dict[str, Any]] = {
    Task.POINT: {"points": (Point(1.5, 2.5, label="mug"), Point(3.0, 4.0, clamped=True))},
    Task.AFFORDANCE: {"boxes": (Box(1.0, 2.0, 30.0, 40.0, True, "handle"),)},
    Task.GROUND: {"boxes": (Box(1.0, 2.0, 30.0, 40.0),)},
    Task.TRAJECTORY: {"waypoints": (Point(1.0, 2.0, 0.5), Point(3.0, 4.0, None, True))},
    Task.PLAN: {
        "steps": (PlanStep(1, "grasp it", "arm", "pick", '{"object": "mug"}'),),
        "reasoning": "it is near",
        "verdict": PlanVerdict.PLAN,
    },
    Task.ASK: {"text": "Two mugs."},
    Task.PROGRESS: {"score": -33},
}
ONLY_IN_EVENTS = {"holds", "confidence"}
"""Fields of an answer that only ~/events carries; test_ros_events.py receives them."""


def ros_type(message_type: Any) -> str:
    return f"robobrain_ros/{message_type.__name__}"


def rows_of(section: str) -> dict[str, list[str]]:
    """Return the rows of the first table of a section of docs/reference/interfaces.md by the text of their first cell."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    return {row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in rows}


def test_the_table_has_each_task_once_in_the_order_of_the_core() -> None:
    assert list(TASKS) == list(Task)
    assert all(interface.task is task for task, interface in TASKS.items())


def test_the_families_know_the_same_tasks() -> None:
    for profile in PROFILES[:2]:  # RoboBrain 2.0 and 2.5. The other families were not trained for all tasks.
        assert profile.tasks == set(TASKS), f"robobrain_ros/core/profiles/: {profile.family} needs a prompt for each task"


@pytest.mark.parametrize("rows", [[TASKS[Task.ASK]], [*TASKS.values(), TASKS[Task.PLAN]]])
def test_a_task_without_a_row_or_with_two_is_an_error_that_names_the_table(rows: list[TaskInterface]) -> None:
    with pytest.raises(TypeError, match=r"tasks\.py.*plan"):
        by_task(rows)


@pytest.mark.parametrize("task", CAMERA_TASKS)
def test_a_row_agrees_with_the_definitions_of_service_and_action(task: Task) -> None:
    interface = TASKS[task]
    service = f"srv/{interface.service_type.__name__}.srv"
    wanted = {interface.text_field: "string", "options": "robobrain_ros/QueryOptions"}
    wanted |= {"context": "robobrain_ros/PlanContext"} if interface.takes_context else {}
    assert interface.service_type.Request.get_fields_and_field_types() == wanted, f"correct the request in {service}"
    wanted = {"outcome": "robobrain_ros/Outcome", interface.result_field: ros_type(interface.message_type)}
    assert interface.service_type.Response.get_fields_and_field_types() == wanted, f"correct the response in {service}"
    assert wanted.items() <= RunTask.Result.get_fields_and_field_types().items(), (
        f"action/RunTask.action: add {interface.result_field} to the result"
    )


def test_no_service_or_result_is_without_a_task() -> None:
    defined = {path.stem for path in (REPOSITORY / "srv").glob("*.srv")} - {"Approach", "SetStandingQuery"}
    assert {interface.service_type.__name__ for interface in TASKS.values()} == defined, (
        "srv/ and the rows in robobrain_ros/ros/tasks.py have different services"
    )
    results = set(RunTask.Result.get_fields_and_field_types()) - {"outcome"}
    assert {TASKS[task].result_field for task in CAMERA_TASKS} == results, (
        "action/RunTask.action and the rows in robobrain_ros/ros/tasks.py have different results"
    )


def test_the_contract_test_asks_each_task() -> None:
    rows = {row.name: (row.service_type, row.text_field, row.result_field) for row in (TASKS[task] for task in CAMERA_TASKS)}
    assert rows == contract_tables.TASKS, "TASKS in test/contract_tables.py must have a row for each task"
    topics = {row.result_field: row.message_type for row in (TASKS[task] for task in CAMERA_TASKS)}
    assert topics == contract_tables.RESULT_TOPICS, "RESULT_TOPICS in test/contract_tables.py must have each result"


def test_the_action_names_the_tasks_of_each_result() -> None:
    definition = (REPOSITORY / "action" / "RunTask.action").read_text(encoding="utf-8").split("\n---\n")[1]
    for field in {TASKS[task].result_field for task in CAMERA_TASKS}:
        tasks = {task.value for task, interface in TASKS.items() if interface.result_field == field}
        comments = re.findall(rf"^\w+ {field} +# (.*)$", definition, re.MULTILINE)
        named = set(re.findall(r"\w+", " ".join(comments))) & {task.value for task in CAMERA_TASKS}
        assert named == tasks, f"action/RunTask.action: name {sorted(tasks)} in the comment of the result {field}"


def test_the_page_of_interfaces_lists_the_services_of_the_tasks() -> None:
    rows = rows_of("Services")
    others = ("~/approach", "~/set_standing_query")
    # The section also has a table of fields.
    listed = {name: cells[0].strip("`") for name, cells in rows.items() if name.startswith("~/") and name not in others}
    assert listed == {f"~/{interface.name}": ros_type(interface.service_type) for interface in TASKS.values()}, (
        "correct the table in docs/reference/interfaces.md, section Services"
    )


def test_the_page_of_interfaces_lists_the_topics_of_the_tasks() -> None:
    rows = rows_of("Published topics")
    for interface in TASKS.values():
        place = f"docs/reference/interfaces.md, section Published topics, ~/{interface.result_field}"
        kind, meaning = rows.get(f"~/{interface.result_field}", ["", ""])
        assert kind.strip("`") == ros_type(interface.message_type), f"{place}: correct the type, or add the row"
        assert re.search(rf"\b{interface.task.value}\b", meaning), f"{place}: name the task {interface.task.value}"
    assert {"~/path", "~/poses"} <= set(rows)


def test_the_page_of_standing_queries_lists_the_topic_of_each_task() -> None:
    page = "docs/how-to/standing_queries.md"
    rows = re.findall(r"^\| ([\w, ]+) \| `~/(\w+)` \|$", (REPOSITORY / page).read_text(encoding="utf-8"), re.MULTILINE)
    listed = {task: topic for tasks, topic in rows for task in tasks.split(", ")}
    assert listed == {task.value: TASKS[task].result_field for task in CAMERA_TASKS}, f"correct the table of topics in {page}"


def test_some_answer_here_has_each_field() -> None:
    fields = {field.name for field in dataclasses.fields(Answer)} - {"task", "thinking", "report"} - ONLY_IN_EVENTS
    missing = fields - {name for parts in PARTS.values() for name in parts}
    assert not missing, f"add {sorted(missing)} to an answer in PARTS in this file, so that its way through a message is tested"


@pytest.mark.parametrize("task", CAMERA_TASKS)
def test_the_overlay_shows_the_answer(task: Task) -> None:
    shown = draw(image(320, 240), dataclasses.replace(Answer(task, "raw"), **PARTS[task]))
    assert (shown != draw(image(320, 240), Answer(task))).any(), f"core/overlay.py does not draw answers to {task.value}"


@pytest.mark.parametrize("task", list(Task))
def test_an_answer_survives_its_message(task: Task) -> None:
    assert task in PARTS, f"add the fields of an answer to {task.value} to PARTS in this file"
    interface = TASKS[task]
    answer = Answer(task, "raw", thinking="hm", report=Report(model="m", raw_text="raw", answer_tokens=7))
    answer = dataclasses.replace(answer, **PARTS[task])
    origin = Origin(Header(frame_id="optical", stamp=Time(sec=5)), "the mug", camera="front", query="mugs", width=64, height=48)
    message = interface.to_message(origin, answer, to_report(answer.report, answer.thinking), None)
    assert isinstance(message, interface.message_type)
    assert (message.header, message.camera) == (origin.header, "front")
    assert task is Task.PROGRESS or message.query == "mugs"  # No standing query asks about progress.
    response = interface.service_type.Response()
    interface.put_result(response, message)
    assert to_answer(task, response) == answer


@pytest.mark.parametrize("task", CAMERA_TASKS)
def test_without_an_answer_the_message_holds_the_report(task: Task) -> None:
    interface = TASKS[task]
    message = interface.to_message(Origin(Header(), "the mug"), None, to_report(Report(model="m")), None)
    assert message == interface.message_type(
        report=to_report(Report(model="m")),
        **{name: getattr(message, name) for name in ("instruction", "question", "task") if hasattr(message, name)},
    )
    assert message.report.model == "m"
