"""The engine of a command line program: a model in the program, or a server. An interruption of the program ends it."""

import argparse
import asyncio
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from robobrain_ros.cli.engine_options import add_engine_argument
from robobrain_ros.cli.progress import Messages
from robobrain_ros.core.brain import Brain

INTERRUPTED = 130
"""Exit code of an interrupted program."""
_WAIT_FOR_SERVER = 20.0
"""Seconds to wait for a server that is not reachable."""
_CLOSING = 20.0
"""Seconds after which an interrupted engine is killed."""


def add_model_arguments(group: "argparse._ArgumentGroup") -> None:
    """Add ``--model``, ``--url``, ``--engine`` and ``--model-profile``."""
    group.add_argument(
        "--model",
        default="",
        help="model: a folder, a name on the hub, or a preset such as robobrain2.0-7b (default: the tabletop demo model)",
    )
    group.add_argument(
        "--url", action="append", default=[], metavar="URL",
        help="ask an OpenAI-compatible server such as http://gpu:9010/v1; --model is the name of its model",
    )  # fmt: skip
    add_engine_argument(group, reserved=lambda name: name == "model")


async def open_own_brain(options: argparse.Namespace, messages: Messages) -> Brain:
    """Load the model of the options, and print the progress of loading.

    :raises EngineConfigError: see `robobrain_ros.local.open_brain`.
    """
    from robobrain_ros.demo import DEMO_MODEL
    from robobrain_ros.local import open_brain

    engine_options = dict(options.engine)
    if options.url:
        # The default of half an hour is for nodes. A user at the command line needs an error soon.
        engine_options = {"start_timeout": _WAIT_FOR_SERVER} | engine_options | {"kind": "remote", "urls": tuple(options.url)}
    elif not options.model:
        messages.report("Loading the tabletop demo model, which only knows tabletop scenes. Use --model for RoboBrain.")
    loading = messages.progress()
    model = options.model if options.url else options.model or str(DEMO_MODEL)
    brain = await open_brain(
        model,
        model_profile=options.model_profile,
        progress=lambda progress: loading.update(progress.message),
        **engine_options,
    )
    loading.finish()
    return brain


def end_when_interrupted(messages: Messages) -> None:
    """On SIGINT or SIGTERM, cancel this task, which closes the engine. Kill the engine if that takes longer than `_CLOSING`.

    Closing can take long, because loading a model takes minutes and cannot be interrupted.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def interrupt() -> None:
        task.cancel()
        kill_later(messages)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)


def kill_later(messages: Messages) -> threading.Timer:
    """Kill the engine and end the program after `_CLOSING`, unless the program ends before or cancels the returned timer."""
    timer = threading.Timer(_CLOSING, _end_at_once, (messages,))
    timer.daemon = True
    timer.start()
    return timer


def _end_at_once(messages: Messages) -> None:
    for child in multiprocessing.active_children():
        child.kill()
    messages.report("interrupted")
    os._exit(INTERRUPTED)


@contextmanager
def answers_alone() -> Iterator[TextIO]:
    """Reserve the standard output for the answer. The output of engines and their processes goes to the standard error."""
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
