"""Old and new interfaces of vLLM: the end of an engine, and the CUDA graphs of the image encoder."""

import asyncio
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from robobrain_ros.engine.embedded import compat, image_bytes
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.options import EngineOptions


class NewEngine:
    """The used part of vLLM's engine."""

    def __init__(self) -> None:
        self.output_handler = asyncio.ensure_future(asyncio.Event().wait())
        self.timeouts: list[float] = []
        self.read_to_the_end = False

    def shutdown(self, timeout: float | None = None) -> None:
        self.read_to_the_end = not self.output_handler.done()
        self.timeouts.append(timeout or 0.0)


class OldEngine(NewEngine):
    """An older engine, whose shutdown has no time limit."""

    def shutdown(self) -> None:  # type: ignore[override]
        super().shutdown(5.0)


@pytest.mark.parametrize("kind", [OldEngine, NewEngine])
def test_the_output_of_a_closing_engine_is_not_read(kind: type[NewEngine]) -> None:
    """The reader would log the end as a failure with a traceback."""

    async def run() -> NewEngine:
        embedded: Any = EmbeddedEngine(EngineOptions())
        embedded._vllm = engine = kind()
        await embedded.close()
        assert embedded.health().state == "stopped"
        return engine

    engine = asyncio.run(run())
    assert engine.output_handler.cancelled()
    assert not engine.read_to_the_end
    assert engine.timeouts == [5.0 if kind is OldEngine else compat._SHUTDOWN_TIMEOUT]


def test_graphs_that_were_prepared_while_the_model_was_loaded_encode_no_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's model runner V2 creates the manager of the graphs in its ``load_model``, before this package changes the model."""

    class Manager:
        def __init__(self, model: Any) -> None:
            self.config = model.get_encoder_cudagraph_config()

        def supports_modality(self, modality: str) -> bool:
            return modality in self.config.modalities

    @dataclass
    class Config:
        modalities: list[str]

    model = SimpleNamespace(get_encoder_cudagraph_config=lambda: Config(["image", "video"]))
    module: Any = SimpleNamespace(EncoderCudaGraphManager=Manager)
    monkeypatch.setitem(sys.modules, "vllm.v1.worker.encoder_cudagraph", module)
    early = Manager(model)
    image_bytes.encode_videos_without_graphs(model)
    for manager in (early, Manager(model)):
        assert manager.supports_modality("image")
        assert not manager.supports_modality("video")
