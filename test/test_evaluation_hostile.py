"""Benchmark folders with hostile values: one sentence each, before a model is loaded."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_evaluation_formats as formats
from test_consistency import flageval, save, where2place

from robobrain_ros.core.query import Answer, Point, Task
from robobrain_ros.evaluation.benchmark_item import FLAGEVAL, PUBLISHED, BenchmarkError, Clip
from robobrain_ros.evaluation.benchmark_videos import read_frames
from robobrain_ros.evaluation.benchmarks import read_benchmark
from robobrain_ros.evaluation.scoring import score_item

HOSTILE: list[Any] = [
    None, True, -1, 10**30, "", "x" * 9000, "x" * 300, "../x", "a\0b", "\ud800", "<|image_pad|>", "[", "[1,2]", "nan",
    f"[({'9' * 400},1),(1,2),(3,4)]", "[(1e999,2),(3,4),(5,6)]", [], ["x"], [None], {"a": 1}, {"bytes": "x"}, "two\nlines",
]  # fmt: skip
WRITERS: list[Callable[[Path], Any]] = [
    formats.refspatial, formats.robospatial, formats.embspatial, formats.erqa, formats.sat, formats.blink, formats.cv_bench,
    formats.vsi, formats.egoplan, flageval, where2place,
]  # fmt: skip


def attempt(folder: Path, protocol: str) -> str:
    """Read a folder and score an answer to each question. Return the sentence if the folder is rejected."""
    try:
        benchmark = read_benchmark(folder, "", protocol)
    except BenchmarkError as error:
        return str(error)
    for item in benchmark.items:
        task = Task.POINT if item.kind == "point" else Task.ASK
        score_item(item, Answer(task, text="5", points=(Point(3, 4),)), formats.SIZE)
    return ""


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_no_value_of_a_question_causes_a_traceback(tmp_path: Path, writer: Callable[[Path], Any]) -> None:
    writer(tmp_path)
    rejected = 0
    for file in sorted({*tmp_path.rglob("*.json"), *tmp_path.rglob("*.jsonl")}):
        text = file.read_text()
        is_list = file.suffix == ".json"
        rows = json.loads(text) if is_list else [json.loads(line) for line in text.splitlines() if line]
        for name in rows[0]:
            for number, value in enumerate(HOSTILE):
                changed = [{**rows[0], name: value}, *rows[1:]]
                file.write_text(json.dumps(changed) if is_list else "\n".join(map(json.dumps, changed)))
                said = attempt(tmp_path, (PUBLISHED, FLAGEVAL)[(number + len(name)) % 2])
                rejected += bool(said)
                assert len(said) <= 1000
                assert "\n" not in said
        file.write_text(text)
    assert rejected > len(HOSTILE)
    assert attempt(tmp_path, PUBLISHED) == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": "Where is <|image_pad|>?"}, "Question 0: "),
        ({"text": "x" * 9000}, "Question 0: The question has 9000 characters"),
        ({"image": "x" * 300}, "has no mask of the name xxx"),
    ],
)
def test_a_text_that_the_model_rejects_is_found_while_reading(tmp_path: Path, change: dict[str, str], said: str) -> None:
    file = where2place(tmp_path, 1) / "point_questions.jsonl"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert said in attempt(tmp_path, PUBLISHED)


def test_a_named_pipe_instead_of_an_image_is_rejected_without_waiting(tmp_path: Path) -> None:
    where2place(tmp_path, 1)
    (tmp_path / "images" / "00.jpg").unlink()
    os.mkfifo(tmp_path / "images" / "00.jpg")
    assert "cannot be read as an image (it is not a file)" in attempt(tmp_path, PUBLISHED)


def test_a_damaged_image_of_a_rare_format_is_rejected(tmp_path: Path) -> None:
    """Its decoder raises an error of its own type."""
    from PIL import Image

    where2place(tmp_path, 1)
    image = tmp_path / "images" / "00.jpg"
    Image.new("P", formats.SIZE).save(image, "BLP")
    damaged = bytearray(image.read_bytes())
    damaged[4:8] = (17).to_bytes(4, "little")  # The compression.
    image.write_bytes(bytes(damaged))
    assert "cannot be read as an image" in attempt(tmp_path, PUBLISHED)


def test_frames_that_a_video_does_not_have_are_found_for_each_question(tmp_path: Path) -> None:
    formats.egoplan(tmp_path)
    [file] = tmp_path.glob("*.json")
    rows = json.loads(file.read_text())
    whole = next(row for row in rows if not (tmp_path / f"{row['sample_id']}.mp4").exists())
    late = {**whole, "sample_id": f"{whole['sample_id']}9", "current_observation_frame": 5000}
    file.write_text(json.dumps([*rows, late]))
    said = attempt(tmp_path, PUBLISHED)
    assert said.startswith(f"Question {late['sample_id']}: the video ")
    assert "frames, but the question is about the frames" in said


def test_a_video_whose_end_is_missing_is_found_while_reading(tmp_path: Path) -> None:
    formats.vsi(tmp_path)
    for file in tmp_path.rglob("*.mp4"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "cannot be decoded" in attempt(tmp_path, PUBLISHED)


def test_a_video_that_is_damaged_in_its_middle_is_found_while_reading(tmp_path: Path) -> None:
    """Its first and last frames can be decoded. The model would see others too."""
    formats.vsi(tmp_path)
    [file] = tmp_path.rglob("*.mp4")
    noise = np.random.default_rng(0).integers(0, 255, (36, 84, 112, 3), np.uint8)
    formats.video(file, noise)
    whole = bytearray(file.read_bytes())
    begin, end = whole.find(b"mdat"), whole.find(b"moov")
    # Frames 0 to 11, 12 to 23 and 24 to 35 are decoded independently of each other.
    for share in (0.4, 0.5, 0.6):
        place = begin + int(share * (end - begin))
        whole[place : place + 6000] = bytes(6000)
    file.write_bytes(whole)
    for number in (0, 35):
        read_frames(Clip(file, number, number), "an end", 1)
    assert re.fullmatch(r"Question 0: the video .*s1.mp4 cannot be decoded at frame \d+\.", attempt(tmp_path, PUBLISHED))


def test_only_the_questions_of_a_limit_are_checked(tmp_path: Path) -> None:
    where2place(tmp_path, 3)
    (tmp_path / "images" / "02.jpg").unlink()
    assert len(read_benchmark(tmp_path, limit=2).items) == 2
    assert "images/02.jpg cannot be read" in attempt(tmp_path, PUBLISHED)


def test_a_mask_of_another_size_is_rejected(tmp_path: Path) -> None:
    flageval(tmp_path)
    save(tmp_path / "mask" / "a.png", mask=True, size=(112, 85))
    assert "the mask is (112, 85) pixels, its image (112, 84)" in attempt(tmp_path, PUBLISHED)
