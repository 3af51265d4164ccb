"""Send images to vLLM's worker as bytes, and normalize them on the device of the worker.

By default, the processor of transformers normalizes an image in the node's process. It writes each pixel twice, because the image
encoder takes pairs of video frames. vLLM converts the result to the model's dtype and sends it to its own process. For an image
of 1280x720 in bf16, the result has 11 MB. The bytes of the image have 2.8 MB. `Normalizer` computes the same values from the
bytes, bit for bit.
"""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from robobrain_ros.engine.embedded import compat

PROCESSOR_ARGUMENTS = {"do_rescale": False, "do_normalize": False, "temporal_patch_size": 1}
"""With these arguments, the processor of transformers returns bytes: one row for each patch, in the order (colour, y, x)."""
WORKERS = {
    "cpu": "robobrain_ros.engine.embedded.vllm_cpu_worker.CpuWorker",
    "cuda": "robobrain_ros.engine.embedded.vllm_gpu_worker.GpuWorker",
}
"""Worker classes that normalize images, by vLLM's device type."""
MODEL_TYPES = ("qwen2_5_vl", "qwen3_vl")
"""Types of models that were tested with images as bytes."""

_COLOURS = 3
_PIXELS = "pixel_values"
_PREPARED = (_PIXELS, "pixel_values_videos")
"""Names of prepared images and videos."""
_METHODS_WITH_IMAGES = ("prepare_encoder_cudagraph_replay_buffers", "encoder_eager_forward")
"""Methods of vLLM's models that take prepared images as a dictionary."""


def are_requested(processor_arguments: Mapping[str, Any] | None) -> bool:
    """Return whether vLLM's ``mm_processor_kwargs`` make the processor return bytes."""
    return PROCESSOR_ARGUMENTS.items() <= (processor_arguments or {}).items()


def has_standard_steps(processor: dict[str, Any]) -> bool:
    """Return whether a checkpoint's image settings require exactly the steps of `Normalizer`."""
    mean, std = processor.get("image_mean"), processor.get("image_std")
    return (
        processor.get("do_rescale", True) is True
        and processor.get("do_normalize", True) is True
        and all(isinstance(values, list) and len(values) == _COLOURS for values in (mean, std))
    )


class Normalizer:
    """Computes the encoder's input from bytes, as transformers does: ``(pixel - mean / rescale) / (std / rescale)`` in float32.

    :param mean: mean of each colour, for pixel values between 0 and 1.
    :param std: standard deviation of each colour, for pixel values between 0 and 1.
    :param rescale: factor that converts bytes to pixel values between 0 and 1.
    :param patch_size: side of a patch in pixels.
    :param frames: number of video frames in a patch. Each frame gets the same pixels.
    :param dtype: torch dtype of the result.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], rescale: float, patch_size: int, frames: int, dtype: Any
    ) -> None:
        import torch

        # As in transformers, this multiplies by the reciprocal. A division would round differently.
        self._mean, self._std = ((torch.tensor(values) * (1.0 / rescale)).view(_COLOURS, 1, 1) for values in (mean, std))
        self._area, self._frames, self._dtype = patch_size**2, frames, dtype

    def __call__(self, patches: Any) -> Any:
        """Normalize patches. Return inputs of other shapes unchanged.

        :param patches: tensor of values 0 to 255. From `PatchProcessor`, its shape is (patches, patch_size**2, 3). From
            transformers, its shape is (patches, 3 * patch_size**2).
        :returns: tensor of shape (patches, 3 * frames * patch_size**2) on the same device.
        """
        if patches.shape[1:] == (self._area, _COLOURS):
            patches = patches.transpose(1, 2)
        elif patches.shape[1:] != (_COLOURS * self._area,):
            return patches
        self._mean, self._std = self._mean.to(patches.device), self._std.to(patches.device)
        pixels = patches.reshape(-1, _COLOURS, 1, self._area).float()
        normalized = pixels.sub_(self._mean).div_(self._std).to(self._dtype)
        return normalized.expand(-1, -1, self._frames, -1).reshape(len(patches), -1)


class PatchProcessor:
    """An image processor that cuts images into patches, faster than transformers.

    It calls the processor of transformers for images that also need another step, such as resizing. It leaves the three colours
    of a pixel together, in both cases, because separating them takes longer than all other steps. `Normalizer` separates them.

    :param processor: image processor of transformers.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, images: Any, *arguments: Any, **options: Any) -> Any:
        """See transformers' processor."""
        prepared = None if arguments else self.cut(images, options)
        return self._with_colours_together(self._processor(images, *arguments, **options)) if prepared is None else prepared

    def cut(self, images: Any, options: Mapping[str, Any]) -> Any:
        """Return the prepared images, or None if transformers must prepare them."""
        if not isinstance(images, list) or not all(self._needs_only_patches(image, options) for image in images):
            return None
        import torch
        from transformers import BatchFeature

        patch_size = self._processor.patch_size
        patches = [torch.from_numpy(patches_of(image, patch_size, self._processor.merge_size)) for image in images]
        grids = [[1, image.shape[0] // patch_size, image.shape[1] // patch_size] for image in images]
        pixels = patches[0] if len(patches) == 1 else torch.cat(patches)
        return BatchFeature({_PIXELS: pixels, "image_grid_thw": torch.tensor(grids)})

    def _with_colours_together(self, prepared: Any) -> Any:
        """Change the layout of bytes. vLLM joins the images of a request, so all of them need the same layout."""
        import torch

        pixels = torch.as_tensor(prepared[_PIXELS])
        area = self._processor.patch_size**2
        if pixels.shape[1:] == (_COLOURS * area,):
            prepared[_PIXELS] = pixels.view(-1, _COLOURS, area).transpose(1, 2).contiguous()
        return prepared

    def _needs_only_patches(self, image: Any, options: Mapping[str, Any]) -> bool:
        if any(options.get(name, getattr(self._processor, name)) != value for name, value in PROCESSOR_ARGUMENTS.items()):
            return False
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (_COLOURS,):
            return False
        height, width = image.shape[:2]
        cell, patch_size = self._processor.patch_size * self._processor.merge_size, self._processor.patch_size
        if height % cell or width % cell:
            return False
        patches = self._processor.get_number_of_image_patches(height, width, options)
        return bool(patches == (height // patch_size) * (width // patch_size))  # False: transformers would resize the image.


def patches_of(image: npt.NDArray[np.uint8], patch_size: int, merge_size: int) -> npt.NDArray[np.uint8]:
    """Return the patches of an image, in transformers' order: patches of the same cell are neighbours.

    :param image: shape (height, width, 3); sides are multiples of ``patch_size * merge_size``.
    :returns: shape (patches, patch_size**2, 3).
    """
    cell = patch_size * merge_size
    rows, columns = image.shape[0] // cell, image.shape[1] // cell
    # The last axis is a whole row of a patch, so the copy moves long contiguous pieces.
    blocks = image.reshape(rows, merge_size, patch_size, columns, merge_size, patch_size * _COLOURS)
    return np.ascontiguousarray(blocks.transpose(0, 3, 1, 4, 2, 5)).reshape(-1, patch_size**2, _COLOURS)


def use_patch_processor(processing: Any) -> None:
    """Replace the image processor of transformers by `PatchProcessor`.

    :param processing: vLLM's object whose ``get_hf_processor`` returns the processor of transformers.
    """
    original = processing.get_hf_processor
    frames = processing.get_hf_config().vision_config.temporal_patch_size

    @functools.lru_cache(maxsize=4)  # vLLM caches data for each processor object: one for images, and one for videos.
    def replaced(processor: Any) -> Any:
        changed = copy.copy(processor)
        changed.image_processor = PatchProcessor(processor.image_processor)
        if getattr(processor, "video_processor", None) is not None:
            changed.video_processor = _with_all_steps(processor.video_processor, frames)
        changed.__class__ = _without_placeholder_texts(type(processor))
        return changed

    def get_hf_processor(**options: Any) -> Any:
        return replaced(original(**options))

    processing.get_hf_processor = get_hf_processor


def _with_all_steps(video_processor: Any, frames: int) -> Any:
    """Return a copy of a video processor of transformers that ignores `PROCESSOR_ARGUMENTS`. Videos are not sent as bytes.

    :param frames: number of frames in a patch.
    """
    steps = {"do_rescale": True, "do_normalize": True, "temporal_patch_size": frames}

    class WithAllSteps(type(video_processor)):  # type: ignore[misc]
        @functools.wraps(type(video_processor).__call__)
        def __call__(self, videos: Any, *arguments: Any, **options: Any) -> Any:
            return super().__call__(videos, *arguments, **options | steps)

    changed = copy.copy(video_processor)
    changed.__class__ = WithAllSteps
    for name, value in steps.items():
        setattr(changed, name, value)
    return changed


def _without_placeholder_texts(processor: type[Any]) -> type[Any]:
    """Return a subclass of a processor of transformers that prepares only the images if the text has no words.

    To prepare an image alone, vLLM passes a text that contains only the placeholder of the image, and drops the tokens of this
    text: up to 0.27 for both types of models, and later only for Qwen3-VL. The processor of transformers writes the placeholder
    once for each visual token, and tokenizes all of them. For an image of 1280x720, this took 5.6 of 9.9 ms. If all images of a
    request are known, vLLM passes no image and an empty text.
    """

    class WithoutPlaceholderTexts(processor):  # type: ignore[misc]
        @functools.wraps(processor.__call__)  # vLLM reads the names of the options from the signature.
        def __call__(self, images: Any = None, text: Any = None, **options: Any) -> Any:
            if isinstance(text, str) and not has_words(text, self):
                prepared = prepared_alone(self.image_processor, images, options)
                if prepared is not None:
                    return prepared
                text = "-" if images is not None else text  # Transformers requires a text. Its tokens are dropped.
            return super().__call__(images=images, text=text, **options)

    return WithoutPlaceholderTexts


def has_words(text: str, processor: Any) -> bool:
    """Return whether a text for a processor of transformers contains more than placeholders of images.

    vLLM writes the placeholder of Qwen3-VL with the tokens before and after the image.
    """
    for name in ("image_token", "vision_start_token", "vision_end_token"):
        text = text.replace(getattr(processor, name, ""), "")
    return bool(text)


def prepared_alone(processor: PatchProcessor, images: Any, options: Mapping[str, Any]) -> Any:
    """Return the prepared images with a text without tokens, or None if transformers must prepare them."""
    from transformers import BatchFeature

    if options.get("videos") is not None:
        return None
    prepared = BatchFeature() if images is None else processor.cut(images, options)
    if prepared is not None:
        prepared["input_ids"] = [[]]
    return prepared


def normalizer_of(model_config: Any) -> Normalizer:
    """Return the normalizer for a model that vLLM has loaded."""
    from vllm.multimodal import MULTIMODAL_REGISTRY

    processor = MULTIMODAL_REGISTRY.create_processor(model_config).info.get_hf_processor().image_processor
    vision = model_config.hf_config.vision_config
    return Normalizer(
        processor.image_mean,
        processor.image_std,
        processor.rescale_factor,
        vision.patch_size,
        vision.temporal_patch_size,
        model_config.dtype,
    )


def take_bytes(model: Any, normalize: Callable[[Any], Any]) -> None:
    """Make a loaded model of vLLM accept images as bytes, with and without CUDA graphs of its image encoder."""

    def prepared(inputs: dict[str, Any]) -> dict[str, Any]:
        # Videos arrive normalized. But when it reserves memory, vLLM prepares a video with the arguments for images as bytes.
        return inputs | {name: normalize(inputs[name]) for name in _PREPARED if inputs.get(name) is not None}

    def on_dictionary(method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda inputs, *arguments, **options: method(prepared(inputs), *arguments, **options)

    embed = model.embed_multimodal
    model.embed_multimodal = lambda **inputs: embed(**prepared(inputs))
    for name in _METHODS_WITH_IMAGES:
        if hasattr(model, name):
            setattr(model, name, on_dictionary(getattr(model, name)))


def encode_videos_without_graphs(model: Any) -> None:
    """Make vLLM use CUDA graphs of the image encoder only for images.

    The graphs of `camera_graphs` take one image. vLLM would also use them for videos with few visual tokens, and fail, because a
    video has one sequence of patches for each pair of frames.
    """
    if hasattr(model, "get_encoder_cudagraph_config"):
        configure = model.get_encoder_cudagraph_config
        model.get_encoder_cudagraph_config = lambda: replace(configure(), modalities=["image"])
    compat.use_encoder_graphs_only_for_images()


class ImageBytesMixin:
    """Mixin of a worker class of vLLM: its model accepts images as bytes if the engine sends bytes."""

    def load_model(self, *arguments: Any, **options: Any) -> None:
        """See vLLM's worker."""
        parent: Any = super()
        parent.load_model(*arguments, **options)
        worker: Any = self
        config = worker.vllm_config.model_config
        if config.multimodal_config is not None and are_requested(config.multimodal_config.mm_processor_kwargs):
            take_bytes(worker.get_model(), normalizer_of(config))
            encode_videos_without_graphs(worker.get_model())
