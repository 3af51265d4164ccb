"""Broken checkpoints are reported before vLLM starts. The files are copies of the demo model, each broken in one way."""

import asyncio
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import engine_processes

from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.engine.embedded.checkpoint import find_checkpoint
from robobrain_ros.engine.embedded.checkpoint_files import INDEX, check_files
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.embedded.prompt import Prompts
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22ea5e2ca24d17e2393\n"
WEIGHTS = "model.safetensors"
SIZE = (DEMO_MODEL / WEIGHTS).stat().st_size
VOCABULARY = json.loads((DEMO_MODEL / "config.json").read_text())["text_config"]["vocab_size"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a complete checkpoint."""
    return shutil.copytree(DEMO_MODEL, tmp_path / "checkpoint")


def write_weights(path: Path, tensors: dict[str, list[int]]) -> None:
    """Write a complete safetensors file with float32 tensors of these shapes."""
    header, end = {}, 0
    for name, shape in tensors.items():
        size = 4
        for side in shape:
            size *= side
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def split(folder: Path) -> None:
    """Replace the weight file by two files and an index."""
    tensors = {"model.language_model.embed_tokens.weight": [VOCABULARY, 256]}
    tensors |= {f"model.language_model.layers.{layer}.input_layernorm.weight": [1] for layer in range(4)}
    blocks = {f"model.visual.blocks.{block}.norm1.weight": [1] for block in range(5)}
    write_weights(folder / "a.safetensors", tensors)
    write_weights(folder / "b.safetensors", blocks)
    names = dict.fromkeys(tensors, "a.safetensors") | dict.fromkeys(blocks, "b.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))
    (folder / WEIGHTS).unlink()


def change_config(folder: Path, section: str, name: str, value: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (config[section] if section else config)[name] = value
    (folder / "config.json").write_text(json.dumps(config))


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, size)


def without(*names: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return remove


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None  # type: ignore[return-value]


def split_then(*steps: Callable[[Path], None]) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        split(folder)
        for step in steps:
            step(folder)

    return prepare


def fifo(name: str) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return replace


def loop(name: str) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(name)

    return replace


def weights(header: str, length: int | None = None) -> Callable[[Path], None]:
    content = struct.pack("<Q", len(header) if length is None else length) + header.encode()
    return lambda folder: (folder / WEIGHTS).write_bytes(content) and None  # type: ignore[return-value]


def with_tensor(**changes: object) -> Callable[[Path], None]:
    """Write the complete weights with a header that is wrong about one tensor."""

    def change(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        header["lm_head.weight"] |= changes
        text = json.dumps(header).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return change


def directory(name: str) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return replace


def dangling(name: str) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("../blobs/none")

    return replace


def rename(name: str, other: str) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        (folder / name).rename(folder / other)

    return replace


def encode(name: str, encode: Callable[[str], bytes]) -> Callable[[Path], None]:
    """Write the text of a file in another encoding."""

    def replace(folder: Path) -> None:
        (folder / name).write_bytes(encode((folder / name).read_text(encoding="utf-8")))

    return replace


def pytorch(content: bytes) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / "pytorch_model.bin").write_bytes(content)

    return replace


FURTHER = ("generation_config.json", "special_tokens_map.json", "added_tokens.json", "video_preprocessor_config.json")
OF_TENSOR = '{"dtype": "F32", "shape": [1, 0], "data_offsets": [0, 0]}'
WRONG_TENSORS: list[dict[str, object]] = [
    {"dtype": None},
    {"dtype": "F64"},
    {"shape": None},
    {"shape": []},
    {"shape": [-256, -VOCABULARY]},
    {"shape": [VOCABULARY, 256.0]},
    {"shape": [VOCABULARY, 257]},
    {"data_offsets": [8, 4]},
    {"data_offsets": ["0", 4]},
]
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights cut off": (cut(WEIGHTS, 5_000_000), rf"model\.safetensors is cut off: it has 5000000 of {SIZE} bytes"),
    "weights cut off by one byte": (cut(WEIGHTS, SIZE - 1), f"is cut off: it has {SIZE - 1} of {SIZE} bytes"),
    "weights cut off in the header": (cut(WEIGHTS, 1000), "is cut off: it has 1000 of more than"),
    "weights cut off in the header's length": (cut(WEIGHTS, 5), "is damaged: it is not a safetensors file"),
    "weights too long": (lambda folder: os.truncate(folder / WEIGHTS, SIZE + 6), f"has {SIZE + 6} bytes instead of {SIZE}"),
    "weights of an error page": (write(WEIGHTS, "<html>404 not found</html>"), "is damaged: it is not a safetensors file"),
    "weights empty": (write(WEIGHTS, ""), r"model\.safetensors is empty"),
    "weights are a pointer": (write(WEIGHTS, POINTER), r"is a Git LFS pointer.*git lfs pull"),
    "weights missing": (without(WEIGHTS), "no weights"),
    "weights are a pipe": (fifo(WEIGHTS), "is not a regular file"),
    "shard missing": (split_then(without("b.safetensors")), r"1 of 2 weight files are missing \(b\.safetensors"),
    "shard cut off": (split_then(cut("a.safetensors", 9000)), r"a\.safetensors is cut off"),
    "shard is a pointer": (split_then(write("b.safetensors", POINTER)), r"b\.safetensors is a Git LFS pointer"),
    "shard of another download": (
        split_then(lambda folder: write_weights(folder / "b.safetensors", {"x": [1]})),
        r"b\.safetensors has no tensor model\.visual\.blocks\.0\.norm1\.weight",
    ),
    **{
        f"index names {name[:6]!a}": (split_then(write(INDEX, json.dumps({"weight_map": {"x": name}}))), "names no weight files")
        for name in ("a\0b", "\ud800", "x" * 300, "", "..", "../a", "/dev/zero", "a\nb")
    },
    **{
        f"weights with a tensor of {changes}": (with_tensor(**changes), "type, shape and place of the tensor 'lm_head.weight'")
        for changes in WRONG_TENSORS
    },
    "weights with an endless tensor": (weights('{"x": {"shape": [1], "data_offsets": [0, 1e999]}}'), "is damaged"),
    "weights with a header of 2**63 bytes": (weights("{}", 2**63), "is damaged"),
    "weights with a layer of 5000 digits": (
        weights(f'{{"embed_tokens.weight": {OF_TENSOR}, "layers.{"9" * 5000}.x": {OF_TENSOR}}}'),
        "belong to another model",
    ),
    "config is huge": (cut("config.json", 1 << 40), r"config\.json cannot be read \(it is larger"),
    "index empty": (split_then(write(INDEX, "{}")), "names no weight files"),
    "index cut off": (split_then(cut(INDEX, 40)), r"index\.json cannot be read"),
    "config missing": (without("config.json"), r"it has no config\.json"),
    "config cut off": (cut("config.json", 100), r"config\.json cannot be read"),
    "config is a list": (write("config.json", "[]"), "it is not a JSON object"),
    "config is a pointer": (write("config.json", POINTER), r"config\.json is a Git LFS pointer"),
    "config is a pipe": (fifo("config.json"), "is not a regular file"),
    "config cannot be read": (loop("config.json"), r"config\.json cannot be read \(.*\)"),
    "config with a text for a number": (
        lambda folder: change_config(folder, "vision_config", "patch_size", "wide"),
        "has a value of a wrong type",
    ),
    "config without its vision": (lambda folder: change_config(folder, "", "vision_config", None), "value of a wrong type"),
    "tokenizer missing": (without("tokenizer.json"), "has no tokenizer"),
    "tokenizer cut off": (cut("tokenizer.json", 5000), r"tokenizer\.json cannot be read"),
    "tokenizer is a pointer": (write("tokenizer.json", POINTER), r"tokenizer\.json is a Git LFS pointer"),
    "chat template missing": (without("chat_template.jinja"), "has no chat template"),
    "chat template empty": (write("chat_template.jinja", ""), r"chat_template\.jinja is empty"),
    "preprocessor missing": (without("preprocessor_config.json"), r"has no preprocessor_config\.json"),
    "preprocessor cut off": (cut("preprocessor_config.json", 10), r"preprocessor_config\.json cannot be read"),
    **{f"{name} cut off": (write(name, '{"a'), f"{name} cannot be read") for name in FURTHER},
    "generation_config is a pointer": (write("generation_config.json", POINTER), "is a Git LFS pointer"),
    "config with a byte order mark": (
        encode("config.json", lambda text: text.encode("utf-8-sig")),
        r"config\.json cannot be read \(.*BOM",
    ),
    "config in UTF-16": (encode("config.json", lambda text: text.encode("utf-16")), "it is not text in UTF-8"),
    "config is a directory": (directory("config.json"), "is not a regular file"),
    "tokenizer is a directory": (directory("tokenizer.json"), "is not a regular file"),
    "tokenizer without content": (write("tokenizer.json", "{}"), r"tokenizer\.json has no vocabulary"),
    "tokenizer without tokens": (
        write("tokenizer.json", '{"added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}'),
        r"tokenizer\.json has no vocabulary",
    ),
    "chat template cut off": (write("chat_template.jinja", "{% for m in messages %}<|im"), "is damaged .line 1: "),
    "chat template in another encoding": (
        encode("chat_template.jinja", lambda text: text.encode("utf-16")),
        r"chat_template\.jinja cannot be read",
    ),
    "chat template of an error page": (
        rename("chat_template.jinja", "chat_template.json"),
        r"chat_template\.json cannot be read",
    ),
    "preprocessor without content": (write("preprocessor_config.json", "{}"), "contains no settings"),
    "weights are a directory": (directory(WEIGHTS), "is not a regular file"),
    "weights are a link into an empty cache": (dangling(WEIGHTS), "no weights"),
    "shard missing without an index": (rename(WEIGHTS, "model-00002-of-00004.safetensors"), "3 of 4 weight files are missing"),
    "PyTorch weights of an error page": (pytorch(b"<html>404</html>"), "is not a file of PyTorch"),
    "PyTorch weights cut off": (pytorch(b"PK\x03\x04" + bytes(100)), r"pytorch_model\.bin is cut off"),
    "weights of another architecture": (
        lambda folder: write_weights(folder / WEIGHTS, {"transformer.wte.weight": [VOCABULARY, 256]}),
        "belong to another architecture",
    ),
    "weights of a wider model": (
        lambda folder: change_config(folder, "text_config", "hidden_size", 128),
        "hidden_size is 128 in config.json and 256 in the weights",
    ),
    "weights of a deeper model": (
        lambda folder: change_config(folder, "text_config", "num_hidden_layers", 3),
        "num_hidden_layers is 3 in config.json and 4 in the weights",
    ),
    "weights of another image encoder": (
        lambda folder: change_config(folder, "vision_config", "depth", 9),
        r"vision_config\.depth is 9 in config.json and 5 in the weights",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_checkpoint_gets_one_sentence_before_vllm_starts(folder: Path, case: str) -> None:
    break_it, said = BROKEN[case]
    break_it(folder)
    options = EngineOptions.of(model=str(folder))

    async def start() -> None:
        await EmbeddedEngine(options).start(lambda progress: None)

    before = engine_processes()
    with pytest.raises(EngineConfigError, match=said) as caught:
        asyncio.run(start())
    assert "\n" not in caught.value.message
    assert not engine_processes() - before


TEMPLATES = {
    "drops the image or the text": "<html>404 not found</html>",
    "drops the image or the text ": "{% for m in messages %}{{ m.role }}{% endfor %}",
    r"fails \(.*no images": "{{ raise_exception('no images') }}",
    r"fails \(": "{{ messages[0].content[7].text.x }}",
}


@pytest.mark.parametrize("said", TEMPLATES)
def test_a_chat_template_that_no_request_could_use_is_named(folder: Path, said: str) -> None:
    (folder / "chat_template.jinja").write_text(TEMPLATES[said])
    checkpoint = find_checkpoint(EngineOptions.of(model=str(folder)), lambda progress: None)
    check_files(folder)
    with pytest.raises(EngineConfigError, match=f"The chat template in .* {said.strip()}"):
        Prompts.load(checkpoint, trust_remote_code=False)


def test_a_tokenizer_that_transformers_cannot_load_is_named(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"model": {"type": "none", "vocab": {"a": 0}}}))
    checkpoint = find_checkpoint(EngineOptions.of(model=str(folder)), lambda progress: None)
    with pytest.raises(EngineConfigError, match=r"The tokenizer in .* cannot be loaded \("):
        Prompts.load(checkpoint, trust_remote_code=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="Root reads every file.")
def test_a_file_without_permission_is_named(folder: Path) -> None:
    (folder / WEIGHTS).chmod(0)
    with pytest.raises(EngineConfigError, match=r"Permission denied.*Check the owner and the permissions"):
        check_files(folder)


def test_an_unreadable_folder_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("robobrain_ros.engine.embedded.checkpoint.read_checkpoint", refuse)
    with pytest.raises(EngineConfigError, match=r"cannot be read \(Permission denied\)\. Check the owner"):
        find_checkpoint(EngineOptions.of(model=str(folder)), lambda progress: None)


def test_whole_checkpoints_pass(folder: Path) -> None:
    check_files(folder)
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "{{ messages }}"}))
    split(folder)
    check_files(folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    check_files(folder, weights_needed=False)
    (folder / "chat_template.jinja").write_text("{% generation %}{{ messages }}{% break %}{% endgeneration %}")
    (folder / "generation_config.json").write_text("{}")
    (folder / INDEX).unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("data.pkl", b"\x80")
    check_files(folder)
