"""Write random plans that satisfy a schema, without a model: each token that the grammar allows is equally likely."""

import json
from dataclasses import replace
from random import Random
from typing import Any

import llguidance
import llguidance.numpy as bitmasks
import numpy as np
from plan_requests import random_request

from robobrain_ros.core import AnswerParser, Task, profile_for
from robobrain_ros.core.plans.argument_schema import OBJECT
from robobrain_ros.core.plans.prompt import ORDER, ROBOT, STEPS
from robobrain_ros.core.plans.request import PlanRequest, Robot, Skill, SkillEffect
from robobrain_ros.core.plans.schema import PlanForm
from robobrain_ros.core.query import ParsedAnswer

PROFILE = profile_for("qwen2_5_vl")


class PlanSampler:
    """Samples texts of a schema with llguidance, the grammar of the embedded engine."""

    def __init__(self, tokenizer: Any = None, seed: int = 0) -> None:
        """Use the tokens of a tokenizer of transformers. Without one, each byte is a token."""
        if tokenizer is None:
            self._tokenizer = llguidance.LLTokenizer("byte")
        else:
            from llguidance.hf import from_tokenizer

            self._tokenizer = from_tokenizer(tokenizer)
        self._mask = bitmasks.allocate_token_bitmask(1, self._tokenizer.vocab_size)
        self._chance = np.random.default_rng(seed)

    def write(self, form: PlanForm) -> str:
        """Return a random text that satisfies the form's schema."""
        grammar = llguidance.LLMatcher.grammar_from_json_schema(form.text, {"whitespace_flexible": False})
        matcher = llguidance.LLMatcher(self._tokenizer, grammar)
        tokens = []
        while not matcher.is_stopped():
            bitmasks.fill_next_token_bitmask(matcher, self._mask)
            allowed = np.flatnonzero(np.unpackbits(self._mask.view(np.uint8), bitorder="little"))
            token = int(self._chance.choice(allowed))
            assert matcher.consume_token(token), matcher.get_error()
            tokens.append(token)
        return str(self._tokenizer.decode_str([token for token in tokens if token != self._tokenizer.eos_token]))


def parse(form: PlanForm, text: str) -> ParsedAnswer:
    """Return the plan in a text."""
    parser = AnswerParser(Task.PLAN, PROFILE, plan_form=form)
    parser.feed(text)
    return parser.finish()


def shares_an_order(text: str) -> bool:
    """Return whether a robot has several steps with the same order, as the text was written."""
    turns = [(step[ROBOT], step[ORDER]) for step in json.loads(text).get(STEPS, ())]
    return len(set(turns)) < len(turns)


def random_request_with_hands(seed: int, most_steps: int) -> PlanRequest:
    """Return a valid request, in which skills grasp and release objects, and robots hold some.

    :param most_steps: most steps of the plan.
    """
    chance = Random(seed)
    request = random_request(seed)
    objects = [name for place in request.scene for name in place.objects] or ["mug"]
    robots = tuple(_with_hand(chance, robot, objects) for robot in request.robots)
    return replace(request, robots=robots, max_steps=min(request.max_steps, 1) and most_steps)


def _with_hand(chance: Random, robot: Robot, objects: list[str]) -> Robot:
    required = chance.random() < 0.7
    types = chance.choice([{"type": "string", "format": OBJECT}, {"enum": [*objects, "a spoon"]}])
    schema = {"type": "object", "properties": {"what": types}, "required": ["what"] if required else []}
    effects = chance.choice([(1, 2), (1, 2), (1,), (2,), (1, 1, 2)])
    handy = tuple(Skill(f"hand {index}", "", json.dumps(schema), SkillEffect(it), "what") for index, it in enumerate(effects))
    holding = chance.choice(objects) if chance.random() < 0.5 else ""
    return replace(robot, skills=robot.skills[: chance.randint(0, 2)] + handy, holding=holding)
