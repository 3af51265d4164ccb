"""Write a plan for RoboOS, the framework of RoboBrain's authors."""

import json
from collections.abc import Sequence
from typing import Any

from robobrain_ros.core.plans.prompt import ARGUMENTS, ORDER, REASONING, ROBOT, SKILL, STEPS, TEXT
from robobrain_ros.core.query import PlanStep


def roboos_json(steps: Sequence[PlanStep], reasoning: str = "") -> str:
    """Return the plan as JSON for RoboOS's master, with skills and arguments, or an empty string if the plan has no steps.

    The master (master/agents/agent.py) uses ``robot_name``, ``subtask`` and ``subtask_order``, and ignores other keys.
    """
    if not steps:
        return ""
    return json.dumps({REASONING: reasoning, STEPS: [_subtask(step) for step in steps]}, ensure_ascii=False)


def _subtask(step: PlanStep) -> dict[str, Any]:
    subtask: dict[str, Any] = {ROBOT: step.robot, TEXT: step.text, ORDER: step.order}
    if step.skill:
        subtask |= {SKILL: step.skill, ARGUMENTS: json.loads(step.arguments) if step.arguments else {}}
    return subtask
