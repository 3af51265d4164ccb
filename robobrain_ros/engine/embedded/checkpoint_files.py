"""Check the files of a checkpoint before vLLM loads them, so that a damaged file is reported at once and in one sentence."""

import json
import math
import os
import re
import stat
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from robobrain_ros.bounds.files import UnreadableFileError, read_small_json, read_small_text
from robobrain_ros.bounds.texts import shortened
from robobrain_ros.engine.embedded import checkpoint_sizes
from robobrain_ros.errors import EngineConfigError

AGAIN = "Download the checkpoint again"
INDEX = "model.safetensors.index.json"

_LFS = b"version https://git-lfs"
_LARGEST_JSON = 256 << 20
_LARGEST_TEMPLATE = 4 << 20
_LARGEST_HEADER = 100_000_000
"""Most bytes of a header. safetensors rejects longer headers."""
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64"), 64),
}
"""Bits of a number of each type in safetensors files."""
_OTHER_WEIGHTS = ("pytorch_model*.bin", "*.pt", "*.gguf")
_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
_PROCESSOR, _UNIFIED_PROCESSOR = "preprocessor_config.json", "processor_config.json"
_PROCESSORS = (_PROCESSOR, _UNIFIED_PROCESSOR)
_IMAGE_SECTION = "image_processor"
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_GENERATION = "generation_config.json"
_FURTHER = (_GENERATION, "special_tokens_map.json", "added_tokens.json", "video_preprocessor_config.json")
"""Optional files that vLLM and transformers read."""
_MOST_SHARDS = 10_000
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_LANGUAGE_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_VISION_BLOCK = re.compile(r"(?:^|\.)visual\.blocks\.(\d+)\.")
_FILE_NAME = re.compile(r"[\w-][\w .+-]*")
_LONGEST_NAME = 200
_KNOWN_TYPES = ("qwen2_5_vl", "qwen3_vl")
"""Model types whose tensors' names and shapes are compared with config.json."""

Header = Mapping[str, Any]


def check_files(folder: Path, *, weights_needed: bool = True) -> None:
    """Check that each file that vLLM needs exists, is complete and readable, and belongs to this config.json.

    :param weights_needed: false if the weights are random.
    :raises EngineConfigError: a file is missing or damaged. The message names the file, and states what to do.
    """
    config = read_json(folder / "config.json")
    known = config if config.get("model_type") in _KNOWN_TYPES else {}
    _reject(folder / "config.json", checkpoint_sizes.config_fault(known))
    _check_tokenizer(folder, known)
    _check_processor(folder, known)
    for name in _FURTHER:
        if os.path.lexists(folder / name):
            settings = read_json(folder / name)
            _reject(folder / name, checkpoint_sizes.token_ids_fault(settings) if name == _GENERATION else "")
    if weights_needed:
        _check_weights(folder, config)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a checkpoint.

    :raises EngineConfigError: the file is missing, unreadable, or not a JSON object.
    """
    _check_regular(path)
    try:
        return read_small_json(path, _LARGEST_JSON)
    except UnreadableFileError as error:
        raise EngineConfigError(f"{path} cannot be read ({error}). {AGAIN}.") from error


def image_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a checkpoint's image processor, or an empty dictionary if there are none.

    transformers 5 saves the settings in a section of processor_config.json. This section overrides preprocessor_config.json.
    """
    unified, plain = folder / _UNIFIED_PROCESSOR, folder / _PROCESSOR
    section = read_json(unified).get(_IMAGE_SECTION) if unified.exists() else None
    if isinstance(section, dict):
        return section
    return read_json(plain) if plain.exists() else {}


def template_text(folder: Path) -> str:
    """Return the chat template of a checkpoint, or an empty text if it is missing or unreadable, which `check_files` reports."""
    present = next((folder / name for name in _TEMPLATES if (folder / name).exists()), None)
    try:
        if present is not None:
            return read_small_text(present, _LARGEST_TEMPLATE)
        return str(read_small_json(folder / "tokenizer_config.json", _LARGEST_JSON).get("chat_template", ""))
    except UnreadableFileError:
        return ""


def _check_regular(path: Path) -> int:
    """Check that a file has content, and return its size in bytes.

    :raises EngineConfigError: it is missing, not a regular file, empty, unreadable, or a pointer of Git LFS.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise EngineConfigError(f"{path} is not a regular file. {AGAIN}.")
        with path.open("rb") as file:
            start = file.read(len(_LFS))
    except FileNotFoundError as error:
        raise EngineConfigError(f"{path.parent} is not a checkpoint: it has no {path.name}.") from error
    except OSError as error:
        owner = "" if os.access(path, os.R_OK) else " Check the owner and the permissions of the file."
        raise EngineConfigError(f"{path} cannot be read ({error.strerror}).{owner}") from error
    if not start:
        raise EngineConfigError(f"{path} is empty. {AGAIN}.")
    if start == _LFS:
        raise EngineConfigError(
            f"{path} is a Git LFS pointer, not the file itself. Run `git lfs install && git lfs pull` in {path.parent}, or "
            "download the checkpoint again."
        )
    return status.st_size


def _check_tokenizer(folder: Path, config: Mapping[str, Any]) -> None:
    names = next((names for names in _TOKENIZERS if (folder / names[0]).exists()), None)
    if names is None:
        raise EngineConfigError(f"{folder} has no tokenizer (tokenizer.json, or vocab.json with merges.txt). {AGAIN}.")
    for name in names:
        if name.endswith(".json"):
            _check_vocabulary(folder / name, config)
        else:
            _check_regular(folder / name)
    settings = folder / "tokenizer_config.json"
    template = read_json(settings).get("chat_template") if settings.exists() else None
    present = next((folder / name for name in _TEMPLATES if (folder / name).exists()), None)
    if present is not None:
        _check_template(present)
    elif not template:
        raise EngineConfigError(
            f"{folder} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json). Copy that of "
            f"the original checkpoint, or download the checkpoint again."
        )


def _check_vocabulary(path: Path, config: Mapping[str, Any]) -> None:
    """Check that a tokenizer has a vocabulary. transformers accepts an empty one."""
    content = read_json(path)
    vocabulary: Any = content
    if path.name == "tokenizer.json":
        vocabulary = isinstance(content.get("added_tokens"), list) and _section(content, "model").get("vocab")
    if not vocabulary:
        raise EngineConfigError(f"{path} has no vocabulary. {AGAIN}.")
    if path.name == "tokenizer.json" and config:
        _reject(path, checkpoint_sizes.tokenizer_fault(content))


def _check_template(path: Path) -> None:
    """Check the syntax of a chat template, because transformers parses it only at the first request."""
    _check_regular(path)
    try:
        text = read_json(path).get("chat_template") if path.suffix == ".json" else read_small_text(path, _LARGEST_TEMPLATE)
    except UnreadableFileError as error:
        raise EngineConfigError(f"{path} cannot be read ({error}). {AGAIN}.") from error
    if not isinstance(text, str):
        raise EngineConfigError(f"{path} has no chat_template. {AGAIN}.")
    import jinja2

    try:
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    except jinja2.TemplateSyntaxError as error:
        if "unknown tag" not in str(error.message):  # A tag of transformers, such as generation; `Prompts` tries the template.
            raise EngineConfigError(f"{path} is damaged (line {error.lineno}: {error.message}). {AGAIN}.") from error


def _reject(path: Path, fault: str) -> None:
    """Reject a file if it has a fault.

    :raises EngineConfigError: ``fault`` is not empty.
    """
    if fault:
        raise EngineConfigError(f"{path} is wrong: {fault}. {AGAIN}.")


def _check_processor(folder: Path, config: Mapping[str, Any]) -> None:
    present = [folder / name for name in _PROCESSORS if (folder / name).exists()]
    if not present:
        raise EngineConfigError(f"{folder} has no {_PROCESSORS[0]}, which defines how images are prepared. {AGAIN}.")
    for path in present:
        settings = read_json(path)
        if not settings:
            raise EngineConfigError(f"{path} contains no settings. {AGAIN}.")
        for section in (settings, _section(settings, _IMAGE_SECTION)):
            _reject(path, checkpoint_sizes.processor_fault(section, config))


def _check_weights(folder: Path, config: Mapping[str, Any]) -> None:
    headers = {path.name: _read_header(path) for path in _weight_files(folder)}
    if not headers:
        others = [path for pattern in _OTHER_WEIGHTS for path in sorted(folder.glob(pattern))]
        for path in others:
            _check_other(path)
        return
    _check_index(folder, headers)
    if config.get("model_type") in _KNOWN_TYPES:
        _compare(folder, config, headers)


def _check_other(path: Path) -> None:
    """Check that a PyTorch file is complete: a ZIP archive, whose table of contents is at its end, or a plain pickle."""
    _check_regular(path)
    if path.suffix == ".gguf" or zipfile.is_zipfile(path):
        return
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK":
        raise EngineConfigError(f"{path} is cut off. {AGAIN}.")
    if start[:1] != b"\x80":
        raise EngineConfigError(f"{path} is damaged: it is not a file of PyTorch. {AGAIN}.")


def _weight_files(folder: Path) -> list[Path]:
    """Return the weight files that vLLM reads: those in the index, or all if there is no index."""
    if (folder / INDEX).exists():
        return [folder / name for name in indexed_files(folder)]
    files = sorted(folder.glob("*.safetensors"))
    _check_numbers([file.name for file in files], folder)
    return files


def _check_numbers(names: list[str], folder: Path) -> None:
    """Check that the numbers in the names of the weight files have no gap. This replaces the check of the index."""
    shards = [found for name in names if (found := _SHARD.fullmatch(name))]
    present = {(found[1], int(found[2])) for found in shards}
    for found in shards:
        missing = [number for number in range(1, min(int(found[3]), _MOST_SHARDS) + 1) if (found[1], number) not in present]
        if missing:
            raise EngineConfigError(
                f"In {folder}, {len(missing)} of {int(found[3])} weight files are missing "
                f"({found[1]}-{missing[0]:05d}-of-{found[3]}.safetensors, ...). {AGAIN}."
            )


def indexed_files(folder: Path) -> list[str]:
    """Return the weight files in the index of a checkpoint, sorted.

    :raises EngineConfigError: the index is damaged.
    """
    return sorted(set(_weight_map(folder).values()))


def _weight_map(folder: Path) -> dict[str, str]:
    entries = read_json(folder / INDEX).get("weight_map")
    if not isinstance(entries, dict) or not entries or not all(map(_is_file_name, entries.values())):
        raise EngineConfigError(f"{folder / INDEX} names no weight files. {AGAIN}.")
    return entries


def _is_file_name(name: Any) -> bool:
    """Whether a value is the name of a file in the checkpoint's folder."""
    return isinstance(name, str) and len(name) <= _LONGEST_NAME and _FILE_NAME.fullmatch(name) is not None


def _check_index(folder: Path, headers: Mapping[str, Header]) -> None:
    if not (folder / INDEX).exists():
        return
    for tensor, name in _weight_map(folder).items():
        if tensor not in headers[name]:
            raise EngineConfigError(
                f"{folder / name} has no tensor {tensor}, which {INDEX} lists: the files come from different downloads. {AGAIN}."
            )


def _read_header(path: Path) -> Header:
    """Return the header of a safetensors file, after a check that the file has the size that the header states.

    :raises EngineConfigError: the file is cut off or damaged.
    """
    size = _check_regular(path)
    damaged = EngineConfigError(f"{path} is damaged: it is not a safetensors file. {AGAIN}.")
    try:
        with path.open("rb") as file:
            start = file.read(8)
            (length,) = struct.unpack("<Q", start) if len(start) == 8 else (_LARGEST_HEADER + 1,)
            if length > _LARGEST_HEADER:
                raise damaged
            if length + 8 > size:
                raise EngineConfigError(f"{path} is cut off: it has {size} of more than {length + 8} bytes. {AGAIN}.")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            end = length + 8 + max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except OSError as error:
        raise EngineConfigError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, OverflowError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise damaged from error
    if size < end:
        raise EngineConfigError(f"{path} is cut off: it has {size} of {end} bytes. {AGAIN}.")
    if size > end:
        raise EngineConfigError(f"{path} is damaged: it has {size} bytes instead of {end}. {AGAIN}.")
    if wrong := _wrong_tensor(header):
        name = shortened(repr(wrong), _LONGEST_NAME)
        raise EngineConfigError(f"{path} is damaged: type, shape and place of the tensor {name} contradict each other. {AGAIN}.")
    return dict(header)


def _wrong_tensor(header: Header) -> str:
    """Return the name of the first tensor whose bytes do not follow the previous tensor, or do not fit its shape; empty: none."""
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: _place(item[1])):
        first, last = _place(entry)
        kind, shape = entry.get("dtype"), entry.get("shape")
        sizes = shape if isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape) else None
        if first != end or last < first or not isinstance(kind, str) or sizes is None:
            return name
        bits = _BITS.get(kind)  # None: a type that this version does not know.
        if bits is not None and math.prod(sizes) * bits != (last - first) * 8:
            return name
        end = last
    return ""


def _place(entry: Mapping[str, Any]) -> tuple[int, int]:
    """Return the first byte of a tensor and the byte after its last; (-1, -1): they are not two whole numbers."""
    offsets = entry["data_offsets"]
    return (offsets[0], offsets[1]) if len(offsets) == 2 and all(type(offset) is int for offset in offsets) else (-1, -1)


def _compare(folder: Path, config: Mapping[str, Any], headers: Mapping[str, Header]) -> None:
    """Compare names and shapes of tensors with config.json. vLLM notices weights of another model only after minutes."""
    text, vision = _section(config, "text_config") or config, _section(config, "vision_config")
    shapes = {name: _shape(entry) for header in headers.values() for name, entry in header.items()}
    embedding = next((shape for name, shape in shapes.items() if name.endswith("embed_tokens.weight")), None)
    if embedding is None:
        raise EngineConfigError(
            f"The weights in {folder} belong to another architecture than its config.json: they have no embed_tokens. Use all "
            "files of one checkpoint."
        )
    expected = (
        ("hidden_size", text.get("hidden_size"), embedding[-1] if embedding else None),
        ("vocab_size", text.get("vocab_size", config.get("vocab_size")), embedding[0] if embedding else None),
        ("num_hidden_layers", text.get("num_hidden_layers"), _count(_LANGUAGE_LAYER, shapes, without="visual.")),
        ("vision_config.depth", vision.get("depth"), _count(_VISION_BLOCK, shapes)),
    )
    for name, configured, found in expected:
        if isinstance(configured, int) and found is not None and configured != found:
            raise _other_model(folder, f"{name} is {configured} in config.json and {found} in the weights")
    # Quantized weights may have other shapes.
    if not config.get("quantization_config") and (fault := checkpoint_sizes.weights_fault(config, shapes)):
        raise _other_model(folder, fault)


def _other_model(folder: Path, fault: str) -> EngineConfigError:
    return EngineConfigError(
        f"The weights in {folder} belong to another model than its config.json: {fault}. Use all files of one checkpoint."
    )


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _shape(entry: Any) -> tuple[int, ...]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    return tuple(shape) if isinstance(shape, list) and all(isinstance(size, int) for size in shape) else ()


def _count(pattern: re.Pattern[str], names: Mapping[str, Any], without: str = "") -> int:
    return len(set(_numbers(pattern, names, without)))


def _numbers(pattern: re.Pattern[str], names: Mapping[str, Any], without: str) -> Iterator[str]:
    for name in names:
        found = None if without and without in name else pattern.search(name)
        if found:
            yield found.group(1)
