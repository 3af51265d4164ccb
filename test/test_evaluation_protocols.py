"""Protocols: questions are worded and scored as by the authors of a benchmark, or as by FlagEvalMM."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_evaluation_formats import SIZE, flageval_videos, png, read, video, write

from robobrain_ros.core.query import Answer, Point, Task
from robobrain_ros.evaluation.benchmark_instructions import DIRECT, LAST_LINE, STEPS, VIDEO
from robobrain_ros.evaluation.benchmark_item import FLAGEVAL, PUBLISHED, Item
from robobrain_ros.evaluation.benchmarks import read_benchmark
from robobrain_ros.evaluation.scoring import score_item


def test_the_protocols_differ_where_their_programs_differ(tmp_path: Path) -> None:
    def first(name: str, protocol: str) -> Item:
        return read(tmp_path / name, name, protocol).items[0]

    assert first("ERQA", PUBLISHED).text.endswith("only the letter of the correct option and nothing else.")
    assert first("ERQA", FLAGEVAL).text.endswith(STEPS)
    assert first("ERQA", FLAGEVAL).max_tokens > first("ERQA", PUBLISHED).max_tokens
    assert first("BLINK", PUBLISHED).text.endswith(DIRECT)
    assert "Answer: $LETTER" in first("BLINK", FLAGEVAL).text
    assert "Answer: $NUMBER" in first("VSI-Bench", FLAGEVAL).text
    assert first("VSI-Bench", PUBLISHED).text.endswith("Please answer the question using a single word or phrase.")
    ours, theirs = (
        read(tmp_path / "RoboSpatial-Home", "RoboSpatial-Home", protocol).items[1] for protocol in (PUBLISHED, FLAGEVAL)
    )
    assert (len(ours.polygon), ours.mask, theirs.polygon) == (4, None, ())
    assert theirs.mask == tmp_path / "RoboSpatial-Home" / "images" / "m.png"


def test_robospatial_is_asked_and_scored_as_by_flagevalmm(tmp_path: Path) -> None:
    """The instruction is that of tasks/robo_spatial_home/robo_spatial_home_all.py of FlagEvalMM @ fef27ec."""
    asked, pointed = read(tmp_path / "folder", "RoboSpatial-Home", FLAGEVAL).items
    assert asked.text == (
        "Is the cup left of the plate?\nYour task is to answer the question above. Respond with a brief explanation if needed, "
        "followed by a yes or no answer in the last line of your response.\n\nFormat your final answer strictly as follows on "
        "the last line of your response:\nAnswer: yes or no\n\nDo not include additional text after this line.\n"
    )
    assert asked.max_tokens == 2048
    said = "There is no plate on its left.\nAnswer: yes"
    assert (score_item(asked, Answer(Task.ASK, said), SIZE), score_item(asked, Answer(Task.ASK, "Yes.\nAnswer: no"), SIZE)) == (
        1,
        0,
    )
    # calculate_mask_score takes the mean of the mask's brightness at the points.
    assert score_item(pointed, Answer(Task.POINT, points=(Point(10, 10), Point(100, 10))), SIZE) == pytest.approx(20 / 255)


@pytest.mark.parametrize(
    ("called", "protocol", "end", "tokens"),
    [
        ("ERQA", FLAGEVAL, STEPS, 2048),
        ("SAT", FLAGEVAL, STEPS, 2048),
        ("blink_val_ev", FLAGEVAL, LAST_LINE, 2048),
        ("cv_bench_test", FLAGEVAL, DIRECT, 512),
        ("ERQA", PUBLISHED, DIRECT, 512),
    ],
)
def test_questions_in_the_form_of_flagevalmm_have_its_instruction(
    tmp_path: Path, called: str, protocol: str, end: str, tokens: int
) -> None:
    write(tmp_path / called / "test" / "a.png", png())
    row = {"question_id": 1, "question_type": "multiple-choice", "img_path": "a.png", "answer": "B", "options": ["x", "y"]}
    write(tmp_path / called / "test" / "data.json", json.dumps([{**row, "question": "Which?"}]))
    for folder, name in ((tmp_path / called / "test", ""), (tmp_path / called / "test", called)):
        (item,) = read_benchmark(folder, name, protocol).items
        assert (item.text, item.max_tokens) == (f"Which?\nA. x\nB. y\n{end}", tokens)


@pytest.mark.parametrize("protocol", [PUBLISHED, FLAGEVAL])
def test_questions_of_embodiedverse_keep_their_instructions_and_get_enough_tokens(tmp_path: Path, protocol: str) -> None:
    """EmbodiedVerse's questions contain the instructions of FlagEvalMM. Those with reasoning need many tokens."""
    video(tmp_path / "v.mp4")
    write(tmp_path / "a.png", png())
    numbers = f"{VIDEO}\nHow many?\nReason through it step by step.\nAnswer: $NUMBER (without quotes)"
    rows: list[dict[str, Any]] = [
        {"question_id": 1, "question": f"Which?\nA. x\nB. y\n{STEPS}", "question_type": "multiple-choice", "img_path": "a.png",
         "answer": "B"},
        {"question_id": 2, "question": numbers, "question_type": "numerical", "video_path": "v.mp4", "answer": "3"},
    ]  # fmt: skip
    write(tmp_path / "data.json", json.dumps(rows))
    items = read_benchmark(tmp_path, "", protocol).items
    assert [(item.text, item.max_tokens) for item in items] == [(row["question"], 2048) for row in rows]


def test_a_subset_of_flagevalmm_is_read_from_its_own_file(tmp_path: Path) -> None:
    flageval_videos(tmp_path)
    rows = json.loads((tmp_path / "data.json").read_text())
    write(tmp_path / "data_tiny.json", json.dumps(rows[:1]))
    benchmark = read_benchmark(tmp_path / "data_tiny.json", "vsi_bench_tiny")
    assert (benchmark.name, benchmark.format, len(benchmark.items)) == ("vsi_bench_tiny", "FlagEvalMM", 1)
    assert read_benchmark(tmp_path / "data_tiny.json").name == "data_tiny"


def test_options_of_sat_are_shuffled_as_its_authors_ask(tmp_path: Path) -> None:
    published, flageval = (read(tmp_path / "sat", "SAT", protocol).items for protocol in (PUBLISHED, FLAGEVAL))
    assert {item.answer for item in published} == {"A", "B"}
    assert {item.answer for item in flageval} == {"A"}
    assert published == read(tmp_path / "sat", "SAT").items
    assert all(f"{item.answer}. left" in item.text for item in published)
