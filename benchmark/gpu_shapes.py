"""Checkpoints in the tensor shapes of RoboBrain without weights, the work of a request, and the limits of the chip."""

import json
import shutil
from pathlib import Path
from typing import Any

from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.engine.presets import ARCHITECTURES, Architecture, Vision

SHAPES = {
    "tiny": Architecture("qwen2_5_vl", 2, 128, 256, 4, 2, 32, 2048, False, Vision(2, 64, 128, 2, 14, full_attention=1)),
    "3b": ARCHITECTURES["qwen2.5-vl-3b"],
    "7b": ARCHITECTURES["qwen2.5-vl-7b"],
    "32b": ARCHITECTURES["qwen2.5-vl-32b"],
    "tiny-2.5": Architecture(
        "qwen3_vl", 2, 128, 256, 4, 2, 32, 2048, False, Vision(2, 64, 128, 2, 16, deepstack=1, positions=64)
    ),
    "4b": ARCHITECTURES["qwen3-vl-4b"],
    "8b": ARCHITECTURES["qwen3-vl-8b"],
}
"""Shapes of RoboBrain 2.0 (3b, 7b, 32b) and 2.5 (4b, 8b), and of tiny models of both architectures to try the program."""
QUANTIZATION_CONFIGS: dict[str, dict[str, Any]] = {
    "w8a16": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head", "re:.*visual.*", "re:.*embed_tokens$"],
        "config_groups": {
            "W8A16": {
                "format": "pack-quantized",
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 8, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128, "dynamic": False,
                },
            }
        },
    }
}  # fmt: skip
"""``quantization_config`` of config.json for kinds of engines that load a quantized checkpoint, as ``model_free_ptq`` of LLM
Compressor writes it with the command in docs/how-to/models.md."""
WINDOW = 112
"""Side of the attention windows of Qwen2.5-VL's image encoder in pixels."""
_DEEPSTACK = {2: [0], 24: [5, 11, 17], 27: [8, 16, 24]}
"""``deepstack_visual_indexes`` by the depth of the image encoder, from config.json of Qwen/Qwen3-VL-{4B,8B}-Instruct."""
_EMBEDDING = 2.0
"""Standard deviation of the embeddings. It is about as large as that of the sum of all layers."""
_TARGET = 11.0
"""Logit of the most probable token, whose embedding is half of the hidden vector.

All other tokens together (e^12 tokens with logits near 0) are about as probable. Therefore the log-probability of the token shows
the changes by an operator.
"""


def checkpoint_for(kind: str, model: str, device: str, folder: Path) -> Path:
    """Write the checkpoint for engines of this kind into a subfolder, and return it. The parameters are those of gpu_parts.py."""
    quantization = QUANTIZATION_CONFIGS.get(kind)
    name = model if quantization is None else f"{model}-{kind}"
    return write_checkpoint(folder / name, SHAPES[model], "float32" if device == "cpu" else "bfloat16", quantization)


def write_checkpoint(folder: Path, shape: Architecture, dtype: str, quantization: dict[str, Any] | None = None) -> Path:
    """Write a folder that vLLM loads with ``load_format: dummy``: config.json, and the tokenizer of the demo model.

    The tokenizer has only a thousand tokens of the vocabulary. This is sufficient, because random weights write random text.

    :param quantization: ``quantization_config`` of config.json, one of `QUANTIZATION_CONFIGS`. None: not quantized.
    """
    from transformers import AutoTokenizer, Qwen2_5_VLConfig, Qwen3VLConfig

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO_MODEL / name, folder)
    ids = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids
    tokens = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    newer = shape.model_type == "qwen3_vl"
    text = _text_config(shape) | {"bos_token_id": ids("<|endoftext|>"), "eos_token_id": ids("<|im_end|>")}
    config = (Qwen3VLConfig if newer else Qwen2_5_VLConfig)(
        text_config=text,
        vision_config=_vision_config(shape),
        tie_word_embeddings=shape.tied,
        architectures=["Qwen3VLForConditionalGeneration" if newer else "Qwen2_5_VLForConditionalGeneration"],
        dtype=dtype,
        **({} if quantization is None else {"quantization_config": quantization}),
        **{name: ids(token) for name, token in tokens.items()},
    )
    config.save_pretrained(folder)
    processor = json.loads((DEMO_MODEL / "preprocessor_config.json").read_text(encoding="utf-8"))
    cell, patch = shape.vision.cell, shape.vision.patch
    processor |= {"min_pixels": 4 * cell * cell, "max_pixels": 16384 * cell * cell, "patch_size": patch}
    if newer:
        processor |= {"processor_class": "Qwen3VLProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        videos = {"video_processor_type": "Qwen3VLVideoProcessor", "patch_size": patch}
        (folder / "video_preprocessor_config.json").write_text(json.dumps(videos), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


def _text_config(shape: Architecture) -> dict[str, Any]:
    """Return ``text_config`` of config.json without the ids of tokens."""
    config = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": 32768,
    }
    if shape.model_type == "qwen3_vl":
        sections = [shape.head_dim * part // 32 for part in (6, 5, 5)]
        rope = {"rope_type": "default", "rope_theta": 5000000.0, "mrope_section": sections, "mrope_interleaved": True}
        return config | {"head_dim": shape.head_dim, "rope_parameters": rope}
    sections = [shape.head_dim * part // 16 for part in (2, 3, 3)]
    return config | {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": sections},
        # vLLM 0.26 reads the old key.
        "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": sections},
    }


def _vision_config(shape: Architecture) -> dict[str, Any]:
    """Return ``vision_config`` of config.json."""
    eye = shape.vision
    config = {
        "depth": eye.depth,
        "hidden_size": eye.hidden,
        "intermediate_size": eye.intermediate,
        "num_heads": eye.heads,
        "out_hidden_size": shape.hidden,
        "patch_size": eye.patch,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    if shape.model_type == "qwen3_vl":
        return config | {"num_position_embeddings": eye.positions, "deepstack_visual_indexes": _DEEPSTACK[eye.depth]}
    every = eye.depth // eye.full_attention
    return config | {"fullatt_block_indexes": list(range(every - 1, eye.depth, every)), "window_size": WINDOW}


def new_model(folder: Path, device: str) -> Any:
    """Return the model of a checkpoint of `write_checkpoint` in transformers, with its random weights."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    default = torch.get_default_dtype()
    torch.set_default_dtype(config.dtype)
    try:
        with torch.device(device):
            return getattr(transformers, config.architectures[0])(config).eval()
    finally:
        torch.set_default_dtype(default)


def write_weights(folder: Path, device: str, seed: int = 0) -> None:
    """Write random weights for a checkpoint of `write_checkpoint`, if it has none. They are for comparisons of answers.

    vLLM's dummy weights are all close to 0, so their answers cannot be compared. These are the random weights of transformers
    with two changes, so that rounding errors do not select the next token. The outputs of the layers are scaled by 1 / sqrt(2 x
    layers), as in GPT-2. The embeddings are as large as the sum of the layers, and are also the weights of the output layer, so
    that each token predicts itself.
    """
    import torch

    if any(folder.glob("*.safetensors")):
        return
    torch.manual_seed(seed)
    model = new_model(folder, device)
    language = model.model.language_model
    width, layers = model.config.text_config.hidden_size, model.config.text_config.num_hidden_layers
    with torch.no_grad():
        for layer in language.layers:
            for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
                part.weight.mul_((2 * layers) ** -0.5)
        language.embed_tokens.weight.normal_(0.0, _EMBEDDING)
        model.lm_head.weight.copy_(language.embed_tokens.weight)
        # For a vector of unit variance, of which the embedding of the token is half.
        language.norm.weight.fill_(_TARGET / (width * _EMBEDDING * 0.5**0.5))
    model.save_pretrained(folder)


def decode_bytes(shape: Architecture, context: int, weight_bytes: int = 2) -> int:
    """Return the bytes that one more token of a request reads: weights of the layers and the output layer, and the KV cache."""
    return weight_bytes * (shape.linear_parameters + shape.head_parameters) + shape.kv_bytes_per_token * context


def prefill_flops(shape: Architecture, tokens: int, patches: int) -> int:
    """Return the operations for a prompt with its images. A multiplication and an addition are two operations.

    There are 2 operations for each weight and token, and 4 x width operations for each pair of tokens in the attention. The
    language model uses half of all pairs. The image encoder of Qwen2.5-VL uses all pairs in its layers with full attention, and
    the pairs within windows of 64 patches in its other layers. That of Qwen3-VL uses all pairs in all layers.
    """
    language = 2 * shape.linear_parameters * tokens + 2 * shape.head_parameters
    language += 2 * shape.layers * shape.heads * shape.head_dim * tokens * tokens
    eye = shape.vision
    matrices, full = (2, eye.depth) if shape.model_type == "qwen3_vl" else (3, eye.full_attention)
    linear = eye.depth * (4 * eye.hidden * eye.hidden + matrices * eye.hidden * eye.intermediate)
    window = (WINDOW // eye.patch) ** 2
    pairs = patches * (full * patches + (eye.depth - full) * window)
    merge = (1 + eye.deepstack) * 4 * eye.hidden * (4 * eye.hidden + shape.hidden) * (patches // 4)
    return language + 2 * linear * patches + 4 * eye.hidden * pairs + 2 * merge


def gpu_count() -> int:
    """Return the number of GPUs."""
    import torch

    return torch.cuda.device_count()


def measure_chip(device: str, small: bool) -> dict[str, Any]:
    """Measure the chip: bytes per second of a copy (read and written), and operations per second of a matrix product.

    The matrix product uses the dtype of the weights. Each result is the best of several attempts.
    """
    import time

    import torch

    on_gpu = device != "cpu"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    side, numbers = (512, 2**22) if small else (8192, 2**30)
    source = torch.ones(numbers, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def best(work: Any) -> float:
        times = []
        for _ in range(12):
            if on_gpu:
                torch.cuda.synchronize()
            began = time.perf_counter()
            work()
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        return min(times)

    return {
        "bytes_per_s": 2 * numbers / best(lambda: target.copy_(source)),
        "flops_per_s": 2 * side**3 / best(lambda: torch.matmul(left, right)),
        "chip": torch.cuda.get_device_name() if on_gpu else "CPU",
        "torch": torch.__version__,
    }
