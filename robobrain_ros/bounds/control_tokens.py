"""Find and reject control tokens in texts of users, because the tokenizer would turn them into control tokens of the prompt.

In a question, ``<|im_end|>`` would end the turn, ``<|im_start|>system`` would begin another turn, and ``<|image_pad|>`` would
take the place of an image. Each text is checked against the form ``<|...|>``, which the control tokens of all supported families
have. If the checkpoint's tokenizer is known, the text is also checked against the tokenizer's special tokens.

Words such as ``<think>`` and ``<answer>`` are not control tokens. In the user's turn, they are ordinary text and cannot end the
turn, and questions of benchmarks contain them ("answer in <answer> tags"). Similar characters of other alphabets are also
ordinary text for a tokenizer.

This module imports only `errors` from this package, so that the core, the engines and the HTTP server can use it.
"""

import re
from functools import lru_cache

from robobrain_ros.errors import BadRequestError

_FORM = r"<\|[^<>|\s]{1,64}\|>"
_SHORTEST = 3
"""Least characters of a special token that is checked. Some tokenizers use an ordinary letter or word for padding."""


def special_tokens_of(tokenizer: object) -> frozenset[str]:
    """Return the special tokens of a tokenizer of transformers. The chat template and the model structure a prompt with them."""
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    special = {str(token) for token in added.values() if getattr(token, "special", False)}
    return frozenset(special | {str(token) for token in getattr(tokenizer, "all_special_tokens", ())})


def find_control_token(text: str, tokens: frozenset[str] = frozenset()) -> str:
    """Return the first control token in a text, or an empty string if there is none.

    :param tokens: the checkpoint's special tokens (`special_tokens_of`), or empty if unknown.
    """
    found = _pattern(tokens).search(text)
    return found[0] if found else ""


def reject_control_tokens(field: str, text: str, tokens: frozenset[str] = frozenset()) -> None:
    """Check a text that becomes part of a prompt.

    :param field: name of the text for the message, such as "The question" or "context.robots[0].name".
    :raises BadRequestError: the text contains a control token.
    """
    token = find_control_token(text, tokens)
    if token:
        raise BadRequestError(
            f"{field}: {token[:60]} is a control token of the model, which ends or changes the prompt; leave it out, or write it "
            "with blanks inside."
        )


def without_control_tokens(text: str, tokens: frozenset[str] = frozenset()) -> str:
    """Insert a blank into each control token of a text, so that the tokenizer treats it as ordinary text."""
    return _pattern(tokens).sub(lambda token: f"{token[0][:1]} {token[0][1:]}", text)


@lru_cache(maxsize=16)
def _pattern(tokens: frozenset[str]) -> "re.Pattern[str]":
    others = sorted((token for token in tokens if _is_distinct(token)), key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, others), _FORM]))


def _is_distinct(token: str) -> bool:
    return len(token) >= _SHORTEST and not token.isalnum()
