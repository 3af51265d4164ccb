"""The same questions to two engines: benchmark folders in public formats, their scores, and the table."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import ScriptedEngine
from PIL import Image

from robobrain_ros.cli.check_consistency import fill, parse_options
from robobrain_ros.cli.consistency_report import Cell, Column, cell_of, difference, published, table
from robobrain_ros.core.brain import Brain
from robobrain_ros.core.profiles import profile_for
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
        {**choice, "question_id": "n1", "question_type": "numerical"},
        {**choice, "question_id": "v1", "video_path": "video/a.mp4"},
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
    assert (benchmark.name, benchmark.skipped) == ("ERQA", {"numerical": 1, "video": 1})
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
        (3, "question 6 is not a JSON object"),
        ({"question_type": "multiple-choice"}, "question 6 has no img_path"),
        ({"question_id": 1, "question_type": "multiple-choice", "img_path": "img/a.png"}, "question 6 has no question"),
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
        ({"question_id": 1, "question": "?", "question_type": "point", "img_path": "img/a.png"}, "question 6 has no mask_path"),
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
        ("I cannot say", ""),
        ("", ""),
    ],
)
def test_the_letter_of_an_answer(text: str, letter: str) -> None:
    assert letter_of(text) == letter


async def filled(title: str, replies: list[str], benchmark: Benchmark) -> Column:
    """Return the results of an engine with these replies, for one question at a time."""
    info = EngineInfo("scripted", "qwen2_5_vl", "scripted", min_pixels=784, max_pixels=10**6, cell=28)
    engine = ScriptedEngine(replies)
    await engine.start(lambda progress: None)
    column = Column(title)
    brain = Brain(engine, profile_for("qwen2_5_vl"), info=info)
    await fill(column, brain, [benchmark], parse_options(["--scenes", "0", "--benchmark", "x", "--at-once", "1"]))
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


def test_intervals_and_differences() -> None:
    cell = cell_of([ItemResult(1.0, "a")] * 73 + [ItemResult(0.0, "b")] * 27)
    assert str(cell) == "73.00 (63.6 to 80.7)"
    assert str(Cell(0.5, 3)) == "50.00"
    one = {"a": ItemResult(1.0, "x"), "b": ItemResult(0.0, "y")}
    assert difference(one, one) == "+0.00 ± 0.00, 2 of 2 answers the same"


@pytest.mark.parametrize(
    ("name", "think", "said"),
    [
        ("Where2Place", True, "69.58 -> 70.25"),
        ("All-Angles-Bench", False, "50.14 -> 49.62"),
        ("SAT", True, "86.67 -> 85.33"),
        ("tabletop", False, ""),
    ],
)
def test_published_figures(name: str, think: bool, said: str) -> None:
    assert published(name, think) == said


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    options = parse_options(["--benchmark", "ERQA=/data/erqa", "--benchmark", "/data/where2place", "--think", "both"])
    assert options.benchmark == [("ERQA", "/data/erqa"), ("", "/data/where2place")]
    for wrong in (["--scenes", "0"], ["--at-once", "0"], ["--scenes", "-1"]):
        with pytest.raises(SystemExit):
            parse_options(wrong)
    assert "no questions" in capsys.readouterr().err
