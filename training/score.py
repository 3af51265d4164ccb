"""Score a model after training. `training.network` generates greedy answers. The package parses and scores them."""

import random
from typing import Any

import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.query import Answer, ParsedAnswer, RgbImage
from robobrain_ros.core.reading.answers import parse_answer
from robobrain_ros.demo.world import Scene
from robobrain_ros.errors import RoboBrainError
from robobrain_ros.evaluation.metrics import Assessment, assess, assess_refusal
from robobrain_ros.evaluation.questions import KINDS_OF_QUESTIONS, ask_about
from training import network
from training.batches import CAMERAS, Arrays, Example, Packer, view
from training.tokenizer import PROFILE

LONGEST_ANSWER = 200


def answer_all(
    model: Qwen2_5_VLForConditionalGeneration,
    packer: Packer,
    views: list[tuple[Scene, FittedSize, RgbImage]],
    examples: list[Example],
    device: str,
    longest: int = LONGEST_ANSWER,
) -> list[str]:
    """Return greedy answers to one question about each image. All images must have the same size.

    :param longest: most tokens of an answer.
    """
    batch = packer.batch(views, [[] for _ in views])
    return answer_batch(model, packer, batch, [packer.prompt(example) for example in examples], device, longest)


@torch.no_grad()
def answer_batch(
    model: Qwen2_5_VLForConditionalGeneration,
    packer: Packer,
    batch: Arrays,
    prompts: list[list[int]],
    device: str,
    longest_answer: int = LONGEST_ANSWER,
) -> list[str]:
    """Return greedy answers to one prompt about the images of each row of a batch without questions."""
    head = batch["head"]
    longest = max(map(len, prompts))
    ids = np.full((len(prompts), head + longest), packer.padding)
    ids[:, :head] = batch["ids"][:, :head]
    valid = np.zeros(ids.shape, bool)
    valid[:, :head] = True
    positions = np.zeros((3, *ids.shape), np.int64)
    positions[:, :, :head] = batch["positions"][:, :, :head]
    after = int(positions[0, 0, head - 1]) + 1
    for index, prompt in enumerate(prompts):
        place = head + longest - len(prompt)
        ids[index, place:], valid[index, place:] = prompt, True
        positions[:, index, place:] = after + np.arange(len(prompt))
    images = torch.from_numpy(batch["images"]).to(device)
    weight_type = model.lm_head.weight.dtype
    imaged = network.see(model, network.patches_of(images).to(weight_type), tuple(batch["images"].shape[1:3]))
    embed = model.model.language_model.embed_tokens
    values = embed(torch.from_numpy(ids).to(device))
    values = network.with_images(values, imaged, torch.from_numpy(batch["visual"]).to(device))
    mask = torch.from_numpy(valid).to(device)
    length = ids.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    seen = (mask[:, None, :] & before) | torch.eye(length, dtype=torch.bool, device=device)
    cache: network.Cache = [None] * len(model.model.language_model.layers)
    places = torch.from_numpy(positions).to(device)
    hidden, _ = network.read(model, values, places, seen[:, None], cache=cache)
    place, ended = places[:, :, -1:], torch.zeros(len(prompts), dtype=torch.bool, device=device)
    token, written = model.lm_head(hidden[:, -1]).argmax(-1), []
    end = model.config.text_config.eos_token_id
    for _ in range(longest_answer):
        written.append(token)
        ended |= token == end
        if bool(ended.all()):
            break
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        place = place + 1
        hidden, _ = network.read(model, embed(token[:, None]), place, mask[:, None, None], cache=cache)
        token = model.lm_head(hidden[:, -1]).argmax(-1)
    rows = torch.stack(written, 1).tolist()
    return [packer.decode(row[: row.index(end)] if end in row else row) for row in rows]


def in_image(parsed: ParsedAnswer, size: FittedSize) -> Answer:
    """Convert an answer to pixels of the scene's image."""
    rule = PROFILE.coordinates
    return Answer(
        parsed.task,
        parsed.text,
        points=tuple(size.to_image(point, rule) for point in parsed.points),
        boxes=tuple(size.box_to_image(box, rule) for box in parsed.boxes),
        waypoints=tuple(size.to_image(point, rule) for point in parsed.waypoints),
        steps=parsed.steps,
    )


def mark(text: str, example: Example, scene: Scene, size: FittedSize) -> Assessment | None:
    """Return the assessment of an answer's text; None: the text cannot be parsed."""
    try:
        parsed = parse_answer(example.question.task, PROFILE.assistant_prefix(example.think) + text, PROFILE)
    except RoboBrainError:
        return None
    if parsed.nothing_found and example.question.task.value != "ask":
        return assess_refusal(example.question)
    return assess(scene, example.question, in_image(parsed, size))


def evaluate(
    model: Qwen2_5_VLForConditionalGeneration, packer: Packer, count: int, device: str, chunk: int = 64, cameras: Any = CAMERAS
) -> dict[str, Any]:
    """Return the scores for each kind of question, from ``count`` scenes that are not used for training."""
    sizes = sorted(set(cameras))
    results: dict[str, Any] = {}
    for think in (False, True):
        for offset, kind in enumerate(KINDS_OF_QUESTIONS):
            verdicts: list[Assessment | None] = []
            number = count if not think else max(16, count // 3)
            for first in range(0, number, chunk):
                camera = sizes[(first // chunk + offset) % len(sizes)]
                rng = random.Random(f"{kind} {first}")
                views = [view(10_000 * offset + first + index, camera, 2.0) for index in range(min(chunk, number - first))]
                examples = [Example(ask_about(scene, kind, rng), think) for scene, _, _ in views]
                texts = answer_all(model, packer, views, examples, device)
                answered = zip(texts, examples, views, strict=True)
                verdicts += [mark(text, example, scene, size) for text, example, (scene, size, _) in answered]
            results[f"{kind}{' thinking' if think else ''}"] = summary(verdicts)
    return results


def summary(verdicts: list[Assessment | None]) -> dict[str, float]:
    """Return the share of correct answers, the mean score, and the share of answers that can be parsed."""
    read = [verdict for verdict in verdicts if verdict is not None]
    number = max(1, len(verdicts))
    return {
        "right": round(sum(verdict.right for verdict in read) / number, 3),
        "mean": round(sum(verdict.score for verdict in read) / number, 3),
        "read": round(len(read) / number, 3),
    }
