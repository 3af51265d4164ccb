"""The program ``bag`` asks about the images of a recording, and writes the answers to another bag. It needs no ROS.

``ros2 run robobrain_ros bag INPUT OUTPUT point "the red mug"``, or ``robobrain-bag`` after ``pip install '.[bags]'``.
``bag --help`` and docs/reference/command_line.md list the options.
"""

import argparse
import asyncio
import json
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from robobrain_ros.bags.answers import OVERLAY_TOPIC, RESULT_TOPICS, Responder
from robobrain_ros.bags.cameras import CameraTopics, select_cameras
from robobrain_ros.bags.errors import BagError
from robobrain_ros.bags.markers import MARKERS_TOPIC
from robobrain_ros.bags.messages import require_rosbags
from robobrain_ros.bags.moments import Moments
from robobrain_ros.bags.output import STORAGES, Output, check_output
from robobrain_ros.bags.positions import PositionSettings
from robobrain_ros.bags.questions import Question, check_question, read_questions
from robobrain_ros.bags.run import AT_ONCE, Run, Sinks
from robobrain_ros.bags.source import Source
from robobrain_ros.bags.tables import CsvTable, ParquetTable, Table, require_pyarrow
from robobrain_ros.bags.video import SUFFIXES, Video, next_path
from robobrain_ros.cli.bag_options import add_asking_arguments, add_moment_arguments, asked_question, check_cameras, check_moments
from robobrain_ros.cli.option_types import add_plan_arguments, count, plan_request, seconds
from robobrain_ros.cli.own_engine import INTERRUPTED, add_model_arguments, answers_alone, kill_later, open_own_brain
from robobrain_ros.cli.progress import Messages
from robobrain_ros.core.brain import Brain
from robobrain_ros.core.query import CAMERA_TASKS, Task
from robobrain_ros.errors import RoboBrainError

DONE, WRONG_USAGE, FAULT = 0, 2, 4
MEANINGS = {
    DONE: "the output bag is complete; the summary counts answers that failed",
    WRONG_USAGE: "wrong usage, or the input or output cannot be used; nothing was written",
    FAULT: "the input is damaged, the disk is full, or the engine failed; the output is readable",
    INTERRUPTED: "interrupted; the output is readable, and the same command continues it",
}
"""The meaning of each exit code, for the help text and docs/reference/command_line.md."""
MESSAGES = Messages("bag")
_WITHOUT_EFFECT = ("gpu_memory_utilization", "max_num_seqs", "start_timeout")
"""Engine options that do not change answers, so that a run can continue with others after the engine failed."""


@dataclass(frozen=True)
class Job:
    """The checked options of a run."""

    source: Source
    cameras: list[CameraTopics]
    questions: list[Question]
    positions: PositionSettings
    copied: list[str]
    moments: Moments
    settings: dict[str, Any]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Ask RoboBrain about the images of a bag, and write the answers to another bag. This needs no ROS.",
        epilog="exit codes:\n" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in MEANINGS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", type=Path, help="rosbag2 folder or file (.mcap, .db3), or ROS 1 bag (.bag)")
    parser.add_argument("output", type=Path, help="folder of the new rosbag2; an unfinished one is continued")
    parser.add_argument("task", nargs="?", choices=[task.value for task in CAMERA_TASKS], help="the task")
    parser.add_argument("text", nargs="?", default="", help='the instruction or question, such as "the red mug"')
    parser.add_argument("--queries", type=Path, metavar="FILE", help="YAML list of questions, or a parameter file of the node")
    add_moment_arguments(parser.add_argument_group("images to ask about (default: each image)"))
    topics = parser.add_argument_group("topics of the input; with several cameras, each is CAMERA=TOPIC")
    topics.add_argument("--image-topic", action="append", default=[], metavar="TOPIC", help="images; repeatable")
    topics.add_argument("--depth-topic", action="append", default=[], metavar="TOPIC", help="depth that is aligned to the images")
    topics.add_argument(
        "--info-topic", action="append", default=[], metavar="TOPIC", help="default: camera_info beside the image"
    )
    topics.add_argument("--target-frame", default="", metavar="FRAME", help="frame of the positions (default: the image's frame)")
    topics.add_argument("--sync-tolerance", type=seconds, default=0.01, metavar="S", help="of image and depth (default: 0.01)")
    topics.add_argument("--max-depth", type=seconds, default=20.0, metavar="M", help="farther depths are ignored (default: 20)")
    topics.add_argument("--rectified", action=argparse.BooleanOptionalAction, help="default: by the name of the image topic")
    _add_output_arguments(parser.add_argument_group("output"))
    asking = parser.add_argument_group("question")
    asking.add_argument("--think", action=argparse.BooleanOptionalAction, help="think before the answer, or not (default: not)")
    add_asking_arguments(asking)
    add_plan_arguments(parser.add_argument_group("context for the task plan"))
    model = parser.add_argument_group("model")
    add_model_arguments(model)
    model.add_argument(
        "--at-once", type=count, default=AT_ONCE, metavar="N", help="requests at the same time (default: %(default)d)"
    )
    return parser


def _add_output_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--storage", choices=list(STORAGES), default="mcap", help="format of the output (default: mcap)")
    group.add_argument("--node", default="robobrain", metavar="NAME", help="the topics begin with it (default: robobrain)")
    group.add_argument("--overlay", action="store_true", help=f"also write the annotated images to <node>/{OVERLAY_TOPIC}")
    group.add_argument(
        "--markers", action="store_true", help=f"also write the positions as markers to <node>/{MARKERS_TOPIC}, for 3D viewers"
    )
    group.add_argument("--copy-topics", action="store_true", help="also write all topics of the input; not for bags of ROS 1")
    group.add_argument("--overwrite", action="store_true", help="delete existing outputs")
    group.add_argument("--video", type=Path, metavar="FILE", help=f"write the annotated images ({', '.join(SUFFIXES)})")
    group.add_argument("--csv", type=Path, metavar="FILE", help="write a table with one row for each part of an answer")
    group.add_argument("--parquet", type=Path, metavar="FILE", help="write the same table as Parquet; needs pyarrow")
    group.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def _reject(sentence: str) -> NoReturn:
    raise BagError(sentence)


def _questions(options: argparse.Namespace, cameras: Sequence[CameraTopics]) -> list[Question]:
    """Return the questions of the command line or of ``--queries``."""
    names = [camera.name for camera in cameras]
    check_moments(options)
    if options.queries and options.task:
        _reject("--queries replaces the task and its text; remove one of them.")
    if not options.queries and not options.task:
        _reject('Name a task and its text, such as point "the red mug", or a file with --queries.')
    own = asked_question(options, Task(options.task or Task.ASK), options.text, names[:1])
    own = replace(own, think=options.think)
    plan = _plan(options)
    if options.queries:
        questions = read_questions(options.queries, own)
        questions = [replace(each, plan=plan) if each.task is Task.PLAN else each for each in questions]
    else:
        # The other cameras join a question that takes several images.
        all_of_them = tuple(names) if not own.task.spatial and not own.history_seconds else own.cameras
        questions = [replace(own, plan=plan, cameras=all_of_them)]
        check_question(questions[0], "The question")
    check_cameras(questions, cameras)
    return questions


def _plan(options: argparse.Namespace) -> Any:
    asked = argparse.Namespace(**vars(options))
    asked.task = Task.PLAN.value if options.queries else options.task
    return plan_request(asked, _reject)


def _prepare(options: argparse.Namespace) -> Job:
    """Check the options and the bags, before the model is loaded.

    :raises BagError: something is wrong.
    """
    require_rosbags()
    if options.video and options.video.suffix not in SUFFIXES:
        _reject(f"--video {options.video}: the name must end in {' or '.join(SUFFIXES)}.")
    for path in (options.video, options.csv, options.parquet):
        if path and not path.absolute().parent.is_dir():
            _reject(f"{path} cannot be written: the folder does not exist.")
    _check_paths(options)
    source = Source(options.input)
    cameras = select_cameras(source, options.image_topic, options.info_topic, options.depth_topic)
    questions = _questions(options, cameras)
    positions = PositionSettings(
        options.target_frame, options.sync_tolerance, max_depth=options.max_depth, rectified=options.rectified
    )
    if options.copy_topics and source.is_ros1:
        _reject("--copy-topics copies only topics of rosbag2. Convert the bag first: `rosbags-convert --src IN --dst OUT`.")
    prefix = f"/{options.node.strip('/')}/"
    names = (*(topic.name for topic in RESULT_TOPICS.values()), OVERLAY_TOPIC, MARKERS_TOPIC)
    results = {f"{prefix}{name}" for name in names}
    copied = [name for name in source.topics if name not in results] if options.copy_topics else []
    engine = [f"{name}={value}" for name, value in sorted(options.engine) if name not in _WITHOUT_EFFECT]
    settings = {
        "input": [str(options.input.resolve()), source.count, source.begin, source.end],
        "questions": [repr(question) for question in questions],
        "cameras": [repr(camera) for camera in cameras],
        "positions": repr(positions),
        "model": [options.model, options.url, options.model_profile, *engine],
        "storage": options.storage,
        "node": options.node,
        "overlay": options.overlay,
        "copied topics": copied,
        "tables and videos": [str(path.resolve()) if path else "" for path in (options.video, options.csv, options.parquet)],
    }
    if options.markers:  # Without this condition, outputs of versions without the option could not be continued.
        settings["markers"] = True
    _, earlier = check_output(options.output, settings, overwrite=options.overwrite)
    for path in (options.video, options.csv, options.parquet):
        if path and path.exists() and earlier is None and not options.overwrite:
            _reject(f"{path} exists already. Choose another name, or pass --overwrite to delete it.")
    if options.parquet:
        require_pyarrow()
    moments = Moments(
        source, cameras, questions, target_frame=options.target_frame, tolerance=options.sync_tolerance, copied=copied,
        on_note=MESSAGES.report,
    )  # fmt: skip
    return Job(source, cameras, questions, positions, copied, moments, settings)


def _check_paths(options: argparse.Namespace) -> None:
    """Check that no output replaces the input.

    :raises BagError: an output does.
    """
    bag, output = options.input.resolve(), options.output.resolve()
    if output == bag or output in bag.parents:
        _reject(f"The output {options.output} is or contains the input {options.input}. Choose another name.")
    for path in (options.video, options.csv, options.parquet):
        if path and bag in (path.resolve(), path.resolve().parent):
            _reject(f"{path} is part of the input {options.input}. Choose another name.")


def _sinks(options: argparse.Namespace, first: int) -> Sinks:
    tables: list[Table] = []
    if options.csv:
        tables.append(CsvTable(options.csv, first))
    if options.parquet:
        tables.append(ParquetTable(options.parquet, first))
    video = None
    if options.video:
        if not first:
            options.video.unlink(missing_ok=True)
        video = Video(next_path(options.video))
    return Sinks(tables, video)


async def _run(options: argparse.Namespace, job: Job) -> tuple[Run, bool]:
    """Load the model and answer. Return the run, and whether it is complete.

    :raises BagError: the run cannot continue.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    run: Run | None = None
    timers: list[threading.Timer] = []

    def interrupt() -> None:
        if run is None:
            assert task is not None
            task.cancel()
        else:
            run.stop()
        timers.append(kill_later(MESSAGES))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        brain: Brain = await open_own_brain(options, MESSAGES)
    except BaseException:
        _cancel(timers)
        raise
    try:
        writer = ThreadPoolExecutor(1, "bag-writer")
        opening = writer.submit(Output.open, options.output, options.storage, job.settings, overwrite=options.overwrite)
        output = opening.result()
        if output.is_resumed:
            MESSAGES.report(f"Continuing after {output.progress.moments} images.")
        try:
            sinks = _sinks(options, output.progress.moments)
        except BaseException:
            writer.submit(output.close, complete=False).result()
            raise
        responder = Responder(
            brain, job.positions, limit=options.at_once, overlay=options.overlay, markers=options.markers,
            drawn=options.video is not None,
        )  # fmt: skip
        printer = MESSAGES.progress()
        run = Run(
            job.source, output, writer, job.questions, responder, node=options.node, at_once=options.at_once, sinks=sinks,
            overlay=options.overlay, markers=options.markers, on_progress=printer.update, on_note=MESSAGES.report,
        )  # fmt: skip
        try:
            return run, await run.run(job.moments, job.copied)
        finally:
            printer.finish()
            _report(run, options)
    finally:
        await brain.close()
        _cancel(timers)


def _cancel(timers: Sequence[threading.Timer]) -> None:
    for timer in timers:
        timer.cancel()


def _report(run: Run, options: argparse.Namespace) -> None:
    """Print the summary: a table, or with ``--json`` one object."""
    if options.json:
        totals = {
            "output": str(options.output), "topics": run.written_topics, "seconds": round(run.pace.seconds, 3),
            "images_per_second": round(run.pace.rate, 3),
        }  # fmt: skip
        print(json.dumps(run.summary.to_counts() | totals), file=options.stream, flush=True)
    else:
        for line in run.summary.to_lines():
            print(line, file=options.stream, flush=True)
        MESSAGES.note(f"{run.summary.images} images, {run.pace.rate:.1f} images/s, {options.output}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer the questions of the command line about a bag, and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        job = _prepare(options)
    except BagError as error:
        MESSAGES.report(str(error))
        return WRONG_USAGE
    try:
        with answers_alone() as options.stream:
            _, complete = asyncio.run(_run(options, job))
    except (KeyboardInterrupt, asyncio.CancelledError):
        complete = False
    except BagError as error:
        MESSAGES.report(str(error))
        return FAULT
    except RoboBrainError as error:
        MESSAGES.report(f"{error.code.name}: {error.message}")
        return FAULT
    except Exception as error:
        traceback.print_exc()
        MESSAGES.report(f"Unexpected {type(error).__name__}. Please report it with the lines above.")
        return FAULT
    finally:
        job.source.close()
    if not complete:
        MESSAGES.report("interrupted. Run the same command again to continue.")
        return INTERRUPTED
    return DONE


if __name__ == "__main__":
    sys.exit(main())
