"""The program ``ask``: one question on the command line, to a running node or, without ROS, about an image file.

``ros2 run robobrain_ros ask point "the red mug"``; ``ask --help`` tells the rest, and docs/reference/command_line.md.
"""

import argparse
import asyncio
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TextIO

import cv2

from robobrain_ros.cli.progress import Teller
from robobrain_ros.cli.reply import Reply, footnote, to_dict, to_lines
from robobrain_ros.core.imaging import read_image
from robobrain_ros.core.overlay import draw
from robobrain_ros.core.plans.request import DoneStep, Place, PlanMode, PlanRequest, StepOutcome
from robobrain_ros.core.query import Answer, Defaults, Query, RgbImage, Task
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
    OutcomeCode.ENGINE_FAILED: 4,
    OutcomeCode.NOT_SET: 4,
}
"""What the program ends with, by the outcome."""
NOT_SAVED = 5
"""Exit code: there is an answer, but its image could not be saved."""
INTERRUPTED = 130
_WAIT_FOR_SERVER = 20.0
"""Seconds that a server may take to be there."""
_FAREWELL = 20.0
"""Seconds that an interrupted engine has to end by itself."""

_EPILOG = """exit codes:
  0  OK: the answer is printed
  1  NOTHING_FOUND: the model says that it is not there
  2  wrong usage, BAD_REQUEST, UNSUPPORTED_TASK: ask otherwise
  3  NOT_READY, BUSY, NO_IMAGE, STALE_IMAGE, TIMEOUT, CANCELED, or there is no such node: try again
  4  BAD_IMAGE, UNPARSABLE_ANSWER, INFEASIBLE_PLAN, ENGINE_FAILED, NOT_SET: image, model or engine are at fault
  5  answered, but the image could not be saved
  130  interrupted

The answer goes to the standard output, everything else to the standard error. Arguments after --ros-args are ROS's."""


def ask_image(options: argparse.Namespace) -> Reply:
    """Ask a model that is loaded for this question alone, about image files."""
    images: list[RgbImage] = []
    task = Task(options.task)
    try:
        images = [read_image(path) for path in options.image]
        answer = asyncio.run(_run_brain(options, Query(
            task, options.text, images, think=options.think, timeout=options.timeout, max_tokens=options.max_tokens or None,
            plan=options.plan,
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


async def _run_brain(options: argparse.Namespace, query: Query) -> Answer:
    from robobrain_ros.demo import DEMO_MODEL
    from robobrain_ros.local import open_brain

    _end_when_interrupted()
    engine_options = dict(options.engine)
    if options.url:
        # Who asks on a command line does not wait half an hour for a server to come up.
        engine_options = {"start_timeout": _WAIT_FOR_SERVER} | engine_options | {"kind": "remote", "urls": tuple(options.url)}
    elif not options.model:
        _say("No --model is named: loading the tabletop demo model, which knows only its tabletop world and is no RoboBrain.")
    telling = Teller(sys.stderr)
    model = options.model if options.url else options.model or str(DEMO_MODEL)
    brain = await open_brain(model, progress=lambda progress: telling.tell(progress.message), **engine_options)
    try:
        telling.end()
        return await brain.run(query)
    finally:
        await brain.close()


def _end_when_interrupted() -> None:
    """At the first SIGINT or SIGTERM, give the engine back; at the end of a short while, end whatever it is doing.

    A model that is being loaded cannot be told to stop, and loading may take minutes.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def interrupt() -> None:
        task.cancel()
        timer = threading.Timer(_FAREWELL, _end_at_once)
        timer.daemon = True
        timer.start()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)


def _end_at_once() -> None:
    for child in multiprocessing.active_children():
        child.kill()
    _say("interrupted")
    os._exit(INTERRUPTED)


@contextmanager
def _answers_alone() -> Iterator[TextIO]:
    """The standard output for the answer; what engines and their processes print there goes to the standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as stream:
            yield stream
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _say(sentence: str) -> None:
    print(f"ask: {sentence}", file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    def refuse(self, sentence: str) -> NoReturn:
        """End as for every other wrong usage, without repeating the usage."""
        self.exit(2, f"{self.prog}: {sentence}\n")


def _parser() -> _Parser:
    parser = _Parser(
        prog="ask",
        description="Ask RoboBrain one question: a running node about what its camera sees, or about an image file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", choices=[task.value for task in Task], help="what to ask for")
    parser.add_argument("text", help='the instruction or question, such as "the red mug"')
    parser.add_argument("--think", action=argparse.BooleanOptionalAction, help="think first, or not; else as the node is set")
    parser.add_argument("--timeout", type=_seconds, default=Defaults.timeout, metavar="S", help="for the answer (%(default)g)")
    parser.add_argument("--max-tokens", type=_count, default=0, metavar="N", help="tokens that the answer may have")
    parser.add_argument("--save", type=Path, metavar="FILE", help="save the image with the answer drawn in (.png, .jpg, ...)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, whatever the outcome")
    _add_plan_arguments(parser.add_argument_group("for plan, what is known"))
    node = parser.add_argument_group("asking a node")
    node.add_argument("--node", default=None, metavar="NAME", help="its name, such as /left_arm/robobrain (robobrain)")
    node.add_argument("--camera", action="append", metavar="NAME", help="one of its cameras (the first); again for ask and plan")
    file = parser.add_argument_group("asking about an image file, without ROS")
    file.add_argument("--image", action="append", type=Path, metavar="FILE", help="may be given again for ask and plan")
    file.add_argument("--model", default="", help="a folder, a name on the hub, or robobrain2.0-7b (the tabletop demo model)")
    file.add_argument(
        "--url", action="append", default=[], metavar="URL",
        help="ask an OpenAI-compatible server such as http://gpu:9010/v1 instead; --model then is its name there",
    )  # fmt: skip
    file.add_argument(
        "--engine", action="append", type=_engine_option, default=[], metavar="NAME=VALUE",
        help="an engine's option, as in docs/reference/parameters.md: gpu_memory_utilization=0.6",
    )  # fmt: skip
    return parser


def _add_plan_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--robots", type=Path, metavar="FILE", help="robots and their skills, as config/robots_example.yaml")
    group.add_argument(
        "--place", action="append", type=_place, default=[], metavar="PLACE:THINGS",
        help='a place of the scene and what is on it, such as "table: red mug, bowl"; may be given again',
    )  # fmt: skip
    group.add_argument(
        "--done", dest="done", action="append", type=DoneStep, default=[], metavar="STEP",
        help="a step that was done; may be given again, in order with --failed",
    )  # fmt: skip
    group.add_argument("--failed", dest="done", action="append", type=_failed, metavar="STEP", help="a step that failed")
    group.add_argument("--feedback", default="", metavar="TEXT", help="anything else that the planner should know")
    group.add_argument("--max-steps", type=_count, default=0, metavar="N", help="most steps of the plan")
    modes = group.add_mutually_exclusive_group()
    for name, mode, meaning in (
        ("--replan", PlanMode.REPLAN, "plan what is left of the task"),
        ("--next-step", PlanMode.NEXT_STEP, "only the next step"),
        ("--check", PlanMode.CHECK, "only whether the task is done"),
    ):
        modes.add_argument(name, dest="mode", action="store_const", const=mode, default=PlanMode.NEW, help=meaning)


def _place(text: str) -> Place:
    name, separator, things = text.partition(":")
    if not separator or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form PLACE: THING, THING")
    return Place(name.strip(), tuple(thing.strip() for thing in things.split(",") if thing.strip()))


def _failed(text: str) -> DoneStep:
    return DoneStep(text, outcome=StepOutcome.FAILED)


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0.0):
        raise argparse.ArgumentTypeError(f"{text} is no positive number of seconds")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 0 < value < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is no positive number")
    return value


def _engine_option(text: str) -> tuple[str, Any]:
    import yaml

    from robobrain_ros.engine.options import option_fields

    name, separator, value = text.partition("=")
    if not separator or name not in option_fields() or name == "model":
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE with the name of an option")
    return name, yaml.safe_load(value)


def split_ros_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The program's own arguments, and ROS's: those from --ros-args on, up to a --."""
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


def _check(parser: _Parser, options: argparse.Namespace) -> None:
    """Refuse what contradicts itself, before anything is started."""
    if not options.text.strip():
        parser.refuse("The question is empty; say what is asked for.")
    if options.image:
        if options.node is not None or options.camera:
            parser.refuse("--node and --camera are for asking a node; --image asks without one.")
        if len(options.image) > 1 and Task(options.task).spatial:
            parser.refuse(f"The task {options.task} takes exactly one image, not {len(options.image)}.")
    elif options.model or options.engine or options.url:
        parser.refuse("--model, --url and --engine are for --image; a node has its model already.")
    options.plan = _plan_request(parser, options)
    if options.save:
        # Found now rather than after the model has worked.
        if not options.save.absolute().parent.is_dir():
            parser.refuse(f"{options.save} cannot be saved: there is no such folder.")
        if not options.save.suffix or not cv2.haveImageWriter(str(options.save)):
            parser.refuse(f"{options.save} cannot be saved: OpenCV knows no such kind of image; call it .png or .jpg.")


def _plan_request(parser: _Parser, options: argparse.Namespace) -> PlanRequest | None:
    """What is known for a plan; None: nothing, or it is no plan."""
    request = PlanRequest(
        scene=tuple(options.place),
        done=tuple(options.done),
        feedback=options.feedback,
        max_steps=options.max_steps,
        mode=options.mode,
    )
    if options.task != Task.PLAN.value and (options.robots or request != PlanRequest()):
        parser.refuse("--robots, --place, --done, --failed, --feedback, --max-steps and the modes are for the task plan.")
    if options.robots:
        # Imported here: reading YAML takes a while that others need not wait.
        from robobrain_ros.core.plans.robots_file import read_robots

        try:
            request = replace(request, robots=read_robots(options.robots))
        except RoboBrainError as error:
            parser.refuse(error.message)
    return request if request != PlanRequest() else None


def _save(image: RgbImage | None, path: Path) -> bool:
    if image is None:
        _say(f"{path} was not saved: the node sent no image with the answer.")
        return False
    try:
        encoded, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        assert encoded, "the kind of file has been checked"
        path.write_bytes(data.tobytes())
    except OSError as error:
        _say(f"{path} could not be saved: {error.strerror}.")
        return False
    return True


def _finish(reply: Reply, options: argparse.Namespace, stream: TextIO) -> int:
    """Print and save; gives the exit code."""
    code = EXIT_CODES[reply.code]
    if options.json:
        print(json.dumps(to_dict(reply, options.text), allow_nan=False), file=stream, flush=True)
    elif reply.code is OutcomeCode.OK:
        print(*to_lines(reply), sep="\n", file=stream, flush=True)
        print(f"({footnote(reply)})", file=sys.stderr, flush=True)
    if reply.code is OutcomeCode.OK and reply.message:
        _say(reply.message)
    if reply.code is not OutcomeCode.OK:
        _say(f"{reply.code.name}: {reply.message}")
        if reply.answer.report.raw_text:
            _say(f"The model wrote: {reply.answer.report.raw_text}")
    elif options.save and not _save(reply.overlay, options.save):
        return NOT_SAVED
    return code


def _ask_node(options: argparse.Namespace, ros_arguments: list[str]) -> Reply:
    try:
        from robobrain_ros.cli.ask_node import ask_node
    except ImportError as error:
        _say(f"There is no ROS 2 here ({error}): source it, or ask about a file with --image.")
        sys.exit(2)
    return ask_node(options, ros_arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask the question of the command line; gives the exit code."""
    own, for_ros = split_ros_arguments(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options = parser.parse_args(own)
    _check(parser, options)
    try:
        if not options.image:
            return _finish(_ask_node(options, for_ros), options, sys.stdout)
        with _answers_alone() as stream:
            return _finish(ask_image(options), options, stream)
    except (KeyboardInterrupt, asyncio.CancelledError):
        _say("interrupted")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
