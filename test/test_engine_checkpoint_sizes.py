"""Wrong numbers in a checkpoint's JSON files are reported before vLLM starts. The files are copies of the demo model's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from random_checkpoint import make_random_checkpoint

from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.engine.embedded.checkpoint import read_checkpoint
from robobrain_ros.engine.embedded.checkpoint_files import check_files
from robobrain_ros.errors import EngineConfigError

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
HUGE = 10**12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a complete checkpoint."""
    return shutil.copytree(DEMO_MODEL, tmp_path / "checkpoint")


def set_value(path: Path, name: str, value: Any) -> None:
    """Set a value in a JSON file. Dots in the name separate sections."""
    content = json.loads(path.read_text(encoding="utf-8"))
    *sections, last = name.split(".")
    section = content
    for each in sections:
        section = section.setdefault(each, {})
    section[last] = value
    path.write_text(json.dumps(content), encoding="utf-8")


def reason(folder: Path, file: str, name: str, value: Any) -> str:
    """Return why the checkpoint is rejected with this value."""
    set_value(folder / file, name, value)
    with pytest.raises(EngineConfigError) as caught:
        check_files(folder)
    message = caught.value.message
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize("value", [0, -8, 1e300, HUGE, "8", True, [], {}, 7.5, "x" * 10_000])
@pytest.mark.parametrize(
    ("file", "name"),
    [
        (CONFIG, "text_config.num_attention_heads"),
        (CONFIG, "text_config.max_position_embeddings"),
        (CONFIG, "vision_config.num_heads"),
        (CONFIG, "vision_config.spatial_merge_size"),
        (PROCESSOR, "patch_size"),
        (PROCESSOR, "max_pixels"),
        (PROCESSOR, "size.longest_edge"),
    ],
)
def test_a_size_that_is_no_positive_whole_number_is_named(folder: Path, file: str, name: str, value: Any) -> None:
    message = reason(folder, file, name, value)
    assert message.startswith(f"{folder / file} is wrong: ")
    assert f"{name.removeprefix('text_config.').removeprefix('size.')} is {str(value)[:40]!r}, not a whole number" in message
    assert message.endswith("Download the checkpoint again.")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("text_config.num_attention_heads", 3, "hidden_size is 256, which is not a multiple of num_attention_heads 3"),
        ("text_config.num_key_value_heads", 3, "num_attention_heads is 8, which is not a multiple of num_key_value_heads 3"),
        ("vision_config.num_heads", 5, "vision_config.hidden_size is 192, which is not a multiple of num_heads 5"),
    ],
)
def test_a_number_of_heads_that_does_not_divide_is_named(folder: Path, name: str, value: int, said: str) -> None:
    assert said in reason(folder, CONFIG, name, value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("text_config.num_attention_heads", 16, "num_key_value_heads x head_dim is 64 in config.json and 128"),
        ("text_config.num_key_value_heads", 8, "num_key_value_heads x head_dim is 256 in config.json and 128"),
        ("text_config.head_dim", 64, "num_attention_heads x head_dim is 512 in config.json and 256"),
        ("text_config.intermediate_size", 700, "intermediate_size is 700 in config.json and 704"),
        ("vision_config.hidden_size", 384, "vision_config.hidden_size is 384 in config.json and 192"),
        ("vision_config.intermediate_size", 100, "vision_config.intermediate_size is 100 in config.json and 512"),
        ("vision_config.out_hidden_size", 100, "vision_config.out_hidden_size is 100 in config.json and 256"),
        ("vision_config.in_channels", 4, "vision_config.in_channels is 4 in config.json and 3"),
    ],
)
def test_a_size_that_the_weights_do_not_have_is_named(folder: Path, name: str, value: int, said: str) -> None:
    message = reason(folder, CONFIG, name, value)
    assert f"belong to another model than its config.json: {said} in the weights. Use all files of one checkpoint." in message


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("vision_config.window_size", 27, "window_size is 27, which is less than patch_size x spatial_merge_size 28"),
        ("vision_config.window_size", 0, "window_size is '0', not a whole number"),
    ],
)
def test_a_window_that_is_too_narrow_is_named(folder: Path, name: str, value: Any, said: str) -> None:
    """The model would start, and die with each image."""
    assert said in reason(folder, CONFIG, name, value)


@pytest.mark.parametrize("value", ["x", -1, [1, "2"], 1e300, HUGE, {}])
def test_an_end_of_answers_that_is_no_token_is_named(folder: Path, value: Any) -> None:
    """vLLM's process would start, and never answer a request."""
    generation = folder / "generation_config.json"
    generation.write_text('{"eos_token_id": [988, 989], "pad_token_id": null}', encoding="utf-8")
    check_files(folder)
    assert f"generation_config.json is wrong: eos_token_id is {str(value)[:40]!r}" in reason(
        folder, "generation_config.json", "eos_token_id", value
    )


def test_a_tokenizer_without_the_image_token_is_named(folder: Path) -> None:
    message = reason(folder, "tokenizer.json", "added_tokens", [])
    assert "tokenizer.json is wrong: its added_tokens do not contain <|image_pad|>" in message


def test_quantized_weights_may_have_other_shapes(folder: Path) -> None:
    set_value(folder / CONFIG, "text_config.intermediate_size", 1408)
    set_value(folder / CONFIG, "quantization_config", {"quant_method": "bitsandbytes"})
    check_files(folder)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("patch_size", 13, "patch_size is 13, but vision_config.patch_size in config.json is 14"),
        ("merge_size", 3, "merge_size is 3, but vision_config.spatial_merge_size in config.json is 2"),
        ("temporal_patch_size", 1, "temporal_patch_size is 1, but vision_config.temporal_patch_size in config.json is 2"),
        ("image_mean", "x", "image_mean is 'x', not a list of three numbers"),
        ("image_mean", [0.5], "image_mean is '[0.5]', not a list of three numbers"),
        ("image_std", [0.2, 0, 0.2], "image_std is '[0.2, 0, 0.2]', not a list of three numbers above 0"),
        ("image_std", [0.2, 1e999, 0.2], "image_std is '[0.2, inf, 0.2]', not a list of three numbers above 0"),
        ("rescale_factor", "x", "rescale_factor is 'x', not a number above 0"),
        ("min_pixels", 10**9, "min_pixels is 1000000000, which exceeds max_pixels 86240"),
    ],
)
def test_a_preprocessor_of_another_model_is_named(folder: Path, name: str, value: int, said: str) -> None:
    assert said in reason(folder, PROCESSOR, name, value)


def test_settings_that_transformers_saves_in_one_file_are_read_and_checked(folder: Path) -> None:
    from transformers import AutoProcessor

    expected = read_checkpoint(folder, local=True)
    assert expected.usual_images
    AutoProcessor.from_pretrained(folder).save_pretrained(folder)
    set_value(folder / PROCESSOR, "max_pixels", 50000)
    set_value(folder / PROCESSOR, "do_rescale", False)
    assert read_checkpoint(folder, local=True) == expected, "transformers does not read the other file any more"
    (folder / PROCESSOR).unlink()
    check_files(folder)
    assert read_checkpoint(folder, local=True) == expected
    set_value(folder / "processor_config.json", "image_processor.do_rescale", False)
    assert not read_checkpoint(folder, local=True).usual_images
    set_value(folder / "processor_config.json", "image_processor.image_std", [0, 1, 1])
    with pytest.raises(EngineConfigError, match=r"processor_config.json is wrong: image_std"):
        check_files(folder)


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "qwen3_vl"])
def test_whole_checkpoints_of_both_families_pass(tmp_path: Path, model_type: str) -> None:
    check_files(make_random_checkpoint(tmp_path, model_type))
    set_value(tmp_path / CONFIG, "text_config.intermediate_size", 7)
    with pytest.raises(EngineConfigError, match=r"intermediate_size is 7 in config\.json and"):
        check_files(tmp_path)


def test_settings_that_older_files_have_at_the_top_are_checked(folder: Path) -> None:
    content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    content |= content.pop("text_config") | {"model_type": "qwen2_5_vl"}
    (folder / CONFIG).write_text(json.dumps(content), encoding="utf-8")
    check_files(folder)
    assert "not a multiple of num_attention_heads 3" in reason(folder, CONFIG, "num_attention_heads", 3)


def test_settings_that_are_null_have_the_default(folder: Path) -> None:
    set_value(folder / CONFIG, "text_config.head_dim", None)
    set_value(folder / PROCESSOR, "max_pixels", None)
    set_value(folder / PROCESSOR, "image_std", None)
    check_files(folder)
