"""Read the score in an answer to `Task.PROGRESS`."""

import re
from collections.abc import Iterator

_OPEN, _CLOSE = "<score>", "</score>"
_SCORE = re.compile(r"\s*([+-]?[0-9]{1,3})\s*%\s*", re.ASCII)
_LARGEST = 100


def read_score(text: str) -> int:
    """Return the score in percent, -100 to 100.

    Text around the score is ignored. Servers without grammars let the model write it.

    :raises ValueError: the text has no readable score, or different scores. The message completes the sentence "The score
        cannot be read: ...". The official code reads such an answer as 0, which is the score of an unchanged scene.
    """
    scores = {_read_element(element) for element in _elements(text)}
    if not scores:
        raise ValueError("the answer contains no complete <score>...</score>")
    if len(scores) > 1:
        raise ValueError(f"the answer contains different scores ({', '.join(f'{score:+d} %' for score in sorted(scores))})")
    return scores.pop()


def _elements(text: str) -> Iterator[str]:
    """Yield what is between each opening tag and the next closing one. A regular expression would need quadratic time."""
    start = text.find(_OPEN)
    while start >= 0:
        end = text.find(_CLOSE, start)
        if end < 0:
            return
        yield text[start + len(_OPEN) : end]
        start = text.find(_OPEN, end)


def _read_element(element: str) -> int:
    match = _SCORE.fullmatch(element)
    if match is None or abs(int(match[1])) > _LARGEST:
        raise ValueError(f"{element[:40]!r} is not a whole percentage from -{_LARGEST} to {_LARGEST}")
    return int(match[1])
