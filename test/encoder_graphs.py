"""Runs the code of vLLM's CUDA graphs of the image encoder in a worker on the CPU, where a replay computes instead of a graph."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from robobrain_ros.engine.embedded.image_bytes import patches_of

MERGE = 2


def differences(worker: Any, budget: int, sizes: list[tuple[int, int, int]]) -> list[float | None]:
    """Encode images and videos of noise with the code of a graph, and without it.

    :param worker: vLLM's worker, which ``collective_rpc`` passes.
    :param budget: visual tokens of the graph.
    :param sizes: pairs of frames, rows and columns of visual tokens. An image is one pair.
    :returns: for each input, the largest difference between the two results. None: no graph encodes inputs of this kind.
    """
    import torch
    from vllm.v1.worker.encoder_cudagraph import EncoderCudaGraphManager

    model, config = worker.get_model(), worker.vllm_config
    config.compilation_config.encoder_cudagraph_token_budgets = [budget]
    config.compilation_config.encoder_cudagraph_max_vision_items_per_batch = 1
    config.compilation_config.encoder_cudagraph_max_frames_per_batch = 0
    manager = EncoderCudaGraphManager(config, torch.device("cpu"), config.model_config.dtype, model)
    with (
        torch.inference_mode(),
        patch("torch.cuda.CUDAGraph", SimpleNamespace),
        patch("torch.cuda.graph", lambda *_, **__: nullcontext()),
        patch("vllm.v1.worker.encoder_cudagraph.current_stream", lambda: None, create=True),
    ):
        manager.capture(None)
        graph = manager.budget_graphs["default"][budget]
        graph.graph.replay = lambda: graph.output_buffer.copy_(_forward(model, graph.input_buffers))
        return [_difference(manager, model, *size) for size in sizes]


def _difference(manager: Any, model: Any, pairs: int, rows: int, columns: int) -> float | None:
    import torch

    patch_size = model.visual.patch_size
    cell = MERGE * patch_size
    grid = torch.tensor([[pairs, MERGE * rows, MERGE * columns]])
    generator = np.random.default_rng(0)
    if pairs == 1:
        image = generator.integers(0, 256, (cell * rows, cell * columns, 3), dtype=np.uint8)
        inputs = {"pixel_values": torch.from_numpy(patches_of(image, patch_size, MERGE)), "image_grid_thw": grid}
    else:
        pixels = generator.normal(size=(pairs * rows * columns * MERGE**2, 3 * 2 * patch_size**2))
        inputs = {"pixel_values_videos": torch.from_numpy(pixels).float(), "video_grid_thw": grid}
    if not manager.supports_modality("image" if pairs == 1 else "video"):
        return None
    hits = manager.graph_hits
    (found,) = manager.execute(inputs)
    assert manager.graph_hits == hits + 1
    (expected,) = model.embed_multimodal(**inputs)
    return float((found - expected).abs().max())


def _forward(model: Any, buffers: dict[str, Any]) -> Any:
    """Compute what a graph computes. On the CPU, each patch must be part of a sequence, so the padding is one."""
    import torch

    values = dict(buffers)
    patches = len(values["pixel_values"])
    for name in ("cu_seqlens", "cu_window_seqlens"):
        if name in values and int(values[name][-1]) < patches:
            values[name] = torch.cat([values[name], values[name].new_tensor([patches])])
    return model.encoder_cudagraph_forward(values)
