"""Read a plan that no schema constrained: a numbered list, bullets, JSON as in RoboOS, or one sentence."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from robobrain_ros.core.query import PlanStep
from robobrain_ros.core.reading.plan_json import FENCE, find_plan_json, read_plan_json

_NUMBER_MARK = re.compile(r"(?:[-*•>#]+\s+)?\**(?:step\s*#?(\d{1,3})\**\s*[.):–-]?(?!\d)|(\d{1,3})\**[.)](?!\d))\**\s*", re.I)
_BULLET_MARK = re.compile(r"[-*•]\s+(?=\S)")
_INLINE_MARK = re.compile(r"(?<!\S)\**(?:step\s{0,4}(\d{1,3})\s{0,4}[.):]|(\d{1,3})[.)])\**(?=\s)", re.I)
_LONGEST_MARK = 64


@dataclass(frozen=True)
class FreePlan:
    """A plan as the model wrote it.

    ``steps`` are in ascending order. ``reasoning`` is the text around them. ``is_list`` is False if the text is one sentence.
    """

    steps: tuple[PlanStep, ...]
    reasoning: str = ""
    is_list: bool = True


class FreePlanReader:
    """Reads a plan that arrives in pieces.

    `feed` returns a step of a numbered list when the next step begins. `finish` reads all other forms.
    """

    def __init__(self) -> None:
        self._text: list[str] = []
        self._line: list[str] = []
        self._head = ""
        """The beginning of the last line. It is long enough for a mark and one character of the step."""
        self._numbered = _StepList(_NUMBER_MARK)
        self._completed = 0

    def feed(self, text: str) -> list[PlanStep]:
        """Read the next piece and return the steps that it completes."""
        self._text.append(text)
        *lines, rest = text.split("\n")
        for line in lines:
            self._numbered.read_line("".join([*self._line, line]))
            self._line, self._head = [], ""
        self._line.append(rest)
        if len(self._head) <= _LONGEST_MARK:
            self._head = (self._head + rest).lstrip()[: _LONGEST_MARK + 1]
        before = self._completed
        self._completed = self._numbered.complete_count(next_begun=self._numbered.begins_step(self._head))
        return self._numbered.steps(before, self._completed)

    def finish(self) -> FreePlan:
        """Return the whole plan.

        :raises ValueError: the text has the form of a plan, but is malformed. The message names the fault.
        """
        self._numbered.read_line("".join(self._line))
        text = "".join(self._text).strip()
        json_start = find_plan_json(text)
        if json_start is not None:
            return FreePlan(*read_plan_json(text, json_start))
        if self._numbered.count < 2:
            inline = _read_inline(text)
            if inline is not None:
                return inline
        if self._numbered.count:
            return self._numbered.plan()
        bullets = _StepList(_BULLET_MARK)
        for line in text.split("\n"):
            bullets.read_line(line)
        if bullets.count:
            return bullets.plan()
        sentence = " ".join(text.replace(FENCE, " ").split())
        return FreePlan((PlanStep(1, sentence),) if _has_words(sentence) else (), is_list=False)


class _StepList:
    """Reads a list line by line.

    A line that begins with a mark begins a step. The lines directly below and indented lines belong to this step.
    """

    def __init__(self, mark: "re.Pattern[str]") -> None:
        self._mark = mark
        self._step_lines: list[list[str]] = []
        self._other_lines: list[str] = []
        self._in_step = False

    @property
    def count(self) -> int:
        """The number of steps that have begun."""
        return len(self._step_lines)

    def complete_count(self, next_begun: bool) -> int:
        """Return the number of steps that further text cannot change.

        :param next_begun: the current, incomplete line begins a step.
        """
        return len(self._step_lines) if next_begun else max(len(self._step_lines) - 1, 0)

    def begins_step(self, head: str) -> bool:
        """Return whether a line with this beginning certainly begins a step."""
        mark = self._mark.match(head[:_LONGEST_MARK])
        return mark is not None and len(head.rstrip()) > mark.end()

    def read_line(self, line: str) -> None:
        stripped = line.strip()
        mark = self._mark.match(stripped[:_LONGEST_MARK])
        if mark:
            self._step_lines.append([stripped[mark.end() :]])
            self._in_step = True
        elif not stripped:
            self._in_step = self._in_step and bool(self._step_lines) and not any(self._step_lines[-1])
        elif stripped.startswith(FENCE):
            self._in_step = False
        elif self._in_step or (self._step_lines and line[0] in " \t"):
            self._step_lines[-1].append(_BULLET_MARK.sub("", stripped, count=1) if _BULLET_MARK.match(stripped) else stripped)
        else:
            self._other_lines.append(stripped)

    def steps(self, start: int, end: int) -> list[PlanStep]:
        lines_of_steps = enumerate(self._step_lines[start:end], start + 1)
        return [PlanStep(order, _plain(" ".join(lines))) for order, lines in lines_of_steps]

    def plan(self) -> FreePlan:
        return _checked_plan(self.steps(0, self.count), "\n".join(self._other_lines))


def _read_inline(text: str) -> FreePlan | None:
    """Read steps in running text, "1. ... 2. ...". Only marks that count up from 1 begin a step."""
    marks: list[re.Match[str]] = []
    for mark in _INLINE_MARK.finditer(text):
        if int(mark[1] or mark[2]) == len(marks) + 1:
            marks.append(mark)
    if len(marks) < 2:
        return None
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    texts = [text[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
    steps = [PlanStep(order, _plain(step)) for order, step in enumerate(texts, 1)]
    return _checked_plan(steps, text[: marks[0].start()].strip())


def _plain(text: str) -> str:
    """Return the text without bold marks, and with single blanks."""
    return " ".join(text.replace("**", "").split())


def _has_words(text: str) -> bool:
    return any(character.isalpha() for character in text)


def _checked_plan(steps: Sequence[PlanStep], reasoning: str) -> FreePlan:
    for step in steps:
        if not _has_words(step.text):
            raise ValueError(f"step {step.order} is empty")
    return FreePlan(tuple(steps), reasoning)
