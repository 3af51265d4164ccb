"""Read a plan that was constrained to a schema. Steps are returned as soon as they are complete; the whole plan is validated."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from robobrain_ros.core.plans.orders import numbered
from robobrain_ros.core.plans.patterns import matches
from robobrain_ros.core.plans.prompt import ARGUMENTS, ORDER, REASONING, ROBOT, SKILL, STEPS, TEXT, VERDICT
from robobrain_ros.core.plans.request import PlanVerdict
from robobrain_ros.core.plans.schema import PlanForm
from robobrain_ros.core.query import PlanStep

_STEP_DEPTH = 3
"""Number of open brackets within a step: those of the answer, of the list of steps, and of the step."""


@dataclass(frozen=True)
class StructuredPlan:
    """A plan. `core.plans.orders` numbers the steps. Only `PlanVerdict.PLAN` has steps."""

    verdict: PlanVerdict
    reasoning: str
    steps: tuple[PlanStep, ...]


class StructuredPlanReader:
    """Reads a plan that arrives in pieces. Each character is read once."""

    def __init__(self, form: PlanForm) -> None:
        self._form = form
        self._text: list[str] = []
        self._step: list[str] = []
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, text: str) -> list[PlanStep]:
        """Read the next piece of text. Return the steps that it completes, with ``order`` as the model wrote it."""
        self._text.append(text)
        steps = []
        start = 0 if self._depth >= _STEP_DEPTH else None
        for place, character in enumerate(text):
            if self._in_string:
                self._read_string(character)
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
                if self._depth == _STEP_DEPTH:
                    start = place
            elif character in "}]":
                self._depth -= 1
                if self._depth == _STEP_DEPTH - 1 and start is not None:
                    steps += _steps_of("".join([*self._step, text[start : place + 1]]))
                    self._step, start = [], None
        if start is not None:
            self._step.append(text[start:])
        return steps

    def _read_string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False

    def finish(self) -> StructuredPlan:
        """Return the whole plan.

        :raises ValueError: the plan does not satisfy its schema. The message names the place.
        """
        from jsonschema.exceptions import best_match

        try:
            content = json.loads("".join(self._text))
        except (ValueError, RecursionError) as error:
            raise ValueError("its JSON is cut or malformed") from error
        fault = best_match(_validator()(self._form.schema).iter_errors(content))
        if fault is not None:
            raise ValueError(f"{fault.json_path} is not what the schema allows: {fault.message[:200]}")
        steps = [_step_of(item) for item in content.get(STEPS, ())]
        return StructuredPlan(PlanVerdict(content[VERDICT]), content[REASONING].strip(), numbered(steps))


@cache
def _validator() -> Any:
    """Return a validator class that matches patterns in bounded time."""
    from jsonschema import Draft202012Validator, ValidationError, validators

    def pattern(_: Any, pattern: str, text: Any, __: Any) -> Iterator[ValidationError]:
        if isinstance(text, str) and not matches(pattern, text):
            yield ValidationError(f"{text[:100]!r} does not match {pattern[:100]!r}")

    return validators.extend(Draft202012Validator, {"pattern": pattern})


def _steps_of(text: str) -> list[PlanStep]:
    """Return the step in a complete JSON object. The list is empty if the object is not a step; `finish` then reports it."""
    try:
        return [_step_of(json.loads(text))]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _step_of(item: dict[str, Any]) -> PlanStep:
    arguments = item[ARGUMENTS]
    return PlanStep(
        order=item[ORDER],
        text=item[TEXT].strip(),
        robot=item[ROBOT],
        skill=item[SKILL],
        arguments=json.dumps(arguments, ensure_ascii=False) if arguments else "",
    )
