"""Read answers to conditions: yes or no, and how probable the model finds its answer."""

import math
import re
from collections.abc import Iterable, Sequence

from robobrain_ros.engine.base import TokenChoice

_ANSWER = re.compile(r"\W*(yes|no)(\s*[.,;:!*\"'’”)\]}–—].*)?\s*", re.IGNORECASE | re.DOTALL)
"""One of the words alone, or followed by punctuation: "Yes, the drawer is open." """
_WORDS = ("yes", "no")


def read_yes_or_no(text: str) -> bool | None:
    """Return whether an answer is yes or no, or None if it is neither ("No idea", "yes/no", "The drawer is open")."""
    found = _ANSWER.fullmatch(text)
    return None if found is None else found[1].lower() == "yes"


def begins_answer(choices: Sequence[TokenChoice]) -> bool:
    """Return whether the most likely token begins the word yes or no."""
    return bool(choices) and _word_of(choices[0].text) is not None


def confidence_in(holds: bool, choices: Sequence[TokenChoice]) -> float | None:
    """Return the probability of the answer relative to both answers, 0.5 to 1, or None if it is unknown.

    The probabilities of all tokens that begin the same answer are added ("Yes", "yes", "Y"). If no token begins the other answer,
    that answer gets the probability of the least likely token, which is an upper limit. The result is at least 0.5, because the
    model wrote the more likely answer.

    :param holds: the answer: yes or no.
    :param choices: the likely tokens at the first place of the answer, the most likely one first.
    """
    answered = "yes" if holds else "no"
    ours = _sum(choice.logprob for choice in choices if _word_of(choice.text) == answered)
    others = [choice.logprob for choice in choices if _word_of(choice.text) not in (answered, None)]
    if math.isinf(ours) or len(choices) < 2:
        return None
    other = _sum(others) if others else min(choice.logprob for choice in choices)
    return max(1.0 / (1.0 + math.exp(min(other - ours, 700.0))), 0.5)


def _word_of(token: str) -> str | None:
    """Return the word that a token begins: "yes" for "Yes", " y" and "YES,"; None for other tokens, such as "not"."""
    text = token.strip(" \n\t\"'*_▁").lower()
    for word in _WORDS:
        if text and (word.startswith(text) or (text.startswith(word) and not text[len(word)].isalpha())):
            return word
    return None


def _sum(logprobs: Iterable[float]) -> float:
    """Return the logarithm of the sum of probabilities; minus infinity if there are none."""
    values = list(logprobs)
    most = max(values, default=-math.inf)
    return most if math.isinf(most) else most + math.log(sum(math.exp(value - most) for value in values))
