"""Options of the programs that ask about the images of a bag: which images, and how to ask."""

import argparse
from collections.abc import Sequence

from robobrain_ros.bags.cameras import CameraTopics
from robobrain_ros.bags.errors import BagError
from robobrain_ros.bags.questions import Question
from robobrain_ros.cli.option_types import count, seconds
from robobrain_ros.core.query import Defaults, Task


def add_moment_arguments(group: "argparse._ArgumentGroup") -> None:
    """Add ``--every``, ``--rate`` and ``--at``."""
    group.add_argument("--every", type=count, default=1, metavar="N", help="each N-th image")
    group.add_argument("--rate", type=seconds, default=0.0, metavar="HZ", help="at most this many images per second of the bag")
    group.add_argument(
        "--at", type=_time, nargs="+", default=[], metavar="S",
        help="the first image at or after each of these seconds since the start of the bag",
    )  # fmt: skip


def add_asking_arguments(group: "argparse._ArgumentGroup") -> None:
    """Add ``--timeout``, ``--history``, ``--frames`` and ``--max-tokens``."""
    group.add_argument(
        "--timeout", type=seconds, default=Defaults.timeout, metavar="S",
        help="seconds for each answer (default: %(default)g)",
    )  # fmt: skip
    group.add_argument("--history", type=seconds, default=0.0, metavar="S", help="ask and plan: use the last S seconds")
    group.add_argument("--frames", type=count, default=4, metavar="N", help="number of images of --history (default: 4)")
    group.add_argument("--max-tokens", type=count, default=0, metavar="N", help="token limit of the answer")


def _time(text: str) -> float:
    return 0.0 if text in ("0", "0.0") else seconds(text)


def check_moments(options: argparse.Namespace) -> None:
    """Check that at most one option selects the images.

    :raises BagError: several do.
    """
    if sum([bool(options.rate), options.every != 1, bool(options.at)]) > 1:
        raise BagError("--every, --rate and --at exclude each other.")


def asked_question(options: argparse.Namespace, task: Task, text: str, cameras: Sequence[str]) -> Question:
    """Return a question with the values of the options. It is not checked."""
    return Question(
        task, text, cameras=tuple(cameras), every=options.every, rate=options.rate, at=tuple(options.at),
        timeout=options.timeout, max_tokens=options.max_tokens or None, history_seconds=options.history,
        history_frames=options.frames,
    )  # fmt: skip


def check_cameras(questions: Sequence[Question], cameras: Sequence[CameraTopics]) -> None:
    """Check that all cameras of the questions exist.

    :raises BagError: one does not.
    """
    names = [camera.name for camera in cameras]
    for question in questions:
        for name in question.cameras:
            if name not in names:
                raise BagError(
                    f"{question.title}: there is no camera {name!r}. Known cameras: {', '.join(names)}. See --image-topic."
                )
