"""Disturbed tasks in a closed loop: with good estimates they reach their goal, and without a monitor they do not."""

import asyncio
import json
from pathlib import Path

import pytest

from robobrain_ros.core.plans.request import PlanRequest
from robobrain_ros.core.query import Answer, Query, Task
from robobrain_ros.errors import EngineFailedError, UnparsableAnswerError
from robobrain_ros.evaluation import closed_loop
from robobrain_ros.evaluation.closed_loop import Row, parse_options, run, run_tasks, tasks_of
from robobrain_ros.evaluation.closed_loop_task import LoopTask, TrustingPlanner
from robobrain_ros.evaluation.evaluate import run_to_end
from robobrain_ros.evaluation.simulated_scores import SimulatedScores

SIZE = "224x168"


def run_with(monitor: str, *arguments: str) -> dict[str, Row]:
    """Return the rows of one monitor by disturbance."""
    options = parse_options(["--size", SIZE, "--monitor", monitor, "--tasks", "9", "--undisturbed", "3", *arguments])
    results = asyncio.run(run_tasks(tasks_of(options), monitor, options, None))
    assert all(result.happened == bool(result.disturbance) for result in results)
    return {row.disturbance: row for row in closed_loop.rows_of(monitor, results)}


@pytest.mark.parametrize("monitor", [["vision", "--noise", "0.05"], ["simulator"]])
def test_a_monitor_that_sees_the_faults_leads_to_the_goal(monitor: list[str]) -> None:
    rows = run_with(*monitor)
    assert set(rows) == {"slip", "moved", "stopped", "none", "all"}
    for row in rows.values():
        assert (row.reached, row.noticed, row.false_alarms) == (row.tasks, row.bad, 0)
    assert rows["all"].tasks == rows["all"].bad == 9
    assert rows["none"].bad == 0
    # The first plan, one after the failure, and the answer that the task is done.
    assert (rows["none"].plans, rows["all"].plans) == (2.0, 3.0)
    assert (rows["all"].estimates > 2) == (monitor[0] == "vision")


def test_without_a_monitor_the_faults_end_the_task_without_its_goal() -> None:
    rows = run_with("none")
    assert (rows["all"].reached, rows["all"].claimed_wrongly, rows["all"].noticed) == (0, 9, 0)
    assert (rows["none"].reached, rows["none"].claimed_wrongly) == (3, 0)


def test_estimates_without_meaning_lead_to_false_alarms() -> None:
    rows = run_with("vision", "--noise", "2.0")
    assert rows["none"].false_alarms > 0


class Scores:
    """Simulated scores in which some answers fail."""

    def __init__(self, fault: Exception, every: int) -> None:
        self._fault, self._every, self._asked = fault, every, 0

    async def run(self, query: Query) -> Answer:
        self._asked += 1
        if self._asked % self._every == 0:
            raise self._fault
        # The scores of a perfect step: compared with the start (image 1), all of the way, and otherwise no change.
        return Answer(Task.PROGRESS, score=100 if query.image_ids[2].endswith("image 1") else 0)


@pytest.mark.parametrize("every", [2, 3])
def test_estimates_without_a_score_are_repeated(every: int) -> None:
    assert asyncio.run(one_execution(Scores(UnparsableAnswerError("no score"), every))) == ""


def test_an_engine_that_failed_ends_the_run() -> None:
    with pytest.raises(EngineFailedError):
        asyncio.run(one_execution(Scores(EngineFailedError("gone"), 1)))
    with pytest.raises(UnparsableAnswerError):
        asyncio.run(one_execution(Scores(UnparsableAnswerError("no score"), 1)))


async def one_execution(scores: Scores) -> str:
    """Execute the first step of a task without a disturbance."""
    options = parse_options(["--noise", "0", "--size", SIZE])
    task = LoopTask(1000, "", options.size[1][0])
    _, steps = await TrustingPlanner(task.world, task.goal).plan(task.text, task.world, "", PlanRequest())
    assert task.arm.begin(steps[0]) == ""
    monitor = closed_loop.make_monitor("vision", task, parse_options(["--model", "x"]), scores, closed_loop.limits_of(options))
    return await monitor.execute(task.arm, steps[0])


def test_simulated_scores_have_the_chosen_error() -> None:
    scores = SimulatedScores(0.1)
    scores.add("start", 0.0)
    for number in range(2000):
        scores.add(f"image {number}", 0.5, f"moment {number}")

    async def ask(number: int) -> int:
        ids = ["start"] * 5 + [f"image {number}"] * 3
        answer = await scores.run(Query(Task.PROGRESS, "task", [], ids))
        assert answer.score is not None
        return answer.score

    async def ask_all() -> list[int]:
        return [await ask(number) for number in range(2000)]

    found = asyncio.run(ask_all())
    mean = sum(found) / len(found)
    assert mean == pytest.approx(50.0, abs=1.0)
    assert (sum((score - mean) ** 2 for score in found) / len(found)) ** 0.5 == pytest.approx(10.0, abs=1.0)
    assert all(score % 5 == 0 for score in found)


def test_the_command_prints_the_table_and_writes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "loop.json"
    options = parse_options(
        ["--noise", "0.05", "--size", SIZE, "--tasks", "3", "--monitor", "vision", "none", "--json", str(file)]
    )
    asyncio.run(run(options))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["monitor", "disturbance", "tasks"]
    assert len(lines) == 1 + 2 * 4
    written = json.loads(file.read_text(encoding="utf-8"))
    assert [len(results) for results in written["tasks"].values()] == [3, 3]
    assert [row["reached"] for row in written["rows"] if row["disturbance"] == "all"] == [3, 0]


@pytest.mark.parametrize("file", ["missing/loop.json", "."])
def test_a_file_that_cannot_be_written_ends_the_run_before_the_first_task(file: str, tmp_path: Path) -> None:
    options = parse_options(["--noise", "0", "--json", str(tmp_path / file)])
    with pytest.raises(SystemExit, match="cannot be written: "):
        run_to_end(run(options))


def test_more_tasks_at_once_than_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(run(parse_options(["--size", SIZE, "--tasks", "1", "--monitor", "none", "--at-once", str(10**12)])))
    assert "slip" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    options = parse_options(["--size", SIZE, "--tasks", "1", "--monitor", "none", "--json", "/dev/full"])
    with pytest.raises(SystemExit, match="cannot be written: No space left"):
        run_to_end(run(options))
    assert "slip" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--monitor", "vision"], "needs estimates"),
        (["--noise", "-1"], "0 to 100"),
        (["--noise", "nan"], "0 to 100"),
        (["--noise", "inf"], "0 to 100"),
        (["--noise", "0.1", "--first-seed", "999999999"], "trained"),
        (["--noise", "0.1", "--advance", "0.9"], "advance is"),
    ],
)
def test_wrong_options_are_rejected(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(arguments)
    assert reason in capsys.readouterr().err
