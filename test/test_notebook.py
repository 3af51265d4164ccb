"""The core with a real engine, as in a notebook: the model receives exactly the size to which the image was resized."""

import asyncio

import numpy as np
import psutil
import pytest
from processes import engine_processes
from random_checkpoint import make_random_checkpoint
from reports import report_of

from robobrain_ros.core import Query, Task
from robobrain_ros.engine.base import Generation
from robobrain_ros.errors import BadRequestError, EngineConfigError
from robobrain_ros.local import open_brain

SIZES = [(424, 240), (640, 480), (1280, 720), (28, 28), (31, 1999), (1999, 31)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("model_type", [pytest.param("qwen2_5_vl", marks=pytest.mark.thorough), "qwen3_vl"])
def test_the_processor_leaves_fitted_images_as_they_are(tmp_path, capfd, model_type: str) -> None:
    checkpoint = make_random_checkpoint(tmp_path / model_type, model_type)

    async def ask() -> None:
        before = engine_processes()
        brain = await open_brain(str(checkpoint), max_model_len=4096, max_pixels=500_000)
        own = engine_processes() - before
        try:
            assert own
            assert brain.profile.model_type == model_type
            assert brain.profile.cell == brain.info.cell == {"qwen2_5_vl": 28, "qwen3_vl": 32}[model_type]
            assert brain.info.model_type == model_type
            # As the engine itself counts: all tokens that were asked for, and 64 visual ones.
            side = 8 * brain.profile.cell
            square = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
            deltas = [delta async for delta in brain.engine.generate(Generation("five", "the red mug", [square], 5))]
            assert sum(delta.tokens for delta in deltas) == 5
            assert 64 < deltas[-1].prompt_tokens < 150

            text_tokens = set()
            for width, height in SIZES:
                image = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
                report = await report_of(brain, Query(Task.POINT, "the mug", [image], max_tokens=4))
                (size,) = report.model_image_sizes
                visual_tokens = size[0] * size[1] // brain.profile.cell**2
                text_tokens.add(report.prompt_tokens - visual_tokens)
                assert report.answer_tokens > 0
                assert report.first_token_time > 0
            assert len(text_tokens) == 1
            assert text_tokens.pop() > 10

            image = np.zeros((480, 640, 3), np.uint8)
            query = Query(Task.ASK, "How many mugs?", [image, image], think=True, max_tokens=8)
            if model_type == "qwen2_5_vl":
                report = await report_of(brain.with_defaults(think_tokens=16), query)
                assert 0 < report.thinking_tokens <= 16
                assert report.model_image_sizes == [(644, 476)] * 2
            else:
                with pytest.raises(BadRequestError):
                    await brain.run(query)
        finally:
            await brain.close()
        _, alive = await asyncio.to_thread(psutil.wait_procs, own, timeout=10.0)
        assert not alive

    asyncio.run(ask())
    assert "model" in capfd.readouterr().out.lower()


def test_a_model_that_cannot_be_loaded_is_reported_in_a_sentence(tmp_path) -> None:
    with pytest.raises(EngineConfigError, match=r"config\.json|folder|checkpoint"):
        asyncio.run(open_brain(str(tmp_path)))
    with pytest.raises(TypeError):
        asyncio.run(open_brain(str(tmp_path), gpu_memory=0.5))
