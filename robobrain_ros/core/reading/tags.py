"""Separate the model's thinking from its answer by the tags ``<think>`` and ``<answer>``."""

import re
from dataclasses import dataclass

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_TAG = re.compile("|".join(_TAGS), re.IGNORECASE)


@dataclass(frozen=True)
class Segment:
    """A run of text that is either thinking or answer.

    :param retracts_answer: the segments before this one that were returned as answer are thinking.
    """

    text: str
    thinking: bool
    retracts_answer: bool = False


class TagReader:
    """Separates thinking from answer in text that arrives in pieces. Tags may be split, missing or repeated.

    :param thinking: the text begins within the thinking.
    :param ignore_tags: the text has no tags. Text that looks like a tag is ordinary text.
    """

    def __init__(self, thinking: bool, ignore_tags: bool = False) -> None:
        self.in_thinking = thinking
        """Whether the next text belongs to the thinking."""
        self.server_declares_thinking = False
        """Whether a server declared the last piece to be thinking."""
        self.answer_closed = False
        """Whether ``</answer>`` was read after an answer. The text after it is ignored."""
        self._ignore_tags = ignore_tags
        self._possible_tag = ""
        """The end of the text so far, if it may be the beginning of a tag."""
        self._thinking: list[str] = []
        self._answer: list[str] = []
        self._thinking_after_answer: list[str] = []
        self._answer_has_text = False

    @property
    def thinking(self) -> str:
        """The thinking so far."""
        return "".join(self._thinking + self._thinking_after_answer).strip()

    @property
    def answer(self) -> str:
        """The answer so far."""
        return "".join(self._answer).strip()

    def feed(self, text: str, declared_thinking: bool = False) -> list[Segment]:
        """Read the next piece.

        :param declared_thinking: a server declared the piece to be thinking, so tags in it are ordinary text.
        """
        segments: list[Segment] = []
        if declared_thinking and not self.server_declares_thinking:
            self._add(self._possible_tag, segments)
            self._possible_tag = ""
        if text and (declared_thinking or self.server_declares_thinking):
            self.server_declares_thinking = self.in_thinking = declared_thinking
        if self._ignore_tags or declared_thinking:
            self._add(text, segments)
            return segments
        text = self._possible_tag + text
        end = len(text) - _possible_tag_length(text)
        start = 0
        for tag in _TAG.finditer(text):
            self._add(text[start : tag.start()], segments)
            self._apply(tag[0].lower(), segments)
            start = tag.end()
        self._add(text[start:end], segments)
        self._possible_tag = text[end:]
        return segments

    def _add(self, text: str, segments: list[Segment]) -> None:
        if not text or self.answer_closed:
            return
        if not self.in_thinking:
            self._answer.append(text)
            self._answer_has_text = self._answer_has_text or not text.isspace()
        elif self._answer:
            self._thinking_after_answer.append(text)
        else:
            self._thinking.append(text)
        segments.append(Segment(text, self.in_thinking))

    def _apply(self, tag: str, segments: list[Segment]) -> None:
        if self.answer_closed:
            return
        if tag == "</answer>":
            self.answer_closed = self._answer_has_text
        elif tag == "<think>":
            self.in_thinking = True
        else:
            self._retract_answer(segments)

    def _retract_answer(self, segments: list[Segment]) -> None:
        """Turn all text before ``</think>`` or ``<answer>`` into thinking, even if no ``<think>`` opened it."""
        self._thinking += [*self._answer, *self._thinking_after_answer, "\n"]
        self._answer = []
        self._thinking_after_answer = []
        self._answer_has_text = False
        self.in_thinking = False
        segments.append(Segment("", False, retracts_answer=True))


def _possible_tag_length(text: str) -> int:
    """Return the number of characters at the end of the text that may be the beginning of a tag."""
    opening = text.rfind("<", -len("</answer>") + 1)
    rest = text[opening:].lower() if opening >= 0 else ""
    return len(rest) if rest and any(tag.startswith(rest) and tag != rest for tag in _TAGS) else 0
