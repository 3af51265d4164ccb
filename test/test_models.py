"""The presets: their figures agree with the real architectures, and one rule decides which value applies."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from robobrain_ros.engine import presets
from robobrain_ros.engine.embedded.checkpoint import find_checkpoint
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError
from robobrain_ros.ros.parameters.table import table

PUBLISHED = {
    "qwen2.5-vl-3b": 3_754_622_976,
    "qwen2.5-vl-7b": 8_292_166_656,
    "qwen2.5-vl-32b": 33_452_718_336,
    "qwen3-vl-4b": 4_437_815_808,
    "qwen3-vl-8b": 8_767_123_696,
}
"""Numbers of parameters, as the hub counts them in the checkpoint files."""


@pytest.mark.parametrize("preset", presets.PRESETS, ids=lambda preset: preset.name)
def test_a_preset_has_values_that_the_parameters_accept(preset: presets.ModelPreset) -> None:
    known = {parameter.name: parameter for parameter in table()}
    for name, value in preset.engine_options().items():
        parameter = known[f"engine.{name}"]
        assert type(value) is type(parameter.default)
        assert parameter.fault(value) == ""
    options = presets.resolve_options({"model": preset.name})
    options.validate()
    assert {name: options.value(name) for name in preset.engine_options()} == preset.engine_options()
    assert preset.can_think == presets.can_think(preset.name) == presets.can_think(options.model)


@pytest.mark.parametrize("value", [15, 16, 17])
def test_an_explicit_value_overrides_the_preset_even_if_it_equals_the_default(value: int) -> None:
    assert EngineOptions().max_num_seqs == 16
    assert presets.resolve_options({"model": "robobrain2.0-32b", "max_num_seqs": value}).max_num_seqs == value
    assert presets.resolve_options({"model": "robobrain2.0-32b"}).max_num_seqs == 8


def test_an_empty_quantization_leaves_the_choice_to_the_preset() -> None:
    """A copy of config/robobrain.yaml contains an empty value, and must not load the unquantized model."""
    options = presets.resolve_options({"model": "robobrain2.0-32b-fp8", "quantization": ""})
    assert options.embedded.quantization == "fp8_per_tensor"


def test_a_remote_engine_has_no_preset() -> None:
    options = presets.resolve_options({"kind": "remote", "model": "robobrain2.0-32b", "urls": ("http://gpu:9010/v1",)})
    assert (options.model, options.max_num_seqs) == ("robobrain2.0-32b", 16)


@pytest.mark.parametrize("model", [model for model in presets.PRESETS if model.quantization], ids=lambda model: model.name)
def test_vllm_makes_the_layers_of_a_dense_model_smaller_by_that_quantization(model: presets.ModelPreset) -> None:
    """Some quantizations only affect experts, which RoboBrain does not have."""
    from vllm.config.quantization import resolve_quantization_config

    config = resolve_quantization_config(model.quantization, None)
    assert config is not None
    assert config.linear is not None
    assert model.bits == 8


def test_presets_of_unpublished_checkpoints_name_the_page_with_the_command() -> None:
    with pytest.raises(EngineConfigError, match=r"RoboBrain2\.0-32B-W8A16 is neither a folder .* docs/how-to/models\.md"):
        find(presets.resolve_options({"model": "robobrain2.0-32b-w8a16"}).model)


def test_the_documentation_has_the_table(repository: Path) -> None:
    text = (repository / "docs" / "reference" / "models.md").read_text(encoding="utf-8")
    assert presets.to_markdown() in text, "python -m robobrain_ros.engine.presets prints it"


@pytest.mark.parametrize("name", presets.ARCHITECTURES)
def test_parameters_are_as_many_as_published(name: str) -> None:
    assert presets.ARCHITECTURES[name].parameters == PUBLISHED[name]


def test_figures_by_hand() -> None:
    """The 7B model is easy to check by hand: 28 layers, 4 key-value heads of 128 numbers, 2 bytes each."""
    shape = presets.ARCHITECTURES["qwen2.5-vl-7b"]
    assert shape.kv_bytes_per_token == 2 * 28 * 4 * 128 * 2 == 57344
    assert shape.weight_bytes() == 2 * PUBLISHED["qwen2.5-vl-7b"]
    assert shape.weight_bytes(8) == shape.weight_bytes() - shape.linear_parameters
    plain, quantized = presets.find_preset("robobrain2.0-32b"), presets.find_preset("RoboBrain2.0-32B-FP8")
    assert plain is not None
    assert quantized is not None
    assert (plain.card_gb(), quantized.card_gb()) == (80, 48)
    assert replace(plain, max_model_len=131072).card_gb() == 141


def test_what_the_user_sets_stays() -> None:
    options = presets.resolve_options({"model": "robobrain2.0-32b-fp8", "max_model_len": 4096, "tensor_parallel_size": 2})
    assert (options.model, options.embedded.quantization) == ("BAAI/RoboBrain2.0-32B", "fp8_per_tensor")
    assert (options.embedded.max_model_len, options.max_num_seqs, options.embedded.tensor_parallel_size) == (4096, 8, 2)


@pytest.mark.parametrize("name", ["BAAI/RoboBrain2.0-7B", "/models/robobrain2.0-7b", "", "my-model"])
def test_other_names_are_left_alone(name: str) -> None:
    assert presets.resolve_options({"model": name}) == EngineOptions.of(model=name)


def test_a_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(EngineConfigError, match=r"no preset robobrain2\.0-7b-fp16\. Did you mean robobrain2\.0-7b-"):
        presets.resolve_options({"model": "robobrain2.0-7b-fp16"})


def test_a_folder_of_such_a_name_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "robobrain-tuned").mkdir()
    monkeypatch.chdir(tmp_path)
    assert presets.resolve_options({"model": "robobrain-tuned"}).model == "robobrain-tuned"


def find(model: str) -> Path:
    return find_checkpoint(EngineOptions.of(model=model, load_format="dummy"), lambda progress: None).path


def test_names_are_modelscopes_where_vllms_switch_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test cannot reach ModelScope, so its one function has a stand-in."""
    (tmp_path / "config.json").write_text("{}")
    asked = []

    def snapshot_download(model: str, allow_patterns: list[str]) -> str:
        asked.append((model, "*.safetensors" in allow_patterns))
        if "Nothing" in model:
            raise ConnectionError("no route")
        return str(tmp_path)

    stand_in = ModuleType("modelscope")
    stand_in.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setenv("VLLM_USE_MODELSCOPE", "true")
    monkeypatch.setitem(sys.modules, "modelscope", stand_in)
    assert find("BAAI/RoboBrain2.0-7B") == tmp_path
    with pytest.raises(EngineConfigError, match="cannot be downloaded from ModelScope \\(no route\\)"):
        find("BAAI/Nothing")
    assert asked == [("BAAI/RoboBrain2.0-7B", False), ("BAAI/Nothing", False)]


def test_modelscope_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_USE_MODELSCOPE", "1")
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(EngineConfigError, match="pip install modelscope"):
        find("BAAI/RoboBrain2.0-7B")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("BAAI/RoboBrain2.0-32B", "RoboBrain2.0-32B-nvidia-flagos"),
        ("BAAI/RoboBrain2.0-32B", "robobrain2_32b-nv-flagos"),
        ("/models/RoboBrain2.0-7B", "robobrain2_7b-nv-flagos"),
        ("BAAI/RoboBrain2.0-7B-FP8", "RoboBrain2.0-7B-nvidia-flagos"),
        ("BAAI/RoboBrain2.5-8B-NV", "RoboBrain2.5-8B-nvidia-flagos"),
        ("FlagRelease/RoboBrain2.5-8B-FlagOS", "RoboBrain2.5-8B-nvidia-flagos"),
        ("FlagRelease/RoboBrain2.0-32B-FlagOS", "RoboBrain2.0-32B"),
        ("FlagRelease/RoboBrain2.0-32B-metax-FlagOS", "RoboBrain2.0-32B-nvidia-flagos"),
        ("FlagRelease/RoboBrain2.0-7B-FlagOS-Ascend", "robobrain2_7b-nv-flagos"),
        ("robobrain2.0-32b-fp8", "RoboBrain2.0-32B"),
        ("/models/RoboBrain2.0-32B/", "RoboBrain2.0-32B-nvidia-flagos"),
        ("~/.cache/huggingface/hub/models--BAAI--RoboBrain2.0-7B/snapshots/3fa2", "RoboBrain2.0-7B-nvidia-flagos"),
        ("~/.cache/huggingface/hub/models--FlagRelease--RoboBrain2.5-8B-FlagOS/snapshots/3fa2/", "RoboBrain2.5-8B-NV"),
        ("~/.cache/modelscope/hub/models/BAAI/RoboBrain2___0-32B", "robobrain2_32b-nv-flagos"),
    ],
)
def test_a_checkpoint_is_served_under_the_names_of_flagrelease(model: str, name: str) -> None:
    assert name in presets.served_names(model)


def test_other_checkpoints_have_no_further_names() -> None:
    others = "RoboBrain2.0-7B-kitchen", "robobrain2-flagos", "-flagos", "/snapshots/3fa2", "snapshots", "/"
    for model in ("BAAI/RoboBrain2.0-3B", "BAAI/RoboBrain2.5-4B", "Qwen/Qwen2.5-VL-7B-Instruct", "", "/models", *others):
        assert presets.served_names(model) == ()
