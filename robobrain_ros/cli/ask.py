"""The program ``ask`` asks one question: a running node about its camera image, or without ROS a model about an image file.

``ros2 run robobrain_ros ask point "the red mug"``. ``ask --help`` and docs/reference/command_line.md list the options.
"""

import argparse
import asyncio
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TextIO

import cv2

from robobrain_ros.bounds.texts import has_lone_surrogates
from robobrain_ros.cli.option_types import add_plan_arguments, count, plan_request, seconds
from robobrain_ros.cli.own_engine import INTERRUPTED as INTERRUPTED
from robobrain_ros.cli.own_engine import add_model_arguments, answers_alone, end_when_interrupted, open_own_brain
from robobrain_ros.cli.progress import Messages
from robobrain_ros.cli.reply import Reply, footnote, to_dict, to_lines
from robobrain_ros.core.imaging import read_image
from robobrain_ros.core.overlay import draw
from robobrain_ros.core.plans.behavior_tree import behavior_tree
from robobrain_ros.core.query import CAMERA_TASKS, TIMED_TASKS, Answer, Defaults, Query, RgbImage, Task
from robobrain_ros.errors import OutcomeCode, RoboBrainError

EXIT_CODES: dict[OutcomeCode, int] = {
    OutcomeCode.OK: 0,
    OutcomeCode.NOTHING_FOUND: 1,
    OutcomeCode.BAD_REQUEST: 2,
    OutcomeCode.UNSUPPORTED_TASK: 2,
    OutcomeCode.NOT_READY: 3,
    OutcomeCode.BUSY: 3,
    OutcomeCode.NO_IMAGE: 3,
    OutcomeCode.STALE_IMAGE: 3,
    OutcomeCode.TIMEOUT: 3,
    OutcomeCode.CANCELED: 3,
    OutcomeCode.BAD_IMAGE: 4,
    OutcomeCode.UNPARSABLE_ANSWER: 4,
    OutcomeCode.INFEASIBLE_PLAN: 4,
    OutcomeCode.NO_POSE: 4,
    OutcomeCode.UNSAFE_TRAJECTORY: 4,
    OutcomeCode.ENGINE_FAILED: 4,
    OutcomeCode.NOT_SET: 4,
}
"""The program's exit code for each outcome."""
WRONG_USAGE, NOT_SAVED = 2, 5
MEANINGS = {
    0: "the answer is printed",
    1: "the model reports that the object is not in the image",
    WRONG_USAGE: "wrong usage, or the request is invalid; change it",
    3: "the node or the image is unavailable, or no such node is running; retry later",
    4: "the image, the model's answer or the engine is faulty",
    NOT_SAVED: "the answer is printed, but the image was not saved",
    INTERRUPTED: "interrupted",
}
"""The meaning of each exit code, for the help text."""

PROGRAM = "ask"
MESSAGES = Messages(PROGRAM)
"""Prints everything except the answer."""

_FRAMES = 4
"""Images of --history without --frames."""


def _epilog() -> str:
    lines = ["exit codes:"]
    for number, meaning in MEANINGS.items():
        names = ", ".join(outcome.name for outcome, code in EXIT_CODES.items() if code == number)
        lines.append(f"  {number:<4} {names}{': ' if names else ''}{meaning}")
    lines += ["", "The answer goes to the standard output, all messages to the standard error. ROS arguments follow --ros-args."]
    return "\n".join(lines)


def ask_image(options: argparse.Namespace) -> Reply:
    """Load a model, and ask it one question about image files."""
    images: list[RgbImage] = []
    task = Task(options.task)
    try:
        images = [read_image(path) for path in options.image]
        answer = asyncio.run(_run_brain(options, Query(
            task, options.text, images, think=options.think, timeout=options.timeout, max_tokens=options.max_tokens or None,
            plan=options.plan, image_times=_times(options.history, len(images)),
        )))  # fmt: skip
        code, message = OutcomeCode.OK, ""
    except RoboBrainError as error:
        code, message = error.code, error.message
        answer = Answer(task, "")
        if error.report is not None:
            answer = Answer(task, "", report=error.report)
    reply = Reply(code, message, answer)
    if images:
        reply.size = images[0].shape[1], images[0].shape[0]
        if options.save and code is OutcomeCode.OK:
            reply.overlay = draw(images[0], answer, instruction=options.text)
    return reply


def _times(seconds: float, count: int) -> list[float]:
    """Return evenly spaced times of images, from the first image to the newest one, or an empty list for ``seconds`` = 0."""
    return [-seconds * number / (count - 1) for number in range(count - 1, -1, -1)] if seconds else []


async def _run_brain(options: argparse.Namespace, query: Query) -> Answer:
    end_when_interrupted(MESSAGES)
    brain = await open_own_brain(options, MESSAGES)
    try:
        return await brain.run(query)
    finally:
        await brain.close()


def _reject(sentence: str) -> NoReturn:
    """Exit with the code for wrong usage, without printing the usage."""
    MESSAGES.report(sentence)
    sys.exit(WRONG_USAGE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Ask RoboBrain one question about the camera image of a running node, or about an image file.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", choices=[task.value for task in CAMERA_TASKS], help="the task")
    parser.add_argument("text", help='the instruction or question, such as "the red mug"')
    parser.add_argument(
        "--think",
        action=argparse.BooleanOptionalAction,
        help="think before the answer, or not (default: the node's parameter think)",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=Defaults.timeout,
        metavar="S",
        help="seconds to wait for the answer (default: %(default)g)",
    )
    parser.add_argument(
        "--history", type=seconds, default=0.0, metavar="S",
        help="ask about the last S seconds, for the tasks ask and plan: --frames images of the camera, or the --image files from "
        "the oldest to the newest",
    )  # fmt: skip
    parser.add_argument("--max-tokens", type=count, default=0, metavar="N", help="token limit of the answer")
    parser.add_argument("--save", type=Path, metavar="FILE", help="save the image with the answer drawn on it (.png, .jpg, ...)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, whatever the outcome")
    plan = parser.add_argument_group("context for the task plan")
    add_plan_arguments(plan)
    plan.add_argument("--behavior-tree", action="store_true", help="print the plan as XML for BehaviorTree.CPP 4")
    node = parser.add_argument_group("ask a node")
    node.add_argument(
        "--node", default=None, metavar="NAME", help="name of the node, such as /left_arm/robobrain (default: robobrain)"
    )
    node.add_argument(
        "--camera",
        action="append",
        metavar="NAME",
        help="camera of the node (default: the first one); repeatable for the tasks ask and plan",
    )
    node.add_argument(
        "--frames", type=count, default=0, metavar="N",
        help=f"number of images of --history, with the newest one (default: {_FRAMES})",
    )  # fmt: skip
    file = parser.add_argument_group("ask about an image file, without ROS")
    file.add_argument(
        "--image", action="append", type=Path, metavar="FILE", help="image file; repeatable for the tasks ask and plan"
    )
    add_model_arguments(file)
    return parser


def split_ros_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the program's own arguments, and the arguments for ROS. These are between --ros-args and -- or the end."""
    own: list[str] = []
    for_ros: list[str] = []
    in_ros = False
    for argument in arguments:
        if argument == "--ros-args" or in_ros:
            for_ros.append(argument)
            in_ros = argument != "--"
        else:
            own.append(argument)
    return own, for_ros


def _check(options: argparse.Namespace) -> None:
    """Reject options that contradict each other, before anything starts."""
    if not options.text.strip():
        _reject("The question is empty.")
    for text in (options.text, options.node or "", *(options.camera or ())):
        if has_lone_surrogates(text):
            _reject(f"{text!r} is not text in UTF-8. Check the encoding of the terminal or script.")
    _check_history(options)
    if options.image:
        if options.node is not None or options.camera:
            _reject("--image works without a node; remove --node and --camera.")
        if len(options.image) > 1 and Task(options.task).spatial:
            _reject(f"The task {options.task} takes exactly one image, not {len(options.image)}.")
    elif options.model or options.engine or options.url or options.model_profile != "auto":
        _reject("--model, --model-profile, --url and --engine need --image; a node has a model already.")
    options.plan = plan_request(options, _reject)
    if options.behavior_tree and (options.task != Task.PLAN.value or options.json):
        _reject("--behavior-tree needs the task plan, and prints XML; remove --json.")
    if options.save:
        # The path is checked before the model starts, so that a wrong path does not waste an answer.
        if not os.path.isdir(options.save.absolute().parent):  # Unlike Path.is_dir, false if the name cannot be read.
            _reject(f"{options.save} cannot be saved: the folder does not exist.")
        # Only the suffix: OpenCV crashes on a file name that is not UTF-8.
        suffix = options.save.suffix
        if not suffix or not suffix.isascii() or not cv2.haveImageWriter(f"image{suffix}"):
            _reject(f"{options.save} cannot be saved: OpenCV does not write this file type. Use .png or .jpg.")


def _check_history(options: argparse.Namespace) -> None:
    if not options.history:
        if options.frames:
            _reject("--frames needs --history.")
        return
    if Task(options.task) not in TIMED_TASKS:
        _reject(f"--history is for the tasks {' and '.join(task.value for task in TIMED_TASKS)}, not for {options.task}.")
    if options.image:
        if options.frames:
            _reject("--frames needs a camera: with --image, --history uses all images.")
        if len(options.image) < 2:
            _reject("--history needs at least two images: repeat --image, from the oldest to the newest.")
    options.frames = options.frames or _FRAMES


def _save(image: RgbImage | None, path: Path) -> bool:
    if image is None:
        MESSAGES.report(f"{path} was not saved: no image arrived on ~/overlay for this answer.")
        return False
    try:
        encoded, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        assert encoded, "_check has checked the file type"
        path.write_bytes(data.tobytes())
    except OSError as error:
        MESSAGES.report(f"{path} could not be saved: {error.strerror}.")
        return False
    return True


def _finish(reply: Reply, options: argparse.Namespace, stream: TextIO) -> int:
    """Print the answer, save the image, and return the exit code."""
    code = EXIT_CODES[reply.code]
    if options.json:
        print(json.dumps(to_dict(reply, options.text), allow_nan=False), file=stream, flush=True)
    elif reply.code is OutcomeCode.OK:
        tree = behavior_tree(reply.answer.steps) if options.behavior_tree else ""
        print(tree.rstrip() if tree else "\n".join(to_lines(reply)), file=stream, flush=True)
        MESSAGES.note(footnote(reply))
    if reply.code is OutcomeCode.OK and reply.message:
        MESSAGES.report(reply.message)
    if reply.code is not OutcomeCode.OK:
        MESSAGES.report(f"{reply.code.name}: {reply.message}")
        if reply.answer.report.raw_text:
            MESSAGES.report(f"The model wrote: {reply.answer.report.raw_text}")
    elif options.save and not _save(reply.overlay, options.save):
        return NOT_SAVED
    return code


def _ask_node(options: argparse.Namespace, ros_arguments: list[str]) -> Reply:
    try:
        from robobrain_ros.cli.ask_node import ask_node
    except ImportError as error:
        MESSAGES.report(f"This Python cannot import ROS 2 ({error}). Source ROS 2, or ask about a file with --image.")
        sys.exit(WRONG_USAGE)
    return ask_node(options, ros_arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask the question of the command line, and return the exit code."""
    own, for_ros = split_ros_arguments(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(own)
    try:
        _check(options)
        if not options.image:
            return _finish(_ask_node(options, for_ros), options, sys.stdout)
        with answers_alone() as stream:
            return _finish(ask_image(options), options, stream)
    except (KeyboardInterrupt, asyncio.CancelledError):
        MESSAGES.report("interrupted")
        return INTERRUPTED
    except Exception as error:
        # Python would end with exit code 1, which means NOTHING_FOUND.
        traceback.print_exc()
        MESSAGES.report(f"ENGINE_FAILED: Unexpected {type(error).__name__}. Please report it with the lines above.")
        return EXIT_CODES[OutcomeCode.ENGINE_FAILED]


if __name__ == "__main__":
    sys.exit(main())
