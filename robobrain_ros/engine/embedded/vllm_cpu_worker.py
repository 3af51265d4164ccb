"""vLLM's worker for the CPU. vLLM imports this module in its workers."""

from typing import Any

import torch
from vllm.v1.worker.cpu_worker import CPUWorker

from robobrain_ros.engine.embedded.image_bytes import ImageBytesMixin


class RewindableGenerator(torch.Generator):  # type: ignore[misc]
    """A random number generator of torch that can return to an earlier state on the CPU.

    vLLM uses ``get_offset`` and ``set_offset`` to undo a sample. On the CPU, torch does not implement these methods.
    """

    _before: torch.Tensor

    @classmethod
    def of(cls, generator: torch.Generator) -> "RewindableGenerator":
        """Return a copy that can return to its current state."""
        copy = cls(device=generator.device)
        copy._before = generator.get_state()
        copy.set_state(copy._before)
        return copy

    def get_offset(self) -> int:
        """Return 0. vLLM subtracts the length of a sample, and passes the difference to `set_offset`."""
        return 0

    def set_offset(self, offset: int) -> None:
        """Return to the state before the sample, whatever the offset."""
        self.set_state(self._before)


def make_rewindable(runner: Any) -> None:
    """Replace the random generators of requests whose next sample vLLM undoes.

    vLLM undoes the sample of a step that has not processed the whole prompt yet.

    :param runner: vLLM's GPUModelRunner, after it has prepared a step.
    """
    batch = runner.input_batch
    discarded = runner.discard_request_mask.np
    for index, generator in list(batch.generators.items()):
        if index < batch.num_reqs and discarded[index]:
            batch.generators[index] = runner.requests[batch.req_ids[index]].generator = RewindableGenerator.of(generator)


class CpuWorker(ImageBytesMixin, CPUWorker):  # type: ignore[misc]
    """vLLM's CPU worker, with images as bytes, and seeds for prompts that take several steps."""

    def sample_tokens(self, *arguments: Any, **options: Any) -> Any:
        """See vLLM's worker, which would crash on a request with a seed whose prompt takes several steps."""
        make_rewindable(self.model_runner)
        return super().sample_tokens(*arguments, **options)
