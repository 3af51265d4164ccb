"""Questions about random robots for training: their prompts are those of the node, names can be copied, and the model learns."""

import argparse
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from robobrain_ros.core.plans.request import PlanVerdict
from robobrain_ros.core.profiles import profile_for
from robobrain_ros.demo.world import make_scene
from robobrain_ros.evaluation import plans
from robobrain_ros.evaluation.questions import ask_about
from robobrain_ros.evaluation.robots import held_out_names, plain

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from transformers import PreTrainedTokenizerFast  # noqa: E402

sys.path.append(str(Path(__file__).resolve().parent.parent))

from training import plans as training_plans  # noqa: E402
from training import robots  # noqa: E402
from training.batches import Arrays, Example, Packer, random_view  # noqa: E402
from training.progress import ProgressTuner, arguments, make_step  # noqa: E402
from training.tokenizer import MAX_PIXELS  # noqa: E402

MODEL = Path(__file__).parent.parent / "robobrain_ros" / "demo" / "model"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads of a small model wait for each other when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def known() -> Packer:
    """The tokens of the shipped model."""
    return Packer(PreTrainedTokenizerFast.from_pretrained(MODEL))


@pytest.fixture
def tuner(tmp_path: Path) -> training_plans.Tuner:
    options = argparse.Namespace(model=MODEL, out=tmp_path, steps=60, rate=2e-3, seed=0, robots=4)
    return training_plans.Tuner(options)


@pytest.fixture(scope="module")
def packer(tmp_path_factory: pytest.TempPathFactory) -> Packer:
    """The tokens for a training with random robots."""
    options = arguments(["--model", str(MODEL), "--out", str(tmp_path_factory.mktemp("robots")), "--robots", "4"])
    return ProgressTuner(options).packer


def examples(packer: Packer, count: int = 100) -> Iterator[Example]:
    for seed in range(count):
        rng = random.Random(seed)
        scene = make_scene(seed, (112, 112))
        yield from robots.first_examples(packer, scene, rng, 1)
        yield from robots.later_examples(packer, plans.midway(scene, rng), scene, rng, 2)


def test_prompts_are_those_of_the_node_and_rows_are_bounded(packer: Packer) -> None:
    modes = set()
    for example in examples(packer):
        question = example.question
        assert question.plan is not None
        modes.add((question.plan.mode, question.verdict))
        text = profile_for("qwen2_5_vl").plan_prompt(question.text, question.plan)
        assert packer.decode(packer.prompt(example)).startswith(f"{text}<|im_end|>\n<|im_start|>assistant\n")
        assert robots.tokens_of(packer, example) <= robots.MOST_TOKENS
        names = {plain(question.plan.robots[0].name), *(plain(skill.name) for skill in question.plan.robots[0].skills)}
        assert not names & held_out_names()
    assert len(modes) == 8, "each mode with two verdicts"


def test_the_new_tokens_keep_those_of_earlier_questions(packer: Packer, known: Packer) -> None:
    assert len(packer.encode("".join(robots.new_tokens()))) == len(robots.new_tokens())
    assert max(packer.encode(text)[0] for text in robots.new_tokens()) < 1088, "the vocabulary does not grow"
    scene, rng = make_scene(3, (224, 168)), random.Random(0)
    size = random_view(rng, (640, 480), MAX_PIXELS)[1]
    for kind in ("point", "ground", "plan", "describe", "absent", "afford"):
        example = Example(ask_about(scene, kind, rng), True)
        assert packer.prompt(example) == known.prompt(example)
        assert packer.answer(example, size) == known.answer(example, size)
    for example in training_plans.first_examples(scene, rng):
        assert packer.answer(example, size) == known.answer(example, size)


def test_names_have_the_same_tokens_in_prompt_and_answer(packer: Packer, known: Packer) -> None:
    shorter = []
    for example in examples(packer, 40):
        words = example.question.words
        named = set(re.findall(r'"(?:robot_name|skill)":"([^"]+)"', words))
        prompt, answer = packer.prompt(example), packer.encode(words)
        for name in named:
            ids = packer.encode(name)
            assert all(contains(where, ids) for where in (prompt, answer)), name
        shorter.append(len(answer) / len(known.encode(words)))
    assert np.mean(shorter) < 0.8


def contains(ids: list[int], part: list[int]) -> bool:
    return any(ids[start : start + len(part)] == part for start in range(len(ids)))


def test_batches_depend_only_on_the_seed_and_get_additional_questions(packer: Packer) -> None:
    without, first, again = (training_plans.make_batch(packer, 3, 5, 2, robot_questions=count) for count in (0, 2, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    added = first["segment"].max(1)[0] - without["segment"].max(1)[0]
    assert added == 2, "the second image differs, because it uses later random numbers"
    assert (first["targets"][0] >= 0).sum() > (without["targets"][0] >= 0).sum()


def test_the_training_on_progress_gets_the_questions(packer: Packer, tmp_path: Path) -> None:
    fixed = ["--out", str(tmp_path), "--rollouts", "1", "--comparisons", "1", "--conditions", "0"]
    steps = [make_step(packer, arguments([*fixed, "--robots", count]), 1, 0).earlier for count in ("0", "3")]
    assert steps[0] is not None
    assert steps[1] is not None
    assert steps[1]["segment"].max() == steps[0]["segment"].max() + 3


def only_robots(packer: Packer, seed: int) -> Arrays:
    """Return a batch of questions about random robots only."""
    rng = random.Random(seed)
    views = [random_view(rng, (320, 240), 43_904)]
    return packer.batch(views, [robots.first_examples(packer, scene, rng, 2) for scene, _, _ in views])


def test_a_few_steps_lower_the_loss_of_other_robots(tuner: training_plans.Tuner) -> None:
    held_back = only_robots(tuner.packer, 1000)
    with torch.no_grad():
        before = float(tuner.loss(held_back))
    for seed in range(8):
        tuner.learn(only_robots(tuner.packer, seed))
    with torch.no_grad():
        after = float(tuner.loss(held_back))
    assert after < 0.75 * before, (before, after)


def test_scores_are_shares_of_plans_that_reach_the_goal(packer: Packer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second answer is true, and the others are wrong in different ways."""

    def answers(model: object, packer: Packer, views: list[object], asked: list[Example], device: str, longest: int) -> list[str]:
        true = [example.question.words for example in asked]
        assert all(len(packer.encode(text)) < longest for text in true)
        others = ["", true[1].replace('":1}', '":1},"'), plans.answer_json(PlanVerdict.PLAN, "", [])]
        return [f"{text}</answer>" if index % 2 == 0 else others[index // 2] for index, text in enumerate(true)]

    monkeypatch.setattr(robots, "answer_all", answers)
    scores = robots.evaluate(None, packer, 6, chunk=6)
    assert scores == {"robots: reaches the goal": 0.5, "robots_replan: reaches the goal": 0.5}


def test_the_answers_are_greedy_answers_of_the_model(tuner: training_plans.Tuner) -> None:
    scores = robots.evaluate(tuner.model, tuner.packer, 2, groups=("robots",))
    assert 0.0 <= scores["robots: reaches the goal"] <= 1.0
