"""Check every text of a query that reaches a prompt for control tokens."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from robobrain_ros.bounds.control_tokens import reject_control_tokens
from robobrain_ros.core.query import Query


def check_prompt_texts(query: Query, tokens: frozenset[str] = frozenset()) -> None:
    """Check the question and, for a plan, what is known of robots, scene and history.

    :param tokens: the special tokens of the checkpoint's tokenizer; empty: not known.
    :raises BadRequestError: a text holds a control token; the message begins with the field.
    """
    reject_control_tokens("The question", query.text, tokens)
    if query.plan is not None:
        for path, text in texts_of(query.plan, "context"):
            reject_control_tokens(path, text, tokens)


def texts_of(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every text in dataclasses and tuples, with its path, as in ``context.robots[0].skills[1].name``."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, tuple | list):
        for number, item in enumerate(value):
            yield from texts_of(item, f"{path}[{number}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from texts_of(getattr(value, field.name), f"{path}.{field.name}")
