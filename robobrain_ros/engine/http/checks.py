"""Checks of single JSON values in the bodies of HTTP requests."""

import json
import math
from collections.abc import Callable
from typing import Any

DEEPEST_JSON = 32
LONGEST_NAME = 256


class RequestError(ValueError):
    """A rejected request. ``field`` is the place in its body, such as ``messages[0].content``."""

    def __init__(self, field: str, reason: str, status: int = 400) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.status = status


Check = Callable[[Any, str], Any]
"""Takes a value and its place. Returns the value for vLLM, None to leave the field out, or raises `RequestError`."""


def integer(low: int, high: int) -> Check:
    """Return a check for a whole number from ``low`` to ``high``."""

    def check(value: Any, place: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise RequestError(place, f"a whole number from {low} to {high} is expected")
        return value

    return check


def number(low: float, high: float) -> Check:
    """Return a check for a number from ``low`` to ``high``."""

    def check(value: Any, place: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise RequestError(place, f"a number from {low:g} to {high:g} is expected")
        return value

    return check


def text(longest: int = LONGEST_NAME) -> Check:
    """Return a check for a string that can be encoded as UTF-8."""

    def check(value: Any, place: str) -> Any:
        if not isinstance(value, str) or len(value) > longest:
            raise RequestError(place, f"a string of at most {longest} characters is expected")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RequestError(place, "the string contains a lone surrogate, which is not a valid character") from error
        return value

    return check


def flag(value: Any, place: str) -> Any:
    """Check that a value is true or false."""
    if not isinstance(value, bool):
        raise RequestError(place, "true or false is expected")
    return value


def one_of(*choices: str) -> Check:
    """Return a check for one of these strings."""

    def check(value: Any, place: str) -> Any:
        if value not in choices:
            raise RequestError(place, f"one of {', '.join(choices)} is expected")
        return value

    return check


def list_of(check: Check, most: int) -> Check:
    """Return a check for a list. ``check`` checks each item."""

    def check_list(value: Any, place: str) -> Any:
        if not isinstance(value, list) or len(value) > most:
            raise RequestError(place, f"a list of at most {most} items is expected")
        return [check(item, f"{place}[{number}]") for number, item in enumerate(value)]

    return check_list


def plain_json(deepest: int, largest: int) -> Check:
    """Return a check for any JSON value, with limits for depth and bytes."""

    def check(value: Any, place: str) -> Any:
        check_depth(value, place, deepest)
        if len(json.dumps(value)) > largest:
            raise RequestError(place, f"at most {largest} bytes are expected")
        return value

    return check


def check_depth(value: Any, place: str, left: int) -> None:
    """Reject values that are nested deeper than ``left`` levels, infinite numbers and lone surrogates."""
    if left < 0:
        raise RequestError(place, f"it is nested more than {DEEPEST_JSON} levels deep")
    if isinstance(value, float) and not math.isfinite(value):
        raise RequestError(place, "the number is too large")
    if isinstance(value, str):
        text(len(value))(value, place)
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        check_depth(child, place, left - 1)


def only(neutral: Any) -> Check:
    """Return a check for an unsupported field. Clients may send only its neutral value."""

    def check(value: Any, place: str) -> Any:
        if value != neutral:
            raise RequestError(place, f"only {json.dumps(neutral)} is supported")
        return None

    return check


def dropped(value: Any, place: str) -> Any:
    """Drop a field of OpenAI's API that has no effect here."""
    return None
