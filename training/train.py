"""Train the tabletop demo model: ``python -m training.train --out build/tabletop``.

README.md in this folder describes the recipe. If a run is interrupted, the same command continues it
from the saved state.
"""

import argparse
import copy
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from training import network
from training.batches import Arrays, Packer, produce
from training.muon import Muon
from training.score import evaluate
from training.tokenizer import LARGEST_NUMBER, PATCH, build

HELPERS_END = 0.7
"""Share of the run after which helper heads and guided attention are not used any more."""
WARM_UP = 60
STATE = "state.pt"
SAVE_EVERY = 60.0
"""Seconds between saved states."""
_COLOUR_CLASSES, _KIND_CLASSES = 8, 6
"""Numbers of classes: six colours or four kinds of objects, nothing, and the gripper."""


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/tabletop"), help="folder of the model and of the run's state")
    parser.add_argument("--minutes", type=float, default=13.2, help="length of the whole run in minutes")
    parser.add_argument("--stop-after", type=float, default=0.0, help="interrupt the run after this number of minutes; 0: do not")
    parser.add_argument(
        "--preview", type=float, default=0.0, help="minutes of a cool-down after an interruption, to get a usable model"
    )
    parser.add_argument("--views", type=int, default=64, help="images in each step")
    parser.add_argument("--questions", type=int, default=12, help="questions about each image")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="processes that generate scenes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=3e-3)
    parser.add_argument("--cooldown", type=float, default=0.45, help="share of the run in which the learning rate falls to zero")
    parser.add_argument("--evaluate", type=int, default=128, help="questions of each kind after the run")
    return parser.parse_args()


class Trainer:
    """The model, its helper heads and optimizers, and the progress of the run."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.device = options, options.device
        torch.manual_seed(options.seed)
        torch.backends.cuda.matmul.allow_tf32 = True
        self.tokenizer = self._tokenizer(options.out)
        self.packer = Packer(self.tokenizer)
        self.model = Qwen2_5_VLForConditionalGeneration(network.make_config(self.tokenizer, network.Shape())).float()
        network.initialise(self.model, self.packer.number_ids)
        width = self.model.config.text_config.hidden_size
        self.helpers = nn.ModuleList([nn.Linear(width, _COLOUR_CLASSES + _KIND_CLASSES + 4), nn.Linear(width, 6)])
        self.model.to(self.device)
        self.helpers.to(self.device)
        self.number_ids = torch.tensor(self.packer.number_ids, device=self.device)
        self.optimizers = self._optimizers()
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.step, self.reported, self.seconds = 0, 0, 0.0
        self.sums: dict[str, Tensor] = {}
        self.kept: list[dict[str, Any]] = []

    def _tokenizer(self, folder: Path) -> PreTrainedTokenizerFast:
        if (folder / "tokenizer.json").exists():
            return PreTrainedTokenizerFast.from_pretrained(folder)
        return build(folder)

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        hidden: list[nn.Parameter] = []
        rest = list(self.helpers.parameters())
        for name, weight in self.model.named_parameters():
            matrix = weight.ndim == 2 and not any(part in name for part in ("embed_tokens", "lm_head", "merger.mlp.0"))
            (hidden if matrix else rest).append(weight)
            if name.endswith("qkv.weight"):
                weight.parts = 3  # type: ignore[attr-defined]
        adam = torch.optim.AdamW(rest, lr=self.options.adam_rate, betas=(0.9, 0.97), weight_decay=0.0)
        return [adam, Muon(hidden, lr=self.options.muon_rate)]

    @property
    def share(self) -> float:
        """Completed share of the whole run, 0 to 1."""
        return min(1.0, self.seconds / 60 / self.options.minutes)

    def set_rates(self, factor: float) -> None:
        """Set the learning rates: a warm-up, then constant, then linear to zero; all multiplied by ``factor``."""
        factor *= min(1.0, (self.step + 1) / WARM_UP) * min(1.0, max(0.0, (1 - self.share) / self.options.cooldown))
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    def learn(self, batch: Arrays) -> None:
        """Train one step. If the loss or a gradient is not finite, return to the weights of the last `keep`."""
        loss = self.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        weights = [weight for optimizer in self.optimizers for group in optimizer.param_groups for weight in group["params"]]
        steep = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        if bool(torch.isfinite(loss) & torch.isfinite(steep)):
            nn.utils.clip_grad_norm_(self.optimizers[0].param_groups[0]["params"], 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
        else:
            self.forget()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def keep(self) -> None:
        """Store the current weights and momenta."""
        self.kept = copy.deepcopy([part.state_dict() for part in (self.model, self.helpers, *self.optimizers)])

    def forget(self) -> None:
        """Return to the stored weights and momenta. This happens about once in a few thousand steps."""
        broken = {name: round(float(value), 3) for name, value in self.sums.items()}
        print(f"step {self.step}: not finite ({broken}); back to the last good weights", flush=True)
        self.sums, self.reported = {}, self.step + 1
        for part, state in zip((self.model, self.helpers, *self.optimizers), copy.deepcopy(self.kept), strict=True):
            part.load_state_dict(state)

    def loss(self, batch: Arrays) -> Tensor:
        """Return the loss of a batch, and add its parts to ``sums``."""
        helping = max(0.0, 1 - self.share / HELPERS_END)
        start, count = int(batch["visual"][0]), len(batch["visual"])
        arrays = {key: value for key, value in batch.items() if key != "head"}
        tensors = {key: torch.from_numpy(value).to(self.device, non_blocking=True) for key, value in arrays.items()}
        size = tuple(batch["images"].shape[1:3])
        label, number, first, second = tensors["targets"].unbind(0)
        guide = network.Guide(2, torch.stack([first, second]), tensors["cells"], start) if helping else None
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.device == "cuda"):
            imaged = network.see(self.model, network.patches_of(tensors["images"]), size)
            values = self.model.model.language_model.embed_tokens(tensors["ids"])
            values = network.with_images(values, imaged, tensors["visual"])
            seen = visible(tensors["segment"])
            hidden, early = network.read(self.model, values, tensors["positions"], seen, guide=guide)
            chosen = label >= 0
            logits = self.model.lm_head(hidden[chosen])
        logs = F.log_softmax(logits.float(), -1)
        label, number = label[chosen], number[chosen]
        numeric = number >= 0
        soft = self._soft_numbers()
        words = F.nll_loss(logs[~numeric], label[~numeric])
        least = -(soft[200] * soft[200].clamp_min(1e-9).log()).sum()
        numbers = -(soft[number[numeric]] * logs[numeric][:, self.number_ids]).sum(1).mean() - least
        loss = words + numbers
        with torch.no_grad():
            guess = logs.argmax(-1)
            error = (logs[numeric][:, self.number_ids].argmax(-1) - number[numeric]).abs().float()
            right = (guess[~numeric] == label[~numeric]).float().mean()
            near = (error <= 3).float().mean()
            self._note(words=words, numbers=numbers, word_right=right, pixels_off=error.mean(), within_3=near)
        if guide is not None:
            guided = sum(guide.losses, torch.zeros((), device=self.device)) / len(guide.losses)
            help_loss = self._help(imaged, early[:, start : start + count], tensors["helper"], size)
            loss = loss + helping * (0.5 * guided + help_loss)
            self._note(guided=guided, helped=help_loss)
        return loss

    def _soft_numbers(self) -> Tensor:
        """Return a row of soft targets for each number: a Gaussian around the number. Its width decreases from 3 to 1."""
        width = 3.0 - 2.0 * min(1.0, self.share / 0.6)
        numbers = torch.arange(LARGEST_NUMBER, device=self.device).float()
        return torch.softmax(-((numbers[:, None] - numbers[None]) ** 2) / (2 * width * width), 1)

    def _help(self, imaged: Tensor, early: Tensor, helper: Tensor, size: tuple[int, ...]) -> Tensor:
        """Return the loss of the helper heads.

        The first head gets the visual tokens. For each cell, it predicts the colour, the kind and the box of the object that
        covers the cell. The box is relative to the cell. The second head gets the states after the second language layer. It
        predicts the box of the object and the place of the cell in the image.
        """
        relative, absolute = self.helpers[0](imaged.float()), self.helpers[1](early.float())
        covered = helper[..., 1] >= 0
        amount = covered.sum().clamp_min(1)
        down, across = ((torch.arange(length // PATCH, device=self.device) + 0.5) * PATCH for length in size)
        rows, columns = torch.meshgrid(down, across, indexing="ij")
        cells = torch.stack([columns, rows, columns, rows], -1).view(1, -1, 4)
        classes = (helper[..., :2] + 1).long()
        class_loss = F.cross_entropy(relative[..., :_COLOUR_CLASSES].flatten(0, 1), classes[..., 0].flatten())
        class_loss = class_loss + F.cross_entropy(relative[..., _COLOUR_CLASSES:-4].flatten(0, 1), classes[..., 1].flatten())
        box_from_cell = (relative[..., -4:] - (helper[..., 2:] - cells) / 40).abs().mean(-1)
        box_in_image = (absolute[..., :4] - (helper[..., 2:] - 150) / 80).abs().mean(-1)
        cell_in_image = (absolute[..., 4:] - (cells[..., :2] - 150) / 80).abs().mean()
        return class_loss + ((box_from_cell + box_in_image) * covered).sum() / amount + cell_in_image

    def _note(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()

    def report(self, steps: int) -> str:
        """Return the mean values since the last report as JSON."""
        means = {name: round(float(value) / steps, 4) for name, value in self.sums.items()}
        self.sums = {}
        return json.dumps({"step": self.step, "minutes": round(self.seconds / 60, 2), **means})

    def state(self) -> dict[str, Any]:
        """Return the state from which a run can continue. The momenta are in bfloat16."""
        momenta = [halved(optimizer.state_dict()) for optimizer in self.optimizers]
        weights = {"model": self.model.state_dict(), "helpers": self.helpers.state_dict()}
        return {**weights, "optimizers": momenta, "step": self.step, "seconds": self.seconds}

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self.model.load_state_dict(state["model"])
        self.helpers.load_state_dict(state["helpers"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.reported, self.seconds = state["step"], state["step"], state["seconds"]

    def save(self, folder: Path) -> None:
        """Write the model in bfloat16."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().to("cpu", torch.bfloat16).contiguous() for name, value in self.model.state_dict().items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        self.model.config.save_pretrained(folder)


def halved(value: Any) -> Any:
    """Return the state of an optimizer with its tensors in bfloat16."""
    if isinstance(value, dict):
        return {key: halved(part) for key, part in value.items()}
    if isinstance(value, list):
        return [halved(part) for part in value]
    return value.bfloat16() if isinstance(value, Tensor) and value.ndim > 0 else value


def visible(segment: Tensor) -> Tensor:
    """Return the attention mask (B, 1, L, L). Each token sees the image, and the earlier tokens of its own question."""
    length = segment.shape[1]
    same = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])
    return (same & torch.ones(length, length, dtype=torch.bool, device=segment.device).tril())[:, None]


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write a state. The previous state is replaced when the new one is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / "state.unfinished"
    torch.save(state, unfinished)
    unfinished.replace(folder / STATE)


def load_state(folder: Path, device: str) -> dict[str, Any] | None:
    """Return the state in a folder; None: there is none."""
    if not (folder / STATE).exists():
        return None
    state: dict[str, Any] = torch.load(folder / STATE, map_location=device, weights_only=True)
    return state


def run(trainer: Trainer, queue: Any, minutes: float, cooling: bool = False) -> None:
    """Train for a number of minutes, or until the end of the run.

    :param queue: provides the batches.
    :param cooling: decrease the learning rate to zero within these minutes. The progress of the run does not change.
    """
    began = last = saved = time.monotonic()
    steps, waited, spent, before = 0, 0.0, 0.0, trainer.seconds
    trainer.keep()
    while spent < minutes * 60 and (cooling or trainer.share < 1):
        asked = time.monotonic()
        batch = queue.get(timeout=300)
        waited += time.monotonic() - asked
        trainer.set_rates(1 - spent / (minutes * 60) if cooling else 1.0)
        trainer.learn(batch)
        steps += 1
        spent = time.monotonic() - began
        if not cooling:
            trainer.seconds = before + spent
        if time.monotonic() - last > 15:
            pace = f"{steps * trainer.options.views / spent:.0f} images/s, waited {waited:.0f} s"
            print(trainer.report(max(1, trainer.step - trainer.reported)), pace, flush=True)
            trainer.reported, last = trainer.step, time.monotonic()
            trainer.keep()
        if not cooling and time.monotonic() - saved > SAVE_EVERY:
            save_state(trainer.options.out, trainer.state())
            saved = time.monotonic()


def main() -> None:
    """Train and evaluate the model."""
    options = arguments()
    trainer = Trainer(options)
    state = load_state(options.out, options.device)
    if state is not None:
        trainer.resume(state)
    parameters = sum(weight.numel() for weight in trainer.model.parameters())
    print(f"{parameters} parameters; step {trainer.step}, {trainer.seconds / 60:.1f} minutes", flush=True)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(2 * options.workers)
    seeds = np.random.SeedSequence([options.seed, trainer.step]).generate_state(options.workers)
    about = (options.views, options.questions)
    workers = [context.Process(target=produce, args=(queue, options.out, int(seed), *about), daemon=True) for seed in seeds]
    for worker in workers:
        worker.start()
    left = options.minutes - trainer.seconds / 60
    run(trainer, queue, min(left, options.stop_after or left))
    save_state(options.out, trainer.state())
    if options.preview and trainer.share < 1:
        run(trainer, queue, options.preview, cooling=True)
    trainer.save(options.out)
    for worker in workers:
        worker.terminate()
    if options.evaluate:
        scores = evaluate(trainer.model.to(options.device).eval(), trainer.packer, options.evaluate, options.device)
        print(json.dumps(scores, indent=1), flush=True)


if __name__ == "__main__":
    main()
