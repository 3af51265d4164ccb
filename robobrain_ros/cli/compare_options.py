"""The options of check_consistency with which models are compared on a bag, and their checks before a model is loaded."""

import argparse
import asyncio
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from robobrain_ros.bags.cameras import CameraTopics, select_cameras
from robobrain_ros.bags.errors import BagError
from robobrain_ros.bags.messages import require_rosbags
from robobrain_ros.bags.questions import Question, check_question, read_questions
from robobrain_ros.bags.source import Source
from robobrain_ros.bounds.files import home_expanded
from robobrain_ros.cli.bag_options import add_asking_arguments, add_moment_arguments, asked_question, check_cameras, check_moments
from robobrain_ros.core.plans.request import PlanRequest
from robobrain_ros.core.profiles import AUTO, all_profiles, check_origin
from robobrain_ros.core.profiles.registry import named_profile
from robobrain_ros.core.query import CAMERA_TASKS, Task
from robobrain_ros.engine import presets
from robobrain_ros.engine.base import ProgressCallback
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import RoboBrainError

LOG, IMAGES, PAGE, DATA = "answers.jsonl", "images", "report.html", "report.json"
"""Files and folders of a report."""
_ONLY_WITHOUT_BAG = (
    "model", "benchmark", "protocol", "scenes", "engines", "mode", "include", "exclude", "resume", "html",
)  # fmt: skip
"""Options of an evaluation that have no meaning for a comparison."""
_ONLY_WITH_BAG = (
    "models", "asked", "queries", "output", "every", "rate", "at", "timeout", "history", "frames", "max_tokens", "image_topic",
    "robots",
)  # fmt: skip
_WITHOUT_EFFECT = ("gpu_memory_utilization", "max_num_seqs", "start_timeout", "key_file", "verify", "ca_file")
"""Engine options that do not change answers."""
_OF_SERVER = ("kind", "urls")
_WAIT_FOR_SERVER = 20.0
"""Seconds to wait for a server that is not reachable."""
_NAME = re.compile(r"[\w.+-]{1,60}")
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")


@dataclass(frozen=True)
class ComparedModel:
    """A model of ``--models``.

    :param where: its checkpoint, or the URL of its server.
    :param engine: options of the engine by keyword.
    """

    name: str
    where: str
    profile: str = AUTO
    engine: dict[str, Any] = field(default_factory=dict)

    @property
    def on_server(self) -> bool:
        """Whether a server runs the model."""
        return _is_url(self.where)

    def keywords(self) -> dict[str, Any]:
        """Return the arguments of `local.open_brain`, without the profile."""
        if self.on_server:
            return {"model": "", "start_timeout": _WAIT_FOR_SERVER, **self.engine, "kind": "remote", "urls": (self.where,)}
        return {**self.engine, "model": self.where}

    def digest(self) -> str:
        """Return a hash of everything that changes answers: the checkpoint with its weight files, the profile and the options."""
        options = sorted((name, repr(value)) for name, value in self.engine.items() if name not in _WITHOUT_EFFECT)
        folder = home_expanded(self.where)
        is_folder = not self.on_server and os.path.isdir(folder)
        files = sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern)) if is_folder else []
        weights = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]
        where = str(folder.resolve()) if weights else self.where
        return _hash(repr((where, self.profile.lower(), options, weights)))


@dataclass(frozen=True)
class Comparison:
    """The checked options of a comparison.

    :param output: folder of the report.
    :param limit: largest number of images; 0: all.
    """

    source: Source
    cameras: list[CameraTopics]
    questions: list[Question]
    models: list[ComparedModel]
    output: Path
    at_once: int
    limit: int

    def title(self, question: Question) -> str:
        """Return the name of a question in the report."""
        return question.name or f"{question.task.value}: {question.text}"

    def question_digest(self, question: Question) -> str:
        """Return a hash of everything in a question that changes answers, with the topics of its cameras."""
        topics = {camera.name: camera.image for camera in self.cameras}
        used = [topics[name] for name in question.cameras]
        same = replace(question, name="", cameras=(), every=1, rate=0.0, at=())
        return _hash(repr((same, used)))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def add_bag_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a comparison on a bag."""
    group = parser.add_argument_group("compare models on a bag (docs/how-to/compare_models.md)")
    group.add_argument("--bag", type=Path, help="rosbag2 folder or file (.mcap, .db3), or ROS 1 bag (.bag)")
    group.add_argument(
        "--models", nargs="+", default=[], metavar="[NAME=]MODEL",
        help="two or more models: a folder, a name on the hub, a preset, or the URL of a server such as http://gpu:9010/v1",
    )  # fmt: skip
    group.add_argument("--output", type=Path, metavar="FOLDER", help="folder of the report; an unfinished one is continued")
    for task in CAMERA_TASKS:
        group.add_argument(
            f"--{task.value}", dest="asked", action="append", default=[], type=partial(_asked, task), metavar="TEXT",
            help=f"ask this question with the task {task.value}; repeatable",
        )  # fmt: skip
    group.add_argument("--queries", type=Path, metavar="FILE", help="YAML list of questions, or a parameter file of the node")
    group.add_argument("--image-topic", action="append", default=[], metavar="TOPIC", help="images; with several: CAMERA=TOPIC")
    group.add_argument("--robots", type=Path, metavar="FILE", help="plan: robots, in the form of config/robots_example.yaml")
    add_moment_arguments(group)
    add_asking_arguments(group)


def _asked(task: Task, text: str) -> tuple[Task, str]:
    return task, text


def check_use(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program if options of an evaluation and of a comparison are mixed."""
    wrong = _ONLY_WITHOUT_BAG if options.bag else _ONLY_WITH_BAG
    for name in wrong:
        if getattr(options, name) != parser.get_default(name):
            shown = "--" + ("point" if name == "asked" else name.replace("_", "-"))
            parser.error(f"{shown} {'does not apply with' if options.bag else 'needs'} --bag")


def prepare(options: argparse.Namespace) -> Comparison:
    """Check the options, the bag and the output folder.

    :raises BagError: something is wrong.
    """
    require_rosbags()
    if options.output is None:
        raise BagError("Name the folder of the report with --output.")
    models = _models(options)
    source = Source(options.bag)
    try:
        cameras = [CameraTopics(camera.name, camera.image) for camera in select_cameras(source, options.image_topic, [], [])]
        questions = _questions(options, cameras)
        comparison = Comparison(source, cameras, questions, models, options.output, options.at_once, options.limit)
        digests = [comparison.question_digest(question) for question in questions]
        for index, question in enumerate(questions):
            if digests[index] in digests[:index]:
                raise BagError(f"The question {comparison.title(question)!r} is asked twice. Remove one of them.")
        _check_folder(options.output, options.bag)
    except BaseException:
        source.close()
        raise
    return comparison


def _questions(options: argparse.Namespace, cameras: Sequence[CameraTopics]) -> list[Question]:
    names = [camera.name for camera in cameras]
    check_moments(options)
    if options.think == "both":
        raise BagError("--think both does not apply with --bag. Choose yes or no.")
    if not options.queries and not options.asked:
        raise BagError('Ask a question, such as --point "the red mug", or name a file with --queries.')
    common = replace(asked_question(options, Task.ASK, "", names[:1]), think=options.think == "yes")
    # History is for some tasks only. Without this, the first other question of a file would be wrong.
    questions = read_questions(options.queries, common) if options.queries else []
    for task, text in options.asked:
        own = replace(common, task=task, text=text)
        all_of_them = tuple(names) if not task.spatial and not own.history_seconds else own.cameras
        questions.append(replace(own, cameras=all_of_them))
        check_question(questions[-1], f"--{task.value}")
    check_cameras(questions, cameras)
    plan = _plan(options, questions)
    return [replace(question, plan=plan) if question.task is Task.PLAN else question for question in questions]


def _plan(options: argparse.Namespace, questions: Sequence[Question]) -> PlanRequest | None:
    if options.robots is None:
        return None
    if not any(question.task is Task.PLAN for question in questions):
        raise BagError("--robots needs a question with the task plan.")
    from robobrain_ros.core.plans.robots_file import read_robots

    try:
        return PlanRequest(robots=read_robots(options.robots))
    except RoboBrainError as error:
        raise BagError(error.message) from error


def _check_folder(output: Path, bag: Path) -> None:
    """Check the folder of the report without creating it.

    :raises BagError: it has other files, or is not a folder.
    """
    own, recording = output.resolve(), bag.resolve()
    if own == recording or own in recording.parents or recording in own.parents:
        raise BagError(f"The output {output} and the bag {bag} contain each other. Choose another name.")
    try:
        if output.exists() and not output.is_dir():
            raise BagError(f"{output} is not a folder. Choose another name.")
        if output.exists() and not (output / LOG).is_file() and any(output.iterdir()):
            raise BagError(f"{output} has other files than those of a comparison. Choose another name.")
    except OSError as error:
        raise BagError(f"{output} cannot be read: {error.strerror}.") from error


def create_folder(output: Path) -> None:
    """Create the folder of the report.

    :raises BagError: it cannot be written.
    """
    try:
        (output / IMAGES).mkdir(parents=True, exist_ok=True)
        with (output / LOG).open("a"):
            pass
    except OSError as error:
        raise BagError(f"{output} cannot be written: {error.strerror}.") from error


def _models(options: argparse.Namespace) -> list[ComparedModel]:
    """Return the models of ``--models`` with their options.

    :raises BagError: a name, an option or a profile is wrong.
    """
    named = [_named(text) for text in options.models]
    names = [name for name, _ in named]
    if len(named) < 2:
        raise BagError("Name at least two models, such as --models old=robobrain2.0-7b new=/models/tuned.")
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise BagError(f"Two models are called {twice}. Name them: --models NAME=MODEL.")
    profiles = {}
    for text in options.model_profile:
        model, separator, profile = text.partition("=")
        profiles[_known(model, names, f"--model-profile {text}") if separator else ""] = profile if separator else text
    engine: dict[str, dict[str, Any]] = {}
    for full_name, value in options.engine:
        model, _, option = full_name.rpartition(".")
        engine.setdefault(_known(model, names, f"--engine {full_name}") if model else "", {})[option] = value
    models = []
    for name, where in named:
        profile = profiles.get(name, profiles.get("", AUTO))
        models.append(_checked(ComparedModel(name, where, profile, {**engine.get("", {}), **engine.get(name, {})})))
    return models


def _known(model: str, names: Sequence[str], option: str) -> str:
    """Return the name of a model.

    :raises BagError: there is none.
    """
    if model not in names:
        raise BagError(f"{option}: there is no model {model!r}. The models are {', '.join(names)}.")
    return model


def _named(text: str) -> tuple[str, str]:
    """Return the name and the place of ``[NAME=]MODEL``."""
    name, separator, where = text.partition("=")
    if not separator or "/" in name:
        name, where = "", text
    if not where.strip() or (separator and not name and not _is_url(where) and "/" not in where):
        raise BagError(f"--models {text!r}: write NAME=MODEL.")
    if not name:
        name = (urlsplit(where).netloc if _is_url(where) else presets.checkpoint_name(where.rstrip("/"))).replace(":", "-")
    if not _NAME.fullmatch(name):
        raise BagError(f"--models {text!r}: name the model with letters, digits and . + - _, as in --models new={where}.")
    return name, where


def _is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def _checked(model: ComparedModel) -> ComparedModel:
    """Return the model if its profile and its options are right.

    :raises BagError: they are not.
    """
    if wrong := next((name for name in _OF_SERVER if name in model.engine), ""):
        raise BagError(f"--engine {wrong} does not apply with --bag. Name the servers with --models.")
    if "model" in model.engine and not model.on_server:
        raise BagError(f"--engine {model.name}.model is only for a server. Write --models {model.name}=MODEL.")
    try:
        if model.profile.lower() != AUTO:
            named_profile(model.profile, all_profiles())
        _options(model).validate()
    except RoboBrainError as error:
        raise _fault(model, error) from error
    return model


def _options(model: ComparedModel) -> EngineOptions:
    return presets.resolve_options(model.keywords())


def _fault(model: ComparedModel, error: RoboBrainError) -> BagError:
    return BagError(f"Model {model.name}: {error.message}")


async def check_model(model: ComparedModel, progress: ProgressCallback) -> None:
    """Check a model without loading it: the files of its checkpoint, or whether its server answers. Download the checkpoint if
    necessary.

    :raises BagError: the model cannot be used.
    """
    origin = partial(check_origin, chosen=model.profile)
    options = _options(model)
    try:
        if model.on_server:
            from robobrain_ros.engine.factory import make_engine

            engine = make_engine(options, check_origin=origin)
            try:
                await engine.start(progress)
            finally:
                await engine.close()
        else:
            await asyncio.to_thread(_check_checkpoint, options, origin, progress)
    except RoboBrainError as error:
        raise _fault(model, error) from error


def _check_checkpoint(options: EngineOptions, origin: Any, progress: ProgressCallback) -> None:
    from robobrain_ros.engine.embedded.checkpoint import find_checkpoint
    from robobrain_ros.engine.embedded.checkpoint_files import check_files

    checkpoint = find_checkpoint(options, progress, origin)
    check_files(checkpoint.path, weights_needed=options.embedded.load_format != "dummy")
