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

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

sys.path.append(str(Path(__file__).resolve().parent.parent))

from training import network  # noqa: E402
from training.progress import ProgressTuner, Step, arguments, make_step  # noqa: E402
from training.progress_batches import CAMERA, make_sample, new_tokens, score_text  # noqa: E402

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
    cells, image = tuner.progress_packer.cells, tuner.packer.image
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


def test_the_states_are_those_of_transformers(tuner: ProgressTuner, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = make_sample(random.Random(3), 3)
    states = []
    read_apart = network.read_apart

    def spy(*arguments: Any, **more: Any) -> Any:
        result = read_apart(*arguments, **more)
        states.append(result[0].detach())
        return result

    monkeypatch.setattr(network, "read_apart", spy)
    tuner.progress_loss(sample)
    prompt = rendered(tuner, sample.task)
    assert len({comparison.before for comparison in sample.comparisons}) == 3
    for row, comparison in enumerate(sample.comparisons):
        answer = tuner.progress_packer.answer(comparison.score)
        shown = sample.images[[0, 1, *[comparison.before] * 3, *[comparison.after] * 3]]
        true = reference(tuner, prompt + answer, shown)[len(prompt) - 1 : len(prompt) - 1 + len(answer)]
        assert torch.allclose(states[2][row, 3 : 3 + len(answer)], true, atol=1e-3)


def test_the_images_have_the_size_that_the_node_uses(tuner: ProgressTuner) -> None:
    sample = make_sample(random.Random(4), 2)
    size = fit(CAMERA, 43_904, profile_for("qwen2_5_vl").image_limit(Task.PROGRESS), 28)
    assert sample.images.shape[1:3] == (size.model_height, size.model_width)


@pytest.mark.parametrize("score", [-100, -37, -1, 0, 1, 9, 50, 100])
def test_each_answer_matches_the_grammar_and_has_few_tokens(tuner: ProgressTuner, score: int) -> None:
    text = score_text(score)
    assert re.fullmatch(SCORE_PATTERN, text)
    assert f"{score:+d}%" in text or score == 0
    assert len(tuner.progress_packer.answer(score)) == (4 if score else 2)


def test_each_fixed_part_of_the_prompt_is_one_token(tuner: ProgressTuner) -> None:
    assert all(len(tuner.packer.encode(text)) == 1 for text in new_tokens())
    texts = len(rendered(tuner, "")) - IMAGES * (tuner.progress_packer.cells + 2)
    assert texts < 25


@pytest.mark.parametrize("through", [False, True])
def test_training_lowers_the_loss_and_its_state_can_be_restored(tmp_path: Path, through: bool) -> None:
    made = ProgressTuner(options(tmp_path, *(["--through-images"] if through else [])))
    step: Step = make_step(made.packer, made.options, 1, 0)
    before = float(made.progress_loss(step[0][0]).detach())
    for _ in range(2):
        made.train_step(step)
    after = float(made.progress_loss(step[0][0]).detach())
    assert after < before
    made.save()
    other = ProgressTuner(made.options)
    other.resume(made.state())
    assert float(other.progress_loss(step[0][0]).detach()) == pytest.approx(after, rel=1e-5)
    assert other.step == 2


def test_the_data_of_a_step_can_be_generated_again(tuner: ProgressTuner) -> None:
    one, other = (make_step(tuner.packer, tuner.options, 1, 5)[0][0] for _ in range(2))
    assert np.array_equal(one.images, other.images)
    assert one.comparisons == other.comparisons
