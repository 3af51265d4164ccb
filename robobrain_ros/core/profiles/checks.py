"""The check of profiles of other packages: a field of a wrong type would fail later, with a traceback."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from robobrain_ros.bounds.texts import one_line, shortened
from robobrain_ros.core.profiles.profile import CoordinateRule, Profile, Source, TaskPrompt, Thinking
from robobrain_ros.core.query import Task

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
_LONGEST_QUOTE = 60


def _texts(kind: type[tuple[Any, ...] | frozenset[Any]]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind) and all(isinstance(text, str) and text for text in value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _full_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_prompts(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(
        isinstance(task, Task) and isinstance(prompt, TaskPrompt) for task, prompt in value.items()
    )  # fmt: skip


_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "name": (
        lambda value: isinstance(value, str) and _NAME.fullmatch(value) is not None and value.lower() != "auto",
        "a name of letters, digits and . + - _ that is not auto",
    ),
    "family": (_full_text, "a text"),
    "model_type": (_full_text, "a text"),
    "prompts": (_are_prompts, "a mapping from Task to TaskPrompt with at least one task"),
    "coordinates": (lambda value: isinstance(value, CoordinateRule), "a CoordinateRule"),
    "cell": (lambda value: type(value) is int and 0 < value <= 1024, "a number of pixels from 1 to 1024"),
    "source": (lambda value: isinstance(value, Source), "a Source"),
    "thinking": (lambda value: value is None or isinstance(value, Thinking), "a Thinking or None"),
    "can_think": (lambda value: isinstance(value, bool), "True or False"),
    "gives_depth": (lambda value: isinstance(value, bool), "True or False"),
    "marks": (_texts(tuple), "a tuple of texts"),
    "names": (_text, "a regular expression"),
    "examples": (_texts(tuple), "a tuple of texts"),
    "other_names": (_text, "a regular expression"),
    "template_marks": (_texts(tuple), "a tuple of texts"),
    "special_tokens": (_texts(frozenset), "a frozenset of texts"),
    "sizes": (
        lambda value: (
            isinstance(value, Mapping) and all(type(width) is int and isinstance(size, str) for width, size in value.items())
        ),
        "a mapping from hidden_size to the size as text",
    ),
    "based_on": (_texts(tuple), "a tuple of texts"),
}
"""Of each field of `Profile`: whether a value is right, and what it must be."""


def fault_of(profile: Profile) -> str:
    """Return the first fault of a profile as the end of a sentence, or an empty text."""
    for name, (is_right, needed) in _RULES.items():
        value = getattr(profile, name)
        if not is_right(value):
            return f"{name} is {shortened(one_line(repr(value)), _LONGEST_QUOTE)}; it must be {needed}"
    if profile.can_think and profile.thinking is None:
        return "can_think is True, but thinking is None"
    return ""
