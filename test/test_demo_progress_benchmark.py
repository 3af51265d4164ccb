"""Robo-Dopamine-Bench: episodes are read from folders in its form, and their measures are those of the official program."""

import argparse
import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robobrain_ros.core.query import Answer, Query, Task
from robobrain_ros.errors import EngineFailedError, UnparsableAnswerError
from robobrain_ros.evaluation import progress_benchmark
from robobrain_ros.evaluation.benchmarks import BenchmarkError
from robobrain_ros.evaluation.progress_benchmark import CAMERAS, Episode, judge_lists, main, read_lists, voc_of

FRAMES = 12
LISTS = {"one_test": ["one/000", "one/001"], "human_egodex": ["egodex/7"]}


def write_episode(folder: Path, cameras: Sequence[str] = CAMERAS, frames: int = FRAMES) -> None:
    """Write images whose brightness is the number of the frame, and whose second value is the number of the camera."""
    for number, camera in enumerate(cameras):
        (folder / camera).mkdir(parents=True)
        for frame in range(frames):
            pixels = np.full((8, 8, 3), (frame, number, 0), np.uint8)
            Image.fromarray(pixels).save(folder / camera / f"frame_{frame:06d}.png")


def write_list(folder: Path, name: str, content: object) -> Path:
    (folder / "jsons").mkdir(parents=True, exist_ok=True)
    path = folder / "jsons" / f"{name}.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small benchmark with two lists. The episode of the second list has only a front camera."""
    for name, episodes in LISTS.items():
        write_list(tmp_path, name, {"sample_path_list": episodes, "sample_path_task": [f"do {one}" for one in episodes]})
        for episode in episodes:
            write_episode(tmp_path / "images" / episode, CAMERAS[:1] if "egodex" in episode else CAMERAS)
    return tmp_path


class Model:
    """Answers with a function of the numbers of the frames before and after."""

    def __init__(self, score: Callable[[int, int], int | None]) -> None:
        self._score = score
        self.shown: list[list[tuple[int, int]]] = []

    async def run(self, query: Query) -> Answer:
        shown = [(int(image[0, 0, 0]), int(image[0, 0, 1])) for image in map(np.asarray, query.images)]
        self.shown.append(shown)
        score = self._score(shown[2][0], shown[5][0])
        if score is None:
            raise UnparsableAnswerError("no score")
        return Answer(Task.PROGRESS, score=score)


def judged(folder: Path, score: Callable[[int, int], int | None], **changed: Any) -> tuple[list[dict[str, Any]], Model]:
    model = Model(score)
    options = argparse.Namespace(**{"interval": 2, "directions": ["forward", "backward"], "at_once": 3, **changed})
    results = asyncio.run(judge_lists(model, read_lists(folder), options))
    return [result.row() for result in results], model


def test_an_episode_is_compared_at_evenly_spaced_moments() -> None:
    episode = Episode("", "", (tuple(map(Path, "abcdefghijklm")),) * 3)
    assert episode.moments(3) == [0, 4, 8, 12]
    assert episode.moments(4) == [0, 6, 12]
    assert episode.moments(13) == episode.moments(100) == []


def test_a_model_that_sees_the_direction_gets_full_marks(folder: Path) -> None:
    rows, model = judged(folder, lambda before, after: 20 if after > before else -20)
    assert [row["list"] for row in rows] == sorted(LISTS)
    assert all(row["VOC+"] == row["VOC-"] == pytest.approx(1.0) for row in rows)
    # References, three views of the earlier moment, three of the later one, as in the official program. Six moments.
    first = [(0, 0), (11, 0), (0, 0), (0, 1), (0, 2), (2, 0), (2, 1), (2, 2)]
    assert first in model.shown
    assert [*first[:2], *first[5:], *first[2:5]] in model.shown
    assert [(0, 0), (11, 0), *[(0, 0)] * 3, *[(2, 0)] * 3] in model.shown, "without wrist cameras"
    assert len(model.shown) == 3 * 2 * 5


def test_the_opposite_and_a_constant_get_their_marks(folder: Path) -> None:
    rows, _ = judged(folder, lambda before, after: 20 if after < before else -20)
    # From 0, the progress cannot fall, and from 1 it cannot rise.
    assert {row["VOC+"] for row in rows} == {row["VOC-"] for row in rows} == {0.0}
    rows, _ = judged(folder, lambda before, after: {(0, 2): 90}.get((before, after), 20 if before > after else -20))
    assert all(row["VOC+"] == pytest.approx(-1.0) for row in rows)


@pytest.mark.parametrize(
    ("scores", "backward", "voc"),
    [
        ([10, 20, -5], False, 0.5),  # 0.1, 0.28, 0.266: ranks 1, 3, 2
        ([-10, -20, -50], True, 1.0),
        ([10, 10, -50], True, -1.0),  # from the end: 0.5, 0.55, 0.595
        ([10, None, 20], False, 0.0),
        ([10], False, 0.0),
        ([0, 0, 0], False, 0.0),
    ],
)
def test_scores_add_up_to_a_rank_correlation(scores: list[int | None], backward: bool, voc: float) -> None:
    assert voc_of(scores, backward) == pytest.approx(voc)


def test_an_unreadable_score_counts_as_zero_and_is_reported(folder: Path) -> None:
    rows, _ = judged(folder, lambda before, after: None if (before, after) == (2, 4) else after - before)
    assert [row["unreadable"] for row in rows] == [1, 2]
    assert {row["VOC+"] for row in rows} == {0.0}
    assert all(row["VOC-"] == pytest.approx(1.0) for row in rows)


def test_an_episode_with_too_few_moments_counts_as_zero_and_is_reported(folder: Path) -> None:
    rows, model = judged(folder, lambda before, after: 20, interval=6, directions=["forward"])
    assert [(row["too short"], row["VOC+"], row["VOC-"]) for row in rows] == [(1, 0.0, None), (2, 0.0, None)]
    assert not model.shown


def test_lists_and_numbers_of_episodes_are_selected(folder: Path) -> None:
    assert {name: len(episodes) for name, episodes in read_lists(folder, ["one_test"], 1).items()} == {"one_test": 1}


def remove(*paths: Path) -> None:
    for path in paths:
        path.unlink()


WRONG: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / "jsons").rename(folder / "json"), "jsons is not a folder"),
    (lambda folder: remove(*(folder / "jsons").iterdir()), "contains no list"),
    (lambda folder: write_list(folder, "x", "{"), "x.json is not JSON"),
    (lambda folder: write_list(folder, "x", []), "not a JSON object"),
    (lambda folder: write_list(folder, "x", {"sample_path_list": ["one/000"]}), "sample_path_task must be a list of texts"),
    (lambda folder: write_list(folder, "x", {"sample_path_list": [3], "sample_path_task": ["a"]}), "must be a list of texts"),
    (lambda folder: write_list(folder, "x", {"sample_path_list": ["a"], "sample_path_task": []}), "1 names and 0 tasks"),
    (lambda folder: write_list(folder, "x", {"sample_path_list": [], "sample_path_task": []}), "0 names and 0 tasks"),
    (lambda folder: write_list(folder, "x", {"sample_path_list": ["../../x"], "sample_path_task": ["a"]}), "leads out"),
    (lambda folder: write_list(folder, "x", {"sample_path_list": ["/etc"], "sample_path_task": ["a"]}), "leads out"),
    (lambda folder: write_list(folder, "x", {"sample_path_list": ["one/9"], "sample_path_task": ["a"]}), "cannot be read"),
    (lambda folder: write_list(folder, "x", {"sample_path_list": ["a\0"], "sample_path_task": ["a"]}), "cannot be read"),
    (
        lambda folder: remove(folder / "images/one/000/cam_high/frame_000003.png"),
        r"different numbers of images: \[11, 12, 12\]",
    ),
    (lambda folder: remove(*(folder / "images/one/000/cam_high").iterdir()), "contains no PNG or JPEG"),
]


@pytest.mark.parametrize(("spoil", "message"), WRONG)
def test_a_damaged_folder_is_found_before_the_first_comparison(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(BenchmarkError, match=message):
        read_lists(folder)


def test_a_list_outside_of_the_folder_is_rejected(folder: Path) -> None:
    with pytest.raises(BenchmarkError, match="leads out"):
        read_lists(folder, ["../one_test"])


def test_a_damaged_image_is_named(folder: Path) -> None:
    path = folder / "images/one/000/cam_high/frame_000000.png"
    path.write_bytes(b"no image")
    with pytest.raises(BenchmarkError, match=f"{path} cannot be read as an image"):
        judged(folder, lambda before, after: 20)


def test_a_failed_engine_ends_the_run(folder: Path) -> None:
    def fail(before: int, after: int) -> int:
        raise EngineFailedError("dead")

    with pytest.raises(EngineFailedError):
        judged(folder, fail)


def test_the_program_prints_the_table_and_writes_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @asynccontextmanager
    async def opened(model: str, **options: Any) -> Any:
        yield Model(lambda before, after: 20 if after > before else -20)

    monkeypatch.setattr(progress_benchmark, "open_model", opened)
    output = folder / "scores.json"
    command = ["x", str(folder), "--model", "m", "--interval", "3", "--directions", "forward", "--json", str(output)]
    monkeypatch.setattr("sys.argv", command)
    main()
    printed = capsys.readouterr()
    assert "| one_test | 2 | 1.000 | not measured | 0 | 0 |" in printed.out
    assert "3 of 3 episodes" in printed.err
    content = json.loads(output.read_text(encoding="utf-8"))
    assert content["interval"] == 3
    assert [one["name"] for one in content["lists"][1]["results"]] == LISTS["one_test"]


def test_a_wrong_folder_ends_the_program_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x", str(tmp_path), "--model", "m"])
    with pytest.raises(SystemExit, match="jsons is not a folder"):
        main()
