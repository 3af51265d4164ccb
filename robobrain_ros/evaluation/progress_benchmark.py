"""Score a model's estimates of progress on Robo-Dopamine-Bench, or on recordings of your own in the same form::

    python -m robobrain_ros.evaluation.progress_benchmark Robo-Dopamine-Bench --model tanhuajie2001/Robo-Dopamine-GRM-3B

The folder is as published on the hub, with image.zip extracted:

- ``jsons/NAME.json``: an object with two lists of equal length, ``sample_path_list`` (names of episodes) and ``sample_path_task``
  (the task of each episode).
- ``images/EPISODE/cam_high``, ``cam_left_wrist`` and ``cam_right_wrist``: the frames of an episode, one PNG or JPEG file each, in
  the order of the file names. Each camera has the same number of frames.

The measure is VOC (value-order correlation) of eval/evaluation_grm.py of FlagOpen/Robo-Dopamine: Spearman's rank correlation
between time and estimated progress. An episode shows its task from the start to the end, so the progress should always rise. VOC+
compares each moment with the next one, and adds up the scores from 0. VOC- compares each moment with the previous one, and adds
up the scores from 1, from the end of the episode to its start.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from robobrain_ros.core.progress import FULL_SCORE, comparison, progress_after
from robobrain_ros.core.query import Query, Task
from robobrain_ros.errors import UnparsableAnswerError
from robobrain_ros.evaluation.benchmarks import BenchmarkError, json_object, path_inside, read_pixels, read_text
from robobrain_ros.evaluation.evaluate import open_model, positive, run_to_end
from robobrain_ros.evaluation.exam import Answers
from robobrain_ros.evaluation.outputs import check_outputs, write_output
from robobrain_ros.evaluation.progress_measures import rank_correlation

CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")
"""Folders of the cameras of an episode, in the order of `core.progress.VIEWS`."""
FRONT_ONLY = "egodex"
"""Episodes with this text in their name have only a front camera: the official program uses its images as wrist views."""
INTERVAL = 30
"""Number of frames for each moment in the official program: an episode of 300 frames has 10 moments."""
LEAST_MOMENTS = 3
"""Fewer moments give fewer than two estimates, whose order means nothing. The official program counts such an episode as 0."""
_SUFFIXES = (".png", ".jpg")
_TIMEOUT = 600.0


@dataclass(frozen=True)
class Episode:
    """A recording of a completed task.

    :param frames: paths of the images of each of the `CAMERAS`; all cameras have the same number of images.
    """

    name: str
    task: str
    frames: tuple[tuple[Path, ...], ...]

    def moments(self, interval: int) -> list[int]:
        """Return the indices of the compared frames. They are evenly spaced, and include the first and the last frame."""
        last = len(self.frames[0]) - 1
        count = (last + 1) // interval
        return [round(index * last / (count - 1)) for index in range(count)] if count > 1 else []

    def views(self, index: int) -> list[Path]:
        """Return the images of a frame, one for each camera."""
        return [frames[index] for frames in self.frames]


@dataclass(frozen=True)
class EpisodeResult:
    """The measures of an episode.

    :param moments: number of compared moments.
    :param forward: VOC+, -1 to 1; None: not measured.
    :param backward: VOC-, -1 to 1; None: not measured.
    :param unreadable: number of answers without a score. With such an answer, the VOC of its direction counts as 0.
    """

    name: str
    moments: int
    forward: float | None = None
    backward: float | None = None
    unreadable: int = 0


@dataclass(frozen=True)
class ListResult:
    """The episodes of one list, such as ``libero_test_100``."""

    name: str
    episodes: list[EpisodeResult]

    def mean(self, direction: str) -> float | None:
        """Return the mean VOC of "forward" or "backward"; None: it was not measured."""
        values = [value for episode in self.episodes if (value := getattr(episode, direction)) is not None]
        return fmean(values) if values else None

    def row(self) -> dict[str, Any]:
        """Return the summary of the list."""
        short = sum(episode.moments < LEAST_MOMENTS for episode in self.episodes)
        unreadable = sum(episode.unreadable for episode in self.episodes)
        means = {"VOC+": self.mean("forward"), "VOC-": self.mean("backward")}
        return {"list": self.name, "episodes": len(self.episodes), **means, "too short": short, "unreadable": unreadable}


def read_lists(folder: Path, names: Sequence[str] = (), limit: int = 0) -> dict[str, list[Episode]]:
    """Read the lists of a benchmark's folder, and check that all images are there.

    :param names: names of the lists, without ".json"; empty: all lists.
    :param limit: maximum number of episodes of each list; 0: all.
    :raises BenchmarkError: the folder has another form, or a file is missing or damaged. The message names it.
    """
    lists, images = folder / "jsons", folder / "images"
    for path in (lists, images):
        if not path.is_dir():
            raise BenchmarkError(
                f"{path} is not a folder. Robo-Dopamine-Bench has the folders jsons and images (from image.zip)."
            )
    paths = [path_inside(lists, f"{name}.json", f"list {name}") for name in names] or sorted(lists.glob("*.json"))
    if not paths:
        raise BenchmarkError(f"{lists} contains no list of episodes (*.json).")
    return {path.stem: [read_episode(images, *pair, str(path)) for pair in _named_tasks(path)[: limit or None]] for path in paths}


def _named_tasks(path: Path) -> list[tuple[str, str]]:
    content = json_object(read_text(path), str(path))
    names, tasks = (_texts(content.get(key), f"{path}: {key}") for key in ("sample_path_list", "sample_path_task"))
    if len(names) != len(tasks) or not names:
        raise BenchmarkError(f"{path} has {len(names)} names and {len(tasks)} tasks of episodes.")
    return list(zip(names, tasks, strict=True))


def _texts(value: object, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
        raise BenchmarkError(f"{where} must be a list of texts.")
    return value


def read_episode(images: Path, name: str, task: str, where: str) -> Episode:
    """Return the files of an episode.

    :param images: folder of all episodes.
    :param where: name of the list, for the error message.
    :raises BenchmarkError: a camera's folder is missing or empty, or the cameras have different numbers of images.
    """
    folder = path_inside(images, name, where)
    cameras = (CAMERAS[0],) * len(CAMERAS) if FRONT_ONLY in name else CAMERAS
    frames = tuple(_frames(folder / camera, where) for camera in cameras)
    counts = [len(paths) for paths in frames]
    if len(set(counts)) > 1:
        raise BenchmarkError(f"{where}: the cameras of {folder} have different numbers of images: {counts}.")
    return Episode(name, task, frames)


def _frames(folder: Path, where: str) -> tuple[Path, ...]:
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
    except (OSError, ValueError) as error:  # ValueError: the name contains a NUL character.
        raise BenchmarkError(f"{where}: {folder} cannot be read: {error}.") from error
    if not paths:
        raise BenchmarkError(f"{where}: {folder} contains no PNG or JPEG file.")
    return tuple(paths)


class Judge:
    """Compares moments of episodes with a model, a limited number at the same time."""

    def __init__(self, brain: Answers, at_once: int) -> None:
        self._brain = brain
        self._room = asyncio.Semaphore(at_once)

    async def result(self, episode: Episode, interval: int, directions: Sequence[str] = ("forward", "backward")) -> EpisodeResult:
        """Return the measures of an episode.

        :param interval: frames for each moment.
        :raises RoboBrainError: the engine failed, or the model cannot answer such questions.
        """
        moments = episode.moments(interval)
        measured: dict[str, float | None] = {"forward": None, "backward": None}
        unreadable = 0
        for direction in directions:
            backward = direction == "backward"
            scores = await self._scores(episode, moments, backward) if len(moments) >= LEAST_MOMENTS else []
            measured[direction] = voc_of(scores, backward)
            unreadable += scores.count(None)
        return EpisodeResult(episode.name, len(moments), measured["forward"], measured["backward"], unreadable)

    async def _scores(self, episode: Episode, moments: Sequence[int], backward: bool) -> list[int | None]:
        pairs = itertools.pairwise(moments)
        return await asyncio.gather(*(self._score(episode, *(pair[::-1] if backward else pair)) for pair in pairs))

    async def _score(self, episode: Episode, before: int, after: int) -> int | None:
        front = episode.frames[0]
        paths = comparison(front[0], front[-1], episode.views(before), episode.views(after))
        async with self._room:
            images = await asyncio.to_thread(_read_images, paths)
            try:
                answer = await self._brain.run(
                    Query(Task.PROGRESS, episode.task, images, [str(path) for path in paths], timeout=_TIMEOUT)
                )
            except UnparsableAnswerError:
                return None
            return answer.score


def _read_images(paths: Sequence[Path]) -> list[Any]:
    read: dict[Path, Any] = {}
    for path in paths:
        if path not in read:
            try:
                read[path] = read_pixels(path)
            except (OSError, ValueError) as error:
                raise BenchmarkError(f"{path} cannot be read as an image ({error}).") from error
    return [read[path] for path in paths]


def voc_of(scores: Sequence[int | None], backward: bool) -> float:
    """Return the rank correlation between time and progress, -1 to 1. It is 0 with fewer than two scores or an unreadable one.

    :param scores: score in percent of each pair of neighbouring moments, in the order of time.
    :param backward: each score states how the task came from the later moment to the earlier one. So the progress is added up
        from the end, 1.
    """
    if len(scores) < LEAST_MOMENTS - 1 or None in scores:
        return 0.0
    progress, track = float(backward), []
    for score in scores[::-1] if backward else scores:
        progress = progress_after(progress, (score or 0) / FULL_SCORE)
        track.append(progress)
    return rank_correlation(range(len(track)), track[::-1] if backward else track)


async def judge_lists(
    brain: Answers, lists: dict[str, list[Episode]], options: argparse.Namespace, told: Callable[[int], None] = lambda done: None
) -> list[ListResult]:
    """Judge all episodes.

    :param options: ``interval``, ``directions`` and ``at_once``, as on the command line.
    :param told: called with the number of completed episodes.
    """
    judge = Judge(brain, options.at_once)
    results = [ListResult(name, []) for name in lists]
    done = 0
    for result, episodes in zip(results, lists.values(), strict=True):
        for episode in episodes:
            result.episodes.append(await judge.result(episode, options.interval, options.directions))
            done += 1
            told(done)
    return results


def table(results: Sequence[ListResult]) -> str:
    """Return the results as a Markdown table."""
    rows = [result.row() for result in results]
    lines = [" | ".join(rows[0]), " | ".join("---" for _ in rows[0])]
    lines += [" | ".join(_cell(value) for value in row.values()) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "not measured"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m robobrain_ros.evaluation.progress_benchmark",
        description="Score estimates of progress on Robo-Dopamine-Bench.",
    )
    parser.add_argument("folder", type=Path, help="folder with jsons and images")
    parser.add_argument("--model", required=True, help="checkpoint: a folder, or a name on the hub")
    parser.add_argument("--lists", nargs="+", default=[], metavar="NAME", help="lists in jsons, without .json (default: all)")
    parser.add_argument("--limit", type=positive, default=0, help="maximum number of episodes of each list (default: all)")
    parser.add_argument("--interval", type=positive, default=INTERVAL, help="frames for each moment (default: %(default)s)")
    parser.add_argument(
        "--directions",
        nargs="+",
        choices=("forward", "backward"),
        default=["forward", "backward"],
        help="forward: VOC+, backward: VOC- (default: both)",
    )
    parser.add_argument("--at-once", type=positive, default=8, help="comparisons at the same time (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file to write everything to")
    return parser.parse_args(arguments)


async def run(options: argparse.Namespace) -> None:
    """Load the model, judge the episodes, print the table and write the file."""
    check_outputs(options.json)
    lists = await asyncio.to_thread(read_lists, options.folder, options.lists, options.limit)
    total = sum(map(len, lists.values()))
    began = time.monotonic()

    def told(done: int) -> None:
        passed = time.monotonic() - began
        left = passed / done * (total - done)
        print(f"{done} of {total} episodes, {passed:.0f} s, about {left:.0f} s remaining", file=sys.stderr, flush=True)

    async with contextlib.AsyncExitStack() as stack:
        brain = await stack.enter_async_context(open_model(options.model, max_num_seqs=options.at_once))
        results = await judge_lists(brain, lists, options, told)
    print(table(results), flush=True)
    if options.json is not None:
        settings = {"model": options.model, "interval": options.interval}
        content = {**settings, "lists": [{**result.row(), "results": list(map(asdict, result.episodes))} for result in results]}
        write_output(options.json, json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Evaluate with the options of the command line. See `run_to_end` for errors."""
    run_to_end(run(parse_options()))


if __name__ == "__main__":
    main()
