"""vLLM's worker for the CPU with operators by shape. vLLM imports it by its name."""

import os
from pathlib import Path
from typing import Any

import torch
from shape_entries import GPU, Computed

from robobrain_ros.engine.embedded.vllm_cpu_worker import CpuWorker
from robobrain_ros.engine.flagos.by_shape import start
from robobrain_ros.engine.flagos.by_shape.start import Device
from robobrain_ros.engine.flagos.by_shape.vllm_worker import TableWorkerMixin

CRASH_ONCE = "VLLM_TABLE_WORKER_CRASH_ONCE"
"""Environment variable with a path. If the file does not exist, the check of the table ends the process."""
TABLES = "VLLM_TABLE_WORKER_TABLES"
"""Environment variable with a folder of tables. If it is set, the worker reports the device `shape_entries.GPU`."""


class CpuTableWorker(TableWorkerMixin, CpuWorker):
    """A worker for the CPU that reports CUDA graphs, which engines on the CPU do not have."""

    implementation = Computed()

    def products(self) -> list[tuple[int, int, int, bool]]:
        """Return the products that entries have computed: rows, k, n, and whether there was a bias."""
        return self.implementation.calls

    def _start(self) -> Any:
        if path := os.environ.get(CRASH_ONCE):
            crashed = Path(path)
            if not crashed.exists():
                crashed.touch()
                os.abort()
        config = self.vllm_config.model_config
        config.enforce_eager = False
        try:
            if folder := os.environ.get(TABLES):
                device = Device(GPU, "cpu", "CPU", torch.__version__, "3.6.0", {"skinny": self.implementation}, None)
                return start.start(self.weight_sizes(), "bfloat16", lambda: device, Path(folder))
            return super()._start()
        finally:
            config.enforce_eager = True
