"""vLLM's worker for the CPU that measures matrix products for tune_flagos. vLLM imports it by its name.

The GPU is scripted: each kernel takes less time than PyTorch's operator.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from shape_entries import GPU, Computed

from robobrain_ros.engine.embedded.vllm_cpu_worker import CpuWorker
from robobrain_ros.engine.flagos.by_shape.start import Device
from robobrain_ros.engine.flagos.by_shape.tuning_worker import TuningWorkerMixin

NO_DEVICE = "VLLM_TUNING_WORKER_NO_DEVICE"
"""Environment variable. If it is set, the worker finds no GPU."""
CRASH = "VLLM_TUNING_WORKER_CRASH"
"""Environment variable. If it is set, the first measurement ends the process."""


class CpuTuningWorker(TuningWorkerMixin, CpuWorker):
    """A worker for the CPU with a scripted device."""

    def _find_device(self) -> Device:
        if os.environ.get(NO_DEVICE):
            raise RuntimeError("this process has no GPU")
        implementation = Computed()

        def timer(functions: Sequence[Callable[[], Any]]) -> float:
            before = len(implementation.calls)
            functions[0]()
            return len(functions) * (1e-6 if len(implementation.calls) > before else 2e-6)

        return Device(GPU, "cpu", "CPU", torch.__version__, "3.6.0", {"skinny": implementation}, timer)

    def measure_shape(self, values: dict[str, Any]) -> dict[str, Any]:
        """See `TuningWorkerMixin`."""
        if os.environ.get(CRASH):
            os.abort()
        return super().measure_shape(values)
