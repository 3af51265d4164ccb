"""Readers of public benchmark formats, on small generated folders; videos; protocols; scores; and parquet files."""

import base64
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from robobrain_ros.core.query import Answer, Point, Task
from robobrain_ros.evaluation.benchmark_instructions import DIRECT
from robobrain_ros.evaluation.benchmark_item import FLAGEVAL, PUBLISHED, Benchmark, BenchmarkError, Clip, Item
from robobrain_ros.evaluation.benchmark_videos import read_frames
from robobrain_ros.evaluation.benchmarks import read_benchmark
from robobrain_ros.evaluation.scoring import relative_accuracy, score_item, total

SIZE = (112, 84)


def png(level: int = 128, size: tuple[int, int] = SIZE) -> bytes:
    stream = io.BytesIO()
    Image.new("L", size, level).save(stream, "PNG")
    return stream.getvalue()


def half_mask() -> bytes:
    """Return a mask whose left half has the low level 40, as compressed masks have at their borders."""
    pixels = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    pixels[:, : SIZE[0] // 2] = 40
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def brighter(frames: int = 20) -> list[np.ndarray]:
    """Return images that get brighter."""
    return [np.full((SIZE[1], SIZE[0], 3), 10 * number, np.uint8) for number in range(frames)]


def video(path: Path, frames: Iterable[np.ndarray] = brighter()) -> None:
    """Write a video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, SIZE)
    for frame in frames:
        writer.write(frame)
    writer.release()


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    write(path, "".join(json.dumps(row) + "\n" for row in rows))


POINT_FORMAT = (
    " Your answer should be formatted as a list of tuples, i.e. [(x1, y1), ...], where each tuple contains the x and y "
    "coordinates of a point satisfying the conditions above."
)


def refspatial(folder: Path) -> None:
    for split in ("Location", "Placement"):
        write(folder / split / "image" / "0.png", png())
        write(folder / split / "mask" / "0.png", half_mask())
        row = {
            "id": 0, "object": "the left cup", "prompt": "Please point out the left cup.", "suffix": POINT_FORMAT.strip(),
            "rgb_path": "image/0.png", "mask_path": "mask/0.png", "category": split, "step": 2,
        }  # fmt: skip
        write(folder / split / "question.json", json.dumps([row]))


def robospatial(folder: Path) -> None:
    write(folder / "images" / "a.png", png())
    write(folder / "images" / "m.png", half_mask())
    rows = [
        {"category": "configuration", "question": "Is the cup left of the plate? Answer yes or no.", "answer": "Yes",
         "img": "images/a.png", "depth_image": None, "mask": None},
        {"category": "context", "question": f"Pinpoint space left of the cup.{POINT_FORMAT}",
         "answer": "[(0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)]", "img": "images/a.png", "depth_image": None,
         "mask": "images/m.png"},
    ]  # fmt: skip
    write(folder / "annotations.json", json.dumps(rows))


def embspatial(folder: Path) -> None:
    row = {
        "question_id": "mp3d_57", "question": "Which object is nearest?", "relation": "close",
        "image": base64.b64encode(png()).decode(), "answer_options": ["door", "cabinet", "table"], "answer": 2,
    }  # fmt: skip
    write(folder / "embspatial_bench.json", json.dumps([row]))


def erqa(folder: Path) -> None:
    write(folder / "a.png", png())
    question = "Which is it? A. x B. y. Please answer directly with only the letter of the correct option and nothing else."
    row = {"question_id": "E1", "question": question, "question_type": "Pointing", "answer": "B", "visual_indices": [0, 0]}
    lines(folder / "test.jsonl", [{**row, "images": ["a.png", "a.png"]}])


def sat(folder: Path) -> None:
    write(folder / "a.png", png())
    rows = [
        {"question": f"Question {number}?", "question_type": "action", "answers": ["left", "right"], "correct_answer": "left",
         "image_bytes": ["a.png"]}
        for number in range(8)
    ]  # fmt: skip
    lines(folder / "SAT_test.jsonl", rows)


def blink(folder: Path) -> None:
    write(folder / "a.png", png())
    row = {"idx": "val_Counting_1", "sub_task": "Counting", "prompt": "How many?\n(A) 1\n(B) 2", "image_1": "a.png",
           "image_2": "a.png", "image_3": None, "image_4": None}  # fmt: skip
    lines(folder / "val.jsonl", [{**row, "answer": "(A)"}, {**row, "idx": "test_Counting_1", "answer": "hidden"}])


def cv_bench(folder: Path) -> None:
    rows = []
    for number, (source, answer) in enumerate([("ADE20K", "(A)"), ("COCO", "(B)"), ("Omni3D", "(A)"), ("Omni3D", "(B)")]):
        write(folder / "img" / f"{number}.png", png())
        rows.append({"idx": number, "source": source, "type": "2D", "task": "Count", "prompt": "How many?\n(A) 1\n(B) 2",
                     "filename": f"{number}.png", "answer": answer, "choices": ["1", "2"]})  # fmt: skip
    lines(folder / "test_2d.jsonl", rows)


def all_angles(folder: Path) -> None:
    write(folder / "views" / "a.png", png())
    head = "index\tquestion\tA\tB\tC\tanswer\tcategory\timage_path\n"
    write(folder / "all_angles.tsv", head + "0\tHow many people?\t1\t2\t3\tC\tcounting\t['views/a.png', 'views/a.png']\n")


def vsi(folder: Path) -> None:
    video(folder / "scannet" / "s1.mp4")
    common = {"dataset": "scannet", "scene_name": "s1"}
    rows: list[dict[str, Any]] = [
        {**common, "id": 0, "question_type": "object_counting", "question": "How many?", "ground_truth": "4", "options": None},
        {**common, "id": 1, "question_type": "object_rel_distance", "question": "Nearest?", "ground_truth": "B",
         "options": ["A. door", "B. sofa"]},
    ]  # fmt: skip
    lines(folder / "test.jsonl", rows)


def egoplan(folder: Path) -> None:
    video(folder / "v1_288p" / "ca6e.mp4")
    row = {
        "sample_id": "ca6e_2", "domain": "Hobbies", "task_goal": "bake pastry", "choice_a": "attach stopwatch",
        "choice_b": "place oven tray", "choice_c": "operate oven", "choice_d": "set stopwatch", "golden_choice_idx": "A",
        "answer": "attach stopwatch", "task_start_frame": 2, "current_observation_frame": 16,
    }  # fmt: skip
    write(folder / "EgoPlan-Bench2.json", json.dumps([row]))


def flageval_videos(folder: Path) -> None:
    video(folder / "scannet" / "s1.mp4")
    write(folder / "a.png", png())
    rows = [
        {"question_id": 0, "question": "How many chairs?", "answer": "4", "question_type": "object_counting",
         "video_path": "scannet/s1.mp4"},
        {"question_id": 1, "question": "Nearest?\nOptions:\nA. door\nB. sofa", "answer": "B",
         "question_type": "object_rel_distance", "video_path": "scannet/s1.mp4"},
        {"question_id": 2, "question": "How high in metres?", "answer": 1.5, "question_type": "numerical", "img_path": "a.png"},
    ]  # fmt: skip
    write(folder / "data.json", json.dumps(rows))


FORMATS: dict[str, Callable[[Path], None]] = {
    "RefSpatial-Bench": refspatial, "RoboSpatial-Home": robospatial, "EmbSpatial-Bench": embspatial, "ERQA": erqa, "SAT": sat,
    "BLINK": blink, "CV-Bench": cv_bench, "VLMEvalKit": all_angles, "VSI-Bench": vsi, "EgoPlan-Bench2": egoplan,
    "FlagEvalMM": flageval_videos,
}  # fmt: skip


def read(folder: Path, name: str, protocol: str = PUBLISHED) -> Benchmark:
    if not folder.exists():
        folder.mkdir()
        FORMATS[name](folder)
    benchmark = read_benchmark(folder, "", protocol)
    assert benchmark.format == name
    return benchmark


@pytest.mark.parametrize(
    ("name", "count", "kinds", "answers"),
    [
        ("RefSpatial-Bench", 2, {"point"}, ["", ""]),
        ("RoboSpatial-Home", 2, {"yes-no", "point"}, ["yes", ""]),
        ("EmbSpatial-Bench", 1, {"choice"}, ["C"]),
        ("ERQA", 1, {"choice"}, ["B"]),
        ("BLINK", 1, {"choice"}, ["A"]),
        ("CV-Bench", 4, {"choice"}, ["A", "B", "A", "B"]),
        ("VLMEvalKit", 1, {"choice"}, ["C"]),
        ("VSI-Bench", 2, {"number", "choice"}, ["4", "B"]),
        ("EgoPlan-Bench2", 1, {"choice"}, ["A"]),
        ("FlagEvalMM", 3, {"number", "choice"}, ["4", "B", "1.5"]),
    ],
)
@pytest.mark.parametrize("protocol", [PUBLISHED, FLAGEVAL])
def test_each_format_is_read(tmp_path: Path, name: str, count: int, kinds: set[str], answers: list[str], protocol: str) -> None:
    benchmark = read(tmp_path / "folder", name, protocol)
    assert len(benchmark.items) == count
    assert {item.kind for item in benchmark.items} == kinds
    assert [item.answer for item in benchmark.items] == answers
    for item in benchmark.items:
        assert "formatted as a list" not in item.text
        assert item.images or item.clip


def test_answers_that_are_not_published_are_skipped(tmp_path: Path) -> None:
    assert read(tmp_path / "blink", "BLINK").skipped == {"its answer is not published": 1}


def test_masks_of_refspatial_count_above_zero(tmp_path: Path) -> None:
    item = read(tmp_path / "folder", "RefSpatial-Bench").items[0]
    assert (item.text, item.target, item.category) == ("Please point out the left cup.", "the left cup", "location")
    answer = Answer(Task.POINT, points=(Point(10, 10), Point(100, 10), Point(5, 5, clamped=True), Point(20, 20)))
    assert score_item(item, answer, SIZE) == 0.5


@pytest.mark.parametrize(("u", "score"), [(10.0, 1.0), (55.0, 1.0), (56.0, 0.0), (100.0, 0.0)])
def test_the_first_point_must_be_in_the_polygon(tmp_path: Path, u: float, score: float) -> None:
    item = read(tmp_path / "folder", "RoboSpatial-Home").items[1]
    assert score_item(item, Answer(Task.POINT, points=(Point(u, 10), Point(10, 10))), SIZE) == score
    assert score_item(item, Answer(Task.POINT), SIZE) == 0.0


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("4", 1.0),
        ("There are 4 chairs.", 1.0),
        ("I see 9. Answer: 4", 1.0),
        ("5", 0.6),
        ("8", 0.0),
        ("none", 0.0),
        ("4.2", 1.0),
        ("**Answer:** about $4$, not 9", 1.0),
        ("04.0 m", 1.0),
        ("4,000", 0.0),
    ],
)
def test_numbers_are_scored_by_their_relative_accuracy(text: str, score: float) -> None:
    # An error of 25 % reaches the levels from 0.50 to 0.75.
    assert relative_accuracy(text, 4.0) == pytest.approx(score)


@pytest.mark.parametrize(("text", "right"), [(".5", 0.5), ("1,200 cm", 1200.0), ("3,4", 3.0)])
def test_numbers_are_read_whole(text: str, right: float) -> None:
    assert relative_accuracy(text, right) == 1.0


def test_yes_and_no_must_begin_the_answer_of_robospatial(tmp_path: Path) -> None:
    item = read(tmp_path / "folder", "RoboSpatial-Home").items[0]
    assert [score_item(item, Answer(Task.ASK, text), SIZE) for text in ("Yes, it is.", "No. Yes.", "It is: yes")] == [1, 0, 0]


def test_scores_are_combined_as_published(tmp_path: Path) -> None:
    items = read(tmp_path / "cv", "CV-Bench").items
    scores = dict(zip([item.identity for item in items], [1.0, 0.0, 1.0, 1.0], strict=True))
    assert total(items, scores, "cv-bench") == pytest.approx(0.75)
    kinds = ["object_rel_direction_easy", "object_rel_direction_hard", "room_size_estimation"]
    asked = [Item(str(number), "choice", "?", (), category=kind) for number, kind in enumerate([*kinds, kinds[2]])]
    assert total(asked, {"0": 1.0, "1": 0.0, "2": 1.0, "3": 1.0}, "vsi-bench") == pytest.approx(0.75)


def test_frames_are_evenly_spaced_and_end_with_the_last(tmp_path: Path) -> None:
    item = read(tmp_path / "folder", "EgoPlan-Bench2").items[0]
    assert item.clip is not None
    images, times = read_frames(item.clip, "q", 8)
    assert [round(time, 1) for time in times] == [-1.4, -1.2, -1.0, -0.8, -0.6, -0.4, -0.2, 0.0]
    assert [round(float(image.mean()) / 10) for image in images] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert len(read_frames(Clip(item.clip.path, 3, 5), "q", 8)[0]) == 3


FAULTS: list[tuple[str, Callable[[Path], Any], str]] = [
    ("RefSpatial-Bench", lambda folder: (folder / "Location/image/0.png").unlink(), "image/0.png cannot be read as an image"),
    ("RefSpatial-Bench", lambda folder: write(folder / "Location/mask/0.png", png(255, (9, 9))), "the mask is .9, 9. pixels"),
    ("RefSpatial-Bench", lambda folder: write(folder / "Location/question.json", "[{"), "question.json is not JSON"),
    ("RefSpatial-Bench", lambda folder: write(folder / "Location/question.json", "{}"), "does not contain a list of questions"),
    ("RoboSpatial-Home", lambda folder: edit(folder / "annotations.json", 1, answer="[(0, 0)]"), "1 points instead of"),
    ("RoboSpatial-Home", lambda folder: edit(folder / "annotations.json", 1, answer="maybe"), "neither yes, nor no, nor a list"),
    ("RoboSpatial-Home", lambda folder: edit(folder / "annotations.json", 0, img=None), "question 1 has no img"),
    ("RoboSpatial-Home", lambda folder: edit(folder / "annotations.json", 0, img="../x.png"), "leads out of the folder"),
    ("EmbSpatial-Bench", lambda folder: edit(folder / "embspatial_bench.json", 0, image="?"), "the image is not base64"),
    ("EmbSpatial-Bench", lambda folder: edit(folder / "embspatial_bench.json", 0, image="aaaa"), "an image in the table cannot"),
    ("EmbSpatial-Bench", lambda folder: edit(folder / "embspatial_bench.json", 0, answer=3), "is not the number of one of"),
    ("ERQA", lambda folder: edit(folder / "test.jsonl", 0, answer="both"), "'BOTH' is not the letter of an option"),
    ("ERQA", lambda folder: edit(folder / "test.jsonl", 0, images=[]), "line 1 has no images"),
    ("SAT", lambda folder: edit(folder / "SAT_test.jsonl", 0, correct_answer="up"), "'up' is not one of the answers"),
    ("CV-Bench", lambda folder: (folder / "img/2.png").unlink(), "img/2.png cannot be read as an image"),
    ("VLMEvalKit", lambda folder: write(folder / "all_angles.tsv", "index\tquestion\tA\tanswer\timage_path\n0\t?\t1\tA\t[x\n"),
     "the list of images cannot be read"),
    ("VSI-Bench", lambda folder: (folder / "scannet/s1.mp4").unlink(), "the video .*s1.mp4 is missing"),
    ("VSI-Bench", lambda folder: write(folder / "scannet/s1.mp4", "no video"), "the video .*s1.mp4 cannot be decoded"),
    ("VSI-Bench", lambda folder: edit(folder / "test.jsonl", 0, ground_truth="four"), "'four' is not a number"),
    ("EgoPlan-Bench2", lambda folder: edit(folder / "EgoPlan-Bench2.json", 0, current_observation_frame=900),
     "has 20 frames, but the question is about the frames 2 to 900"),
    ("EgoPlan-Bench2", lambda folder: edit(folder / "EgoPlan-Bench2.json", 0, task_start_frame=None), "has no task_start_frame"),
    ("FlagEvalMM", lambda folder: edit(folder / "data.json", 0, answer="four"), "'four' is not a number"),
    ("FlagEvalMM", lambda folder: edit(folder / "data.json", 1, answer="sofa"), "'SOFA' is not the letter of an option"),
    ("FlagEvalMM", lambda folder: edit(folder / "data.json", 1, video_path="b.mp4"), "the video .*b.mp4 is missing"),
]  # fmt: skip


def edit(path: Path, number: int, **changes: Any) -> None:
    """Change fields of a row of a JSON list or of JSON Lines."""
    text = path.read_text()
    rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    rows[number] |= changes
    write(path, json.dumps(rows) if text.startswith("[") else "".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(("name", "damage", "said"), FAULTS)
def test_a_damaged_folder_is_rejected_with_one_sentence(
    tmp_path: Path, name: str, damage: Callable[[Path], Any], said: str
) -> None:
    FORMATS[name](tmp_path)
    damage(tmp_path)
    with pytest.raises(BenchmarkError, match=said) as caught:
        read_benchmark(tmp_path)
    assert "\n" not in str(caught.value)


def test_unknown_columns_are_named(tmp_path: Path) -> None:
    lines(tmp_path / "x.jsonl", [{"a": 1}])
    with pytest.raises(BenchmarkError, match="has the columns a, which no known benchmark has"):
        read_benchmark(tmp_path)


def test_parquet_without_pyarrow_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    write(tmp_path / "x.parquet", b"PAR1")
    with pytest.raises(BenchmarkError, match="pip install pyarrow"):
        read_benchmark(tmp_path)


def test_parquet_files_of_the_hub_are_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")

    def table(path: Path, rows: list[dict[str, Any]]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path.parent

    image = {"bytes": png(), "path": "a.png"}
    rows = [{"question": "Which?", "question_type": "action", "answers": ["left", "right"], "correct_answer": "right",
             "image_bytes": [image, image]}]  # fmt: skip
    folder = table(tmp_path / "sat" / "SAT_test.parquet", rows)
    table(folder / "SAT_val.parquet", [*rows, *rows])
    assert [(item.kind, len(item.images)) for item in read_benchmark(folder).items] == [("choice", 2)]
    row = {"id": 0, "image": image, "mask": {"bytes": half_mask(), "path": "m.png"}, "object": "cup", "prompt": "Point.",
           "suffix": "x", "step": 1}  # fmt: skip
    folder = table(tmp_path / "refspatial" / "data" / "location-00000-of-00001.parquet", [row]).parent
    assert [item.identity for item in read_benchmark(folder).items] == ["location_0"]
    write(folder / "data" / "unseen.parquet", b"PAR1nonsense")
    with pytest.raises(BenchmarkError, match="cannot be read as a Parquet file"):
        read_benchmark(folder)


def test_a_missing_option_does_not_shift_the_letters(tmp_path: Path) -> None:
    write(tmp_path / "a.png", png())
    write(tmp_path / "x.tsv", "index\tquestion\tA\tB\tC\tanswer\timage_path\n0\tHow\u2028many?\t1\t\t3\tC\ta.png\n")
    (item,) = read_benchmark(tmp_path).items
    assert (item.text.split("\n"), item.answer) == (["How\u2028many?", "A. 1", "C. 3", DIRECT], "C")


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_texts_can_contain_line_separators(tmp_path: Path, line_end: str) -> None:
    write(tmp_path / "images" / "a.png", png())
    write(tmp_path / "masks" / "a.png", half_mask())
    rows = [{"question_id": number, "image": "a.png", "text": "the\u2028mug\x85"} for number in range(2)]
    write(tmp_path / "point_questions.jsonl", "".join(json.dumps(row, ensure_ascii=False) + line_end for row in rows))
    assert len(read_benchmark(tmp_path).items) == 2


@pytest.mark.parametrize(
    ("question", "options", "asked"),
    [
        ("How many of the 23 are red?", ["2", "3"], "How many of the 23 are red?\nA. 2\nB. 3"),
        ("Which?\nA. mug\nB. bowl", ["mug", "bowl"], "Which?\nA. mug\nB. bowl"),
        ("Which?\n(A) mug (B) bowl", ["mug", "bowl"], "Which?\n(A) mug (B) bowl"),
        ("Which?\nA. mug\nB. bowl", ["A. mug", "B. bowl"], "Which?\nA. mug\nB. bowl"),
        ("Is the mug in the bowl?", ["mug", "bowl"], "Is the mug in the bowl?\nA. mug\nB. bowl"),
    ],
)
def test_the_model_always_sees_the_lettered_options(tmp_path: Path, question: str, options: list[str], asked: str) -> None:
    write(tmp_path / "a.png", png())
    row = {"question_id": 1, "question_type": "multiple-choice", "img_path": "a.png", "answer": "B"}
    write(tmp_path / "data.json", json.dumps([{**row, "question": question, "options": options}]))
    (item,) = read_benchmark(tmp_path).items
    assert item.text == f"{asked}\n{DIRECT}"
