"""vLLM's worker for GPUs. vLLM imports this module in its workers."""

from vllm.v1.worker.gpu_worker import Worker

from robobrain_ros.engine.embedded.image_bytes import ImageBytesMixin


class GpuWorker(ImageBytesMixin, Worker):  # type: ignore[misc]
    """vLLM's worker for one GPU, with images as bytes."""
