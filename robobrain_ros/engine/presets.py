"""Presets: checkpoints with a short name, their memory, and the engine options that suit them.

``python -m robobrain_ros.engine.presets`` prints the table of docs/reference/models.md.
"""

import difflib
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
"""Allowance for activations, CUDA graphs and the CUDA context; vLLM measures the true figure when it starts."""
CARDS = {8: 7.9, 12: 11.9, 16: 15.0, 24: 22.5, 32: 31.8, 48: 45.0, 80: 79.6, 141: 140.0}
"""GB in the name of common GPUs, and the GiB that the least of each offers (T4 15.0, L4 22.5, L40S 45.0, H100 79.6)."""


@dataclass(frozen=True)
class Vision:
    """An image encoder: ``deepstack`` counts the layers of Qwen3-VL that feed the language model besides the last."""

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
        """Side of the square of pixels that one visual token covers: 2 x 2 patches."""
        return 2 * self.patch

    def parameters(self, out: int) -> int:
        """Parameters, the mergers into a language model of width ``out`` included.

        As transformers' ``modeling_qwen2_5_vl.py`` and ``modeling_qwen3_vl.py`` build it.
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
    """The numbers of a config.json that memory and speed follow from."""

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
        """Weights of the language model's layers: what is multiplied for each token, and what quantization makes smaller."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_parameters(self) -> int:
        """Weights of the output layer, and, once more where it is not tied, of the embedding."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, as transformers' ``modeling_qwen2_5_vl.py`` and ``modeling_qwen3_vl.py`` build them."""
        # Qwen2.5 has biases at q, k and v; Qwen3 has norms of q and k instead.
        small = self.head_dim * (self.heads + 2 * self.kv_heads if self.model_type == "qwen2_5_vl" else 2)
        language = self.linear_parameters + self.layers * (small + 2 * self.hidden) + self.hidden
        heads = self.head_parameters * (1 if self.tied else 2)
        return language + heads + self.vision.parameters(self.hidden)

    def weight_bytes(self, bits: int = 16) -> int:
        """Bytes of the weights in bfloat16, with the language model's layers at ``bits``: 8 for FP8 and W8A16.

        Scales, a few per thousand, are left out; so is that some versions of vLLM quantize the image encoder, too.
        """
        return 2 * (self.parameters - self.linear_parameters) + self.linear_parameters * bits // 8

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of the cache of keys and values for a token: both, in bfloat16, for each layer and head."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim


_VISION_2_5 = Vision(depth=32, hidden=1280, intermediate=3420, heads=16, patch=14, full_attention=4)

# From the config.json of Qwen/Qwen2.5-VL-{3B,7B,32B}-Instruct and Qwen/Qwen3-VL-{4B,8B}-Instruct, on which RoboBrain is built.
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
    """A checkpoint with a name.

    :param checkpoint: its name on the hub; or, of one that is to be made first, the folder where docs/how-to/models.md has it.
    :param architecture: key of `ARCHITECTURES`.
    :param can_think: whether it was trained to.
    :param quantization: as of `EngineOptions`; empty: as the checkpoint says.
    :param bits: of a weight of the language model's layers.
    :param note: what to know before taking it.
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
        """Its architecture."""
        return ARCHITECTURES[self.architecture]

    @property
    def weights_gib(self) -> float:
        """Its weights in memory."""
        return self.shape.weight_bytes(self.bits) / GIB

    @property
    def context_gib(self) -> float:
        """The cache of one request of the greatest length."""
        return self.shape.kv_bytes_per_token * self.max_model_len / GIB

    @property
    def needed_gib(self) -> float:
        """Memory of the GPU, so that the share that the engine may take holds weights, one such request and working memory."""
        return (self.weights_gib + self.context_gib + WORKING_GIB) / self.gpu_memory_utilization

    def card_gb(self, gpus: int = 1) -> int | None:
        """The smallest common GPU of which so many hold it by tensor parallelism; None: none does."""
        share = ((self.weights_gib + self.context_gib) / gpus + WORKING_GIB) / self.gpu_memory_utilization
        return next((card for card, gib in CARDS.items() if gib >= share), None)

    def engine_options(self) -> dict[str, Any]:
        """Its values for `EngineOptions`."""
        return {
            "model": self.checkpoint,
            "quantization": self.quantization,
            "max_model_len": self.max_model_len,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "max_num_seqs": self.max_num_seqs,
        }


_FP8 = "fp8_per_tensor"
"""vLLM's word, in 0.26 to 0.32, for making a plain checkpoint's weights FP8 while it loads. It has none for dense layers in INT8:
``int8_per_channel_weight_only`` leaves them as they are, and makes only experts smaller."""
_NOT_PUBLISHED = "No such checkpoint is published: vLLM makes the weights smaller while it loads the plain one."
_TO_BE_MADE = "No such checkpoint is published: docs/how-to/models.md has the command that makes it of the plain one."

SERVED_NAMES = {
    "qwen2.5-vl-7b": ("RoboBrain2.0-7B", "RoboBrain2.0-7B-nvidia-flagos", "robobrain2_7b-nv-flagos"),
    "qwen2.5-vl-32b": ("RoboBrain2.0-32B", "RoboBrain2.0-32B-nvidia-flagos", "robobrain2_32b-nv-flagos"),
    "qwen3-vl-8b": ("RoboBrain2.5-8B", "RoboBrain2.5-8B-NV", "RoboBrain2.5-8B-nvidia-flagos"),
}
"""By architecture: under which names FlagRelease and FlagScale serve a model, in any of its quantizations."""

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
    """The model of that name, in capitals or not; None: it is none of these."""
    return next((preset for preset in PRESETS if preset.name == str(name).strip().lower()), None)


def served_names(model: str) -> tuple[str, ...]:
    """The names under which FlagRelease and FlagScale serve a checkpoint, which is known by its name on the hub or its folder's.

    :param model: as of `EngineOptions`.
    """
    name = checkpoint_name(model).lower()
    known = next((it for it in PRESETS if Path(it.checkpoint).name.lower() == name or it.name == name), None)
    if known is not None:
        return SERVED_NAMES.get(known.architecture, ())
    # Vendors' checkpoints: RoboBrain2.0-7B-FlagOS, RoboBrain2.0-7B-metax-FlagOS, RoboBrain2.0-7B-FlagOS-Ascend.
    base = _FLAGOS.sub("", name)
    named = {name} if base == name else {name, base, base.rpartition("-")[0]}
    return next((names for names in SERVED_NAMES.values() if named & {served.lower() for served in names}), ())


def checkpoint_name(model: str) -> str:
    """The name of a checkpoint without its owner: of a name on the hub, of a folder, or of a folder in a hub's cache.

    Hugging Face keeps ``models--BAAI--RoboBrain2.0-7B/snapshots/<revision>``, ModelScope ``BAAI/RoboBrain2___0-7B``.
    """
    path = Path(model)
    if path.parent.name == "snapshots":
        return path.parent.parent.name.rpartition("--")[2]
    return path.name.replace("___", ".")


def can_think(model: str) -> bool | None:
    """Whether a model, by its name here or on the hub, was trained to think; None: unknown."""
    named = find_preset(model)
    found = named or next((known for known in PRESETS if known.checkpoint == model), None)
    return None if found is None else found.can_think


def resolve_options(explicit: Mapping[str, Any]) -> EngineOptions:
    """Return the engine's options: explicit values first, then the preset that `model` names, then the defaults.

    This is the only place where presets apply. An empty ``quantization`` counts as not set, because it stands for "as the model".
    Presets do not apply to remote engines.

    :param explicit: the options that a user set, by the names of `EngineOptions`. A value equal to the default is explicit, too.
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
    if not name.lower().startswith("robobrain") or "/" in name or Path(name).exists():
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
