"""Find a checkpoint on disk or on the hub, and read its properties before it is loaded."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robobrain_ros.bounds.files import home_expanded
from robobrain_ros.bounds.texts import shortened
from robobrain_ros.engine.base import VIDEO_PLACEHOLDER, CheckOrigin, LoadProgress, ModelOrigin, ProgressCallback
from robobrain_ros.engine.embedded.checkpoint_files import AGAIN, INDEX, image_settings, indexed_files, read_json, template_text
from robobrain_ros.engine.embedded.image_bytes import has_standard_steps
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError

WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
_LONGEST_QUOTE = 200
"""Characters of ``engine.model`` in a sentence."""
_HUB_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.py", "README.md"]


@dataclass(frozen=True)
class Checkpoint:
    """Properties from a checkpoint's files. Missing numbers are 0, and missing texts are empty.

    :param path: folder of the checkpoint.
    :param local: whether the user named a folder. Then nothing is downloaded.
    :param cell: side in pixels of the square that one visual token covers.
    :param dtype: type of the weights, such as "bfloat16".
    :param usual_images: whether the image processor has exactly the steps of `image_bytes.Normalizer`.
    :param video: whether the chat template supports videos, as those of families that were trained on video do.
    """

    path: Path
    local: bool
    model_type: str
    cell: int
    min_pixels: int
    max_pixels: int
    max_positions: int
    dtype: str
    gigabytes: float
    usual_images: bool = False
    video: bool = False


def find_checkpoint(options: EngineOptions, progress: ProgressCallback, check_origin: CheckOrigin | None = None) -> Checkpoint:
    """Find the checkpoint in ``options.model``. Download it from the hub if it is not on this machine.

    :param check_origin: called with the name and the folder of the checkpoint.
    :raises EngineConfigError: the checkpoint is not found, gated, incomplete, or no checkpoint.
    """
    path = home_expanded(options.model)
    try:
        local = path.exists() or options.model.startswith(("/", "./", "../", "~")) or options.model.count("/") != 1
        if not local:
            path = _from_modelscope(options, progress) if _use_modelscope() else _from_hub(options, progress)
        elif not path.is_dir():
            raise EngineConfigError(
                f"engine.model: {shortened(options.model, _LONGEST_QUOTE)} is neither a folder on this machine nor a name on the "
                "hub such as BAAI/RoboBrain2.0-7B. docs/how-to/models.md explains how to get or make checkpoints."
            )
        checkpoint = read_checkpoint(path, local, weights_needed=options.embedded.load_format != "dummy")
    except OSError as error:
        raise EngineConfigError(
            f"engine.model: {shortened(str(path), _LONGEST_QUOTE)} cannot be read ({error.strerror}). Check the owner and the "
            "permissions of the folder."
        ) from error
    if check_origin is not None:
        check_origin(ModelOrigin((options.model,), checkpoint.path))
    if options.max_pixels < checkpoint.min_pixels:  # Otherwise, the brain would find this fault minutes later.
        raise EngineConfigError(
            f"engine.max_pixels is {options.max_pixels}; this checkpoint needs at least {checkpoint.min_pixels}. Increase "
            "engine.max_pixels."
        )
    return checkpoint


def read_checkpoint(path: Path, local: bool, weights_needed: bool = True) -> Checkpoint:
    """Read a checkpoint's folder.

    :raises EngineConfigError: config.json or the weights are missing or damaged.
    """
    config = read_json(path / "config.json")
    weights = [file for pattern in WEIGHT_PATTERNS for file in path.glob(pattern) if file.exists()]
    if weights_needed and not weights:
        raise EngineConfigError(f"{path} has a config.json but no weights (*.safetensors). Download the checkpoint again.")
    _check_shards(path)
    processor = image_settings(path)
    gigabytes = sum(file.stat().st_size for file in weights) / 1e9
    try:
        return _facts(path, local, config, processor, gigabytes)
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise EngineConfigError(
            f"In {path}, config.json or the file with the image settings has a value of a wrong type ({error}). {AGAIN}."
        ) from error


def _facts(path: Path, local: bool, config: dict[str, Any], processor: dict[str, Any], gigabytes: float) -> Checkpoint:
    text, vision = config.get("text_config", config), config.get("vision_config", {})
    size = processor.get("size") or {}
    return Checkpoint(
        path=path,
        local=local,
        model_type=str(config.get("model_type", "")),
        cell=int(vision.get("patch_size", 0)) * int(vision.get("spatial_merge_size", 0)),
        min_pixels=int(processor.get("min_pixels") or size.get("shortest_edge") or 0),
        max_pixels=int(processor.get("max_pixels") or size.get("longest_edge") or 0),
        max_positions=int(text.get("max_position_embeddings", 0)),
        dtype=str(config.get("dtype") or config.get("torch_dtype") or text.get("dtype") or ""),
        gigabytes=gigabytes,
        usual_images=has_standard_steps(processor),
        video=VIDEO_PLACEHOLDER in template_text(path),
    )


def _check_shards(path: Path) -> None:
    """Check that all weight files in the index exist, because an interrupted download can leave some missing."""
    if not (path / INDEX).exists():
        return
    shards = indexed_files(path)
    missing = [shard for shard in shards if not (path / shard).exists()]
    if missing:
        raise EngineConfigError(
            f"In {path}, {len(missing)} of {len(shards)} weight files are missing ({missing[0]}, ...). {AGAIN}."
        )


def _from_hub(options: EngineOptions, progress: ProgressCallback) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    model = options.model
    progress(LoadProgress("downloading", f"Looking for {model} on this machine and on the hub."))
    files = [*_HUB_FILES, *WEIGHT_PATTERNS] if options.embedded.load_format != "dummy" else _HUB_FILES
    try:
        folder = snapshot_download(model, allow_patterns=files, tqdm_class=_reporter(model, progress))
    except GatedRepoError as error:
        raise EngineConfigError(
            f"{model} is gated. Accept its conditions on its hub page, then run `hf auth login` or set HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        raise EngineConfigError(
            f"The hub has no model {model}, or it is private. Check the spelling, or set HF_TOKEN to a token with read access."
        ) from error
    except HFValidationError as error:
        raise EngineConfigError(
            f"engine.model: {shortened(model, _LONGEST_QUOTE)} is neither a folder on this machine nor a valid name on the hub. "
            "Check the spelling."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise EngineConfigError(
            f"{model} is not on this machine, and the hub is unreachable ({_first_line(error)}). Connect to the network, or "
            "set engine.model to a folder with the checkpoint."
        ) from error
    return Path(folder)


def _use_modelscope() -> bool:
    """Whether vLLM's own environment variable selects ModelScope, by vLLM's rule."""
    return os.environ.get("VLLM_USE_MODELSCOPE", "").strip().lower() in ("1", "true")


def _from_modelscope(options: EngineOptions, progress: ProgressCallback) -> Path:
    try:
        from modelscope import snapshot_download
    except ImportError as error:
        raise EngineConfigError(
            "VLLM_USE_MODELSCOPE is set, but the package modelscope is not installed: pip install modelscope."
        ) from error
    progress(LoadProgress("downloading", f"Looking for {options.model} on this machine and on ModelScope."))
    files = _HUB_FILES if options.embedded.load_format == "dummy" else [*_HUB_FILES, *WEIGHT_PATTERNS]
    try:
        return Path(snapshot_download(options.model, allow_patterns=files))
    except Exception as error:  # ModelScope's errors have no common base class.
        raise EngineConfigError(
            f"{options.model} cannot be downloaded from ModelScope ({_first_line(error)}). Check the spelling and the network, "
            "run `modelscope login` if the model needs it, or set engine.model to a folder with the checkpoint."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _reporter(model: str, progress: ProgressCallback) -> type[Any]:
    """Return a progress bar class that reports to ``progress`` instead of drawing."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class Reporter(tqdm):  # type: ignore[misc]
        """A progress bar that reports the downloaded bytes."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            options["disable"] = False
            super().__init__(*arguments, **options)

        def display(self, *_arguments: Any, **_options: Any) -> None:
            """Report the progress of the download."""
            if self.unit == "B" and self.total:
                message = f"Downloading {model}: {self.n / 1e9:.2f} of {self.total / 1e9:.2f} GB."
                progress(LoadProgress("downloading", message, self.n / self.total))

    return Reporter
