"""Parse JSON that a user wrote, as the standard defines it: Python's parser also accepts NaN, Infinity and endless numbers."""

import json
from typing import Any, NoReturn

_LARGEST_INTEGER = 2**64
_LONGEST_QUOTE = 20


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    :raises ValueError: the text is not JSON, is nested too deeply, or has a number that no 64-bit type can hold. The message is
        the reason, without a full stop.
    """
    try:
        return json.loads(text, parse_constant=_reject, parse_float=_real, parse_int=_integer)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _real(text: str) -> float:
    number = float(text)
    return _reject(text) if number in (float("inf"), float("-inf")) else number


def _integer(text: str) -> int:
    if len(text) > _LONGEST_QUOTE + 1 or abs(int(text)) >= _LARGEST_INTEGER:
        _reject(text)
    return int(text)


def _reject(text: str) -> NoReturn:
    shown = text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}..."
    raise ValueError(f"{shown} is not a number, or is too large")
