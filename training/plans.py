"""Fine-tune the demo model to answer with plans that the arm of the tabletop world can run::

    python -m training.plans --model robobrain_ros/demo/model --out build/plans

One CPU core is enough. The vision layers are frozen. Half of the questions are those of the earlier training, so that the model
does not forget them. If the run is interrupted, the same command continues it from the saved state.
"""

import argparse
import json
import os
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.plans.prompt import ORDER, REASONING, STEPS, TEXT, VERDICT, plan_prompt
from robobrain_ros.core.plans.request import PlanMode, PlanRequest, PlanVerdict
from robobrain_ros.core.query import RgbImage
from robobrain_ros.demo.robot import ARM
from robobrain_ros.demo.simulator import Step, Table
from robobrain_ros.demo.world import Scene
from robobrain_ros.evaluation import plans
from robobrain_ros.evaluation.conditions import KINDS, condition_about
from robobrain_ros.evaluation.exam import FIRST_TRAINING_SEED
from robobrain_ros.evaluation.question import Question
from training import network, robots
from training.batches import (
    BUDGETS,
    CAMERAS,
    SHARE_OF_THINKING,
    Arrays,
    Example,
    Packer,
    examples_about,
    model_image,
    random_view,
)
from training.score import answer_all
from training.tokenizer import LARGEST_NUMBER, save
from training.train import load_state, save_state, visible

View = tuple[Scene, FittedSize, RgbImage]
SAVE_EVERY = 60.0
"""Seconds between saved states."""
CONTEXT = 16_384
"""Length of the context in tokens. It is enough for the longest plan that a schema allows. Real plans are much shorter."""


def new_tokens() -> list[str]:
    """Return the constant parts of prompts and answers. Each becomes one token."""
    lines = plan_prompt("", PlanRequest((ARM,))).split("\n")
    asked = ["\n".join(plan_prompt("", PlanRequest(mode=mode)).split("\n")[1:]) for mode in PlanMode]
    mark = "\x00"
    opening, rest = f'{{"{REASONING}":"', f'","{VERDICT}":"'
    whole = plans.answer_json(PlanVerdict.PLAN, mark, [Step("pick", mark), Step("place", mark, mark, mark)])
    text = whole.replace(json.dumps(mark)[1:-1], mark)
    steps = text[text.index(f'"{STEPS}"') :]
    for step_text in (Step("pick", mark).text, Step("place", mark, mark, mark).text):
        steps = steps.replace(step_text, mark)
    # A part ends at a mark, or before the order of a step, which is a number: "...":1},{"subtask":"...
    pieces = [part for piece in steps.split(mark)[1:-1] for part in piece.replace(":1}", f":{mark}}}").split(mark)]
    ends = [f'{rest}{verdict.value}"}}' for verdict in PlanVerdict if verdict is not PlanVerdict.PLAN]
    answers = [
        opening,
        f'{rest}{PlanVerdict.PLAN.value}","{STEPS}":[{{"{TEXT}":"',
        *dict.fromkeys(pieces),
        f'"}},"{ORDER}":',
        *ends,
    ]
    return ["\n".join(lines[1:-2]), *asked, *dict.fromkeys(answers)]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("robobrain_ros/demo/model"), help="folder of the model to fine-tune")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint and state")
    parser.add_argument("--steps", type=int, default=1200, help="number of steps of the whole run")
    parser.add_argument("--views", type=int, default=4, help="images in each step; half show tables on which objects were moved")
    parser.add_argument("--robots", type=int, default=0, help="questions about random robots for each image in a step")
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate; it decreases to zero over the last 60 %%")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--evaluate", type=int, default=64, help="situations of each kind after the run")
    return parser.parse_args()


class Tuner:
    """The model, its optimizer, and the progress of the run."""

    def __init__(self, options: argparse.Namespace, device: str = "cpu") -> None:
        self.options, self.step, self.device = options, 0, device
        torch.manual_seed(options.seed)
        known = PreTrainedTokenizerFast.from_pretrained(options.model)
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(options.model)
        before = Packer(known)
        added = [text for text in self.texts() if len(before.encode(text)) > 1]
        self.tokenizer.add_tokens([AddedToken(text, special=False, normalized=True) for text in added])
        self.packer = Packer(self.tokenizer)
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(options.model, dtype=torch.float32)
        self._spell(added, before)
        self.model.to(device)
        self.model.model.visual.requires_grad_(False)
        vocabulary = [self.model.model.language_model.embed_tokens.weight, self.model.lm_head.weight]
        layers = list(self.model.model.language_model.layers.parameters())
        layers.append(self.model.model.language_model.norm.weight)
        groups = [{"params": layers, "rate": options.rate}, {"params": vocabulary, "rate": options.rate * 4}]
        self.optimizer = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.98), weight_decay=0.0)
        self.number_ids = torch.tensor(self.packer.number_ids, device=device)
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def texts(self) -> list[str]:
        """Return the texts that become one token each."""
        return new_tokens() + (robots.new_tokens() if self.options.robots else [])

    def _spell(self, added: list[str], known: Packer) -> None:
        """Initialise the embedding of each new token with the mean of the tokens that spelled its text before.

        The rows of the output layer for new tokens are those of the vocabulary's padding.
        """
        embedding = self._room(len(self.tokenizer))
        with torch.no_grad():
            for text in added:
                embedding[self.packer.encode(text)[0]] = embedding[known.encode(text)].mean(0)

    def _room(self, tokens: int) -> Tensor:
        """Enlarge the vocabulary to a multiple of 64, if necessary. Return the embedding."""
        language, head = self.model.model.language_model, self.model.lm_head
        missing = -(-tokens // 64) * 64 - len(head.weight)
        if missing > 0:
            # The last row has never been a target, so its logit is low.
            rows = head.weight.data[-1:].expand(missing, -1)
            head.weight = torch.nn.Parameter(torch.cat([head.weight.data, rows]))
            spread = torch.randn(missing, rows.shape[1]) * language.embed_tokens.weight.data.std()
            language.embed_tokens.weight = torch.nn.Parameter(torch.cat([language.embed_tokens.weight.data, spread]))
            head.out_features = language.embed_tokens.num_embeddings = len(head.weight)
        return language.embed_tokens.weight

    def learn(self, batch: Arrays) -> None:
        """Train one step."""
        share = self.step / self.options.steps
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * min(1.0, (self.step + 1) / 30) * min(1.0, max(0.0, (1 - share) / 0.6))
        loss = self.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([weight for group in self.optimizer.param_groups for weight in group["params"]], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def loss(self, batch: Arrays, prefix: str = "") -> Tensor:
        """Return the cross entropy of a batch. Numbers in coordinates have soft targets, a Gaussian with a width of one pixel.

        :param prefix: begins the names of the values in the reports.
        """
        label, number = batch["targets"][:2].reshape(2, -1)
        chosen = np.flatnonzero(label >= 0)
        label, number = label[chosen], number[chosen]
        words, numeric = np.flatnonzero(number < 0), np.flatnonzero(number >= 0)
        images, ids, positions, visual = (self._tensor(batch[name]) for name in ("images", "ids", "positions", "visual"))
        imaged = network.see(self.model, network.patches_of(images), tuple(images.shape[1:3]))  # type: ignore[arg-type]
        values = network.with_images(self.model.model.language_model.embed_tokens(ids), imaged, visual)
        hidden, _ = network.read(self.model, values, positions, visible(self._tensor(batch["segment"])))
        logs = F.log_softmax(self.model.lm_head(hidden.flatten(0, 1)[self._tensor(chosen)]).float(), -1)
        wordy, wanted = logs[self._tensor(words)], self._tensor(label[words])
        loss = F.nll_loss(wordy, wanted)
        self.note(**{f"{prefix}words": loss, f"{prefix}word_right": (wordy.argmax(-1) == wanted).float().mean()})
        if len(numeric):
            wanted = self._tensor(number[numeric])
            numbers = torch.arange(LARGEST_NUMBER, device=self.device).float()
            soft = torch.softmax(-((numbers[None] - wanted[:, None]) ** 2) / 2, 1)
            own = logs[self._tensor(numeric)][:, self.number_ids]
            loss = loss - (soft * own).sum(1).mean() + (soft * soft.clamp_min(1e-9).log()).sum(1).mean()
            self.note(pixels_off=(own.argmax(-1) - wanted).abs().float().mean())
        self.note(**{f"{prefix}loss": loss})
        return loss

    def _tensor(self, values: np.ndarray[Any, Any]) -> Tensor:
        return network.to_device(values, self.device)

    def note(self, **values: Tensor) -> None:
        """Add values to the means of the next report. This does not wait for the device."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
            self.counts[name] = self.counts.get(name, 0) + 1

    def report(self) -> dict[str, float]:
        """Return the means since the last report."""
        means = {name: round(float(value) / self.counts[name], 4) for name, value in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means

    def state(self) -> dict[str, Any]:
        """Return the state from which a run can continue."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def save(self) -> None:
        """Write the checkpoint in bfloat16, like the original."""
        shutil.copytree(self.options.model, self.options.out, dirs_exist_ok=True)
        weights = {name: value.detach().to("cpu", torch.bfloat16).contiguous() for name, value in self.model.state_dict().items()}
        save_file(weights, self.options.out / "model.safetensors", metadata={"format": "pt"})
        save(self.tokenizer, self.options.out)
        config = json.loads((self.options.model / "config.json").read_text(encoding="utf-8"))
        config["text_config"]["max_position_embeddings"] = CONTEXT
        config["text_config"]["vocab_size"] = len(self.model.lm_head.weight)
        (self.options.out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def changed_view(
    packer: Packer, view: View, rng: random.Random, conditions: int = 0, robot_questions: int = 0
) -> tuple[View, list[Example]]:
    """Return a view of the table after some steps towards a goal, and questions about it. See `make_batch`."""
    scene, size, _ = view
    situation = _situation(scene, rng)
    now = situation.world.render()
    asked = [situation.question(mode, rng) for mode in (PlanMode.REPLAN, PlanMode.NEXT_STEP, PlanMode.CHECK)]
    for mode in (PlanMode.NEW, PlanMode.CHECK, PlanMode.REPLAN):
        other = plans.another(situation, scene, rng)
        asked += [other.question(mode, rng)] if other is not None else []
    absent = replace(situation, asked=plans.task_about(scene, rng, absent=True))
    asked.append(absent.question(rng.choice(tuple(PlanMode)), rng))
    examples = [_example(question, rng) for question in asked]
    examples += condition_examples(now, situation.world.table, rng, conditions)
    examples += robots.later_examples(packer, situation, scene, rng, robot_questions)
    return (now, size, model_image(now, size)), examples


def condition_examples(scene: Scene, table: Table, rng: random.Random, count: int) -> list[Example]:
    """Return questions that are answered with yes or no. Half of the first ones are of the kinds that are the most difficult."""
    kinds = ["side", "placed", "", "placed", "", "side", *[""] * count][:count]
    return [Example(condition_about(scene, table, rng, kind), False) for kind in kinds]


def _situation(scene: Scene, rng: random.Random) -> plans.Situation:
    """Return a random situation. If possible, half of them have several objects to move, and a third include a failed step."""
    several, failed = rng.random() < 0.5, rng.random() < 0.35
    for _ in range(12):
        situation = plans.midway(scene, rng)
        goal = situation.asked.goal
        if (not several or (goal is not None and len(goal.things) > 1)) and (not failed or situation.failed):
            break
    return situation


def first_examples(scene: Scene, rng: random.Random) -> list[Example]:
    """Return questions for plans about a table on which nothing was moved. Half of them ask about missing objects."""
    modes = (*[PlanMode.NEW] * 4, rng.choice(tuple(PlanMode)))
    asked = [plans.at_first(scene, rng, index % 2 == 0).question(mode, rng) for index, mode in enumerate(modes)]
    return [_example(question, rng) for question in asked]


def _example(question: Question, rng: random.Random) -> Example:
    return Example(question, rng.random() < SHARE_OF_THINKING)


def make_batch(
    packer: Packer, seed: int, step: int, count: int, first: int = 0, conditions: int = 0, robot_questions: int = 0
) -> Arrays:
    """Return the batch of a step. It depends only on the arguments.

    :param first: 1: the first image shows a table on which objects were moved; 0: the second one does.
    :param conditions: number of additional questions about each image that are answered with yes or no.
    :param robot_questions: number of additional questions about each image that ask for plans for random robots.
    """
    rng = random.Random(f"plans {seed} {step}")
    camera, budget = rng.choice(CAMERAS), rng.choice(BUDGETS)
    views: list[View] = []
    examples: list[list[Example]] = []
    for index in range(count):
        view = random_view(rng, camera, budget)
        if (index + first) % 2:
            view, asked = changed_view(packer, view, rng, conditions, robot_questions)
        else:
            asked = examples_about(view[0], rng, 12) + first_examples(view[0], rng)
            asked += condition_examples(view[0], Table(tuple(thing.name for thing in view[0].objects)), rng, conditions)
            asked += robots.first_examples(packer, view[0], rng, robot_questions)
        views.append(view)
        examples.append(asked)
    return packer.batch(views, examples)


def evaluate(model: Any, packer: Packer, count: int, device: str = "cpu", chunk: int = 16) -> dict[str, Any]:
    """Return the share of answers that are identical to the true answers, for scenes that are not used for training.

    The answers are generated without a constraint.
    """
    results: dict[str, Any] = {}
    for mode in PlanMode:
        right = 0
        rng = random.Random(f"evaluate {mode}")
        for first in range(0, count, chunk):
            views, examples = [], []
            for index in range(min(chunk, count - first)):
                scene, size, image = _unseen(first + index)
                fresh = mode is PlanMode.NEW
                situation = plans.at_first(scene, rng, index % 4 == 0) if fresh else plans.midway(scene, rng)
                now = situation.world.render()
                views.append((now, size, image if fresh else model_image(now, size)))
                examples.append(Example(situation.question(mode, rng), False))
            texts = answer_all(model, packer, views, examples, device)
            right += sum(
                text.removesuffix("</answer>") == example.question.words for text, example in zip(texts, examples, strict=True)
            )
        results[plans.KINDS[mode]] = round(right / count, 3)
    return results


def evaluate_conditions(model: Any, packer: Packer, count: int, device: str = "cpu", chunk: int = 64) -> dict[str, float]:
    """Return the share of right answers of each kind of condition, for tables after some steps. Half of the answers are yes."""
    results: dict[str, float] = {}
    for kind in KINDS:
        right = 0
        rng = random.Random(f"conditions {kind}")
        for first in range(0, count, chunk):
            views, examples = [], []
            for index in range(min(chunk, count - first)):
                wanted = "Yes" if index % 2 else "No"
                while True:
                    scene, size, _ = _unseen(100_000 + rng.randrange(1_000_000))
                    situation = plans.midway(scene, rng)
                    now = situation.world.render() if kind == "side" else scene
                    asked = condition_about(now, situation.world.table, rng, kind)
                    if asked.kind == kind and asked.words.startswith(wanted):
                        break
                now = situation.world.render()
                views.append((now, size, model_image(now, size)))
                examples.append(Example(asked, False))
            texts = answer_all(model, packer, views, examples, device)
            right += sum(text[:2] == example.question.words[:2] for text, example in zip(texts, examples, strict=True))
        results[f"condition {kind}"] = round(right / count, 3)
    return results


def _unseen(number: int) -> View:
    from training.batches import view

    return view(FIRST_TRAINING_SEED // 4 + number, (640, 480), 2.0)


def main() -> None:
    """Fine-tune and evaluate the model."""
    options = arguments()
    torch.set_num_threads(options.threads)
    os.nice(10)
    tuner = Tuner(options)
    state = load_state(options.out, "cpu")
    if state is not None:
        tuner.resume(state)
    last = saved = time.monotonic()
    reported = tuner.step
    while tuner.step < options.steps:
        batch = make_batch(tuner.packer, options.seed, tuner.step, options.views, robot_questions=options.robots)
        tuner.learn(batch)
        if time.monotonic() - last > 15:
            pace = round((tuner.step - reported) / (time.monotonic() - last), 3)
            print(json.dumps({"step": tuner.step, **tuner.report(), "steps_per_second": pace}), flush=True)
            reported, last = tuner.step, time.monotonic()
        if time.monotonic() - saved > SAVE_EVERY:
            save_state(options.out, tuner.state())
            saved = time.monotonic()
    tuner.save()
    if options.evaluate:
        results = evaluate(tuner.model, tuner.packer, options.evaluate)
        results |= robots.evaluate(tuner.model, tuner.packer, options.evaluate) if options.robots else {}
        print(json.dumps(results, indent=1), flush=True)


if __name__ == "__main__":
    main()
