"""The named models: their files load, their figures are those of the real architectures, and each way of naming them agrees."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from robobrain_ros.engine import presets as models
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
"""Parameters, as the hub counts them in the checkpoints' files."""


def parameters_of(path: Path) -> dict[str, Any]:
    """A model file's parameters by their full names."""
    said = yaml.safe_load(path.read_text(encoding="utf-8"))["/**"]["ros__parameters"]
    return {f"engine.{name}": value for name, value in said.pop("engine").items()} | said


def test_every_model_has_its_file_and_no_file_is_without_a_model(repository: Path) -> None:
    files = {path.stem: path.read_text(encoding="utf-8") for path in (repository / "config" / "models").iterdir()}
    assert files == {model.name: models.to_yaml(model) for model in models.MODELS}, (
        "run: python -m robobrain_ros.engine.presets yaml config/models"
    )


@pytest.mark.parametrize("model", models.MODELS, ids=lambda model: model.name)
def test_a_model_file_holds_parameters_of_the_table_with_values_that_they_may_have(
    repository: Path, model: models.KnownModel
) -> None:
    known = {parameter.name: parameter for parameter in table()}
    values = parameters_of(repository / "config" / "models" / f"{model.name}.yaml")
    for name, value in values.items():
        assert name in known
        assert type(value) is type(known[name].default)
        assert known[name].fault(value) == ""
    options = EngineOptions(**{name.removeprefix("engine."): value for name, value in values.items() if "engine." in name})
    options.validate()
    # Without launch, the name alone gives the same.
    assert models.with_known_model(EngineOptions(model=model.name)) == options
    assert (values["model_can_think"] == "yes") == models.can_think(model.name) == models.can_think(options.model)


@pytest.mark.parametrize("model", [model for model in models.MODELS if model.quantization], ids=lambda model: model.name)
def test_vllm_makes_the_layers_of_a_dense_model_smaller_by_that_quantization(model: models.KnownModel) -> None:
    """There are kinds that make only experts smaller, which RoboBrain has none of."""
    from vllm.config.quantization import resolve_quantization_config

    config = resolve_quantization_config(model.quantization, None)
    assert config is not None
    assert config.linear is not None
    assert model.bits == 8


def test_what_has_to_be_made_first_says_where_that_stands() -> None:
    with pytest.raises(EngineConfigError, match=r"~/models/RoboBrain2\.0-32B-W8A16 is not a folder .* docs/how-to/models\.md"):
        find(models.with_known_model(EngineOptions(model="robobrain2.0-32b-w8a16")).model)


def test_the_documentation_has_the_table(repository: Path) -> None:
    text = (repository / "docs" / "reference" / "models.md").read_text(encoding="utf-8")
    assert models.to_markdown() in text, "python -m robobrain_ros.engine.presets markdown prints it"


@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_parameters_are_as_many_as_published(name: str) -> None:
    assert models.ARCHITECTURES[name].parameters == PUBLISHED[name]


def test_figures_by_hand() -> None:
    """The 7B, whose numbers are easily checked: 28 layers, 4 heads of keys and values of 128 numbers, 2 bytes each."""
    shape = models.ARCHITECTURES["qwen2.5-vl-7b"]
    assert shape.kv_bytes_per_token == 2 * 28 * 4 * 128 * 2 == 57344
    assert shape.weight_bytes() == 2 * PUBLISHED["qwen2.5-vl-7b"]
    assert shape.weight_bytes(8) == shape.weight_bytes() - shape.linear_parameters
    plain, quantized = models.find_model("robobrain2.0-32b"), models.find_model("RoboBrain2.0-32B-FP8")
    assert plain is not None
    assert quantized is not None
    assert (plain.card_gb(), quantized.card_gb()) == (80, 48)
    assert replace(plain, max_model_len=131072).card_gb() == 141


def test_what_the_user_sets_stays() -> None:
    options = models.with_known_model(EngineOptions(model="robobrain2.0-32b-fp8", max_model_len=4096, tensor_parallel_size=2))
    assert (options.model, options.quantization) == ("BAAI/RoboBrain2.0-32B", "fp8_per_tensor")
    assert (options.max_model_len, options.max_num_seqs, options.tensor_parallel_size) == (4096, 8, 2)


@pytest.mark.parametrize("name", ["BAAI/RoboBrain2.0-7B", "/models/robobrain2.0-7b", "", "my-model"])
def test_other_names_are_left_alone(name: str) -> None:
    assert models.with_known_model(EngineOptions(model=name)) == EngineOptions(model=name)


def test_a_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(EngineConfigError, match=r"no model robobrain2\.0-7b-fp16\. Did you mean robobrain2\.0-7b-"):
        models.with_known_model(EngineOptions(model="robobrain2.0-7b-fp16"))


def test_a_folder_of_such_a_name_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "robobrain-tuned").mkdir()
    monkeypatch.chdir(tmp_path)
    assert models.with_known_model(EngineOptions(model="robobrain-tuned")).model == "robobrain-tuned"


def find(model: str) -> Path:
    return find_checkpoint(EngineOptions(model=model, load_format="dummy"), lambda progress: None).path


def test_names_are_modelscopes_where_vllms_switch_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ModelScope itself cannot be reached from a test: its one function is stood in for."""
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
    with pytest.raises(EngineConfigError, match="cannot be had from ModelScope \\(no route\\)"):
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
    ],
)
def test_a_checkpoint_is_served_under_the_names_of_flagrelease(model: str, name: str) -> None:
    assert name in models.served_names(model)


def test_other_checkpoints_have_no_further_names() -> None:
    for model in ("BAAI/RoboBrain2.0-3B", "BAAI/RoboBrain2.5-4B", "Qwen/Qwen2.5-VL-7B-Instruct", "", "/models"):
        assert models.served_names(model) == ()
