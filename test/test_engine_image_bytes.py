"""Images are sent to vLLM's worker as bytes, and the model gets exactly the pixels that transformers would have prepared."""

import asyncio
import gc
import inspect
import json
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from random_checkpoint import make_random_checkpoint

from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.demo.world import make_scene
from robobrain_ros.engine.base import Generation
from robobrain_ros.engine.embedded import arguments, compat, image_bytes, starting
from robobrain_ros.engine.embedded.checkpoint import Checkpoint, read_checkpoint
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.embedded.image_bytes import Normalizer, PatchProcessor
from robobrain_ros.engine.embedded.prompt import Prompts
from robobrain_ros.engine.flagos.choice import NATIVE, Choice, Operators
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import BadRequestError

OPTIONS = EngineOptions.of(model="/cache/7b")
CHECKPOINT = Checkpoint(Path("/cache/7b"), True, "qwen2_5_vl", 28, 3136, 12845056, 8192, "bfloat16", 17.0, usual_images=True)
QWEN3 = replace(CHECKPOINT, model_type="qwen3_vl", cell=32)
ENCODER_GRAPHS = '{"compilation_config": {"cudagraph_mm_encoder": true}}'
PREPARED = {"worker_cls": "vllm.v1.worker.cpu_worker.CPUWorker", "mm_device_do_normalize": False}
"""Options for another worker, with images that transformers prepares."""


def noise(height: int, width: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def processor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return transformers' image processor of a random checkpoint."""
    from transformers import AutoImageProcessor

    folder = make_random_checkpoint(tmp_path_factory.mktemp("checkpoint"), request.param)
    return AutoImageProcessor.from_pretrained(folder)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_worker_computes_what_transformers_computes_bit_for_bit(processor: Any, dtype: str) -> None:
    import torch

    cell = processor.patch_size * processor.merge_size
    images = [noise(4 * cell, 6 * cell, 1), noise(8 * cell, 3 * cell, 2)]
    images[0][0, : 256 // 3] = np.arange(255).reshape(-1, 3)  # The image contains each value of a byte.
    expected = processor(images, return_tensors="pt")
    sent = PatchProcessor(processor)(images, **image_bytes.PROCESSOR_ARGUMENTS)
    assert sent["pixel_values"].dtype is torch.uint8
    assert sent["pixel_values"].nbytes * 2 == expected["pixel_values"].numel()
    assert torch.equal(sent["image_grid_thw"], expected["image_grid_thw"])
    mean, std, rescale = processor.image_mean, processor.image_std, processor.rescale_factor
    normalize = Normalizer(mean, std, rescale, processor.patch_size, processor.temporal_patch_size, getattr(torch, dtype))
    assert torch.equal(normalize(sent["pixel_values"]), expected["pixel_values"].to(getattr(torch, dtype)))


@pytest.mark.parametrize("prepared", ["prepared by transformers", "laid out by transformers"])
def test_what_needs_resizing_or_is_already_prepared_is_left_to_transformers(processor: Any, prepared: str) -> None:
    import torch

    cell = processor.patch_size * processor.merge_size
    images = [noise(4 * cell, 6 * cell), noise(4 * cell + 3, 5 * cell)]
    options = image_bytes.PROCESSOR_ARGUMENTS if prepared == "laid out by transformers" else {}
    found = PatchProcessor(processor)(images, return_tensors="pt", **options)
    mean, std, rescale = processor.image_mean, processor.image_std, processor.rescale_factor
    normalize = Normalizer(mean, std, rescale, processor.patch_size, processor.temporal_patch_size, torch.float32)
    assert torch.equal(normalize(found["pixel_values"]), processor(images, return_tensors="pt")["pixel_values"])


def test_a_processor_of_transformers_alone_gives_the_same_values(processor: Any) -> None:
    import torch

    cell = processor.patch_size * processor.merge_size
    images = [noise(4 * cell, 6 * cell), noise(4 * cell + 3, 5 * cell)]
    mean, std, rescale = processor.image_mean, processor.image_std, processor.rescale_factor
    normalize = Normalizer(mean, std, rescale, processor.patch_size, processor.temporal_patch_size, torch.float32)
    sent = processor(images, return_tensors="pt", **image_bytes.PROCESSOR_ARGUMENTS)["pixel_values"]
    assert torch.equal(normalize(sent), processor(images, return_tensors="pt")["pixel_values"])


def test_resized_images_and_others_can_be_joined(processor: Any) -> None:
    """vLLM prepares images one by one if other images of the request are in its cache, and then joins them."""
    import torch

    cell = processor.patch_size * processor.merge_size
    images = [noise(4 * cell, 6 * cell, 1), noise(4 * cell + 3, 5 * cell, 2)]
    patches = PatchProcessor(processor)
    alone = [patches([image], **image_bytes.PROCESSOR_ARGUMENTS)["pixel_values"] for image in images]
    together = patches(images, **image_bytes.PROCESSOR_ARGUMENTS)["pixel_values"]
    assert torch.equal(torch.cat(alone), together)


@pytest.mark.parametrize("text", ["<|image_pad|>", "<|image_pad|><|image_pad|>", "<|image_pad|>Point to it.", ""])
def test_the_placeholder_of_an_image_is_written_out_only_in_texts_with_words(text: str) -> None:
    import torch
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(DEMO_MODEL)
    config = SimpleNamespace(vision_config=SimpleNamespace(temporal_patch_size=2))
    processing = SimpleNamespace(get_hf_processor=lambda: processor, get_hf_config=lambda: config)
    image_bytes.use_patch_processor(processing)
    images = [noise(112, 168, seed) for seed in range(max(1, text.count("pad")))]
    expected = processor(images=images, text=text, return_tensors="pt")
    found = processing.get_hf_processor()(images=images, text=text, return_tensors="pt")
    assert torch.equal(found["pixel_values"], expected["pixel_values"])
    if "Point" in text:
        assert torch.equal(found["input_ids"], expected["input_ids"])
    else:
        assert found["input_ids"].numel() == 1
    assert isinstance(processing.get_hf_processor(), type(processor))
    assert inspect.signature(processing.get_hf_processor().__call__) == inspect.signature(processor.__call__)


@pytest.mark.parametrize("size", [(252, 280), (254, 280)])
def test_an_image_is_prepared_without_a_text_and_with_the_same_result(size: tuple[int, int]) -> None:
    """An image of the second size must be resized, which only transformers does."""
    import torch
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(DEMO_MODEL)
    config = SimpleNamespace(vision_config=SimpleNamespace(temporal_patch_size=2))
    processing = SimpleNamespace(get_hf_processor=lambda: processor, get_hf_config=lambda: config)
    image_bytes.use_patch_processor(processing)
    prepare = processing.get_hf_processor()
    options = {"return_tensors": "pt", **image_bytes.PROCESSOR_ARGUMENTS}
    found = prepare(images=[noise(*size)], text="<|image_pad|>", **options)
    expected = prepare(images=[noise(*size)], text="Point to <|image_pad|>.", **options)
    assert torch.equal(found["pixel_values"], expected["pixel_values"])
    assert torch.equal(found["image_grid_thw"], expected["image_grid_thw"])
    assert (list(found["input_ids"]) == [[]]) is (size == (252, 280))


def test_the_placeholder_of_qwen3_vl_is_not_written_out(tmp_path: Path) -> None:
    import torch
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(make_random_checkpoint(tmp_path, "qwen3_vl"))
    config = SimpleNamespace(vision_config=SimpleNamespace(temporal_patch_size=2))
    processing = SimpleNamespace(get_hf_processor=lambda: processor, get_hf_config=lambda: config)
    image_bytes.use_patch_processor(processing)
    prepare = processing.get_hf_processor()
    images = [noise(128, 192, 1), noise(64, 96, 2)]
    placeholder = "<|vision_start|><|image_pad|><|vision_end|>"
    options = {"images": images, "return_tensors": "pt", **image_bytes.PROCESSOR_ARGUMENTS}
    found = prepare(text=2 * placeholder, **options)
    expected = prepare(text=f"Before: {placeholder} After: {placeholder}", **options)
    assert list(found["input_ids"]) == [[]]
    assert torch.equal(found["pixel_values"], expected["pixel_values"])
    assert torch.equal(found["image_grid_thw"], expected["image_grid_thw"])


def test_no_image_and_no_text_need_no_preparation() -> None:
    """vLLM asks for them if it knows all images of a request."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(DEMO_MODEL)
    config = SimpleNamespace(vision_config=SimpleNamespace(temporal_patch_size=2))
    processing = SimpleNamespace(get_hf_processor=lambda: processor, get_hf_config=lambda: config)
    image_bytes.use_patch_processor(processing)
    assert processing.get_hf_processor()(images=None, text="", return_tensors="pt") == {"input_ids": [[]]}


@pytest.mark.parametrize(
    ("checkpoint", "device", "choice", "sent"),
    [
        (CHECKPOINT, "cuda", NATIVE, True),
        (CHECKPOINT, "cpu", NATIVE, True),
        (CHECKPOINT, "npu", NATIVE, False),
        (replace(CHECKPOINT, model_type="llava"), "cuda", NATIVE, False),
        (replace(CHECKPOINT, usual_images=False), "cuda", NATIVE, False),
        (CHECKPOINT, "cuda", Choice(Operators.NATIVE, "the plugin's", platform="fl"), False),
    ],
)
def test_only_known_workers_and_models_get_bytes(checkpoint: Checkpoint, device: str, choice: Choice, sent: bool) -> None:
    found = arguments.engine_arguments(OPTIONS, checkpoint, device, choice)
    assert arguments.asks_for_bytes(found) is sent
    assert ("worker_cls" in found) is sent


def test_another_worker_gets_prepared_images() -> None:
    ours = arguments.engine_arguments(OPTIONS, CHECKPOINT, "cuda")
    theirs = arguments.with_extra(ours, {"worker_cls": "vllm.v1.worker.gpu_worker.Worker"})
    assert theirs["mm_processor_kwargs"] == {"max_pixels": 1003520}
    assert int(arguments.environment_for(theirs, "cuda")["OMP_NUM_THREADS"] or 0) > 0
    assert arguments.environment_for(ours, "cuda")["OMP_NUM_THREADS"] is None
    assert arguments.asks_for_bytes(arguments.with_extra(ours, {"block_size": 32}))


@pytest.mark.parametrize(("value", "sent"), [(True, False), (None, False), (False, True)])
def test_images_are_normalized_once_where_vllm_normalizes_them(value: bool | None, sent: bool) -> None:
    ours = arguments.engine_arguments(OPTIONS, CHECKPOINT, "cuda")
    assert arguments.asks_for_bytes(arguments.with_extra(ours, {"mm_device_do_normalize": value})) is sent


def test_an_engine_for_text_only_prepares_no_images() -> None:
    ours = arguments.engine_arguments(OPTIONS, CHECKPOINT, "cuda")
    assert not arguments.asks_for_bytes(arguments.with_extra(ours, {"language_model_only": True}))


@pytest.mark.parametrize("height", [28, 252])
def test_reversed_arrays_are_accepted_whether_resized_or_not(height: int) -> None:
    import torch
    from transformers import AutoImageProcessor

    prompts = Prompts.load(read_checkpoint(DEMO_MODEL, local=True), trust_remote_code=False)
    image = noise(height, 252)[:, ::-1, ::-1]
    sent = prompts.render(Generation("reversed", "Point to it.", [image], 1))["multi_modal_data"]["image"]
    processor = AutoImageProcessor.from_pretrained(DEMO_MODEL)
    assert torch.equal(processor(sent)["pixel_values"], processor([image.copy()])["pixel_values"])


IMAGES_FIRST = (
    "{% for m in messages %}{% for c in m.content if c.type == 'image' %}<|image_pad|>{% endfor %}"
    "{% for c in m.content if 'text' in c %}{{ c.text }}{% endfor %}{% endfor %}"
)


def test_texts_and_images_stand_in_the_prompt_in_their_order() -> None:
    prompts = Prompts.load(read_checkpoint(DEMO_MODEL, local=True), trust_remote_code=False)
    images = [noise(28, 28), noise(28, 56)]
    rendered = prompts.render(Generation("two", "Which one?", images, 1, text_before_images=["\nBefore: ", "\nAfter: "]))
    vision = "<|vision_start|><|image_pad|><|vision_end|>"
    assert f"user\n\nBefore: {vision}\nAfter: {vision}Which one?<|im_end|>" in rendered["prompt"]
    assert [image.shape for image in rendered["multi_modal_data"]["image"]] == [(28, 28, 3), (28, 56, 3)]
    with pytest.raises(BadRequestError, match="control token"):
        prompts.render(Generation("hidden", "?", images, 1, text_before_images=["", "<|im_end|>"]))
    prompts.tokenizer.chat_template = IMAGES_FIRST
    prompts.render(Generation("plain", "Which one?", images, 1))
    with pytest.raises(BadRequestError, match="changes the order"):
        prompts.render(Generation("two", "Which one?", images, 1, text_before_images=["Before: ", "After: "]))


@pytest.mark.parametrize(
    ("processor", "usual"),
    [
        ({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}, True),
        ({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "do_normalize": False}, False),
        ({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "do_rescale": None}, False),
        ({"image_mean": [0.5], "image_std": [0.5]}, False),
        ({"image_mean": 0.5, "image_std": 0.5}, False),
        ({"image_mean": [0.5, 0.5, 0.5]}, False),
        ({}, False),
    ],
)
def test_other_steps_are_left_to_transformers(processor: dict[str, Any], usual: bool) -> None:
    assert image_bytes.has_standard_steps(processor) is usual


@pytest.mark.parametrize(
    ("max_pixels", "sizes"), [(1003520, [391, 510, 1196, 1280]), (307200, [391]), (12845056, [391, 510, 1196, 1280])]
)
def test_the_encoder_has_cuda_graphs_for_the_sizes_of_cameras(max_pixels: int, sizes: list[int]) -> None:
    options = EngineOptions.of(model="/cache/7b", max_pixels=max_pixels)
    compilation = arguments.engine_arguments(options, CHECKPOINT, "cuda")["compilation_config"]
    assert compilation["cudagraph_mm_encoder"]
    assert compilation["encoder_cudagraph_token_budgets"] == sizes


@pytest.mark.parametrize(("max_pixels", "largest"), [(1003520, 1280 + 192), (307200, 391 + 192)])
def test_each_prompt_with_an_image_of_a_camera_has_a_cuda_graph_of_about_its_size(max_pixels: int, largest: int) -> None:
    options = EngineOptions.of(model="/cache/7b", max_pixels=max_pixels)
    sizes = arguments.engine_arguments(options, CHECKPOINT, "cuda")["compilation_config"]["cudagraph_capture_sizes"]
    assert sizes == sorted(set(sizes))
    assert all(any(tokens <= size < tokens + 64 for size in sizes) for tokens in range(1, largest + 1))
    assert sizes[-1] < largest + 64


def test_no_prompt_longer_than_the_context_has_a_cuda_graph() -> None:
    options = EngineOptions.of(model="/cache/7b", max_model_len=1024)
    sizes = arguments.engine_arguments(options, CHECKPOINT, "cuda")["compilation_config"]["cudagraph_capture_sizes"]
    assert sizes[-1] == 1024


@pytest.mark.parametrize(
    "extra",
    [
        {"cudagraph_capture_sizes": [1, 2]},
        {"max_cudagraph_capture_size": 8},
        {"speculative_config": {"method": "ngram"}},
        {"compilation_config": {"max_cudagraph_capture_size": 8}},
    ],
)
def test_a_users_capture_sizes_replace_all_of_ours(extra: dict[str, Any]) -> None:
    ours = arguments.engine_arguments(OPTIONS, CHECKPOINT, "cuda")
    assert "cudagraph_capture_sizes" in arguments.with_extra(ours, {"block_size": 32})["compilation_config"]
    compilation = arguments.with_extra(ours, extra)["compilation_config"]
    assert "cudagraph_capture_sizes" not in compilation
    assert compilation["cudagraph_mm_encoder"]


def test_a_users_capture_sizes_in_the_compilation_settings_are_kept() -> None:
    ours = arguments.engine_arguments(OPTIONS, CHECKPOINT, "cuda")
    extra = {"compilation_config": {"cudagraph_capture_sizes": [1, 2, 48]}}
    assert arguments.with_extra(ours, extra)["compilation_config"]["cudagraph_capture_sizes"] == [1, 2, 48]
    assert arguments.with_extra(ours, {"compilation_config": 3})["compilation_config"] == 3


@pytest.mark.parametrize(
    ("changes", "checkpoint", "choice"),
    [
        ({"tensor_parallel_size": 2}, CHECKPOINT, NATIVE),
        ({}, QWEN3, NATIVE),
        ({"tensor_parallel_size": 2, "extra": ENCODER_GRAPHS}, QWEN3, NATIVE),
        ({"extra": '{"compilation_config": {"cudagraph_mm_encoder": false}}'}, QWEN3, NATIVE),
        ({"extra": '{"compilation_config": 3}'}, QWEN3, NATIVE),
        ({"extra": ENCODER_GRAPHS}, replace(CHECKPOINT, model_type="llava"), NATIVE),
        ({}, CHECKPOINT, Choice(Operators.OURS, "on", graphs=True)),
    ],
)
def test_what_was_not_tested_has_no_graphs_of_the_encoder(
    changes: dict[str, Any], checkpoint: Checkpoint, choice: Choice
) -> None:
    found = arguments.engine_arguments(OPTIONS.changed(**changes), checkpoint, "cuda", choice)
    assert found["compilation_config"] == {"compile_mm_encoder": True}


def test_a_user_can_enable_the_graphs_of_cameras_for_qwen3_vl() -> None:
    options = OPTIONS.changed(extra=ENCODER_GRAPHS, max_num_seqs=8)
    ours = arguments.engine_arguments(options, QWEN3, "cuda")
    compilation = arguments.with_extra(ours, options.embedded.extra_arguments())["compilation_config"]
    assert compilation["cudagraph_mm_encoder"] is True
    assert compilation["encoder_cudagraph_token_budgets"] == [300, 390, 880, 980]
    assert compilation["cudagraph_capture_sizes"] == [1, 2, 4, 8, 16, *range(64, 1217, 64)]
    assert "VLLM_USE_V2_MODEL_RUNNER" in arguments.environment_for({"compilation_config": compilation}, "cuda")


@pytest.mark.parametrize("usual", [True, False])
def test_an_engine_with_videos_has_graphs_only_with_a_worker_that_encodes_them_without(usual: bool) -> None:
    checkpoint = replace(CHECKPOINT, video=True, usual_images=usual)
    found = arguments.engine_arguments(OPTIONS.changed(video="yes"), checkpoint, "cuda")
    assert found["limit_mm_per_prompt"]["video"]
    assert found["compilation_config"]["cudagraph_mm_encoder"] is usual


class Graphed:
    """A vLLM model with CUDA graphs for its encoder. It stores its inputs."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def embed_multimodal(self, **inputs: Any) -> str:
        self.got.append(inputs)
        return "embedded"

    def prepare_encoder_cudagraph_replay_buffers(self, inputs: dict[str, Any], items: int, path: str = "") -> tuple[int, str]:
        self.got.append(inputs)
        return items, path


def test_a_model_gets_normalized_images_with_and_without_graphs() -> None:
    model: Any = Graphed()
    image_bytes.take_bytes(model, lambda patches: patches + 1)
    assert model.embed_multimodal(pixel_values=1, image_grid_thw=[]) == "embedded"
    assert model.prepare_encoder_cudagraph_replay_buffers({"pixel_values": 2}, 1, path="default") == (1, "default")
    assert model.embed_multimodal(image_embeds=3) == "embedded"
    assert model.got == [{"pixel_values": 2, "image_grid_thw": []}, {"pixel_values": 3}, {"image_embeds": 3}]
    assert not hasattr(model, "encoder_eager_forward")


def test_a_worker_without_bytes_does_not_look_for_an_image_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products by shape use this worker for models of any kind, including models without images."""
    monkeypatch.setattr(image_bytes, "normalizer_of", lambda config: pytest.fail("there may be none"))

    class Loads:
        def __init__(self, multimodal: Any) -> None:
            self.vllm_config = SimpleNamespace(model_config=SimpleNamespace(multimodal_config=multimodal))
            self.loaded = 0

        def load_model(self) -> None:
            self.loaded += 1

    class Worker(image_bytes.ImageBytesMixin, Loads):
        pass

    for multimodal in (None, SimpleNamespace(mm_processor_kwargs=None), SimpleNamespace(mm_processor_kwargs={"max_pixels": 1})):
        worker = Worker(multimodal)
        worker.load_model()
        assert worker.loaded == 1


def test_an_engine_without_a_place_for_the_processor_keeps_that_of_transformers(caplog: pytest.LogCaptureFixture) -> None:
    engine = object()
    assert starting._with_patch_processor(engine, sends_bytes=True) is engine
    assert "transformers prepares the image patches" in caplog.text


async def measure(extra: str) -> tuple[list[Any], str, weakref.ref[Any]]:
    """Measure questions about one image and about two images, with a separate engine.

    :returns: tokens and log-probabilities of each answer, data type of the pixels sent to the worker, and vLLM's tokenizer.
    """
    options = EngineOptions.of(model=str(DEMO_MODEL), flagos_mode="off", extra=extra, max_images=2, max_num_seqs=2)
    engine = EmbeddedEngine(options)
    await engine.start(lambda progress: None)
    try:
        scene = make_scene(7).image
        questions = [[scene[:224, :308]], [scene[:224, :308], scene[-196:, -280:]], [scene[-252:, -336:]]]
        answers = []
        for number, images in enumerate(questions):
            names = [f"image {number} {index}" for index in range(len(images))]
            generation = Generation(f"request {number}", "Point to the red cube.", images, 16, image_ids=names)
            answers.append(await engine.measure(generation, probabilities=True))
        assert engine._prompts is not None
        prompt = engine._prompts.render(Generation("pixels", "Point to it.", [scene[:252, :336]], 1))
        prepared = await compat.prepare(engine._vllm, prompt)
        pixels = prepared["mm_kwargs"]["image"][0]["pixel_values"].data
        tokenizer = weakref.ref(engine._vllm.renderer.tokenizer)
        return [(answer.tokens, answer.probabilities) for answer in answers], str(pixels.dtype), tokenizer
    finally:
        await engine.close()


@pytest.mark.thorough
def test_answers_are_those_of_prepared_images() -> None:
    from_bytes, sent, tokenizer = asyncio.run(measure(""))
    from_prepared, prepared, _ = asyncio.run(measure(json.dumps(PREPARED)))
    assert (sent, prepared) == ("torch.uint8", "torch.float32")
    assert from_bytes == from_prepared
    assert len({tokens for tokens, _ in from_bytes}) == 3
    gc.collect()
    assert tokenizer() is None, "a closed engine keeps no tokenizer"
