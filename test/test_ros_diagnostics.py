"""/diagnostics: its content, and that the documentation page lists all of it."""

import re
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from ros_rig import Rig, scripted

from robobrain_ros.core.messages.answers import Origin
from robobrain_ros.core.query import Report, Task
from robobrain_ros.engine.http.guard import ServerState
from robobrain_ros.errors import NothingFoundError, UnparsableAnswerError
from robobrain_ros.ros.requests.result import Result
from robobrain_ros.ros.requests.statistics import RequestStatistics
from robobrain_ros.srv import Locate, SetStandingQuery

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "diagnostics.md"


def rows(section: str) -> list[list[str]]:
    """Return the cells of the table in a section of the page."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names(cell: str) -> list[str]:
    return re.findall("`([^`]*)`", cell)


def documented() -> dict[str, set[str]]:
    """Return the keys of each part on the page."""
    parts = {"engine": {name for row in rows("Keys of `engine`") for name in names(row[0])}}
    for part, keys, _ in rows("Keys of the other parts"):
        parts.setdefault(names(part)[0], set()).update(names(keys))
    return parts


def statuses(it: Rig, messages: list[Any]) -> dict[str, dict[str, str]]:
    """Return the newest values of each part."""
    prefix = f"{it.name.lstrip('/')}: "
    message = messages[-1]
    return {
        status.name.removeprefix(prefix): {pair.key: pair.value for pair in status.values}
        for status in message.status
        if status.name.startswith(prefix)
    }


def test_the_page_lists_each_part_and_key_that_is_published() -> None:
    with scripted("[(10, 10)]", camera__history_seconds=2.0, camera__history_frames=4) as (it, _):
        messages = it.listen(DiagnosticArray, "/diagnostics")
        query = SetStandingQuery.Request(name="mugs", enabled=True, task="ask", instruction="Any mugs?", condition=True)
        it.call(SetStandingQuery, "set_standing_query", query)
        it.until(lambda: messages and "standing query mugs" in statuses(it, messages), "diagnostics with the query")
        published = statuses(it, messages)
        server = it.node._diagnostics._server(ServerState())
    published["openai server"] = {pair.key: pair.value for pair in server.values}
    parts = {re.sub("^(camera|standing query) .*", r"\1 <name>", part): set(values) for part, values in published.items()}
    page = documented()
    page["engine"] -= {key for key in page["engine"] if key.startswith("flagos") and key not in parts["engine"]}
    differing = {part: page.get(part, set()) ^ parts.get(part, set()) for part in page.keys() | parts.keys()}
    assert not any(differing.values()), f"these keys are only on {PAGE.name} or only published: {differing}"
    assert {names(row[0])[0] for row in rows("Levels")} == set(parts)


def test_the_tokens_are_those_of_the_reports() -> None:
    with scripted("[(10, 10)]", "nonsense") as (it, _):
        messages = it.listen(DiagnosticArray, "/diagnostics")
        reports = [it.call(Locate, "point", Locate.Request(instruction="the red mug")).affordances.report for _ in range(2)]
        counts = {"served": "1", "failed": "1"}
        it.until(lambda: messages and counts.items() <= statuses(it, messages)["requests"].items(), "diagnostics of both")
        requests = statuses(it, messages)["requests"]
    for kind in ("prompt_tokens", "thinking_tokens", "answer_tokens"):
        assert int(requests[kind]) == sum(getattr(report, kind) for report in reports)
    assert int(requests["answer_tokens"]) > 0


@pytest.mark.parametrize(
    ("report", "rate"),
    [
        (Report(thinking_tokens=10, answer_tokens=11, first_token_time=0.5, total_time=2.5), 10.0),
        (Report(answer_tokens=1, first_token_time=0.5, total_time=0.5), None),
        (Report(), None),
    ],
)
def test_the_token_rate_counts_from_the_first_token(report: Report, rate: float | None) -> None:
    statistics = RequestStatistics()
    statistics.record(Result(Task.POINT, Origin(None, ""), report))
    assert statistics.token_rate == rate


def test_failed_requests_count_their_tokens_but_give_no_rate() -> None:
    statistics = RequestStatistics()
    report = Report(prompt_tokens=100, answer_tokens=5, first_token_time=1.0, total_time=2.0)
    statistics.record(Result(Task.POINT, Origin(None, ""), report, error=UnparsableAnswerError("nonsense")))
    assert (statistics.served, statistics.failed, statistics.prompt_tokens, statistics.answer_tokens) == (0, 1, 100, 5)
    assert statistics.token_rate is None
    statistics.record(Result(Task.POINT, Origin(None, ""), report, error=NothingFoundError("not there")))
    assert (statistics.served, statistics.prompt_tokens, statistics.token_rate) == (1, 200, 4.0)


@pytest.mark.parametrize(
    ("chosen", "shown"),
    [
        ("auto", "robobrain2.0 (identified by model_type qwen2_5_vl, a guess)"),
        ("mimo-embodied", "mimo-embodied (identified by model_profile)"),
    ],
)
def test_the_profile_is_in_the_diagnostics_and_in_each_report(chosen: str, shown: str) -> None:
    with scripted('[{"points": [[1, 2]], "label": "mug"}]', model_profile=chosen) as (it, engine):
        answer = it.call(Locate, "point", Locate.Request(instruction="mug"))
        messages = it.listen(DiagnosticArray, "/diagnostics")
        it.until(lambda: messages and "profile" in statuses(it, messages).get("engine", {}), "diagnostics with the profile")
        assert statuses(it, messages)["engine"]["profile"] == answer.affordances.report.profile == shown
        prompt = engine.generations[-1].user_text
    assert prompt.startswith('Based on the description: "mug"') == (chosen == "mimo-embodied")
