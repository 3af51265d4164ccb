"""Find and reject control tokens of chat templates in texts of users, because a tokenizer turns them into real tokens.

``<|im_end|>`` in a question ends the turn, ``<|im_start|>system`` begins another one, and ``<|image_pad|>`` takes the place
of an image. A text is checked against the special tokens of the checkpoint's own tokenizer where it is known, and always against
the form ``<|...|>``, which the tokens of all supported families have.

Words such as ``<think>`` and ``<answer>`` are not control tokens. They stand in the user's turn as any other text and cannot end
it, and questions of benchmarks hold them ("answer in <answer> tags"). Look-alikes of other alphabets are ordinary text for a
tokenizer.

This module imports nothing of the package but the errors, so that the core, the engines and the HTTP server can use it.
"""

import re
from functools import lru_cache

from robobrain_ros.errors import BadRequestError

_FORM = r"<\|[^<>|\s]{1,64}\|>"
_SHORTEST = 3
"""Least characters of a token of another form. Some tokenizers pad with an ordinary letter or word."""


def special_tokens_of(tokenizer: object) -> frozenset[str]:
    """The special tokens of a tokenizer of transformers, by which its chat template and its model structure a text."""
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    special = {str(token) for token in added.values() if getattr(token, "special", False)}
    return frozenset(special | {str(token) for token in getattr(tokenizer, "all_special_tokens", ())})


def find_control_token(text: str, tokens: frozenset[str] = frozenset()) -> str:
    """The first control token in a text; empty: there is none.

    :param tokens: the checkpoint's special tokens, as of `special_tokens_of`; empty: not known.
    """
    found = _pattern(tokens).search(text)
    return found[0] if found else ""


def reject_control_tokens(field: str, text: str, tokens: frozenset[str] = frozenset()) -> None:
    """Check a text that goes into a prompt.

    :param field: what holds the text, for the message: "The question", "context.robots[0].name".
    :raises BadRequestError: the text holds a control token.
    """
    token = find_control_token(text, tokens)
    if token:
        raise BadRequestError(
            f"{field}: {token[:60]} is a control token of the model, which ends or changes the prompt; leave it out, or write it "
            "with blanks inside."
        )


def without_control_tokens(text: str, tokens: frozenset[str] = frozenset()) -> str:
    """Split the control tokens of a text with a blank, so that a tokenizer reads them as ordinary text."""
    return _pattern(tokens).sub(lambda token: f"{token[0][:1]} {token[0][1:]}", text)


@lru_cache(maxsize=16)
def _pattern(tokens: frozenset[str]) -> "re.Pattern[str]":
    others = sorted((token for token in tokens if _is_distinct(token)), key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, others), _FORM]))


def _is_distinct(token: str) -> bool:
    return len(token) >= _SHORTEST and not token.isalnum()
