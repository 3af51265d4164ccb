"""The prompt for a plan for robots, and the keys of the answer.

No model family was trained with such a prompt. The text follows the planner of RoboOS, the framework of RoboBrain's authors. The
answer has the keys of RoboOS's JSON, and in addition ``verdict``, ``skill`` and ``arguments``.
"""

import json
from collections.abc import Iterator

from robobrain_ros.core.plans.request import DoneStep, PlanMode, PlanRequest, PlanVerdict, Robot, Skill, StepOutcome

VERDICTS: dict[PlanMode, tuple[PlanVerdict, ...]] = {
    PlanMode.NEW: (PlanVerdict.PLAN, PlanVerdict.IMPOSSIBLE),
    PlanMode.REPLAN: (PlanVerdict.PLAN, PlanVerdict.DONE, PlanVerdict.IMPOSSIBLE),
    PlanMode.NEXT_STEP: (PlanVerdict.PLAN, PlanVerdict.DONE, PlanVerdict.IMPOSSIBLE),
    PlanMode.CHECK: (PlanVerdict.DONE, PlanVerdict.NOT_DONE),
}
"""The allowed verdicts of each mode."""

REASONING, VERDICT, STEPS = "reasoning_explanation", "verdict", "subtask_list"
"""Keys of the answer, in this order. The answer has steps only if the verdict is `PlanVerdict.PLAN`."""

TEXT, ROBOT, SKILL, ARGUMENTS, ORDER = "subtask", "robot_name", "skill", "arguments", "subtask_order"
"""Keys of a step, in this order. The text for people comes before the fields for the robot."""

_QUESTIONS = {
    PlanMode.NEW: "What are the steps to complete the task?",
    PlanMode.REPLAN: "What are the steps to complete the rest of the task?",
    PlanMode.NEXT_STEP: "What is the next step?",
    PlanMode.CHECK: "Is the task done?",
}
_OUTCOMES = {StepOutcome.SUCCEEDED: "succeeded", StepOutcome.FAILED: "failed", StepOutcome.CANCELED: "was canceled"}
_STEP_FORM = (
    f'{{"{TEXT}": "what to do", "{ROBOT}": "who does it", "{SKILL}": "name of the skill", "{ARGUMENTS}": {{...}}, "{ORDER}": 1}}'
)


def plan_prompt(task: str, request: PlanRequest) -> str:
    """Return the user's message for a plan: the task, the context, the question, and the form of the answer."""
    return "\n".join([f'The task is "{task.strip()}".', *_known(request), _QUESTIONS[request.mode], answer_form(request.mode)])


def answer_form(mode: PlanMode) -> str:
    """Return a description of the answer's form for the prompt."""
    verdicts = " or ".join(f'"{verdict.value}"' for verdict in VERDICTS[mode])
    form = f'Answer with a JSON object: "{REASONING}", then "{VERDICT}", which is {verdicts}'
    if mode is PlanMode.CHECK:
        return f"{form}."
    return f'{form}, then for a plan "{STEPS}", a list of {_STEP_FORM}. Steps of equal order may run in parallel.'


def context_in_words(request: PlanRequest) -> str:
    """Return a description of robots, scene, history and feedback for the prompt. It is empty without any of these."""
    return "\n".join(_known(request))


def _known(request: PlanRequest) -> Iterator[str]:
    for robot in request.robots:
        yield from _robot(robot)
    if request.scene:
        yield "The scene:"
    for place in request.scene:
        yield f"- {place.name}: {', '.join(place.objects) or 'nothing'}"
    if request.done:
        yield "Done so far:"
    for number, step in enumerate(request.done, start=1):
        yield f"{number}. {_done(step)}"
    if request.feedback.strip():
        yield f"Feedback: {request.feedback.strip()}"


def _robot(robot: Robot) -> Iterator[str]:
    about = [
        robot.type,
        robot.state,
        f"at {robot.position}" if robot.position else "",
        f"reaches {', '.join(robot.reachable_places)}" if robot.reachable_places else "",
    ]
    description = ", ".join(part for part in about if part)
    yield f"Robot {robot.name}" + (f" ({description})" if description else "") + (":" if robot.skills else "")
    for skill in robot.skills:
        yield f"- {_signature(skill)}" + (f": {skill.description}" if skill.description else "")
    if robot.holding:
        yield f"Robot {robot.name} holds the {robot.holding}."


def _signature(skill: Skill) -> str:
    properties = json.loads(skill.arguments_schema).get("properties", {}) if skill.arguments_schema else {}
    return f"{skill.name}({', '.join(properties)})"


def _done(step: DoneStep) -> str:
    what = step.text or " ".join(part for part in (step.robot, step.skill, step.arguments) if part)
    observed = f": {step.observation}" if step.observation else ""
    return f"{what.rstrip('.')} {_OUTCOMES[step.outcome]}{observed.rstrip('.')}."
