"""Regular expressions that constrain answers: to lists of coordinates within the image, to scores, and to yes or no.

The expressions have the form in which the model families write answers. They are bounded. They consist of groups and character
classes only, because Python and grammar engines interpret these in the same way. `core.reading` reads exactly the coordinates or
the score of each match.

For coordinates, the empty list also matches. It means that the model found nothing. For coordinates and for yes or no, the empty
text also matches. It is the answer of a checkpoint that cannot think to a prompt with think tags (see `Brain`).
"""

from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.profiles import AnswerForm, CoordinateRule, Profile
from robobrain_ros.core.query import Task

MOST_POINTS = 20
MOST_WAYPOINTS = 10
THOUSANDTHS = 1000
"""The largest coordinate of RoboBrain 2.5, on both axes."""

YES_OR_NO = "(Yes|No|yes|no)?"
"""The whole answer to a condition. Models use both spellings. The empty text: see above."""

_SEPARATOR = ", ?"
"""Each blank is optional. A mandatory blank would force the engine to choose the tokens of comma and blank. A model that was
trained with other tokens writes wrong numbers after them."""
_DEPTH = r"(0|[1-9][0-9]?)(\.[0-9]{1,3})?"
"""A depth below 100 m with a resolution of 1 mm."""

SCORE_PATTERN = r"<score>(0|[+\-]([1-9][0-9]?|100))%</score>"
"""The whole answer to `Task.PROGRESS`: a whole percentage from -100 to +100. The official prompt prescribes this form."""


def number_up_to(most: int) -> str:
    """Return a pattern for whole numbers from 0 to ``most``, without leading zeros. ``most`` must not be negative."""
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
    """Return a pattern for the whole answer to a spatial task.

    For models that answer in pixels, coordinates of points range from 0 to the last pixel of the resized image. Corners of boxes
    may be one pixel larger, on the image's border, because the models write such corners.

    :param size: size of the image before and after resizing for the model.
    :raises UnsupportedTaskError: the profile does not support the task.
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
