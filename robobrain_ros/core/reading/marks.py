"""Replace a family's tags around coordinates by the brackets of a list, which `CoordinateReader` reads."""

import re

_LONGEST_FRAME = len("<frame    123456>")


class MarkReader:
    """Replaces tags in text that arrives in pieces. Tags may be split.

    :param names: names of the tags, such as "area". Without names, the text remains unchanged.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._tag = re.compile(rf"<(?:(/?)({'|'.join(names)})|frame\s{{0,4}}[0-9]{{1,6}})>", re.IGNORECASE) if names else None
        self._longest = max(_LONGEST_FRAME, *(len(name) + len("</>") for name in names)) if names else 0
        """Characters of a tag. A longer text after ``<`` is no tag."""
        self._held = ""
        """The end of the text so far, if it may be the beginning of a tag."""

    def feed(self, text: str) -> str:
        """Read the next piece. Return the text that it completes, with brackets instead of tags."""
        if self._tag is None:
            return text
        text = self._held + text
        opening = text.rfind("<")
        end = opening if opening >= 0 and ">" not in text[opening:] and len(text) - opening <= self._longest else len(text)
        self._held = text[end:]
        return self._tag.sub(_bracket, text[:end])

    def finish(self) -> str:
        """Return the rest of the text."""
        held, self._held = self._held, ""
        return held


def _bracket(tag: "re.Match[str]") -> str:
    if tag[2] is None:
        return " "
    return "]" if tag[1] else "["
