"""Read a plan that the model wrote as JSON, as RoboOS's prompt requests, or as a Python literal."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from robobrain_ros.core.plans.orders import numbered
from robobrain_ros.core.query import PlanStep
from robobrain_ros.core.reading.escapes import encodable
from robobrain_ros.core.reading.python_literals import to_json

FENCE = "```"
_LIST_KEYS = ("subtask_list", "subtasks", "steps", "plan", "tasks")
_TEXT_KEYS = ("subtask", "step", "action", "description", "text", "task", "instruction")
_ROBOT_KEYS = ("robot_name", "robot")
_ORDER_KEYS = ("subtask_order", "order")
_SKILL_KEYS = ("skill", "tool", "name")
_ARGUMENT_KEYS = ("arguments", "parameters", "args")
_REASONING_KEYS = ("reasoning_explanation", "reasoning", "explanation")


def find_plan_json(text: str) -> int | None:
    """Return the index at which the JSON of a plan begins, or None if the text has no plan in JSON."""
    fence = text.find(FENCE)
    list_key = max(text.find('"subtask_list"'), text.find("'subtask_list'"))
    if list_key >= 0:
        start = text.find("{")
        return start if 0 <= start < list_key else None
    start = 0
    if fence >= 0:
        start = fence + len(FENCE)
        start += len("json") if text[start : start + 4].lower() == "json" else 0
    rest = text[start:].lstrip()
    if re.match(r"\{\s*[\"'}]|\[\s*[\"'{\]]", rest):
        return len(text) - len(rest)
    return None


def read_plan_json(text: str, start: int) -> tuple[tuple[PlanStep, ...], str]:
    """Read the plan that begins at ``start``.

    :returns: the steps, numbered by `core.plans.orders`; and the reasoning: that of the JSON and the text around the JSON.
    :raises ValueError: the JSON is malformed or is not a plan. The message names the fault.
    """
    value, end = _decode(text, start)
    items, reasoning = _step_items(value)
    around = f"{text[:start]}\n{text[end:]}".replace(FENCE + "json", "").replace(FENCE, "").split("\n")
    steps = [_step_of(item, number) for number, item in enumerate(items, 1)]
    return numbered(steps), "\n".join(part.strip() for part in (reasoning, *around) if part.strip())


def _decode(text: str, start: int) -> tuple[Any, int]:
    """Decode the value at ``start``. Return the value and the index after it."""
    decoder = json.JSONDecoder(strict=False)
    try:
        return decoder.raw_decode(text, start)
    except (ValueError, RecursionError):
        pass
    try:
        return decoder.raw_decode(to_json(text[start:]))[0], len(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("its JSON is cut or malformed") from error


def _step_items(value: Any) -> tuple[Sequence[Any], str]:
    """Return the items of the list of steps, and the reasoning in the same object."""
    if isinstance(value, list):
        return value, ""
    if not isinstance(value, dict):
        raise ValueError("its JSON is not a list of steps")
    reasoning = _text_under(value, _REASONING_KEYS)
    for key in _LIST_KEYS:
        if isinstance(value.get(key), list):
            return value[key], reasoning
    if _text_under(value, _TEXT_KEYS):
        return [value], reasoning
    raise ValueError("its JSON contains no list of steps")


def _step_of(item: Any, number: int) -> PlanStep:
    if isinstance(item, str) and item.strip():
        return PlanStep(number, encodable(item.strip()))
    if not isinstance(item, dict):
        raise ValueError(f"step {number} is not text")
    text, skill = _text_under(item, _TEXT_KEYS), _text_under(item, _SKILL_KEYS)
    if not text and not skill:
        raise ValueError(f"step {number} has no text")
    arguments = next((item[key] for key in _ARGUMENT_KEYS if key in item), None)
    return PlanStep(
        _order_of(item, number),
        text or skill,
        robot=_text_under(item, _ROBOT_KEYS),
        skill=skill,
        arguments=_to_text(arguments, number) if isinstance(arguments, dict) else "",
    )


def _to_text(arguments: Mapping[str, Any], number: int) -> str:
    try:
        return encodable(json.dumps(arguments, ensure_ascii=False, allow_nan=False))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the arguments of step {number} are not JSON") from error


def _order_of(item: Mapping[str, Any], number: int) -> int:
    order = next((item[key] for key in _ORDER_KEYS if key in item), number)
    if isinstance(order, bool) or not re.fullmatch(r"\d{1,6}", str(order).strip()):
        raise ValueError(f"the order of step {number} is not a number")
    return int(order)


def _text_under(item: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Return the value of the first of the keys whose value is text, or an empty string if there is none."""
    return encodable(next((item[key].strip() for key in keys if isinstance(item.get(key), str)), ""))
