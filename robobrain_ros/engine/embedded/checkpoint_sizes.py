"""Check the sizes in config.json and in the settings of the image processor, and compare config.json with the weights.

If a size is wrong, vLLM fails after a minute, with an assertion that has no message. Each function returns the first fault as a
clause, or an empty string.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from robobrain_ros.engine.base import IMAGE_PLACEHOLDER

Section = Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...]]

_LARGEST = 2**31 - 1
_TEXT = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("num_hidden_layers", "vocab_size", "max_position_embeddings"),
)
_VISION = (
    *("depth", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size", "in_channels", "in_chans"),
    *("patch_size", "spatial_merge_size", "temporal_patch_size", "window_size"),
)
_SHARED = {"patch_size": "patch_size", "merge_size": "spatial_merge_size", "temporal_patch_size": "temporal_patch_size"}
"""Sizes in preprocessor_config.json, and their names in the vision_config."""
_LIMITS = ("min_pixels", "max_pixels"), ("shortest_edge", "longest_edge")


def config_fault(config: Section) -> str:
    """Check the sizes in config.json, without the weights."""
    text, vision = _sections(config)
    return (
        _not_whole(text, _TEXT, "")
        or _not_whole(vision, _VISION, "vision_config.")
        or ("" if text.get("head_dim") else _no_multiple(text, "hidden_size", "num_attention_heads", ""))
        or _no_multiple(text, "num_attention_heads", "num_key_value_heads", "")
        or _no_multiple(vision, "hidden_size", "num_heads", "vision_config.")
        or _narrow_window(vision)
    )


def processor_fault(processor: Section, config: Section) -> str:
    """Check the sizes in the settings of the image processor, and compare them with config.json."""
    _, vision = _sections(config)
    nested = processor.get("size")
    for section in (processor, nested if isinstance(nested, dict) else {}):
        for least, most in _LIMITS:
            fault = _not_whole(section, (least, most), "")
            if fault:
                return fault
            if section.get(least) and section.get(most) and section[least] > section[most]:
                return f"{least} is {section[least]}, which exceeds {most} {section[most]}"
    fault = _not_whole(processor, tuple(_SHARED), "") or _wrong_colours(processor)
    if fault:
        return fault
    for name, in_config in _SHARED.items():
        size, wanted = processor.get(name), vision.get(in_config)
        if size and wanted and size != wanted:
            return f"{name} is {size}, but vision_config.{in_config} in config.json is {wanted}"
    return ""


def tokenizer_fault(tokenizer: Section) -> str:
    """Check that tokenizer.json has the token that stands for an image."""
    added = tokenizer.get("added_tokens")
    tokens = [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    if any(token.get("content") == IMAGE_PLACEHOLDER for token in tokens):
        return ""
    return f"its added_tokens do not contain {IMAGE_PLACEHOLDER}"


def token_ids_fault(generation: Section) -> str:
    """Check the token ids in generation_config.json. With an invalid id, vLLM's process never answers."""
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        value = generation.get(name)
        ids = value if isinstance(value, list) else [value]
        if value is not None and not all(type(each) is int and 0 <= each <= _LARGEST for each in ids):
            return f"{name} is {str(value)[:40]!r}, not the number of a token or a list of such numbers"
    return ""


def weights_fault(config: Section, shapes: Shapes) -> str:
    """Compare the sizes in config.json with the shapes of the weights.

    :param shapes: shapes of the tensors by name.
    """
    for name, configured, found in _expected(config, shapes):
        if configured and found and configured != found:
            return f"{name} is {configured} in config.json and {found} in the weights"
    return ""


def _expected(config: Section, shapes: Shapes) -> Iterator[tuple[str, Any, int]]:
    """Yield each size: its name, its value in config.json, and its value in the weights. 0 or None: unknown."""
    text, vision = _sections(config)
    heads, hidden = text.get("num_attention_heads"), text.get("hidden_size")
    head_dim = text.get("head_dim") or (hidden // heads if hidden and heads else 0)
    layers = {name: shape for name, shape in shapes.items() if ".layers.0." in name and "visual." not in name}
    blocks = {name: shape for name, shape in shapes.items() if "visual." in name}
    patch = _shape(blocks, "patch_embed.proj.weight")
    patch = patch if len(patch) == 5 else (0,) * 5
    width, merge = vision.get("hidden_size"), vision.get("spatial_merge_size")
    yield "num_attention_heads x head_dim", head_dim * (heads or 0), _side(layers, 0, "self_attn.q_proj.weight")
    key_value = head_dim * (text.get("num_key_value_heads") or 0)
    yield "num_key_value_heads x head_dim", key_value, _side(layers, 0, "self_attn.k_proj.weight")
    yield "intermediate_size", text.get("intermediate_size"), _side(layers, 0, "mlp.up_proj.weight")
    yield "vision_config.hidden_size", width, patch[0]
    yield "vision_config.in_channels", vision.get("in_channels") or vision.get("in_chans"), patch[1]
    yield "vision_config.temporal_patch_size", vision.get("temporal_patch_size"), patch[2]
    yield "vision_config.patch_size", vision.get("patch_size"), patch[3]
    inner = _side(blocks, 0, "blocks.0.mlp.up_proj.weight", "blocks.0.mlp.linear_fc1.weight")
    yield "vision_config.intermediate_size", vision.get("intermediate_size"), inner
    merged = width * merge**2 if width and merge else 0
    yield (
        "hidden_size x spatial_merge_size squared of vision_config",
        merged,
        _side(blocks, 1, "visual.merger.mlp.0.weight", "visual.merger.linear_fc1.weight"),
    )
    out = _side(blocks, 0, "visual.merger.mlp.2.weight", "visual.merger.linear_fc2.weight")
    yield "vision_config.out_hidden_size", vision.get("out_hidden_size"), out


def _sections(config: Section) -> tuple[Section, Section]:
    """Return the sections of the language model and of the image encoder.

    In older files, the settings of the language model are at the top level.
    """
    text, vision = config.get("text_config"), config.get("vision_config")
    return text if isinstance(text, dict) and text else config, vision if isinstance(vision, dict) else {}


def _not_whole(section: Section, names: tuple[str, ...], prefix: str) -> str:
    for name in names:
        size = section.get(name)
        if size is not None and (type(size) is not int or not 1 <= size <= _LARGEST):
            return f"{prefix}{name} is {str(size)[:40]!r}, not a whole number from 1 to {_LARGEST}"
    return ""


def _wrong_colours(processor: Section) -> str:
    """Check the mean, standard deviation and factor with which a processor normalizes the three colours."""
    for name, least in (("image_mean", -_LARGEST), ("image_std", 0.0)):
        numbers = processor.get(name)
        each = numbers if isinstance(numbers, list) else [numbers] * 3  # A single number applies to all colours.
        if numbers is not None and not (len(each) == 3 and all(_is_above(number, least) for number in each)):
            return f"{name} is {str(numbers)[:40]!r}, not a list of three numbers" + (" above 0" if not least else "")
    factor = processor.get("rescale_factor")
    if factor is not None and not _is_above(factor, 0.0):
        return f"rescale_factor is {str(factor)[:40]!r}, not a number above 0"
    return ""


def _is_above(number: object, least: float) -> bool:
    return type(number) in (int, float) and least < number < _LARGEST  # type: ignore[operator]


def _no_multiple(section: Section, name: str, of: str, prefix: str) -> str:
    size, divisor = section.get(name), section.get(of)
    if not size or not divisor or size % divisor == 0:
        return ""
    return f"{prefix}{name} is {size}, which is not a multiple of {of} {divisor}"


def _narrow_window(vision: Section) -> str:
    window, patch, merge = (vision.get(name) for name in ("window_size", "patch_size", "spatial_merge_size"))
    if not (window and patch and merge) or window >= patch * merge:
        return ""
    return f"vision_config.window_size is {window}, which is less than patch_size x spatial_merge_size {patch * merge}"


def _shape(shapes: Shapes, *ends: str) -> tuple[int, ...]:
    """Return the shape of the first tensor whose name ends with one of these texts. Empty: there is no such tensor."""
    return next((shape for name, shape in shapes.items() if name.endswith(ends)), ())


def _side(shapes: Shapes, axis: int, *ends: str) -> int:
    """Return the size of an axis of the matrix whose name ends with one of these texts. 0: there is no such matrix."""
    shape = _shape(shapes, *ends)
    return shape[axis] if len(shape) == 2 else 0
