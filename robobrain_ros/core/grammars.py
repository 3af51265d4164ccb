"""Regular expressions of well-formed answers to spatial tasks: lists of coordinates within the bounds of the model's grid.

They are spelled as the families write their answers, bounded, and made of plain groups and classes, so that Python and grammars
understand them alike. Two more texts are allowed: an empty list, by which a model says that nothing was found, and no text, by
which a checkpoint that cannot think shows it (see `Brain`). Every other text is read by `core.parsing` to just the coordinates
that it holds.
"""

from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.profiles import AnswerForm, CoordinateRule, Profile
from robobrain_ros.core.query import Task

MOST_POINTS = 20
MOST_WAYPOINTS = 10
THOUSANDTHS = 1000
"""The end of RoboBrain 2.5's grid, on both axes."""

_SEPARATOR = ", ?"
_DEPTH = r"(0|[1-9][0-9]?)(\.[0-9]{1,3})?"
"""Metres below 100, to the millimetre."""


def number_up_to(most: int) -> str:
    """A pattern for the whole numbers from 0 to ``most``, which is not negative, without leading zeros."""
    digits = str(most)
    if len(digits) == 1:
        return f"[0-{most}]"
    choices = ["[0-9]"] + [f"[1-9]{_any_digits(length - 1)}" for length in range(2, len(digits))]
    for place, digit in enumerate(map(int, digits)):
        lowest = 0 if place else 1
        if digit > lowest:
            choices.append(f"{digits[:place]}[{lowest}-{digit - 1}]{_any_digits(len(digits) - place - 1)}")
    return f"({'|'.join([*choices, digits])})"


def coordinate_pattern(task: Task, profile: Profile, size: FittedSize) -> str:
    """A pattern for the whole answer to a spatial task.

    Pixels of points run from 0 to the last one of the image as the model sees it; the corners of a box may also lie on the
    image's end, as the models write it.

    :raises UnsupportedTaskError: the profile does not know the task.
    """
    form = profile.form(task)
    pixels = profile.coordinates is CoordinateRule.PIXELS_OF_MODEL_IMAGE
    width, height = (size.model_width, size.model_height) if pixels else (THOUSANDTHS, THOUSANDTHS)
    if form is AnswerForm.BOXES:
        corner = _joined(number_up_to(width), number_up_to(height))
        return _list_or_nothing(_joined(corner, corner))
    last = 1 if pixels else 0
    parts = [number_up_to(width - last), number_up_to(height - last)]
    if form is AnswerForm.WAYPOINTS and not pixels:
        parts.append(_DEPTH)
    point = rf"\({_joined(*parts)}\)"
    most = MOST_WAYPOINTS if form is AnswerForm.WAYPOINTS else MOST_POINTS
    return _list_or_nothing(f"{point}({_SEPARATOR}{point}){{0,{most - 1}}}")


def _any_digits(count: int) -> str:
    return {0: "", 1: "[0-9]"}.get(count, f"[0-9]{{{count}}}")


def _joined(*parts: str) -> str:
    return _SEPARATOR.join(parts)


def _list_or_nothing(content: str) -> str:
    return rf"(\[({content})?\])?"
