"""The differences between model families: prompts, tasks, coordinates and thinking. To add a family, add a `Profile`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from robobrain_ros.bounds.files import UnreadableFileError, read_small_json
from robobrain_ros.core.plans import prompt as plan_prompt
from robobrain_ros.core.plans.request import PlanRequest
from robobrain_ros.core.progress_prompt import GRM_PROMPT
from robobrain_ros.core.query import Task
from robobrain_ros.errors import EngineConfigError, UnsupportedTaskError


class CoordinateRule(Enum):
    """The unit of a model's coordinates."""

    PIXELS_OF_MODEL_IMAGE = "pixels of the image as the model sees it"
    THOUSANDTHS = "thousandths of the width and of the height of the image, whatever its size"


class AnswerForm(Enum):
    """The form of an answer. The value is the name of the field of `core.query.ParsedAnswer` with the result."""

    TEXT = "text"
    POINTS = "points"
    BOXES = "boxes"
    WAYPOINTS = "waypoints"
    STEPS = "steps"
    SCORE = "score"


_LARGEST_CONFIG = 10_000_000
"""Largest config.json in bytes."""
TEXT_SLOT = "{text}"
"""The place of the user's text in a prompt. It is replaced without `str.format`, because the text may contain braces."""


IMAGE_SLOT = "<image>"
"""The place of an image in a prompt whose images stand between its texts. In the other prompts, the images come first."""


@dataclass(frozen=True)
class TaskPrompt:
    """The prompt of a task and the form of its answer.

    :param template: contains `TEXT_SLOT`, and `IMAGE_SLOT` once for each image or not at all.
    :param ends_sentence: whether the template has its own full stop after the text.
    :param tagged: whether the model was trained to write its answer between tags, after thinking.
    :param max_pixels: pixel limit of each image in training, or 0 if there was no limit below that of the checkpoint.
    """

    template: str
    form: AnswerForm
    ends_sentence: bool = True
    tagged: bool = True
    max_pixels: int = 0

    def fill(self, text: str) -> tuple[str, ...]:
        """Return the texts of the prompt for ``text``: the text before each image, and the last text.

        A full stop at the end of the text is removed if the template has its own.
        """
        text = text.strip().rstrip(". \t\r\n") if self.ends_sentence else text
        return tuple(part.replace(TEXT_SLOT, text) for part in self.template.split(IMAGE_SLOT))


@dataclass(frozen=True)
class Profile:
    """A model family.

    :param model_type: ``model_type`` in the checkpoint's config.json. It identifies the family.
    :param family: name of the family in messages and documentation.
    :param prompts: the prompt of each supported task, exactly as in training.
    :param coordinates: the unit of the coordinates in answers.
    :param cell: side in pixels of the square that one visual token covers. The sides of resized images are multiples of it.
    :param trained_to_think: whether the family has checkpoints that can think.
    :param gives_depth: whether the third number of a point is its depth in metres. In other families, it is a confidence.
    :param can_think: whether this checkpoint can think. Its files do not show this: see `with_thinking`.
    """

    model_type: str
    family: str
    prompts: Mapping[Task, TaskPrompt] = field(hash=False)
    coordinates: CoordinateRule
    cell: int
    trained_to_think: bool
    can_think: bool
    gives_depth: bool = False

    @property
    def tasks(self) -> frozenset[Task]:
        """The tasks that the family was trained for."""
        return frozenset(self.prompts)

    def with_thinking(self, can_think: bool) -> "Profile":
        """Return this profile for a checkpoint that can or cannot think (RoboBrain 2.0: 7B and 32B can, 3B cannot).

        :raises EngineConfigError: the family has no checkpoint that can think.
        """
        if can_think and not self.trained_to_think:
            raise EngineConfigError(f"{self.family} was not trained to think. Do not set can_think for this checkpoint.")
        return replace(self, can_think=can_think)

    def prompt(self, task: Task, text: str) -> str:
        """Return the text of the user's message for ``task``, without images. Other texts than the last one: `prompt_texts`.

        :raises UnsupportedTaskError: the family was not trained for the task.
        """
        return "".join(self.prompt_texts(task, text))

    def prompt_texts(self, task: Task, text: str) -> tuple[str, ...]:
        """Return the texts of the user's message. If there are several, an image follows each text except the last one.

        :raises UnsupportedTaskError: the family was not trained for the task.
        """
        return self._task_prompt(task).fill(text)

    def image_limit(self, task: Task) -> int:
        """Return the pixel limit of each image in the training for ``task``, or 0 if there was none.

        :raises UnsupportedTaskError: the family was not trained for the task.
        """
        return self._task_prompt(task).max_pixels

    def uses_tags(self, task: Task) -> bool:
        """Return whether think and answer tags surround the answer to ``task``. Without tags, the model never thinks.

        :raises UnsupportedTaskError: the family was not trained for the task.
        """
        return self._task_prompt(task).tagged

    def plan_prompt(self, task: str, request: PlanRequest) -> str:
        """Return the user's message for a plan in the form of `core.plans.schema.plan_form`.

        :raises UnsupportedTaskError: the family was not trained to plan.
        """
        self._task_prompt(Task.PLAN)
        return plan_prompt.plan_prompt(task, request)

    def form(self, task: Task) -> AnswerForm:
        """Return the form of the answer to ``task``.

        :raises UnsupportedTaskError: the family was not trained for the task.
        """
        return self._task_prompt(task).form

    def assistant_prefix(self, think: bool) -> str:
        """Return the text with which the model's answer must begin. It is empty for checkpoints that cannot think."""
        if not self.can_think:
            return ""
        return "<think>" if think else "<think></think><answer>"

    def prefix_after_thinking(self, thinking: str) -> str:
        """Return the prefix of the answer after ``thinking``, whether the thinking was complete or not."""
        return f"{self.assistant_prefix(think=True)}{thinking}</think><answer>"

    def _task_prompt(self, task: Task) -> TaskPrompt:
        prompt = self.prompts.get(task)
        if prompt is None:
            known = ", ".join(sorted(known.value for known in self.prompts))
            raise UnsupportedTaskError(f"{self.family} was not trained for the task {task.value}. It supports {known}.")
        return prompt


_ASK = TaskPrompt(TEXT_SLOT, AnswerForm.TEXT, ends_sentence=False)
_GROUND = TaskPrompt(
    "Please provide the bounding box coordinate of the region this sentence describes: {text}.", AnswerForm.BOXES
)
# This prompt is not from RoboBrain, which has no planning prompt. It is worded like the official planning examples, and adds
# the form of the answer.
_PLAN = TaskPrompt(
    'The task is "{text}". What are the steps to complete the task? Answer with a numbered list, one step per line.',
    AnswerForm.STEPS,
)
# The model was trained with the other prompts. They are copied from inference.py of FlagOpen/RoboBrain2.0 and 2.5. RoboBrain 2.0
# answers in pixels, although its prompts contain "normalized".
_POINT_2_0 = TaskPrompt(
    "{text}. Your answer should be formatted as a list of tuples, i.e. [(x1, y1), (x2, y2), ...], where each tuple contains "
    "the x and y coordinates of a point satisfying the conditions above. The coordinates should indicate the normalized pixel "
    "locations of the points in the image.",
    AnswerForm.POINTS,
)
_AFFORDANCE_2_0 = TaskPrompt(
    'You are a robot using the joint control. The task is "{text}". Please predict a possible affordance area of the end '
    "effector.",
    AnswerForm.BOXES,
)
_TRAJECTORY_2_0 = TaskPrompt(
    'You are a robot using the joint control. The task is "{text}". Please predict up to 10 key trajectory points to complete '
    "the task. Your answer should be formatted as a list of tuples, i.e. [[x1, y1], [x2, y2], ...], where each tuple contains "
    "the x and y coordinates of a point.",
    AnswerForm.WAYPOINTS,
)
_POINT_2_5 = TaskPrompt(
    "{text}. Please provide its 2D coordinates. Your answer should be formatted as a tuple, i.e. [(x, y)], where the tuple "
    "contains the x and y coordinates of a point satisfying the conditions above.",
    AnswerForm.POINTS,
)
_TRAJECTORY_2_5 = TaskPrompt(
    "Please predict 3D end-effector-centric waypoints to complete the task successfully. The task is "
    '"{text}". Your answer should be formatted as a list of tuples, i.e., [(x1, y1, d1), (x2, y2, d2), ...], where each tuple '
    "contains the x and y coordinates and the depth of the point.",
    AnswerForm.WAYPOINTS,
)
# The GRM models have the architectures of RoboBrain 2.0 and 2.5. The pixel limit is that of examples/inference.py of
# FlagOpen/Robo-Dopamine, which never asks a model to think.
_PROGRESS = TaskPrompt(GRM_PROMPT, AnswerForm.SCORE, ends_sentence=False, tagged=False, max_pixels=76_800)

PROFILES: tuple[Profile, ...] = (
    Profile(
        model_type="qwen2_5_vl",
        family="RoboBrain 2.0",
        prompts={
            Task.ASK: _ASK,
            Task.POINT: _POINT_2_0,
            Task.AFFORDANCE: _AFFORDANCE_2_0,
            Task.TRAJECTORY: _TRAJECTORY_2_0,
            Task.GROUND: _GROUND,
            Task.PLAN: _PLAN,
            Task.PROGRESS: _PROGRESS,
        },
        coordinates=CoordinateRule.PIXELS_OF_MODEL_IMAGE,
        cell=28,
        trained_to_think=True,
        can_think=True,
    ),
    Profile(
        model_type="qwen3_vl",
        family="RoboBrain 2.5",
        prompts={
            Task.ASK: _ASK,
            Task.POINT: _POINT_2_5,
            # RoboBrain 2.5 has no affordance task. The prompt asks for a point.
            Task.AFFORDANCE: _POINT_2_5,
            Task.TRAJECTORY: _TRAJECTORY_2_5,
            Task.GROUND: _GROUND,
            Task.PLAN: _PLAN,
            Task.PROGRESS: _PROGRESS,
        },
        coordinates=CoordinateRule.THOUSANDTHS,
        cell=32,
        trained_to_think=False,
        can_think=False,
        gives_depth=True,
    ),
)
"""All known families."""


def profile_for(where: str | Path) -> Profile:
    """Return the profile of a model family.

    :param where: a ``model_type`` such as "qwen2_5_vl", or a checkpoint's folder, or its config.json.
    :raises EngineConfigError: the file does not exist, or the family is unknown.
    """
    known = {profile.model_type: profile for profile in PROFILES}
    if str(where) in known:
        return known[str(where)]
    names = " and ".join(f"{profile.model_type} ({profile.family})" for profile in PROFILES)
    path = Path(where)
    if not os.path.exists(path):  # Unlike Path.exists, false if the name cannot be read.
        raise EngineConfigError(
            f"{str(where)!r} is neither a known model type nor the folder of a checkpoint. Known model types are {names}."
        )
    model_type = _model_type(path / "config.json" if path.is_dir() else path)
    if model_type not in known:
        raise EngineConfigError(
            f"The checkpoint in {path} has the unknown model type {model_type!r}. Known model types are {names}."
        )
    return known[model_type]


def _model_type(config: Path) -> str:
    try:
        content = read_small_json(config, _LARGEST_CONFIG)
    except UnreadableFileError as error:
        raise EngineConfigError(f"{config} cannot be read as a checkpoint's config.json: {error}.") from error
    return str(content.get("model_type", ""))
