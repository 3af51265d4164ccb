"""vLLM's worker for the CPU with operators by shape; vLLM imports it by name."""

import os
from pathlib import Path
from typing import Any

from vllm.v1.worker.cpu_worker import CPUWorker

from robobrain_ros.engine.flagos.by_shape.vllm_worker import WithTable

CRASH_ONCE = "VLLM_TABLE_WORKER_CRASH_ONCE"
"""Environment variable with a path: where there is no file yet, the check of the table ends the process."""


class CpuTableWorker(WithTable, CPUWorker):  # type: ignore[misc]
    """The CPU's worker; it passes for one with CUDA graphs, which no engine on the CPU has."""

    def _start(self) -> Any:
        if path := os.environ.get(CRASH_ONCE):
            crashed = Path(path)
            if not crashed.exists():
                crashed.touch()
                os.abort()
        config = self.vllm_config.model_config
        config.enforce_eager = False
        try:
            return super()._start()
        finally:
            config.enforce_eager = True
