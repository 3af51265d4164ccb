"""Read a plan: numbered lists, bullets, RoboOS's JSON, or one sentence."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from robobrain_ros.core.query import PlanStep

_NUMBERED = re.compile(r"(?:[-*•>#]+\s+)?\**(?:step\s*#?(\d{1,3})\**\s*[.):–-]?(?!\d)|(\d{1,3})\**[.)](?!\d))\**\s*", re.I)
_BULLET = re.compile(r"[-*•]\s+(?=\S)")
_INLINE = re.compile(r"(?<!\S)\**(?:step\s{0,4}(\d{1,3})\s{0,4}[.):]|(\d{1,3})[.)])\**(?=\s)", re.I)
_LONGEST_MARK = 64
_FENCE = "```"
_LIST_KEYS = ("subtask_list", "subtasks", "steps", "plan", "tasks")
_TEXT_KEYS = ("subtask", "step", "action", "description", "text", "task", "instruction")
_ROBOT_KEYS = ("robot_name", "robot")
_ORDER_KEYS = ("subtask_order", "order")
_SKILL_KEYS = ("skill", "tool", "name")
_ARGUMENT_KEYS = ("arguments", "parameters", "args")
_REASONING_KEYS = ("reasoning_explanation", "reasoning", "explanation")


@dataclass(frozen=True)
class Plan:
    """``steps`` in ascending order; ``reasoning``: the text beside them; ``listed``: they stood in a list, not in a sentence."""

    steps: tuple[PlanStep, ...]
    reasoning: str = ""
    listed: bool = True


class PlanReader:
    """Reads a plan while it is being written.

    A numbered line is a step as soon as the next one begins; every other form is read at the end.
    """

    def __init__(self) -> None:
        self._text: list[str] = []
        self._line: list[str] = []
        self._numbered = _ListReader(_NUMBERED)

    def feed(self, text: str) -> list[PlanStep]:
        """Read the next piece; gives the steps that it completes."""
        self._text.append(text)
        before = self._numbered.complete
        *lines, rest = text.split("\n")
        for line in lines:
            self._numbered.read("".join([*self._line, line]))
            self._line = []
        self._line.append(rest)
        return self._numbered.steps(before, self._numbered.complete)

    def finish(self) -> Plan:
        """The whole plan.

        :raises ValueError: it has a plan's form, but is broken; the message says how.
        """
        self._numbered.read("".join(self._line))
        text = "".join(self._text).strip()
        start = _start_of_json(text)
        if start is not None:
            return _plan_of_json(text, start)
        if self._numbered.count < 2:
            inline = _inline_plan(text)
            if inline is not None:
                return inline
        if self._numbered.count:
            return self._numbered.plan()
        bullets = _ListReader(_BULLET)
        for line in text.split("\n"):
            bullets.read(line)
        if bullets.count:
            return bullets.plan()
        sentence = " ".join(text.replace(_FENCE, " ").split())
        return Plan((PlanStep(1, sentence),) if _says_something(sentence) else (), listed=False)


class _ListReader:
    """Reads a list line by line: each line that begins with a mark is a step; lines right below it belong to it."""

    def __init__(self, mark: "re.Pattern[str]") -> None:
        self._mark = mark
        self._steps: list[list[str]] = []
        self._beside: list[str] = []
        self._in_step = False

    @property
    def count(self) -> int:
        return len(self._steps)

    @property
    def complete(self) -> int:
        """How many steps cannot grow any more."""
        return max(len(self._steps) - 1, 0)

    def read(self, line: str) -> None:
        stripped = line.strip()
        mark = self._mark.match(stripped[:_LONGEST_MARK])
        if mark:
            self._steps.append([stripped[mark.end() :]])
            self._in_step = True
        elif not stripped:
            self._in_step = self._in_step and bool(self._steps) and not any(self._steps[-1])
        elif stripped.startswith(_FENCE):
            self._in_step = False
        elif self._in_step or (self._steps and line[0] in " \t"):
            self._steps[-1].append(_BULLET.sub("", stripped, count=1) if _BULLET.match(stripped) else stripped)
        else:
            self._beside.append(stripped)

    def steps(self, start: int, end: int) -> list[PlanStep]:
        return [PlanStep(order, _clean(" ".join(parts))) for order, parts in enumerate(self._steps[start:end], start + 1)]

    def plan(self) -> Plan:
        return _checked(self.steps(0, self.count), "\n".join(self._beside))


def _inline_plan(text: str) -> Plan | None:
    """Steps within running text, "1. ... 2. ...": marks count up from 1, so that other numbers are not taken for them."""
    marks: list[re.Match[str]] = []
    for mark in _INLINE.finditer(text):
        if int(mark[1] or mark[2]) == len(marks) + 1:
            marks.append(mark)
    if len(marks) < 2:
        return None
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    steps = [
        PlanStep(order, _clean(text[mark.end() : end])) for order, (mark, end) in enumerate(zip(marks, ends, strict=True), 1)
    ]
    return _checked(steps, text[: marks[0].start()].strip())


def _clean(text: str) -> str:
    return " ".join(text.replace("**", "").split())


def unescaped(content: str) -> str:
    """What the content of a JSON string means; escapes that mean nothing lose their backslash."""
    try:
        return printable(str(json.loads(f'"{content}"', strict=False)))
    except ValueError:
        return content.replace("\\", "")


def printable(text: str) -> str:
    """Escapes may spell halves of characters, which no message can carry."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _says_something(text: str) -> bool:
    return any(character.isalpha() for character in text)


def _checked(steps: Sequence[PlanStep], reasoning: str) -> Plan:
    for step in steps:
        if not _says_something(step.text):
            raise ValueError(f"step {step.order} is empty")
    return Plan(tuple(steps), reasoning)


def _start_of_json(text: str) -> int | None:
    """Where the plan's JSON begins; None: it is not JSON."""
    fence = text.find(_FENCE)
    named = max(text.find('"subtask_list"'), text.find("'subtask_list'"))
    if named >= 0:
        start = text.find("{")
        return start if 0 <= start < named else None
    start = 0
    if fence >= 0:
        start = fence + len(_FENCE)
        start += len("json") if text[start : start + 4].lower() == "json" else 0
    rest = text[start:].lstrip()
    if re.match(r"\{\s*[\"'}]|\[\s*[\"'{\]]", rest):
        return len(text) - len(rest)
    return None


def _plan_of_json(text: str, start: int) -> Plan:
    value, end = _decode(text, start)
    items, reasoning = _items_of(value)
    beside = f"{text[:start]}\n{text[end:]}".replace(_FENCE + "json", "").replace(_FENCE, "").split("\n")
    steps = [_step_of(item, number) for number, item in enumerate(items, 1)]
    ranks = {order: rank for rank, order in enumerate(sorted({step.order for step in steps}), 1)}
    ordered = sorted((replace(step, order=ranks[step.order]) for step in steps), key=lambda step: step.order)
    return Plan(tuple(ordered), "\n".join(part.strip() for part in (reasoning, *beside) if part.strip()))


def _decode(text: str, start: int) -> tuple[Any, int]:
    """Decode the JSON value at ``start``; also one written with single quotes, as RoboOS's own examples are."""
    decoder = json.JSONDecoder(strict=False)
    try:
        return decoder.raw_decode(text, start)
    except (ValueError, RecursionError):
        pass
    try:
        return decoder.raw_decode(_to_double_quotes(text[start:]))[0], len(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("its JSON is cut or malformed") from error


_CLOSING_QUOTE = re.compile(r"'(?=\s*(?:[,:\]}]|$))")
_WORDS = {"True": "true", "False": "false", "None": "null"}
_PARTS = re.compile(r"""["']|,\s*(?=[\]}])|\b(?:True|False|None)\b""")
_STRING_END = re.compile(r'["\\]')


def _to_double_quotes(text: str) -> str:
    """Python's way of writing data, made JSON: quotes, True, False and None, trailing commas. Nothing is evaluated."""
    parts: list[str] = []
    place = 0
    while True:
        found = _PARTS.search(text, place)
        if found is None:
            return "".join([*parts, text[place:]])
        parts.append(text[place : found.start()])
        place = found.end()
        if found[0] == '"':
            end = _end_of_string(text, place)
            parts.append(text[found.start() : end])
            place = end
        elif found[0] == "'":
            closing = _CLOSING_QUOTE.search(text, place)
            end = len(text) if closing is None else closing.start()
            content = text[place:end].replace("\\'", "'")
            parts.append('"' + re.sub(r'(?<!\\)"', r"\"", content) + '"')
            place = end + 1
        else:
            parts.append(_WORDS.get(found[0], ""))


def _end_of_string(text: str, start: int) -> int:
    """Just behind the double quote that ends the string begun before ``start``."""
    while True:
        found = _STRING_END.search(text, start)
        if found is None:
            return len(text)
        if found[0] == '"':
            return found.end()
        start = found.end() + 1


def _items_of(value: Any) -> tuple[Sequence[Any], str]:
    if isinstance(value, list):
        return value, ""
    if not isinstance(value, dict):
        raise ValueError("its JSON is no list of steps")
    reasoning = _text_under(value, _REASONING_KEYS)
    for key in _LIST_KEYS:
        if isinstance(value.get(key), list):
            return value[key], reasoning
    if _text_under(value, _TEXT_KEYS):
        return [value], reasoning
    raise ValueError("its JSON holds no list of steps")


def _step_of(item: Any, number: int) -> PlanStep:
    if isinstance(item, str) and item.strip():
        return PlanStep(number, printable(item.strip()))
    if not isinstance(item, dict):
        raise ValueError(f"step {number} is no text")
    text, skill = _text_under(item, _TEXT_KEYS), _text_under(item, _SKILL_KEYS)
    if not text and not skill:
        raise ValueError(f"step {number} does not say what to do")
    arguments = next((item[key] for key in _ARGUMENT_KEYS if key in item), None)
    return PlanStep(
        _order_of(item, number),
        text or skill,
        robot=_text_under(item, _ROBOT_KEYS),
        skill=skill,
        arguments=printable(json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else "",
    )


def _order_of(item: Mapping[str, Any], number: int) -> int:
    order = next((item[key] for key in _ORDER_KEYS if key in item), number)
    if isinstance(order, bool) or not re.fullmatch(r"\d{1,6}", str(order).strip()):
        raise ValueError(f"the order of step {number} is no number")
    return int(order)


def _text_under(item: Mapping[str, Any], keys: Sequence[str]) -> str:
    return printable(next((item[key].strip() for key in keys if isinstance(item.get(key), str)), ""))
