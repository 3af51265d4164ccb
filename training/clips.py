"""Questions about several images of one view (`evaluation.moments`) as arrays, and scores of the answers.

The prompt is the one with which the node asks about images of different times, if the engine does not take them as a video.
"""

import random
from typing import Any

import numpy as np

from robobrain_ros.core.imaging import FittedSize, fit
from robobrain_ros.core.query import RgbImage
from robobrain_ros.core.timed_images import sentence
from robobrain_ros.evaluation.exam import FIRST_TRAINING_SEED
from robobrain_ros.evaluation.moments import KINDS, Clip, make_clip, question_about
from robobrain_ros.evaluation.question import Question
from training.batches import CAMERAS, Arrays, Example, Packer, Written, jpeg, model_image, rendered_size
from training.score import answer_batch
from training.tokenizer import MAX_PIXELS, MIN_PIXELS, PATCH

LENGTHS = (2, 3, 4, 4, 5, 6)
"""Numbers of images in a clip for training."""
_QUESTIONS = ("what moved", "moved", "fell", "moved", "fell", "fell")
_TIMES_FROM = sentence((-1.0, 0.0)).split("1")[0]


def new_tokens() -> list[str]:
    """Return the constant part of the sentence that states the times. It becomes one token."""
    return [_TIMES_FROM]


def make_batch(packer: Packer, seed: int, step: int, count: int) -> Arrays:
    """Return ``count`` clips with questions. The batch depends only on the arguments."""
    rng = random.Random(f"clips {seed} {step}")
    camera, images = rng.choice(CAMERAS), rng.choice(LENGTHS)
    size = rendered_size(camera, rng.choice((1.15, 2.0)), MAX_PIXELS)
    clips = [
        make_clip(FIRST_TRAINING_SEED + rng.randrange(3_000_000_000), images, (size.width, size.height)) for _ in range(count)
    ]
    asked = []
    for clip in clips:
        made = [question_about(clip, kind, rng) for kind in _QUESTIONS]
        asked.append([written(packer, question, clip, size) for question in made if question is not None])
    return _batch(packer, clips, size, asked, rng)


def written(packer: Packer, question: Question, clip: Clip, size: FittedSize) -> Written:
    """Return the token ids of a question about a clip, and of its answer."""
    example = Example(question, False)
    answer = packer.answer(example, size)
    nothing = [-1] * len(answer)
    return Written(packer.prompt(example, clip.times), answer, (nothing, nothing, nothing))


def _batch(packer: Packer, clips: list[Clip], size: FittedSize, asked: list[list[Written]], rng: random.Random | None) -> Arrays:
    """Return the arrays of clips. ``rng``: compress some of the images as JPEG."""
    images: list[RgbImage] = [model_image(frame.scene(), size) for clip in clips for frame in clip.frames]
    if rng is not None:
        images = [jpeg(image, rng, 0.1) for image in images]
    head = packer.head(len(clips[0].frames), (size.model_height, size.model_width))
    return packer.pack(head, asked) | {"images": np.stack(images)}


def evaluate(model: Any, packer: Packer, count: int, device: str = "cpu", images: int = 4, chunk: int = 32) -> dict[str, float]:
    """Return the share of right answers to each kind of question about clips that are not used for training.

    For questions with yes or no, half of the answers are yes.
    """
    size = fit((640, 480), MIN_PIXELS, MAX_PIXELS, PATCH)
    results: dict[str, float] = {}
    for kind in KINDS:
        rng = random.Random(f"clips {kind}")
        chosen = [_unseen(kind, index, images, rng) for index in range(count)]
        right = 0
        for first in range(0, count, chunk):
            clips, asked = (list(column) for column in zip(*chosen[first : first + chunk], strict=True))
            batch = _batch(packer, clips, size, [[] for _ in clips], None)
            prompts = [written(packer, question, clip, size).prompt for question, clip in zip(asked, clips, strict=True)]
            texts = answer_batch(model, packer, batch, prompts, device)
            right += sum(text.removesuffix("</answer>") == question.words for text, question in zip(texts, asked, strict=True))
        results[f"clips: {kind}"] = round(right / count, 3)
    return results


def _unseen(kind: str, index: int, images: int, rng: random.Random) -> tuple[Clip, Question]:
    """Return a clip, and a question of this kind about it. Half of the answers say that something moved or fell."""
    while True:
        clip = make_clip(10_000 + rng.randrange(FIRST_TRAINING_SEED // 8), images)
        asked = question_about(clip, kind, rng)
        if asked is not None and asked.words.startswith(("Nothing", "No")) == bool(index % 2):
            return clip, asked
