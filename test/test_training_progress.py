"""The training on comparisons computes what transformers computes for the same prompt, and it learns."""

import argparse
import random
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robobrain_ros.core.grammars import SCORE_PATTERN
from robobrain_ros.core.imaging import fit
from robobrain_ros.core.profiles import profile_for
from robobrain_ros.core.query import Task
from robobrain_ros.evaluation.rollouts import Disturbance, make_rollout, true_score

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from transformers import PreTrainedTokenizerFast  # noqa: E402

sys.path.append(str(Path(__file__).resolve().parent.parent))

from training import network  # noqa: E402
from training.progress import ProgressTuner, Step, arguments, main, make_step, run, source  # noqa: E402
from training.progress_batches import (  # noqa: E402
    CAMERA,
    collate,
    make_sample,
    new_tokens,
    score_text,
    whole_sample,
)
from training.progress_score import follow, scores_of  # noqa: E402
from training.tokenizer import LONGEST_TOKEN, save  # noqa: E402
from training.train import STATE  # noqa: E402

MODEL = Path(__file__).parent.parent / "robobrain_ros" / "demo" / "model"
IMAGES = 8


@pytest.fixture(scope="module")
def tuner(tmp_path_factory: pytest.TempPathFactory) -> ProgressTuner:
    return ProgressTuner(options(tmp_path_factory.mktemp("progress")))


def options(out: Path, *more: str) -> argparse.Namespace:
    fixed = ["--model", str(MODEL), "--rollouts", "1", "--comparisons", "3", "--views", "0"]
    return arguments([*fixed, "--out", str(out), *more])


def rendered(tuner: ProgressTuner, task: str) -> list[int]:
    """Return the token ids of the prompt as the node renders it, with one id for each visual token."""
    content: list[dict[str, str]] = []
    for text in profile_for("qwen2_5_vl").prompt_texts(Task.PROGRESS, task):
        content += [{"type": "text", "text": text}, {"type": "image"}]
    prompt = tuner.tokenizer.apply_chat_template(
        [{"role": "user", "content": content[:-1]}], tokenize=False, add_generation_prompt=True
    )
    cells, image = tuner.reader.packer.cells, tuner.packer.image
    return [token for one in tuner.packer.encode(prompt) for token in ([one] * cells if one == image else [one])]


@torch.no_grad()
def reference(tuner: ProgressTuner, ids: list[int], images: Any) -> Any:
    """Return the last hidden states according to transformers."""
    height, width = images.shape[1:3]
    patches = network.patches_of(torch.from_numpy(images)).reshape(IMAGES, -1, 3, 1, 14, 14).expand(-1, -1, -1, 2, -1, -1)
    tokens = torch.tensor([ids])
    return tuner.model.model(
        input_ids=tokens,
        pixel_values=patches.reshape(-1, 3 * 2 * 14 * 14),
        image_grid_thw=torch.tensor([[1, height // 14, width // 14]] * IMAGES),
        mm_token_type_ids=(tokens == tuner.packer.image).long(),
    ).last_hidden_state[0]


@torch.no_grad()
def test_the_states_are_those_of_transformers(tuner: ProgressTuner) -> None:
    """One batch contains rollouts whose tasks have different lengths."""
    samples = [make_sample(random.Random(seed), 3) for seed in (3, 5)]
    assert len({len(tuner.packer.encode(sample.task)) for sample in samples}) == 2
    tree = collate(samples)
    answers = tuner.reader.packer.answers(tree.scores)
    states, _ = tuner.reader.read(tree, answers[:, :-1])
    compared = [(sample, comparison) for sample in samples for comparison in sample.comparisons]
    assert len({(sample.task, comparison.before) for sample, comparison in compared}) == 6
    for row, (sample, comparison) in list(enumerate(compared))[::4]:
        prompt = rendered(tuner, sample.task)
        answer = tuner.packer.encode(score_text(comparison.score))
        shown = sample.images[[0, 1, *[comparison.before] * 3, *[comparison.after] * 3]]
        true = reference(tuner, prompt + answer, shown)[len(prompt) - 1 :]
        assert torch.allclose(states[row, : len(true)], true, atol=1e-3)


@torch.no_grad()
def test_bfloat16_gives_similar_states(tuner: ProgressTuner, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = collate([make_sample(random.Random(3), 1)])
    answers = tuner.reader.packer.answers(tree.scores)[:, :-1]
    exact = tuner.reader.read(tree, answers)[0]
    monkeypatch.setattr(tuner.reader, "mixed", True)
    mixed = tuner.reader.read(tree, answers)[0]
    assert not torch.equal(exact, mixed)
    assert float((exact - mixed).norm() / exact.norm()) < 0.05


def test_the_images_have_the_size_that_the_node_uses(tuner: ProgressTuner) -> None:
    sample = make_sample(random.Random(4), 2)
    size = fit(CAMERA, 43_904, profile_for("qwen2_5_vl").image_limit(Task.PROGRESS), 28)
    assert sample.images.shape[1:3] == (size.model_height, size.model_width)


@pytest.mark.parametrize("score", [-100, -37, -1, 0, 1, 9, 50, 100])
def test_each_answer_matches_the_grammar_and_has_few_tokens(tuner: ProgressTuner, score: int) -> None:
    text = score_text(score)
    assert re.fullmatch(SCORE_PATTERN, text)
    assert f"{score:+d}%" in text or score == 0
    assert (tuner.reader.packer.answers(np.array([score])) >= 0).sum() == (4 if score else 3)


def test_each_fixed_part_of_the_prompt_is_one_token(tuner: ProgressTuner) -> None:
    assert all(len(tuner.packer.encode(text)) == 1 for text in new_tokens())
    texts = len(rendered(tuner, "")) - IMAGES * (tuner.reader.packer.cells + 2)
    assert texts < 25


@pytest.mark.parametrize("more", [("--comparisons", "2"), ("--comparisons", "1", "--through-images")])
def test_training_lowers_the_loss_and_its_state_can_be_restored(tmp_path: Path, more: tuple[str, ...]) -> None:
    made = ProgressTuner(options(tmp_path, *more))
    step: Step = make_step(made.packer, made.options, 1, 0)
    reports = []
    for _ in range(3):
        made.train_step(step)
        reports.append(made.report())
    assert reports[2]["progress_loss"] + reports[2]["any_token"] < reports[0]["progress_loss"] + reports[0]["any_token"]
    assert {report["skipped"] for report in reports} == {0.0}
    made.save()
    other = ProgressTuner(made.options)
    other.resume(made.state())
    assert other.step == 3
    losses = [float(one.progress_loss(step[0]).detach()) for one in (made, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_gradient_that_is_not_finite_does_not_change_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ProgressTuner(options(tmp_path, "--muon-rate", "0", "--comparisons", "1"))
    step: Step = make_step(made.packer, made.options, 1, 0)
    loss = made.progress_loss
    monkeypatch.setattr(made, "progress_loss", lambda tree: loss(tree) * np.nan)
    before = made.model.lm_head.weight.detach().clone()
    made.train_step(step)
    assert made.report()["skipped"] == 1.0
    assert torch.equal(made.model.lm_head.weight, before)


def test_the_data_of_a_step_can_be_generated_again(tuner: ProgressTuner) -> None:
    one, other = (make_step(tuner.packer, tuner.options, 1, 5)[0] for _ in range(2))
    assert np.array_equal(one.images, other.images)
    assert np.array_equal(one.scores, other.scores)


def test_scores_without_vllm_are_those_of_the_most_probable_tokens(tuner: ProgressTuner) -> None:
    tree = collate([make_sample(random.Random(3), 2)])
    scores = scores_of(tuner.reader, tuner.packer, tree)
    answers = tuner.reader.packer.answers(np.where(scores == 0, 1, scores))
    with torch.no_grad():
        logits = tuner.model.lm_head(tuner.reader.read(tree, answers[:, :-1])[0])
    signs = [tuner.packer.encode(score_text(score))[0] for score in (1, -1, 0)]
    sign = np.array([1, -1, 0])[logits[:, 0, signs].argmax(-1).numpy()]
    number = logits[:, 1, tuner.packer.number_ids[1:101]].argmax(-1).numpy() + 1
    assert (np.sign(scores) == sign).all()
    assert (np.abs(scores) == np.where(sign == 0, 0, number)).all()


def test_each_frame_of_a_rollout_gets_an_estimate(tuner: ProgressTuner) -> None:
    rollout = min(
        (make_rollout(seed, (224, 168), Disturbance.STOPPED) for seed in range(900, 910)), key=lambda made: len(made.frames)
    )
    whole = (rollout, whole_sample(rollout))
    alone = follow(tuner.reader, tuner.packer, [whole])[0]
    assert alone.truth == tuple(frame.progress for frame in rollout.frames)
    assert {len(values) for values in alone.estimates.values()} == {len(rollout.frames)}
    assert [course.estimates for course in follow(tuner.reader, tuner.packer, [whole, whole])] == [alone.estimates] * 2


def test_the_comparisons_of_a_whole_rollout_are_those_of_the_evaluation() -> None:
    rollout = make_rollout(901, (224, 168), None)
    sample = whole_sample(rollout)
    truth = [rollout.frames[0].progress, 1.0, *(frame.progress for frame in rollout.frames[1:])]
    assert len(sample.images) == len(truth)
    rows = np.array([(comparison.before, comparison.after) for comparison in sample.comparisons]).reshape(-1, 3, 2)
    assert [tuple(row[:, 0]) for row in rows] == [(0, 0, 1), *((number, 0, 1) for number in range(2, len(truth) - 1))]
    assert all(
        comparison.score == true_score(truth[comparison.before], truth[comparison.after]) for comparison in sample.comparisons
    )


class Clock:
    """A clock that is 20 s later at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 20.0
        return self.now


def test_the_clock_decides_the_length_of_a_run_and_an_interrupted_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ProgressTuner(options(tmp_path, "--minutes", "2"))
    rates = []

    def train_step(step: Step) -> None:
        rates.append(made.share)
        made.step += 1

    monkeypatch.setattr(made, "train_step", train_step)
    run(made, Clock(), stop_after=60.0)
    assert rates == pytest.approx([0.0, 1 / 6, 2 / 6])
    state = torch.load(tmp_path / STATE, weights_only=True)
    made.seconds = 0.0
    made.resume(state)
    assert made.share == pytest.approx(0.5)
    run(made, Clock())
    assert rates == pytest.approx([0.0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert made.share == 1.0


def test_the_command_trains_with_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = ["--rollouts", "1", "--comparisons", "1", "--views", "1", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["progress", "--model", str(MODEL), "--out", str(tmp_path), "--minutes", "0.001", *size])
    main()
    assert (tmp_path / "model.safetensors").exists()
    assert torch.load(tmp_path / STATE, weights_only=True)["step"] == 1


@pytest.mark.thorough
def test_a_data_process_that_ends_ends_the_training(tmp_path: Path) -> None:
    options = arguments(["--model", str(MODEL), "--out", str(tmp_path / "without a tokenizer"), "--workers", "1"])
    with source(ProgressTuner(options)) as next_step, pytest.raises(RuntimeError, match="exit codes 1"):
        next_step()


def test_long_texts_are_one_token_that_is_short_in_the_file(tmp_path: Path) -> None:
    """llguidance ends the engine at a token of 1,024 bytes or more."""
    texts = new_tokens()
    assert max(len(text.encode()) for text in texts) > LONGEST_TOKEN
    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODEL)
    before = [tokenizer.encode(text) for text in texts]
    save(tokenizer, tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert [again.encode(text) for text in texts] == before
    assert [len(ids) for ids in before] == [1] * len(texts)
    assert max(len(text.encode()) for text in again.get_vocab()) <= LONGEST_TOKEN
