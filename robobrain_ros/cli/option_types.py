"""Types of the command line options: numbers, and the context of a plan."""

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from robobrain_ros.core.plans.request import DoneStep, Place, PlanMode, PlanRequest, StepOutcome
from robobrain_ros.core.query import Task
from robobrain_ros.errors import RoboBrainError


def add_plan_arguments(group: "argparse._ArgumentGroup") -> None:
    """Add the options with the context of a plan."""
    group.add_argument(
        "--robots", type=Path, metavar="FILE", help="robots and their skills, in the form of config/robots_example.yaml"
    )
    group.add_argument(
        "--place", action="append", type=_place, default=[], metavar="PLACE:THINGS",
        help='a place of the scene and the objects on it, such as "table: red mug, bowl"; repeatable',
    )  # fmt: skip
    group.add_argument(
        "--done", dest="done", action="append", type=DoneStep, default=[], metavar="STEP",
        help="a step that succeeded; repeatable, in order with --failed",
    )  # fmt: skip
    group.add_argument("--failed", dest="done", action="append", type=_failed, metavar="STEP", help="a step that failed")
    group.add_argument("--feedback", default="", metavar="TEXT", help="other information for the planner")
    group.add_argument("--max-steps", type=count, default=0, metavar="N", help="maximum number of steps")
    modes = group.add_mutually_exclusive_group()
    for name, mode, meaning in (
        ("--replan", PlanMode.REPLAN, "plan the rest of the task"),
        ("--next-step", PlanMode.NEXT_STEP, "return only the next step"),
        ("--check", PlanMode.CHECK, "return only whether the task is done"),
    ):
        modes.add_argument(name, dest="mode", action="store_const", const=mode, default=PlanMode.NEW, help=meaning)


def _place(text: str) -> Place:
    name, separator, things = text.partition(":")
    if not separator or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form PLACE: THING, THING")
    return Place(name.strip(), tuple(thing.strip() for thing in things.split(",") if thing.strip()))


def _failed(text: str) -> DoneStep:
    return DoneStep(text, outcome=StepOutcome.FAILED)


def plan_request(options: argparse.Namespace, reject: Callable[[str], NoReturn]) -> PlanRequest | None:
    """Return the context for a plan, or None if the options contain no context.

    :param reject: called with a sentence if the options are wrong. It ends the program.
    """
    request = PlanRequest(
        scene=tuple(options.place),
        done=tuple(options.done),
        feedback=options.feedback,
        max_steps=options.max_steps,
        mode=options.mode,
    )
    if options.task != Task.PLAN.value and (options.robots or request != PlanRequest()):
        reject(
            "--robots, --place, --done, --failed, --feedback, --max-steps, --replan, --next-step and --check need the task plan."
        )
    if options.robots:
        # This import is slow, because it imports YAML. Other requests do not need it.
        from robobrain_ros.core.plans.robots_file import read_robots

        try:
            request = replace(request, robots=read_robots(options.robots))
        except RoboBrainError as error:
            reject(error.message)
    return request if request != PlanRequest() else None


def seconds(text: str) -> float:
    """Return the positive number of seconds of an option."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0.0):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a positive number of seconds")
    return value


def count(text: str) -> int:
    """Return the positive whole number of an option."""
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    if not 0 < value < 2**31:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a positive whole number")
    return value
