"""Recognize an answer that reports in words that the requested object is not in the image."""

REFUSALS = (
    "there is no ",
    "there is not ",
    "there isn't ",
    "there are no ",
    "there are not ",
    "there aren't ",
    "there does not ",
    "no such ",
    "not visible",
    "not present",
    "not in the image",
    "not in the picture",
    "not in the scene",
    "not on the table",
    "not found",
    "does not exist",
    "does not appear",
    "doesn't appear",
    "does not contain",
    "doesn't contain",
    "does not show",
    "cannot see",
    "can't see",
    "can not see",
    "do not see",
    "don't see",
    "cannot find",
    "can't find",
    "could not find",
    "couldn't find",
    "cannot be seen",
    "cannot be found",
    "unable to ",
    "nothing to ",
)
"""Phrases with which a model reports that the requested object is missing."""

_ANSWERS_FOR_NOTHING = ("none", "null", "nothing", "n/a")
"""Whole answers with which a model reports that the requested object is missing."""

_STATEMENT_BEGINNINGS = ("there ", "i ", "i'", "it ", "no ", "the ", "a ", "an ", "this ", "sorry", "unfortunately")
"""Beginnings of a statement. A sentence with another beginning is a command, so it is a step of a plan."""


def reports_nothing_found(text: str) -> bool:
    """Return whether an answer without coordinates reports that the requested object is missing."""
    lowered = text.lower().replace("’", "'")
    return lowered.strip(" .!`*\"'\n") in _ANSWERS_FOR_NOTHING or any(phrase in lowered for phrase in REFUSALS)


def refuses_to_plan(text: str) -> bool:
    """Return whether a sentence instead of a plan is a refusal. "Check that there is no ..." is a command, not a refusal."""
    return text.lower().startswith((*_STATEMENT_BEGINNINGS, *_ANSWERS_FOR_NOTHING)) and reports_nothing_found(text)
