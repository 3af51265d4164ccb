"""Continue the training of the demo model so that it estimates the progress of a task from two moments::

    python -m training.progress --model robobrain_ros/demo/model --out build/progress --minutes 75

 The vision layers are frozen. A part of each step consists of the earlier questions, so that the model does
not forget them. If the run is interrupted, the same command continues it from the saved state.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from training import network, plans
from training.batches import Arrays, Packer
from training.muon import Muon
from training.progress_batches import MINUS, PLUS, ZERO, Part, ProgressPacker, Sample, make_sample, new_tokens
from training.train import load_state, save_state

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

SAVE_EVERY = 60.0
"""Seconds between saved states."""
HELPERS_END = 0.75
"""Share of the run after which helper heads and guided attention are not used any more."""
_GUIDED_LAYER = 2
_HELPER_VALUES = 5
_TASK, _POINT = 'The task is "', "[("
_SPREAD = 2.0
"""Width of the soft targets of scores, in percent."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("robobrain_ros/demo/model"), help="folder of the model to continue")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint and state")
    parser.add_argument("--minutes", type=float, default=75.0, help="length of the whole run in minutes")
    parser.add_argument("--rollouts", type=int, default=2, help="rollouts in each step")
    parser.add_argument("--comparisons", type=int, default=7, help="comparisons of each rollout")
    parser.add_argument("--views", type=int, default=1, help="images with earlier questions in each step")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of AdamW")
    parser.add_argument("--muon-rate", type=float, default=0.005, help="learning rate of Muon; 0: AdamW for all weights")
    parser.add_argument("--cooldown", type=float, default=0.6, help="share of the run in which the learning rate falls to zero")
    parser.add_argument("--through-images", action="store_true", help="also train through the states of visual tokens; slower")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that generate rollouts; 0: the training does it itself")
    return parser.parse_args(given)


Step = tuple[list[Sample], Arrays | None]
"""The data of a step: rollouts with comparisons, and images with earlier questions."""


def make_step(packer: Packer, options: argparse.Namespace, seed: int, step: int) -> Step:
    """Return the data of a step. It depends only on the options, the seed and the step."""
    rng = random.Random(f"progress {seed} {step}")
    samples = [make_sample(rng, options.comparisons) for _ in range(options.rollouts)]
    # Even steps show tables at the start, and odd steps tables after some steps.
    earlier = plans.make_batch(packer, seed + 7, step, options.views, first=step % 2) if options.views else None
    return samples, earlier


def produce(queue: "Queue[Step]", options: argparse.Namespace, seed: int) -> None:
    """Put the data of steps into the queue, without end. This is the work of one process."""
    os.nice(5)
    cv2.setNumThreads(1)
    packer = Packer(PreTrainedTokenizerFast.from_pretrained(options.out))
    for step in itertools.count():
        queue.put(make_step(packer, options, seed, step))


@dataclass
class ProgressGuide:
    """Guided attention: at the token after each image, one head attends to the object, and another one to the gripper.

    :param images: index of the first cell of each image among all keys.
    :param after: index of the token after each image among the new tokens.
    :param wanted: (B, images, 2, cells), whether the object (0) and the gripper (1) cover a cell.
    """

    images: tuple[int, ...]
    after: tuple[int, ...]
    wanted: Tensor
    layer: int = _GUIDED_LAYER
    losses: list[Tensor] = field(default_factory=list)

    def add(self, query: Tensor, key: Tensor, seen: Tensor) -> None:
        """Add the loss of the layer. See `network.Guide.add`."""
        cells = self.wanted.shape[-1]
        visible = seen[:, 0, list(self.after)]
        for index, head in enumerate((0, query.shape[1] // 2)):
            scores = (query[:, head, list(self.after)] @ key[:, head].mT) * query.shape[-1] ** -0.5
            within = F.log_softmax(scores.masked_fill(~visible, -1e4), -1)
            own = torch.stack([within[:, place, first : first + cells] for place, first in enumerate(self.images)], 1)
            wanted = self.wanted[:, :, index]
            shown = wanted.any(-1)
            reached = -own.masked_fill(~wanted, -1e4).logsumexp(-1)
            self.losses.append((reached * shown).sum() / shown.sum().clamp_min(1))


class ProgressTuner(plans.Tuner):
    """The model with optimizers for comparisons of moments and for the earlier questions."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options, options.device)
        self.progress_packer = ProgressPacker(self.packer)
        width = self.model.config.text_config.hidden_size
        self.helper = nn.Linear(width, 2 * _HELPER_VALUES).to(options.device)
        self.seconds = 0.0
        language = self.model.model.language_model
        hidden = [weight for weight in language.layers.parameters() if weight.ndim == 2 and options.muon_rate > 0]
        own = {id(weight) for weight in hidden}
        rest = [weight for weight in language.layers.parameters() if id(weight) not in own]
        rest += [language.norm.weight, *self.helper.parameters()]
        vocabulary = [language.embed_tokens.weight, self.model.lm_head.weight]
        groups = [{"params": rest, "lr": options.rate}, {"params": vocabulary, "lr": options.rate * 3}]
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)]
        if hidden:
            self.optimizers.append(Muon(hidden, lr=options.muon_rate))
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.counts: dict[str, int] = {}

    def texts(self) -> list[str]:
        """See `plans.Tuner.texts`."""
        return new_tokens()

    def _spell(self, added: list[str], known: Any) -> None:
        """Initialise the new tokens. The parts of the prompt start from tokens with a similar purpose.

        The letters of the long parts would give all of them the same mean. A token before the task's text starts from the token
        before the text of a plan. The token after an image starts from the first token of a point, which attends to the object of
        the question. The last token starts from the question whether a task is done.
        """
        super()._spell(added, known)
        embedding = self.model.model.language_model.embed_tokens.weight
        texts = self.texts()
        done = next(text for text in plans.new_tokens() if text.startswith("Is the task done?"))
        alike = {text: _POINT for text in texts if len(text) > 16} | {texts[0]: _TASK, texts[9]: _TASK, texts[10]: done}
        with torch.no_grad():
            for text in added:
                index = self.packer.encode(text)[0]
                self.model.lm_head.weight[index] = 0.0
                if text in alike:
                    noise = torch.randn(embedding.shape[1]) * embedding.std() * 0.3
                    embedding[index] = embedding[known.encode(alike[text])[0]] + noise

    @property
    def share(self) -> float:
        """Completed share of the run, 0 to 1."""
        return min(1.0, self.seconds / 60 / self.options.minutes)

    def train_step(self, step: Step) -> None:
        """Train one step with its data."""
        factor = min(1.0, (self.step + 1) / 15) * min(1.0, max(0.0, (1 - self.share) / self.options.cooldown))
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        samples, earlier = step
        for sample in samples:
            (self.progress_loss(sample) / len(samples)).backward()  # type: ignore[no-untyped-call]
        if earlier is not None:
            self.loss(earlier).backward()  # type: ignore[no-untyped-call]
        weights = [weight for optimizer in self.optimizers for group in optimizer.param_groups for weight in group["params"]]
        nn.utils.clip_grad_norm_(weights, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def see(self, sample: Sample) -> Tensor:
        """Return the visual tokens (images, cells, width) of a sample."""
        with torch.no_grad():
            images = self._tensor(sample.images)
            return network.see(self.model, network.patches_of(images), tuple(images.shape[1:3]))  # type: ignore[arg-type]

    def progress_loss(self, sample: Sample) -> Tensor:
        """Return the loss of the comparisons of a rollout."""
        parts = self.progress_packer.parts(sample.task)
        imaged = self.see(sample)
        befores = list(dict.fromkeys(comparison.before for comparison in sample.comparisons))
        parents = [befores.index(comparison.before) for comparison in sample.comparisons]
        afters = [comparison.after for comparison in sample.comparisons]
        helping = max(0.0, 1 - self.share / HELPERS_END)
        about, values = self._tensor(sample.about), self._tensor(sample.values)
        cache: network.Cache = [None] * len(self.model.model.language_model.layers)
        helped = torch.zeros((), device=self.device)
        rows = [torch.tensor([[0, 1]]), torch.tensor(befores)[:, None].expand(-1, 3), torch.tensor(afters)[:, None].expand(-1, 3)]
        hidden = helped
        for number, (part, shown) in enumerate(zip(parts, rows, strict=True)):
            source = [[0], [0] * len(befores), parents][number]
            cache = [None if known is None else (known[0][source], known[1][source]) for known in cache]
            answers = [self.progress_packer.answer(comparison.score) for comparison in sample.comparisons] if number == 2 else []
            more = max(map(len, answers), default=0)
            guide = self._guide(part, about[shown], cache, more) if helping else None
            hidden, early = self._read(part, imaged[shown], cache, answers, guide)
            if guide is not None:
                helped = helped + 0.3 * torch.stack(guide.losses).mean()
                helped = helped + self._help(hidden, early, part, values[shown])
        loss = self._answer_loss(hidden, parts[2], sample)
        self.note(progress_helped=helped)
        return loss + helping * helped

    def _guide(self, part: Part, wanted: Tensor, cache: network.Cache, more: int) -> ProgressGuide:
        """Return the guide of a part. ``more``: number of text tokens after it."""
        known, cells = cache[0], wanted.shape[-1]
        first = (0 if known is None else known[0].shape[2]) + len(part.ids) + more
        return ProgressGuide(tuple(first + index * cells for index in range(wanted.shape[1])), part.after, wanted)

    def _read(
        self, part: Part, imaged: Tensor, cache: network.Cache, answers: list[list[int]], guide: ProgressGuide | None
    ) -> tuple[Tensor, Tensor]:
        """Run the language layers over a part of the prompt for several rows, and add it to the cache.

        :param imaged: (rows, images, cells, width).
        :param answers: token ids after the part, one list for each row; empty: none.
        :returns: the last hidden states of the token after each image, followed by those of the last token before the answer and
            of the answer; and the states of the tokens after the images, after an earlier layer.
        """
        count = len(imaged)
        ids, order = self._tensor(part.ids).expand(count, -1), self._tensor(part.order)
        positions, words = self._tensor(part.positions), len(part.ids)
        longest = max(map(len, answers), default=0)
        if answers:
            padded = np.array([answer + [self.packer.padding] * (longest - len(answer)) for answer in answers])
            later = torch.arange(longest, device=self.device)
            ids = torch.cat([ids, self._tensor(padded)], 1)
            positions = torch.cat([positions, (part.next + later).expand(3, -1)], 1)
            order = torch.cat([order[:words], len(order) + later, order[words:]])
        positions = torch.cat([positions, self._tensor(part.cells)], 1)
        known = cache[0]
        past = 0 if known is None else known[0].shape[2]
        before = order[:, None] >= order[None]
        seen = torch.cat([before.new_ones(len(order), past), before], 1)[None, None]
        queries = [*part.after, *(range(words - 1, words - 1 + longest) if answers else ())]
        text = self.model.model.language_model.embed_tokens(ids)
        places = positions[:, None].expand(3, count, -1)
        hidden, early = network.read_apart(
            self.model,
            text,
            imaged.flatten(1, 2),
            places,
            seen,
            cache,
            queries,
            _GUIDED_LAYER,
            guide,
            self.options.through_images,
        )
        return hidden, early[:, list(part.after)]

    def _help(self, hidden: Tensor, early: Tensor, part: Part, wanted: Tensor) -> Tensor:
        """Return the error with which two linear heads predict `Sample.values` of an image at the token after it."""
        after = len(part.after)
        made = self.helper(early)[..., :_HELPER_VALUES], self.helper(hidden[:, :after])[..., _HELPER_VALUES:]
        known = ~wanted.isnan()
        errors = [(value - wanted.nan_to_num()).abs()[known] for value in made]
        self.note(progress_off=(made[1] - wanted.nan_to_num())[..., 0].abs().mean())
        return errors[0].mean() + errors[1].mean()

    def _answer_loss(self, hidden: Tensor, part: Part, sample: Sample) -> Tensor:
        """Return the loss of the answers: the cross entropy among the tokens that the answer's grammar permits.

        Scores have soft targets. The output layer alone learns to prefer these tokens to all others, because the states of the
        language layers begin far from those of the new tokens.
        """
        answers = [self.progress_packer.answer(comparison.score) for comparison in sample.comparisons]
        states = hidden[:, len(part.after) :]
        logits, apart = self.model.lm_head(states), self.model.lm_head(states.detach())
        signs = [self.packer.encode(text)[0] for text in (PLUS, MINUS, ZERO)]
        label = self._tensor(np.array([signs.index(answer[0]) for answer in answers]))
        first = logits[:, 0, signs]
        loss = F.cross_entropy(first, label)
        self.note(sign_right=(first.argmax(-1) == label).float().mean())
        value = self._tensor(np.array([abs(comparison.score) for comparison in sample.comparisons]))
        numeric = value > 0
        if bool(numeric.any()):
            numbers = torch.arange(1, 101, device=self.device).float()
            soft = torch.softmax(-((numbers - value[numeric, None]) ** 2) / (2 * _SPREAD**2), 1)
            own = F.log_softmax(logits[numeric, 1][:, self.number_ids[1:101]], -1)
            loss = loss + (soft * (soft.clamp_min(1e-9).log() - own)).sum(1).mean()
            self.note(score_off=(own.argmax(-1) + 1 - value[numeric]).abs().float().mean())
        self.note(progress_loss=loss)
        longest = max(map(len, answers))
        targets = self._tensor(np.array([answer + [-100] * (longest - len(answer)) for answer in answers]))
        any_token = F.cross_entropy(apart[:, :longest].flatten(0, 1), targets.flatten(), ignore_index=-100)
        self.note(any_token=any_token)
        return loss + any_token

    def _tensor(self, values: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(values).to(self.device)

    def note(self, **values: Tensor) -> None:
        """Add values to the means of the next report."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())
            self.counts[name] = self.counts.get(name, 0) + 1

    def report(self, steps: int) -> dict[str, float]:
        """Return the means since the last report."""
        means = {name: round(value / self.counts.get(name, steps), 4) for name, value in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means

    def state(self) -> dict[str, Any]:
        """Return the state from which a run can continue."""
        return {
            "model": self.model.state_dict(),
            "helper": self.helper.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self.model.load_state_dict(state["model"])
        self.helper.load_state_dict(state["helper"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]


def main() -> None:
    """Train the model and save it."""
    options = arguments()
    torch.set_num_threads(options.threads)
    os.nice(19)
    tuner = ProgressTuner(options)
    state = load_state(options.out, options.device)
    if state is not None:
        tuner.resume(state)
    tuner.tokenizer.save_pretrained(options.out)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(2 * options.workers + 1)
    seeds = np.random.SeedSequence([options.seed, tuner.step]).generate_state(max(1, options.workers)).tolist()
    for seed in seeds[: options.workers]:
        context.Process(target=produce, args=(queue, options, seed), daemon=True).start()
    reported, last, saved, used = tuner.step, time.monotonic(), time.monotonic(), time.process_time()
    while tuner.share < 1.0:
        began = time.monotonic()
        data = queue.get(timeout=300) if options.workers else make_step(tuner.packer, options, options.seed, tuner.step)
        tuner.train_step(data)
        tuner.seconds += time.monotonic() - began
        if time.monotonic() - last > 15:
            steps = tuner.step - reported
            pace = (time.monotonic() - last) / steps
            cpu = (time.process_time() - used) / (time.monotonic() - last)
            made = {"step": tuner.step, "minutes": round(tuner.seconds / 60, 2), **tuner.report(steps)}
            print(json.dumps({**made, "seconds_per_step": round(pace, 2), "cpu_share": round(cpu, 2)}), flush=True)
            reported, last, used = tuner.step, time.monotonic(), time.process_time()
        if time.monotonic() - saved > SAVE_EVERY:
            save_state(options.out, tuner.state())
            saved = time.monotonic()
    save_state(options.out, tuner.state())
    tuner.save()


if __name__ == "__main__":
    main()
