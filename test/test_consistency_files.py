"""The files of check_consistency: answers to continue with, and results."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes import Script, ScriptedEngine
from test_consistency import filled, save, where2place
from test_evaluation_formats import vsi

from robobrain_ros.cli.answer_log import AnswerLog
from robobrain_ros.cli.check_consistency import fill, parse_options, run
from robobrain_ros.cli.compare_answers import CompareLog, StoredAnswer
from robobrain_ros.cli.consistency_report import Column
from robobrain_ros.cli.progress import Bar, Messages
from robobrain_ros.core.brain import Brain
from robobrain_ros.core.profiles import profile_for
from robobrain_ros.demo import DemoError
from robobrain_ros.engine.base import Generation, TextDelta
from robobrain_ros.errors import EngineFailedError
from robobrain_ros.evaluation.benchmarks import BenchmarkError, read_benchmark


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


REPLIES = ["[(320, 240)]", "nonsense", "[100, 100, 300, 300]", "There is no mug.", "1. Reach\n2. Lift", "Yes."]


@pytest.mark.parametrize("fault", ["image", "mask", "JSON", "video"])
def test_a_damaged_folder_is_found_before_an_engine_starts(tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("robobrain_ros.local.open_brain", opened.append)
    good, bad = where2place(tmp_path / "good"), where2place(tmp_path / "bad")
    if fault == "image":
        (bad / "images" / "01.jpg").unlink()
    elif fault == "mask":
        save(bad / "masks" / "01.png", mask=True, size=(28, 28))
    elif fault == "JSON":
        (bad / "point_questions.jsonl").write_text("{")
    else:
        vsi(bad := tmp_path / "videos")
        next(bad.rglob("*.mp4")).write_bytes(b"no video")
    with pytest.raises(BenchmarkError) as caught:
        asyncio.run(run(parse_options(["--benchmark", str(good), "--benchmark", str(bad)])))
    assert "\n" not in str(caught.value)
    assert not opened


@dataclass
class Slow(ScriptedEngine):
    """An engine that counts the requests at the same time."""

    scripts: Sequence[Script | str] = ("[(5, 5)]",)
    now: int = 0
    most: int = 0

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.01)
        async for delta in super().generate(generation):
            yield delta
        self.now -= 1


@pytest.mark.parametrize("at_once", [1, 4])
def test_several_questions_are_asked_at_once(tmp_path: Path, at_once: int) -> None:
    async def most() -> int:
        engine = Slow()
        await engine.start(lambda progress: None)
        options = parse_options(["--scenes", "0", "--benchmark", "x", "--at-once", str(at_once)])
        benchmarks = [read_benchmark(where2place(tmp_path, 12))]
        await fill(Column("native"), Brain(engine, profile_for("qwen2_5_vl")), benchmarks, options)
        return engine.most

    assert asyncio.run(most()) == at_once


@dataclass
class Replying(ScriptedEngine):
    """An engine whose answer depends only on the question. It dies after some answers."""

    scripts: Sequence[Script | str] = ("",)
    most: int = 10**9

    def script(self, generation: Generation) -> Script | str:
        """Return one of `REPLIES`, or the error."""
        if len(self.generations) > self.most:
            return Script([EngineFailedError("The engine's process died.")])
        return REPLIES[sum(generation.user_text.encode()) % len(REPLIES)]


async def tabletop(engine: Replying, log: AnswerLog | None) -> Column:
    """Ask an engine about two scenes."""
    await engine.start(lambda progress: None)
    column = Column("native")
    await fill(column, Brain(engine, profile_for("qwen2_5_vl")), [], parse_options(["--scenes", "2", "--at-once", "1"]), log)
    return column


def test_an_interrupted_evaluation_of_the_tabletop_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Points, boxes, texts, refusals and unreadable texts are scored as in an evaluation without an interruption."""
    whole = Replying()
    cells = asyncio.run(tabletop(whole, None)).cells
    count = len(whole.generations)
    assert f"native: tabletop: 1 of {count}, about " in capsys.readouterr().err
    first, second, settings = Replying(most=7), Replying(), {"model": "m"}
    log = AnswerLog(tmp_path / "log", settings)
    with pytest.raises(DemoError, match="The engine's process died"):  # A dead engine has no score.
        asyncio.run(tabletop(first, log))
    log.close()
    log = AnswerLog(tmp_path / "log", settings)
    assert len(log) == 7
    assert asyncio.run(tabletop(second, log)).cells == cells
    assert len(second.generations) == count - 7
    log.close()
    last, log = Replying(), AnswerLog(tmp_path / "log", settings)
    assert asyncio.run(tabletop(last, log)).cells == cells
    assert (len(log), last.generations) == (count, [])
    log.close()


def test_a_terminal_shows_a_progress_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    bar = Bar(Messages("check_consistency"), "native: x", 4)
    bar.show(1)
    bar.show(4)
    bar.finish()
    said = capsys.readouterr().err
    assert "\r  native: x [#####...............]: 1 of 4, about " in said
    assert f"\r  native: x [{'#' * 20}]: 4 of 4, about 0 s left" in said
    assert said.endswith("\n")


@pytest.mark.parametrize(
    "wrong", [{"code": "x"}, {"code": "TIMEOUT"}, {"text": 3}, {"sizes": [1]}, {"content": None}, {"content": 3}]
)
def test_a_kept_request_with_a_wrong_value_is_named_with_its_line(tmp_path: Path, wrong: dict[str, Any]) -> None:
    content = {"task": "ask", "text": "Yes.", "verdict": "plan"}
    right = {"code": "OK", "message": "", "content": content, "text": "Yes.", "sizes": [[28, 28]]}
    for end in (right, right | wrong):
        (tmp_path / "log").write_text(f'{{"settings": {{}}}}\n{json.dumps({"request": "a", "end": end})}\n')
        if end is right:
            assert len(AnswerLog(tmp_path / "log", {})) == 1
            continue
        with pytest.raises(DemoError, match="log, line 2 is not a line of check_consistency"):
            AnswerLog(tmp_path / "log", {})


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
