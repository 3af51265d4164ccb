"""The same questions to two engines: benchmark folders in public formats, their scores, and the table."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import ScriptedEngine
from PIL import Image

from robobrain_ros.cli.answer_log import AnswerLog
from robobrain_ros.cli.check_consistency import fill, parse_options, run
from robobrain_ros.cli.consistency_report import (
    Cell,
    Column,
    cell_of,
    difference,
    grid_warnings,
    table,
)
from robobrain_ros.core.brain import Brain
from robobrain_ros.core.grids import Grid
from robobrain_ros.core.profiles import profile_for
from robobrain_ros.demo import DemoError
from robobrain_ros.engine.base import EngineInfo
from robobrain_ros.evaluation.benchmarks import Benchmark, BenchmarkError, ItemResult, letter_of, read_benchmark

SIZE = (112, 84)
"""(width, height) of the images, which are multiples of 28, so that they are not resized."""
FORMAT = " Your answer should be formatted as a list of tuples, i.e. [(x1, y1), ...], normalized between 0 and 1."


def save(path: Path, mask: bool = False, size: tuple[int, int] = SIZE) -> None:
    """Save a grey image. In a mask, the left half is white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0]), 0 if mask else 128, np.uint8)
    if mask:
        pixels[:, : size[0] // 2] = 255
    Image.fromarray(pixels).save(path)


def where2place(folder: Path, count: int = 3) -> Path:
    """Create a small folder in the format of Where2Place."""
    lines = []
    for number in range(count):
        save(folder / "images" / f"{number:02d}.jpg")
        save(folder / "masks" / f"{number:02d}.png", mask=True)
        row = {"question_id": number, "image": f"{number:02d}.jpg", "text": f"Point to free space {number}.{FORMAT}"}
        lines.append(json.dumps(row))
    (folder / "point_questions.jsonl").write_text("\n".join(lines) + "\n\n")
    return folder


def flageval(folder: Path, *more: dict[str, Any]) -> Path:
    """Create a small folder in the format of FlagEvalMM."""
    save(folder / "img" / "a.png")
    save(folder / "mask" / "a.png", mask=True)
    choice = {
        "question_id": "c1",
        "question": "<image 1> Which is nearer?",
        "img_path": "img/a.png",
        "question_type": "multiple-choice",
        "options": ["the mug", "the bowl"],
        "answer": "B",
    }
    rows = [
        choice,
        {**choice, "question_id": "y1", "question_type": "yes-no", "answer": "Yes", "img_path": ["img/a.png", "img/a.png"]},
        {**choice, "question_id": "p1", "question_type": "point", "mask_path": "mask/a.png"},
        {**choice, "question_id": "t1", "question_type": "open"},
        *more,
    ]
    (folder / "data.json").write_text(json.dumps(rows))
    return folder


def test_a_where2place_folder_is_read(tmp_path: Path) -> None:
    benchmark = read_benchmark(where2place(tmp_path / "Where2Place"))
    assert (benchmark.name, len(benchmark.items), benchmark.skipped) == ("Where2Place", 3, {})
    first = benchmark.items[0]
    # The model's profile defines how it writes points.
    assert (first.kind, first.text) == ("point", "Point to free space 0.")
    assert first.mask == tmp_path / "Where2Place" / "masks" / "00.png"


def test_a_flageval_folder_is_read(tmp_path: Path) -> None:
    benchmark = read_benchmark(flageval(tmp_path), "ERQA")
    assert (benchmark.name, benchmark.skipped) == ("ERQA", {"open": 1})
    choice, yes_no, point = benchmark.items
    assert choice.text.startswith("Which is nearer?\nA. the mug\nB. the bowl\nAnswer with the option's letter")
    assert (choice.answer, yes_no.answer, len(yes_no.images)) == ("B", "yes", 2)
    assert point.mask == tmp_path / "mask" / "a.png"


def broken(folder: Path, fault: str) -> str:
    """Damage a Where2Place folder in one way, and return the expected message."""
    questions = folder / "point_questions.jsonl"
    row = json.loads(questions.read_text().splitlines()[0])
    if fault == "no JSON":
        questions.write_text(questions.read_text() + "{\n")
        return "line 5 is not JSON"
    if fault == "deep":
        questions.write_text("[" * 100_000)
        return "line 1 is not JSON: it is nested too deeply"
    if fault == "no object":
        questions.write_text("3\n")
        return "line 1 is not a JSON object"
    if fault == "no text":
        questions.write_text(json.dumps({**row, "text": " "}))
        return "line 1 has no text"
    if fault == "twice":
        questions.write_text(f"{json.dumps(row)}\n{json.dumps(row)}")
        return "has the question 0 twice"
    if fault == "outside":
        questions.write_text(json.dumps({**row, "image": "../../secret.jpg"}))
        return "leads out of the folder"
    if fault == "no image":
        (folder / "images" / "01.jpg").unlink()
        return "images/01.jpg cannot be read as an image"
    if fault == "damaged image":
        (folder / "images" / "01.jpg").write_bytes(b"JFIF")
        return "images/01.jpg cannot be read as an image"
    if fault == "truncated image":
        image = folder / "images" / "01.jpg"
        image.write_bytes(image.read_bytes()[:-200])
        return "images/01.jpg cannot be read as an image"
    if fault == "no mask":
        (folder / "masks" / "02.png").unlink()
        return "has no mask of the name 02.jpg"
    if fault == "other size":
        save(folder / "masks" / "02.png", mask=True, size=(56, 56))
        return "the mask is (56, 56) pixels, its image (112, 84)"
    if fault == "binary":
        questions.write_bytes(b"\xff\xfe\x00")
        return "cannot be read"
    questions.write_text("")
    return "has no question that can be scored here"


@pytest.mark.parametrize(
    "fault",
    [
        "no JSON",
        "deep",
        "no object",
        "no text",
        "twice",
        "outside",
        "no image",
        "damaged image",
        "truncated image",
        "no mask",
        "other size",
        "binary",
        "empty",
    ],
)
def test_a_bad_folder_is_rejected_with_a_sentence(tmp_path: Path, fault: str) -> None:
    folder = where2place(tmp_path / "Where2Place")
    said = broken(folder, fault)
    with pytest.raises(BenchmarkError) as caught:
        read_benchmark(folder)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (3, "question 5 is not a JSON object"),
        ({"question_type": "multiple-choice"}, "question 5 has no img_path"),
        ({"question_id": 1, "question_type": "multiple-choice", "img_path": "img/a.png"}, "question 5 has no question"),
        (
            {
                "question_id": 1,
                "question": "?",
                "question_type": "multiple-choice",
                "img_path": "img/a.png",
                "options": ["a"],
                "answer": "B",
            },
            "the answer 'B' is not the letter of an option",
        ),
        (
            {"question_id": 1, "question": "?", "question_type": "yes-no", "img_path": "img/a.png", "answer": "maybe"},
            "is neither yes nor no",
        ),
        ({"question_id": 1, "question": "?", "question_type": "point", "img_path": "img/a.png"}, "question 5 has no mask_path"),
    ],
)
def test_a_bad_question_of_flageval_is_rejected(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(BenchmarkError) as caught:
        read_benchmark(flageval(tmp_path, row))
    assert said in str(caught.value)


def test_a_folder_without_a_benchmark_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="is not a folder"):
        read_benchmark(tmp_path / "nothing")
    with pytest.raises(BenchmarkError, match=r"neither a point_questions\.jsonl .* nor a data\.json"):
        read_benchmark(tmp_path)
    (tmp_path / "data.json").write_text('{"a": 1}')
    with pytest.raises(BenchmarkError, match="does not contain a list"):
        read_benchmark(tmp_path)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C) the bowl", "C"),
        ("**A**", "A"),
        ("The mug is near. Answer: D", "D"),
        ("Answer: A. No, the answer is (b).", "B"),
        ("A mug is nearer", ""),
        ("B\nbecause it is red", "B"),
        ("B because it is red", "B"),
        ("**Answer**: B", "B"),
        ("Answer: $\\boxed{\\text{C}}$", "C"),
        ("<answer>\nB\n</answer>", "B"),
        ("The correct option is B.", "B"),
        ("Answer: b.", "B"),
        ("The answer is a red cube", ""),
        ("X-ray", ""),
        ("I cannot say", ""),
        ("", ""),
    ],
)
def test_the_letter_of_an_answer(text: str, letter: str) -> None:
    assert letter_of(text) == letter


async def filled(title: str, replies: list[str], benchmark: Benchmark, log: AnswerLog | None = None, scenes: int = 0) -> Column:
    """Return the results of an engine with these replies, for one question at a time."""
    info = EngineInfo("scripted", "qwen2_5_vl", "scripted", min_pixels=784, max_pixels=10**6, cell=28)
    engine = ScriptedEngine(replies)
    await engine.start(lambda progress: None)
    column = Column(title)
    brain = Brain(engine, profile_for("qwen2_5_vl"), info=info)
    options = parse_options(["--scenes", str(scenes), "--benchmark", "x", "--at-once", "1"])
    await fill(column, brain, [benchmark], options, log)
    return column


def test_points_are_scored_by_the_mask_and_columns_compared(tmp_path: Path) -> None:
    """Half of the first answer's points are in the mask. Points outside of the image are wrong. No answer scores 0."""
    benchmark = read_benchmark(where2place(tmp_path / "Where2Place"))
    native = asyncio.run(filled("native", ["[(10, 10), (100, 10)]", "[(5, 5)]", "[(40, 40)]"], benchmark))
    flagos = asyncio.run(
        filled("FlagOS", ["[(10, 10), (100, 10)]", "[(5, 5), (-9, 5), (500, 5), (6, 6)]", "nonsense"], benchmark)
    )
    assert [result.score for result in native.results["Where2Place", False].values()] == [0.5, 1.0, 1.0]
    assert [result.score for result in flagos.results["Where2Place", False].values()] == [0.5, 0.5, 0.0]
    lines = table(native, flagos).splitlines()
    assert len(lines) == 2
    assert "Where2Place: score" in lines[1]
    assert "83.33" in lines[1]
    assert "33.33" in lines[1]
    assert "73.59 -> 72.58" in lines[1]
    assert "-50.00 ± " in lines[1]
    assert "1 of 3 answers the same" in lines[1]


def test_choices_are_scored_by_their_letter(tmp_path: Path) -> None:
    benchmark = read_benchmark(flageval(tmp_path))
    column = asyncio.run(filled("native", ["B. the bowl", "Yes, it is.", "[(100, 10)]"], benchmark))
    assert {name: result.score for name, result in column.results[benchmark.name, False].items()} == {"c1": 1, "y1": 1, "p1": 0}


def test_an_unreadable_answer_counts_as_0_among_the_points(tmp_path: Path) -> None:
    benchmark = read_benchmark(where2place(tmp_path / "Where2Place"))
    column = asyncio.run(filled("native", ["[(5, 5)]", "nonsense", "[(6, 6)]"], benchmark))
    ((key, cell),) = column.cells.items()
    assert (key[2], cell.count, cell.value) == ("score", 3, pytest.approx(2 / 3))
    assert cell.grids[Grid.MODEL_PIXELS.value] == pytest.approx(2 / 3)


def test_intervals_and_differences() -> None:
    cell = cell_of([ItemResult(1.0, "a")] * 73 + [ItemResult(0.0, "b")] * 27)
    assert str(cell) == "73.00 (63.6 to 80.7)"
    assert str(Cell(0.5, 3)) == "50.00"
    one = {"a": ItemResult(1.0, "x"), "b": ItemResult(0.0, "y")}
    assert difference(one, one) == "+0.00 ± 0.00, 2 of 2 answers the same"


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    options = parse_options(["--benchmark", "ERQA=/data/erqa", "--benchmark", "/data/where2place", "--think", "both"])
    assert options.benchmark == [("ERQA", "/data/erqa"), ("", "/data/where2place")]
    for wrong in (["--scenes", "0"], ["--at-once", "0"], ["--scenes", "-1"]):
        with pytest.raises(SystemExit):
            parse_options(wrong)
    assert "no questions" in capsys.readouterr().err


LARGE = (1120, 840)


def large_where2place(folder: Path) -> Benchmark:
    """Create a folder with large images, which are shrunk to 84 % of their size, so that all grids differ."""
    where2place(folder, 2)
    for number in range(2):
        save(folder / "images" / f"{number:02d}.jpg", size=LARGE)
        save(folder / "masks" / f"{number:02d}.png", mask=True, size=LARGE)
    return read_benchmark(folder)


def test_a_score_that_is_higher_on_another_grid_is_a_warning(tmp_path: Path) -> None:
    benchmark = large_where2place(tmp_path / "Where2Place")
    # The mask is the left half. As pixels of the resized image, some points are outside of it. As thousandths, all are inside.
    column = asyncio.run(filled("native", ["[(499, 10), (400, 999)]", "[(490, 900)]"], benchmark))
    cell = column.cells["Where2Place", False, "score"]
    assert (cell.grid, cell.better_grid) == (Grid.MODEL_PIXELS.value, Grid.THOUSANDTHS.value)
    assert cell.grids[Grid.THOUSANDTHS.value] == 1.0
    assert cell.value == cell.grids[cell.grid] < 0.5
    (warning,) = grid_warnings([column])
    assert "Where2Place: score is 100.00 if the coordinates are read as 0 to 1000, but " in warning
    assert "0 to 1000: 100.00" in table(column)


def test_a_grid_that_is_better_by_chance_is_no_warning() -> None:
    grids = {Grid.MODEL_PIXELS.value: 0.50, Grid.CAMERA_PIXELS.value: 0.51}
    assert Cell(0.50, 100, 0.40, 0.60, Grid.MODEL_PIXELS.value, grids).better_grid == ""
    assert Cell(0.50, 100, 0.40, 0.505, Grid.MODEL_PIXELS.value, grids).better_grid == Grid.CAMERA_PIXELS.value


def test_fractions_are_read_as_fractions_only(tmp_path: Path) -> None:
    benchmark = large_where2place(tmp_path / "Where2Place")
    column = asyncio.run(filled("native", ["[(0.25, 0.5)]"], benchmark))
    cell = column.cells["Where2Place", False, "score"]
    # The package recognizes fractions, so the score itself is also right.
    assert (cell.value, cell.grids[Grid.FRACTIONS.value], cell.grids[Grid.MODEL_PIXELS.value]) == (1.0, 1.0, 0.0)


def test_the_tabletop_is_scored_on_every_grid(tmp_path: Path) -> None:
    benchmark = read_benchmark(where2place(tmp_path / "Where2Place", 1))
    column = asyncio.run(filled("native", ["[(320, 240)]"], benchmark, scenes=2))
    cells = {measure: cell for (name, _, measure), cell in column.cells.items() if name == "tabletop"}
    assert set(cells["point: points on the object"].grids) == {grid.value for grid in Grid}
    assert cells["point: points on the object"].grids[Grid.MODEL_PIXELS.value] == cells["point: points on the object"].value
    assert not any(cell.grids for measure, cell in cells.items() if measure.startswith(("ask", "plan")))


def test_an_interrupted_evaluation_continues(tmp_path: Path) -> None:
    benchmark, file = read_benchmark(where2place(tmp_path / "Where2Place")), tmp_path / "answers.jsonl"
    log = AnswerLog(file, {"model": "m"})
    first = asyncio.run(filled("native", ["[(5, 5)]", "[(100, 10)]", "[(6, 6)]"], benchmark, log))
    log.close()
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]) + lines[3][:20])  # Killed while it wrote the last line.
    log = AnswerLog(file, {"model": "m"})
    assert len(log) == 2
    second = asyncio.run(filled("native", ["[(100, 10), (5, 5)]"], benchmark, log))
    log.close()
    scores = [result.score for result in second.results["Where2Place", False].values()]
    assert scores == [1.0, 0.0, 0.5]
    assert list(first.results["Where2Place", False].values())[:2] == list(second.results["Where2Place", False].values())[:2]
    assert len(AnswerLog(file, {"model": "m"})) == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"settings": {"model": "other", "protocol": "published"}}\n', "another value of model, protocol"),
        ("nonsense\n", "line 1 is not a line of check_consistency"),
        ('{"a": "file of one line"}', "is not a file of check_consistency --resume"),
        ('{"settings": {"model": "m"}}\n{"a": 1}\n', "line 2 is not a line"),
    ],
)
def test_answers_of_another_evaluation_are_not_mixed(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "log").write_text(content)
    with pytest.raises(DemoError, match=said):
        AnswerLog(tmp_path / "log", {"model": "m"})
    assert (tmp_path / "log").read_text() == content


def test_questions_without_a_prompt_of_the_family_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = read_benchmark(flageval(tmp_path))
    brain = Brain(ScriptedEngine(["B"]), profile_for("qwen2.5-vl"))
    column = Column("native")
    asyncio.run(fill(column, brain, [benchmark], parse_options(["--scenes", "0", "--benchmark", "x"])))
    assert set(column.results[benchmark.name, False]) == {"c1", "y1"}
    assert "1 questions are skipped, because Qwen2.5-VL has no prompt for their task" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["remote", "embedded"])
def test_the_program_writes_its_files(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = where2place(tmp_path / "Where2Place")
    opened: list[dict[str, Any]] = []

    async def open_brain(model: str, **options: Any) -> Brain:
        opened.append(options)
        engine = ScriptedEngine(["[(5, 5)]"])
        await engine.start(lambda progress: None)
        info = EngineInfo("scripted", "qwen2_5_vl", "scripted", min_pixels=784, max_pixels=10**6, cell=28)
        return Brain(engine, profile_for("qwen2_5_vl"), info=info)

    monkeypatch.setattr("robobrain_ros.local.open_brain", open_brain)
    files = [str(tmp_path / name) for name in ("x.jsonl", "x.json", "x.html")]
    arguments = ["--scenes", "0", "--benchmark", str(folder), "--limit", "2", "--engine", f"kind={kind}"]
    arguments += ["--resume", files[0], "--json", files[1], "--html", files[2]]
    asyncio.run(run(parse_options(arguments)))
    said = capsys.readouterr()
    assert len(opened) == (1 if kind == "remote" else 2)
    assert "Where2Place: score" in said.out
    assert "Where2Place: 2 answers" in said.err
    written = json.loads(Path(files[1]).read_text())
    assert [len(column["answers"]) for column in written["columns"]] == [2] * len(opened)
    assert "worst answers" in Path(files[2]).read_text()
    assert len(Path(files[0]).read_text().splitlines()) == 1 + 2 * len(opened)
