"""Presets: short names of checkpoints, their need for memory, and engine options for them.

``python -m robobrain_ros.engine.presets`` prints the table of docs/reference/models.md.
"""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robobrain_ros.engine.base import DEFAULT_CONTEXT
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError

GIB = 1024**3
WORKING_GIB = 3.0
"""Estimated memory in GiB for activations, CUDA graphs and the CUDA context. vLLM measures the real value when it starts."""
CARDS = {8: 7.9, 12: 11.9, 16: 15.0, 24: 22.5, 32: 31.8, 48: 45.0, 80: 79.6, 141: 140.0}
"""Nominal memory of common GPUs in GB, and their usable memory in GiB. If GPUs with the same nominal memory differ, the smallest
value counts (T4 15.0, L4 22.5, L40S 45.0, H100 79.6)."""


@dataclass(frozen=True)
class Vision:
    """The sizes of an image encoder, from ``vision_config`` in config.json.

    :param deepstack: number of layers that feed the language model in addition to the last layer (Qwen3-VL).
    """

    depth: int
    hidden: int
    intermediate: int
    heads: int
    patch: int
    deepstack: int = 0
    positions: int = 0
    full_attention: int = 0

    @property
    def cell(self) -> int:
        """Side in pixels of the square that one visual token covers. It has 2 x 2 patches."""
        return 2 * self.patch

    def parameters(self, out: int) -> int:
        """Return the number of parameters, including the mergers for a language model of width ``out``.

        The formula follows ``modeling_qwen2_5_vl.py`` and ``modeling_qwen3_vl.py`` of transformers.
        """
        wide = 4 * self.hidden
        attention = 4 * self.hidden * self.hidden + 4 * self.hidden
        merge = wide * wide + wide + wide * out + out
        embedding = 3 * 2 * self.patch**2 * self.hidden
        if self.deepstack:
            mlp = 2 * self.hidden * self.intermediate + self.intermediate + self.hidden
            blocks = self.depth * (attention + mlp + 4 * self.hidden)
            mergers = merge + 2 * self.hidden + self.deepstack * (merge + 2 * wide)
            return embedding + self.hidden + self.positions * self.hidden + blocks + mergers
        mlp = 3 * self.hidden * self.intermediate + 2 * self.intermediate + self.hidden
        return embedding + self.depth * (attention + mlp + 2 * self.hidden) + merge + self.hidden


@dataclass(frozen=True)
class Architecture:
    """The sizes of a model, from config.json. Memory and speed depend on them.

    :param tied: whether the output layer and the embedding share their weights.
    """

    model_type: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    vision: Vision

    @property
    def linear_parameters(self) -> int:
        """Number of weights in the language model's layers. Each token is multiplied by them, and quantization shrinks them."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_parameters(self) -> int:
        """Number of weights in the output layer. If it is not tied, the embedding has the same number in addition."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """Number of all parameters. The formula follows the same files of transformers as `Vision.parameters`."""
        # Qwen2.5 has biases for q, k and v. Qwen3 has norms for q and k instead.
        small = self.head_dim * (self.heads + 2 * self.kv_heads if self.model_type == "qwen2_5_vl" else 2)
        language = self.linear_parameters + self.layers * (small + 2 * self.hidden) + self.hidden
        heads = self.head_parameters * (1 if self.tied else 2)
        return language + heads + self.vision.parameters(self.hidden)

    def weight_bytes(self, bits: int = 16) -> int:
        """Return the bytes of the weights in bfloat16, with ``bits`` per weight in the language model's layers.

        The result does not include the scales of quantized weights, which are a few per thousand. Some versions of vLLM also
        quantize the image encoder. The result ignores this.

        :param bits: 16, or 8 for FP8 and W8A16.
        """
        return 2 * (self.parameters - self.linear_parameters) + self.linear_parameters * bits // 8

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of a token in the KV cache: a key and a value in bfloat16 for each layer and head."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim


_VISION_2_5 = Vision(depth=32, hidden=1280, intermediate=3420, heads=16, patch=14, full_attention=4)

# The values are from config.json of Qwen/Qwen2.5-VL-{3B,7B,32B}-Instruct and Qwen/Qwen3-VL-{4B,8B}-Instruct. RoboBrain's models
# are fine-tuned from these models.
ARCHITECTURES = {
    "qwen2.5-vl-3b": Architecture("qwen2_5_vl", 36, 2048, 11008, 16, 2, 128, 151936, True, _VISION_2_5),
    "qwen2.5-vl-7b": Architecture("qwen2_5_vl", 28, 3584, 18944, 28, 4, 128, 152064, False, _VISION_2_5),
    "qwen2.5-vl-32b": Architecture(
        "qwen2_5_vl", 64, 5120, 27648, 40, 8, 128, 152064, False, replace(_VISION_2_5, intermediate=3456)
    ),
    "qwen3-vl-4b": Architecture(
        "qwen3_vl", 36, 2560, 9728, 32, 8, 128, 151936, True, Vision(24, 1024, 4096, 16, 16, deepstack=3, positions=2304)
    ),
    "qwen3-vl-8b": Architecture(
        "qwen3_vl", 36, 4096, 12288, 32, 8, 128, 151936, False, Vision(27, 1152, 4304, 16, 16, deepstack=3, positions=2304)
    ),
}


@dataclass(frozen=True)
class ModelPreset:
    """A short name for a checkpoint and the engine options for it.

    :param checkpoint: name of the checkpoint on the hub. If users must create the checkpoint, the folder that
        docs/how-to/models.md uses for it.
    :param architecture: key of `ARCHITECTURES`.
    :param can_think: whether the model was trained to think.
    :param quantization: see `EngineOptions`. Empty means that of the checkpoint.
    :param bits: bits of a weight in the language model's layers.
    :param note: note for users who consider this preset, or empty if there is none.
    """

    name: str
    checkpoint: str
    architecture: str
    can_think: bool
    quantization: str = ""
    bits: int = 16
    max_model_len: int = DEFAULT_CONTEXT
    gpu_memory_utilization: float = 0.9
    max_num_seqs: int = 16
    note: str = ""

    @property
    def shape(self) -> Architecture:
        """The architecture."""
        return ARCHITECTURES[self.architecture]

    @property
    def weights_gib(self) -> float:
        """GiB of the weights in memory."""
        return self.shape.weight_bytes(self.bits) / GIB

    @property
    def context_gib(self) -> float:
        """GiB of one request of the maximum length in the KV cache."""
        return self.shape.kv_bytes_per_token * self.max_model_len / GIB

    @property
    def needed_gib(self) -> float:
        """GiB of GPU memory with which the engine can process one request of the maximum length.

        The engine's share of the memory must hold the weights, the request's KV cache and the working memory.
        """
        return (self.weights_gib + self.context_gib + WORKING_GIB) / self.gpu_memory_utilization

    def card_gb(self, gpus: int = 1) -> int | None:
        """Return the nominal memory in GB of the smallest common GPU that is large enough, or None if no GPU is large enough.

        :param gpus: number of such GPUs that share the model by tensor parallelism.
        """
        share = ((self.weights_gib + self.context_gib) / gpus + WORKING_GIB) / self.gpu_memory_utilization
        return next((card for card, gib in CARDS.items() if gib >= share), None)

    def engine_options(self) -> dict[str, Any]:
        """Return the values for `EngineOptions` by keyword."""
        return {
            "model": self.checkpoint,
            "quantization": self.quantization,
            "max_model_len": self.max_model_len,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "max_num_seqs": self.max_num_seqs,
        }


_FP8 = "fp8_per_tensor"
"""Name of the method in vLLM 0.26 to 0.32 that quantizes a bf16 checkpoint to FP8 while loading. vLLM has no such method for INT8
in dense layers: ``int8_per_channel_weight_only`` quantizes only experts."""
_NOT_PUBLISHED = "No such checkpoint is published. vLLM quantizes the bf16 checkpoint while loading."
_TO_BE_MADE = "No such checkpoint is published. docs/how-to/models.md has the command that creates it from the bf16 checkpoint."

SERVED_NAMES = {
    "qwen2.5-vl-7b": ("RoboBrain2.0-7B", "RoboBrain2.0-7B-nvidia-flagos", "robobrain2_7b-nv-flagos"),
    "qwen2.5-vl-32b": ("RoboBrain2.0-32B", "RoboBrain2.0-32B-nvidia-flagos", "robobrain2_32b-nv-flagos"),
    "qwen3-vl-8b": ("RoboBrain2.5-8B", "RoboBrain2.5-8B-NV", "RoboBrain2.5-8B-nvidia-flagos"),
}
"""Names under which FlagRelease and FlagScale serve a model in all quantizations, by architecture."""

_FLAGOS = re.compile(r"-flagos(-\w+)?$")

PRESETS = (
    ModelPreset("robobrain2.0-3b", "BAAI/RoboBrain2.0-3B", "qwen2.5-vl-3b", False),
    ModelPreset("robobrain2.0-3b-fp8", "BAAI/RoboBrain2.0-3B", "qwen2.5-vl-3b", False, _FP8, 8, note=_NOT_PUBLISHED),
    ModelPreset(
        "robobrain2.0-3b-w8a16", "~/models/RoboBrain2.0-3B-W8A16", "qwen2.5-vl-3b", False, bits=8, note=_TO_BE_MADE
    ),
    ModelPreset("robobrain2.0-7b", "BAAI/RoboBrain2.0-7B", "qwen2.5-vl-7b", True),
    ModelPreset("robobrain2.0-7b-fp8", "BAAI/RoboBrain2.0-7B-FP8", "qwen2.5-vl-7b", True, bits=8),
    ModelPreset("robobrain2.0-7b-w8a16", "BAAI/RoboBrain2.0-7B-W8A16", "qwen2.5-vl-7b", True, bits=8),
    ModelPreset("robobrain2.0-32b", "BAAI/RoboBrain2.0-32B", "qwen2.5-vl-32b", True, max_num_seqs=8),
    ModelPreset(
        "robobrain2.0-32b-fp8", "BAAI/RoboBrain2.0-32B", "qwen2.5-vl-32b", True, _FP8, 8, max_num_seqs=8, note=_NOT_PUBLISHED
    ),
    ModelPreset(
        "robobrain2.0-32b-w8a16", "~/models/RoboBrain2.0-32B-W8A16", "qwen2.5-vl-32b", True, bits=8, max_num_seqs=8,
        note=_TO_BE_MADE,
    ),
    ModelPreset("robobrain2.5-4b", "BAAI/RoboBrain2.5-4B", "qwen3-vl-4b", False),
    ModelPreset("robobrain2.5-8b", "BAAI/RoboBrain2.5-8B-NV", "qwen3-vl-8b", False),
)  # fmt: skip


def find_preset(name: str) -> ModelPreset | None:
    """Return the preset with this name, ignoring case, or None if there is no such preset."""
    return next((preset for preset in PRESETS if preset.name == str(name).strip().lower()), None)


def served_names(model: str) -> tuple[str, ...]:
    """Return the names under which FlagRelease and FlagScale serve a checkpoint, or no names if the checkpoint is unknown.

    :param model: see `EngineOptions`. The checkpoint is identified by its name on the hub or the name of its folder.
    """
    name = checkpoint_name(model).lower()
    known = next((it for it in PRESETS if Path(it.checkpoint).name.lower() == name or it.name == name), None)
    if known is not None:
        return SERVED_NAMES.get(known.architecture, ())
    # Names of vendors' checkpoints are RoboBrain2.0-7B-FlagOS, RoboBrain2.0-7B-metax-FlagOS, RoboBrain2.0-7B-FlagOS-Ascend, ...
    base = _FLAGOS.sub("", name)
    named = {name} if base == name else {name, base, base.rpartition("-")[0]}
    return next((names for names in SERVED_NAMES.values() if named & {served.lower() for served in names}), ())


def checkpoint_name(model: str) -> str:
    """Return the name of a checkpoint without its owner.

    :param model: a name on the hub, a folder, or a folder in the cache of a hub. In the caches, the folders are
        ``models--BAAI--RoboBrain2.0-7B/snapshots/<revision>`` (Hugging Face) and ``BAAI/RoboBrain2___0-7B`` (ModelScope).
    """
    path = Path(model)
    if path.parent.name == "snapshots":
        return path.parent.parent.name.rpartition("--")[2]
    return path.name.replace("___", ".")


def can_think(model: str) -> bool | None:
    """Return whether a model was trained to think, or None if unknown.

    :param model: name of a preset, or of a checkpoint on the hub.
    """
    named = find_preset(model)
    found = named or next((known for known in PRESETS if known.checkpoint == model), None)
    return None if found is None else found.can_think


def resolve_options(explicit: Mapping[str, Any]) -> EngineOptions:
    """Return the engine's options: explicit values first, then the preset that `model` names, then the defaults.

    Presets apply only here. An empty ``quantization`` counts as not set, because it means that of the model. Presets do not apply
    to remote engines.

    :param explicit: the options that a user set, by keyword. A value that equals the default is also explicit.
    :raises EngineConfigError: the model's name resembles a preset's name, but no preset has it.
    :raises TypeError: `EngineOptions` has no such option.
    """
    given = {name: value for name, value in explicit.items() if is_explicit(name, value)}
    options = EngineOptions.of(**given)
    if options.kind == "remote":
        return options
    preset = find_preset(options.model)
    if preset is None:
        _reject_misspelled(options.model)
        return options
    return EngineOptions.of(**(preset.engine_options() | given | {"model": preset.checkpoint}))


def is_explicit(name: str, value: Any) -> bool:
    """Return whether a value that a user set for an option takes precedence over a preset."""
    return name != "quantization" or value != ""


def _reject_misspelled(name: str) -> None:
    if not name.lower().startswith("robobrain") or "/" in name or os.path.exists(name):
        return
    names = [preset.name for preset in PRESETS]
    near = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise EngineConfigError(f"engine.model: there is no preset {name}. {hint}The presets are {', '.join(names)}.")


def to_markdown() -> str:
    """Return the table of docs/reference/models.md."""
    head = ("name", "checkpoint", "parameters", "weights", "cache of a token", "needed", "one GPU", "two GPUs", "thinks")
    rows: list[tuple[str, ...]] = []
    for preset in PRESETS:
        shape = preset.shape
        quantized = f", `{preset.quantization}`" if preset.quantization else ""
        rows.append(
            (
                f"`{preset.name}`",
                f"{preset.checkpoint}{quantized}",
                f"{shape.parameters / 1e9:.2f} · 10⁹",
                f"{preset.weights_gib:.1f} GiB",
                f"{shape.kv_bytes_per_token / 1024:.0f} KiB",
                f"{preset.needed_gib:.1f} GiB",
                f"{preset.card_gb()} GB",
                f"{preset.card_gb(2)} GB",
                "yes" if preset.can_think else "no",
            )
        )
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]]) + "\n"


if __name__ == "__main__":
    print(to_markdown(), end="")
