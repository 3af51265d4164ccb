"""Images of different times as a video, in the real vLLM on the CPU with random weights: tokens, times and pixels."""

import os
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import encoder_graphs
import numpy as np
import pytest
from engine_loop import OnLoop
from random_checkpoint import make_random_checkpoint

from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.engine.base import EngineInfo, Generation, TextDelta
from robobrain_ros.engine.embedded import arguments, compat
from robobrain_ros.engine.embedded.checkpoint import read_checkpoint
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.embedded.image_bytes import has_words, normalizer_of
from robobrain_ros.engine.embedded.prompt import Prompts
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import BadImageError, BadRequestError

START, ANSWER = 300.0, 60.0
QUESTION = "What moved?"


class VideoEngine(OnLoop):
    """An engine with videos on its own event loop."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.engine = EmbeddedEngine(EngineOptions.of(model=str(folder), max_num_seqs=2, video="yes"))
        self.info: EngineInfo = self.wait(self.engine.start(lambda progress: None), START)

    async def _deltas(self, generation: Generation) -> list[TextDelta]:
        async with aclosing(self.engine.generate(generation)) as stream:
            return [delta async for delta in stream]

    def tokens(self, generation: Generation) -> int:
        """Return the tokens of the prompt that the model has read."""
        deltas: list[TextDelta] = self.wait(self._deltas(generation), ANSWER)
        assert deltas[-1].finish_reason in ("stop", "length")
        return deltas[-1].prompt_tokens

    def prepared(self, generation: Generation) -> Any:
        """Return vLLM's inputs: the tokens, and the prepared video."""
        assert self.engine._prompts is not None
        return self.wait(compat.prepare(self.engine.vllm, self.engine._prompts.render(generation)), ANSWER)


@pytest.fixture(scope="module", params=[pytest.param("qwen2_5_vl", marks=pytest.mark.thorough), "qwen3_vl"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VideoEngine]:
    with pytest.MonkeyPatch.context() as patch:
        # A test calls its own function in the worker.
        patch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        it = VideoEngine(make_random_checkpoint(tmp_path_factory.mktemp(request.param), request.param))
        yield it
        it.wait(it.engine.close(), ANSWER)
        it.loop.stop(ANSWER)


def frames(cell: int, count: int, seed: int = 0) -> list[Any]:
    """Images of 640x480 after resizing for the model. vLLM prepares images again only if the seed differs."""
    height, width = (round(480 / cell) * cell, round(640 / cell) * cell)
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


def video(cell: int, count: int, space: float = 0.5, seed: int = 0) -> Generation:
    times = [(number - count + 1) * space for number in range(count)]
    return Generation(f"video-{count}-{space}", QUESTION, frames(cell, count, seed), 4, video_times=times)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_a_video_has_the_visual_tokens_of_its_pairs(running: VideoEngine, count: int) -> None:
    assert running.info.takes_video
    cell = running.info.cell
    assert running.info.count_tokens is not None
    tokens = running.tokens(video(cell, count))
    pairs = -(-count // 2)
    visual = pairs * round(480 / cell) * round(640 / cell)
    # Qwen3-VL writes the time of each pair. In this vocabulary, each of its characters is a token.
    most = 64 + (pairs * 20 if running.info.model_type == "qwen3_vl" else 0)
    assert visual < tokens <= visual + most
    assert tokens <= 2048


@pytest.mark.parametrize("space", [0.5, 2.0])
def test_the_model_gets_the_time_of_each_frame(running: VideoEngine, space: float) -> None:
    """The frames are the same, so vLLM's cache must not return the times of another video."""
    prepared = running.prepared(video(running.info.cell, 4, space, seed=1))
    (item,) = prepared["mm_kwargs"]["video"]
    assert item["video_grid_thw"].data[0] == 2, "pairs of frames"
    if running.info.model_type == "qwen2_5_vl":
        assert float(item["second_per_grid_ts"].data) == pytest.approx(2 * space)
    else:
        assert running.engine._prompts is not None
        text = running.engine._prompts.tokenizer.decode(prepared["prompt_token_ids"])
        # The mean times of the first two frames and of the last two.
        assert f"<{space / 2:.1f} seconds>" in text
        assert f"<{2.5 * space:.1f} seconds>" in text


def test_the_model_gets_the_pixels_that_transformers_prepares(running: VideoEngine) -> None:
    """Images are sent as bytes, and the options for bytes must not apply to a video. Its size must not change."""
    from transformers import AutoProcessor

    shown = video(running.info.cell, 4, seed=2)
    (item,) = running.prepared(shown)["mm_kwargs"]["video"]
    processor = AutoProcessor.from_pretrained(running.engine.options.model).video_processor
    expected = processor([np.stack(shown.images)], do_resize=False, do_sample_frames=False, return_tensors="pt")
    found = item["pixel_values_videos"].data
    assert found.shape == expected["pixel_values_videos"].shape
    np.testing.assert_allclose(found.float().numpy(), expected["pixel_values_videos"].numpy(), atol=1e-5)


def test_images_and_videos_alternate(running: VideoEngine) -> None:
    cell = running.info.cell
    image = Generation("image", QUESTION, frames(cell, 1), 4)
    alone = running.tokens(image)
    running.tokens(video(cell, 2))
    assert running.tokens(Generation("image again", QUESTION, frames(cell, 1), 4)) == alone


def test_vllms_text_for_an_image_alone_has_no_words(running: VideoEngine) -> None:
    """The processor of transformers does not tokenize this text."""
    vllm = running.engine.vllm
    text = vllm.renderer.get_mm_processor().dummy_inputs.get_dummy_text({"image": 2})
    assert not has_words(text, compat.image_processing(vllm).get_hf_processor())
    assert has_words(f"{text}mug", compat.image_processing(vllm).get_hf_processor())


def test_cuda_graphs_encode_images_as_vllm_does_without_them_and_no_videos(running: VideoEngine) -> None:
    image, smaller, narrow, video = (1, 6, 8), (1, 4, 5), (1, 12, 2), (2, 3, 4)
    call = running.engine.vllm.collective_rpc(encoder_graphs.differences, args=(48, [image, smaller, narrow, video]))
    [found] = running.wait(call, ANSWER)
    assert found == [pytest.approx(0.0, abs=1e-5)] * 3 + [None]


def test_faulty_videos_are_rejected(running: VideoEngine) -> None:
    cell = running.info.cell
    with pytest.raises(BadImageError, match="one size"):
        running.tokens(Generation("sizes", QUESTION, [*frames(cell, 1), frames(cell, 1)[0][:cell]], 4, video_times=[-1.0, 0.0]))
    with pytest.raises(BadRequestError, match="control token"):
        running.tokens(Generation("token", "<|video_pad|>", frames(cell, 2), 4, video_times=[-1.0, 0.0]))


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "qwen3_vl"])
def test_the_video_for_which_vllm_reserves_memory_fits_the_model(model_type: str, tmp_path: Path) -> None:
    """On a GPU, vLLM runs the image encoder on this video when it starts. It prepares the video with the arguments for images."""
    from vllm import AsyncEngineArgs
    from vllm.multimodal import MULTIMODAL_REGISTRY

    folder = make_random_checkpoint(tmp_path, model_type)
    options = EngineOptions.of(model=str(folder), video="yes")
    given = arguments.engine_arguments(options, read_checkpoint(folder, local=True), "cpu")
    used = ("model", "dtype", "max_model_len", "limit_mm_per_prompt", "mm_processor_kwargs")
    config = AsyncEngineArgs(**{name: given[name] for name in used}).create_model_config()
    (item,) = MULTIMODAL_REGISTRY.create_processor(config).get_dummy_mm_inputs({"video": 1})["mm_kwargs"]["video"]
    pixels = normalizer_of(config)(item["pixel_values_videos"].data)
    vision = config.hf_config.vision_config
    assert pixels.shape == (int(item["video_grid_thw"].data.prod()), 3 * vision.temporal_patch_size * vision.patch_size**2)


def test_the_largest_video_has_the_shared_tokens() -> None:
    demo = read_checkpoint(DEMO_MODEL, local=True)
    checkpoint = replace(demo, video=True)
    options = EngineOptions.of(model=str(DEMO_MODEL), video="yes")
    limit = arguments.video_limit(options, checkpoint)
    assert isinstance(limit, dict)
    tokens = limit["num_frames"] // 2 * limit["width"] * limit["height"] // checkpoint.cell**2
    assert 0.95 * 1792 <= tokens <= 1792
    assert arguments.video_limit(EngineOptions.of(model=str(DEMO_MODEL)), checkpoint) == 0
    assert arguments.video_limit(options, demo) == 0, "the demo model was trained on images only"


def test_a_template_without_videos_gets_images() -> None:
    """The demo model was trained on images only."""
    prompts = Prompts.load(read_checkpoint(DEMO_MODEL, local=True), trust_remote_code=False)
    assert not prompts.renders_video()
