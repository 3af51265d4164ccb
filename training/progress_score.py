"""Score a model's estimates of progress without vLLM::

    python -m training.progress_score --model build/progress --rollouts 100

The measures and the seeds are those of `evaluation.progress`. Decoding is greedy, among the tokens that begin a score, and then
among the numbers from 1 to 100.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from robobrain_ros.core.progress import Perspective
from robobrain_ros.evaluation.exam import FIRST_SEED
from robobrain_ros.evaluation.progress_measures import Course, Scores, course_of, rows_of, table
from robobrain_ros.evaluation.rollouts import Rollout, make_rollout
from training import plans, score
from training.batches import Packer
from training.progress_batches import CAMERA, MINUS, PLUS, ZERO, Indices, ProgressPacker, Tree, collate, whole_sample
from training.progress_model import ProgressReader

PERSPECTIVES = (Perspective.INCREMENTAL, Perspective.FORWARD, Perspective.BACKWARD)
"""Order of the comparisons in `whole_sample`."""


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Score estimates of progress without vLLM.")
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--rollouts", type=int, default=100, help="number of rollouts (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=0, help="also score this number of questions of each kind (default: 0)")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def load(folder: Path, device: str) -> tuple[ProgressReader, Packer]:
    """Load a model."""
    packer = Packer(PreTrainedTokenizerFast.from_pretrained(folder))
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).to(device)
    return ProgressReader(model, ProgressPacker(packer), device), packer


@torch.no_grad()
def scores_of(reader: ProgressReader, packer: Packer, tree: Tree) -> Indices:
    """Return the scores (comparisons,) that the model answers, in percent."""
    plus, minus, zero = (packer.encode(text)[0] for text in (PLUS, MINUS, ZERO))
    references, before, after = tree.levels
    # The number depends on the sign, so each comparison occurs with both signs.
    doubled = replace(after, **{name: getattr(after, name).repeat(2, 0) for name in ("rollout", "parent", "images")})
    answers = np.tile([[plus], [minus]], (len(after.rollout), 1))
    hidden, _ = reader.read(replace(tree, levels=(references, before, doubled)), answers)
    logits = reader.model.lm_head(hidden)
    sign = logits[::2, 0, [plus, minus, zero]].argmax(-1).cpu().numpy()
    numbers = (logits[:, 1, packer.number_ids[1:101]].argmax(-1) + 1).cpu().numpy().reshape(-1, 2)
    return np.select([sign == 0, sign == 1], [numbers[:, 0], -numbers[:, 1]], 0)


def follow(reader: ProgressReader, packer: Packer, rollout: Rollout) -> Course:
    """Estimate the progress of each frame of a rollout."""
    answered = scores_of(reader, packer, collate([whole_sample(rollout)])).reshape(-1, len(PERSPECTIVES)).tolist()
    scores: list[Scores] = [dict(zip(PERSPECTIVES, row, strict=True)) for row in answered]
    return course_of(rollout, scores)


def main() -> None:
    """Print the measures."""
    options = arguments()
    torch.set_num_threads(1)
    reader, packer = load(options.model, options.device)
    seeds = range(FIRST_SEED, FIRST_SEED + options.rollouts)
    print(table(rows_of([follow(reader, packer, make_rollout(seed, CAMERA)) for seed in seeds])), flush=True)
    if options.questions:
        few = max(1, options.questions // 4)
        results = {
            **plans.evaluate_conditions(reader.model, packer, options.questions, options.device),
            **plans.evaluate(reader.model, packer, few, options.device, chunk=64),
            **score.evaluate(reader.model, packer, few, options.device),
        }
        print(json.dumps(results, indent=1), flush=True)


if __name__ == "__main__":
    main()
