"""Regular expressions that constrain answers: to lists of coordinates within the image, to scores, and to yes or no.

The expressions have the form in which the model families write answers. They are bounded. They consist of groups and character
classes only, because Python and grammar engines interpret these in the same way. `core.reading` reads exactly the coordinates or
the score of each match.

`core.profiles.writing` describes how each family writes coordinates. In most families, the empty list also matches. It means that
the model found nothing. For the coordinates of RoboBrain and for yes or no, the empty text also matches. It is the answer of a
checkpoint that cannot think to a prompt with think tags (see `Brain`).
"""

from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.profiles import AnswerForm, CoordinateRule, Profile
from robobrain_ros.core.query import Task

THOUSANDTHS = 1000
"""The largest coordinate of families that answer in thousandths, on both axes."""

YES_OR_NO = "(Yes|No|yes|no)?"
"""The whole answer to a condition. Models use both spellings. The empty text: see above."""

_DEPTH = r"(0|[1-9][0-9]?)(\.[0-9]{1,3})?"
"""A depth below 100 m with a resolution of 1 mm."""

SCORE_PATTERN = r" ?<score>(0|[+\-]([1-9][0-9]?|100))%</score>"
"""The whole answer to `Task.PROGRESS`: a whole percentage from -100 to +100. The official prompt prescribes this form.

The space at the start may be missing. Without it, the first characters have no alternative, and guidance would then choose their
tokens itself: the token "<", although the demo model begins its answers with the token "<score>+".
"""


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
    """Return a pattern for the whole answer to a spatial task, or an empty text if the profile does not state how it is written.

    For models that answer in pixels, coordinates of points range from 0 to the last pixel of the resized image. Corners of boxes
    may be one pixel larger, on the image's border, because the models write such corners.

    :param size: size of the image before and after resizing for the model.
    :raises UnsupportedTaskError: the profile does not support the task.
    """
    writing = profile.constrained_form(task)
    if writing is None:
        return ""
    pixels = profile.coordinates is CoordinateRule.PIXELS_OF_MODEL_IMAGE
    width, height = (size.model_width, size.model_height) if pixels else (THOUSANDTHS, THOUSANDTHS)
    last = 1 if pixels and profile.form(task) is not AnswerForm.BOXES else 0
    return writing.pattern(number_up_to(width - last), number_up_to(height - last), _DEPTH)


def _any_digits(count: int) -> str:
    return {0: "", 1: "[0-9]"}.get(count, f"[0-9]{{{count}}}")
