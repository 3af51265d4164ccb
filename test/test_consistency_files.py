"""The files of check_consistency: answers to continue with, and results."""

import asyncio
from pathlib import Path

import pytest
from test_consistency import filled, where2place

from robobrain_ros.cli.answer_log import AnswerLog
from robobrain_ros.cli.check_consistency import parse_options, run
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
