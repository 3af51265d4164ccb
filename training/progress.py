"""Continue the training of the demo model so that it estimates the progress of a task from two moments::

    python -m training.progress --model robobrain_ros/demo/model --out build/progress --minutes 75

The vision layers are frozen by default. A part of each step consists of the earlier questions, so that the model does not forget
them, and of questions about several images (`training.clips`). If the run is interrupted, the same command continues it from the
saved state.

The length of the run is CPU time of this process on a CPU, and wall-clock time on another device. Therefore a busy CPU does not
change the number of steps, or the learning rate of a step.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from training import clips, plans, robots
from training.batches import Arrays, Packer
from training.muon import Muon
from training.progress_batches import (
    MINUS,
    NO_TARGET,
    PLUS,
    ZERO,
    Indices,
    ProgressPacker,
    Tree,
    collate,
    make_sample,
    new_tokens,
)
from training.progress_model import LevelStates, ProgressReader
from training.tokenizer import save
from training.train import halved, load_state, save_state

if TYPE_CHECKING:
    from multiprocessing.queues import Queue as ProcessQueue

SAVE_EVERY, REPORT_EVERY = 60.0, 15.0
"""Seconds between saved states, and between reports."""
WARM_UP = 15
"""Steps in which the learning rate grows."""
HELPERS_END = 0.75
"""Share of the run after which helper heads and guided attention are not used any more."""
_HELPER_VALUES = 5
_TASK, _POINT = 'The task is "', "[("
_SPREAD = 2.0
"""Width of the soft targets of scores, in percent."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("robobrain_ros/demo/model"), help="folder of the model to continue")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint and state")
    parser.add_argument(
        "--minutes", type=float, default=75.0, help="length of the whole run: CPU time on a CPU, otherwise wall-clock time"
    )
    parser.add_argument("--stop-after", type=float, default=0.0, help="interrupt the run after this number of minutes; 0: do not")
    parser.add_argument("--rollouts", type=int, default=2, help="rollouts in each step")
    parser.add_argument("--comparisons", type=int, default=7, help="comparisons of each rollout")
    parser.add_argument("--views", type=int, default=1, help="images with earlier questions in each step")
    parser.add_argument("--conditions", type=int, default=6, help="questions with yes or no about each of these images")
    parser.add_argument("--robots", type=int, default=0, help="questions about plans for random robots for each of these images")
    parser.add_argument("--clips", type=int, default=0, help="questions about several images: number of clips in each step")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of AdamW")
    parser.add_argument("--muon-rate", type=float, default=0.005, help="learning rate of Muon; 0: AdamW for all weights")
    parser.add_argument("--vision-rate", type=float, default=0.0, help="learning rate of the vision layers; 0: they are frozen")
    parser.add_argument("--cooldown", type=float, default=0.6, help="share of the run in which the learning rate falls to zero")
    parser.add_argument("--through-images", action="store_true", help="also train through the states of visual tokens; slower")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--mixed", action=argparse.BooleanOptionalAction, help="matrix products in bfloat16 (default: only on a GPU)"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that generate rollouts; 0: the training does it itself")
    options = parser.parse_args(given)
    if options.mixed is None:
        options.mixed = options.device != "cpu"
    return options


class Step(NamedTuple):
    """The data of a step: comparisons of rollouts, images with earlier questions, and questions about several images."""

    tree: Tree
    earlier: Arrays | None
    clips: Arrays | None


def make_step(packer: Packer, options: argparse.Namespace, seed: int, step: int) -> Step:
    """Return the data of a step. It depends only on the options, the seed and the step."""
    rng = random.Random(f"progress {seed} {step}")
    tree = collate([make_sample(rng, options.comparisons) for _ in range(options.rollouts)])
    earlier = clip_batch = None
    if options.views:
        # With one view, even steps show tables at the start, and odd steps tables after some steps.
        counts = {"conditions": options.conditions, "robot_questions": options.robots}
        earlier = plans.make_batch(packer, seed + 7, step, options.views, first=step % 2, **counts)
    if options.clips:
        clip_batch = clips.make_batch(packer, seed + 11, step, options.clips)
    return Step(tree, earlier, clip_batch)


def produce(queue: "ProcessQueue[Step]", options: argparse.Namespace, seed: int) -> None:
    """Put the data of steps into the queue until the training ends. This is the work of one process."""
    os.nice(5)
    cv2.setNumThreads(1)
    packer = Packer(PreTrainedTokenizerFast.from_pretrained(options.out))
    training = multiprocessing.parent_process()
    for step in itertools.count():
        made = make_step(packer, options, seed, step)
        while True:
            if training is None or not training.is_alive():
                # It was killed, and could not terminate its processes. Nobody reads the queue any more.
                queue.cancel_join_thread()
                return
            with contextlib.suppress(Full):
                queue.put(made, timeout=5)
                break


@contextlib.contextmanager
def source(tuner: "ProgressTuner") -> Iterator[Callable[[], Step]]:
    """Start the processes that generate data. Yield a function that returns the data of the next step."""
    options = tuner.options
    if not options.workers:
        yield lambda: make_step(tuner.packer, options, options.seed, tuner.step)
        return
    context = multiprocessing.get_context("spawn")
    queue: ProcessQueue[Step] = context.Queue(2 * options.workers)
    seeds = np.random.SeedSequence([options.seed, tuner.step]).generate_state(options.workers).tolist()
    workers = [context.Process(target=produce, args=(queue, options, seed), daemon=True) for seed in seeds]
    for worker in workers:
        worker.start()
    ready: Queue[Step] = Queue(2)

    def receive() -> None:
        while True:
            ready.put(queue.get())

    def next_step() -> Step:
        while True:
            with contextlib.suppress(Empty):
                return ready.get(timeout=5)
            ended = [str(worker.exitcode) for worker in workers if not worker.is_alive()]
            if ended:
                raise RuntimeError(f"processes that generate data have ended, with exit codes {', '.join(ended)}")

    # The data of a step on a GPU has many megabytes. The thread receives the next one during a step.
    threading.Thread(target=receive, daemon=True).start()
    try:
        yield next_step
    finally:
        for worker in workers:
            worker.terminate()


class ProgressTuner(plans.Tuner):
    """The model with optimizers for comparisons of moments and for the earlier questions."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options, options.device)
        self.reader = ProgressReader(
            self.model, ProgressPacker(self.packer), options.device, options.mixed, options.through_images
        )
        width = self.model.config.text_config.hidden_size
        helpers = {
            "early": nn.Linear(width, _HELPER_VALUES),
            "last": nn.Linear(width, _HELPER_VALUES),
            "answer": nn.Linear(width, 2),
        }
        self.helpers = nn.ModuleDict(helpers).to(options.device)
        self.seconds = 0.0
        language = self.model.model.language_model
        hidden = [weight for weight in language.layers.parameters() if weight.ndim == 2 and options.muon_rate > 0]
        own = {id(weight) for weight in hidden}
        rest = [weight for weight in language.layers.parameters() if id(weight) not in own]
        rest += [language.norm.weight, *self.helpers.parameters()]
        vocabulary = [language.embed_tokens.weight, self.model.lm_head.weight]
        groups = [{"params": rest, "lr": options.rate}, {"params": vocabulary, "lr": options.rate * 3}]
        if options.vision_rate > 0:
            vision = list(self.model.model.visual.requires_grad_(True).parameters())
            groups.append({"params": vision, "lr": options.vision_rate})
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)]
        if hidden:
            self.optimizers.append(Muon(hidden, lr=options.muon_rate))
        self.sign_ids = torch.tensor(sign_ids(self.packer), device=options.device)
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]

    def texts(self) -> list[str]:
        """See `plans.Tuner.texts`."""
        return new_tokens() + clips.new_tokens() + (robots.new_tokens() if self.options.robots else [])

    def _spell(self, added: list[str], known: Any) -> None:
        """Initialise the new tokens. The parts of the prompt start from tokens with a similar purpose.

        The letters of the long parts would give all of them the same mean. A token before the task's text starts from the token
        before the text of a plan. The token after an image starts from the first token of a point, which attends to the object of
        the question. The last token starts from the question whether a task is done.
        """
        super()._spell(added, known)
        embedding = self.model.model.language_model.embed_tokens.weight
        texts = new_tokens()
        done = next(text for text in plans.new_tokens() if text.startswith("Is the task done?"))
        alike = {text: _POINT for text in texts[:-4] if len(text) > 16} | {texts[0]: _TASK, texts[9]: _TASK, texts[10]: done}
        with torch.no_grad():
            for text in [text for text in added if text in texts]:
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
        """Train one step with its data. If a gradient is not finite, all gradients of the step count as zero."""
        factor = min(1.0, (self.step + 1) / WARM_UP) * min(1.0, max(0.0, (1 - self.share) / self.options.cooldown))
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        self.progress_loss(step.tree).backward()  # type: ignore[no-untyped-call]
        for batch, prefix in ((step.earlier, ""), (step.clips, "clip_")):
            if batch is not None:
                with self.reader.autocast():
                    loss = self.loss(batch, prefix)
                loss.backward()  # type: ignore[no-untyped-call]
        weights = [weight for optimizer in self.optimizers for group in optimizer.param_groups for weight in group["params"]]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        finite = torch.isfinite(norm)
        self.note(skipped=(~finite).float(), norm=norm.nan_to_num(0.0, 0.0, 0.0))
        scale = torch.where(finite, (1.0 / (norm + 1e-6)).clamp_max(1.0), 0.0)
        # A product with zero would not remove what is not finite.
        for gradient in gradients:
            gradient.nan_to_num_(0.0, 0.0, 0.0)
        torch._foreach_mul_(gradients, scale)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def progress_loss(self, tree: Tree) -> Tensor:
        """Return the loss of the comparisons."""
        helping = max(0.0, 1 - self.share / HELPERS_END)
        answers = self.reader.packer.answers(tree.scores)
        hidden, levels = self.reader.read(tree, answers[:, :-1], guided=helping > 0)
        loss = self._answer_loss(hidden, tree.scores, answers)
        if helping:
            values = self._tensor(tree.values)
            helped = sum((self._help_level(level, values) for level in levels), self._help_answer(hidden[:, 0], tree))
            self.note(progress_helped=helped)
            loss = loss + helping * helped
        return loss

    def _help_level(self, level: LevelStates, values: Tensor) -> Tensor:
        """Return the loss of guided attention, and the error with which two linear heads predict `Sample.values` of an image."""
        wanted = values[level.images]
        known = ~wanted.isnan()
        wanted = wanted.nan_to_num()
        loss = torch.zeros((), device=self.device) if level.guided is None else 0.3 * level.guided
        for name, states in (("early", level.early), ("last", level.last)):
            off = (self.helpers[name](states) - wanted).abs()
            loss = loss + (off * known).sum() / known.sum().clamp_min(1)
        self.note(progress_off=off[..., 0].mean())
        return loss

    def _help_answer(self, states: Tensor, tree: Tree) -> Tensor:
        """Return the error with which a linear head predicts the progress of both moments from the state before the answer."""
        _, before, after = tree.levels
        shown = np.stack([before.images[after.parent, 0], after.images[:, 0]], 1)
        off = (self.helpers["answer"](states) - self._tensor(tree.values[shown, 0])).abs().mean()
        self.note(answer_off=off)
        return off

    def _answer_loss(self, hidden: Tensor, scores: Indices, answers: Indices) -> Tensor:
        """Return the loss of the answers: the cross entropy among the tokens that the answer's grammar permits.

        Scores have soft targets. The output layer alone learns to prefer these tokens to all others, because the states of the
        language layers begin far from those of the new tokens.

        :param hidden: (comparisons, tokens, width), the states before each token of the answer.
        """
        logits, apart = self.model.lm_head(hidden), self.model.lm_head(hidden.detach())
        signs = sign_ids(self.packer)
        label = self._tensor(np.array([signs.index(token) for token in answers[:, 0]]))
        first = logits[:, 0, self.sign_ids]
        loss = F.cross_entropy(first, label)
        self.note(sign_right=(first.argmax(-1) == label).float().mean())
        numeric = np.flatnonzero(scores)
        if len(numeric):
            value = self._tensor(np.abs(scores[numeric]))
            numbers = torch.arange(1, 101, device=self.device).float()
            soft = torch.softmax(-((numbers - value[:, None]) ** 2) / (2 * _SPREAD**2), 1)
            own = F.log_softmax(logits[self._tensor(numeric), 1][:, self.number_ids[1:101]], -1)
            loss = loss + (soft * (soft.clamp_min(1e-9).log() - own)).sum(1).mean()
            self.note(score_off=(own.argmax(-1) + 1 - value).abs().float().mean())
        any_token = F.cross_entropy(apart.flatten(0, 1), self._tensor(answers).flatten(), ignore_index=NO_TARGET)
        self.note(progress_loss=loss, any_token=any_token)
        return loss + any_token

    def state(self) -> dict[str, Any]:
        """Return the state from which a run can continue. The momenta are in bfloat16."""
        return {
            "model": self.model.state_dict(),
            "helpers": self.helpers.state_dict(),
            "optimizers": [halved(optimizer.state_dict()) for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self.model.load_state_dict(state["model"])
        self.helpers.load_state_dict(state["helpers"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]


def sign_ids(packer: Packer) -> list[int]:
    """Return the token ids with which the answer of a positive score, a negative score and zero begins."""
    return [packer.encode(text)[0] for text in (PLUS, MINUS, ZERO)]


def run(tuner: ProgressTuner, clock: Callable[[], float], stop_after: float = 0.0) -> None:
    """Train until the end of the run. Print a report as JSON, and save the state, at regular times.

    :param clock: returns the time that the length of the run is measured in, in seconds.
    :param stop_after: interrupt the run after this number of seconds of the clock; 0: do not.
    """
    before, began = tuner.seconds, clock()
    last = saved = time.monotonic()
    reported, reported_clock, waited = tuner.step, began, 0.0
    with source(tuner) as next_step:
        while tuner.share < 1.0 and not 0.0 < stop_after <= tuner.seconds - before:
            asked = time.monotonic()
            data = next_step()
            waited += time.monotonic() - asked
            tuner.train_step(data)
            tuner.seconds = before + clock() - began
            passed = time.monotonic() - last
            if passed > REPORT_EVERY or tuner.share >= 1.0:
                means = tuner.report()  # It waits for the device.
                steps, used = tuner.step - reported, clock() - reported_clock
                pace = {"seconds_per_step": round(used / steps, 3), "clock_rate": round(used / passed, 2)}
                made = {"step": tuner.step, "minutes": round(tuner.seconds / 60, 2), **means, **pace}
                print(json.dumps({**made, "data_share": round(waited / passed, 2)}), flush=True)
                reported, reported_clock, last, waited = tuner.step, clock(), time.monotonic(), 0.0
            if time.monotonic() - saved > SAVE_EVERY:
                save_state(tuner.options.out, tuner.state())
                saved = time.monotonic()
    save_state(tuner.options.out, tuner.state())


def main() -> None:
    """Train the model and save it."""
    options = arguments()
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = True
    tuner = ProgressTuner(options)
    state = load_state(options.out, "cpu")
    if state is not None:
        tuner.resume(state)
    save(tuner.tokenizer, options.out)
    run(tuner, time.process_time if options.device == "cpu" else time.monotonic, options.stop_after * 60)
    tuner.save()


if __name__ == "__main__":
    main()
