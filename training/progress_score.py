"""Score a model's estimates of progress without vLLM::

    python -m training.progress_score --model build/progress --rollouts 100
    python -m training.progress_score --model build/progress --rollouts 500 --device cuda --workers 14 --at-once 8

The measures and the seeds are those of `evaluation.progress`. Decoding is greedy, among the tokens that begin a score, and then
among the numbers from 1 to 100.
"""

import argparse
import itertools
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from robobrain_ros.core.progress import Perspective
from robobrain_ros.evaluation.exam import FIRST_SEED
from robobrain_ros.evaluation.progress_measures import Course, Scores, add_alarm_options, alarm_of, course_of, rows_of, table
from robobrain_ros.evaluation.rollouts import Rollout, make_rollout
from training import clips, plans, robots, score
from training.batches import Packer
from training.progress_batches import CAMERA, MINUS, PLUS, ZERO, Indices, ProgressPacker, Sample, Tree, collate, whole_sample
from training.progress_model import ProgressReader

PERSPECTIVES = (Perspective.INCREMENTAL, Perspective.FORWARD, Perspective.BACKWARD)
"""Order of the comparisons in `whole_sample`."""


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Score estimates of progress without vLLM.")
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--rollouts", type=int, default=100, help="number of rollouts (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=0, help="also score this number of questions of each kind (default: 0)")
    add_alarm_options(parser)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that render the rollouts; 0: this process does it")
    parser.add_argument("--at-once", type=int, default=1, help="rollouts in one batch (default: 1)")
    options = parser.parse_args()
    options.alarm = alarm_of(parser, options)
    return options


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


Whole = tuple[Rollout, Sample]
"""A rollout, and the comparisons of all its frames."""


def follow(reader: ProgressReader, packer: Packer, rollouts: Sequence[Whole]) -> list[Course]:
    """Estimate the progress of each frame of these rollouts, as one batch."""
    answered = scores_of(reader, packer, collate([sample for _, sample in rollouts])).reshape(-1, len(PERSPECTIVES)).tolist()
    scores: Iterator[Scores] = (dict(zip(PERSPECTIVES, row, strict=True)) for row in answered)
    return [course_of(rollout, list(itertools.islice(scores, len(rollout.frames) - 1))) for rollout, _ in rollouts]


def whole(seed: int) -> Whole:
    """Render the rollout of a seed."""
    cv2.setNumThreads(1)
    rollout = make_rollout(seed, CAMERA)
    return rollout, whole_sample(rollout)


def follow_all(reader: ProgressReader, packer: Packer, seeds: Sequence[int], workers: int, at_once: int) -> list[Course]:
    """Estimate the progress of each frame of the rollouts of these seeds.

    :param workers: number of processes that render; 0: none.
    :param at_once: number of rollouts in a batch.
    """
    pool = multiprocessing.get_context("spawn").Pool(workers) if workers else None
    try:
        rollouts = map(whole, seeds) if pool is None else pool.imap(whole, seeds)
        batches = iter(lambda: list(itertools.islice(rollouts, at_once)), [])
        return [course for batch in batches for course in follow(reader, packer, batch)]
    finally:
        if pool is not None:
            pool.terminate()


def main() -> None:
    """Print the measures."""
    options = arguments()
    torch.set_num_threads(1)
    reader, packer = load(options.model, options.device)
    seeds = range(FIRST_SEED, FIRST_SEED + options.rollouts)
    courses = follow_all(reader, packer, seeds, options.workers, options.at_once)
    print(table(rows_of(courses, limits=options.alarm)), flush=True)
    if options.questions:
        few = max(1, options.questions // 4)
        results = {
            **plans.evaluate_conditions(reader.model, packer, options.questions, options.device),
            **clips.evaluate(reader.model, packer, options.questions, options.device),
            **plans.evaluate(reader.model, packer, few, options.device, chunk=64),
            **robots.evaluate(reader.model, packer, few, options.device, chunk=64),
            **score.evaluate(reader.model, packer, few, options.device),
        }
        print(json.dumps(results, indent=1), flush=True)


if __name__ == "__main__":
    main()
