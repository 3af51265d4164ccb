"""vLLM's worker for the CPU with operators by shape; vLLM imports it by name."""

from typing import Any

from vllm.v1.worker.cpu_worker import CPUWorker

from robobrain_ros.engine.flagos.by_shape.vllm_worker import WithTable


class CpuTableWorker(WithTable, CPUWorker):  # type: ignore[misc]
    """The CPU's worker; it passes for one with CUDA graphs, which no engine on the CPU has."""

    def _start(self) -> Any:
        config = self.vllm_config.model_config
        config.enforce_eager = False
        try:
            return super()._start()
        finally:
            config.enforce_eager = True
