"""The forward pass over trees of comparisons. See `progress_batches.Tree`."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from training import network
from training.progress_batches import NO_TARGET, Indices, Level, Part, ProgressPacker, Tree

GUIDED_LAYER = 2
"""Layer with guided attention. The first helper head gets the states after it."""


@dataclass
class ProgressGuide:
    """Guided attention: at the token after each image, one head attends to the object, and another one to the gripper.

    :param first: index of the first visual token of the part among all keys.
    :param after: (images,), index of the token after each image among the new text tokens.
    :param wanted: (rows, images, 2, cells), whether the object (0) and the gripper (1) cover a cell.
    """

    first: int
    after: Tensor
    wanted: Tensor
    layer: int = GUIDED_LAYER
    losses: list[Tensor] = field(default_factory=list)

    def add(self, query: Tensor, key: Tensor, seen: Tensor) -> None:
        """Add the loss of the layer. See `network.Guide.add`."""
        _, count, _, cells = self.wanted.shape
        visible = seen[:, 0].index_select(1, self.after)
        for index, head in enumerate((0, query.shape[1] // 2)):
            scores = (query[:, head].index_select(1, self.after) @ key[:, head].mT).float() * query.shape[-1] ** -0.5
            within = F.log_softmax(scores.masked_fill(~visible, -1e4), -1)
            own = [within[:, number, self.first + number * cells :][:, :cells] for number in range(count)]
            wanted = self.wanted[:, :, index]
            shown = wanted.any(-1)
            reached = -torch.stack(own, 1).masked_fill(~wanted, -1e4).logsumexp(-1)
            self.losses.append((reached * shown).sum() / shown.sum().clamp_min(1))


@dataclass(frozen=True)
class LevelStates:
    """The states of a level at the token after each image.

    :param early: (rows, images, width), after the guided layer. ``last``: after the last layer.
    :param images: (rows, images), indices into `Tree.images`.
    :param guided: the loss of guided attention; None: not guided.
    """

    early: Tensor
    last: Tensor
    images: Tensor
    guided: Tensor | None


@dataclass
class ProgressReader:
    """Runs the model over trees of comparisons.

    :param mixed: use bfloat16 for matrix products.
    :param through_images: train through the states of visual tokens too.
    """

    model: Qwen2_5_VLForConditionalGeneration
    packer: ProgressPacker
    device: str
    mixed: bool = False
    through_images: bool = False

    def tensor(self, values: np.ndarray[Any, Any]) -> Tensor:
        """Copy an array to the device."""
        return network.to_device(values, self.device)

    def autocast(self) -> torch.autocast:
        """Return the context for mixed precision."""
        # A weight that is converted without gradients must not be used again with them.
        kind = torch.device(self.device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self.mixed, cache_enabled=self.through_images)

    def see(self, images: np.ndarray[Any, Any]) -> Tensor:
        """Return the visual tokens (images, cells, width) of images (images, height, width, 3)."""
        with self.autocast():
            patches = network.patches_of(self.tensor(images))
            return network.see(self.model, patches, (images.shape[1], images.shape[2])).float()

    def read(self, tree: Tree, answers: Indices, guided: bool = False) -> tuple[Tensor, list[LevelStates]]:
        """Run the language layers over all comparisons.

        :param answers: (comparisons, tokens), the first token ids of each answer, or `NO_TARGET`.
        :param guided: compute the loss of guided attention.
        :returns: the states (comparisons, 1 + tokens, width) of the last token before the answer and of these tokens, and the
            states of each level.
        """
        imaged, about = self.see(tree.images), self.tensor(tree.about)
        cache: network.Cache = [None] * len(self.model.model.language_model.layers)
        known = torch.zeros((1, 0), dtype=torch.bool, device=self.device)
        none = np.zeros((0, 0), int)
        states, hidden = [], imaged
        # Within one context, each weight is converted only once.
        with self.autocast():
            for part, level in zip(self.packer.parts(tree.tasks), tree.levels, strict=True):
                last = level is tree.levels[-1]
                parent, images = self.tensor(level.parent), self.tensor(level.images)
                cache = [None if layer is None else (layer[0][parent], layer[1][parent]) for layer in cache]
                first = known.shape[1] + part.ids.shape[1] + (answers.shape[1] if last else 0)
                guide = ProgressGuide(first, self.tensor(part.after), about[images]) if guided else None
                hidden, early, known = self._read(
                    part, level, imaged[images], cache, known[parent], answers if last else none, guide
                )
                count = level.images.shape[1]
                loss = None if guide is None else torch.stack(guide.losses).mean()
                states.append(LevelStates(early, hidden[:, :count], images, loss))
                hidden = hidden[:, count:]
        return hidden, states

    def _read(
        self,
        part: Part,
        level: Level,
        imaged: Tensor,
        cache: network.Cache,
        known: Tensor,
        answers: Indices,
        guide: ProgressGuide | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the language layers over a part of the prompt, and add it to the cache.

        :param imaged: (rows, images, cells, width).
        :param known: (rows, tokens), which keys of the cache are real tokens.
        :param answers: token ids after the part; no rows: none.
        :returns: the last hidden states (those of the token after each image, of the last token before the answer, and of the
            answer); the states of the tokens after the images after `GUIDED_LAYER`; and ``known`` with the tokens of the part.
        """
        ids, real, positions = part.ids[level.rollout], part.real[level.rollout], part.positions[:, level.rollout]
        order, words = part.order, part.ids.shape[1]
        queries = part.after
        if len(answers):
            extra = answers.shape[1]
            ids = np.concatenate([ids, np.where(answers == NO_TARGET, 0, answers)], 1)
            real = np.concatenate([real, np.ones(answers.shape, bool)], 1)
            later = np.broadcast_to(part.next[level.rollout][:, None] + np.arange(extra), (3, len(answers), extra))
            positions = np.concatenate([positions, later], 2)
            order = np.concatenate([order[:words], len(order) + np.arange(extra), order[words:]])
            queries = np.concatenate([queries, np.arange(words - 1, words + extra)])
        positions = np.concatenate([positions, part.cells[:, level.rollout]], 2)
        flags = self.tensor(real)
        known = torch.cat([known, flags, flags.new_ones(len(imaged), imaged.shape[1] * imaged.shape[2])], 1)
        before = self.tensor(order[:, None] >= order[None])
        before = torch.cat([before.new_ones(len(order), known.shape[1] - len(order)), before], 1)
        with self.autocast():
            text = self.model.model.language_model.embed_tokens(self.tensor(ids))
            hidden, early = network.read_apart(
                self.model,
                text,
                imaged.flatten(1, 2),
                self.tensor(positions),
                (before & known[:, None])[:, None],
                cache,
                self.tensor(queries),
                GUIDED_LAYER,
                guide,
                self.through_images,
            )
        return hidden.float(), early.index_select(1, self.tensor(part.after)).float(), known
