"""vLLM's worker for the CPU. vLLM imports this module in its workers."""

from vllm.v1.worker.cpu_worker import CPUWorker

from robobrain_ros.engine.embedded.image_bytes import NormalizesImages


class CpuWorker(NormalizesImages, CPUWorker):  # type: ignore[misc]
    """The worker that computes on the CPU."""
