"""The differences between model families: prompts, forms of answers, coordinates, thinking, and what identifies a family."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from robobrain_ros.core.plans import prompt as plan_prompt
from robobrain_ros.core.plans.request import PlanRequest
from robobrain_ros.core.profiles.writing import Writing
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


TEXT_SLOT = "{text}"
"""The place of the user's text in a prompt. It is replaced without `str.format`, because the text may contain braces."""


IMAGE_SLOT = "<image>"
"""The place of an image in a prompt whose images stand between its texts. In the other prompts, the images come first."""


@dataclass(frozen=True)
class Source:
    """Where the authors of a family publish a prompt or a format.

    :param commit: beginning of the commit's hash, or empty if the commit is unknown.
    """

    repository: str
    file: str
    commit: str

    def __str__(self) -> str:
        return f"{self.repository} {self.file}" + (f" @ {self.commit}" if self.commit else "")


@dataclass(frozen=True)
class Thinking:
    """How a family is asked to think, and how its thinking is separated from its answer.

    :param opening: text with which the thinking begins. The engine puts it after the generation prompt.
    :param closing: text between the thinking and the answer.
    :param skipped: text with which an answer without thinking begins. The engine puts it after the generation prompt.
    :param request: text after the user's message if the model is asked to think.
    :param always: whether the family was trained only to think before its answer. It then thinks even if a query asks not to.
    """

    opening: str = "<think>"
    closing: str = "</think>"
    skipped: str = ""
    request: str = ""
    always: bool = False


@dataclass(frozen=True)
class TaskPrompt:
    """The prompt of a task and the form of its answer.

    :param template: contains `TEXT_SLOT`, and `IMAGE_SLOT` once for each image or not at all.
    :param ends_sentence: whether the template has its own full stop after the text.
    :param tagged: whether the model was trained to write its answer between tags, after thinking.
    :param max_pixels: pixel limit of each image in training, or 0 if there was no limit below that of the checkpoint.
    :param writing: how the family writes the coordinates of the answer. None: a grammar cannot constrain the answer.
    :param source: where the authors publish the prompt. None: the prompt is the user's text, or it is this project's own.
    """

    template: str
    form: AnswerForm
    ends_sentence: bool = True
    tagged: bool = True
    max_pixels: int = 0
    writing: Writing | None = None
    source: Source | None = None

    def fill(self, text: str) -> tuple[str, ...]:
        """Return the texts of the prompt for ``text``: the text before each image, and the last text.

        A full stop at the end of the text is removed if the template has its own.
        """
        text = text.strip().rstrip(". \t\r\n") if self.ends_sentence else text
        return tuple(part.replace(TEXT_SLOT, text) for part in self.template.split(IMAGE_SLOT))


@dataclass(frozen=True)
class Profile:
    """A model family on one architecture.

    :param name: value of the parameter ``model_profile``, such as "robobrain2.0".
    :param family: name of the family in messages and documentation. Profiles of one family have different model types.
    :param model_type: ``model_type`` in the checkpoints' config.json.
    :param prompts: the prompt of each supported task, exactly as in training.
    :param coordinates: the unit of the coordinates in answers.
    :param cell: side in pixels of the square that one visual token covers. The sides of resized images are multiples of it.
    :param source: where the authors publish the unit of the coordinates and the form of the answers.
    :param thinking: how the family thinks. None: no checkpoint of the family can think.
    :param can_think: whether this checkpoint can think. Its files do not show this: see `with_thinking`.
    :param gives_depth: whether the third number of a point is its depth in metres. In other families, it is a confidence.
    :param marks: names of tags that surround coordinates, such as "area" for ``<area> (1, 2) </area>``.
    :param names: regular expression that is found in the names of the family's checkpoints. Case does not matter.
    :param examples: names of the checkpoints that the authors publish.
    :param other_names: regular expression for the names of the authors' checkpoints that have other prompts. They are rejected.
    :param template_marks: texts that only the chat templates of this family contain.
    :param special_tokens: tokens that only the tokenizers of this family contain.
    :param sizes: the published sizes, such as "7B", by ``hidden_size`` of the language model.
    :param based_on: names of the profiles whose checkpoints the family was fine-tuned from. A checkpoint that is identified as
        the family and as one of these is the family's.
    """

    name: str
    family: str
    model_type: str
    prompts: Mapping[Task, TaskPrompt] = field(hash=False)
    coordinates: CoordinateRule
    cell: int
    source: Source
    thinking: Thinking | None = None
    can_think: bool = False
    gives_depth: bool = False
    marks: tuple[str, ...] = ()
    names: str = ""
    examples: tuple[str, ...] = ()
    other_names: str = ""
    template_marks: tuple[str, ...] = ()
    special_tokens: frozenset[str] = frozenset()
    sizes: Mapping[int, str] = field(default_factory=dict, hash=False)
    based_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the regular expressions, so that a faulty one fails here and not for each checkpoint."""
        for pattern in (self.names, self.other_names):
            re.compile(pattern)

    @property
    def tasks(self) -> frozenset[Task]:
        """The tasks that the family was trained for."""
        return frozenset(self.prompts)

    def with_thinking(self, can_think: bool) -> "Profile":
        """Return this profile for a checkpoint that can or cannot think (RoboBrain 2.0: 7B and 32B can, 3B cannot).

        :raises EngineConfigError: the family has no checkpoint that can think, or none that can answer without thinking.
        """
        if can_think and self.thinking is None:
            raise EngineConfigError(f"{self.family} was not trained to think. Do not set can_think for this checkpoint.")
        if not can_think and self.always_thinks:
            raise EngineConfigError(f"{self.family} was trained only to think. Do not set can_think for this checkpoint.")
        return replace(self, can_think=can_think)

    @property
    def always_thinks(self) -> bool:
        """Whether the model thinks even if a query asks not to."""
        return self.thinking is not None and self.thinking.always

    def is_named_in(self, text: str) -> bool:
        """Return whether a checkpoint with this name belongs to the family."""
        return bool(self.names) and re.search(self.names, text, re.IGNORECASE) is not None

    def rejects(self, text: str) -> bool:
        """Return whether a checkpoint with this name is one of the authors' that has other prompts."""
        return bool(self.other_names) and re.search(self.other_names, text, re.IGNORECASE) is not None

    def constrained_form(self, task: Task) -> Writing | None:
        """Return how the family writes the coordinates of the answer to ``task``. None: a grammar cannot constrain it.

        :raises UnsupportedTaskError: the family was not trained for the task.
        """
        return self._task_prompt(task).writing

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
        if not self.can_think or self.thinking is None:
            return ""
        return self.thinking.opening if think else self.thinking.skipped

    def end_of_thinking(self) -> str:
        """Return the text between the thinking and the answer. It is empty for checkpoints that cannot think."""
        return self.thinking.closing if self.can_think and self.thinking is not None else ""

    def prefix_after_thinking(self, thinking: str) -> str:
        """Return the prefix of the answer after ``thinking``, whether the thinking was complete or not."""
        return f"{self.assistant_prefix(think=True)}{thinking}{self.end_of_thinking()}"

    def request_to_think(self, think: bool) -> str:
        """Return the text after the user's message that asks the model to think, or an empty text."""
        return self.thinking.request if think and self.can_think and self.thinking is not None else ""

    def _task_prompt(self, task: Task) -> TaskPrompt:
        prompt = self.prompts.get(task)
        if prompt is None:
            known = ", ".join(sorted(known.value for known in self.prompts))
            raise UnsupportedTaskError(f"{self.family} was not trained for the task {task.value}. It supports {known}.")
        return prompt
