"""A wrong option is rejected with a clear message before anything loads."""

import json
from pathlib import Path
from typing import Any

import pytest

from robobrain_ros.core.profiles import profile_for
from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.engine.embedded.arguments import reject_unknown
from robobrain_ros.engine.embedded.checkpoint import Checkpoint, find_checkpoint, read_checkpoint
from robobrain_ros.engine.embedded.start_errors import explain_start_error
from robobrain_ros.engine.flagos.tune_file import tune_file
from robobrain_ros.engine.http.options import ServerOptions
from robobrain_ros.engine.http.server import public_name
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.engine.presets import resolve_options
from robobrain_ros.errors import EngineConfigError


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": ""}, "engine.model is empty"),
        ({"dtype": "float8"}, "engine.dtype is 'float8'; it must be one of auto, bfloat16, float16, float32"),
        ({"max_model_len": -1}, "engine.max_model_len is -1; it must be from 0 to 1048576"),
        ({"max_model_len": 2**40}, "engine.max_model_len is 1099511627776; it must be from 0 to 1048576"),
        ({"gpu_memory_utilization": 1.5}, "engine.gpu_memory_utilization is 1.5; it must be from 0.05 to 1.0"),
        ({"gpu_memory_utilization": float("nan")}, "engine.gpu_memory_utilization is nan"),
        ({"tensor_parallel_size": 0}, "engine.tensor_parallel_size is 0"),
        ({"max_num_seqs": True}, "engine.max_num_seqs must be of type int, not True"),
        ({"trust_remote_code": "yes"}, "engine.trust_remote_code must be of type bool"),
        ({"load_format": "zip"}, "engine.load_format is 'zip'"),
        ({"extra": "{block_size: 32}"}, "engine.extra is not JSON"),
        ({"extra": "[" * 20000}, "engine.extra is not JSON: it is nested too deeply."),
        ({"extra": '{"block_size": NaN}'}, "engine.extra is not JSON: NaN is not a number, or is too large."),
        ({"extra": '{"block_size": -1e999}'}, "engine.extra is not JSON: -1e999 is not a number, or is too large."),
        ({"extra": f'{{"block_size": {"9" * 5000}}}'}, f"engine.extra is not JSON: {'9' * 20}... is not a number, or is too"),
        ({"extra": "[1]"}, "engine.extra must be a JSON object"),
        ({"extra": '{"seed": 1}'}, "engine.extra sets seed. Set the parameter engine.seed instead"),
    ],
)
def test_wrong_value_is_rejected(changes: dict[str, Any], said: str) -> None:
    options = EngineOptions.of(model="some/model").changed(**changes)
    with pytest.raises(EngineConfigError) as caught:
        options.validate()
    assert said in caught.value.message


def test_defaults_are_valid() -> None:
    EngineOptions.of(model="some/model", extra='{"block_size": 32}').validate()


def test_unknown_argument_names_the_nearest() -> None:
    with pytest.raises(EngineConfigError, match=r"no engine argument 'blok_size'\. Did you mean block_size\?"):
        reject_unknown({"blok_size": 1}, {"block_size", "swap_space"})


def find(model: str | Path, **changes: Any) -> Checkpoint:
    return find_checkpoint(EngineOptions.of(model=str(model)).changed(**changes), lambda progress: None)


def test_missing_folder() -> None:
    with pytest.raises(EngineConfigError, match="/no/such/folder is neither a folder on this machine"):
        find("/no/such/folder")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("x" * 300, "cannot be read .File name too long."),
        ("/" + "x/" * 3000, "cannot be read .File name too long."),
        ("~nobody-of-this-name/model", "is neither a folder on this machine"),
        ("BAAI/Robo Brain", "nor a valid name on the hub"),
        ("BAAI/RoboBrain2.0-7B\n", "nor a valid name on the hub"),
    ],
)
def test_a_name_that_no_file_system_or_hub_takes_is_a_sentence(name: str, sentence: str) -> None:
    with pytest.raises(EngineConfigError, match=sentence) as caught:
        find(name)
    assert len(caught.value.message) < 500


def test_such_a_name_is_no_preset_no_family_and_no_folder() -> None:
    with pytest.raises(EngineConfigError, match="there is no preset"):
        resolve_options({"model": "robobrain" + "x" * 300})
    with pytest.raises(EngineConfigError, match="neither a known model type"):
        profile_for("x" * 300)
    assert public_name("x" * 300) == "x" * 300


def test_a_tune_file_of_an_unknown_user_is_one_that_does_not_exist() -> None:
    assert not tune_file(EngineOptions.of(model="m", flagos_tune_file="~nobody-of-this-name/tune.json")).exists()


def test_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(EngineConfigError, match=r"is not a checkpoint: it has no config\.json"):
        find(tmp_path)


def test_broken_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(EngineConfigError, match="cannot be read"):
        find(tmp_path)


def test_missing_weights_matter_unless_they_are_dummies(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    with pytest.raises(EngineConfigError, match="no weights"):
        find(tmp_path)
    find(tmp_path, load_format="dummy")


def test_a_pixel_limit_below_that_of_the_checkpoint_is_named_before_the_model_loads() -> None:
    least = read_checkpoint(DEMO_MODEL, local=True).min_pixels
    with pytest.raises(EngineConfigError, match=f"engine.max_pixels is {least - 1}; this checkpoint needs at least {least}"):
        find(DEMO_MODEL, max_pixels=least - 1)
    assert find(DEMO_MODEL, max_pixels=least).min_pixels == least


def test_incomplete_download_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (tmp_path / shards["a"]).write_bytes(b"")
    with pytest.raises(EngineConfigError, match=r"1 of 2 weight files are missing \(model-00002-of-00002"):
        find(tmp_path)


def test_gated_and_unknown_models_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    response: Any = httpx.Response(403, request=httpx.Request("GET", "https://hub.invalid/model"))
    cases = [
        (GatedRepoError("gated", response=response), "is gated. Accept its conditions"),
        (RepositoryNotFoundError("gone", response=response), "The hub has no model"),
        (LocalEntryNotFoundError("no network"), "the hub is unreachable"),
    ]
    for error, said in cases:

        def refuse(*_arguments: object, error: Exception = error, **_options: object) -> str:
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
        with pytest.raises(EngineConfigError) as caught:
            find("BAAI/RoboBrain2.0-7B")
        assert said in caught.value.message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantization": "fp8_per_tensor", "dtype": "float32"}, "does not support the quantization"),
        ({"max_num_batched_tokens": 8, "max_num_seqs": 16}, "max_num_batched_tokens (8) must be greater than or equal to"),
    ],
)
def test_an_error_of_vllms_configuration_is_reported(changes: dict[str, Any], said: str) -> None:
    """The message comes from vLLM. The reason is in the second line of pydantic's message."""
    from vllm import AsyncEngineArgs

    with pytest.raises(ValueError) as caught:  # noqa: PT011  # What it says is what is tested.
        AsyncEngineArgs(model=str(DEMO_MODEL), **changes).create_engine_config()
    assert said in explain_start_error(caught.value, "", EngineOptions.of(model="some/model")).message


ASSERTION = """ERROR [7] WorkerProc failed to start.
Traceback (most recent call last):
  File "/site-packages/vllm/model_executor/model_loader/utils.py", line 95, in initialize_model
    model = model_class(vllm_config=vllm_config, prefix=prefix)
            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/site-packages/vllm/model_executor/layers/rotary_embedding/mrope.py", line 364, in __init__
    assert sum(self.mrope_section) == rotary_dim // 2
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
AssertionError
INFO [7] [shutdown] Executor: waiting for worker exit count=1
ERROR [7] EngineCore failed to start.
Traceback (most recent call last):
  File "/site-packages/vllm/v1/executor/multiproc_executor.py", line 815, in wait_for_ready
    raise e from None
Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause.
"""
PROCESSOR = """Traceback (most recent call last):
  File "/site-packages/vllm/multimodal/processing/context.py", line 12, in call_hf_processor
    return processor(**data)
TypeError: unsupported operand
"""
TOKENIZER = """Traceback (most recent call last):
  File "/site-packages/vllm/multimodal/processing/context.py", line 12, in get_hf_processor
    return cached_processor(model)
  File "/site-packages/transformers/tokenization_utils_tokenizers.py", line 96, in __init__
    fast_tokenizer = TokenizerFast.from_file(fast_tokenizer_file)
Exception: data did not match any variant of untagged enum PreTokenizerUntagged at line 1 column 7205
"""
IMPORT = """Traceback (most recent call last):
  File "/usr/lib/python3.12/site-packages/vllm/multimodal/processing/context.py", line 12, in get_parser
    import xgrammar
  File "/usr/lib/python3.12/site-packages/xgrammar/__init__.py", line 3, in <module>
    from . import base
  File "/usr/lib/python3.12/site-packages/xgrammar/base.py", line 9, in <module>
    load_lib_module(extra_lib_paths=[])
TypeError: load_lib_module() got an unexpected keyword argument 'extra_lib_paths'
"""
FIELD = """Traceback (most recent call last):
  File "/site-packages/vllm/transformers_utils/config.py", line 700, in get_config
    config = load(path)
huggingface_hub.errors.StrictDataclassFieldValidationError: Validation error for field 'rms_norm_eps':
    TypeError: Field 'rms_norm_eps' expected float, got str (value: 'x')
INFO [7] The end.
"""


@pytest.mark.parametrize(
    ("logged", "said"),
    [
        (
            ASSERTION,
            "AssertionError in __init__ (mrope.py, line 364): assert sum(self.mrope_section) == rotary_dim // 2. A JSON file of "
            "the checkpoint is probably wrong, or the weights belong to another model. Download the checkpoint again.",
        ),
        (TOKENIZER, "at line 1 column 7205. A file of the tokenizer is probably wrong. Download the checkpoint again."),
        (PROCESSOR, "TypeError: unsupported operand. preprocessor_config.json is probably wrong. Download the checkpoint again."),
        (IMPORT, "argument 'extra_lib_paths'. The Python package xgrammar cannot be imported. It is damaged, or its version"),
        (
            FIELD,
            "Validation error for field 'rms_norm_eps': TypeError: Field 'rms_norm_eps' expected float, got str (value: 'x').",
        ),
        ("AssertionError", "some/model: AssertionError."),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "GPU's memory is too small"),
        ("ValueError: Free memory on device (3.1/79.1 GiB) on startup is less than desired", "Other programs use"),
        ("ValueError: No available memory for the cache blocks. Try increasing", "no memory is left for requests"),
        ("safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge", "are damaged"),
        ("ValueError: Failed to find a kernel that can implement the WNA16 layer: ", "does not support the quantization"),
        (
            "AssertionError: Not enough allowed NUMA nodes to bind threads of 2 local CPUWorkers. Allowed NUMA nodes are [0].",
            "Set engine.tensor_parallel_size, engine.pipeline_parallel_size and engine.data_parallel_size to 1",
        ),
        ("ERROR [7] ValueError: nobody has seen this one", "ValueError: nobody has seen this one"),
        (
            "NotImplementedError: not on this chip\nException: WorkerProc initialization failed. See stack trace for root cause.",
            "NotImplementedError: not on this chip",
        ),
    ],
)
def test_start_error_is_read_from_the_childs_log(logged: str, said: str) -> None:
    error = RuntimeError("Engine core initialization failed. See root cause above.")
    explained = explain_start_error(error, logged, EngineOptions.of(model="some/model"))
    assert said in explained.message
    assert "root cause" not in explained.message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"host": "0.0.0.0"}, "there is no key"),
        ({"host": "robot.local"}, "there is no key"),
        ({"max_requests": 16}, "must be less than engine.max_num_seqs"),
        ({"port": 0}, "openai_server.port is 0"),
        ({"allowed_media_domains": ("a.example", "http://b.example")}, "contains 'http://b.example', which is no host"),
        ({"allowed_media_domains": ("b.example:80",)}, "which is no host"),
        ({"allowed_media_domains": ("[::1]",)}, "which is no host"),
        ({"key_file": "/no/such/file"}, "openai_server.key_file: /no/such/file cannot be read"),
    ],
)
def test_wrong_options_of_the_http_server_are_rejected(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(EngineConfigError) as caught:
        ServerOptions(**({"enabled": True} | changes)).validate(EngineOptions(model="x"))
    assert said in caught.value.message
    remote = EngineOptions.of(kind="remote", urls=("http://gpu",))
    with pytest.raises(EngineConfigError, match="needs the embedded engine"):
        ServerOptions(enabled=True).validate(remote)
