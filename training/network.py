"""A fast forward pass with the parameters of transformers' Qwen2.5-VL, for many questions about one image in one row.

The result is that of transformers, but all images of a batch must have the same size. Each row has the tokens of an image, and
then questions. Each question sees the image and itself, but not the other questions.
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

PATCH, MERGE, WINDOW = 14, 2, 112
_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]) * 255
_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]) * 255
_ROPE_SECTIONS = {32: [2, 7, 7], 24: [2, 5, 5], 16: [2, 3, 3]}


@dataclass(frozen=True)
class Shape:
    """The sizes of the model."""

    vision_width: int = 192
    vision_layers: int = 5
    vision_heads: int = 6
    vision_mlp: int = 512
    width: int = 256
    layers: int = 4
    heads: int = 8
    key_heads: int = 4
    mlp: int = 704
    rope_theta: float = 1_000_000.0


def make_config(tokenizer: PreTrainedTokenizerFast, shape: Shape) -> Qwen2_5_VLConfig:
    """Return the configuration of a Qwen2.5-VL with this shape and vocabulary."""
    token = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "mrope_section": _ROPE_SECTIONS[shape.width // shape.heads], "rope_theta": shape.rope_theta}
    return Qwen2_5_VLConfig(
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        dtype="float32",  # The weights are saved in bfloat16, but the model is small enough to run in float32 everywhere.
        text_config=dict(  # noqa: C408
            vocab_size=math.ceil(len(tokenizer) / 64) * 64,
            hidden_size=shape.width,
            intermediate_size=shape.mlp,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_heads,
            max_position_embeddings=4096,
            rms_norm_eps=1e-6,
            rope_parameters=rope,
            bos_token_id=token("<|endoftext|>"),
            eos_token_id=token("<|im_end|>"),
        ),
        vision_config=dict(  # noqa: C408
            depth=shape.vision_layers,
            hidden_size=shape.vision_width,
            intermediate_size=shape.vision_mlp,
            num_heads=shape.vision_heads,
            out_hidden_size=shape.width,
            fullatt_block_indexes=[i for i in range(shape.vision_layers) if i % 2 == 1],
            window_size=WINDOW,
            patch_size=PATCH,
            spatial_merge_size=MERGE,
            temporal_patch_size=2,
        ),
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )


def initialise(model: Qwen2_5_VLForConditionalGeneration, number_ids: list[int]) -> None:
    """Initialise the weights by fan-in, with smaller weights for residual outputs.

    The vectors of numbers are Fourier features, so neighbouring numbers begin with similar vectors.
    """
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name:
            residual = any(part in name for part in ("o_proj", "down_proj", "attn.proj"))
            torch.nn.init.normal_(weight, std=(0.28 if residual else 0.7) / weight.shape[1] ** 0.5)
    torch.nn.init.normal_(model.model.visual.patch_embed.proj.weight, std=0.03)
    embedding, head = model.model.language_model.embed_tokens.weight, model.lm_head.weight
    torch.nn.init.normal_(embedding, std=0.5)
    torch.nn.init.normal_(head, std=0.02)
    generator = torch.Generator().manual_seed(0)
    for weight, scale in ((embedding, 0.7), (head, 0.028)):
        half = weight.shape[1] // 2
        numbers = torch.arange(len(number_ids)).float()[:, None]
        spread = math.log(0.6) - math.log(0.006)
        frequency = torch.exp(torch.rand(1, half, generator=generator) * spread + math.log(0.006))
        phase = torch.rand(1, half, generator=generator) * 2 * math.pi
        features = torch.cat([torch.cos(numbers * frequency + phase), torch.sin(numbers * frequency + phase)], 1)
        with torch.no_grad():
            weight[number_ids] = features * scale


@dataclass(frozen=True)
class Grid:
    """The rotary angles and windows of an image's patches. Patches of the same cell are neighbours."""

    cos: Tensor
    sin: Tensor
    same_window: Tensor


@functools.lru_cache(maxsize=64)
def grid(height: int, width: int, head_size: int, device: str) -> Grid:
    """Return the `Grid` of an image of this size in pixels."""
    rows, columns = height // PATCH, width // PATCH
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")

    def merged(place: Tensor) -> Tensor:
        return place.reshape(rows // MERGE, MERGE, columns // MERGE, MERGE).transpose(1, 2).flatten()

    row, column = merged(row), merged(column)
    inverse = 1.0 / (10000.0 ** (torch.arange(0, head_size // 2, 2).float() / (head_size // 2)))
    angles = torch.cat([row[:, None] * inverse, column[:, None] * inverse], -1)
    angles = torch.cat([angles, angles], -1)
    patches = WINDOW // PATCH
    window = (row // patches) * 1000 + column // patches
    return Grid(angles.cos().to(device), angles.sin().to(device), (window[:, None] == window[None]).to(device))


def to_device(values: npt.NDArray[Any], device: str) -> Tensor:
    """Copy an array to the device. If it is a GPU, the copy does not wait until the GPU has completed earlier work."""
    made = torch.from_numpy(values)
    if torch.device(device).type == "cuda":
        made = made.pin_memory()
    return made.to(device, non_blocking=True)


@functools.lru_cache(maxsize=8)
def _normal(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the pixels, on the device."""
    return _MEAN.to(device), _STD.to(device)


def patches_of(images: Tensor) -> Tensor:
    """Convert images (B, H, W, 3), uint8, to normalised patches (B, cells * 4, 588).

    The patches have the order of transformers' processor, but each image occurs only once instead of twice in time.
    """
    count, height, width, _ = images.shape
    mean, deviation = _normal(images.device)
    values = (images.float() - mean) / deviation
    values = values.reshape(count, height // 28, 2, 14, width // 28, 2, 14, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    return values.reshape(count, (height // 14) * (width // 14), 588)


def _rms(values: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(values, (values.shape[-1],), weight.to(values.dtype), 1e-6)


def _turn(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = values.chunk(2, -1)
    return values * cos + torch.cat((-second, first), -1) * sin


def see(model: Qwen2_5_VLForConditionalGeneration, patches: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the visual tokens (B, cells, width) of images of one size (height, width) in pixels."""
    visual, config = model.model.visual, model.config.vision_config
    # The processor repeats each image in time. Both halves of the kernel get the same pixels, so the halves are added.
    values = F.linear(patches, visual.patch_embed.proj.weight.sum(2).flatten(1))
    count, length, width = values.shape
    head_size = width // config.num_heads
    geometry = grid(*size, head_size, str(values.device))
    cos, sin = geometry.cos.to(values.dtype), geometry.sin.to(values.dtype)
    for index, block in enumerate(visual.blocks):
        qkv = block.attn.qkv(_rms(values, block.norm1.weight)).view(count, length, 3, config.num_heads, head_size)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = _turn(query, cos, sin).to(value.dtype), _turn(key, cos, sin).to(value.dtype)
        mask = None if index in config.fullatt_block_indexes else geometry.same_window
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        values = values + block.attn.proj(seen.transpose(1, 2).reshape(count, length, width))
        hidden = _rms(values, block.norm2.weight)
        values = values + block.mlp.down_proj(F.silu(block.mlp.gate_proj(hidden)) * block.mlp.up_proj(hidden))
    merger = visual.merger
    return merger.mlp(_rms(values, merger.ln_q.weight).reshape(count, length // 4, 4 * width))


def with_images(values: Tensor, imaged: Tensor, visual: Tensor) -> Tensor:
    """Return the input vectors (B, S, width) with visual tokens in place of those of the placeholders.

    :param imaged: (images, cells, width), the same number of images for each row. Those of the first row come first.
    :param visual: indices of the visual tokens of a row.
    """
    return values.index_copy(1, visual, imaged.to(values.dtype).reshape(len(values), len(visual), -1))


@dataclass
class Guide:
    """Guided attention for training: two heads of one layer learn to attend to the cells of the object in the answer.

    :param about: (2, B, S), for each of the two heads the id of the object that the next token refers to; -1: none.
    :param cells: (B, ids, cells), whether an object covers a cell.
    :param start: index of the first token of the image.
    """

    layer: int
    about: Tensor
    cells: Tensor
    start: int
    losses: list[Tensor] = field(default_factory=list)

    def add(self, query: Tensor, key: Tensor, seen: Tensor) -> None:
        """Add the loss of this layer.

        :param query: (B, heads, S, head size). ``key``: likewise.
        :param seen: attention mask (B, 1, S, S).
        """
        for head, about in ((0, self.about[0]), (query.shape[1] // 2, self.about[1])):
            row, place = (about > 0).nonzero(as_tuple=True)
            scores = (query[:, head].float() @ key[:, head].float().mT) * query.shape[-1] ** -0.5
            scores = scores.masked_fill(~seen[:, 0], -1e4)[row, place]
            wanted = self.cells[row, about[row, place]]
            within = F.log_softmax(scores, -1)[:, self.start : self.start + wanted.shape[1]]
            shown = wanted.any(1)
            reached = -within.masked_fill(~wanted, -1e4).logsumexp(1)
            self.losses.append((reached * shown).sum() / shown.sum().clamp_min(1))


Cache = list[tuple[Tensor, Tensor] | None]


def read(
    model: Qwen2_5_VLForConditionalGeneration,
    values: Tensor,
    positions: Tensor,
    seen: Tensor,
    cache: Cache | None = None,
    guide: Guide | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the language layers.

    :param values: input vectors (B, S, width).
    :param positions: (3, B, S).
    :param seen: attention mask, bool (B, 1, S, T).
    :param cache: keys and values of earlier tokens by layer. The new ones are added.
    :returns: the last hidden states, and the hidden states after the second layer.
    """
    language, config = model.model.language_model, model.config.text_config
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    count, length, width = values.shape
    cos, sin = (part[:, None].to(values.dtype) for part in _rotary(positions, width // heads, config))
    early = values
    for index, layer in enumerate(language.layers):
        attention, hidden = layer.self_attn, _rms(values, layer.input_layernorm.weight)
        query, key, value = (
            part(hidden).view(count, length, number, -1).transpose(1, 2)
            for part, number in ((attention.q_proj, heads), (attention.k_proj, key_heads), (attention.v_proj, key_heads))
        )
        query, key = _turn(query, cos, sin).to(value.dtype), _turn(key, cos, sin).to(value.dtype)
        if cache is not None:
            before = cache[index]
            if before is not None:
                key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
            cache[index] = (key, value)
        key, value = key.repeat_interleave(heads // key_heads, 1), value.repeat_interleave(heads // key_heads, 1)
        if guide is not None and index == guide.layer:
            guide.add(query, key, seen)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        values = values + attention.o_proj(mixed.transpose(1, 2).reshape(count, length, width))
        hidden = _rms(values, layer.post_attention_layernorm.weight)
        values = values + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(hidden)) * layer.mlp.up_proj(hidden))
        if index == 1:
            early = values
    return _rms(values, language.norm.weight), early


def read_apart(
    model: Qwen2_5_VLForConditionalGeneration,
    text: Tensor,
    imaged: Tensor,
    positions: Tensor,
    seen: Tensor,
    cache: Cache,
    queries: Tensor,
    early_layer: int,
    guide: Any = None,
    through_cells: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run the language layers like `read`, for text tokens and visual tokens separately.

    The result is the same. By default, there are no gradients through the states of visual tokens, only through their keys and
    values. Training is about twice as fast, if most tokens are visual.

    :param text: input vectors (B, S, width) of text tokens.
    :param imaged: input vectors (B, V, width) of visual tokens.
    :param positions: (3, B, S + V): those of the text tokens, then those of the visual tokens.
    :param seen: attention mask, bool (B, 1, S + V, T). The keys are in the same order, after those of the cache.
    :param queries: (Q,), indices of the text tokens whose last hidden states are needed.
    :param guide: an object with the ``layer`` and the ``add`` of a `Guide`, for the text tokens.
    :param through_cells: train through the states of visual tokens too.
    :returns: the last hidden states of ``queries``, and the states of all text tokens after the layer ``early_layer``.
    """
    language, config = model.model.language_model, model.config.text_config
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    count, length, width = text.shape
    cos, sin = (part[:, None].to(text.dtype) for part in _rotary(positions, width // heads, config))
    early = text

    def attend(layer: Any, values: Tensor, hidden: Tensor, at: Any, key: Tensor, value: Tensor, guide: Any) -> Tensor:
        query = layer.self_attn.q_proj(hidden).view(count, hidden.shape[1], heads, -1).transpose(1, 2)
        query = _turn(query, cos[:, :, at], sin[:, :, at]).to(value.dtype)
        mask = seen[:, :, at]
        if guide is not None:
            guide.add(query, key, mask)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        values = values + layer.self_attn.o_proj(mixed.transpose(1, 2).reshape(count, -1, width))
        hidden = _rms(values, layer.post_attention_layernorm.weight)
        made: Tensor = values + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(hidden)) * layer.mlp.up_proj(hidden))
        return made

    words, cells = slice(0, length), slice(length, None)
    for index, layer in enumerate(language.layers):
        last = index == len(language.layers) - 1
        with torch.set_grad_enabled(through_cells):
            hidden_cells = _rms(imaged, layer.input_layernorm.weight)
        hidden = _rms(text, layer.input_layernorm.weight)
        both = torch.cat([hidden, hidden_cells], 1)
        key, value = (
            part(both).view(count, both.shape[1], key_heads, -1).transpose(1, 2)
            for part in (layer.self_attn.k_proj, layer.self_attn.v_proj)
        )
        key = _turn(key, cos, sin).to(value.dtype)
        before = cache[index]
        if before is not None:
            key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
        cache[index] = (key, value)
        key, value = key.repeat_interleave(heads // key_heads, 1), value.repeat_interleave(heads // key_heads, 1)
        if last:
            text = attend(layer, text[:, queries], hidden[:, queries], queries, key, value, None)
        else:
            with torch.set_grad_enabled(through_cells):
                imaged = attend(layer, imaged, hidden_cells, cells, key, value, None)
            guided = guide if guide is not None and index == guide.layer else None
            text = attend(layer, text, hidden, words, key, value, guided)
        if index == early_layer:
            early = text
    return _rms(text, language.norm.weight), early


def _rotary(positions: Tensor, head_size: int, config: Any) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (B, S, head size) of multimodal rotary positions (3, B, S): time, height and width."""
    rope = config.rope_parameters
    exponents = torch.arange(0, head_size, 2, device=positions.device).float() / head_size
    angles = positions[..., None].float() / rope["rope_theta"] ** exponents
    parts = angles.split(list(rope["mrope_section"]), dim=-1)
    mixed = torch.cat([part[index % 3] for index, part in enumerate(parts)], dim=-1)
    mixed = torch.cat([mixed, mixed], dim=-1)
    return mixed.cos(), mixed.sin()
