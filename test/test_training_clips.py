"""Questions about several images: the true answers, and the arrays for training."""

import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.profiles import profile_for
from robobrain_ros.core.query import Task
from robobrain_ros.core.timed_images import sentence, times_fault
from robobrain_ros.demo import rearrange
from robobrain_ros.evaluation.moments import KINDS, clip_of, make_clip, question_about
from robobrain_ros.evaluation.rollouts import Disturbance, make_rollout

MODEL = Path(__file__).parent.parent / "robobrain_ros" / "demo" / "model"


@pytest.mark.parametrize("count", [2, 4, 8])
def test_a_clip_has_increasing_times_and_depends_only_on_its_seed(count: int) -> None:
    for seed in range(6):
        clip = make_clip(seed, count)
        assert clip == make_clip(seed, count)
        assert len(clip.frames) == count
        assert times_fault(clip.times, count) == ""


def test_what_moved_and_what_fell_agree_with_the_layouts() -> None:
    fallen = 0
    for seed in range(60):
        clip = make_clip(seed, 3)
        first, last = clip.frames[0].layout, clip.frames[-1].layout
        for name in clip.names:
            one, other = rearrange.find(first, name), rearrange.find(last, name)
            apart = max(abs(one.x - other.x), abs(one.y - other.y), abs(one.z - other.z))
            assert apart > 0.01 if name in clip.moved else apart <= 0.02
        fallen += len(clip.fallen)
    assert fallen > 5


@pytest.mark.parametrize("disturbance", [None, Disturbance.MOVED, Disturbance.TAKEN, Disturbance.STOPPED])
def test_nothing_falls_without_a_slip(disturbance: Disturbance | None) -> None:
    rng = random.Random(1)
    for seed in range(8):
        assert clip_of(make_rollout(seed, (320, 240), disturbance), rng, 2).fallen == ()


def test_an_object_that_slips_before_it_is_lifted_did_not_fall() -> None:
    """Then no height changes, and the first object of the table must not count as fallen."""
    rng = random.Random(3)
    fell: list[bool] = []
    for seed in range(40):
        rollout = make_rollout(seed, (320, 240), Disturbance.SLIP)
        index = rollout.first(Disturbance.SLIP)
        if index is None:
            continue
        before, after = (rollout.frames[it] for it in (index - 1, index))
        height = rearrange.find(before.layout, before.object).z - rearrange.find(after.layout, before.object).z
        moments = replace(rollout, frames=(before, after))
        assert clip_of(moments, rng, 2).fallen == ((before.object,) if height > 0.02 else ())
        fell.append(height > 0.02)
    assert {*fell} == {True, False}


def test_answers_are_true_and_both_yes_and_no_occur() -> None:
    rng = random.Random(2)
    first_words: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for seed in range(80):
        clip = make_clip(seed, 4)
        for kind in KINDS:
            asked = question_about(clip, kind, rng)
            if asked is None:
                assert kind == "what moved"
                assert len(clip.moved) > 2
                continue
            first_words[kind].add(asked.words.split()[0].strip(","))
            true = clip.fallen if kind == "fell" else clip.moved
            named = {name for name in clip.names if name in asked.words}
            if asked.words.startswith(("Yes", "The")):
                assert named <= set(true)
                assert named
            else:
                assert not named & set(true)
    assert first_words["moved"] == {"Yes", "No"}
    assert first_words["fell"] == {"Yes", "No", "The", "Nothing"}
    assert first_words["what moved"] == {"The", "Nothing"}


torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration  # noqa: E402

sys.path.append(str(Path(__file__).resolve().parent.parent))

from training import clips, network  # noqa: E402
from training.batches import Packer  # noqa: E402
from training.train import visible  # noqa: E402


@pytest.fixture(scope="module")
def packer() -> Packer:
    return Packer(PreTrainedTokenizerFast.from_pretrained(MODEL))


def test_the_prompt_is_that_of_the_node(packer: Packer) -> None:
    clip = make_clip(3, 3)
    asked = question_about(clip, "moved", random.Random(0))
    assert asked is not None
    text = f"{sentence(clip.times)}\n{profile_for('qwen2_5_vl').prompt_texts(Task.ASK, asked.text)[0]}"
    prompt = packer.decode(clips.written(packer, asked, clip, FittedSize(640, 480, 336, 252)).prompt)
    assert prompt.startswith(f"{text}<|im_end|>\n<|im_start|>assistant\n")


@torch.no_grad()
def test_the_states_are_those_of_transformers(packer: Packer) -> None:
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(MODEL, dtype=torch.float32)
    batch: dict[str, Any] = clips.make_batch(packer, 1, 2, 2)
    images = torch.from_numpy(batch["images"])
    number, (height, width) = len(images) // 2, images.shape[1:3]
    imaged = network.see(model, network.patches_of(images), (height, width))
    values = model.model.language_model.embed_tokens(torch.from_numpy(batch["ids"]))
    values = network.with_images(values, imaged, torch.from_numpy(batch["visual"]))
    positions, segment = torch.from_numpy(batch["positions"]), torch.from_numpy(batch["segment"])
    hidden, _ = network.read(model, values, positions, visible(segment))
    for row in range(2):
        for question in (1, 2):
            own = np.flatnonzero(np.isin(batch["segment"][row], (0, question)))
            tokens = torch.from_numpy(batch["ids"][row, own])[None]
            patches = network.patches_of(images[row * number : (row + 1) * number]).reshape(number, -1, 3, 1, 14, 14)
            true = model.model(
                input_ids=tokens,
                pixel_values=patches.expand(-1, -1, -1, 2, -1, -1).reshape(-1, 3 * 2 * 14 * 14),
                image_grid_thw=torch.tensor([[1, height // 14, width // 14]] * number),
                mm_token_type_ids=(tokens == packer.image).long(),
            ).last_hidden_state[0]
            assert torch.allclose(hidden[row, own], true, atol=1e-3)


@torch.no_grad()
def test_scores_are_shares_of_right_answers(packer: Packer) -> None:
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(MODEL, dtype=torch.float32)
    scores = clips.evaluate(model, packer, 2)
    assert set(scores) == {f"clips: {kind}" for kind in KINDS}
    assert all(0.0 <= score <= 1.0 for score in scores.values())
