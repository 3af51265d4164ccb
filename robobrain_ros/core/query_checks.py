"""Check a query before it uses any resources."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from robobrain_ros.bounds.control_tokens import reject_control_tokens
from robobrain_ros.bounds.texts import has_lone_surrogates
from robobrain_ros.core.plans.checks import check_counts
from robobrain_ros.core.progress import IMAGES_OF_COMPARISON
from robobrain_ros.core.query import TIMED_TASKS, Query, Task
from robobrain_ros.core.timed_images import times_fault
from robobrain_ros.engine.base import MOST_IMAGES
from robobrain_ros.errors import BadRequestError

LONGEST_TEXT = 8000
"""Most characters of a question. A question of this length leaves most of the model's context free."""
REQUESTS = "request"
"""First part of the markers' namespace for all requests without a standing query. Therefore no standing query has this name."""


def check_query(query: Query, special_tokens: frozenset[str] = frozenset()) -> None:
    """Check the texts and the number of images, not the pixels of the images.

    :param special_tokens: the special tokens of the checkpoint's tokenizer, or empty if unknown.
    :raises BadRequestError: the query is invalid. The message names the field.
    """
    if not query.text.strip():
        raise BadRequestError("The question is empty. State what to look for or what to do.")
    if len(query.text) > LONGEST_TEXT:
        raise BadRequestError(
            f"The question has {len(query.text)} characters; at most {LONGEST_TEXT} are allowed. Shorten the question."
        )
    if has_lone_surrogates(query.text):
        raise BadRequestError("The question contains a lone surrogate, which is not a valid character. Remove it.")
    if query.condition and query.task is not Task.ASK:
        raise BadRequestError(f"condition is set, but the task is {query.task.value}. Only the task ask has conditions.")
    if query.plan is not None:
        check_counts(query.plan)  # Before all of its texts are read.
    _check_control_tokens(query, special_tokens)
    _check_image_count(query)


def _check_control_tokens(query: Query, special_tokens: frozenset[str]) -> None:
    """Check every text that reaches a prompt: the question and, for a plan, robots, scene and history."""
    reject_control_tokens("The question", query.text, special_tokens)
    if query.plan is not None:
        for path, text in texts_of(query.plan, "context"):
            reject_control_tokens(path, text, special_tokens)


def _check_image_count(query: Query) -> None:
    task, count = query.task, len(query.images)
    if task.spatial and count != 1:
        raise BadRequestError(f"The task {task.value} takes exactly one image, not {count}.")
    if task is Task.PROGRESS and count != IMAGES_OF_COMPARISON:
        raise BadRequestError(
            f"The task {task.value} takes exactly {IMAGES_OF_COMPARISON} images, not {count}: see core.progress.comparison."
        )
    if not 1 <= count <= MOST_IMAGES:
        raise BadRequestError(f"The task {task.value} takes 1 to {MOST_IMAGES} images, not {count}.")
    if query.image_ids and len(query.image_ids) != count:
        raise BadRequestError(f"The query has {len(query.image_ids)} image ids for {count} images. Name each image, or none.")
    if query.max_pixels and (len(query.max_pixels) != count or min(query.max_pixels) < 0):
        raise BadRequestError(f"max_pixels is {list(query.max_pixels)}. It must have one number for each image, 0 or more.")
    if query.image_times and task not in TIMED_TASKS:
        raise BadRequestError(f"The task {task.value} takes no images of different times. Leave image_times empty.")
    if query.image_times and (fault := times_fault(query.image_times, count)):
        raise BadRequestError(fault)


def texts_of(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield every text in dataclasses and tuples with its path, as in ``context.robots[0].skills[1].name``."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, tuple | list):
        for number, item in enumerate(value):
            yield from texts_of(item, f"{path}[{number}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from texts_of(getattr(value, field.name), f"{path}.{field.name}")
