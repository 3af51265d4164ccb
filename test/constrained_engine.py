"""A real engine with random weights that generates text with constraints, for synchronous tests."""

import asyncio
import json
from contextlib import aclosing
from dataclasses import replace

from engine_loop import OnLoop
from jsonschema import Draft202012Validator

from robobrain_ros.core import AnswerParser, Task, profile_for
from robobrain_ros.core.plans.request import PlanVerdict
from robobrain_ros.core.plans.schema import PlanForm
from robobrain_ros.engine.base import Constraint, EngineInfo, Generation
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.options import EngineOptions

START = 300.0
PROFILE = profile_for("qwen2_5_vl")
AT_ONCE = 128


class RunningEngine(OnLoop):
    """An engine on its own event loop, for synchronous tests."""

    TIMEOUT = 120.0

    def __init__(self, model: str) -> None:
        super().__init__()
        self.embedded = EmbeddedEngine(EngineOptions.of(model=model, max_num_seqs=AT_ONCE))
        self.info: EngineInfo = self.wait(self.embedded.start(lambda progress: None), START)

    async def write(self, generation: Generation) -> tuple[str, int, str]:
        """Return the text, its tokens and the finish reason."""
        text, tokens, reason = "", 0, ""
        self.embedded.options = replace(self.embedded.options, seed=next(_next_id))  # Each text has another seed.
        async with aclosing(self.embedded.generate(generation)) as stream:
            async for delta in stream:
                text, tokens, reason = text + delta.text, tokens + delta.tokens, delta.finish_reason
        return text, tokens, reason

    async def write_all(self, generations: list[Generation]) -> list[tuple[str, int, str]]:
        return list(await asyncio.gather(*map(self.write, generations)))


_next_id = iter(range(10**6))


def generation(constraint: Constraint | None, max_tokens: int, text: str = "go") -> Generation:
    return Generation(f"structured-{next(_next_id)}", text, [], max_tokens, temperature=1.0, constraint=constraint)


def check(form: PlanForm, text: str, tokens: int, reason: str) -> PlanVerdict:
    assert reason == "stop", text
    assert tokens <= form.tokens
    Draft202012Validator(form.schema).validate(json.loads(text))
    parser = AnswerParser(Task.PLAN, PROFILE, plan_form=form)
    parser.feed(text)
    parsed = parser.finish()
    assert (parsed.verdict is PlanVerdict.PLAN) == bool(parsed.steps)
    names = {robot.name: [skill.name for skill in robot.skills] for robot in form.request.robots}
    assert all(step.skill in names[step.robot] for step in parsed.steps)
    return parsed.verdict
