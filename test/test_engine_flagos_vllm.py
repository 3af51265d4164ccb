"""Operators by shape in a real engine's worker, on the CPU: started when the model is loaded, and no obstacle without a GPU."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from random_checkpoint import make_random_checkpoint

from robobrain_ros.engine.base import Generation
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.engine.runtime import LoopThread

pytestmark = pytest.mark.timeout(600)


def test_a_worker_starts_the_table_after_loading_and_answers_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_random_checkpoint(tmp_path / "model")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    options = EngineOptions.of(model=str(folder), extra=json.dumps({"worker_cls": "vllm_table_worker.CpuTableWorker"}))
    loop = LoopThread()
    loop.start()
    engine = EmbeddedEngine(options)
    try:
        loop.submit(engine.start(lambda progress: None)).result(500.0)
        [details] = loop.submit(engine.vllm.collective_rpc("matrix_product_details")).result(60.0)
        assert details == {"flagos_shapes": "Native matrix products: this process has no GPU."}
        [sizes] = loop.submit(engine.vllm.collective_rpc("weight_sizes")).result(60.0)
        config = json.loads((folder / "config.json").read_text())
        text = config.get("text_config", config)
        # On the CPU vLLM packs the layers' matrices into a form of its own; the output layer's stays.
        assert (text["hidden_size"], text["vocab_size"]) in {tuple(size) for size in sizes}

        async def ask() -> list[Any]:
            image = np.zeros((224, 224, 3), np.uint8)
            return [delta async for delta in engine.generate(Generation("ask", "the mug", [image], 4))]

        assert loop.submit(ask()).result(60.0)
    finally:
        loop.submit(engine.close()).result(60.0)
        loop.stop()


def test_an_engine_without_cuda_graphs_stays_native() -> None:
    pytest.importorskip("vllm")
    from robobrain_ros.engine.flagos.by_shape.vllm_worker import WithTable

    class Loads:
        vllm_config = SimpleNamespace(model_config=SimpleNamespace(enforce_eager=True))

        def load_model(self, **options: Any) -> None:
            self.loaded = options

    class Worker(WithTable, Loads):
        pass

    worker = Worker()
    worker.load_model(load_dummy_weights=True)
    assert worker.loaded == {"load_dummy_weights": True}
    assert "without CUDA graphs" in worker.matrix_product_details()["flagos_shapes"]
