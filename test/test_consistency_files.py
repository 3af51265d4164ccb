"""The files of check_consistency: answers to continue with, and results."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from test_consistency import filled, where2place

from robobrain_ros.cli.answer_log import AnswerLog
from robobrain_ros.cli.check_consistency import parse_options, run
from robobrain_ros.cli.compare_answers import CompareLog, StoredAnswer
from robobrain_ros.demo import DemoError
from robobrain_ros.evaluation.benchmarks import read_benchmark


def test_answers_to_other_questions_of_the_same_ids_are_not_used(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "log", {"model": "m"})
    first = read_benchmark(where2place(tmp_path / "a"), "x")
    asyncio.run(filled("native", ["[(5, 5)]"] * 3, first, log))
    questions = where2place(tmp_path / "b") / "point_questions.jsonl"
    questions.write_text(questions.read_text().replace("free space 1", "the floor"))
    log.close()
    log = AnswerLog(tmp_path / "log", {"model": "m"})
    column = asyncio.run(filled("native", ["[(100, 10)]"], read_benchmark(tmp_path / "b", "x"), log))
    log.close()
    assert [result.score for result in column.results["x", False].values()] == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("option", ["--resume", "--json", "--html"])
def test_a_file_that_cannot_be_written_is_found_before_the_first_question(tmp_path: Path, option: str) -> None:
    for path, said in ((tmp_path / "no" / "x", "the folder does not exist"), (tmp_path, "it is a folder")):
        options = parse_options([option, str(path), "--benchmark", str(where2place(tmp_path / "b"))])
        with pytest.raises(DemoError, match=said):
            asyncio.run(run(options))


@pytest.mark.parametrize(
    "wrong",
    [
        {"score": "good"}, {"score": 7}, {"score": float("nan")}, {"text": 5}, {"grids": []}, {"grids": {"x": -1}},
        {"model_size": [1]}, {"model_size": [1, float("inf")]}, {"model_size": None},
    ],
)  # fmt: skip
def test_a_row_with_a_wrong_value_is_named_with_its_line(tmp_path: Path, wrong: dict[str, Any]) -> None:
    key = {"column": "native", "questions": "x", "think": False, "id": "1", "content": "c"}
    right = {**key, "score": 1.0, "text": "(1, 2)", "grids": {"y": 0.5}, "model_size": [28, 28]}
    for row in (right, right | wrong):
        (tmp_path / "log").write_text(f'{{"settings": {{}}}}\n{json.dumps(row)}\n')
        if row is right:
            assert len(AnswerLog(tmp_path / "log", {})) == 1
            continue
        with pytest.raises(DemoError, match="log, line 2 is not a line of check_consistency"):
            AnswerLog(tmp_path / "log", {})


@pytest.mark.parametrize(
    "wrong",
    [{"text": None}, {"seconds": float("nan")}, {"seconds": "x"}, {"size": [1, 1e999]}, {"served": [1, "", ""]}, {"code": 1}],
)
def test_a_stored_answer_with_a_wrong_value_is_named_with_its_line(tmp_path: Path, wrong: dict[str, Any]) -> None:
    right = StoredAnswer("OK", text="yes").to_json()
    for answer in (right, right | wrong):
        row = {"key": ["a", "b", "c", "d"], "answer": answer}
        (tmp_path / "log").write_text(f'{{"settings": {{}}}}\n{json.dumps(row)}\n')
        if answer is right:
            assert len(CompareLog(tmp_path / "log", {}).answers) == 1
            continue
        with pytest.raises(DemoError, match="log, line 2 is not a line of a comparison"):
            CompareLog(tmp_path / "log", {})
